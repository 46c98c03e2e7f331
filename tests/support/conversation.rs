//! A client's side of a conversation as a table: what it sends, and what it must get.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;

use super::client::Client;
use super::tls::client_side;

/// One step of a client.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// It sends these bytes in one write.
    Send(&'static [u8]),
    /// It sends these words, the base64 of this message and CRLF in one write.
    Encode(&'static str, &'static str),
    /// It shakes hands.
    Tls,
    /// The next line begins so.
    Line(&'static str),
    /// Lines that begin so come in this order; other untagged lines may come between them.
    Among(&'static [&'static str]),
    /// No line that came since it last sent something holds this.
    Without(&'static str),
    /// The server closes, and not a byte comes before.
    End,
}

/// How the bytes of a step are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// In one write, as the client does.
    AsSent,
    /// Each in a packet of its own.
    ByteByByte,
}

/// A client that goes through tables.
pub struct Player {
    client: Client,
    tls: Arc<ClientConfig>,
    pace: Pace,
    heard: String,
    last: Option<Step>,
}

impl Player {
    /// Takes a connection of which nothing was read yet.
    pub fn new(client: Client, tls: &Arc<ClientConfig>, pace: Pace) -> Self {
        Self { client, tls: Arc::clone(tls), pace, heard: String::new(), last: None }
    }

    /// Goes through the steps; the first one that does not hold panics.
    pub fn play(&mut self, steps: &[Step]) {
        for step in steps {
            self.last = Some(*step);
            self.take(*step);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send(bytes) => self.send(bytes),
            Step::Encode(words, message) => {
                let line = format!("{words}{}\r\n", STANDARD.encode(message));
                self.send(line.as_bytes());
            }
            Step::Tls => {
                let side = client_side(&self.tls, "localhost");
                self.client.wire().start_tls_as_client(side).unwrap();
            }
            Step::Line(start) => {
                let line = self.client.expect(start);
                self.hear(&line);
            }
            Step::Among(starts) => {
                let lines = self.client.expect_in_order(starts);
                for line in &lines {
                    self.hear(line);
                }
            }
            Step::Without(words) => assert!(!self.heard.contains(words), "{}", self.heard),
            Step::End => self.client.expect_end(),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.heard.clear();
        match self.pace {
            Pace::AsSent => self.client.send(bytes),
            Pace::ByteByByte => self.client.send_byte_by_byte(bytes),
        }
    }

    fn hear(&mut self, line: &str) {
        self.heard.push_str(line);
        self.heard.push('\n');
    }
}

/// Says where it stopped.
impl Drop for Player {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}, at {:?}, after\n{}", self.pace, self.last, self.heard);
        }
    }
}
