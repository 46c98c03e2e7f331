//! Looking at backends, and changing what they may do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::audit::{Caller, Subject};
use super::emptying::{DRAIN_BYE, takes_users};
use super::report::{BackendReport, Backends, StateReport};
use super::run_time::Changed;
use super::{Control, OperateError};
use crate::names::BackendId;
use crate::proxy::orders::{Border, CloseReason, Ending};
use crate::proxy::shared::Snapshot;
use crate::upstream::backends::{AdminState, Backend};

/// Longest time over which a backend's sessions may be ended.
pub const END_WITHIN_MAX: Duration = Duration::from_secs(86_400);

/// What a backend is to do from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateOrder {
    /// The state.
    pub state: AdminState,
    /// Done although it hurts.
    pub force: bool,
    /// With [`AdminState::Down`]: the operator's word that the backend is dead, so that its
    /// users may go elsewhere at once.
    pub fenced: bool,
    /// With drain and down: over what time its sessions get their BYE.
    pub end_within: Option<Duration>,
}

impl StateOrder {
    fn check(&self) -> Result<(), OperateError> {
        let nonsense = |text: &str| Err(OperateError::Nonsense(text.to_owned()));
        let leaves = matches!(self.state, AdminState::Drain | AdminState::Down);
        if self.fenced && self.state != AdminState::Down {
            return nonsense("only a disabled backend can be fenced");
        }
        match self.end_within {
            Some(_) if !leaves => nonsense("only `drain` and `disable` end sessions"),
            Some(_) if self.fenced => nonsense("a fenced backend's sessions are over at once"),
            Some(time) if time > END_WITHIN_MAX => nonsense("sessions end within a day at most"),
            _ => Ok(()),
        }
    }
}

impl Control {
    /// All backends.
    pub fn backends(&self) -> Backends {
        let snapshot = self.shared.snapshot.load();
        let shards = snapshot.config.shards.iter();
        let configured = shards.flat_map(|shard| snapshot.upstreams.of_shard(&shard.name));
        let mut backends: Vec<_> =
            configured.map(|backend| self.backend_report(backend, true)).collect();
        let mut retired: Vec<_> = snapshot
            .upstreams
            .all_backends()
            .filter(|backend| !is_configured(&snapshot, backend))
            .map(|backend| self.backend_report(backend, false))
            .filter(|report| report.sessions + report.connecting + report.unseen_ends > 0)
            .collect();
        retired.sort_by(|one, other| one.name.cmp(&other.name));
        backends.append(&mut retired);
        Backends { backends }
    }

    fn backend_report(&self, backend: &Backend, configured: bool) -> BackendReport {
        let counts = self.shared.registry.counts(backend.name());
        let set = backend.run_time_state().is_some();
        BackendReport {
            name: backend.name().to_string(),
            shard: backend.shard.name.to_string(),
            address: backend.config.place.to_string(),
            state: backend.admin_state().word().to_owned(),
            state_from: if set { "run-time" } else { "configuration" }.to_owned(),
            reachable: is_reachable(backend),
            configured,
            sessions: counts.live,
            connecting: counts.connecting,
            unseen_ends: counts.unseen,
        }
    }

    /// Gives a backend another state, at once and over restarts.
    ///
    /// # Errors
    /// Among others where nobody of the shard could log in any more, unless forced.
    pub async fn set_backend_state(
        self: &Arc<Self>,
        caller: Caller,
        name: &str,
        order: StateOrder,
    ) -> Result<StateReport, OperateError> {
        let result = self.change_state(name, order).await;
        let call = match order.state {
            AdminState::Up => "resume",
            AdminState::Drain => "drain",
            AdminState::Standby => "standby",
            AdminState::Down if order.fenced => "disable --fenced",
            AdminState::Down => "disable",
        };
        self.audit(caller, call, Subject::Backend(name), &result);
        result
    }

