//! Merges adjacent ranges on their way to the sink.

use super::{Event, Sink};

/// Collects what passes, so that the sink sees one range where it can.
pub(super) struct Emit<'s, S: Sink> {
    sink: &'s mut S,
    from: usize,
    to: usize,
}

impl<'s, S: Sink> Emit<'s, S> {
    /// Nothing collected yet.
    pub(super) fn new(sink: &'s mut S) -> Self {
        Self { sink, from: 0, to: 0 }
    }

    /// The input's bytes from `from` to `to` go on.
    pub(super) fn pass(&mut self, from: usize, to: usize) {
        if from != self.to {
            self.flush();
            self.from = from;
        }
        self.to = to;
    }

    /// Bytes that are not of this input go on, behind all that passed.
    pub(super) fn insert(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.flush();
            self.sink.insert(bytes);
        }
    }

    /// Tells the sink of an event.
    pub(super) fn event(&mut self, event: Event) {
        self.sink.event(event);
    }

    /// Hands over what is collected.
    pub(super) fn flush(&mut self) {
        if self.from < self.to {
            self.sink.pass(self.from..self.to);
        }
        self.from = self.to;
    }
}
