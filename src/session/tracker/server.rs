//! The server's direction: what each line is, and where its literals end.

use crate::protocol::command_kind::CommandKind;

use super::capabilities::List;
use super::client::ClientSide;
use super::conversation::Conversation;
use super::effect::Effect;
use super::emit::Emit;
use super::flight::Answered;
use super::head;
use super::inline::Inline;
use super::literal::{Brace, Size};
use super::{ATOM_BYTES_MAX, Event, HEAD_BYTES_MAX, Keeps, Nanos, OpaqueReason, Sink, Status};

/// Longest second word that matters.
const WORD_BYTES_MAX: usize = 16;
/// What starts a capability list in a status response.
const CODE: &[u8] = b" [CAPABILITY";

/// Where in the server's stream the tracker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerSide {
    pub(super) phase: Phase,
    /// The line's first word, then what it turned out to be.
    pub(super) tag: Inline<HEAD_BYTES_MAX>,
    pub(super) word: Inline<WORD_BYTES_MAX>,
    pub(super) answer: Option<(Answered, Status)>,
    /// When the line began.
    pub(super) began: Nanos,
    pub(super) brace: Brace,
    /// The last byte of a data line so far was a CR.
    pub(super) cr: bool,
    /// A blank and the start of a capability, or the words of `* ENABLED`.
    pub(super) kept: Option<Box<Inline<ATOM_BYTES_MAX>>>,
}

/// What comes next from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first word of a line.
    Tag,
    /// The second word of a line.
    Word,
    /// Perhaps [`CODE`], of which so many bytes came.
    Code(u8),
    /// The rest of a status response or tagged answer.
    Text,
    /// The rest of a continuation line.
    Continuation,
    /// The rest of a line that may announce a literal.
    Data,
    /// So many more bytes of a literal.
    Literal(u64),
    /// A capability list, up to the line's end or to `]`.
    Capabilities(List),
    /// The words of `* ENABLED`.
    Enabled,
    /// Anything; it is not looked at.
    Opaque,
}

impl ServerSide {
    /// At a line start.
    pub(super) const fn new() -> Self {
        Self {
            phase: Phase::Tag,
            tag: Inline::new(),
            word: Inline::new(),
            answer: None,
            began: 0,
            brace: Brace::Nothing,
            cr: false,
            kept: None,
        }
    }

    /// Whether the last response is complete and no other has begun.
    pub(super) fn at_border(&self) -> bool {
        self.phase == Phase::Tag && self.tag.is_empty()
    }
}

/// One read of the server's bytes.
pub(super) struct ServerRun<'r, 's, S: Sink, K: Keeps> {
    pub(super) side: &'r mut ServerSide,
    pub(super) client: &'r mut ClientSide,
    pub(super) conversation: &'r mut Conversation,
    pub(super) filter: &'r K,
    pub(super) input: &'r [u8],
    pub(super) at: usize,
    pub(super) now: Nanos,
    pub(super) emit: Emit<'s, S>,
}

impl<S: Sink, K: Keeps> ServerRun<'_, '_, S, K> {
    /// Scans all of the input.
    pub(super) fn run(mut self) {
        self.answer_at_border();
        while self.at < self.input.len() {
            match self.side.phase {
                Phase::Tag => self.tag(),
                Phase::Word => self.word(),
                Phase::Code(matched) => self.code(matched),
                Phase::Text | Phase::Continuation => self.text(),
                Phase::Data => self.data(),
                Phase::Literal(left) => self.literal(left),
                Phase::Capabilities(list) => self.capabilities(list),
                Phase::Enabled => self.enabled(),
                Phase::Opaque => self.take(self.input.len()),
            }
        }
        self.emit.flush();
    }

    /// Passes the next `len` bytes, or as many as are there.
    pub(super) fn take(&mut self, len: usize) {
        let to = self.at.saturating_add(len).min(self.input.len());
        self.emit.pass(self.at, to);
        self.at = to;
    }

    fn tag(&mut self) {
        let input = self.input;
        let rest = input.get(self.at..).unwrap_or_default();
        if self.side.tag.is_empty() {
            self.side.began = self.now;
            if rest.first() == Some(&b'+') {
                self.side.phase = Phase::Continuation;
                return;
            }
        }
        let (text, end) = first_word(rest, HEAD_BYTES_MAX);
        if self.side.tag.extend(text) < text.len() {
            return self.turn_opaque(OpaqueReason::UnreadableLine);
        }
        self.take(text.len());
        match end {
            None => {}
            Some(b' ') if self.untagged() || head::valid_tag(self.side.tag.as_slice()) => {
                self.take(1);
                self.side.phase = Phase::Word;
            }
            Some(_) => self.turn_opaque(OpaqueReason::UnreadableLine),
        }
    }

