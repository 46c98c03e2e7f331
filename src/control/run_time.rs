//! What operators said at run time, kept in the store: backend states, pins, blocked users.
//! Changes are written by compare-and-set, come back through the store's watch, and are in
//! force when the caller is answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::names::{BackendId, ShardId, UserName};
use crate::routing::overrides::{self, DamagedRow, OVERRIDES_MAX, Overrides};
use crate::store::{
    Change, Compare, Event, Outcome, Snapshot, StoreError, TopologyStore, Txn, WatchEnd,
};
use crate::upstream::backends::AdminState;

/// Keys `backends/NAME`, and the value's first line; the second is the state.
const STATE_PREFIX: &str = "backends/";
const STATE_FORMAT: &str = "v1";

/// Tries of one change before giving up on a store that gives no clear answer.
const WRITE_TRIES: u32 = 5;
/// How long a committed change may take to come back through the watch.
const APPLY_TIME_MAX: Duration = Duration::from_secs(5);
/// Pause before a store that failed is asked again.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

/// Why a change at run time did not happen, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others changed the same again and again.
    #[error("somebody else changes the same at this moment; nothing was changed")]
    Conflict,
    /// The store did not say.
    #[error("the store did not say whether the change was made: look, then try again")]
    Unknown,
    /// The change is made but did not come back in time.
    #[error("the change is stored, but was not in force within {APPLY_TIME_MAX:?}")]
    NotInForce,
    /// As many users are pinned or blocked as may be.
    #[error("{OVERRIDES_MAX} users are pinned or blocked already, the most allowed")]
    TooMany,
}

/// Whether a change made a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It did.
    Yes,
    /// It was so already.
    No,
}

/// The states that were set at run time.
pub type States = BTreeMap<BackendId, AdminState>;

/// Who must know of backends' states. Called with the states locked.
pub trait Stated {
    /// A backend has this state from now on; `None`: what its file says.
    fn show(&self, backend: &BackendId, state: Option<AdminState>);

    /// These are all the states there are.
    fn show_all(&self, states: &States);
}

/// The run-time state, over a store.
#[derive(Debug)]
pub struct RunTime<S> {
    store: S,
    overrides: Arc<Overrides>,
    states: Mutex<States>,
    /// The revision that is in force.
    revision: watch::Sender<u64>,
}

impl<S: TopologyStore> RunTime<S> {
    /// Reads what the store has into `overrides`.
    ///
    /// # Errors
    /// Where the store cannot be read, or a row of it says nothing.
    pub async fn load(store: S, overrides: Arc<Overrides>) -> Result<Self, LoadError> {
        let snapshot = store.snapshot().await?;
        let (revision, _) = watch::channel(snapshot.revision);
        let loaded = Self { store, overrides, states: Mutex::default(), revision };
        loaded.replace(&snapshot)?;
        Ok(loaded)
    }

    /// The store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// The store's revision that is in force.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Shows every backend its state; to be called for every new set of them, when it is in
    /// force.
    pub fn show_on(&self, backends: &impl Stated) {
        let states = self.states();
        backends.show_all(&states);
    }

