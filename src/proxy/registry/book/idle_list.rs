//! A list through the entries that have no open session, oldest first.

use slab::Slab;

use super::Entry;

/// An entry's neighbours on the list it is on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Links {
    previous: Option<usize>,
    next: Option<usize>,
}

/// Ends of a list whose links lie in the entries, so that any entry leaves in one step.
#[derive(Debug, Default)]
pub(super) struct IdleList {
    first: Option<usize>,
    last: Option<usize>,
    len: usize,
}

impl IdleList {
    /// The oldest entry.
    pub(super) const fn first(&self) -> Option<usize> {
        self.first
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Puts an entry that is on no list at the end.
    pub(super) fn push(&mut self, entries: &mut Slab<Entry>, key: usize) {
        if let Some(entry) = entries.get_mut(key) {
            entry.links = Links { previous: self.last, next: None };
        }
        match self.last.and_then(|last| entries.get_mut(last)) {
            Some(last) => last.links.next = Some(key),
            None => self.first = Some(key),
        }
        self.last = Some(key);
        self.len += 1;
    }

    /// Takes out an entry that is on this list.
    pub(super) fn unlink(&mut self, entries: &mut Slab<Entry>, key: usize) {
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        let Links { previous, next } = std::mem::take(&mut entry.links);
        match previous.and_then(|previous| entries.get_mut(previous)) {
            Some(previous) => previous.links.next = next,
            None => self.first = next,
        }
        match next.and_then(|next| entries.get_mut(next)) {
            Some(next) => next.links.previous = previous,
            None => self.last = previous,
        }
        self.len -= 1;
    }
}
