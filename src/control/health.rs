//! Checks of backends, and what follows from how they do. All of it runs on the control
//! runtime: no login waits for a check.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::control::fences::Fences;
use crate::names::BackendId;
use crate::proxy::Workers;
use crate::proxy::shared::{Shared, Snapshot};
use crate::upstream::backends::Backend;
use crate::upstream::capabilities::Comparison;
use crate::upstream::check::{self, CheckError, Learnt};
use crate::upstream::dial::DialError;
use crate::upstream::health::Outcome;

/// From one look at all backends to the next.
const TURN: Duration = Duration::from_millis(200);
/// Checks under way at once, over all backends.
const CHECKS_MAX: usize = 64;
/// The first check comes within this time: soon, and not all at once.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// A check's own deadlines end it long before.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// A server ends a session that nobody uses after at least 30 minutes (RFC 9051 section
/// 5.4): one whose end was not seen is over when its backend has served for so long.
const UNSEEN_MAX: Duration = Duration::from_secs(31 * 60);

/// Looks after the backends of whatever configuration is in force.
pub(super) async fn watch_forever(shared: Arc<Shared>, workers: Arc<Workers>) {
    let mut watch = Watch {
        fences: Fences::new(Arc::clone(&shared), workers),
        shared,
        watched: HashMap::new(),
        running: JoinSet::new(),
        comparison: Comparison::default(),
    };
    loop {
        watch.look();
        tokio::select! {
            Some(ended) = watch.running.join_next() => watch.on_checked(ended.ok()),
            () = tokio::time::sleep(TURN) => {}
        }
    }
}

/// What a check came to.
struct Checked {
    backend: Arc<Backend>,
    result: Result<Learnt, CheckError>,
}

struct Watch {
    shared: Arc<Shared>,
    fences: Fences,
    watched: HashMap<BackendId, Watched>,
    running: JoinSet<Checked>,
    comparison: Comparison,
}

/// What is remembered of one backend between two looks.
struct Watched {
    /// When the next check is due.
    due: Instant,
    /// How it was judged at the last look.
    down: bool,
    /// Since when nothing speaks against it.
    serves_since: Instant,
}

impl Watched {
    /// Nobody asks it anything now. It is checked as soon as that ends, and until then nobody
    /// knows whether it serves.
    fn pause(&mut self, now: Instant) {
        self.due = now;
        self.serves_since = now;
    }
}

impl Watch {
    fn look(&mut self) {
        let now = Instant::now();
        let snapshot = self.shared.snapshot.load_full();
        self.watched.retain(|name, _| snapshot.upstreams.backend(name).is_some());
        let mut due: Vec<(Instant, &Arc<Backend>)> = Vec::new();
        let configured = snapshot.upstreams.backends().count();
        // Those that left the file come last: where somebody may be on one he must get free.
        for (place, backend) in snapshot.upstreams.all_backends().enumerate() {
            let counts = self.shared.registry.counts(backend.name());
            if place >= configured && counts.live + counts.unseen == 0 {
                continue;
            }
            let watched = self.watched.entry(backend.name().clone()).or_insert_with(|| Watched {
                due: now + part_of(backend.config.check.interval.min(FIRST_WITHIN)),
                down: false,
                serves_since: now,
            });
            let disabled = backend.is_disabled();
            if disabled {
                backend.note_pause(now);
                watched.pause(now);
            }
            follow(&self.shared, backend, watched, now);
            self.fences.look(backend, now);
            if backend.config.check.is_on() && watched.due <= now && !disabled {
                due.push((watched.due, backend));
            }
        }
        due.sort_by_key(|(since, _)| *since);
        for (_, backend) in due {
            if self.running.len() >= CHECKS_MAX {
                break;
            }
            self.begin(backend, &snapshot, now);
        }
    }

    fn begin(&mut self, backend: &Arc<Backend>, snapshot: &Snapshot, now: Instant) {
        if let Some(watched) = self.watched.get_mut(backend.name()) {
            watched.due = now + LOST_AFTER + backend.config.check.interval;
        }
        let silence = snapshot.config.upstream.silence;
        let backend = Arc::clone(backend);
        self.running.spawn(async move {
            let result = check::check(&backend, silence).await;
            Checked { backend, result }
        });
    }

    fn on_checked(&mut self, checked: Option<Checked>) {
        let Some(Checked { backend, result }) = checked else { return };
        let now = Instant::now();
        if let Some(watched) = self.watched.get_mut(backend.name()) {
            watched.due = now + around(backend.config.check.interval);
        }
        // One that was disabled meanwhile may be switched off already.
        if !result.as_ref().is_err_and(CheckError::is_own) && !backend.is_disabled() {
            let outcome = result.as_ref().map_or_else(CheckError::outcome, |_| Outcome::Good);
            backend.note_check(outcome, now);
        }
        match result {
            Ok(learnt) => {
                backend.metrics.checked("ok");
                backend.learn(learnt);
                self.comparison.compare(&self.shared.snapshot.load().upstreams, &backend.shard);
            }
            Err(error) => {
                backend.metrics.checked(error.reason());
                // Of names without an address the resolver tells, once.
                let told = matches!(error, CheckError::Dial(DialError::NoAddress));
                if error.is_own() && !told {
                    tracing::warn!(backend = %backend.name(), %error, "a backend is not checked");
                } else {
                    tracing::debug!(backend = %backend.name(), %error, "a check failed");
                }
            }
        }
        follow_known(&self.shared, &backend, &mut self.watched, now);
    }
}

fn follow_known(
    shared: &Shared,
    backend: &Backend,
    watched: &mut HashMap<BackendId, Watched>,
    now: Instant,
) {
    if let Some(watched) = watched.get_mut(backend.name()) {
        follow(shared, backend, watched, now);
    }
}

/// Tells the operator how the judgement turned, and the registry what it means.
fn follow(shared: &Shared, backend: &Backend, watched: &mut Watched, now: Instant) {
    backend.show_up(now);
    let down = backend.is_down();
    if down != watched.down {
        watched.down = down;
        let name = backend.name();
        if down {
            tracing::warn!(backend = %name, shard = %backend.shard.name, "the backend is down");
            // Who comes back later goes where the choice leads, not here at once.
            shared.registry.forget_backend(name);
        } else {
            tracing::info!(backend = %name, shard = %backend.shard.name, "the backend is up");
        }
    }
    if down || backend.skipped(now) {
        watched.serves_since = now;
    } else if now.duration_since(watched.serves_since) >= UNSEEN_MAX {
        shared.registry.expire_unseen(backend.name(), now, UNSEEN_MAX);
    }
}

/// Some part of a time.
fn part_of(time: Duration) -> Duration {
    time.mul_f64(fastrand::f64())
}

/// The time, a fifth more or less, so that proxies that began together do not go on so.
fn around(time: Duration) -> Duration {
    time.mul_f64(0.8 + 0.4 * fastrand::f64())
}
