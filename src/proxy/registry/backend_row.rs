//! What the registry knows of each backend.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::names::BackendId;

/// Sessions of one backend by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackendCounts {
    /// Logins on their way there.
    pub connecting: u64,
    /// Sessions that the backend may have: from just before the login is sent to its end.
    pub live: u64,
    /// Sessions whose end the backend was not seen to notice.
    pub unseen: u64,
}

/// One backend. Rows are never dropped: there are as many as names were ever configured.
#[derive(Debug)]
pub(super) struct BackendRow {
    pub(super) id: BackendId,
    connecting: AtomicU64,
    live: AtomicU64,
    unseen: Mutex<Unseen>,
    /// Memories of an older era are void.
    memory_era: AtomicU64,
}

/// Ends not seen. When they are too old or the backend is fenced the era changes, which voids what
/// users' entries hold of the era before without touching them.
#[derive(Debug, Default)]
struct Unseen {
    era: u64,
    count: u64,
    /// Of those of all eras, how many connections are watched for their end still.
    watched: u64,
    /// When the last one came.
    last: Option<Instant>,
}

impl Unseen {
    /// From here on no login is held back by them.
    const fn void(&mut self) {
        self.era += 1;
        self.count = 0;
    }
}

impl BackendRow {
    fn new(id: BackendId) -> Self {
        Self {
            id,
            connecting: AtomicU64::new(0),
            live: AtomicU64::new(0),
            unseen: Mutex::default(),
            memory_era: AtomicU64::new(0),
        }
    }

    pub(super) fn connecting_began(&self) {
        self.connecting.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connecting_ended(&self) {
        self.connecting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn live_began(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn live_ended(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts an unseen end and says the era it belongs to.
    pub(super) fn ended_unseen(&self, now: Instant) -> u64 {
        let mut unseen = self.unseen();
        unseen.count += 1;
        unseen.last = Some(now);
        unseen.era
    }

    /// An unseen end's connection is watched from now on.
    pub(super) fn watch_began(&self) {
        self.unseen().watched += 1;
    }

    /// It is watched no longer.
    pub(super) fn watch_ended(&self) {
        self.unseen().watched -= 1;
    }

    /// Voids the unseen ends where they are all older than that and none is watched; whether it
    /// did. In one step: an end that comes meanwhile is young, and counts.
    pub(super) fn void_if_old(&self, now: Instant, age: Duration) -> bool {
        let mut unseen = self.unseen();
        let old = unseen.last.is_some_and(|last| now.saturating_duration_since(last) >= age);
        let voids = unseen.count > 0 && unseen.watched == 0 && old;
        if voids {
            unseen.void();
        }
        voids
    }

    fn unseen(&self) -> MutexGuard<'_, Unseen> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An unseen end of that era was seen after all; whether it still counted.
    pub(super) fn unseen_seen(&self, era: u64) -> bool {
        let mut unseen = self.unseen();
        let counts = unseen.era == era && unseen.count > 0;
        if counts {
            unseen.count -= 1;
        }
        counts
    }

    /// The era to which an unseen end must belong to count.
    pub(super) fn unseen_era(&self) -> u64 {
        self.unseen().era
    }

    pub(super) fn void_unseen(&self) {
        self.unseen().void();
    }

    pub(super) fn memory_era(&self) -> u64 {
        self.memory_era.load(Ordering::Acquire)
    }

    pub(super) fn forget(&self) {
        self.memory_era.fetch_add(1, Ordering::Release);
    }

    pub(super) fn counts(&self) -> BackendCounts {
        BackendCounts {
            connecting: self.connecting.load(Ordering::Relaxed),
            live: self.live.load(Ordering::Relaxed),
            unseen: self.unseen().count,
        }
    }
}

/// The backends by name.
#[derive(Debug, Default)]
pub(super) struct BackendRows {
    rows: RwLock<HashMap<BackendId, Arc<BackendRow>>>,
}

impl BackendRows {
    /// Live sessions on all of them.
    pub(super) fn live(&self) -> u64 {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.values().map(|row| row.live.load(Ordering::Relaxed)).sum()
    }

    /// Live sessions on all but that one.
    pub(super) fn live_elsewhere(&self, than: &BackendId) -> u64 {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let others = rows.iter().filter(|(id, _)| *id != than);
        others.map(|(_, row)| row.live.load(Ordering::Relaxed)).sum()
    }

    /// The row of a backend, made at first use.
    pub(super) fn row(&self, id: &BackendId) -> Arc<BackendRow> {
        if let Some(row) = self.rows.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Arc::clone(row);
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(BackendRow::new(id.clone()));
        Arc::clone(rows.entry(id.clone()).or_insert_with(fresh))
    }
}
