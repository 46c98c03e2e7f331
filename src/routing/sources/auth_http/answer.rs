//! The answer: a bounded head of headers, read more strictly than nginx reads it unless the
//! operator wants its leniency.

use std::net::IpAddr;
use std::time::Duration;

use crate::names::Secret;
use crate::protocol::response_code::{NoMeans, ResponseCode};

/// Bytes of an answer's head at most; nginx takes 1024.
pub(super) const HEAD_BYTES_MAX: usize = 16_384;

/// Bytes of `Auth-User` and `Auth-Pass` at most.
const LOGIN_BYTES_MAX: usize = 4096;

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The login may be.
    Ok(Ok),
    /// It has to be asked again after that time.
    Wait(Duration),
    /// The login may not be.
    Refused(Refused),
}

/// A login that may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ok {
    /// The backend's host.
    pub(super) server: String,
    /// Its port.
    pub(super) port: u16,
    /// Who signs in there, where it is not the client's name.
    pub(super) user: Option<Vec<u8>>,
    /// With what, where it is not the client's password.
    pub(super) password: Option<Secret>,
}

/// A login that may not be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The server's words.
    pub(super) words: String,
    /// How long the client waits for them.
    pub(super) wait: Duration,
    /// Whether another try later may go well: the password is not said to be wrong.
    pub(super) temporary: bool,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it ended before its head was over")]
    Cut,
    #[error("it has no HTTP status line")]
    NoStatusLine,
    #[error("the HTTP status is not 200")]
    Status,
    #[error("a header line has another form than `Name: value`")]
    Header,
    #[error("it has no `Auth-Status`")]
    NoAuthStatus,
    #[error("a header of the protocol is there twice")]
    Doubled,
    #[error("`Auth-Server` is missing or no address")]
    Server,
    #[error("`Auth-Port` is missing or no port")]
    Port,
    #[error("`Auth-Wait` is no number of seconds, or missing with WAIT")]
    Wait,
    #[error("`Auth-User` or `Auth-Pass` is empty or longer than {LOGIN_BYTES_MAX} bytes")]
    Login,
}

/// Where the empty line ends.
pub(super) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        let line = bytes.get(start..at).unwrap_or_default();
        if matches!(line, b"" | b"\r") {
            return Some(at + 1);
        }
        start = at + 1;
    }
    None
}

/// Reads a head. `lenient` takes what nginx takes: any status or none, and no `Auth-Status`.
pub(super) fn parse(bytes: &[u8], lenient: bool) -> Result<Answer, Fault> {
    let end = end_of_head(bytes).ok_or(Fault::Cut)?;
    let head = bytes.get(..end).unwrap_or_default();
    let mut lines = head.split(|byte| *byte == b'\n').map(trim_end).peekable();
    match lines.peek().copied().and_then(status) {
        Some(200) => drop(lines.next()),
        Some(_) if lenient => drop(lines.next()),
        Some(_) => return Err(Fault::Status),
        None if lenient => {}
        None => return Err(Fault::NoStatusLine),
    }
    let mut headers = Headers::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        headers.take(line, lenient)?;
    }
    headers.answer(lenient)
}

/// The headers of the protocol.
#[derive(Debug, Default)]
struct Headers<'h> {
    status: Option<&'h [u8]>,
    server: Option<&'h [u8]>,
    port: Option<&'h [u8]>,
    user: Option<&'h [u8]>,
    password: Option<&'h [u8]>,
    wait: Option<&'h [u8]>,
    error_code: Option<&'h [u8]>,
}

impl<'h> Headers<'h> {
    fn take(&mut self, line: &'h [u8], lenient: bool) -> Result<(), Fault> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault::Header)?;
        let (name, value) = line.split_at(colon);
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let has_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if name.is_empty() || !name.iter().all(is_name) || value.iter().any(has_control) {
            return Err(Fault::Header);
        }
        let place = match name.to_ascii_lowercase().as_slice() {
            b"auth-status" => &mut self.status,
            b"auth-server" => &mut self.server,
            b"auth-port" => &mut self.port,
            b"auth-user" => &mut self.user,
            b"auth-pass" => &mut self.password,
            b"auth-wait" => &mut self.wait,
            b"auth-error-code" => &mut self.error_code,
            _ => return Ok(()),
        };
        if place.replace(value).is_some() && !lenient {
            return Err(Fault::Doubled);
        }
        Ok(())
    }

