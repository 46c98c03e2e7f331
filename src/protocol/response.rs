//! Lines of a backend during greeting, STARTTLS and login.

use memchr::memchr;

use super::response_code::ResponseCode;

/// Longest line of a backend before login is done, in bytes with its end.
pub const LINE_BYTES_MAX: usize = 8192;

/// One line of a server, borrowed from the buffer it was read into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// `tag OK|NO|BAD ...`: the end of a command.
    Tagged {
        /// The tag as sent; whose it is, the caller checks.
        tag: &'a [u8],
        /// `Ok`, `No` or `Bad`.
        status: Status,
        /// The response code, if any.
        code: Option<Code<'a>>,
        /// The text for people; may be empty.
        text: &'a [u8],
    },
    /// `* OK|NO|BAD|BYE|PREAUTH ...`: a greeting, an alert, an end.
    Status {
        /// Any status.
        status: Status,
        /// The response code, if any.
        code: Option<Code<'a>>,
        /// The text for people; may be empty.
        text: &'a [u8],
    },
    /// `* CAPABILITY ...`: the list behind the word.
    Capability(&'a [u8]),
    /// Any other untagged line.
    Untagged {
        /// The line behind `* `, without its end.
        line: &'a [u8],
        /// Size in bytes of the literal that follows, if the line announces one; behind
        /// it the line goes on.
        literal: Option<u64>,
    },
    /// `+` or `+ text`: go on.
    Continuation {
        /// Text or base64 behind `+ `; empty for a bare `+`.
        text: &'a [u8],
    },
}

/// Status of a response (RFC 9051 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// OK
    Ok,
    /// NO
    No,
    /// BAD
    Bad,
    /// BYE, untagged only
    Bye,
    /// PREAUTH, untagged only
    Preauth,
}

/// A response code: `[NAME arguments]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code<'a> {
    /// The name as sent.
    pub name: &'a [u8],
    /// What stands behind the name and a blank, as sent; may be empty.
    pub arguments: &'a [u8],
}

impl Code<'_> {
    /// Which code it is.
    pub fn kind(&self) -> ResponseCode {
        ResponseCode::of(self.name)
    }
}

/// A server's line that is no IMAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The line is longer than the bound.
    #[error("line longer than {max} bytes")]
    LineTooLong {
        /// The bound in bytes.
        max: usize,
    },
    /// An empty line, or one without a status behind its tag.
    #[error("line is no IMAP response")]
    NotImap,
}

impl ResponseError {
    /// The metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::LineTooLong { .. } => "line_too_long",
            Self::NotImap => "not_imap",
        }
    }
}

/// Where the first line of a buffer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineEnd {
    /// Length of the line without CRLF or LF.
    pub text: usize,
    /// Where the next line starts.
    pub next: usize,
}

/// Finds the end (CRLF or LF) of the line that starts the buffer. `searched` is kept by
/// the caller, 0 for each new line: bytes seen once are not searched again.
///
/// # Errors
/// [`ResponseError::LineTooLong`] when the line with its end is longer than `max` bytes.
pub fn find_line(
    buffer: &[u8],
    searched: &mut usize,
    max: usize,
) -> Result<Option<LineEnd>, ResponseError> {
    let fresh = buffer.get(*searched..).unwrap_or_default();
    let Some(at) = memchr(b'\n', fresh) else {
        if buffer.len() >= max {
            return Err(ResponseError::LineTooLong { max });
        }
        *searched = buffer.len();
        return Ok(None);
    };
    let end = searched.saturating_add(at);
    let next = end.saturating_add(1);
    if next > max {
        return Err(ResponseError::LineTooLong { max });
    }
    *searched = 0;
    let line = buffer.get(..end).unwrap_or_default();
    let text = line.strip_suffix(b"\r").unwrap_or(line).len();
    Ok(Some(LineEnd { text, next }))
}

/// Parses one line, with or without its end (RFC 9051 §9 `response`). Lenient where
/// servers are known to be sloppy: a bare `+`, a missing text, any byte in a text.
///
/// # Errors
/// [`ResponseError::NotImap`] for an empty line or a tag without a status.
pub fn parse(line: &[u8]) -> Result<Response<'_>, ResponseError> {
    let line = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).unwrap_or(line);
    if let Some(text) = line.strip_prefix(b"+") {
        return continuation(text);
    }
    let (first, rest) = split_word(line);
    if first.is_empty() {
        return Err(ResponseError::NotImap);
    }
    if first == b"*" {
        return untagged(rest);
    }
    let (word, rest) = split_word(rest);
    let status = match status_of(word) {
        Some(status @ (Status::Ok | Status::No | Status::Bad)) => status,
        Some(Status::Bye | Status::Preauth) | None => return Err(ResponseError::NotImap),
    };
    let (code, text) = code_and_text(rest);
    Ok(Response::Tagged { tag: first, status, code, text })
}

fn continuation(text: &[u8]) -> Result<Response<'_>, ResponseError> {
    match text.split_first() {
        None => Ok(Response::Continuation { text }),
        Some((b' ', text)) => Ok(Response::Continuation { text }),
        Some(_) => Err(ResponseError::NotImap),
    }
}

fn untagged(line: &[u8]) -> Result<Response<'_>, ResponseError> {
    let (word, rest) = split_word(line);
    if word.is_empty() {
        return Err(ResponseError::NotImap);
    }
    if let Some(status) = status_of(word) {
        let (code, text) = code_and_text(rest);
        return Ok(Response::Status { status, code, text });
    }
    if word.eq_ignore_ascii_case(b"CAPABILITY") {
        return Ok(Response::Capability(rest));
    }
    Ok(Response::Untagged { line, literal: announced_literal(line) })
}

