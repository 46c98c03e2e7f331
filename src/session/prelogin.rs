//! The client's side before login: every command that is legal there, and its answer.

mod dialogue;
mod inbox;
mod steps;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::names::SessionId;
use crate::protocol::capability::Offer;
use crate::protocol::command::{self, IdPair, Tag, Word};
use crate::protocol::framer::{Bound, Frame, FrameError, FrameLimits, Framer};
use crate::sasl::{self, Exchange, Mechanism, Proof};
use crate::session::answer::Answer;
use crate::session::forwarded::Trace;

pub use dialogue::{Reply, encode_challenge};
pub use inbox::Inbox;
pub use steps::{Attempt, CloseReason, LoginMethod, Step};

/// Bytes of all commands and lines that bring no login: 256 KiB. Without a bound a client
/// could keep the proxy busy until its deadline; what may be pipelined behind a login that
/// fails has room.
const TALK_BYTES_MAX: usize = 262_144;

/// What the listener offers and allows.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The session's id, shown in some answers.
    pub session: SessionId,
    /// SASL mechanisms, in the order they are offered.
    pub mechanisms: Arc<[Mechanism]>,
    /// Whether the connection is encrypted, or can be.
    pub encryption: Encryption,
    /// Whether a login in clear text is taken.
    pub clear_login: bool,
    /// Failed logins after which the connection is closed. Default 5.
    pub tries: u32,
    /// Syntax errors after which the connection is closed. Default 10.
    pub syntax_errors: u32,
    /// Whether a login that could not be tried ends with BYE instead of NO.
    pub bye_on_unavailable: bool,
    /// Whether the peer is a proxy whose first ID is believed.
    pub id_trusted: bool,
}

/// How the client's connection is encrypted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// TLS is active, or counts as such.
    Active,
    /// Clear text; STARTTLS is offered.
    Offered,
    /// Clear text; TLS is not available.
    Absent,
}

/// The state machine. It holds no bytes of the client but its ID; the caller owns the
/// [`Inbox`], fills it, calls [`Self::step`] until it says `Read` or `Wait`, and writes
/// what the steps say in their order.
#[derive(Debug)]
pub struct PreLogin {
    settings: Settings,
    framer: Framer,
    phase: Phase,
    failed_logins: u32,
    syntax_errors: u32,
    /// Of the client, used for no login.
    talk_bytes: usize,
    asked_capability: bool,
    client_id: Vec<IdPair>,
    /// Whether an ID came already: only the first one of a trusted proxy is believed.
    identified: bool,
    trace: Trace,
    tally: Tally,
}

/// What a step answered without the caller's help and is worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Lines that are no commands.
    pub syntax_errors: u32,
    /// A login that ended without credentials; its method is `None` for a mechanism that the
    /// proxy does not know.
    pub refused: Option<(Option<LoginMethod>, Refused)>,
    /// A bound that the client ran into.
    pub over: Option<Bound>,
    /// The field of a trusted proxy's ID that cannot be used.
    pub bad_field: Option<&'static str>,
}

/// Why a login ended before its credentials were complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The connection is in clear text.
    InClear,
    /// The client cancelled the exchange.
    Cancelled,
    /// A SASL message could not be read.
    Malformed,
    /// The mechanism is not offered here.
    NotOffered,
}

/// What the next bytes of the client are.
#[derive(Debug)]
enum Phase {
    /// A command.
    Command,
    /// A line of a SASL exchange.
    Exchange { tag: Tag, exchange: Exchange },
    /// None: a login is under way; or, where a backend finishes an exchange of that mechanism,
    /// a line of it when the backend asks for one.
    LoggingIn { tag: Tag, exchange: Option<Mechanism> },
    /// None: the TLS handshake comes next.
    Handshake,
    /// None ever.
    Closed,
}

