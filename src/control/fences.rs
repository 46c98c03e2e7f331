//! What is done about the sessions that a backend which is down may hold still: its users
//! may go elsewhere when its `fence` program has said that it holds none. The program may
//! switch a machine off, so it is run only for one that does not answer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use crate::config::Failover;
use crate::control::hook::{self, HookError};
use crate::names::BackendId;
use crate::proxy::Workers;
use crate::proxy::orders::{Border, CloseReason, Ending};
use crate::proxy::registry::SessionHandle;
use crate::proxy::shared::Shared;
use crate::upstream::backends::Backend;

/// Programs under way at once, over all backends.
const RUNNING_MAX: usize = 4;
/// Pause before a program that failed is run again; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A program's own deadline ends it long before.
const LOST_AFTER: Duration = Duration::from_secs(900);
/// What clients are told whose backend is fenced.
const BYE: &str = "[UNAVAILABLE] The server is gone, please reconnect.";

/// The backends that are down and may hold sessions.
#[derive(Debug)]
pub(super) struct Fences {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    outages: HashMap<BackendId, Outage>,
    /// The number of the latest outage.
    latest: u64,
    running: JoinSet<Result<(), HookError>>,
    /// What runs for which outage; one program a backend at most.
    runs: HashMap<Id, Run>,
}

/// One backend's time of being down.
#[derive(Debug)]
struct Outage {
    number: u64,
    /// The operator has disabled the backend.
    disabled: bool,
    /// It holds no session any more.
    fenced: bool,
    failures: u32,
    /// When its program may be run.
    due: Instant,
}

/// A program under way. What it says counts for the outage for which it was begun: since
/// then the backend may have been back, and have taken other sessions.
#[derive(Debug)]
struct Run {
    backend: Arc<Backend>,
    outage: u64,
}

impl Fences {
    pub(super) fn new(shared: Arc<Shared>, workers: Arc<Workers>) -> Self {
        Self {
            shared,
            workers,
            outages: HashMap::new(),
            latest: 0,
            running: JoinSet::new(),
            runs: HashMap::new(),
        }
    }

    /// Does what is due for a backend. To be called now and then.
    pub(super) fn look(&mut self, backend: &Arc<Backend>, now: Instant) {
        self.take_ended(now);
        if !backend.is_down() {
            self.outages.remove(backend.name());
            return;
        }
        let disabled = backend.is_disabled();
        let is_resumed =
            |outage: &mut Outage| std::mem::replace(&mut outage.disabled, disabled) && !disabled;
        // Whatever was done to it meanwhile, it may hold other sessions from now on.
        if self.outages.get_mut(backend.name()).is_some_and(is_resumed) {
            self.outages.remove(backend.name());
        }
        let counts = self.shared.registry.counts(backend.name());
        if counts.live + counts.unseen == 0 {
            return;
        }
        let busy = self.runs.values().any(|run| run.backend.name() == backend.name());
        let outage = self.outages.entry(backend.name().clone()).or_insert_with(|| {
            self.latest += 1;
            let number = self.latest;
            Outage { number, disabled, fenced: false, failures: 0, due: now }
        });
        match &backend.shard.failover {
            Failover::Wait => {}
            // Ends that come late bind nobody either.
            _ if outage.fenced && counts.unseen > 0 => {
                self.shared.registry.fenced(backend.name());
            }
            _ if outage.fenced => {}
            // It may answer wrongly, and serve the sessions that it has; and where nobody asks
            // nobody knows.
            _ if disabled || !backend.is_silent() => {}
            Failover::Unfenced => {
                tracing::warn!(backend = %backend.name(), "its users go elsewhere, unfenced");
                outage.fenced = true;
                self.release(backend);
            }
            Failover::Fence { program, timeout } => {
                if now >= outage.due && !busy && self.runs.len() < RUNNING_MAX {
                    outage.due = now + LOST_AFTER;
                    let run = Run { backend: Arc::clone(backend), outage: outage.number };
                    self.begin(run, program.clone(), *timeout);
                }
            }
        }
    }

    fn begin(&mut self, run: Run, program: PathBuf, timeout: Duration) {
        let name = run.backend.name();
        tracing::warn!(backend = %name, program = %program.display(), "the fence is run");
        let told = environment(&run.backend);
        let task = self.running.spawn(async move { hook::run(&program, &told, timeout).await });
        self.runs.insert(task.id(), run);
    }

    fn take_ended(&mut self, now: Instant) {
        while let Some(ended) = self.running.try_join_next_with_id() {
            let (id, result) = match ended {
                Ok((id, result)) => (id, Some(result)),
                // A fault of the proxy itself: nobody knows what became of the program.
                Err(error) => (error.id(), None),
            };
            let run = self.runs.remove(&id);
            if let Some((run, result)) = run.zip(result) {
                self.on_ended(&run, result, now);
            }
        }
    }

    fn on_ended(&mut self, run: &Run, result: Result<(), HookError>, now: Instant) {
        let backend = &run.backend;
        backend.metrics.fenced(result.as_ref().map_or_else(HookError::reason, |()| "ok"));
        // One that is back has its users again, and may have new sessions.
        let outage = self.outages.get_mut(backend.name());
        let own = |outage: &&mut Outage| outage.number == run.outage && backend.is_down();
        let Some(outage) = outage.filter(own) else {
            tracing::warn!(backend = %backend.name(), "a fence of an earlier outage has ended");
            return;
        };
        match result {
            Ok(()) => {
                tracing::warn!(backend = %backend.name(), "the backend is fenced");
                outage.fenced = true;
                self.release(backend);
            }
            Err(error) => {
                let doubled = PAUSE * 2_u32.saturating_pow(outage.failures.min(10));
                outage.failures = outage.failures.saturating_add(1);
                outage.due = now + doubled.min(PAUSE_MAX).mul_f64(0.75 + fastrand::f64() / 2.0);
                tracing::error!(backend = %backend.name(), %error, "the fence failed");
            }
        }
    }

    /// The backend's users are bound to it no longer, and those whose connections stand still
    /// are let go, over some time.
    fn release(&self, backend: &Backend) {
        self.shared.registry.fenced(backend.name());
        let rows = self.shared.registry.sessions_of_backend(backend.name());
        let sessions: Vec<SessionHandle> = rows.into_iter().map(|row| row.handle).collect();
        let spread = self.shared.snapshot.load().config.upstream.disconnect_spread;
        let ending = Ending {
            reason: CloseReason::Fenced,
            bye: BYE,
            border: Border::Response,
            spread,
            grace: Duration::ZERO,
            backend_is_gone: true,
        };
        let workers = Arc::clone(&self.workers);
        tokio::spawn(async move { workers.end_sessions(&sessions, ending).await });
    }
}

/// What a program is told.
fn environment(backend: &Backend) -> [(&'static str, String); 5] {
    let mut addresses: Vec<String> = Vec::new();
    for address in backend.addresses.current().iter() {
        let address = address.ip().to_string();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let place = &backend.config.place;
    [
        ("POINTSMAN_SHARD", backend.shard.name.to_string()),
        ("POINTSMAN_BACKEND", backend.name().to_string()),
        ("POINTSMAN_HOST", place.name().to_owned()),
        ("POINTSMAN_PORT", place.port().map(|port| port.to_string()).unwrap_or_default()),
        ("POINTSMAN_ADDRESSES", addresses.join(" ")),
    ]
}
