//! One session of the scripted backend. Every user and password is right.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::backend::Idlers;
use crate::mail;
use crate::wire::Wire;

const BUFFER_BYTES: usize = 16 * 1024;
/// Between the two halves of a split answer: long enough that a proxy reads them apart.
pub(crate) const SPLIT_PAUSE: Duration = Duration::from_millis(1);
const CAPABILITIES: &str = "IMAP4rev1 SASL-IR LITERAL+ ID IDLE UIDPLUS AUTH=PLAIN";

/// The server's side of one connection.
pub(crate) struct Session {
    wire: BufReader<Box<dyn Wire>>,
    out: Vec<u8>,
    user: String,
    idlers: Arc<Idlers>,
}

/// Whether the session goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Command,
    Close,
}

impl Session {
    /// A session that has not greeted yet.
    pub(crate) fn new(wire: Box<dyn Wire>, idlers: Arc<Idlers>) -> Self {
        let wire = BufReader::with_capacity(BUFFER_BYTES, wire);
        Self { wire, out: Vec::new(), user: String::new(), idlers }
    }

    /// Serves until LOGOUT or the peer's close.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        self.say(&format!("* OK [CAPABILITY {CAPABILITIES}] ready"));
        self.flush().await?;
        while let Some(command) = self.read_command().await? {
            if self.answer(&command).await? == Next::Close {
                break;
            }
            // Pipelined commands are answered together, as real servers do.
            if memchr::memchr(b'\n', self.wire.buffer()).is_none() {
                self.flush().await?;
            }
        }
        self.flush().await?;
        self.wire.get_mut().shutdown().await
    }

    async fn answer(&mut self, command: &str) -> io::Result<Next> {
        let mut words = command.split(' ');
        let tag = words.next().unwrap_or_default().to_owned();
        let name = words.next().unwrap_or_default().to_ascii_uppercase();
        let argument = words.next().unwrap_or_default().trim_matches('"').to_owned();
        match name.as_str() {
            "CAPABILITY" => self.say(&format!("* CAPABILITY {CAPABILITIES}")),
            "ID" => self.say("* ID NIL"),
            "LOGIN" => return Ok(self.signed_in(&tag, argument)),
            "AUTHENTICATE" => {
                let first = words.next().map(ToOwned::to_owned);
                return self.authenticate(&tag, first).await;
            }
            "SELECT" => self.say("* FLAGS (\\Seen \\Deleted)\r\n* 3 EXISTS\r\n* 0 RECENT"),
            "FETCH" => self.fetch(&argument, words.next().unwrap_or_default()).await?,
            "IDLE" => self.idle().await?,
            "LOGOUT" => {
                self.say(&format!("* BYE done\r\n{tag} OK LOGOUT completed"));
                return Ok(Next::Close);
            }
            "NOOP" | "APPEND" => {}
            _ => {
                self.say(&format!("{tag} BAD unknown command"));
                return Ok(Next::Command);
            }
        }
        self.say(&format!("{tag} OK {name} completed"));
        Ok(Next::Command)
    }

    fn signed_in(&mut self, tag: &str, user: String) -> Next {
        self.user = user;
        self.say(&format!("{tag} OK [CAPABILITY {CAPABILITIES}] signed in"));
        Next::Command
    }

    async fn authenticate(&mut self, tag: &str, first: Option<String>) -> io::Result<Next> {
        let encoded = if let Some(first) = first {
            first
        } else {
            self.say("+ ");
            self.flush().await?;
            let Some(line) = self.read_line().await? else { return Ok(Next::Close) };
            line
        };
        let decoded = STANDARD.decode(encoded).unwrap_or_default();
        let user = decoded.split(|byte| *byte == 0).nth(1).unwrap_or_default();
        let user = String::from_utf8_lossy(user).into_owned();
        Ok(self.signed_in(tag, user))
    }

    async fn fetch(&mut self, number: &str, item: &str) -> io::Result<()> {
        let number = number.parse().unwrap_or_default();
        match mail::size_of_message(number) {
            Some(size) if item == "BODY[]" => {
                self.say(&format!("* {number} FETCH (BODY[] {{{size}}}"));
                self.out.extend_from_slice(mail::body(size));
                self.say(")");
            }
            _ => {
                self.say(&format!("* {number} FETCH (FLAGS (\\Seen))"));
                if number == mail::SPLIT {
                    self.flush().await?;
                    tokio::time::sleep(SPLIT_PAUSE).await;
                }
            }
        }
        Ok(())
    }

    /// Sends an EXISTS for every wake until the client speaks.
    async fn idle(&mut self) -> io::Result<()> {
        let mut wakes = self.idlers.enter(&self.user);
        self.say("+ idling");
        self.flush().await?;
        loop {
            tokio::select! {
                got = self.wire.fill_buf() => {
                    got?;
                    break;
                }
                Some(()) = wakes.recv() => {
                    self.say("* 4 EXISTS");
                    self.idlers.stamp();
                    self.flush().await?;
                }
            }
        }
        // DONE, or the end of the connection, which the next read sees again.
        self.read_line().await.map(drop)
    }

    /// A command on one line: literals stand in it as words, an appended mail not at all.
    async fn read_command(&mut self) -> io::Result<Option<String>> {
        let Some(mut command) = self.read_line().await? else { return Ok(None) };
        while let Some((size, synchronising)) = announced_literal(&command) {
            if synchronising {
                self.say("+ go on");
                self.flush().await?;
            }
            command.truncate(command.rfind('{').unwrap_or(command.len()));
            if command.contains("APPEND") {
                self.skip(size).await?;
            } else {
                self.take(size, &mut command).await?;
            }
            let Some(rest) = self.read_line().await? else { return Ok(None) };
            command.push_str(&rest);
        }
        Ok(Some(command))
    }

    async fn take(&mut self, size: u64, command: &mut String) -> io::Result<()> {
        let mut literal = Vec::new();
        (&mut self.wire).take(size).read_to_end(&mut literal).await?;
        command.push_str(&String::from_utf8_lossy(&literal));
        Ok(())
    }

    async fn skip(&mut self, size: u64) -> io::Result<()> {
        let mut body = (&mut self.wire).take(size);
        tokio::io::copy_buf(&mut body, &mut tokio::io::sink()).await.map(drop)
    }

    async fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::with_capacity(128);
        if self.wire.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&line);
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn say(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> io::Result<()> {
        let wire = self.wire.get_mut();
        wire.write_all(&self.out).await?;
        wire.flush().await?;
        self.out.clear();
        Ok(())
    }
}

/// Size of the literal that `line` announces, and whether the client waits for `+`.
fn announced_literal(line: &str) -> Option<(u64, bool)> {
    let (_, announced) = line.strip_suffix('}')?.rsplit_once('{')?;
    match announced.strip_suffix('+') {
        Some(digits) => Some((digits.parse().ok()?, false)),
        None => Some((announced.parse().ok()?, true)),
    }
}