    async fn change_state(
        self: &Arc<Self>,
        name: &str,
        order: StateOrder,
    ) -> Result<StateReport, OperateError> {
        order.check()?;
        let changing = self.changing_state.lock().await;
        let snapshot = self.shared.snapshot.load_full();
        let unknown = || OperateError::UnknownBackend(name.to_owned());
        let backend = snapshot.upstreams.backend(&BackendId::new(name)).ok_or_else(unknown)?;
        if !order.force {
            self.check_others(&snapshot, &backend, order.state)?;
        }
        let before = backend.admin_state();
        // What the file says anyway needs no row that would outlive its next change.
        let stored = (order.state != backend.config.state).then_some(order.state);
        let changed = self.run_time.set_state(backend.name(), stored).await?;
        drop(changing);
        let sessions = self.shared.registry.counts(backend.name()).live;
        if order.fenced {
            self.fence(&backend).await;
        } else {
            self.fenced().remove(backend.name());
        }
        match order.end_within {
            Some(within) => self.empty(backend.name(), within).await,
            None if takes_users(order.state) => self.refill(backend.name()).await,
            None => {}
        }
        Ok(StateReport {
            backend: name.to_owned(),
            shard: backend.shard.name.to_string(),
            state: order.state.word().to_owned(),
            changed: changed == Changed::Yes && before != order.state,
            sessions,
            end_within_seconds: order.end_within.map(|time| time.as_secs()),
            fenced: order.fenced,
        })
    }

    /// Refuses to take the last backend from a shard.
    fn check_others(
        &self,
        snapshot: &Snapshot,
        backend: &Backend,
        state: AdminState,
    ) -> Result<(), OperateError> {
        let leaves = matches!(state, AdminState::Drain | AdminState::Down);
        if !leaves || !is_configured(snapshot, backend) {
            return Ok(());
        }
        let of_shard = snapshot.upstreams.of_shard(&backend.shard.name);
        let others = || of_shard.iter().filter(|other| other.name() != backend.name());
        if others().any(|other| is_usable(other)) {
            return Ok(());
        }
        let of_state = |state| others().filter(|other| other.admin_state() == state).count();
        let off = [("draining", AdminState::Drain), ("down", AdminState::Down)];
        let mut why: Vec<String> = off
            .into_iter()
            .map(|(word, state)| (word, of_state(state)))
            .filter(|(_, count)| *count > 0)
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        let unreachable =
            others().count() - of_state(AdminState::Drain) - of_state(AdminState::Down);
        if unreachable > 0 {
            why.push(format!("{unreachable} unreachable"));
        }
        let others = if why.is_empty() { "there is no other".to_owned() } else { why.join(", ") };
        Err(OperateError::NeedsForce(format!(
            "{:?} is the last of the {} backends of shard {:?} that can take users ({others}), and \
             {} sessions are on it: no new user of the shard could log in",
            backend.name().as_str(),
            of_shard.len(),
            backend.shard.name.as_str(),
            self.shared.registry.counts(backend.name()).live,
        )))
    }

    /// The backend is dead, says the operator: its sessions are over and bind nobody. Clients
    /// whose connections stand still are let go over some time.
    async fn fence(&self, backend: &Backend) {
        self.fenced().insert(backend.name().clone());
        self.shared.registry.fenced(backend.name());
        let sessions = self.sessions_on(backend.name());
        // Its users come back all the same, and not all at once.
        let spread = self.shared.snapshot.load().config.upstream.disconnect_spread;
        let ending = Ending {
            reason: CloseReason::Fenced,
            bye: DRAIN_BYE,
            border: Border::Response,
            spread,
            grace: Duration::ZERO,
            backend_is_gone: true,
        };
        self.workers.end_sessions(&sessions, ending).await;
    }

    /// Of backends that are fenced, ends that come late bind nobody either. To be called now
    /// and then.
    pub(super) fn free_of_fenced(&self) {
        let snapshot = self.shared.snapshot.load();
        self.fenced().retain(|name| {
            let backend = snapshot.upstreams.backend(name);
            let down = backend.is_some_and(|backend| backend.admin_state() == AdminState::Down);
            if down && self.shared.registry.counts(name).unseen > 0 {
                self.shared.registry.fenced(name);
            }
            down
        });
    }
}

fn is_configured(snapshot: &Snapshot, backend: &Backend) -> bool {
    let of_shard = snapshot.upstreams.of_shard(&backend.shard.name);
    of_shard.iter().any(|known| known.name() == backend.name())
}

/// Whether new users may go there now.
pub(super) fn is_usable(backend: &Backend) -> bool {
    takes_users(backend.admin_state()) && is_reachable(backend)
}

/// Whether nothing speaks against its serving.
pub(super) fn is_reachable(backend: &Backend) -> bool {
    !backend.is_down() && !backend.skipped(Instant::now())
}
