//! Where a user's next login would go, and why: the steps of a login without a login. It asks
//! what a login asks (the lookups, the choice among the backends, the registry) but reserves
//! nothing and dials no backend.

use std::time::Duration;

use tokio::time::Instant;

use super::backends::is_reachable;
use super::report::{CandidateReport, LookupReport, PresentReport, RouteAnswer, RouteReport};
use super::{Control, OperateError};
use crate::metrics::LookupSource;
use crate::names::{BackendId, UserName};
use crate::proxy::registry::{Placement, Preview, ReserveError};
use crate::proxy::shared::Snapshot;
use crate::routing::query::Query;
use crate::routing::{Route, Step, hashing};
use crate::upstream::backends::{AdminState, Backend};
use crate::upstream::choice::Candidates;

/// The reasons that a failed login's log line would have.
const BLOCKED: &str = "blocked";
const DISABLED: &str = "backend_disabled";

impl Control {
    /// Explains where a user's next login would go.
    ///
    /// # Errors
    /// A name that no user can have.
    pub async fn route(&self, typed: &str) -> Result<RouteReport, OperateError> {
        let user = self.user(typed)?;
        let snapshot = self.shared.snapshot.load_full();
        let mut lookups = Vec::new();
        let query = Query { typed: typed.as_bytes(), ..Query::of_user(&user) };
        let routed = snapshot.table.route(&query, |step| lookups.push(lookup_report(step))).await;
        let mut report = RouteReport {
            user: user.to_string(),
            blocked: self.shared.overrides.is_blocked(&user),
            lookups,
            route: None,
            candidates: Vec::new(),
            present: None,
            route_pending: false,
            backend: None,
            reason: BLOCKED.to_owned(),
        };
        match routed {
            Ok(route) => self.explain(&snapshot, &user, &route, &mut report),
            Err(error) => {
                let now = Instant::now();
                report.present =
                    self.shared.registry.placement(&user, now).as_ref().map(present_report);
                if !report.blocked {
                    error.reason().clone_into(&mut report.reason);
                }
            }
        }
        Ok(report)
    }

    /// From the lookups' answer on.
    fn explain(
        &self,
        snapshot: &Snapshot,
        user: &UserName,
        route: &Route,
        report: &mut RouteReport,
    ) {
        let now = Instant::now();
        let registry = &self.shared.registry;
        let candidates = snapshot.upstreams.candidates_of(route, now);
        let placement = registry.placement(&route.user, now);
        let preview = registry.preview(&route.user, &route.shard, &candidates.first, now);
        report.route = Some(route_answer(user, route));
        report.candidates = self.candidate_reports(snapshot, route, &candidates);
        let elsewhere = |placement: &Placement| placement.binds_elsewhere(&route.shard);
        report.route_pending = placement.as_ref().is_some_and(elsewhere);
        report.present = placement.as_ref().map(present_report);
        report.blocked |= self.shared.overrides.is_blocked(&route.user);
        if report.blocked {
            return;
        }
        let Some(Preview { backend, reason }) = preview else {
            ReserveError::NoCandidate.reason().clone_into(&mut report.reason);
            return;
        };
        if is_disabled(snapshot, &backend) {
            // Only sessions lead there: candidates are not disabled.
            DISABLED.clone_into(&mut report.reason);
            return;
        }
        report.backend = Some(backend.to_string());
        reason.word().clone_into(&mut report.reason);
    }

    fn candidate_reports(
        &self,
        snapshot: &Snapshot,
        route: &Route,
        candidates: &Candidates,
    ) -> Vec<CandidateReport> {
        let in_turn: Vec<&BackendId> = candidates.first.iter().chain(&candidates.standby).collect();
        let turn = |name: &BackendId| in_turn.iter().position(|candidate| *candidate == name);
        let report = |backend: &Backend| CandidateReport {
            backend: backend.name().to_string(),
            turn: turn(backend.name()).map(|place| place + 1),
            state: backend.admin_state().word().to_owned(),
            reachable: is_reachable(backend),
            sessions: self.shared.registry.counts(backend.name()).live,
        };
        let of_shard = snapshot.upstreams.of_shard(&route.shard);
        let mut reports: Vec<_> = of_shard.iter().map(|backend| report(backend)).collect();
        // Stable: those without a turn stay in file order, behind the others.
        reports.sort_by_key(|report| report.turn.unwrap_or(usize::MAX));
        reports
    }
}

fn is_disabled(snapshot: &Snapshot, name: &BackendId) -> bool {
    let backend = snapshot.upstreams.backend(name);
    backend.is_some_and(|backend| backend.admin_state() == AdminState::Down)
}

fn lookup_report(step: Step) -> LookupReport {
    LookupReport {
        lookup: step.source.label().to_owned(),
        place: step.place.map(|place| place + 1),
        result: step.result.label().to_owned(),
        microseconds: micros(step.elapsed),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn route_answer(user: &UserName, route: &Route) -> RouteAnswer {
    RouteAnswer {
        lookup: route.source.label().to_owned(),
        slot: (route.source == LookupSource::Hash).then(|| hashing::slot(user)),
        shard: route.shard.to_string(),
        only_backend: route.backend.as_ref().map(ToString::to_string),
        identity: route.user.to_string(),
        routing_key: route.routing_key.to_string(),
        generation: route.generation,
    }
}

fn present_report(placement: &Placement) -> PresentReport {
    PresentReport {
        shard: placement.shard.to_string(),
        backend: placement.backend.to_string(),
        connecting: placement.connecting,
        sessions: placement.live,
        unseen_ends: placement.unseen,
        remembered_seconds: placement.remembered.map(|left| left.as_secs()),
    }
}
