//! The proxy's side of a login at a backend, as lines in and bytes out. No IO.
//!
//! Where the backend's greeting lists what is needed, ID and AUTHENTICATE go out in
//! one write, so that a login costs one round trip; else each command waits for the
//! answer to the one before (Exchange and others drop what comes too early). Where the
//! backend and the client finish an exchange, its messages pass decoded and encoded anew.

mod commands;
mod greeting;

use std::collections::VecDeque;

pub use self::greeting::{Approach, Greeting, Leg};
use crate::names::Secret;
use crate::protocol::capability::Capabilities;
use crate::protocol::response::{self, Code, Response, Status};
use crate::protocol::response_code::ResponseCode;
use crate::protocol::strings;
use crate::sasl::{Mechanism, Proof};

/// Longest message with credentials, in base64, that is sent to a backend: with tag and
/// command before it the line has 8 KiB, and Dovecot closes the connection over more.
pub const LOGIN_MESSAGE_BYTES_MAX: usize = 8192 - 128;
/// Untagged lines of a login that are kept for the client: at most this many bytes.
const UNTAGGED_BYTES_MAX: usize = 16 * 1024;
/// Lines of any kind that a backend may send before its login is answered.
const LINES_MAX: u32 = 200;
/// Challenges in one exchange; no mechanism needs more than two.
const CHALLENGES_MAX: u32 = 8;
/// LITERAL- allows non-synchronising literals up to this size (RFC 7888 section 5).
const LITERAL_MINUS_BYTES_MAX: usize = 4096;

/// Who logs in, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The proxy's ID fields, then the client's; empty where nothing is forwarded.
    pub id: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What the client gave, as it came.
    pub proof: Proof,
    /// Whether the identity to act as is another than the one that signs in: LOGIN cannot
    /// say it. One that is the same may be left out there.
    pub needs_authzid: bool,
}

/// What the caller has to do next.
#[derive(Debug)]
pub enum Step {
    /// Read the next line.
    Read,
    /// Send these bytes (they may hold a secret), then read.
    Send(Secret),
    /// Ask the client, then call [`Login::answer`] or [`Login::cancel`].
    Challenge(Secret),
    /// The backend took the login.
    Done(LoggedIn),
}

/// A login that the backend took.
#[derive(Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// The backend's capability list after login, as sent.
    pub capabilities: Vec<u8>,
    /// The text of its OK, cleaned.
    pub text: String,
    /// Untagged lines that came before the OK and belong to the client, as sent.
    pub untagged: Vec<u8>,
}

/// A refusal that decides the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// NO or BAD.
    pub status: Status,
    /// The response code.
    pub code: ResponseCode,
    /// The text, cleaned.
    pub text: String,
    /// The alerts that came before it, as sent. Nothing else belongs to a client that is
    /// not logged in.
    pub untagged: Vec<u8>,
    /// Where the user should go instead (RFC 2221), as sent.
    pub referral: Option<Vec<u8>>,
}

/// Why there was no login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The greeting was not `* OK`.
    #[error("the backend greeted with {what}")]
    Greeting {
        /// What it was.
        what: &'static str,
    },
    /// STARTTLS is required and was not to be had.
    #[error("the backend refused STARTTLS")]
    NoStartTls,
    /// Bytes behind the answer to STARTTLS: somebody on the path adds plain text.
    #[error("the backend sent clear text behind its answer to STARTTLS")]
    Injected,
    /// The backend decided against the login.
    #[error("the backend refused the login")]
    Rejected(Rejection),
    /// The backend offers no way to log in that the proxy speaks.
    #[error("the backend offers neither AUTHENTICATE PLAIN nor LOGIN")]
    NoMechanism,
    /// The backend does not list the mechanism that the client has begun with.
    #[error("the backend does not list AUTH={}, which a listener offers", .0.name())]
    NotListed(Mechanism),
    /// The backend lists channel binding. It would have to refuse the clients that could have
    /// used it, had they been told (RFC 5802 section 6).
    #[error("SCRAM cannot be relayed to a backend that lists a -PLUS mechanism")]
    ChannelBinding,
    /// The client gave the exchange up, and the backend took note.
    #[error("the client cancelled the exchange")]
    Cancelled,
    /// The backend said BYE.
    #[error("the backend said BYE")]
    Bye,
    /// The backend broke the protocol.
    #[error("the backend broke the protocol: {what}")]
    Protocol {
        /// What it did.
        what: &'static str,
    },
}

