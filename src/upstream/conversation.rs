//! A connection to a backend, read line by line, for the few lines of a login or a check.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::stream::Stream;
use crate::net::tls::ClientTls;
use crate::protocol::response;
use crate::upstream::dial::DialError;
use crate::upstream::login::LoginError;

/// Longest line that a backend may send before its login is answered.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// The tag of LOGOUT; no other command is open then.
const LOGOUT: &[u8] = b"bye LOGOUT\r\n";
/// First size of the inbox: most greetings fit.
const INBOX_BYTES: usize = 1024;

/// The stream and what was read of it.
#[derive(Debug)]
pub(super) struct Conversation {
    stream: Stream,
    inbox: Vec<u8>,
}

/// A whole line at the inbox's start.
#[derive(Debug)]
pub(super) struct Line {
    /// Its length with the line end.
    length: usize,
}

impl Line {
    /// The line without its end.
    pub(super) fn text<'i>(&self, inbox: &'i [u8]) -> &'i [u8] {
        let line = inbox.get(..self.length).unwrap_or_default();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.strip_suffix(b"\r").unwrap_or(line)
    }
}

impl Conversation {
    /// A conversation that begins.
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, inbox: Vec::with_capacity(INBOX_BYTES) }
    }

    /// The stream, and what was read and not taken.
    pub(super) fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.inbox)
    }

    /// What was read and not taken.
    pub(super) fn inbox(&self) -> &[u8] {
        &self.inbox
    }

    /// Waits for a whole line; it stays in the inbox until it is taken.
    pub(super) async fn line(&mut self) -> Result<Line, DialError> {
        let mut searched = 0;
        loop {
            let found = response::find_line(&self.inbox, &mut searched, LINE_BYTES_MAX);
            if let Some(end) = found.map_err(|_| DialError::LineTooLong)? {
                return Ok(Line { length: end.next });
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(DialError::Closed);
            }
        }
    }

    /// Takes a line out of the inbox.
    pub(super) fn take(&mut self, line: &Line) {
        self.inbox.drain(..line.length.min(self.inbox.len()));
    }

    /// Sends bytes.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads what comes and throws it away, until the backend's end.
    async fn read_away(&mut self) -> io::Result<()> {
        loop {
            self.inbox.clear();
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Ok(());
            }
        }
    }

    /// The backend's address.
    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.peer_address().ok()
    }

    /// Whether the backend has sent nothing more and has not ended the connection.
    pub(super) fn is_at_rest(&self) -> bool {
        self.inbox.is_empty() && self.stream.is_silent()
    }

    /// The same conversation on the runtime of the caller; `None` where its socket is broken.
    pub(super) fn moved_here(self) -> Option<Self> {
        Some(Self { stream: self.stream.moved_here().ok()?, inbox: self.inbox })
    }

    /// LOGOUT, so that the backend's log has no word of a broken connection, then what comes
    /// until the backend's end. The caller bounds it.
    pub(super) async fn say_goodbye(mut self) -> io::Result<()> {
        self.send(LOGOUT).await?;
        self.read_away().await
    }

    /// STARTTLS: nothing may stand behind the backend's OK.
    pub(super) async fn secure(self, tls: Option<&ClientTls>) -> Result<Self, DialError> {
        if !self.inbox.is_empty() {
            return Err(LoginError::Injected.into());
        }
        let Stream::Plain(tcp) = self.stream else { return Err(DialError::NoTls) };
        Ok(Self::new(tls.ok_or(DialError::NoTls)?.connect(tcp).await?))
    }
}
