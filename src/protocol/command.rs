//! The strict grammar of the few commands that are legal before login.

use std::fmt;

use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case, take, take_while_m_n, take_while1};
use nom::character::complete::{crlf, digit1};
use nom::combinator::{all_consuming, map, opt, value, verify};
use nom::multi::{fold_many0, separated_list0};
use nom::sequence::{delimited, preceded, separated_pair, terminated};
use nom::{IResult, Parser};

use super::command_kind::CommandKind;
use crate::names::Secret;

/// Longest tag that is taken and echoed, in bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// Most fields of an ID command (RFC 2971 §3.3).
pub const ID_PAIRS_MAX: usize = 30;
/// Longest field name of an ID command in bytes (RFC 2971 §3.3).
pub const ID_KEY_BYTES_MAX: usize = 30;
/// Longest field value of an ID command in bytes (RFC 2971 §3.3).
pub const ID_VALUE_BYTES_MAX: usize = 1024;

/// A client's tag, valid and short, safe to echo.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Tag(Box<[u8]>);

impl Tag {
    /// The tag that starts this line, where it is valid and a blank or the line's end
    /// follows: `tag = 1*<any ASTRING-CHAR except "+">` (RFC 9051 §9), at most
    /// [`TAG_BYTES_MAX`] bytes.
    pub fn of_line(line: &[u8]) -> Option<Self> {
        let (rest, tag) = tag_text(line).ok()?;
        matches!(rest.first(), None | Some(b' ' | b'\r' | b'\n')).then(|| Self(tag.into()))
    }

    /// The tag's bytes, ASCII without blanks and controls.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or(""))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({self})")
    }
}

/// One field of an ID command: name and value, `None` for NIL.
pub type IdPair = (Vec<u8>, Option<Vec<u8>>);

/// A whole, well-formed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The client's tag.
    pub tag: Tag,
    /// What it asks.
    pub body: Body,
}

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// CAPABILITY
    Capability,
    /// NOOP
    Noop,
    /// LOGOUT
    Logout,
    /// STARTTLS
    StartTls,
    /// ID with its fields (RFC 2971); `None` for NIL.
    Id(Option<Vec<IdPair>>),
    /// LOGIN; neither part has NUL, CR or LF.
    Login {
        /// The name as the client typed it, any 8-bit bytes.
        user: Vec<u8>,
        /// The password.
        password: Secret,
    },
    /// AUTHENTICATE (RFC 9051 §6.2.2).
    Authenticate {
        /// Name of the mechanism as sent.
        mechanism: Vec<u8>,
        /// The initial response (RFC 4959) as sent: base64, or `=` for an empty one.
        initial: Option<Secret>,
    },
    /// A command that is not legal here or not known at all; its arguments are not read.
    Other {
        /// Whether it is legal after login: then it is out of place but no noise.
        known: bool,
    },
}

/// The command word of a line, as far as it matters before a command is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// CAPABILITY
    Capability,
    /// NOOP
    Noop,
    /// LOGOUT
    Logout,
    /// STARTTLS
    StartTls,
    /// ID
    Id,
    /// LOGIN
    Login,
    /// AUTHENTICATE
    Authenticate,
    /// Any other word that is legal after login.
    Later,
    /// Any other word.
    Unknown,
}

