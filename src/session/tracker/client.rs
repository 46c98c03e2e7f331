//! The client's direction: heads, lines and literals.

use crate::protocol::command_kind::CommandKind;

use super::capture::Capture;
use super::conversation::Conversation;
use super::emit::Emit;
use super::guard::Guard;
use super::head::{self, Head};
use super::inline::Inline;
use super::line::{Announced, Fault, Line, Scan};
use super::role::Role;
use super::{ClientError, Event, HEAD_BYTES_MAX, Nanos, Sink};

/// Own answers may wait up to this size before the client is stopped.
const ANSWERS_BYTES_MAX: usize = 4096;
/// The proxy's answer to a command that it does not forward.
const REFUSAL: &[u8] = b" BAD Command not available after login.\r\n";
/// The proxy's answer to a line of one word.
const NO_COMMAND: &[u8] = b" BAD Command missing.\r\n";

/// Where in the client's stream the tracker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientSide {
    pub(super) phase: Phase,
    pub(super) sort: Sort,
    pub(super) line: Line,
    pub(super) guard: Guard,
    /// In [`Phase::Head`] what is held back; later the tag, where it is still needed.
    pub(super) held: Inline<HEAD_BYTES_MAX>,
    pub(super) capture: Capture,
    /// The server's `+` for the literal of the running line came before the line's end:
    /// Dovecot sends it behind the brace.
    pub(super) early: bool,
    pub(super) stall: Stall,
    pub(super) check_literal_lines: bool,
}

/// What comes next from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first words of a line.
    Head,
    /// The rest of a line, or what follows a literal on it.
    Line,
    /// So many more bytes of a literal.
    Literal(u64),
    /// A literal of that size, once the server's `+` came.
    Waiting(u64),
}

/// What the line, with its literals, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// No word at all; or, where answers are not seen any more, one.
    Empty,
    /// One word: no command. It is swallowed, or the server's answer to it could be taken for
    /// that to a command with this tag.
    Lone,
    /// The word DONE.
    Done,
    /// A command that is swallowed.
    Forbidden,
    /// A command that is forwarded but not counted: its tag is odd, or answers are not seen.
    Uncounted,
    /// A command that is only counted.
    Untimed,
    /// A command known by its tag.
    Timed,
}

impl Sort {
    /// Whether the server gets nothing of it: the proxy answers.
    const fn is_swallowed(self) -> bool {
        matches!(self, Self::Lone | Self::Forbidden)
    }
}

/// Why the start of a line was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    /// It was.
    Nothing,
    /// Too many own answers wait for a border.
    Answers,
    /// An IDLE waits until it can be known by its tag: else its `+` could be mistaken.
    Room,
    /// The end of a line that announces a literal waits until the answer to its tag can be
    /// no other command's: else what the client sends for the literal could be mistaken for
    /// a line, or a line for the literal.
    Others,
}

impl ClientSide {
    /// At a line start.
    pub(super) fn new(check_literal_lines: bool) -> Self {
        Self {
            phase: Phase::Head,
            sort: Sort::Empty,
            line: Line::default(),
            guard: Guard::Off,
            held: Inline::new(),
            capture: Capture::new(),
            early: false,
            stall: Stall::Nothing,
            check_literal_lines,
        }
    }

    /// Whether no byte is taken until the server does something.
    pub(super) fn blocked(&self, conversation: &Conversation) -> bool {
        match self.stall {
            _ if matches!(self.phase, Phase::Waiting(_)) => true,
            _ if conversation.opaque => false,
            Stall::Nothing => false,
            Stall::Answers => conversation.answers.len() >= ANSWERS_BYTES_MAX,
            Stall::Room => !conversation.flight.has_room(),
            Stall::Others => self.is_mistakable(conversation),
        }
    }

    /// Whether the answer to another command could be taken for the one to this, which is
    /// only counted. No timed one begins while others are only counted.
    fn is_mistakable(&self, conversation: &Conversation) -> bool {
        self.sort == Sort::Untimed && conversation.flight.count() > 1
    }

    /// Whether no byte of the running line has been taken but what is held back.
    pub(super) fn at_head(&self) -> bool {
        self.phase == Phase::Head
    }