    fn untagged(&self) -> bool {
        self.side.tag.as_slice() == b"*"
    }

    fn word(&mut self) {
        let input = self.input;
        let (text, end) = first_word(input.get(self.at..).unwrap_or_default(), WORD_BYTES_MAX);
        let taken = self.side.word.extend(text);
        self.take(taken);
        if end.is_some() || taken < text.len() {
            if self.untagged() {
                self.untagged_line(taken < text.len());
            } else {
                self.tagged_line();
            }
        }
    }

    fn untagged_line(&mut self, long: bool) {
        self.conversation.flight.untagged_began(self.side.began);
        let word = self.side.word.as_slice();
        let is = |known: &str| !long && known.as_bytes().eq_ignore_ascii_case(word);
        self.side.phase = if is("OK") {
            Phase::Code(0)
        } else if is("BYE") {
            self.emit.event(Event::ServerBye);
            Phase::Text
        } else if is("NO") || is("BAD") || is("PREAUTH") {
            Phase::Text
        } else if is("CAPABILITY") {
            Phase::Capabilities(List { code: false, passing: false })
        } else if is("ENABLED") {
            Phase::Enabled
        } else {
            self.side.brace.feed(word);
            Phase::Data
        };
    }

    fn tagged_line(&mut self) {
        let status = match self.side.word.as_slice() {
            word if word.eq_ignore_ascii_case(b"OK") => Status::Ok,
            word if word.eq_ignore_ascii_case(b"NO") => Status::No,
            word if word.eq_ignore_ascii_case(b"BAD") => Status::Bad,
            _ => return self.turn_opaque(OpaqueReason::UnreadableLine),
        };
        let Some(answered) = self.whose(status) else {
            return self.turn_opaque(OpaqueReason::UnknownTag);
        };
        if let Answered::Timed(place) = answered
            && let Some(entry) = self.conversation.flight.entry_mut(place)
        {
            entry.began(self.side.began);
        }
        self.side.answer = Some((answered, status));
        self.side.phase = if status == Status::Ok { Phase::Code(0) } else { Phase::Text };
    }

    fn whose(&self, status: Status) -> Option<Answered> {
        let flight = &self.conversation.flight;
        let tag = self.side.tag.as_slice();
        match flight.find(tag) {
            Some(place) => Some(Answered::Timed(place)),
            // No command has this tag.
            None if head::is_done(tag) => (status == Status::Bad).then_some(Answered::Done),
            None => (flight.untimed > 0).then_some(Answered::Untimed),
        }
    }

    fn code(&mut self, matched: u8) {
        let byte = self.input.get(self.at).copied().unwrap_or_default();
        self.side.phase = match CODE.get(usize::from(matched)) {
            Some(wanted) if wanted.eq_ignore_ascii_case(&byte) => {
                self.take(1);
                Phase::Code(matched.saturating_add(1))
            }
            None if byte == b' ' => Phase::Capabilities(List { code: true, passing: false }),
            _ => Phase::Text,
        };
    }

    fn text(&mut self) {
        let rest = self.input.get(self.at..).unwrap_or_default();
        match memchr::memchr(b'\n', rest) {
            None => self.take(rest.len()),
            Some(end) => self.line_end(end),
        }
    }

