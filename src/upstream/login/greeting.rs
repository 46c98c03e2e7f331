//! From a backend's first line to where a login may begin: TLS and capabilities. No IO.

use super::{LoginError, MULTIPLEXED, capability_code, count_line, is_multiplex};
use crate::config::{Pipelining, TlsMode};
use crate::protocol::capability::Capabilities;
use crate::protocol::response::{self, Response, Status};

/// How a connection to a backend is led; all of it is fixed before the first byte.
#[derive(Debug, Clone)]
pub struct Leg {
    /// Policy of the leg: `Starttls` is required, never a hint (RFC 8314).
    pub tls: TlsMode,
    /// Whether commands may be sent before the former is answered.
    pub pipelining: Pipelining,
    /// Random letters that begin the proxy's own tags.
    pub tag_prefix: String,
}

impl Leg {
    /// The tag of the command with that number.
    pub(super) fn tag(&self, number: u32) -> String {
        format!("{}{number}", self.tag_prefix)
    }
}

/// What the caller has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Approach {
    /// Read the next line.
    Read,
    /// Send these bytes, then read.
    Send(Vec<u8>),
    /// Run the TLS handshake on the empty connection, then call [`Greeting::secured`].
    StartTls,
    /// A login may begin.
    Ready,
}

/// What was sent and is not answered yet.
#[derive(Debug, Clone, Copy)]
enum Asked {
    StartTls,
    Capability,
}

/// A connection on the way from its first line to a login.
#[derive(Debug)]
pub struct Greeting {
    pub(super) leg: Leg,
    /// Whether the greeting itself lists SASL-IR.
    pub(super) reads_ahead: bool,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) next_tag: u32,
    pub(super) lines: u32,
    greeted: bool,
    asked: Option<Asked>,
}

impl Greeting {
    /// Waits for the first line.
    pub fn new(leg: Leg) -> Self {
        Self {
            leg,
            reads_ahead: false,
            capabilities: None,
            next_tag: 0,
            lines: 0,
            greeted: false,
            asked: None,
        }
    }

    /// What the backend lists before a login; none before [`Approach::Ready`].
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.capabilities.as_ref()
    }

    /// Takes one line of the backend, without its line end.
    pub fn on_line(&mut self, line: &[u8]) -> Result<Approach, LoginError> {
        count_line(&mut self.lines)?;
        if !self.greeted {
            return self.on_greeting(line);
        }
        let parsed = response::parse(line)
            .map_err(|_| LoginError::Protocol { what: "a line that is no response" })?;
        match parsed {
            Response::Continuation { .. } => {
                Err(LoginError::Protocol { what: "a continuation that nobody waits for" })
            }
            Response::Tagged { tag, status, .. } => self.on_tagged(tag, status == Status::Ok),
            Response::Status { status: Status::Bye, .. } => Err(LoginError::Bye),
            Response::Capability(list) => {
                self.learn(list);
                Ok(Approach::Read)
            }
            Response::Untagged { literal: Some(_), .. } => {
                Err(LoginError::Protocol { what: "a literal before the login's answer" })
            }
            Response::Untagged { line: data, .. } if is_multiplex(data) => Err(MULTIPLEXED),
            Response::Status { .. } | Response::Untagged { .. } => Ok(Approach::Read),
        }
    }

    /// TLS is up after [`Approach::StartTls`]. What was learnt in clear text is forgotten.
    /// Gives the bytes to send.
    pub fn secured(&mut self) -> Vec<u8> {
        self.capabilities = None;
        self.ask(Asked::Capability)
    }

    fn on_greeting(&mut self, line: &[u8]) -> Result<Approach, LoginError> {
        let Ok(Response::Status { status, code, .. }) = response::parse(line) else {
            return Err(LoginError::Greeting { what: "something that is no IMAP" });
        };
        match status {
            Status::Ok => {}
            Status::Preauth => return Err(LoginError::Greeting { what: "PREAUTH" }),
            Status::Bye => return Err(LoginError::Greeting { what: "BYE" }),
            Status::No | Status::Bad => return Err(LoginError::Greeting { what: "NO or BAD" }),
        }
        self.greeted = true;
        if let Some(list) = capability_code(code) {
            self.learn(list);
            self.reads_ahead = self.capabilities.as_ref().is_some_and(|list| list.has("SASL-IR"));
        }
        if self.leg.tls == TlsMode::Starttls {
            // A list without STARTTLS may be a stripped one: the policy decides, not it.
            return Ok(Approach::Send(self.ask(Asked::StartTls)));
        }
        if self.capabilities.is_none() {
            return Ok(Approach::Send(self.ask(Asked::Capability)));
        }
        Ok(Approach::Ready)
    }

    fn on_tagged(&mut self, tag: &[u8], ok: bool) -> Result<Approach, LoginError> {
        let Some(asked) = self.asked.take() else {
            return Err(LoginError::Protocol { what: "an answer that nobody waits for" });
        };
        if tag != self.leg.tag(self.next_tag - 1).as_bytes() {
            return Err(LoginError::Protocol { what: "an answer with a wrong tag" });
        }
        match asked {
            Asked::StartTls if ok => Ok(Approach::StartTls),
            Asked::StartTls => Err(LoginError::NoStartTls),
            Asked::Capability if ok && self.capabilities.is_some() => Ok(Approach::Ready),
            Asked::Capability => Err(LoginError::Protocol { what: "CAPABILITY without a list" }),
        }
    }

    fn ask(&mut self, asked: Asked) -> Vec<u8> {
        let words = match asked {
            Asked::StartTls => "STARTTLS",
            Asked::Capability => "CAPABILITY",
        };
        let tag = self.leg.tag(self.next_tag);
        self.next_tag += 1;
        self.asked = Some(asked);
        format!("{tag} {words}\r\n").into_bytes()
    }

    fn learn(&mut self, list: &[u8]) {
        self.capabilities = Some(Capabilities::parse(list));
    }
}