    /// Whether the head of a line is held back.
    pub(super) fn holds(&self) -> bool {
        self.phase == Phase::Head && !self.held.is_empty()
    }

    /// The server's `+` came, or will never be seen: the literal may be sent.
    pub(super) fn resume(&mut self) {
        match self.phase {
            Phase::Waiting(bytes) => self.start_literal(bytes),
            Phase::Line => self.early = self.line.announces() && !self.sort.is_swallowed(),
            Phase::Head | Phase::Literal(_) => {}
        }
    }

    /// The server refused the command whose literal waits: a new line comes instead.
    pub(super) fn refused(&mut self) {
        if matches!(self.phase, Phase::Waiting(_)) {
            self.capture.finish();
            self.line_start();
        }
    }

    /// Whether the literal of the command with that tag, an untimed one, waits.
    pub(super) fn waits_untimed(&self, tag: &[u8]) -> bool {
        matches!(self.phase, Phase::Waiting(_))
            && self.sort == Sort::Untimed
            && self.held.as_slice() == tag
    }

    fn start_literal(&mut self, bytes: u64) {
        self.phase = if bytes == 0 { Phase::Line } else { Phase::Literal(bytes) };
        if self.check_literal_lines && !self.sort.is_swallowed() {
            self.guard = Guard::Start;
        }
    }

    fn line_start(&mut self) {
        self.phase = Phase::Head;
        self.sort = Sort::Empty;
        self.guard = Guard::Off;
        self.early = false;
        self.held.clear();
    }
}

/// One read of the client's bytes.
pub(super) struct ClientRun<'r, 's, S: Sink> {
    pub(super) side: &'r mut ClientSide,
    pub(super) conversation: &'r mut Conversation,
    pub(super) input: &'r [u8],
    pub(super) at: usize,
    pub(super) now: Nanos,
    pub(super) emit: Emit<'s, S>,
}

impl<S: Sink> ClientRun<'_, '_, S> {
    /// Scans until the input is used up or the client is blocked; the bytes taken.
    pub(super) fn run(mut self) -> Result<usize, ClientError> {
        let result = self.steps();
        self.emit.flush();
        result.map(|()| self.at)
    }

    fn steps(&mut self) -> Result<(), ClientError> {
        self.side.stall = Stall::Nothing;
        while self.at < self.input.len() {
            match self.side.phase {
                Phase::Head => self.head()?,
                Phase::Line => self.line()?,
                Phase::Literal(left) => self.literal(left)?,
                Phase::Waiting(_) => return Ok(()),
            }
            if self.side.stall != Stall::Nothing {
                return Ok(());
            }
        }
        Ok(())
    }

    fn head(&mut self) -> Result<(), ClientError> {
        if self.conversation.answers.len() >= ANSWERS_BYTES_MAX && !self.conversation.opaque {
            self.side.stall = Stall::Answers;
            return Ok(());
        }
        let input = self.input;
        let rest = input.get(self.at..).unwrap_or_default();
        let mut joined = self.side.held;
        let line = if joined.is_empty() {
            rest.get(..HEAD_BYTES_MAX).unwrap_or(rest)
        } else {
            joined.extend(rest);
            joined.as_slice()
        };
        match head::parse(line)? {
            Head::Incomplete => {
                self.side.held.extend(rest);
                self.at = self.input.len();
            }
            Head::Lone(len) => self.lone(line.get(..len).unwrap_or_default()),
            Head::Command { tag_len, word } => {
                let tag = line.get(..tag_len).unwrap_or_default();
                let len = word.end;
                self.command(tag, line.get(word).unwrap_or_default(), len)?;
            }
        }
        Ok(())
    }

    fn lone(&mut self, word: &[u8]) {
        self.side.sort = match word {
            b"" => Sort::Empty,
            _ if head::is_done(word) => Sort::Done,
            _ if self.conversation.opaque => Sort::Empty,
            _ => Sort::Lone,
        };
        self.side.line.brace.feed(word);
        // The blank behind the word, where it was held back with it.
        let held = self.side.held;
        self.side.line.brace.feed(held.as_slice().get(word.len()..).unwrap_or_default());
        self.side.capture.start(CommandKind::Other, Role::Plain);
        self.release(word.len());
        self.keep_tag(word);
    }

