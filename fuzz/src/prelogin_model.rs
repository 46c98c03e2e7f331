//! What a client may say before login, read again byte by byte: the model that
//! [`crate::prelogin`] holds the product against. It looks at the whole buffer each time.

/// Bounds of the design, in bytes.
const LINE_MAX: usize = 8192;
const OAUTH_LINE_MAX: usize = 16_384;
const LITERAL_MAX: usize = 8192;
const TOTAL_MAX: usize = 65_536;

/// What starts a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// No whole command yet.
    More,
    /// A literal waits for `+`; the line that announces it ends here.
    Announced(usize),
    /// A whole command.
    Command(usize),
    /// Bytes to drop with a BAD.
    Bad(usize),
    /// The connection has to be closed.
    Close,
}

/// A command's meaning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// No tag.
    NoTag,
    /// A tag without a command word, or with arguments against the grammar.
    Bad {
        /// The tag.
        tag: Vec<u8>,
        /// Whether it counts as an error.
        counts: bool,
    },
    /// CAPABILITY, NOOP, LOGOUT, STARTTLS or ID.
    Simple(Vec<u8>, Word),
    /// LOGIN.
    Login(Vec<u8>, Vec<u8>, Vec<u8>),
    /// AUTHENTICATE: the mechanism in upper case and the initial response as sent.
    Authenticate(Vec<u8>, Vec<u8>, Option<Vec<u8>>),
    /// Any other word, in upper case.
    Other(Vec<u8>, Vec<u8>),
}

/// The command words that are legal before login, without the two that bring credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names are their words")]
pub(crate) enum Word {
    Capability,
    Noop,
    Logout,
    StartTls,
    Id,
}

/// Frames the command that starts `buffer`; `granted` are the announcements that got `+`.
pub(crate) fn frame(buffer: &[u8], granted: &[usize]) -> Frame {
    let mut start = 0;
    loop {
        let max = if start == 0 && is_oauth(buffer) { OAUTH_LINE_MAX } else { LINE_MAX };
        let end = match line_end(buffer, start, max, TOTAL_MAX) {
            Ok(Some(end)) => end,
            Ok(None) => return Frame::More,
            Err(()) => return Frame::Close,
        };
        let line = &buffer[start..end];
        let literal = announced(line);
        if !is_clean(line) {
            return if matches!(literal, Some((_, false))) {
                Frame::Close
            } else {
                Frame::Bad(end)
            };
        }
        let Some((size, synchronising)) = literal else { return Frame::Command(end) };
        if size > LITERAL_MAX || end + size > TOTAL_MAX {
            return if synchronising { Frame::Bad(end) } else { Frame::Close };
        }
        if synchronising && !granted.contains(&end) {
            return Frame::Announced(end);
        }
        if buffer.len() < end + size {
            return Frame::More;
        }
        start = end + size;
    }
}

/// Frames a line of an exchange.
pub(crate) fn exchange_line(buffer: &[u8]) -> Frame {
    match line_end(buffer, 0, LINE_MAX, TOTAL_MAX) {
        Ok(None) => Frame::More,
        Err(()) => Frame::Close,
        Ok(Some(end)) if is_clean(&buffer[..end]) => Frame::Command(end),
        Ok(Some(end)) => match announced(&buffer[..end]) {
            Some((_, false)) => Frame::Close,
            _ => Frame::Bad(end),
        },
    }
}

fn line_end(buffer: &[u8], start: usize, max: usize, total: usize) -> Result<Option<usize>, ()> {
    match buffer[start..].iter().position(|byte| *byte == b'\n') {
        None if buffer.len() - start >= max || buffer.len() >= total => Err(()),
        None => Ok(None),
        Some(at) if at + 1 > max || start + at + 1 > total => Err(()),
        Some(at) => Ok(Some(start + at + 1)),
    }
}

