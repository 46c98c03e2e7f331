//! Single series: born at first use, ended with their owner, counted by guards.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge};

/// Most distinct reasons of one owner; further ones count as `other`. Reasons come from
/// the closed sets of error types, so this is a second wall, not the first.
const REASONS_MAX: usize = 32;

/// Locks without caring about a panic elsewhere: what lies behind is never half written.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the series of one shard, backend or listener are still exported.
pub(super) struct Life(Mutex<bool>);

impl Life {
    pub(super) fn new() -> Self {
        Self(Mutex::new(true))
    }

    /// Ends it, and removes the series under the lock: a birth at the same time is either
    /// seen by `remove` or does not happen.
    pub(super) fn end(&self, remove: impl FnOnce()) {
        let mut exported = lock(&self.0);
        *exported = false;
        remove();
    }
}

/// One series, born at its first use. After the owner's end it is never born, and
/// observations on a born one are no longer exported.
pub(super) struct Series<T>(OnceLock<Option<T>>);

impl<T> Series<T> {
    pub(super) const fn unborn() -> Self {
        Self(OnceLock::new())
    }

    /// The series; the lock is taken once in its life.
    pub(super) fn born(&self, life: &Life, make: impl FnOnce() -> T) -> Option<&T> {
        self.0
            .get_or_init(|| {
                let exported = lock(&life.0);
                exported.then(make)
            })
            .as_ref()
    }
}

/// A place in a gauge: taken when made, given back when dropped.
#[derive(Debug)]
#[must_use = "the gauge falls again as soon as this is dropped"]
pub struct SessionGauge(IntGauge);

impl SessionGauge {
    pub(super) fn enter(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for SessionGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counters by reason, for things that go wrong: not for the relay's path, since each
/// count takes a lock.
pub(super) struct Reasons {
    family: IntCounterVec,
    labels_before: Vec<String>,
    known: Mutex<Option<BTreeMap<&'static str, IntCounter>>>,
}

impl Reasons {
    /// Counters of `family` whose last label is the reason, after `labels_before`.
    pub(super) fn new(family: &IntCounterVec, labels_before: &[&str]) -> Self {
        Self {
            family: family.clone(),
            labels_before: labels_before.iter().map(|&label| label.to_owned()).collect(),
            known: Mutex::new(Some(BTreeMap::new())),
        }
    }

    pub(super) fn count(&self, reason: &'static str) {
        let mut guard = lock(&self.known);
        let Some(known) = guard.as_mut() else { return };
        let full = known.len() >= REASONS_MAX && !known.contains_key(reason);
        let reason = if full { "other" } else { reason };
        known
            .entry(reason)
            .or_insert_with(|| self.family.with_label_values(&self.labels(reason)))
            .inc();
    }

    /// Removes every series of this owner; later counts are dropped.
    pub(super) fn end(&self) {
        for reason in lock(&self.known).take().unwrap_or_default().into_keys() {
            // It is absent only if somebody removed it before, which is the aim.
            let _ = self.family.remove_label_values(&self.labels(reason));
        }
    }

    fn labels<'a>(&'a self, reason: &'a str) -> Vec<&'a str> {
        self.labels_before.iter().map(String::as_str).chain([reason]).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use prometheus::core::Collector;

    use super::*;

    #[test]
    fn reasons_beyond_the_bound_count_as_other() {
        let family = IntCounterVec::new(Opts::new("failures_total", "x"), &["reason"]).unwrap();
        let reasons = Reasons::new(&family, &[]);
        for number in 0..100 {
            reasons.count(Box::leak(format!("r{number}").into_boxed_str()));
        }
        assert_eq!(family.collect()[0].get_metric().len(), REASONS_MAX + 1);
        assert_eq!(family.with_label_values(&["other"]).get(), 68);
        assert_eq!(family.with_label_values(&["r31"]).get(), 1);
    }

    #[test]
    fn ended_reasons_leave_no_series_and_are_not_born_again() {
        let opts = Opts::new("failures_total", "x");
        let family = IntCounterVec::new(opts, &["backend", "reason"]).unwrap();
        let (gone, stays) = (Reasons::new(&family, &["n1"]), Reasons::new(&family, &["n2"]));
        gone.count("timeout");
        stays.count("timeout");
        gone.end();
        gone.count("timeout");
        assert_eq!(family.collect()[0].get_metric().len(), 1);
        assert_eq!(family.with_label_values(&["n2", "timeout"]).get(), 1);
    }

    #[test]
    fn a_gauge_falls_when_its_guard_is_dropped() {
        let gauge = IntGauge::new("sessions", "x").unwrap();
        let first = SessionGauge::enter(&gauge);
        let second = SessionGauge::enter(&gauge);
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert_eq!(gauge.get(), 1);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_series_is_not_born_after_its_owner_ended() {
        let life = Life::new();
        let (early, late) = (Series::unborn(), Series::unborn());
        assert_eq!(early.born(&life, || 1), Some(&1));
        life.end(|| ());
        assert_eq!(early.born(&life, || 2), Some(&1));
        assert_eq!(late.born(&life, || 3), None);
    }
}