    fn command(&mut self, tag: &[u8], word: &[u8], len: usize) -> Result<(), ClientError> {
        let (kind, role) = Role::of(word);
        if head::forbidden(word) || head::is_done(tag) {
            if self.conversation.opaque {
                return Err(ClientError::ForbiddenWhileOpaque);
            }
            self.side.sort = Sort::Forbidden;
        } else if self.conversation.opaque {
            self.side.sort = Sort::Uncounted;
        } else if !head::valid_tag(tag) {
            self.conversation.facts.flags.odd_tag = true;
            self.side.sort = Sort::Uncounted;
        } else if role == Role::Idle && !self.conversation.flight.has_room() {
            self.side.stall = Stall::Room;
            self.hold(len);
            return Ok(());
        } else if self.conversation.flight.push(tag, kind) {
            self.side.sort = Sort::Timed;
        } else {
            self.side.sort = Sort::Untimed;
        }
        self.side.line.feed(word);
        self.side.capture.start(kind, role);
        self.release(len);
        self.keep_tag(tag);
        Ok(())
    }

    /// Keeps the tag of what the proxy answers, or of what is only counted, until the line's
    /// end.
    fn keep_tag(&mut self, tag: &[u8]) {
        if self.side.sort.is_swallowed() || self.side.sort == Sort::Untimed {
            self.side.held.extend(tag);
        }
    }

    /// Holds back the whole head of `len` bytes, of which some may have been already: what is
    /// held does not depend on how the bytes came.
    fn hold(&mut self, len: usize) {
        let fresh = len.saturating_sub(self.side.held.len());
        let to = self.at.saturating_add(fresh);
        self.side.held.extend(self.input.get(self.at..to).unwrap_or_default());
        self.at = to;
    }

    /// Sends on the head of `len` bytes, of which some may have been held back.
    fn release(&mut self, len: usize) {
        let fresh = len.saturating_sub(self.side.held.len());
        if !self.side.sort.is_swallowed() {
            self.emit.insert(self.side.held.as_slice());
            self.emit.pass(self.at, self.at.saturating_add(fresh));
        }
        self.at = self.at.saturating_add(fresh);
        self.side.held.clear();
        self.side.phase = Phase::Line;
    }

    /// Takes the next `len` bytes, which stay together with what the line is.
    fn take(&mut self, len: usize) -> Result<(), ClientError> {
        let to = self.at.saturating_add(len);
        let bytes = self.input.get(self.at..to).unwrap_or_default();
        if !self.side.sort.is_swallowed() {
            if let Some(found) = self.side.guard.find(bytes) {
                self.emit.pass(self.at, self.at.saturating_add(found));
                return Err(ClientError::IdentityInLiteral);
            }
            self.side.capture.take(bytes);
            self.emit.pass(self.at, to);
        }
        self.at = to;
        Ok(())
    }

    fn literal(&mut self, left: u64) -> Result<(), ClientError> {
        let here = self.input.len().saturating_sub(self.at);
        let len = usize::try_from(left).map_or(here, |left| left.min(here));
        self.take(len)?;
        let left = left.saturating_sub(u64::try_from(len).unwrap_or(left));
        self.side.phase = if left == 0 { Phase::Line } else { Phase::Literal(left) };
        Ok(())
    }