impl Word {
    /// The word, in any case.
    pub fn of(word: &[u8]) -> Self {
        const WORDS: [(&[u8], Word); 7] = [
            (b"CAPABILITY", Word::Capability),
            (b"NOOP", Word::Noop),
            (b"LOGOUT", Word::Logout),
            (b"STARTTLS", Word::StartTls),
            (b"ID", Word::Id),
            (b"LOGIN", Word::Login),
            (b"AUTHENTICATE", Word::Authenticate),
        ];
        // Legal after login but in no metric of their own.
        const LATER: [&[u8]; 5] = [b"UID", b"RENAME", b"SUBSCRIBE", b"UNSUBSCRIBE", b"NOTIFY"];
        if let Some((_, known)) = WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
            return *known;
        }
        if CommandKind::of(word) != CommandKind::Other
            || LATER.iter().any(|name| name.eq_ignore_ascii_case(word))
        {
            return Self::Later;
        }
        Self::Unknown
    }

    /// The word of a command whose first line starts these bytes.
    pub fn of_line(line: &[u8]) -> Option<Self> {
        let (_, (_, word)) = head(line).ok()?;
        Some(Self::of(word))
    }

    /// Whether the command's arguments may hold literals.
    pub const fn takes_literals(self) -> bool {
        matches!(self, Self::Id | Self::Login)
    }
}

/// Bytes that are no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The line does not start with a valid tag.
    #[error("no valid tag")]
    NoTag,
    /// No command word behind the tag.
    #[error("no command word")]
    NoWord {
        /// The valid tag.
        tag: Tag,
    },
    /// Arguments against the grammar or over a bound.
    #[error("bad arguments")]
    Arguments {
        /// The valid tag.
        tag: Tag,
        /// Whose arguments.
        word: Word,
    },
}

impl CommandError {
    /// The tag for the BAD; `None`: the BAD is untagged.
    pub const fn tag(&self) -> Option<&Tag> {
        match self {
            Self::NoTag => None,
            Self::NoWord { tag } | Self::Arguments { tag, .. } => Some(tag),
        }
    }

    /// Whether it is a sign of noise that the budget of syntax errors should count.
    pub const fn counts(&self) -> bool {
        !matches!(self, Self::Arguments { word: Word::Id | Word::Noop | Word::Capability, .. })
    }

    /// The metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoTag => "no_tag",
            Self::NoWord { .. } => "no_word",
            Self::Arguments { .. } => "arguments",
        }
    }
}

/// Whether a line that may not be whole yet is `AUTHENTICATE` with a mechanism whose
/// message is a bearer token, for which a longer line is allowed.
pub fn brings_oauth_token(line: &[u8]) -> bool {
    let oauth = alt((tag_no_case("OAUTHBEARER"), tag_no_case("XOAUTH2")));
    let mut parser = (head, tag(" "), terminated(oauth, tag(" ")));
    matches!(parser.parse(line), Ok((_, ((_, word), _, _))) if Word::of(word) == Word::Authenticate)
}

/// Parses a whole command with its literals, through the last CRLF:
/// `command = tag SP (command-any / command-nonauth) CRLF` (RFC 9051 §9).
///
/// # Errors
/// [`CommandError`]; it carries the tag for the BAD where there is one.
pub fn parse(command: &[u8]) -> Result<Command, CommandError> {
    let tag = Tag::of_line(command).ok_or(CommandError::NoTag)?;
    let Ok((rest, (_, word))) = head(command) else {
        return Err(CommandError::NoWord { tag });
    };
    let word = Word::of(word);
    match all_consuming(terminated(|input| arguments(word, input), crlf)).parse(rest) {
        Ok((_, body)) => Ok(Command { tag, body }),
        Err(_) if matches!(word, Word::Later | Word::Unknown) => {
            Ok(Command { tag, body: Body::Other { known: word == Word::Later } })
        }
        Err(_) => Err(CommandError::Arguments { tag, word }),
    }
}

fn arguments(word: Word, input: &[u8]) -> IResult<&[u8], Body> {
    match word {
        Word::Capability => Ok((input, Body::Capability)),
        Word::Noop => Ok((input, Body::Noop)),
        Word::Logout => Ok((input, Body::Logout)),
        Word::StartTls => Ok((input, Body::StartTls)),
        Word::Id => map(preceded(tag(" "), id_fields), Body::Id).parse(input),
        Word::Login => login(input),
        Word::Authenticate => authenticate(input),
        Word::Later => Ok((input, Body::Other { known: true })),
        Word::Unknown => Ok((input, Body::Other { known: false })),
    }
}