/// Only the CRLF at the end.
fn is_clean(line: &[u8]) -> bool {
    line.ends_with(b"\r\n") && line.iter().filter(|byte| **byte == b'\r').count() == 1
}

/// Size, and whether the client waits.
fn announced(line: &[u8]) -> Option<(usize, bool)> {
    let mut text = line.to_vec();
    while matches!(text.last(), Some(b'\r' | b'\n')) {
        text.pop();
    }
    if text.pop() != Some(b'}') {
        return None;
    }
    let synchronising = text.last() != Some(&b'+');
    if !synchronising {
        text.pop();
    }
    let digits: Vec<u8> =
        text.iter().rev().take_while(|byte| byte.is_ascii_digit()).copied().collect();
    if digits.is_empty() || text.get(text.len().checked_sub(digits.len() + 1)?) != Some(&b'{') {
        return None;
    }
    let mut size = 0_usize;
    for digit in digits.iter().rev() {
        size = size.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
    }
    Some((size, synchronising))
}

fn is_oauth(buffer: &[u8]) -> bool {
    let words: Vec<&[u8]> = buffer.splitn(4, |byte| *byte == b' ').collect();
    words.len() == 4
        && is_tag(words[0])
        && words[1].eq_ignore_ascii_case(b"AUTHENTICATE")
        && [&b"OAUTHBEARER"[..], b"XOAUTH2"].iter().any(|name| words[2].eq_ignore_ascii_case(name))
}

/// Whether these bytes are a tag that may be echoed.
pub(crate) fn is_tag(tag: &[u8]) -> bool {
    (1..=64).contains(&tag.len()) && tag.iter().all(|byte| is_astring(*byte) && *byte != b'+')
}

fn is_atom(byte: u8) -> bool {
    byte > b' ' && byte < 0x7f && !b"(){%*\"\\]".contains(&byte) || byte == b'}'
}

fn is_astring(byte: u8) -> bool {
    is_atom(byte) || byte == b']'
}

/// The tag that starts a line, where it is one.
pub(crate) fn tag_of(line: &[u8]) -> Option<Vec<u8>> {
    let end = line.iter().position(|byte| b" \r\n".contains(byte)).unwrap_or(line.len());
    is_tag(&line[..end]).then(|| line[..end].to_vec())
}

/// The command word of a line in upper case.
pub(crate) fn word_of(line: &[u8]) -> Option<Vec<u8>> {
    let tag = tag_of(line)?;
    let rest = line.get(tag.len() + 1..).filter(|_| line[tag.len()] == b' ')?;
    let end = rest.iter().position(|byte| !is_atom(*byte)).unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_ascii_uppercase())
}

/// Reads a whole command.
pub(crate) fn command(bytes: &[u8]) -> Command {
    let Some(tag) = tag_of(bytes) else { return Command::NoTag };
    let Some(word) = word_of(bytes) else { return Command::Bad { tag, counts: true } };
    let mut rest = Rest(&bytes[tag.len() + 1 + word.len()..]);
    let simple = |word| Command::Simple(tag.clone(), word);
    let read = match &word[..] {
        b"CAPABILITY" => Some(simple(Word::Capability)),
        b"NOOP" => Some(simple(Word::Noop)),
        b"LOGOUT" => Some(simple(Word::Logout)),
        b"STARTTLS" => Some(simple(Word::StartTls)),
        b"ID" => rest.id().map(|()| simple(Word::Id)),
        b"LOGIN" => {
            rest.login().map(|(user, password)| Command::Login(tag.clone(), user, password))
        }
        b"AUTHENTICATE" => rest
            .authenticate()
            .map(|(mechanism, initial)| Command::Authenticate(tag.clone(), mechanism, initial)),
        _ => return Command::Other(tag, word),
    };
    let counts = !matches!(&word[..], b"CAPABILITY" | b"NOOP" | b"ID");
    read.filter(|_| rest.0 == b"\r\n").unwrap_or(Command::Bad { tag, counts })
}

