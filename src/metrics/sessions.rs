//! What sessions are doing, why they end, and what clients do wrong.

use prometheus::{IntCounterVec, IntGauge, Result};

use super::families::Families;
use super::labels::Limit;
use super::series::{Reasons, SessionGauge};

/// Sessions by what they do, over all listeners and shards.
pub struct SessionMetrics {
    idle: IntGauge,
    opaque: IntGauge,
    held: IntGauge,
    route_pending: IntGauge,
    closed: Reasons,
    client_errors: Reasons,
    limit_hits: IntCounterVec,
}

impl SessionMetrics {
    pub(super) fn register(families: &Families<'_>) -> Result<Self> {
        let closed = families.counters(
            "pointsman_sessions_closed_total",
            "Client connections that ended, by reason.",
            &["reason"],
        )?;
        let client_errors = families.counters(
            "pointsman_client_errors_total",
            "What clients did wrong: failed TLS handshakes, bad syntax, lost framing.",
            &["reason"],
        )?;
        let limit_hits = families.counters(
            "pointsman_limit_hits_total",
            "How often something was refused for a limit.",
            &["limit"],
        )?;
        for limit in Limit::ALL {
            // Born at once, so that `increase()` sees the first hit.
            limit_hits.with_label_values(&[limit.label()]);
        }
        Ok(Self {
            idle: families.gauge("pointsman_idle_sessions", "Sessions inside IDLE.")?,
            opaque: families.gauge(
                "pointsman_opaque_sessions",
                "Sessions whose server direction is no longer parsed.",
            )?,
            held: families.gauge("pointsman_held_sessions", "Sessions whose login waits.")?,
            route_pending: families.gauge(
                "pointsman_route_pending_sessions",
                "Sessions on another shard than their user's present route.",
            )?,
            closed: Reasons::new(&closed, &[]),
            client_errors: Reasons::new(&client_errors, &[]),
            limit_hits,
        })
    }

    /// Counts a session inside IDLE until the guard is dropped.
    pub fn idle(&self) -> SessionGauge {
        SessionGauge::enter(&self.idle)
    }

    /// Counts an opaque session until the guard is dropped.
    pub fn opaque(&self) -> SessionGauge {
        SessionGauge::enter(&self.opaque)
    }

    /// Counts a session whose login waits until the guard is dropped.
    pub fn held(&self) -> SessionGauge {
        SessionGauge::enter(&self.held)
    }

    /// Counts a session that joined its user's other sessions against the present route,
    /// until the guard is dropped.
    pub fn route_pending(&self) -> SessionGauge {
        SessionGauge::enter(&self.route_pending)
    }

    /// A client connection ended; `reason` is the label of a closed enum of reasons.
    pub fn closed(&self, reason: &'static str) {
        self.closed.count(reason);
    }

    /// A client did something wrong; `reason` is the `reason()` of a closed error enum.
    pub fn client_error(&self, reason: &'static str) {
        self.client_errors.count(reason);
    }

    /// Something was refused for a limit.
    pub fn limit_hit(&self, limit: Limit) {
        self.limit_hits.with_label_values(&[limit.label()]).inc();
    }
}
