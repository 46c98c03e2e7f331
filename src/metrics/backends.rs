//! What happens on one backend: its health, its connections, its failures.

use std::fmt;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Result};

use super::catalogue::Handles;
use super::families::Families;
use super::labels::BackendState;
use super::series::{Life, Reasons, Series, SessionGauge};
use crate::names::{BackendId, ShardId};

/// The families that every backend shares.
#[derive(Clone)]
pub(super) struct BackendFamilies {
    sessions: IntGaugeVec,
    up: IntGaugeVec,
    state: IntGaugeVec,
    connect_seconds: HistogramVec,
    failures: IntCounterVec,
    checks: IntCounterVec,
    fences: IntCounterVec,
    warm: IntGaugeVec,
    warm_looks: IntCounterVec,
}

impl BackendFamilies {
    pub(super) fn register(families: &Families<'_>) -> Result<Self> {
        Ok(Self {
            sessions: families.gauges(
                "pointsman_backend_sessions",
                "Sessions logged in on a backend.",
                &["shard", "backend"],
            )?,
            up: families.gauges(
                "pointsman_backend_up",
                "Whether a backend is believed to serve: 1, else 0.",
                &["shard", "backend"],
            )?,
            state: families.gauges(
                "pointsman_backend_state",
                "What the operator lets a backend do: 1 for its present state, 0 for the others.",
                &["shard", "backend", "state"],
            )?,
            connect_seconds: families.seconds_by(
                "pointsman_backend_connect_seconds",
                "Time to reach a backend: TCP and TLS, successful connections only.",
                &["shard", "backend"],
            )?,
            failures: families.counters(
                "pointsman_backend_failures_total",
                "Connections to a backend that failed before or after login, by reason.",
                &["shard", "backend", "reason"],
            )?,
            checks: families.counters(
                "pointsman_backend_checks_total",
                "Checks of a backend, by result.",
                &["shard", "backend", "result"],
            )?,
            fences: families.counters(
                "pointsman_backend_fences_total",
                "Runs of a backend's fence program, by result.",
                &["shard", "backend", "result"],
            )?,
            warm: families.gauges(
                "pointsman_backend_warm_connections",
                "Connections to a backend that are ready for a login.",
                &["shard", "backend"],
            )?,
            warm_looks: families.counters(
                "pointsman_backend_warm_looks_total",
                "Logins that looked for a warm connection, by result.",
                &["shard", "backend", "result"],
            )?,
        })
    }
}

/// One backend's series. When it leaves the configuration they stay until its last session
/// has ended, so that an operator sees it empty.
pub struct BackendHandles {
    shard: ShardId,
    name: BackendId,
    families: BackendFamilies,
    life: Life,
    sessions: IntGauge,
    up: Series<IntGauge>,
    /// In the order of [`BackendState::ALL`].
    state: Series<Vec<IntGauge>>,
    connect_seconds: Series<Histogram>,
    failures: Reasons,
    checks: Reasons,
    fences: Reasons,
    warm: Series<IntGauge>,
    warm_looks: Reasons,
}

impl BackendHandles {
    pub(super) fn new(shard: &ShardId, name: &BackendId, families: &BackendFamilies) -> Self {
        let labels = [shard.as_str(), name.as_str()];
        Self {
            shard: shard.clone(),
            name: name.clone(),
            families: families.clone(),
            life: Life::new(),
            sessions: families.sessions.with_label_values(&labels),
            up: Series::unborn(),
            state: Series::unborn(),
            connect_seconds: Series::unborn(),
            failures: Reasons::new(&families.failures, &labels),
            checks: Reasons::new(&families.checks, &labels),
            fences: Reasons::new(&families.fences, &labels),
            warm: Series::unborn(),
            warm_looks: Reasons::new(&families.warm_looks, &labels),
        }
    }

    /// The backend they are of.
    pub fn name(&self) -> &BackendId {
        &self.name
    }

    /// Counts a session on this backend until the guard is dropped.
    pub fn session(&self) -> SessionGauge {
        SessionGauge::enter(&self.sessions)
    }

    /// Sets whether the backend is believed to serve. The series is born here.
    pub fn set_up(&self, up: bool) {
        let make = || self.families.up.with_label_values(&self.labels());
        if let Some(gauge) = self.up.born(&self.life, make) {
            gauge.set(i64::from(up));
        }
    }

    /// Sets what the operator lets it do. The series are born here.
    pub fn set_state(&self, state: BackendState) {
        let gauge = |member: BackendState| {
            let [shard, name] = self.labels();
            self.families.state.with_label_values(&[shard, name, member.label()])
        };
        let make = || BackendState::ALL.iter().copied().map(gauge).collect();
        if let Some(gauges) = self.state.born(&self.life, make) {
            for (member, gauge) in BackendState::ALL.iter().zip(gauges) {
                gauge.set(i64::from(*member == state));
            }
        }
    }

    /// A connection stands: TCP and TLS took this long.
    pub fn connected(&self, elapsed: Duration) {
        let make = || self.families.connect_seconds.with_label_values(&self.labels());
        if let Some(histogram) = self.connect_seconds.born(&self.life, make) {
            histogram.observe(elapsed.as_secs_f64());
        }
    }

    /// Something failed on this backend; `reason` is the `reason()` of a closed error enum.
    pub fn failed(&self, reason: &'static str) {
        self.failures.count(reason);
    }

    /// A check ended; `result` is `ok` or the `reason()` of a closed error enum.
    pub fn checked(&self, result: &'static str) {
        self.checks.count(result);
    }

    /// The fence program ended; `result` as for [`Self::checked`].
    pub fn fenced(&self, result: &'static str) {
        self.fences.count(result);
    }

    /// A login looked for a warm connection; `result` is `hit`, `empty` or `stale`.
    pub fn looked_for_warm(&self, result: &'static str) {
        self.warm_looks.count(result);
    }

    /// Sets how many warm connections are ready. The series is born with the first one.
    pub fn set_warm(&self, ready: usize) {
        let make = || self.families.warm.with_label_values(&self.labels());
        if let Some(gauge) = self.warm.born(&self.life, make) {
            gauge.set(i64::try_from(ready).unwrap_or(i64::MAX));
        }
    }

    fn labels(&self) -> [&str; 2] {
        [self.shard.as_str(), self.name.as_str()]
    }
}

impl fmt::Debug for BackendHandles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendHandles").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Handles for BackendHandles {
    fn busy(&self) -> bool {
        self.sessions.get() > 0
    }

    fn end(&self) {
        self.failures.end();
        self.checks.end();
        self.fences.end();
        self.warm_looks.end();
        self.life.end(|| {
            // Removing a series that was never born is an error without meaning here.
            let _ = self.families.sessions.remove_label_values(&self.labels());
            let _ = self.families.warm.remove_label_values(&self.labels());
            let _ = self.families.up.remove_label_values(&self.labels());
            let [shard, name] = self.labels();
            for state in BackendState::ALL {
                let _ = self.families.state.remove_label_values(&[shard, name, state.label()]);
            }
            let _ = self.families.connect_seconds.remove_label_values(&self.labels());
        });
    }
}