/// What of a command was not read yet.
struct Rest<'b>(&'b [u8]);

impl Rest<'_> {
    fn skip(&mut self, wanted: &[u8]) -> Option<()> {
        let head = self.0.get(..wanted.len())?;
        if !head.eq_ignore_ascii_case(wanted) {
            return None;
        }
        self.0 = &self.0[wanted.len()..];
        Some(())
    }

    fn run_of(&mut self, fits: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
        let end = self.0.iter().position(|byte| !fits(*byte)).unwrap_or(self.0.len());
        let (run, rest) = self.0.split_at(end);
        self.0 = rest;
        (!run.is_empty()).then(|| run.to_vec())
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        match self.0.first()? {
            b'"' => self.quoted(),
            b'{' => self.literal(),
            _ => None,
        }
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let mut bytes = self.0[1..].iter().enumerate();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.0 = &self.0[at + 2..];
                    return Some(text);
                }
                b'\\' => text.push(
                    bytes.next().map(|(_, next)| *next).filter(|next| b"\"\\".contains(next))?,
                ),
                0 | b'\r' | b'\n' => return None,
                plain => text.push(*plain),
            }
        }
        None
    }

    fn literal(&mut self) -> Option<Vec<u8>> {
        let end = self.0.iter().position(|byte| *byte == b'\n')? + 1;
        let (line, rest) = self.0.split_at(end);
        let (size, _) = announced(line)?;
        // The announcement is all that stands here.
        if line.iter().filter(|byte| **byte == b'{').count() != 1 || !is_clean(line) {
            return None;
        }
        let text = rest.get(..size).filter(|text| !text.contains(&0))?.to_vec();
        self.0 = &rest[size..];
        Some(text)
    }

    fn credential(&mut self) -> Option<Vec<u8>> {
        let text = self.string().or_else(|| self.run_of(is_astring))?;
        (!text.iter().any(|byte| b"\0\r\n".contains(byte))).then_some(text)
    }

    fn login(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        self.skip(b" ")?;
        let user = self.credential()?;
        self.skip(b" ")?;
        Some((user, self.credential()?))
    }

    fn authenticate(&mut self) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        self.skip(b" ")?;
        let mechanism = self.run_of(is_atom)?.to_ascii_uppercase();
        if self.skip(b" ").is_none() {
            return Some((mechanism, None));
        }
        let initial = self.run_of(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))?;
        Some((mechanism, Some(initial)))
    }

    fn id(&mut self) -> Option<()> {
        self.skip(b" ")?;
        if self.skip(b"NIL").is_some() {
            return Some(());
        }
        self.skip(b"(")?;
        let mut pairs = 0;
        while self.skip(b")").is_none() {
            if pairs > 0 {
                self.skip(b" ")?;
            }
            let key = self.string()?;
            self.skip(b" ")?;
            let text = if self.skip(b"NIL").is_some() { Vec::new() } else { self.string()? };
            pairs += 1;
            if pairs > 30 || key.len() > 30 || text.len() > 1024 {
                return None;
            }
        }
        Some(())
    }
}

/// Whom the first message of an exchange names that a backend finishes.
pub(crate) enum Opened {
    /// This user, and whom he wants to be.
    Named {
        /// Whom he wants to be, where that is said.
        authzid: Option<Vec<u8>>,
        /// The user.
        user: Vec<u8>,
    },
    /// Only the token knows.
    ByToken,
    /// Nobody: it is wrong, or bound to a channel that ends here.
    Bad,
}

/// Reads the first message of SCRAM (RFC 5802), OAUTHBEARER (RFC 7628) or XOAUTH2.
pub(crate) fn opening(mechanism: &[u8], message: &[u8]) -> Opened {
    let read = match mechanism {
        b"OAUTHBEARER" => bearer(message),
        b"XOAUTH2" => xoauth2(message),
        _ => scram(message),
    };
    read.unwrap_or(Opened::Bad)
}

