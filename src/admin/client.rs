//! Asking the admin API over its Unix socket, for the command line.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::control::report;

pub(crate) use super::api::{KickRequest, PinRequest, StateRequest, UserRequest};
use crate::control::report::Refusal;

/// How long an answer may take: a reload reads files of millions of users.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(600);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Why there is no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no proxy answers at {path:?}: {source}; is it running, and is that its admin.socket?")]
    NoProxy {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not allowed to ask.
    #[error("{path:?} may be used by root and the proxy's own user only")]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// The answer broke off, or is none.
    #[error("the proxy's answer cannot be used: {0}")]
    Broken(String),
    /// The proxy refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

/// A proxy's admin socket.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Asks at that socket.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Looks at something; `query` is names and values.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<T: DeserializeOwned>(
        &self,
        call: &str,
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        let pairs = query.iter().map(|(name, value)| format!("{name}={}", percent(value)));
        let query = pairs.collect::<Vec<_>>().join("&");
        let query = if query.is_empty() { query } else { format!("?{query}") };
        self.ask(&format!("GET /api/v1/{call}{query} HTTP/1.1\r\n"), b"")
    }

    /// Changes something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| ClientError::Broken(error.to_string()))?;
        let head = format!(
            "POST /api/v1/{call} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: \
             {}\r\n",
            body.len()
        );
        self.ask(&head, &body)
    }

    fn ask<T: DeserializeOwned>(&self, head: &str, body: &[u8]) -> Result<T, ClientError> {
        let broken = |error: io::Error| ClientError::Broken(error.to_string());
        let mut stream = self.connect()?;
        let mut request = format!("{head}Host: localhost\r\n\r\n").into_bytes();
        request.extend_from_slice(body);
        stream.set_read_timeout(Some(ANSWER_TIME_MAX)).map_err(broken)?;
        stream.write_all(&request).map_err(broken)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(broken)?;
        read(&answer)
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let path = &self.path;
        UnixStream::connect(path).map_err(|source| match source.kind() {
            ErrorKind::PermissionDenied => ClientError::Forbidden { path: path.clone() },
            _ => ClientError::NoProxy { path: path.clone(), source },
        })
    }
}

/// The path segment or query value in percent-encoding.
pub(crate) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The server closes behind one answer, whose length it says.
fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    let broken = |what: &str| ClientError::Broken(what.to_owned());
    let border = memchr::memmem::find(answer, b"\r\n\r\n").ok_or_else(|| broken("it broke off"))?;
    let (head, body) = answer.split_at(border);
    let body = body.get(4..).unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| length != body.len()) {
        return Err(broken("it broke off"));
    }
    let unreadable = |error: serde_json::Error| ClientError::Broken(error.to_string());
    match status {
        Some(200) => serde_json::from_slice(body).map_err(unreadable),
        Some(_) => Err(match serde_json::from_slice(body) {
            Ok(refusal) => ClientError::Refused(refusal),
            Err(_) => ClientError::Broken(String::from_utf8_lossy(body).trim().to_owned()),
        }),
        None => Err(broken("it is no HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_a_query() {
        assert_eq!(percent("Kim+x@example.org"), "Kim%2Bx%40example.org");
        assert_eq!(percent("\u{e9} &="), "%C3%A9%20%26%3D");
    }

    #[test]
    fn answers_are_read_whole_or_refused() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
        assert!(read::<Vec<u8>>(ok).is_ok());
        for broken in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[]"[..],
            b"HTTP/1.1 200 OK\r\n",
            b"",
            b"x\r\n\r\n",
            b"HTTP/1.1 500 x\r\n\r\noops",
        ] {
            assert!(matches!(read::<Vec<u8>>(broken), Err(ClientError::Broken(_))), "{broken:?}");
        }
        let refused = b"HTTP/1.1 409 C\r\n\r\n{\"reason\":\"needs_force\",\"message\":\"m\"}";
        assert!(matches!(read::<Vec<u8>>(refused), Err(ClientError::Refused(_))));
    }
}
