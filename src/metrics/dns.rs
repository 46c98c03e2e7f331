//! Lookups of backends' names.

use prometheus::{IntCounter, IntCounterVec, Result};

use super::families::Families;
use super::labels::DnsResult;

/// Lookups of backends' names, by their end.
pub struct DnsMetrics {
    lookups: IntCounterVec,
}

impl DnsMetrics {
    pub(super) fn register(families: &Families<'_>) -> Result<Self> {
        let lookups = families.counters(
            "pointsman_dns_lookups_total",
            "Lookups of backends' names that ended, by result.",
            &["result"],
        )?;
        let metrics = Self { lookups };
        for &result in DnsResult::ALL {
            // Born at once, so that `increase()` sees the first failure.
            metrics.of(result);
        }
        Ok(metrics)
    }

    /// A lookup of one backend's name ended, whatever it took to make it.
    pub fn lookup_ended(&self, result: DnsResult) {
        self.of(result).inc();
    }

    fn of(&self, result: DnsResult) -> IntCounter {
        self.lookups.with_label_values(&[result.label()])
    }
}