fn scram(message: &[u8]) -> Option<Opened> {
    let parts: Vec<&[u8]> = message.split(|byte| *byte == b',').collect();
    let [flag, acts_as, name, nonce, ..] = parts[..] else { return None };
    let authzid = gs2(flag, acts_as)?;
    let nonce = nonce.strip_prefix(b"r=")?;
    let printable = |byte: &u8| (0x21..0x7f).contains(byte);
    if nonce.is_empty() || !nonce.iter().all(printable) {
        return None;
    }
    Some(Opened::Named { authzid, user: sasl_name(name.strip_prefix(b"n=")?)? })
}

fn bearer(message: &[u8]) -> Option<Opened> {
    let mut parts = message.splitn(3, |byte| *byte == b',');
    let authzid = gs2(parts.next()?, parts.next()?)?;
    let keys = pairs(parts.next()?.strip_prefix(b"\x01")?)?;
    let has = |name: &[u8]| keys.iter().any(|(key, _)| key == name);
    let names_another = keys.iter().any(|(key, _)| key.to_ascii_lowercase() == b"user");
    if !has(b"auth") || names_another {
        return None;
    }
    Some(match authzid {
        Some(user) => Opened::Named { authzid: None, user },
        None => Opened::ByToken,
    })
}

fn xoauth2(message: &[u8]) -> Option<Opened> {
    let keys = pairs(message)?;
    let value = |name: &[u8]| keys.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let (user, _) = (value(b"user")?, value(b"auth")?);
    if keys.len() != 2 || user.is_empty() || user.iter().any(|byte| b"\0\r\n".contains(byte)) {
        return None;
    }
    Some(Opened::Named { authzid: None, user: user.clone() })
}

/// No channel binding, and perhaps an identity.
fn gs2(flag: &[u8], acts_as: &[u8]) -> Option<Option<Vec<u8>>> {
    if flag != b"n" && flag != b"y" {
        return None;
    }
    if acts_as.is_empty() {
        return Some(None);
    }
    sasl_name(acts_as.strip_prefix(b"a=")?).map(Some)
}

fn sasl_name(text: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut rest = text;
    while let [byte, more @ ..] = rest {
        rest = more;
        match byte {
            b'=' => {
                let code = more.get(..2)?.to_ascii_uppercase();
                name.push(match &code[..] {
                    b"2C" => b',',
                    b"3D" => b'=',
                    _ => return None,
                });
                rest = &more[2..];
            }
            0 | b'\r' | b'\n' => return None,
            plain => name.push(*plain),
        }
    }
    (!name.is_empty()).then_some(name)
}

/// Pairs that each end in ^A, and one ^A behind them all; no key twice.
fn pairs(text: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut rest = text;
    while rest != b"\x01" {
        let end = rest.iter().position(|byte| *byte == 1)?;
        let pair = &rest[..end];
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (pair[..equals].to_vec(), pair[equals + 1..].to_vec());
        let again =
            found.iter().any(|(known, _)| known.to_ascii_lowercase() == key.to_ascii_lowercase());
        let letters = !key.is_empty() && key.iter().all(u8::is_ascii_alphabetic);
        if again || !letters || value.contains(&0) {
            return None;
        }
        found.push((key, value));
        rest = &rest[end + 1..];
    }
    Some(found)
}

/// Strict, padded base64 (RFC 4648 §4).
pub(crate) fn base64(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if text.len() % 4 != 0 {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let (mut bits, mut held, mut out) = (0_u32, 0, Vec::new());
    for byte in &text[..text.len() - padding] {
        let digit = ALPHABET.iter().position(|letter| letter == byte)?;
        bits = bits << 6 | u32::try_from(digit).expect("six bits");
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).expect("eight bits"));
        }
    }
    // What is left over must be zeros, or a message would have two spellings.
    (bits & ((1 << held) - 1) == 0).then_some(out)
}