impl LoginError {
    /// Whether it is a matter of configuration: the backend and what is offered to clients do
    /// not fit.
    pub const fn is_about_mechanisms(&self) -> bool {
        matches!(self, Self::NoMechanism | Self::NotListed(_) | Self::ChannelBinding)
    }

    /// The metric's `reason`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Greeting { .. } => "greeting",
            Self::NoStartTls | Self::Injected => "starttls",
            Self::Rejected(_) => "rejected",
            Self::NoMechanism | Self::NotListed(_) | Self::ChannelBinding => "mechanism",
            Self::Cancelled => "cancelled",
            Self::Bye => "bye",
            Self::Protocol { .. } => "protocol",
        }
    }
}

/// What was sent and is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Id,
    /// AUTHENTICATE PLAIN without initial response: `+` asks for it.
    Authenticate,
    /// AUTHENTICATE PLAIN with all that is needed.
    AuthenticateAll,
    /// AUTHENTICATE of an exchange that the client leads, its first message included.
    Exchange,
    /// An exchange that the client gave up.
    Cancelled,
    /// LOGIN that waits for `+` before the user name.
    LoginUser,
    /// LOGIN that waits for `+` before the password.
    LoginPassword,
    /// LOGIN with all that is needed.
    LoginAll,
    /// CAPABILITY after the login, because its OK carried none.
    CapabilityAfter,
}

/// What a tagged answer says.
struct Verdict<'a> {
    status: Status,
    code: Option<Code<'a>>,
    text: &'a [u8],
}

fn capability_code(code: Option<Code<'_>>) -> Option<&[u8]> {
    code.filter(|code| code.kind() == ResponseCode::Capability).map(|code| code.arguments)
}

fn count_line(lines: &mut u32) -> Result<(), LoginError> {
    *lines += 1;
    if *lines > LINES_MAX {
        return Err(LoginError::Protocol { what: "too many lines before the login's answer" });
    }
    Ok(())
}

fn referral_code(code: Option<Code<'_>>) -> Option<&[u8]> {
    code.filter(|code| code.kind() == ResponseCode::Referral).map(|code| code.arguments)
}

/// Another Dovecot proxy's channel beside the login, which is never asked for here: nobody can
/// tell what would come on it.
const MULTIPLEXED: LoginError = LoginError::Protocol { what: "MULTIPLEX that nobody asked for" };

fn is_multiplex(data: &[u8]) -> bool {
    data.get(..9).is_some_and(|head| head.eq_ignore_ascii_case(b"MULTIPLEX"))
}

fn is_id(data: &[u8]) -> bool {
    data.get(..3).is_some_and(|head| head.eq_ignore_ascii_case(b"ID "))
}

/// The lines that are alerts (RFC 9051 section 7.1: they must be shown to the user).
fn alerts(lines: &[u8]) -> Vec<u8> {
    let is_alert = |line: &&[u8]| {
        // BYE and PREAUTH ended the login where they came.
        matches!(response::parse(line), Ok(Response::Status { code: Some(code), .. })
            if code.kind() == ResponseCode::Alert)
    };
    lines.split_inclusive(|byte| *byte == b'\n').filter(is_alert).flatten().copied().collect()
}

/// One buffer of the exact size: nothing of a password stays behind in one that was
/// outgrown.
fn joined(parts: &[&[u8]]) -> Secret {
    Secret::new(parts.concat())
}

/// A login under way, at a backend that has greeted.
#[derive(Debug)]
pub struct Login {
    leg: Leg,
    plan: Plan,
    /// Whether the greeting itself lists SASL-IR.
    reads_ahead: bool,
    capabilities: Option<Capabilities>,
    /// The last capability list as sent.
    listed: Vec<u8>,
    sent: VecDeque<(u32, Sent)>,
    next_tag: u32,
    lines: u32,
    untagged: Vec<u8>,
    /// Whether credentials, or the first message of an exchange, may have been sent.
    credentials_sent: bool,
    challenges: u32,
    /// Messages of the client that were passed on behind the first.
    answers: u32,
    text: String,
}