impl PreLogin {
    /// A connection just accepted (and encrypted, where `settings` say so).
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            framer: Framer::new(FrameLimits::default()),
            phase: Phase::Command,
            failed_logins: 0,
            syntax_errors: 0,
            talk_bytes: 0,
            asked_capability: false,
            client_id: Vec::new(),
            identified: false,
            trace: Trace::default(),
            tally: Tally::default(),
        }
    }

    /// What is to be counted since this was last asked.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Appends the greeting. Its list is the one that CAPABILITY answers. None is sent
    /// after STARTTLS.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"* OK [CAPABILITY ");
        self.encode_offer(out);
        out.extend_from_slice(b"] Pointsman ready.\r\n");
    }

    /// Looks at the client's bytes and says what to do next. Each call uses up at most one
    /// command or line; call again after every step but `Read`, `Wait` and `Close`.
    pub fn step(&mut self, inbox: &mut Inbox) -> Step {
        let before = inbox.unread().len();
        let step = self.advance(inbox);
        if matches!(step, Step::Reply(_) | Step::Forwarded { .. }) {
            let used = before.saturating_sub(inbox.unread().len());
            self.talk_bytes = self.talk_bytes.saturating_add(used);
            if self.talk_bytes > TALK_BYTES_MAX {
                self.tally.over = Some(Bound::Command);
                return self.close(inbox, "Too much before the login.", CloseReason::TooLong);
            }
        }
        step
    }

    fn advance(&mut self, inbox: &mut Inbox) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Command => self.next_command(inbox),
            Phase::Exchange { tag, exchange } => self.next_line(inbox, tag, exchange),
            waiting @ (Phase::LoggingIn { .. } | Phase::Handshake | Phase::Closed) => {
                self.phase = waiting;
                Step::Wait
            }
        }
    }

    /// The login of the last [`Step::Login`] failed: appends the answer and goes back to
    /// the not-authenticated state, where what was pipelined behind it is answered. One that
    /// the client cancelled counts for nothing, a broken one as a syntax error. Gives a reason when the connection must be closed after the answer is written.
    pub fn login_failed(&mut self, answer: &Answer, out: &mut Vec<u8>) -> Option<CloseReason> {
        let Phase::LoggingIn { tag, .. } = std::mem::replace(&mut self.phase, Phase::Command)
        else {
            return None;
        };
        let session = self.settings.session;
        if self.settings.bye_on_unavailable && answer.is_unavailable() {
            answer.encode_bye(&session, out);
            self.phase = Phase::Closed;
            return Some(CloseReason::Unavailable);
        }
        answer.encode(&tag, &session, out);
        match answer {
            Answer::Cancelled => None,
            Answer::Bad(_) => self.count_syntax_error(out),
            _ => self.count_failed_login(out),
        }
    }

    /// The TLS handshake after [`Step::StartTls`] is done: all that came before it is
    /// forgotten (RFC 9051 §6.2.1). The inbox must be a fresh one.
    pub fn after_tls(&mut self) {
        let settings = Settings { encryption: Encryption::Active, ..self.settings.clone() };
        *self = Self::new(settings);
    }

    /// The tag of the login under way.
    pub const fn login_tag(&self) -> Option<&Tag> {
        match &self.phase {
            Phase::LoggingIn { tag, .. } => Some(tag),
            _ => None,
        }
    }

    /// Whether the client asked CAPABILITY itself since the connection was encrypted.
    pub const fn asked_capability(&self) -> bool {
        self.asked_capability
    }

    /// The fields of the client's last ID, without its `x-*` ones, for the backend.
    pub fn client_id(&self) -> &[IdPair] {
        &self.client_id
    }

    /// What the client's IDs say of proxies on the way.
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Whether the connection counts as encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.settings.encryption == Encryption::Active
    }

    fn next_command(&mut self, inbox: &mut Inbox) -> Step {
        match self.framer.next(inbox.unread()) {
            Ok(Frame::NeedMore) => Step::Read,
            Ok(Frame::NeedContinuation { end }) => self.on_announced_literal(inbox, end),
            Ok(Frame::Command { end }) => {
                let parsed = command::parse(inbox.unread().get(..end).unwrap_or_default());
                inbox.consume(end);
                self.on_command(parsed, inbox)
            }
            Err(error) => {
                let tag = Tag::of_line(inbox.unread());
                self.on_frame_error(error, tag.as_ref(), inbox)
            }
        }
    }

    /// A client waits before it sends a literal, perhaps a password: only a command that
    /// may have one and will be looked at gets its `+`.
    fn on_announced_literal(&mut self, inbox: &mut Inbox, end: usize) -> Step {
        let word = Word::of_line(inbox.unread());
        let allowed = word.is_some_and(Word::takes_literals);
        let login = word == Some(Word::Login);
        let refused = login && (self.refuses_clear() || !self.takes_passwords());
        if allowed && !refused {
            return Step::Reply(b"+ OK\r\n".to_vec());
        }
        let tag = Tag::of_line(inbox.unread());
        inbox.consume(end);
        self.framer.reset();
        match tag {
            Some(tag) if login && self.refuses_clear() => {
                self.refuse_in_clear(&tag, Some(LoginMethod::Login))
            }
            Some(tag) if refused => self.refuse_method(&tag, Some(LoginMethod::Login)),
            tag => {
                self.bad(tag.as_ref(), "No literal is expected here.", word != Some(Word::Later))
            }
        }
    }

    fn on_frame_error(&mut self, error: FrameError, tag: Option<&Tag>, inbox: &mut Inbox) -> Step {
        if let Some(end) = error.resume_at() {
            inbox.consume(end);
        }
        self.tally.over = error.bound();
        let text = match error {
            FrameError::BareLineEnd { .. } => "Lines end in CRLF.",
            FrameError::LiteralTooBig { .. } => "Literal too big.",
            FrameError::LiteralInFlight { .. } => {
                return self.close(inbox, "Literal too big.", CloseReason::LiteralTooBig);
            }
            FrameError::TooLong { .. } => {
                return self.close(inbox, "Line too long.", CloseReason::TooLong);
            }
        };
        self.bad(tag, text, true)
    }

    fn next_line(&mut self, inbox: &mut Inbox, tag: Tag, exchange: Exchange) -> Step {
        let max = exchange.mechanism().line_bytes_max();
        match self.framer.next_line(inbox.unread(), max) {
            Ok(None) => {
                self.phase = Phase::Exchange { tag, exchange };
                Step::Read
            }
            Ok(Some(end)) => {
                let line = inbox.unread().get(..end.saturating_sub(2)).unwrap_or_default();
                let message = sasl::decode_line(line);
                inbox.consume(end);
                let mechanism = exchange.mechanism();
                match message.and_then(|message| exchange.step(&message)) {
                    Ok(progress) => self.on_progress(tag, progress),
                    Err(error) => self.on_sasl_error(&tag, mechanism, error),
                }
            }
            Err(error) => self.on_frame_error(error, Some(&tag), inbox),
        }
    }

    fn encode_offer(&self, out: &mut Vec<u8>) {
        let refuses_clear = self.refuses_clear();
        let login_disabled = refuses_clear || !self.takes_passwords();
        let offered: &[Mechanism] = if refuses_clear { &[] } else { &self.settings.mechanisms };
        let mechanisms: Vec<_> = offered.iter().map(|mechanism| mechanism.name()).collect();
        let starttls = self.settings.encryption == Encryption::Offered;
        Offer { starttls, login_disabled, mechanisms: &mechanisms }.encode(out);
    }

    /// Whether the LOGIN command is taken: where a mechanism is offered that takes a password
    /// too, or none is.
    fn takes_passwords(&self) -> bool {
        let mechanisms = &self.settings.mechanisms;
        mechanisms.is_empty() || mechanisms.iter().any(|mechanism| !mechanism.is_relayed())
    }

    fn refuses_clear(&self) -> bool {
        !self.is_encrypted() && !self.settings.clear_login
    }

    fn count_failed_login(&mut self, out: &mut Vec<u8>) -> Option<CloseReason> {
        self.failed_logins = self.failed_logins.saturating_add(1);
        if self.failed_logins < self.settings.tries {
            return None;
        }
        out.extend_from_slice(b"* BYE Too many failed logins.\r\n");
        self.phase = Phase::Closed;
        Some(CloseReason::LoginTries)
    }

    fn count_syntax_error(&mut self, out: &mut Vec<u8>) -> Option<CloseReason> {
        self.syntax_errors = self.syntax_errors.saturating_add(1);
        self.tally.syntax_errors += 1;
        if self.syntax_errors < self.settings.syntax_errors {
            return None;
        }
        out.extend_from_slice(b"* BYE Too many errors.\r\n");
        self.phase = Phase::Closed;
        Some(CloseReason::SyntaxErrors)
    }

    fn login(&mut self, tag: Tag, method: LoginMethod, proof: Option<Proof>) -> Step {
        let exchange = match &proof {
            Some(Proof::Opening(opening)) => Some(opening.mechanism),
            Some(Proof::Credentials(_)) | None => None,
        };
        self.phase = Phase::LoggingIn { tag: tag.clone(), exchange };
        let asked_capability = self.asked_capability;
        Step::Login(Attempt { tag, method, proof, asked_capability })
    }
}
