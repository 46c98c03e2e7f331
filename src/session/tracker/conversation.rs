//! What both directions know of.

use super::effect::Effect;
use super::facts::Facts;
use super::flight::Flight;

/// The shared part of a tracker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Conversation {
    pub(super) flight: Flight,
    pub(super) facts: Facts,
    /// Own answers that wait for a response border.
    pub(super) answers: Vec<u8>,
    /// The server direction is no longer parsed.
    pub(super) opaque: bool,
}

impl Conversation {
    /// A command with that effect cannot be followed to its answer. No SELECT that is
    /// already in flight makes that good.
    pub(super) fn lose(&mut self, effect: &Effect) {
        if *effect != Effect::Nothing {
            self.facts.lose(effect);
            self.flight.went_stale();
        }
    }
}