/// `login = "LOGIN" SP userid SP password` (RFC 9051 §9): exactly two astrings.
fn login(input: &[u8]) -> IResult<&[u8], Body> {
    let user = verify(astring, |user: &Vec<u8>| is_credential(user));
    let password = map(astring, Secret::new);
    let password = verify(password, |password: &Secret| is_credential(password.expose()));
    let both = preceded(tag(" "), separated_pair(user, tag(" "), password));
    map(both, |(user, password)| Body::Login { user, password }).parse(input)
}

/// `authenticate = "AUTHENTICATE" SP auth-type [SP initial-resp]` (RFC 9051 §9).
fn authenticate(input: &[u8]) -> IResult<&[u8], Body> {
    let initial = preceded(tag(" "), take_while1(is_base64_char));
    let parts = (preceded(tag(" "), take_while1(is_atom_char)), opt(initial));
    map(parts, |(mechanism, initial): (&[u8], Option<&[u8]>)| Body::Authenticate {
        mechanism: mechanism.to_vec(),
        initial: initial.map(|text| Secret::new(text.to_vec())),
    })
    .parse(input)
}

/// `id_params_list = "(" #(string SPACE nstring) ")" / nil` (RFC 2971 §4).
fn id_fields(input: &[u8]) -> IResult<&[u8], Option<Vec<IdPair>>> {
    let key = verify(string, |key: &Vec<u8>| key.len() <= ID_KEY_BYTES_MAX);
    let text = verify(string, |text: &Vec<u8>| text.len() <= ID_VALUE_BYTES_MAX);
    let text = alt((value(None, tag_no_case("NIL")), map(text, Some)));
    let pairs = separated_list0(tag(" "), separated_pair(key, tag(" "), text));
    let pairs = verify(pairs, |pairs: &Vec<IdPair>| pairs.len() <= ID_PAIRS_MAX);
    let list = delimited(tag("("), pairs, tag(")"));
    alt((value(None, tag_no_case("NIL")), map(list, Some))).parse(input)
}

/// Tag and command word.
fn head(input: &[u8]) -> IResult<&[u8], (&[u8], &[u8])> {
    separated_pair(tag_text, tag(" "), take_while1(is_atom_char)).parse(input)
}

fn tag_text(input: &[u8]) -> IResult<&[u8], &[u8]> {
    take_while_m_n(1, TAG_BYTES_MAX, |byte| is_astring_char(byte) && byte != b'+').parse(input)
}

/// `astring = 1*ASTRING-CHAR / string` (RFC 9051 §9).
fn astring(input: &[u8]) -> IResult<&[u8], Vec<u8>> {
    let atom = map(take_while1(is_astring_char), <[u8]>::to_vec);
    alt((atom, string)).parse(input)
}

/// `string = quoted / literal` (RFC 9051 §9).
fn string(input: &[u8]) -> IResult<&[u8], Vec<u8>> {
    alt((quoted, literal)).parse(input)
}

/// `quoted = DQUOTE *QUOTED-CHAR DQUOTE` (RFC 9051 §9), and bytes above 127 as they are,
/// since clients send them. Only `"` and `\` may be escaped.
fn quoted(input: &[u8]) -> IResult<&[u8], Vec<u8>> {
    let plain = take_while1(|byte| !matches!(byte, b'"' | b'\\' | b'\r' | b'\n' | 0));
    let escaped = preceded(tag("\\"), alt((tag("\""), tag("\\"))));
    // Room for all of it at once: a password leaves no copies behind by growing.
    let room = || Vec::with_capacity(memchr::memchr(b'\r', input).unwrap_or(input.len()));
    let text = fold_many0(alt((plain, escaped)), room, |mut text: Vec<u8>, part: &[u8]| {
        text.extend_from_slice(part);
        text
    });
    delimited(tag("\""), text, tag("\"")).parse(input)
}