fn status_of(word: &[u8]) -> Option<Status> {
    const WORDS: [(&[u8], Status); 5] = [
        (b"OK", Status::Ok),
        (b"NO", Status::No),
        (b"BAD", Status::Bad),
        (b"BYE", Status::Bye),
        (b"PREAUTH", Status::Preauth),
    ];
    WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, status)| *status)
}

/// `resp-text = ["[" resp-text-code "]" SP] text` (RFC 9051 §9). A bracket that never
/// closes is text.
fn code_and_text(rest: &[u8]) -> (Option<Code<'_>>, &[u8]) {
    let Some(inner) = rest.strip_prefix(b"[") else {
        return (None, rest);
    };
    let Some((code, text)) = memchr(b']', inner).and_then(|at| inner.split_at_checked(at)) else {
        return (None, rest);
    };
    let (name, arguments) = split_word(code);
    let text = text.strip_prefix(b"]").unwrap_or(text);
    let text = text.strip_prefix(b" ").unwrap_or(text);
    (Some(Code { name, arguments }), text)
}

/// Splits at the first blank, which belongs to neither part.
fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let at = memchr(b' ', line).unwrap_or(line.len());
    let (word, rest) = line.split_at_checked(at).unwrap_or((line, b""));
    (word, rest.strip_prefix(b" ").unwrap_or(rest))
}

/// `{n}` at the end of a data line; servers never send `{n+}`.
fn announced_literal(line: &[u8]) -> Option<u64> {
    let inner = line.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner)?;
    let digits = inner.get(open.saturating_add(1)..)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // More digits than a u64 holds: the largest, which no caller's bound allows.
    Some(std::str::from_utf8(digits).ok()?.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tagged_lines_have_status_code_and_text() {
        let line = parse(b"L1 NO [AUTHENTICATIONFAILED] Wrong.\r\n").unwrap();
        let Response::Tagged { tag, status, code, text } = line else { panic!("{line:?}") };
        assert_eq!((tag, status, text), (&b"L1"[..], Status::No, &b"Wrong."[..]));
        assert_eq!(code.unwrap().kind(), ResponseCode::AuthenticationFailed);
    }

    #[test]
    fn a_code_keeps_its_arguments_raw() {
        let line = parse(b"* ok [capability IMAP4rev1 AUTH=PLAIN] ready").unwrap();
        let Response::Status { status: Status::Ok, code: Some(code), text } = line else {
            panic!("{line:?}")
        };
        assert_eq!(code.kind(), ResponseCode::Capability);
        assert_eq!(code.arguments, b"IMAP4rev1 AUTH=PLAIN");
        assert_eq!(text, b"ready");
    }

    #[test]
    fn sloppy_lines_are_understood() {
        assert_eq!(parse(b"+\r\n"), Ok(Response::Continuation { text: b"" }));
        assert_eq!(parse(b"+ \r\n"), Ok(Response::Continuation { text: b"" }));
        assert_eq!(parse(b"+ go\n"), Ok(Response::Continuation { text: b"go" }));
        let done = Response::Tagged { tag: b"a", status: Status::Ok, code: None, text: b"" };
        assert_eq!(parse(b"a OK\r\n"), Ok(done));
        let open = Response::Status { status: Status::Ok, code: None, text: b"[open" };
        assert_eq!(parse(b"* OK [open\r\n"), Ok(open));
    }

    #[test]
    fn other_protocols_are_refused() {
        for line in [
            &b"\r\n"[..],
            b"SSH-2.0-OpenSSH_9\r\n",
            b"220 mail ESMTP\r\n",
            b"+OK ready\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"a BYE x\r\n",
            b"*\r\n",
            b" OK\r\n",
            b"a OK\r\r\n",
            b"a OK\r",
        ] {
            assert_eq!(parse(line), Err(ResponseError::NotImap), "{line:?}");
        }
    }

    #[test]
    fn only_data_lines_announce_literals() {
        let literal = |line| match parse(line) {
            Ok(Response::Untagged { literal, .. }) => literal,
            _ => None,
        };
        assert_eq!(literal(b"* LIST () \"/\" {12}\r\n"), Some(12));
        assert_eq!(literal(b"* X {99999999999999999999}\r\n"), Some(u64::MAX));
        assert_eq!(literal(b"* X {1+}\r\n"), None);
        assert_eq!(literal(b"* X {}\r\n"), None);
        assert_eq!(literal(b"* OK text {5}\r\n"), None);
        assert_eq!(literal(b"a OK text {5}\r\n"), None);
    }

    #[test]
    fn lines_end_in_crlf_or_lf_and_have_a_bound() {
        let mut searched = 0;
        assert_eq!(find_line(b"* OK", &mut searched, 10), Ok(None));
        assert_eq!(searched, 4);
        let end = find_line(b"* OK\r\n+", &mut searched, 10);
        assert_eq!(end, Ok(Some(LineEnd { text: 4, next: 6 })));
        assert_eq!(searched, 0);
        assert_eq!(find_line(b"x\ny", &mut 0, 10), Ok(Some(LineEnd { text: 1, next: 2 })));
        let long = Err(ResponseError::LineTooLong { max: 10 });
        assert_eq!(find_line(b"0123456789", &mut 0, 10), long);
        assert_eq!(find_line(b"0123456789\r\n", &mut 0, 10), long);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
            let mut searched = 0;
            let _ = find_line(&line, &mut searched, 64);
        }
    }
}
