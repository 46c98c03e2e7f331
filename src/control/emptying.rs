//! Ending a backend's sessions over a time, as `drain` and `disable` may ask for, and letting
//! them stay where it takes users again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Control;
use crate::names::BackendId;
use crate::proxy::orders::{Border, CloseReason, Ending};
use crate::proxy::registry::SessionHandle;
use crate::upstream::backends::AdminState;

/// How often a backend that is being emptied is looked at for sessions that joined meanwhile.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What a session of an emptied backend is told.
pub(super) const DRAIN_BYE: &str =
    "[UNAVAILABLE] The server is taken out of service, please reconnect.";

/// How many orders to empty it, and to let its sessions stay, each backend had: the latest
/// counts. Locked while sessions are told, so that they hear of no former one behind it. As
/// many as names were ever configured.
pub(super) type Orders = Mutex<HashMap<BackendId, u64>>;

impl Control {
    /// Ends a backend's sessions over that time, also those that join meanwhile, until it takes
    /// users again or another such order comes.
    pub(super) async fn empty(self: &Arc<Self>, name: &BackendId, within: Duration) {
        let end = Instant::now() + within;
        let number = next_number(&mut *self.emptying.lock().await, name);
        let (control, name) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            while let Some(pause) = control.sweep(&name, number, end).await {
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// A backend takes users again: its sessions stay, but those whose turn has come.
    pub(super) async fn refill(&self, name: &BackendId) {
        let mut orders = self.emptying.lock().await;
        let backend = self.shared.snapshot.load().upstreams.backend(name);
        // A later order may have taken its users away again meanwhile.
        if backend.is_none_or(|backend| takes_users(backend.admin_state())) {
            next_number(&mut orders, name);
            self.withdraw(name).await;
        }
    }

    /// Gives the order to the sessions that are there, and says when to look again, where that
    /// is to be.
    async fn sweep(&self, name: &BackendId, number: u64, end: Instant) -> Option<Duration> {
        let orders = self.emptying.lock().await;
        if orders.get(name) != Some(&number) {
            return None;
        }
        // The one in force: the file that named the former one may be another by now.
        let backend = self.shared.snapshot.load().upstreams.backend(name)?;
        if takes_users(backend.admin_state()) {
            self.withdraw(name).await;
            return None;
        }
        let left = end.saturating_duration_since(Instant::now());
        let ending = Ending {
            reason: CloseReason::BackendDrain,
            bye: DRAIN_BYE,
            border: Border::Command,
            // The last ones need a moment for their command to end.
            spread: left.mul_f64(0.8),
            grace: left.mul_f64(0.2),
            backend_is_gone: false,
        };
        self.workers.end_sessions(&self.sessions_on(name), ending).await;
        (!left.is_zero()).then(|| left.min(SWEEP_PAUSE))
    }

    async fn withdraw(&self, name: &BackendId) {
        self.workers.withdraw(&self.sessions_on(name)).await;
    }

    /// Where a backend's sessions live.
    pub(super) fn sessions_on(&self, name: &BackendId) -> Vec<SessionHandle> {
        let rows = self.shared.registry.sessions_of_backend(name);
        rows.into_iter().map(|row| row.handle).collect()
    }
}

/// Whether a backend in that state is one whose sessions may stay.
pub(super) const fn takes_users(state: AdminState) -> bool {
    matches!(state, AdminState::Up | AdminState::Standby)
}

fn next_number(orders: &mut HashMap<BackendId, u64>, name: &BackendId) -> u64 {
    let number = orders.entry(name.clone()).or_default();
    *number += 1;
    *number
}