    fn answer(&self, lenient: bool) -> Result<Answer, Fault> {
        let wait = self.wait.map(seconds).transpose()?;
        match self.status {
            Some(b"OK") => self.ok().map(Answer::Ok),
            None if lenient => self.ok().map(Answer::Ok),
            None => Err(Fault::NoAuthStatus),
            // Without a time nginx asks again and again, at once.
            Some(b"WAIT") => {
                wait.filter(|wait| !wait.is_zero()).map(Answer::Wait).ok_or(Fault::Wait)
            }
            Some(words) => {
                let words = String::from_utf8_lossy(words).into_owned();
                let temporary = self.is_temporary(&words);
                let wait = wait.unwrap_or_default();
                Ok(Answer::Refused(Refused { words, wait, temporary }))
            }
        }
    }

    /// By SMTP's code where there is one, or by an IMAP code in front of the words.
    fn is_temporary(&self, words: &str) -> bool {
        let by_code = self.error_code.is_some_and(|code| code.starts_with(b"4"));
        let code = words.strip_prefix('[').and_then(|rest| rest.split(['[', ']', ' ']).next());
        let means = code.map(|code| ResponseCode::of(code.as_bytes()));
        by_code
            || means == Some(ResponseCode::Unavailable)
            || means.is_some_and(|code| code.no_means() == NoMeans::Unavailable)
    }

    fn ok(&self) -> Result<Ok, Fault> {
        let server = self.server.and_then(|text| std::str::from_utf8(text).ok());
        let server = server.filter(|text| is_host(text)).ok_or(Fault::Server)?.to_owned();
        let port = self.port.and_then(number).and_then(|port| u16::try_from(port).ok());
        let port = port.filter(|port| *port > 0).ok_or(Fault::Port)?;
        let sound = |value: &&[u8]| (1..=LOGIN_BYTES_MAX).contains(&value.len());
        if ![self.user, self.password].iter().flatten().all(sound) {
            return Err(Fault::Login);
        }
        let user = self.user.map(<[u8]>::to_vec);
        let password = self.password.map(|bytes| Secret::new(bytes.to_vec()));
        Ok(Ok { server, port, user, password })
    }
}

/// An address, or a name: it counts only where a backend has it.
fn is_host(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.bytes().all(is_name))
}

/// The status of an HTTP status line.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/")?;
    let code = rest.split(|byte| *byte == b' ').nth(1)?;
    number(code).and_then(|code| u16::try_from(code).ok())
}

fn seconds(text: &[u8]) -> Result<Duration, Fault> {
    number(text).map(|seconds| Duration::from_secs(seconds.into())).ok_or(Fault::Wait)
}