/// `literal = "{" number64 ["+"] "}" CRLF *CHAR8` (RFC 9051 §9). The size was bounded by
/// the framer, which has also seen that the bytes are there. CHAR8 is any byte but NUL.
fn literal(input: &[u8]) -> IResult<&[u8], Vec<u8>> {
    let digits = terminated(digit1, opt(tag("+")));
    let (rest, digits) = delimited(tag("{"), digits, (tag("}"), crlf)).parse(input)?;
    let size = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    // A size beyond usize is beyond what is there, too.
    let text = take(size.unwrap_or(usize::MAX));
    let text = verify(text, |text: &[u8]| memchr::memchr(0, text).is_none());
    map(text, <[u8]>::to_vec).parse(rest)
}

/// No NUL, CR or LF: nothing that could end a line or a C string somewhere behind us.
fn is_credential(bytes: &[u8]) -> bool {
    memchr::memchr3(0, b'\r', b'\n', bytes).is_none()
}

/// `ATOM-CHAR` (RFC 9051 §9).
const fn is_atom_char(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e)
        && !matches!(byte, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
}

/// `ASTRING-CHAR = ATOM-CHAR / resp-specials` (RFC 9051 §9).
const fn is_astring_char(byte: u8) -> bool {
    is_atom_char(byte) || byte == b']'
}

