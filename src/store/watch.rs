//! Telling of changes as they are made, without gaps that go unnoticed.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};

use super::Change;

/// Transactions that a slow watcher may be behind; then it must begin anew.
const BEHIND_MAX: usize = 256;

/// One committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Revision of the transaction before it.
    pub previous: u64,
    /// Its revision.
    pub revision: u64,
    /// What it changed, in order.
    pub changes: Vec<Change>,
}

/// Why a watch is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// Changes were missed: take a new snapshot, which replaces what was known, and watch
    /// from its revision on.
    #[error("changes of the store were missed")]
    Gap,
    /// There is no store any more.
    #[error("the store is closed")]
    Closed,
}

#[derive(Debug, Clone)]
pub(super) enum Told {
    Event(Arc<Event>),
    /// A transaction of which nobody knows whether it was made.
    Unclear,
}

/// Where a store tells of its transactions.
#[derive(Debug)]
pub(super) struct Feed(Sender<Told>);

impl Feed {
    pub(super) fn new() -> Self {
        Self(broadcast::channel(BEHIND_MAX).0)
    }

    /// To be called in the order of the revisions.
    pub(super) fn committed(&self, event: Event) {
        // Without watchers there is nobody to tell.
        let _ = self.0.send(Told::Event(Arc::new(event)));
    }

    pub(super) fn unclear(&self) {
        let _ = self.0.send(Told::Unclear);
    }

    /// From now on; the store's revision must be read after this call.
    pub(super) fn listen(&self) -> Receiver<Told> {
        self.0.subscribe()
    }
}

/// The transactions behind a revision, each once and in order.
#[derive(Debug)]
pub struct Watch {
    told: Receiver<Told>,
    after: u64,
    missed: bool,
}

impl Watch {
    /// `now` is the store's revision, read after `told` began.
    pub(super) fn new(told: Receiver<Told>, after: u64, now: u64) -> Self {
        Self { told, after, missed: now != after }
    }

    /// The next transaction. Waiting may be given up and begun again.
    ///
    /// # Errors
    /// See [`WatchEnd`]; it is the same again at every further call.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchEnd> {
        loop {
            if self.missed {
                return Err(WatchEnd::Gap);
            }
            match self.told.recv().await {
                Ok(Told::Event(event)) if event.revision <= self.after => {}
                Ok(Told::Event(event)) if event.previous == self.after => {
                    self.after = event.revision;
                    return Ok(event);
                }
                Ok(Told::Event(_) | Told::Unclear) | Err(RecvError::Lagged(_)) => {
                    self.missed = true;
                }
                Err(RecvError::Closed) => return Err(WatchEnd::Closed),
            }
        }
    }
}
