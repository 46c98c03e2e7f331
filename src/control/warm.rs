//! Keeps the backends' warm connections: fills what logins took, renews what became old. All
//! of it runs on the control runtime; a login takes what is there or dials itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::drain::Phase;
use crate::names::BackendId;
use crate::proxy::shared::Shared;
use crate::upstream::backends::{AdminState, Backend};
use crate::upstream::dial::DialError;
use crate::upstream::warm::{self, WarmPool};

/// From one look at the configuration, or at a pool that nobody takes from, to the next.
const TURN: Duration = Duration::from_millis(500);
/// Connections to one backend under way at once: a restarted one is not flooded.
const FILLS_MAX: usize = 16;
/// Pause after a connection that failed; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause. A backend that logins or checks find in order again is not waited for.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// One keeper per backend with a pool, of whatever configuration is in force; none once the
/// proxy drains.
pub(super) async fn keep_forever(shared: Arc<Shared>) {
    let mut keepers: HashMap<BackendId, Keeper> = HashMap::new();
    let mut running = JoinSet::new();
    while shared.drain.phase() < Phase::Draining {
        let snapshot = shared.snapshot.load_full();
        let backends: HashMap<_, _> =
            snapshot.upstreams.backends().map(|backend| (backend.name(), backend)).collect();
        keepers.retain(|name, keeper| keeper.stays_for(backends.get(name).copied()));
        for (name, backend) in backends {
            if backend.warm().is_some() && !keepers.contains_key(name) {
                let task = running.spawn(keep(Arc::clone(backend), Arc::clone(&shared)));
                keepers.insert(name.clone(), Keeper { backend: Arc::clone(backend), task });
            }
        }
        drop(snapshot);
        // Keepers end by being aborted only; their ends are collected here.
        while running.try_join_next().is_some() {}
        tokio::select! {
            () = tokio::time::sleep(TURN) => {}
            () = shared.drain.reached(Phase::Draining) => {}
        }
    }
    keepers.retain(|_, keeper| keeper.stays_for(None));
}

/// Who looks after one backend's pool.
struct Keeper {
    backend: Arc<Backend>,
    task: AbortHandle,
}

impl Keeper {
    /// Whether it goes on; else it ends, and with it a pool that the backend of that name in
    /// the configuration now in force does not share.
    fn stays_for(&self, current: Option<&Arc<Backend>>) -> bool {
        if current.is_some_and(|current| Arc::ptr_eq(current, &self.backend)) {
            return true;
        }
        self.task.abort();
        let Some(pool) = self.backend.warm() else { return false };
        let is_shared = |other: &Arc<WarmPool>| Arc::ptr_eq(other, pool);
        if !current.and_then(|current| current.warm()).is_some_and(is_shared) {
            pool.close();
            self.backend.show_warm(0);
        }
        false
    }
}

/// Keeps one backend's pool full.
async fn keep(backend: Arc<Backend>, shared: Arc<Shared>) {
    let Some(pool) = backend.warm() else { return };
    let mut fills = JoinSet::new();
    let mut pause = PAUSE;
    let mut not_before = Instant::now();
    let mut next_tidy = Instant::now();
    loop {
        let now = Instant::now();
        if serves(&backend, now) {
            if next_tidy <= now {
                pool.tidy(now, &backend.addresses.current());
                next_tidy = now + TURN;
            }
            let room = if now < not_before { 0 } else { FILLS_MAX.saturating_sub(fills.len()) };
            for _ in 0..pool.wanted(now).saturating_sub(fills.len()).min(room) {
                // Full of clients: their sessions come first.
                let Ok(permit) = shared.descriptors.acquire() else { break };
                let upstream = &shared.snapshot.load().config.upstream;
                let (time, silence) = (upstream.connect_timeout, upstream.silence);
                let backend = Arc::clone(&backend);
                fills.spawn(async move { warm::fill(&backend, time, silence, permit).await });
            }
        } else {
            pool.clear();
        }
        backend.show_warm(pool.len());
        tokio::select! {
            Some(filled) = fills.join_next() => match filled {
                Ok(Ok(())) => pause = PAUSE,
                // Those that failed together are one failure: a server that restarts has not
                // failed sixteen times.
                Ok(Err(error)) => if Instant::now() >= not_before {
                    note_failure(&backend, &shared, &error);
                    not_before = Instant::now() + pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(_) => {}
            },
            () = pool.taken() => {}
            () = tokio::time::sleep(TURN) => {}
        }
    }
}

fn note_failure(backend: &Backend, shared: &Shared, error: &DialError) {
    backend.metrics.failed(error.reason());
    tracing::debug!(backend = %backend.name(), %error, "no warm connection");
    let skip = shared.snapshot.load().config.upstream.skip_failed;
    backend.note_failure_ahead(error, Instant::now(), skip);
}

/// Whether logins may be sent there.
fn serves(backend: &Backend, now: Instant) -> bool {
    backend.admin_state() != AdminState::Down && !backend.fails(now)
}
