//! The commands that the server has not answered yet.

use crate::protocol::command_kind::CommandKind;

use super::effect::Effect;
use super::{Nanos, TIMED_MAX};

/// What stays allocated for tags and entries when nothing is in flight.
const TAG_BYTES_KEPT: usize = 32;
const ENTRIES_KEPT: usize = 2;

/// Commands in flight, oldest first. Their tags lie one behind the other in one buffer,
/// so that a command costs no allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Flight {
    pub(super) entries: Vec<Entry>,
    pub(super) tags: Vec<u8>,
    /// Commands that are only counted.
    pub(super) untimed: u64,
}

/// A command in flight that is known by its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) tag_len: u8,
    pub(super) kind: CommandKind,
    pub(super) marks: Marks,
    /// When the last byte so far went by; nothing while more is on its way.
    pub(super) sent: Option<Nanos>,
    /// When the first response line behind that began.
    pub(super) first_byte: Option<Nanos>,
    pub(super) effect: Effect,
}

/// What is yes or no of a command in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent marks, not a state")]
pub(super) struct Marks {
    /// The client has not finished sending it.
    pub(super) open: bool,
    /// Another command in flight has its tag.
    pub(super) reused: bool,
    /// No untimed command was in flight when it was sent, and none was lost since.
    pub(super) fresh: bool,
    /// IDLE: its `+` came.
    pub(super) plus: bool,
    /// IDLE: DONE went by.
    pub(super) done: bool,
}

/// Whose answer a tagged line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// The entry at that place.
    Timed(u8),
    /// One of those that are only counted.
    Untimed,
    /// A DONE that came after its IDLE had ended.
    Done,
}

impl Entry {
    /// A running IDLE: its `+` came and DONE did not go by.
    pub(super) fn idles(&self) -> bool {
        self.kind == CommandKind::Idle && self.marks.plus && !self.marks.done
    }

    /// An IDLE whose `+` has not come.
    pub(super) fn awaits_plus(&self) -> bool {
        self.kind == CommandKind::Idle && !self.marks.plus
    }
}

impl Flight {
    /// Commands in flight.
    pub(super) fn count(&self) -> usize {
        self.entries.len().saturating_add(usize::try_from(self.untimed).unwrap_or(usize::MAX))
    }

    /// Whether the next command can be known by its tag.
    pub(super) fn has_room(&self) -> bool {
        self.untimed == 0 && self.entries.len() < TIMED_MAX
    }

    /// Takes a command whose head went by; false if it is only counted.
    pub(super) fn push(&mut self, tag: &[u8], kind: CommandKind) -> bool {
        let (true, Ok(tag_len)) = (self.has_room(), u8::try_from(tag.len())) else {
            self.untimed = self.untimed.saturating_add(1);
            return false;
        };
        let reused = self.mark_reused(tag);
        let fresh = self.untimed == 0;
        let marks = Marks { open: true, reused, fresh, plus: false, done: false };
        let effect = Effect::Nothing;
        self.tags.extend_from_slice(tag);
        self.entries.push(Entry { tag_len, kind, marks, sent: None, first_byte: None, effect });
        true
    }

    fn mark_reused(&mut self, tag: &[u8]) -> bool {
        let mut reused = false;
        let mut tags = self.tags.as_slice();
        for entry in &mut self.entries {
            let (own, rest) = tags.split_at_checked(usize::from(entry.tag_len)).unwrap_or_default();
            if own == tag {
                entry.marks.reused = true;
                reused = true;
            }
            tags = rest;
        }
        reused
    }

    /// The oldest command with that tag.
    pub(super) fn find(&self, tag: &[u8]) -> Option<u8> {
        let mut tags = self.tags.as_slice();
        for (entry, place) in self.entries.iter().zip(0_u8..) {
            let (own, rest) = tags.split_at_checked(usize::from(entry.tag_len)).unwrap_or_default();
            if own == tag {
                return Some(place);
            }
            tags = rest;
        }
        None
    }

    /// The entry at that place, to be changed.
    pub(super) fn entry_mut(&mut self, place: u8) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(place))
    }

    /// Takes out the entry at that place.
    pub(super) fn remove(&mut self, place: u8) -> Option<Entry> {
        let place = usize::from(place);
        let before: usize =
            self.entries.iter().take(place).map(|entry| usize::from(entry.tag_len)).sum();
        let len = usize::from(self.entries.get(place)?.tag_len);
        self.tags.drain(before..before.saturating_add(len));
        let entry = self.entries.remove(place);
        if self.entries.is_empty() {
            self.entries.shrink_to(ENTRIES_KEPT);
            self.tags.shrink_to(TAG_BYTES_KEPT);
        }
        Some(entry)
    }

    /// The command that the client is still sending, if it is known by its tag.
    pub(super) fn open(&mut self) -> Option<&mut Entry> {
        self.entries.last_mut().filter(|entry| entry.marks.open)
    }

    /// An untagged line began at that time: it counts for the oldest command, unless that
    /// is an IDLE, is still being sent, or cannot be told.
    pub(super) fn untagged_began(&mut self, at: Nanos) {
        if self.untimed > 0 {
            return;
        }
        if let Some(entry) = self.entries.first_mut() {
            entry.began(at);
        }
    }

    /// The oldest IDLE whose `+` is awaited.
    pub(super) fn idle_without_plus(&mut self) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.awaits_plus())
    }

    /// The oldest IDLE whose DONE has not gone by.
    pub(super) fn idle_without_done(&mut self) -> Option<&mut Entry> {
        let waits = |entry: &&mut Entry| entry.kind == CommandKind::Idle && !entry.marks.done;
        self.entries.iter_mut().find(waits)
    }

    /// The oldest ENABLE.
    pub(super) fn enable(&mut self) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.kind == CommandKind::Enable)
    }

    /// A command was lost track of: no SELECT that is in flight makes that good.
    pub(super) fn went_stale(&mut self) {
        for entry in &mut self.entries {
            entry.marks.fresh = false;
        }
    }

    /// Forgets all: the answers will not be seen.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Entry {
    /// A response line that counts for this command began at that time.
    pub(super) fn began(&mut self, at: Nanos) {
        let after = self.sent.is_some_and(|sent| sent <= at);
        if after && self.first_byte.is_none() && self.kind != CommandKind::Idle {
            self.first_byte = Some(at);
        }
    }

    /// Times from the last byte sent to the end of the answer, and to its first byte.
    pub(super) fn times(&self, end: Nanos) -> (Option<Nanos>, Option<Nanos>) {
        let Some(sent) = self.sent.filter(|_| self.timed()) else {
            return (None, None);
        };
        let first = self.first_byte.map(|first| first.saturating_sub(sent));
        (Some(end.saturating_sub(sent)), first)
    }

    fn timed(&self) -> bool {
        self.kind != CommandKind::Idle && !self.marks.reused
    }
}
