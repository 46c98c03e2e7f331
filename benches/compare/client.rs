//! The load generator's IMAP client: it knows the answers it must get and checks them.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;

use rustls::HandshakeKind;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::{BenchError, Context, Result};
use crate::mail;
use crate::wire::{self, Wire};

/// Read buffer of a client that downloads, in bytes.
pub(crate) const WIDE: usize = 64 * 1024;
/// Read buffer of a client that mostly waits, in bytes.
pub(crate) const NARROW: usize = 4 * 1024;

/// The password of every user.
const PASSWORD: &str = "secret";

/// The name of user `number`.
pub(crate) fn user(number: usize) -> String {
    format!("u{number}@bench.example")
}

/// Where and how a client connects.
#[derive(Clone)]
pub(crate) struct Door {
    /// The listener.
    pub(crate) address: SocketAddr,
    /// Present when the listener speaks TLS.
    pub(crate) tls: Option<TlsConnector>,
}

/// One IMAP connection.
pub(crate) struct Client {
    wire: BufReader<Box<dyn Wire>>,
    line: Vec<u8>,
    out: String,
    tags: u32,
    resumed: bool,
}

impl Client {
    /// Connects and reads the greeting.
    pub(crate) async fn connect(door: &Door, buffer_bytes: usize) -> Result<Self> {
        let stream = TcpStream::connect(door.address).await.context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let mut resumed = false;
        let wire: Box<dyn Wire> = match &door.tls {
            None => Box::new(stream),
            Some(tls) => {
                let secured =
                    tls.connect(wire::server_name()?, stream).await.context("TLS handshake")?;
                resumed = secured.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                Box::new(secured)
            }
        };
        let mut client = Self {
            wire: BufReader::with_capacity(buffer_bytes, wire),
            line: Vec::new(),
            out: String::new(),
            tags: 0,
            resumed,
        };
        client.expect("* OK").await?;
        Ok(client)
    }

    /// Whether the TLS handshake used a ticket.
    pub(crate) fn resumed(&self) -> bool {
        self.resumed
    }

    /// Connects and logs `user` in.
    pub(crate) async fn sign_in(door: &Door, user: &str, buffer_bytes: usize) -> Result<Self> {
        let mut client = Self::connect(door, buffer_bytes).await?;
        client.command(&format!("LOGIN {user} {PASSWORD}")).await?;
        Ok(client)
    }

    /// Sends one command and waits for its tagged OK.
    pub(crate) async fn command(&mut self, text: &str) -> Result<()> {
        let tag = self.queue(text);
        self.flush().await?;
        self.finish(tag).await
    }

    /// Adds a command to what the next flush sends; gives its tag.
    pub(crate) fn queue(&mut self, text: &str) -> u32 {
        self.tags += 1;
        // Writing to a String cannot fail.
        let _ = write!(self.out, "a{} {text}\r\n", self.tags);
        self.tags
    }

    /// Sends what was queued, in one write.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        let out = std::mem::take(&mut self.out);
        let sent = self.write(out.as_bytes()).await;
        self.out = out;
        self.out.clear();
        sent
    }

    /// Sends what was queued in two writes, `pause` apart.
    pub(crate) async fn flush_in_two(&mut self, pause: std::time::Duration) -> Result<()> {
        let out = std::mem::take(&mut self.out);
        let (first, second) = out.as_bytes().split_at(out.len() / 2);
        self.write(first).await?;
        tokio::time::sleep(pause).await;
        self.write(second).await
    }

    /// Waits for the tagged OK of `tag`, past untagged answers.
    pub(crate) async fn finish(&mut self, tag: u32) -> Result<()> {
        loop {
            let line = self.read_line().await?;
            if line.starts_with(b"* ") {
                continue;
            }
            let rest = line.strip_prefix(b"a").unwrap_or_default();
            let digits = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
            let answered = parse(digits);
            if answered == Some(tag)
                && rest.get(digits.len()..).unwrap_or_default().starts_with(b" OK")
            {
                return Ok(());
            }
            return Err(unexpected(line));
        }
    }

    /// Fetches a whole message and compares every byte.
    pub(crate) async fn fetch(&mut self, message: (u32, usize)) -> Result<()> {
        let (number, size) = message;
        let tag = self.queue(&format!("FETCH {number} BODY[]"));
        self.flush().await?;
        let line = self.read_line().await?;
        if !line.ends_with(format!("{{{size}}}").as_bytes()) {
            return Err(unexpected(line));
        }
        let mut expected = mail::body(size);
        while !expected.is_empty() {
            let got = self.wire.fill_buf().await.context("read a literal")?;
            let length = got.len().min(expected.len());
            let (head, tail) = expected.split_at(length);
            if got.get(..length) != Some(head) || length == 0 {
                return Err(BenchError::Protocol("a literal changed on its way".to_owned()));
            }
            self.wire.consume(length);
            expected = tail;
        }
        self.expect(")").await?;
        self.finish(tag).await
    }

    /// Appends `body` with a synchronising literal.
    pub(crate) async fn append(&mut self, body: &[u8]) -> Result<()> {
        let tag = self.queue(&format!("APPEND INBOX {{{}}}", body.len()));
        self.flush().await?;
        self.expect("+ ").await?;
        self.write(body).await?;
        self.write(b"\r\n").await?;
        self.finish(tag).await
    }

    /// Begins IDLE.
    pub(crate) async fn idle(&mut self) -> Result<()> {
        self.queue("IDLE");
        self.flush().await?;
        self.expect("+ ").await
    }

    /// Waits for an untagged EXISTS.
    pub(crate) async fn exists(&mut self) -> Result<()> {
        let line = self.read_line().await?;
        if line.ends_with(b" EXISTS") { Ok(()) } else { Err(unexpected(line)) }
    }

    /// Ends IDLE.
    pub(crate) async fn done(&mut self) -> Result<()> {
        self.write(b"DONE\r\n").await?;
        self.finish(self.tags).await
    }

    /// Logs out and reads to the end, so that the server side closes first.
    pub(crate) async fn logout(mut self) -> Result<()> {
        self.command("LOGOUT").await?;
        loop {
            match self.wire.fill_buf().await {
                Ok([]) => return Ok(()),
                Ok(got) => {
                    let length = got.len();
                    self.wire.consume(length);
                }
                Err(error) if is_close(&error) => return Ok(()),
                Err(error) => return Err(error).context("read to the end"),
            }
        }
    }

    async fn expect(&mut self, start: &str) -> Result<()> {
        let line = self.read_line().await?;
        if line.starts_with(start.as_bytes()) { Ok(()) } else { Err(unexpected(line)) }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let wire = self.wire.get_mut();
        wire.write_all(bytes).await.context("write")?;
        wire.flush().await.context("flush")
    }

    /// One line without its end.
    async fn read_line(&mut self) -> Result<&[u8]> {
        self.line.clear();
        let got = self.wire.read_until(b'\n', &mut self.line).await.context("read a line")?;
        if got == 0 {
            return Err(BenchError::Protocol("connection closed".to_owned()));
        }
        Ok(self.line.trim_ascii_end())
    }
}

/// A close without `close_notify`, or with bytes of ours unread, is still a close.
fn is_close(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

fn parse(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn unexpected(line: &[u8]) -> BenchError {
    let shown = line.get(..line.len().min(120)).unwrap_or_default();
    BenchError::Protocol(String::from_utf8_lossy(shown).into_owned())
}