    /// Follows the store for ever: what is committed there comes in force here.
    pub async fn follow(&self, backends: &impl Stated) {
        loop {
            let Err(error) = self.follow_once(backends).await else { return };
            tracing::error!(%error, "the store cannot be followed; it is asked again");
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }

    /// Returns when the store is closed.
    async fn follow_once(&self, backends: &impl Stated) -> Result<(), LoadError> {
        loop {
            let mut watch = self.store.watch(self.revision()).await?;
            let end = loop {
                match watch.next().await {
                    Ok(event) => self.apply(&event, backends),
                    Err(end) => break end,
                }
            };
            if end == WatchEnd::Closed {
                return Ok(());
            }
            self.replace(&self.store.snapshot().await?)?;
            self.show_on(backends);
        }
    }

    /// Gives a backend a state; `None`: its file decides again.
    pub async fn set_state(
        &self,
        backend: &BackendId,
        state: Option<AdminState>,
    ) -> Result<Changed, ChangeError> {
        let value = state.map(|state| format!("{STATE_FORMAT}\n{}\n", state.word()).into_bytes());
        self.write(format!("{STATE_PREFIX}{backend}"), value).await
    }

    /// Pins a user to a shard, or lets the lookups decide again.
    pub async fn set_pin(
        &self,
        user: &UserName,
        shard: Option<&ShardId>,
    ) -> Result<Changed, ChangeError> {
        if shard.is_some() && self.overrides.pins() >= OVERRIDES_MAX {
            return Err(ChangeError::TooMany);
        }
        self.write(overrides::pin_key(user), shard.map(overrides::pin_value)).await
    }

    /// Blocks a user or lets him in again.
    pub async fn set_block(&self, user: &UserName, blocked: bool) -> Result<Changed, ChangeError> {
        if blocked && self.overrides.blocks() >= OVERRIDES_MAX {
            return Err(ChangeError::TooMany);
        }
        self.write(overrides::block_key(user), blocked.then(overrides::block_value)).await
    }

    /// Makes a key have that value, or none, and waits until that is in force. What became of
    /// a try without a clear answer is found out by reading again.
    async fn write(&self, key: String, value: Option<Vec<u8>>) -> Result<Changed, ChangeError> {
        let mut unclear = false;
        for _ in 0..WRITE_TRIES {
            let present = self.store.get(&key).await?;
            if present.as_ref().map(|row| &row.value) == value.as_ref() {
                let changed = if unclear { Changed::Yes } else { Changed::No };
                self.in_force(present.map_or(0, |row| row.modified)).await?;
                return Ok(changed);
            }
            let modified = present.map_or(0, |row| row.modified);
            let change = match value.clone() {
                Some(value) => Change::Put { key: key.clone(), value },
                None => Change::Delete { key: key.clone() },
            };
            let compares = vec![Compare { key: key.clone(), modified }];
            match self.store.txn(Txn { compares, changes: vec![change] }).await? {
                Outcome::Committed(revision) => {
                    self.in_force(revision).await?;
                    return Ok(Changed::Yes);
                }
                Outcome::Conflict => unclear = false,
                Outcome::Unknown => unclear = true,
            }
        }
        Err(if unclear { ChangeError::Unknown } else { ChangeError::Conflict })
    }

    async fn in_force(&self, revision: u64) -> Result<(), ChangeError> {
        let mut present = self.revision.subscribe();
        let reached = present.wait_for(|present| *present >= revision);
        match tokio::time::timeout(APPLY_TIME_MAX, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ChangeError::NotInForce),
        }
    }

    fn apply(&self, event: &Event, backends: &impl Stated) {
        for change in &event.changes {
            if let Err(error) = self.overrides.apply(change) {
                tracing::error!(%error, "a change of the store was passed over");
            }
            self.apply_state(change, backends);
        }
        self.revision.send_replace(event.revision);
    }

    fn apply_state(&self, change: &Change, backends: &impl Stated) {
        let Some(name) = change.key().strip_prefix(STATE_PREFIX) else { return };
        let name = BackendId::new(name);
        let state = match change {
            Change::Put { value, .. } => decode_state(value),
            Change::Delete { .. } => None,
        };
        // Held until it shows: a reload that puts other backends in force meanwhile would
        // give them the former state.
        let mut states = self.states();
        match state {
            Some(state) => states.insert(name.clone(), state),
            None => states.remove(&name),
        };
        backends.show(&name, state);
    }

