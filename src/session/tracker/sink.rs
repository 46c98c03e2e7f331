//! What the tracker tells its caller, and what it asks.

use std::ops::Range;

use crate::protocol::command_kind::CommandKind;

use super::Nanos;

/// Where the tracker's verdicts go. Calls come in the order of the output; ranges are
/// of the input of the running call and adjacent ones have been merged, so that a read
/// without anything special is one `pass(0..n)`.
pub trait Sink {
    /// These bytes of the input go on unchanged.
    fn pass(&mut self, range: Range<usize>);
    /// These bytes go on: held back earlier and released now, or the proxy's own answer.
    fn insert(&mut self, bytes: &[u8]);
    /// Something happened. An event may come before the `pass` of the bytes that caused
    /// it; events keep their order among themselves.
    fn event(&mut self, event: Event);
}

/// Which capabilities the client is to see.
pub trait Keeps {
    /// Whether the atom (as spelled, e.g. `COMPRESS=DEFLATE`) stays in the list.
    fn keeps(&self, atom: &[u8]) -> bool;
}

impl<F: Fn(&[u8]) -> bool> Keeps for F {
    fn keeps(&self, atom: &[u8]) -> bool {
        self(atom)
    }
}

/// How the server ended a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// `OK`
    Ok,
    /// `NO`
    No,
    /// `BAD`
    Bad,
}

impl Status {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::No => "no",
            Self::Bad => "bad",
        }
    }
}

/// Why the server direction is no longer parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpaqueReason {
    /// A line that starts with neither `*`, `+` nor a tag, or a tag without a status.
    UnreadableLine,
    /// A tagged answer to no command that is in flight.
    UnknownTag,
    /// A literal that cannot be taken by count: too large, `{n+}`, or before a bare LF.
    BadLiteral,
}

impl OpaqueReason {
    /// The reason for metrics and logs, from a closed set.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::UnreadableLine => "unreadable-line",
            Self::UnknownTag => "unknown-tag",
            Self::BadLiteral => "bad-literal",
        }
    }
}

/// What the caller may want to count, time or show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A command was answered by the server.
    Finished {
        /// The command; `Other` for one that was only counted (see [`super::TIMED_MAX`]).
        kind: CommandKind,
        /// The server's verdict.
        status: Status,
        /// From the last byte of the command to the end of the tagged answer's line.
        /// `None` for IDLE, a reused tag, an untimed command, and where the answer
        /// came before the command was complete.
        elapsed: Option<Nanos>,
        /// From the last byte of the command to the first byte of the first response
        /// line after it: an untagged line counts for the oldest unfinished command,
        /// a tagged one for its own. `None` where `elapsed` is.
        first_byte: Option<Nanos>,
    },
    /// The proxy itself answered a forbidden command with a tagged BAD.
    Refused,
    /// The proxy itself answered a line of one word with BAD.
    NoCommand,
    /// The server's `+` to IDLE came.
    IdleStarted,
    /// DONE went by, or the IDLE was answered. Follows each [`Self::IdleStarted`].
    IdleEnded,
    /// The server said `* BYE`.
    ServerBye,
    /// The server direction is no longer parsed, for good.
    TurnedOpaque {
        /// What broke the framing.
        reason: OpaqueReason,
        /// An answer of the proxy's own was waiting for a border that will not come
        /// any more: the caller must close the session, or the client hangs.
        answer_lost: bool,
    },
}