fn number(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn trim_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(headers: &str) -> Result<Answer, Fault> {
        let head = format!("HTTP/1.0 200 OK\r\n{headers}\r\n\r\nbody");
        parse(head.as_bytes(), false)
    }

    fn refused(headers: &str) -> Refused {
        match read(headers) {
            Result::Ok(Answer::Refused(refused)) => refused,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_ok_names_a_backend_and_what_signs_in() {
        let answer = read("auth-status: OK\r\nAUTH-SERVER:10.0.2.1 \r\nAuth-Port: 143\r\nX-A: b");
        let server = "10.0.2.1".to_owned();
        let bare = Ok { server: server.clone(), port: 143, user: None, password: None };
        assert_eq!(answer, Result::Ok(Answer::Ok(bare)));
        let more = "Auth-User: a b%20\r\nAuth-Pass: s:3";
        let answer =
            read(&format!("Auth-Status: OK\r\nAuth-Server: {server}\r\nAuth-Port: 1\r\n{more}"));
        let (user, password) = (Some(b"a b%20".to_vec()), Some(Secret::new(b"s:3".to_vec())));
        assert_eq!(answer, Result::Ok(Answer::Ok(Ok { server, port: 1, user, password })));
    }

    #[test]
    fn anything_else_is_a_refusal_or_a_wait() {
        let plain = refused("Auth-Status: Invalid login or password\r\nAuth-Wait: 3");
        assert_eq!(plain.words, "Invalid login or password");
        assert_eq!((plain.wait, plain.temporary), (Duration::from_secs(3), false));
        assert!(!refused("Auth-Status: ok").temporary);
        assert!(refused("Auth-Status: [UNAVAILABLE] soon").temporary);
        assert!(refused("Auth-Status: [SYS/TEMP] soon").temporary);
        assert!(refused("Auth-Status: later\r\nAuth-Error-Code: 454 4.7.0").temporary);
        assert!(!refused("Auth-Status: no\r\nAuth-Error-Code: 535 5.7.8").temporary);
        let wait = Result::Ok(Answer::Wait(Duration::from_secs(2)));
        assert_eq!(read("Auth-Status: WAIT\r\nAuth-Wait: 2"), wait);
    }

    #[test]
    fn answers_that_cannot_be_used_are_faults() {
        let place = "Auth-Server: 10.0.2.1\r\nAuth-Port: 143";
        let cases = [
            (place.to_owned(), Fault::NoAuthStatus),
            ("Auth-Status: OK\r\nAuth-Port: 143".to_owned(), Fault::Server),
            ("Auth-Status: OK\r\nAuth-Server: [::1]\r\nAuth-Port: 1".to_owned(), Fault::Server),
            ("Auth-Status: OK\r\nAuth-Server: unix:/x\r\nAuth-Port: 1".to_owned(), Fault::Server),
            ("Auth-Status: OK\r\nAuth-Server: ::1".to_owned(), Fault::Port),
            ("Auth-Status: OK\r\nAuth-Server: ::1\r\nAuth-Port: 0".to_owned(), Fault::Port),
            ("Auth-Status: OK\r\nAuth-Server: ::1\r\nAuth-Port: 65536".to_owned(), Fault::Port),
            ("Auth-Status: OK\r\nAuth-Server: ::1\r\nAuth-Port: +1".to_owned(), Fault::Port),
            (format!("Auth-Status: OK\r\n{place}\r\nAuth-User:"), Fault::Login),
            (format!("Auth-Status: OK\r\nAuth-Status: OK\r\n{place}"), Fault::Doubled),
            ("Auth-Status: WAIT".to_owned(), Fault::Wait),
            ("Auth-Status: WAIT\r\nAuth-Wait: 0".to_owned(), Fault::Wait),
            ("Auth-Status: no\r\nAuth-Wait: soon".to_owned(), Fault::Wait),
            ("Auth_Status: OK".to_owned(), Fault::Header),
            ("Auth-Status OK".to_owned(), Fault::Header),
            ("Auth-Status: O\0K".to_owned(), Fault::Header),
        ];
        for (headers, fault) in cases {
            assert_eq!(read(&headers), Err(fault), "{headers}");
        }
        let whole = format!("HTTP/1.1 500 Oh\r\nAuth-Status: OK\r\n{place}\r\n\r\n");
        assert_eq!(parse(whole.as_bytes(), false), Err(Fault::Status));
        assert_eq!(parse(b"Auth-Status: OK\r\n\r\n", false), Err(Fault::NoStatusLine));
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\nAuth-Status: OK\r\n", false), Err(Fault::Cut));
    }

    #[test]
    fn leniency_takes_what_nginx_takes() {
        let place = "Auth-Server: ::1\r\nAuth-Port: 143\r\n\r\n";
        for start in ["HTTP/1.1 500 Oh\r\n", "", "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\n"] {
            let answer = parse(format!("{start}{place}").as_bytes(), true);
            assert!(matches!(answer, Result::Ok(Answer::Ok(_))), "{start:?}: {answer:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_are_an_answer_or_a_fault(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            lenient: bool,
        ) {
            let _ = parse(&bytes, lenient);
            let _ = parse(&[b"HTTP/1.0 200 OK\r\n", &bytes[..], b"\r\n\r\n"].concat(), lenient);
        }
    }
}
