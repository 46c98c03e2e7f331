//! Keeps the backends' warm connections: fills what logins took, renews what became old. All
//! of it runs on the control runtime; a login takes what is there or dials itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::names::BackendId;
use crate::proxy::shared::Shared;
use crate::upstream::backends::{AdminState, Backend};
use crate::upstream::warm;

/// From one look at the configuration, or at a pool that nobody takes from, to the next.
const TURN: Duration = Duration::from_millis(500);
/// Connections to one backend under way at once: a restarted one is not flooded.
const FILLS_MAX: usize = 16;
/// Pause after a connection that failed; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause. A backend that logins or checks find in order again is not waited for.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// One keeper per backend with a pool, of whatever configuration is in force.
pub(super) async fn keep_forever(shared: Arc<Shared>) {
    let mut keepers: HashMap<BackendId, (Arc<Backend>, AbortHandle)> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let snapshot = shared.snapshot.load_full();
        keepers.retain(|name, (kept, keeper)| {
            let current = snapshot.upstreams.backend(name);
            let stays = current.is_some_and(|current| Arc::ptr_eq(&current, kept));
            if !stays {
                keeper.abort();
                // Logins that began before the reload dial themselves from now on.
                kept.show_warm(0);
                if let Some(pool) = kept.warm() {
                    pool.clear();
                }
            }
            stays
        });
        for backend in snapshot.upstreams.backends() {
            if backend.warm().is_some() && !keepers.contains_key(backend.name()) {
                let keeper = running.spawn(keep(Arc::clone(backend), Arc::clone(&shared)));
                keepers.insert(backend.name().clone(), (Arc::clone(backend), keeper));
            }
        }
        // Keepers end by being aborted only; their ends are collected here.
        while running.try_join_next().is_some() {}
        tokio::time::sleep(TURN).await;
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
            let missing = pool.size().saturating_sub(pool.len() + fills.len());
            let room = if now < not_before { 0 } else { FILLS_MAX.saturating_sub(fills.len()) };
            for _ in 0..missing.min(room) {
                let upstream = &shared.snapshot.load().config.upstream;
                let (time, silence) = (upstream.connect_timeout, upstream.silence);
                let backend = Arc::clone(&backend);
                fills.spawn(async move { warm::fill(&backend, time, silence).await });
            }
        } else {
            pool.clear();
        }
        backend.show_warm(pool.len());
        tokio::select! {
            Some(filled) = fills.join_next() => match filled {
                Ok(Ok(())) => pause = PAUSE,
                Ok(Err(error)) => {
                    tracing::debug!(backend = %backend.name(), %error, "no warm connection");
                    if Instant::now() >= not_before {
                        not_before = Instant::now() + pause;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
                Err(_) => {}
            },
            () = pool.taken() => {}
            () = tokio::time::sleep(TURN) => {}
        }
    }
}

/// Whether logins may be sent there.
fn serves(backend: &Backend, now: Instant) -> bool {
    backend.admin_state() != AdminState::Down && !backend.fails(now)
}