impl Login {
    /// A login on a connection whose backend has greeted; [`Login::begin`] says what to send.
    pub fn new(greeting: Greeting, plan: Plan) -> Self {
        let Greeting { leg, reads_ahead, capabilities, next_tag, lines, .. } = greeting;
        Self {
            leg,
            plan,
            reads_ahead,
            capabilities,
            listed: Vec::new(),
            sent: VecDeque::new(),
            next_tag,
            lines,
            untagged: Vec::new(),
            credentials_sent: false,
            challenges: 0,
            answers: 0,
            text: String::new(),
        }
    }

    /// Whether credentials may have reached the backend: then no second try is made.
    pub fn credentials_sent(&self) -> bool {
        self.credentials_sent
    }

    /// Takes one line of the backend, without its line end.
    pub fn on_line(&mut self, line: &[u8]) -> Result<Step, LoginError> {
        count_line(&mut self.lines)?;
        let parsed = response::parse(line)
            .map_err(|_| LoginError::Protocol { what: "a line that is no response" })?;
        match parsed {
            Response::Continuation { text } => self.on_continuation(text),
            Response::Tagged { tag, status, code, text } => {
                self.on_tagged(tag, &Verdict { status, code, text })
            }
            Response::Status { status: Status::Bye, .. } => Err(LoginError::Bye),
            Response::Capability(list) => {
                self.learn(list);
                Ok(Step::Read)
            }
            Response::Untagged { literal: Some(_), .. } => {
                Err(LoginError::Protocol { what: "a literal before the login's answer" })
            }
            Response::Untagged { line: data, .. } if is_multiplex(data) => Err(MULTIPLEXED),
            // The answer to the proxy's own ID is not for the client.
            Response::Untagged { line: data, .. } if is_id(data) => Ok(Step::Read),
            Response::Status { code, .. } => self.on_status(code, line),
            Response::Untagged { .. } => self.keep(line),
        }
    }

    fn on_continuation(&mut self, text: &[u8]) -> Result<Step, LoginError> {
        let Some((_, sent)) = self.sent.front_mut() else {
            return Err(LoginError::Protocol { what: "a continuation that nobody waits for" });
        };
        match *sent {
            Sent::Authenticate => {
                *sent = match self.plan.proof {
                    Proof::Credentials(_) => Sent::AuthenticateAll,
                    Proof::Opening(_) => Sent::Exchange,
                };
                let out = joined(&[self.initial_response().expose(), b"\r\n"]);
                Ok(self.send_secret(out))
            }
            Sent::Exchange => self.on_challenge(text),
            Sent::LoginUser => {
                *sent = Sent::LoginPassword;
                let mut out = self.plan.proof.user().to_vec();
                let head = format!(" {{{}}}\r\n", self.password().len());
                out.extend_from_slice(head.as_bytes());
                Ok(Step::Send(Secret::new(out)))
            }
            Sent::LoginPassword => {
                *sent = Sent::LoginAll;
                let out = joined(&[self.password(), b"\r\n"]);
                Ok(self.send_secret(out))
            }
            _ => Err(LoginError::Protocol { what: "a continuation out of place" }),
        }
    }

    /// The backend's turn in an exchange that the client leads. Only strict base64 passes.
    fn on_challenge(&mut self, text: &[u8]) -> Result<Step, LoginError> {
        self.challenges += 1;
        if self.challenges > CHALLENGES_MAX {
            return Err(LoginError::Protocol { what: "challenges without end" });
        }
        let challenge = strings::decode_base64(text)
            .map_err(|_| LoginError::Protocol { what: "a challenge that is not base64" })?;
        Ok(Step::Challenge(challenge))
    }

    /// The client's message after [`Step::Challenge`], as a line for the backend.
    pub fn answer(&mut self, message: &Secret) -> Secret {
        self.answers += 1;
        joined(&[strings::encode_base64_secret(message).expose(), b"\r\n"])
    }

    /// Gives the exchange up after [`Step::Challenge`] (RFC 9051 section 6.2.2); the backend's
    /// answer then ends in [`LoginError::Cancelled`].
    pub fn cancel(&mut self) -> Secret {
        if let Some((_, sent)) = self.sent.front_mut() {
            *sent = Sent::Cancelled;
        }
        Secret::new(b"*\r\n".to_vec())
    }

