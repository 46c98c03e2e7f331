//! Takes out of capability lists what the client is not to see, one atom at a time.

use super::inline::Inline;
use super::server::{Phase, ServerRun};
use super::{Keeps, Sink};

/// A capability list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    /// It stands in a response code.
    pub(super) code: bool,
    /// The atom is too long to be judged and goes by.
    pub(super) passing: bool,
}

impl<S: Sink, K: Keeps> ServerRun<'_, '_, S, K> {
    /// Judges the atoms of a capability list one by one, each with the blank before it.
    pub(super) fn capabilities(&mut self, list: List) {
        let input = self.input;
        let rest = input.get(self.at..).unwrap_or_default();
        let ends = |byte: &u8| matches!(byte, b' ' | b'\r' | b'\n') || (list.code && *byte == b']');
        let begins = self.side.kept.is_none() && !list.passing;
        if begins && rest.first() != Some(&b' ') {
            self.side.phase = Phase::Text;
            return;
        }
        let skip = usize::from(begins);
        let behind = rest.get(skip..).unwrap_or_default();
        let end = behind.iter().position(ends).map(|end| end.saturating_add(skip));
        let piece = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if list.passing {
            self.take(piece.len());
        } else {
            self.piece(piece, end.is_some(), list);
        }
        if end.is_some() {
            self.side.phase = Phase::Capabilities(List { passing: false, ..list });
        }
    }

    fn piece(&mut self, piece: &[u8], complete: bool, list: List) {
        let mut kept = self.side.kept.take().map_or_else(Inline::new, |kept| *kept);
        let before = kept;
        if kept.extend(piece) < piece.len() {
            self.emit.insert(before.as_slice());
            self.take(piece.len());
            self.side.phase = Phase::Capabilities(List { passing: true, ..list });
        } else if !complete {
            self.at = self.at.saturating_add(piece.len());
            self.side.kept = Some(Box::new(kept));
        } else {
            let atom = kept.as_slice().trim_ascii_start();
            if atom.is_empty() || self.filter.keeps(atom) {
                self.emit.insert(before.as_slice());
                self.take(piece.len());
            } else {
                self.at = self.at.saturating_add(piece.len());
            }
        }
    }
}
