//! When a client whose backend is gone is let go: at once, or a little later where the
//! backend cut a whole herd off.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::cuts::Cuts;

/// A client's end, as its backend decides it.
#[derive(Debug)]
pub struct Parting {
    cuts: Arc<Cuts>,
    spread: Duration,
    at: Option<Instant>,
}

impl Parting {
    /// For a session on the backend that has these cuts; herds are let go over `spread`.
    pub fn new(cuts: Arc<Cuts>, spread: Duration) -> Self {
        Self { cuts, spread, at: None }
    }

    /// The backend is gone, and `cut` says whether it ended the session by itself. Whether
    /// the client is let go now; else it is when [`Parting::at`] has come.
    pub(super) fn is_due(&mut self, cut: bool, now: Instant) -> bool {
        if cut && self.at.is_none() {
            self.at = Some(now + self.cuts.note(now, self.spread));
        }
        self.at.is_none_or(|at| now >= at)
    }

    /// When the client is let go, where that is later.
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }
}