    /// A list in a code is the backend's as much as one of its own, and not filtered; a
    /// referral would lead the client past the proxy.
    fn on_status(&mut self, code: Option<Code<'_>>, line: &[u8]) -> Result<Step, LoginError> {
        match code.map(|code| (code.kind(), code.arguments)) {
            Some((ResponseCode::Capability, list)) if self.credentials_sent => {
                self.learn(list);
                Ok(Step::Read)
            }
            Some((ResponseCode::Capability | ResponseCode::Referral, _)) => Ok(Step::Read),
            _ => self.keep(line),
        }
    }

    /// Keeps an untagged line for the client. Only what comes after the credentials is
    /// meant for it.
    fn keep(&mut self, line: &[u8]) -> Result<Step, LoginError> {
        if !self.credentials_sent {
            return Ok(Step::Read);
        }
        if self.untagged.len() + line.len() + 2 > UNTAGGED_BYTES_MAX {
            return Err(LoginError::Protocol { what: "too much untagged data" });
        }
        self.untagged.extend_from_slice(line);
        self.untagged.extend_from_slice(b"\r\n");
        Ok(Step::Read)
    }

    fn on_tagged(&mut self, tag: &[u8], verdict: &Verdict<'_>) -> Result<Step, LoginError> {
        let Some((number, sent)) = self.sent.pop_front() else {
            return Err(LoginError::Protocol { what: "an answer that nobody waits for" });
        };
        if tag != self.tag(number).as_bytes() {
            return Err(LoginError::Protocol { what: "an answer with a wrong tag" });
        }
        let ok = verdict.status == Status::Ok;
        match sent {
            Sent::CapabilityAfter if ok && !self.listed.is_empty() => Ok(self.done()),
            Sent::CapabilityAfter => {
                Err(LoginError::Protocol { what: "CAPABILITY without a list" })
            }
            Sent::Id if self.sent.is_empty() => self.send_login(),
            Sent::Id => Ok(Step::Read),
            Sent::Cancelled if ok => {
                Err(LoginError::Protocol { what: "an OK to an exchange that was cancelled" })
            }
            Sent::Cancelled => Err(LoginError::Cancelled),
            Sent::Authenticate
            | Sent::AuthenticateAll
            | Sent::Exchange
            | Sent::LoginUser
            | Sent::LoginPassword
            | Sent::LoginAll => self.on_login_answer(verdict),
        }
    }

    fn on_login_answer(&mut self, verdict: &Verdict<'_>) -> Result<Step, LoginError> {
        if verdict.status != Status::Ok {
            let code = verdict.code.map_or(ResponseCode::Other, |code| code.kind());
            if !self.credentials_sent && code == ResponseCode::Other {
                // A refusal of the command says nothing of a password that was not sent.
                return Err(LoginError::Protocol { what: "a refusal before the credentials" });
            }
            return Err(LoginError::Rejected(Rejection {
                status: verdict.status,
                code,
                text: strings::clean_text(verdict.text),
                untagged: alerts(&self.untagged),
                referral: referral_code(verdict.code).map(<[u8]>::to_vec),
            }));
        }
        if !self.credentials_sent {
            return Err(LoginError::Protocol { what: "an OK before the credentials were sent" });
        }
        if !self.may_succeed() {
            return Err(LoginError::Protocol { what: "an OK where the exchange cannot succeed" });
        }
        self.text = strings::clean_text(verdict.text);
        if let Some(list) = capability_code(verdict.code) {
            self.learn(list);
        }
        if self.listed.is_empty() {
            return Ok(self.send_command(Sent::CapabilityAfter, b"CAPABILITY"));
        }
        Ok(self.done())
    }

    fn may_succeed(&self) -> bool {
        match &self.plan.proof {
            Proof::Credentials(_) => true,
            Proof::Opening(opening) => opening.may_succeed_after(self.answers),
        }
    }

    fn done(&mut self) -> Step {
        Step::Done(LoggedIn {
            capabilities: std::mem::take(&mut self.listed),
            text: std::mem::take(&mut self.text),
            untagged: std::mem::take(&mut self.untagged),
        })
    }

    fn learn(&mut self, list: &[u8]) {
        self.capabilities = Some(Capabilities::parse(list));
        self.listed = list.to_vec();
    }
}

#[cfg(test)]
mod tests;