    fn line(&mut self) -> Result<(), ClientError> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        // Only the line's end may follow what an early `+` was for.
        self.side.early &= matches!(rest, [] | [b'\r' | b'\n', ..]);
        let before = self.side.line;
        let scanned = self.side.line.scan(rest).and_then(|scan| self.accepts(scan));
        match scanned {
            Ok(Scan::End { len, literal: Some(literal) }) if self.must_wait(literal) => {
                self.side.line = before;
                self.side.stall = Stall::Others;
                self.all_but_the_end(rest.get(..len.saturating_sub(1)).unwrap_or_default())
            }
            Err(Fault { at, error }) => {
                self.take(at)?;
                Err(error)
            }
            Ok(Scan::More) => self.take(rest.len()),
            Ok(Scan::End { len, literal }) => {
                self.take(len)?;
                match literal {
                    None => self.line_end(),
                    Some(literal) => self.announced(literal),
                }
            }
        }
    }

    /// Whether the server may be asked for this literal only later.
    fn must_wait(&self, literal: Announced) -> bool {
        literal.synchronising
            && !self.conversation.opaque
            && self.side.is_mistakable(self.conversation)
    }

    /// Takes the line without its LF, as it would have been taken byte by byte.
    fn all_but_the_end(&mut self, text: &[u8]) -> Result<(), ClientError> {
        match self.side.line.scan(text) {
            Ok(_) => self.take(text.len()),
            Err(Fault { at, error }) => {
                self.take(at)?;
                Err(error)
            }
        }
    }

    /// A literal is followed only where its command is.
    fn accepts(&self, scan: Scan) -> Result<Scan, Fault> {
        let Scan::End { len, literal: Some(literal) } = scan else {
            return Ok(scan);
        };
        let error = match self.side.sort {
            Sort::Empty | Sort::Lone | Sort::Done => ClientError::LiteralWithoutCommand,
            Sort::Uncounted if literal.synchronising && !self.conversation.opaque => {
                ClientError::LiteralWithOddTag
            }
            _ => return Ok(scan),
        };
        Err(Fault { at: len.saturating_sub(1), error })
    }

    fn announced(&mut self, literal: Announced) -> Result<(), ClientError> {
        if self.side.sort == Sort::Forbidden {
            if literal.synchronising {
                return self.refuse();
            }
            self.side.start_literal(literal.bytes);
            return Ok(());
        }
        let early = std::mem::take(&mut self.side.early);
        let waits = literal.synchronising && !self.conversation.opaque && !early;
        if self.side.sort == Sort::Timed
            && let Some(entry) = self.conversation.flight.open()
        {
            entry.kind = self.side.capture.kind();
            entry.sent = waits.then_some(self.now);
        }
        if waits {
            self.side.phase = Phase::Waiting(literal.bytes);
            if self.already_answered() {
                // The refusal overtook the line's end; no `+` will come.
                self.side.refused();
            }
        } else {
            self.side.start_literal(literal.bytes);
        }
        Ok(())
    }

    /// Whether the server answered this command before it was complete.
    fn already_answered(&mut self) -> bool {
        self.side.sort == Sort::Timed && self.conversation.flight.open().is_none()
    }

    fn line_end(&mut self) -> Result<(), ClientError> {
        match self.side.sort {
            Sort::Empty => {}
            Sort::Done => self.done(),
            Sort::Lone | Sort::Forbidden => return self.refuse(),
            Sort::Uncounted | Sort::Untimed | Sort::Timed => self.command_end(),
        }
        self.side.line_start();
        Ok(())
    }

    fn command_end(&mut self) {
        let kind = self.side.capture.kind();
        let effect = self.side.capture.finish();
        match self.side.sort {
            Sort::Timed => {
                if let Some(entry) = self.conversation.flight.open() {
                    entry.kind = kind;
                    entry.effect = effect;
                    entry.sent = Some(self.now);
                    entry.marks.open = false;
                }
            }
            Sort::Untimed => {
                self.conversation.lose(&effect);
            }
            _ => {}
        }
    }

    fn done(&mut self) {
        let Some(idle) = self.conversation.flight.idle_without_done() else {
            return;
        };
        let ran = idle.idles();
        idle.marks.done = true;
        if ran {
            self.emit.event(Event::IdleEnded);
        }
    }

    /// Answers a line that the server got nothing of.
    fn refuse(&mut self) -> Result<(), ClientError> {
        if self.conversation.opaque {
            // Since its head went by: no border for the answer will be known.
            return Err(ClientError::ForbiddenWhileOpaque);
        }
        let (answer, event) = match self.side.sort {
            Sort::Lone => (NO_COMMAND, Event::NoCommand),
            _ => (REFUSAL, Event::Refused),
        };
        let tag = self.side.held.as_slice();
        let tag = if head::valid_tag(tag) { tag } else { b"*" };
        self.conversation.answers.extend_from_slice(tag);
        self.conversation.answers.extend_from_slice(answer);
        self.emit.event(event);
        self.side.capture.finish();
        self.side.line_start();
        Ok(())
    }
}
