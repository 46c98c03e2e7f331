//! Which configuration is in force, with its users maps, and how long its certificates last.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result};

use super::families::Families;
use super::labels::ReloadResult;
use super::series::lock;

/// Reloads, users maps and certificates.
pub struct ConfigMetrics {
    reloads: IntCounterVec,
    generation: IntGauge,
    last_success: IntGauge,
    last_success_timestamp: IntGauge,
    users_map_errors: IntCounter,
    certificate_expiry: IntGaugeVec,
    certificates: Mutex<BTreeSet<String>>,
}

impl ConfigMetrics {
    pub(super) fn register(families: &Families<'_>) -> Result<Self> {
        let reloads = families.counters(
            "pointsman_config_reloads_total",
            "Reloads of the configuration, by result.",
            &["result"],
        )?;
        for result in ReloadResult::ALL {
            // Born at once, so that `increase()` sees the first refusal.
            reloads.with_label_values(&[result.label()]);
        }
        Ok(Self {
            reloads,
            generation: families.gauge(
                "pointsman_config_generation",
                "Number of the configuration in force; it grows by one with each reload applied.",
            )?,
            last_success: families.gauge(
                "pointsman_config_last_reload_success",
                "Whether the last reading of the configuration was applied: 1, else 0.",
            )?,
            last_success_timestamp: families.gauge(
                "pointsman_config_last_reload_success_timestamp_seconds",
                "When the configuration in force was applied, in seconds since 1970.",
            )?,
            users_map_errors: families.counter(
                "pointsman_users_map_errors_total",
                "Generations of compiled users maps that could not be taken up.",
            )?,
            certificate_expiry: families.gauges(
                "pointsman_certificate_expiry_timestamp_seconds",
                "When a listener certificate expires, in seconds since 1970.",
                &["name"],
            )?,
            certificates: Mutex::new(BTreeSet::new()),
        })
    }

    /// The configuration of the start is in force. Not counted as a reload.
    pub fn started(&self, generation: u64, at: SystemTime) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.last_success.set(1);
        self.last_success_timestamp.set(unix_seconds(at));
    }

    /// A reload was applied and is now this generation.
    pub fn reload_applied(&self, generation: u64, at: SystemTime) {
        self.started(generation, at);
        self.reloads.with_label_values(&[ReloadResult::Applied.label()]).inc();
    }

    /// A reload was refused; the former configuration stays in force.
    pub fn reload_refused(&self) {
        self.last_success.set(0);
        self.reloads.with_label_values(&[ReloadResult::Refused.label()]).inc();
    }

    /// A new generation of a users map was not taken up; the former one serves.
    pub fn users_map_refused(&self) {
        self.users_map_errors.inc();
    }

    /// The certificates in force, each with its configured name and expiry in seconds since
    /// 1970. The series of all others end.
    pub fn set_certificates<'a>(&self, in_force: impl IntoIterator<Item = (&'a str, i64)>) {
        let mut known = lock(&self.certificates);
        let mut ended = std::mem::take(&mut *known);
        for (name, expiry) in in_force {
            self.certificate_expiry.with_label_values(&[name]).set(expiry);
            ended.remove(name);
            known.insert(name.to_owned());
        }
        for name in ended {
            // It is absent only if it has been removed already, which is the aim.
            let _ = self.certificate_expiry.remove_label_values(&[name.as_str()]);
        }
    }
}

fn unix_seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