    fn data(&mut self) {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest);
        let mut text = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if self.side.cr && !text.is_empty() {
            // That CR was no line end.
            self.side.brace = Brace::Nothing;
            self.side.cr = false;
        }
        if let Some(before) = text.strip_suffix(b"\r") {
            self.side.cr = true;
            text = before;
        }
        if end.is_some() && text.last().is_some_and(|last| *last != b'}') {
            self.side.brace = Brace::Nothing;
        } else {
            self.side.brace.feed(text);
        }
        match end {
            None => self.take(rest.len()),
            Some(end) => self.data_end(end),
        }
    }

    fn data_end(&mut self, end: usize) {
        let crlf = std::mem::take(&mut self.side.cr);
        match std::mem::take(&mut self.side.brace).announced() {
            None | Some((Size::Missing, _)) => self.line_end(end),
            Some((Size::Bytes(bytes), false)) if crlf => {
                self.take(end.saturating_add(1));
                self.side.phase = if bytes == 0 { Phase::Data } else { Phase::Literal(bytes) };
            }
            Some(_) => self.turn_opaque(OpaqueReason::BadLiteral),
        }
    }

    fn literal(&mut self, left: u64) {
        let here = self.input.len().saturating_sub(self.at);
        let len = usize::try_from(left).map_or(here, |left| left.min(here));
        self.take(len);
        let left = left.saturating_sub(u64::try_from(len).unwrap_or(left));
        self.side.phase = if left == 0 { Phase::Data } else { Phase::Literal(left) };
    }

    fn enabled(&mut self) {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest);
        let text = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let kept = self.side.kept.get_or_insert_with(|| Box::new(Inline::new()));
        kept.extend(text);
        match end {
            None => self.take(rest.len()),
            Some(end) => {
                self.enabled_end();
                self.line_end(end);
            }
        }
    }

    fn enabled_end(&mut self) {
        let kept = self.side.kept.take();
        let (Some(words), Some(entry)) = (kept, self.conversation.flight.enable()) else {
            return;
        };
        let cut = words.len() >= ATOM_BYTES_MAX;
        let text = words.as_slice().trim_ascii();
        entry.effect = match std::mem::replace(&mut entry.effect, Effect::Nothing) {
            Effect::Enable(mut known) if !cut && known.len() < ATOM_BYTES_MAX => {
                known.push(b' ');
                known.extend_from_slice(text);
                Effect::Enable(known)
            }
            _ => Effect::EnableCut,
        };
    }

    /// The line's LF stands `end` bytes on.
    fn line_end(&mut self, end: usize) {
        self.take(end.saturating_add(1));
        let phase = std::mem::replace(&mut self.side.phase, Phase::Tag);
        if phase == Phase::Continuation {
            self.continued();
        }
        if let Some((answered, status)) = self.side.answer.take() {
            self.finished(answered, status);
        }
        self.side.tag.clear();
        self.side.word.clear();
        self.answer_at_border();
    }

    fn answer_at_border(&mut self) {
        if self.side.at_border() && !self.conversation.answers.is_empty() {
            self.emit.insert(&self.conversation.answers);
            self.conversation.answers = Vec::new();
        }
    }

    /// A `+` belongs to the oldest IDLE that has none, for servers answer in order; only
    /// then to the literal that waits, which is always the newest.
    fn continued(&mut self) {
        if let Some(idle) = self.conversation.flight.idle_without_plus() {
            idle.marks.plus = true;
            if idle.idles() {
                self.emit.event(Event::IdleStarted);
            }
            return;
        }
        if let Some(entry) = self.conversation.flight.open() {
            entry.sent = None;
            entry.first_byte = None;
        }
        self.client.resume();
    }

    fn finished(&mut self, answered: Answered, status: Status) {
        let (kind, times) = match answered {
            Answered::Done => return,
            Answered::Untimed => {
                let untimed = &mut self.conversation.flight.untimed;
                *untimed = untimed.saturating_sub(1);
                if self.client.waits_untimed(self.side.tag.as_slice()) {
                    self.client.refused();
                }
                (CommandKind::Other, (None, None))
            }
            Answered::Timed(place) => {
                let Some(entry) = self.conversation.flight.remove(place) else {
                    return;
                };
                if entry.idles() {
                    self.emit.event(Event::IdleEnded);
                }
                if entry.marks.open {
                    self.client.refused();
                }
                let told = (entry.kind, entry.times(self.now));
                if entry.marks.reused {
                    self.conversation.lose(&entry.effect);
                } else {
                    self.conversation.facts.answered(entry.effect, status, entry.marks.fresh);
                }
                told
            }
        };
        let (elapsed, first_byte) = times;
        self.emit.event(Event::Finished { kind, status, elapsed, first_byte });
    }

    fn turn_opaque(&mut self, reason: OpaqueReason) {
        if self.conversation.flight.entries.iter().any(super::flight::Entry::idles) {
            self.emit.event(Event::IdleEnded);
        }
        let answer_lost = !self.conversation.answers.is_empty();
        self.emit.event(Event::TurnedOpaque { reason, answer_lost });
        self.conversation.opaque = true;
        self.conversation.answers = Vec::new();
        self.conversation.flight.clear();
        *self.side = ServerSide { phase: Phase::Opaque, ..ServerSide::new() };
        // Whether the server wants the literal cannot be seen any more. Were it held, the
        // session would hang; so it goes on by count.
        self.client.resume();
    }
}

/// The first word, as far as it is there and at most one byte longer than `bytes_max`,
/// and the byte that ended it.
fn first_word(rest: &[u8], bytes_max: usize) -> (&[u8], Option<u8>) {
    let window = rest.get(..bytes_max.saturating_add(1)).unwrap_or(rest);
    let end = window.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    let word = window.get(..end.unwrap_or(window.len())).unwrap_or_default();
    (word, end.and_then(|end| window.get(end)).copied())
}