    fn replace(&self, snapshot: &Snapshot) -> Result<(), LoadError> {
        self.overrides.replace(snapshot)?;
        let mut states = BTreeMap::new();
        for (key, row) in &snapshot.view {
            let Some(name) = key.strip_prefix(STATE_PREFIX) else { continue };
            let state = decode_state(&row.value).ok_or_else(|| DamagedRow { key: key.clone() })?;
            states.insert(BackendId::new(name), state);
        }
        *self.states() = states;
        self.revision.send_replace(snapshot.revision);
        Ok(())
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the run-time state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row of it.
    #[error(transparent)]
    Damaged(#[from] DamagedRow),
}

fn decode_state(value: &[u8]) -> Option<AdminState> {
    let mut lines = std::str::from_utf8(value).ok()?.lines();
    let (format, word, rest) = (lines.next()?, lines.next()?, lines.next());
    AdminState::of_word(word).filter(|_| format == STATE_FORMAT && rest.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::simulated::{Fault, SimulatedStore};

    /// The states as the data plane would have them.
    #[derive(Debug, Default)]
    struct Shown(Mutex<States>);

    impl Stated for Shown {
        fn show(&self, backend: &BackendId, state: Option<AdminState>) {
            let mut shown = self.0.lock().unwrap();
            match state {
                Some(state) => shown.insert(backend.clone(), state),
                None => shown.remove(backend),
            };
        }

        fn show_all(&self, states: &States) {
            self.0.lock().unwrap().clone_from(states);
        }
    }

    async fn load(store: SimulatedStore) -> RunTime<SimulatedStore> {
        RunTime::load(store, Arc::default()).await.unwrap()
    }

    /// Follows the store while the work is done.
    async fn following<T>(
        run_time: &RunTime<SimulatedStore>,
        shown: &Shown,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::select! {
            () = run_time.follow(shown) => panic!("the store is closed"),
            done = work => done,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_is_in_force_when_the_caller_hears_of_it() {
        let (run_time, shown) = (load(SimulatedStore::default()).await, Shown::default());
        let (n1, anna) = (BackendId::new("n1"), UserName::new("anna"));
        following(&run_time, &shown, async {
            let drained = run_time.set_state(&n1, Some(AdminState::Drain)).await.unwrap();
            assert_eq!(drained, Changed::Yes);
            assert_eq!(shown.0.lock().unwrap().get(&n1), Some(&AdminState::Drain));
            let again = run_time.set_state(&n1, Some(AdminState::Drain)).await.unwrap();
            assert_eq!(again, Changed::No);
            run_time.set_state(&n1, None).await.unwrap();
            assert!(shown.0.lock().unwrap().is_empty());
            run_time.set_block(&anna, true).await.unwrap();
            assert!(run_time.overrides.is_blocked(&anna));
            run_time.set_pin(&anna, Some(&ShardId::new("s"))).await.unwrap();
            assert_eq!(run_time.overrides.pinned(&anna), Some(ShardId::new("s")));
            assert_eq!(run_time.revision(), 4);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_unclear_answer_is_cleared_up_by_reading_again() {
        let anna = UserName::new("anna");
        for faults in [
            vec![Fault::AnswerLost],
            vec![Fault::RequestLost],
            vec![Fault::RequestLost, Fault::RequestLost, Fault::AnswerLost],
        ] {
            let store = SimulatedStore::default();
            store.suffer(faults);
            let (run_time, shown) = (load(store).await, Shown::default());
            let changed = following(&run_time, &shown, run_time.set_block(&anna, true)).await;
            assert_eq!(changed.unwrap(), Changed::Yes);
            assert_eq!(run_time.revision(), 1, "written once");
        }
        let store = SimulatedStore::default();
        store.suffer(vec![Fault::RequestLost; 5]);
        let (run_time, shown) = (load(store).await, Shown::default());
        let told = following(&run_time, &shown, run_time.set_block(&anna, true)).await;
        assert!(matches!(told, Err(ChangeError::Unknown)), "{told:?}");
        assert!(!run_time.overrides.is_blocked(&anna));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_who_change_the_same_the_later_one_decides_and_others_are_not_in_the_way() {
        let anna = UserName::new("anna");
        let store = SimulatedStore::default();
        let (key, value) = (overrides::pin_key(&anna), overrides::pin_value(&ShardId::new("a")));
        store.suffer([Fault::Overtaken(vec![Change::Put { key, value }])]);
        let (run_time, shown) = (load(store).await, Shown::default());
        let shard = ShardId::new("b");
        let pinned = following(&run_time, &shown, run_time.set_pin(&anna, Some(&shard))).await;
        assert_eq!(pinned.unwrap(), Changed::Yes);
        assert_eq!(run_time.overrides.pinned(&anna), Some(shard));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_does_not_come_back_is_told_as_stored_but_not_in_force() {
        let run_time = load(SimulatedStore::default()).await;
        let told = run_time.set_block(&UserName::new("anna"), true).await;
        assert!(matches!(told, Err(ChangeError::NotInForce)), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_missed_is_made_up_for_by_a_snapshot() {
        let (run_time, shown) = (load(SimulatedStore::default()).await, Shown::default());
        let write = |number: u32| Txn {
            changes: vec![Change::Put {
                key: format!("{STATE_PREFIX}n{number}"),
                value: b"v1\ndown\n".to_vec(),
            }],
            ..Txn::default()
        };
        // Nobody follows yet.
        for number in 0..3 {
            let _made = run_time.store.txn(write(number)).await.unwrap();
        }
        following(&run_time, &shown, async {
            while run_time.revision() < 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(shown.0.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_damaged_state_is_no_state_to_begin_with() {
        for value in ["", "v1", "v1\noff\n", "v2\ndown\n", "v1\ndown\nx\n"] {
            let store = SimulatedStore::default();
            let key = format!("{STATE_PREFIX}n1");
            let changes = vec![Change::Put { key, value: value.into() }];
            let _made = store.txn(Txn { changes, ..Txn::default() }).await.unwrap();
            let told = RunTime::load(store, Arc::default()).await.unwrap_err().to_string();
            assert!(told.contains("\"backends/n1\" is damaged"), "{told}");
        }
    }
}