const fn is_base64_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::strings;

    fn body(command: &[u8]) -> Option<Body> {
        parse(command).ok().map(|command| command.body)
    }

    fn credentials(command: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        match body(command)? {
            Body::Login { user, password } => Some((user, password.expose().to_vec())),
            _ => None,
        }
    }

    fn pair(user: &[u8], password: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (user.to_vec(), password.to_vec())
    }

    #[test]
    fn login_is_understood_in_all_its_spellings() {
        for spelling in [
            &b"a LOGIN bob pw\r\n"[..],
            b"a login \"bob\" \"pw\"\r\n",
            b"a Login {3}\r\nbob {2}\r\npw\r\n",
            b"a LOGIN {3+}\r\nbob {2+}\r\npw\r\n",
            b"a LOGIN bob {002}\r\npw\r\n",
            b"a LOGIN \"bob\" pw\r\n",
            b"a LOGIN {3+}\r\nbob \"pw\"\r\n",
        ] {
            assert_eq!(credentials(spelling), Some(pair(b"bob", b"pw")), "{spelling:?}");
        }
        assert_eq!(credentials(b"a LOGIN \"\" \"\"\r\n"), Some(pair(b"", b"")));
        assert_eq!(credentials(b"a LOGIN b]b p}w\r\n"), Some(pair(b"b]b", b"p}w")));
    }

    /// B-20: a backslash means something only inside quotes.
    #[test]
    fn unescaping_stays_in_its_own_argument() {
        let command = b"a LOGIN {9}\r\nuser\\name \"p\\\"w\\\\\"\r\n";
        assert_eq!(credentials(command), Some(pair(b"user\\name", b"p\"w\\")));
    }

    /// B-35.
    #[test]
    fn a_password_may_look_like_a_literal() {
        assert_eq!(credentials(b"a LOGIN bob \"abc{5+}\"\r\n"), Some(pair(b"bob", b"abc{5+}")));
    }

    /// B-19, B-21, B-34, B-37.
    #[test]
    fn anything_but_two_clean_strings_is_refused() {
        for odd in [
            &b"a LOGIN \"a\" \"b\" \"c\"\r\n"[..],
            b"a LOGIN a\r\n",
            b"a LOGIN\r\n",
            b"a LOGIN a b \r\n",
            b"a LOGIN  a b\r\n",
            b"a LOGIN a  b\r\n",
            b"a LOGIN\ta b\r\n",
            b"a LOGIN a\tb\r\n",
            b"a LOGIN \"a\"\"b\"\r\n",
            b"a LOGIN \"a b\r\n",
            b"a LOGIN a\\ b\r\n",
            b"a LOGIN a* b\r\n",
            b"a LOGIN (a) b\r\n",
            b"a LOGIN \"a\\x\" b\r\n",
            b"a LOGIN {1}\r\nuXX\r\n",
            b"a LOGIN {1}\r\nu {1}\r\npX\r\n",
            b"a LOGIN ~{1}\r\nu p\r\n",
            b"a LOGIN {3}\r\nu\0x p\r\n",
            b"a LOGIN {4}\r\nu\r\nx p\r\n",
            b"a LOGIN u {2}\r\np\n\r\n",
            b"a LOGIN u {2}\r\np\0\r\n",
            b"a LOGIN \"u\0\" p\r\n",
            b"a LOGIN {+1}\r\nu p\r\n",
            b"a LOGIN \xe9 p\r\n",
        ] {
            let tag = Tag::of_line(b"a ").unwrap();
            let refused = CommandError::Arguments { tag, word: Word::Login };
            assert_eq!(parse(odd), Err(refused), "{odd:?}");
        }
    }

    /// B-29.
    #[test]
    fn tags_follow_the_grammar() {
        let longest = [b'x'; TAG_BYTES_MAX];
        for good in [&b"a"[..], b"1", b"A001", b"a}b]-.", &longest] {
            let command = parse(&[good, b" NOOP\r\n"].concat()).unwrap();
            assert_eq!(command.tag.as_bytes(), good);
        }
        let longer = [b'x'; TAG_BYTES_MAX + 1];
        for bad in [
            &b""[..],
            b"+",
            b"*",
            b"a+b",
            b"a\x1b",
            b"\xc3\xa4",
            b"(",
            b"\"a\"",
            b"a\\",
            b"%",
            &longer,
        ] {
            let wrong = parse(&[bad, b" NOOP\r\n"].concat());
            assert_eq!(wrong, Err(CommandError::NoTag), "{bad:?}");
        }
        for empty in [&b"a\r\n"[..], b"a \r\n", b"a  NOOP\r\n", b"a (NOOP)\r\n"] {
            let wrong = parse(empty).unwrap_err();
            assert_eq!(wrong.tag().map(Tag::as_bytes), Some(&b"a"[..]), "{empty:?}");
        }
    }

    #[test]
    fn simple_commands_take_no_arguments() {
        assert_eq!(body(b"a capability\r\n"), Some(Body::Capability));
        assert_eq!(body(b"a Noop\r\n"), Some(Body::Noop));
        assert_eq!(body(b"a LOGOUT\r\n"), Some(Body::Logout));
        assert_eq!(body(b"a STARTTLS\r\n"), Some(Body::StartTls));
        for odd in [&b"a NOOP x\r\n"[..], b"a STARTTLS \r\n", b"a LOGOUT\n", b"a CAPABILITY"] {
            assert_eq!(body(odd), None, "{odd:?}");
        }
        assert!(!parse(b"a NOOP x\r\n").unwrap_err().counts());
        assert!(parse(b"a LOGOUT x\r\n").unwrap_err().counts());
    }

    #[test]
    fn other_commands_are_told_apart_but_not_read() {
        for later in [&b"a SELECT INBOX\r\n"[..], b"a IDLE\r\n", b"a uid fetch 1 (((\r\n"] {
            assert_eq!(body(later), Some(Body::Other { known: true }), "{later:?}");
        }
        for noise in [&b"GET / HTTP/1.1\r\n"[..], b"a XYZZY {9+}\r\nb LOGOUT\r\n\r\n"] {
            assert_eq!(body(noise), Some(Body::Other { known: false }), "{noise:?}");
        }
    }

    #[test]
    fn authenticate_keeps_the_initial_response_as_sent() {
        let initial = |command| match body(command) {
            Some(Body::Authenticate { mechanism, initial }) => {
                Some((mechanism, initial.map(|text| text.expose().to_vec())))
            }
            _ => None,
        };
        assert_eq!(initial(b"a AUTHENTICATE PLAIN\r\n"), Some((b"PLAIN".to_vec(), None)));
        let empty = Some((b"plain".to_vec(), Some(b"=".to_vec())));
        assert_eq!(initial(b"a authenticate plain =\r\n"), empty);
        for odd in [
            &b"a AUTHENTICATE\r\n"[..],
            b"a AUTHENTICATE PLAIN \r\n",
            b"a AUTHENTICATE PLAIN a b\r\n",
            b"a AUTHENTICATE PLAIN {3+}\r\nabc\r\n",
            b"a AUTHENTICATE PLAIN *\r\n",
        ] {
            assert_eq!(initial(odd), None, "{odd:?}");
        }
    }

    /// B-31.
    #[test]
    fn id_is_read_whole_and_bounded() {
        assert_eq!(body(b"a ID NIL\r\n"), Some(Body::Id(None)));
        assert_eq!(body(b"a id ()\r\n"), Some(Body::Id(Some(Vec::new()))));
        let pairs = vec![
            (b"name".to_vec(), Some(b"x y".to_vec())),
            (b"v".to_vec(), None),
            (b"os".to_vec(), Some(b"\r\n)".to_vec())),
        ];
        let wire = b"a ID (\"name\" {3+}\r\nx y {1}\r\nv nil \"os\" {3}\r\n\r\n))\r\n";
        assert_eq!(body(wire), Some(Body::Id(Some(pairs))));
        let many = |count: usize| format!("a ID ({})\r\n", vec!["\"k\" \"v\""; count].join(" "));
        assert!(body(many(ID_PAIRS_MAX).as_bytes()).is_some());
        assert!(body(many(ID_PAIRS_MAX + 1).as_bytes()).is_none());
        let sized = |key: usize, text: usize| {
            format!("a ID (\"{}\" \"{}\")\r\n", "k".repeat(key), "v".repeat(text))
        };
        assert!(body(sized(ID_KEY_BYTES_MAX, ID_VALUE_BYTES_MAX).as_bytes()).is_some());
        assert!(body(sized(ID_KEY_BYTES_MAX + 1, 1).as_bytes()).is_none());
        assert!(body(sized(1, ID_VALUE_BYTES_MAX + 1).as_bytes()).is_none());
        for odd in [
            &b"a ID\r\n"[..],
            b"a ID (\"k\")\r\n",
            b"a ID ((\"k\" \"v\"))\r\n",
            b"a ID (k v)\r\n",
            b"a ID (\"k\" {2}\r\n\0v)\r\n",
        ] {
            assert_eq!(body(odd), None, "{odd:?}");
        }
    }

    fn part() -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_filter("no credential", |b| !matches!(b, 0 | b'\r' | b'\n'));
        proptest::collection::vec(byte, 0..40)
    }

    proptest! {
        /// B-36: bytes come out as they went in.
        #[test]
        fn what_is_encoded_is_parsed_again(user in part(), password in part(), plus: bool) {
            let mut wire = b"a LOGIN ".to_vec();
            strings::encode_quoted(&user, &mut wire);
            wire.push(b' ');
            strings::encode_literal(&password, plus, &mut wire);
            wire.extend_from_slice(b"\r\n");
            prop_assert_eq!(credentials(&wire), Some((user, password)));
        }

        #[test]
        fn any_bytes_parse_or_fail_without_panic(
            head in proptest::sample::select(vec![&b""[..], b"a ", b"a LOGIN ", b"a ID (", b"a LOGIN {"]),
            rest in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = [head, &rest].concat();
            let _ = parse(&bytes);
            let _ = brings_oauth_token(&bytes);
        }
    }
}
