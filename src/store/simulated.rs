//! A store in memory whose faults a test chooses.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::watch::Feed;
use super::{Change, Event, Outcome, Snapshot, StoreError, TopologyStore, Txn, Versioned, Watch};

/// What becomes of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is made, but nobody learns of it.
    AnswerLost,
    /// It never arrives, and nobody learns of that.
    RequestLost,
    /// Another writer's changes are made first.
    Overtaken(Vec<Change>),
}

/// An empty store without faults, unless told otherwise.
#[derive(Debug)]
pub(crate) struct SimulatedStore {
    state: Mutex<(Snapshot, VecDeque<Fault>)>,
    feed: Feed,
}

impl Default for SimulatedStore {
    fn default() -> Self {
        Self { state: Mutex::default(), feed: Feed::new() }
    }
}

impl SimulatedStore {
    /// The next transactions suffer these faults, in order.
    pub(crate) fn suffer(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.extend(faults);
    }
}

impl TopologyStore for SimulatedStore {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner).0.clone())
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        Ok(self.snapshot().await?.view.remove(key))
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        let told = self.feed.listen();
        Ok(Watch::new(told, after, self.snapshot().await?.revision))
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check_bounds()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (snapshot, faults) = &mut *state;
        match faults.pop_front() {
            None => Ok(commit(snapshot, txn, &self.feed)),
            Some(Fault::AnswerLost) => {
                let _ = commit(snapshot, txn, &self.feed);
                Ok(Outcome::Unknown)
            }
            Some(Fault::RequestLost) => Ok(Outcome::Unknown),
            Some(Fault::Overtaken(changes)) => {
                let _ = commit(snapshot, Txn { compares: Vec::new(), changes }, &self.feed);
                Ok(commit(snapshot, txn, &self.feed))
            }
        }
    }
}

fn commit(snapshot: &mut Snapshot, txn: Txn, feed: &Feed) -> Outcome {
    let modified = |key: &str| snapshot.view.get(key).map_or(0, |row| row.modified);
    if txn.compares.iter().any(|compare| modified(&compare.key) != compare.modified) {
        return Outcome::Conflict;
    }
    let previous = snapshot.revision;
    snapshot.revision += 1;
    let event = Event { previous, revision: snapshot.revision, changes: txn.changes.clone() };
    for change in txn.changes {
        match change {
            Change::Put { key, value } => {
                snapshot.view.insert(key, Versioned { value, modified: snapshot.revision });
            }
            Change::Delete { key } => {
                snapshot.view.remove(&key);
            }
        }
    }
    feed.committed(event);
    Outcome::Committed(snapshot.revision)
}
