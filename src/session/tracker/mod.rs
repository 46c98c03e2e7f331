//! The tracker: follows a logged-in conversation at its frame borders only.
//!
//! The relay shows it every byte of both directions. It answers which bytes go on
//! (all of them, but for commands that the proxy answers itself and capabilities
//! that are not offered), measures each command, and keeps the few facts that a
//! hand-off needs. It holds no line: at most the head of a client command
//! ([`HEAD_BYTES_MAX`]) and one capability atom of the server ([`ATOM_BYTES_MAX`]).
//!
//! Choices that are not obvious:
//! - A `+` goes to the oldest IDLE without one, then to the literal that waits: servers
//!   answer in order and a client cannot send anything behind such a literal. For this
//!   an IDLE is always known by its tag; with [`TIMED_MAX`] in flight it waits.
//! - With one tag in flight twice, the first answer is the older command's.
//! - A tag that no server can answer with passes, uncounted, but may not announce a
//!   synchronising literal; the session cannot be moved from then on.
//! - A line of one word is no command, yet servers answer it with BAD and that word as
//!   the tag, which could be taken for the answer to a command with that tag whose literal
//!   waits: the proxy answers such lines itself. Only DONE passes, so no command has it for
//!   its tag.
//! - When the server's side turns opaque, a literal that waits for its `+` goes on by
//!   count, and so does every later one: nothing hangs on an answer that is not seen.

mod arguments;
mod capabilities;
mod capture;
mod client;
mod conversation;
mod effect;
mod emit;
mod encoding;
mod error;
mod facts;
mod flight;
mod guard;
mod head;
mod inline;
mod line;
mod literal;
mod role;
mod server;
mod sink;
#[cfg(test)]
mod tests;

use client::{ClientRun, ClientSide};
use conversation::Conversation;
use emit::Emit;
use server::{ServerRun, ServerSide};

pub use effect::Selected;
pub use error::{ClientError, DecodeError};
pub use facts::{BlockReason, Facts};
pub use sink::{Event, Keeps, OpaqueReason, Sink, Status};

/// Nanoseconds of a monotonic clock that the caller reads. Where an encoded tracker
/// goes to another process, both must read the same clock (`CLOCK_MONOTONIC`).
pub type Nanos = u64;

/// Most bytes of a client line that are held back: its tag and command word.
pub const HEAD_BYTES_MAX: usize = 96;
/// Most bytes of a capability list that are held back: a blank and one atom.
pub const ATOM_BYTES_MAX: usize = 128;
/// Commands in flight that are known by tag and timed; further ones are only
/// counted, and so are later ones until those have been answered.
pub const TIMED_MAX: usize = 64;

/// What the tracker is told about its session at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Look for commands that change identity, and for COMPRESS DEFLATE, which would hide
    /// them, at line starts inside client literals.
    /// Set it where the backend lists UNAUTHENTICATE or X-UNAUTHENTICATE, or the
    /// operator says that it knows PROXYAUTH.
    pub check_literal_lines: bool,
}

/// Follows both directions of one logged-in session. Plain data: no IO, no clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracker {
    client: ClientSide,
    server: ServerSide,
    conversation: Conversation,
}

impl Tracker {
    /// A tracker for a session whose login was just answered: both sides stand at a
    /// line start, nothing is in flight.
    pub fn new(settings: Settings) -> Self {
        Self {
            client: ClientSide::new(settings.check_literal_lines),
            server: ServerSide::new(),
            conversation: Conversation::default(),
        }
    }

    /// Scans bytes from the client and returns how many were taken. Fewer than given
    /// means that the client side is blocked ([`Self::client_blocked`]): keep the rest,
    /// stop reading the client and call again (with that rest first) after
    /// [`Self::server`] or [`Self::take_answers`] made progress.
    ///
    /// # Errors
    /// The framing of the client is lost or hostile. What was passed so far may be sent
    /// on; then the session ends. The tracker must not be fed again.
    pub fn client(
        &mut self,
        input: &[u8],
        now: Nanos,
        out: &mut impl Sink,
    ) -> Result<usize, ClientError> {
        let emit = Emit::new(out);
        let (side, conversation) = (&mut self.client, &mut self.conversation);
        ClientRun { side, conversation, input, at: 0, now, emit }.run()
    }

    /// Scans bytes from the server; takes all of them. Own answers that wait are put out
    /// at the first response border.
    pub fn server(&mut self, input: &[u8], now: Nanos, filter: &impl Keeps, out: &mut impl Sink) {
        let emit = Emit::new(out);
        let side = &mut self.server;
        let (client, conversation) = (&mut self.client, &mut self.conversation);
        ServerRun { side, client, conversation, filter, input, at: 0, now, emit }.run();
    }

    /// Appends the own answers that wait to `out`, if the server stands at a response
    /// border; says whether there were any. Call it after [`Self::client`]; these bytes
    /// go to the client behind everything that came from the server so far.
    pub fn take_answers(&mut self, out: &mut Vec<u8>) -> bool {
        let due = self.answers_wait() && self.at_response_border();
        if due {
            out.append(&mut self.conversation.answers);
            self.conversation.answers = Vec::new();
        }
        due
    }

    /// Whether own answers wait for [`Self::take_answers`] or the next border.
    pub fn answers_wait(&self) -> bool {
        !self.conversation.answers.is_empty()
    }

    /// Whether bytes to the client may be inserted here: the last response is complete,
    /// none is in part, and the session is not opaque.
    pub fn at_response_border(&self) -> bool {
        self.server.at_border()
    }

    /// Whether the session could stop here without breaking a command: a response
    /// border; every command forwarded has been answered, but an IDLE whose `+` came
    /// and whose DONE has not gone by; no own answer waits; and no part of a client line
    /// has been forwarded (a head that is held back does not count: upstream has not
    /// seen it).
    pub fn at_command_border(&self) -> bool {
        let flight = &self.conversation.flight;
        self.at_response_border()
            && !self.answers_wait()
            && self.client.at_head()
            && (flight.count() == 0 || (flight.count() == 1 && self.idle()))
    }

    /// Whether an IDLE runs: its `+` came and neither DONE nor its answer went by.
    pub fn idle(&self) -> bool {
        self.conversation.flight.entries.iter().any(flight::Entry::idles)
    }

    /// Commands forwarded and not yet answered, an IDLE and untimed ones included.
    pub fn in_flight(&self) -> usize {
        self.conversation.flight.count()
    }

    /// Whether the server direction is no longer parsed.
    pub fn opaque(&self) -> bool {
        self.conversation.opaque
    }

    /// Whether the client side takes no bytes for now: a synchronising literal waits for
    /// the server's `+`, too many own answers wait for a border, or an IDLE waits for
    /// room among the commands known by tag.
    pub fn client_blocked(&self) -> bool {
        self.client.blocked(&self.conversation)
    }

    /// Whether a part of a client's line or literal has been forwarded or held back.
    pub fn client_mid_command(&self) -> bool {
        !self.client.at_head() || self.client.holds()
    }

    /// What a hand-off must know.
    pub fn facts(&self) -> &Facts {
        &self.conversation.facts
    }

    /// Why this session cannot be moved live, if so.
    pub fn blocked(&self) -> Option<BlockReason> {
        if self.opaque() { Some(BlockReason::Opaque) } else { self.conversation.facts.blocked() }
    }

    /// Appends the whole state, with its version, to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encoding::encode(self, out);
    }

    /// The tracker of such bytes.
    ///
    /// # Errors
    /// Another version, or bytes that no tracker wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        encoding::decode(bytes)
    }
}
