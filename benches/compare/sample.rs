//! Measured values, and the arithmetic on them.

use std::time::Duration;

/// One value of one metric, measured once.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// What was done, e.g. `login, TLS`.
    pub(crate) work: String,
    /// What was measured, e.g. `CPU per login`.
    pub(crate) metric: &'static str,
    /// The unit of the value.
    pub(crate) unit: &'static str,
    /// The value.
    pub(crate) value: f64,
}

/// The samples of one measurement, all of one work.
pub(crate) struct Samples {
    work: String,
    /// In the order of the report.
    pub(crate) list: Vec<Sample>,
}

impl Samples {
    /// Samples of `work`.
    pub(crate) fn of(work: String) -> Self {
        Self { work, list: Vec::new() }
    }

    /// Adds a value.
    pub(crate) fn add(&mut self, metric: &'static str, unit: &'static str, value: f64) {
        self.list.push(Sample { work: self.work.clone(), metric, unit, value });
    }

    /// Adds p50, p99 and the number of stalls of a set of latencies.
    pub(crate) fn add_latencies(&mut self, mut latencies: Vec<Duration>) {
        latencies.sort_unstable();
        self.add("latency p50", "µs", micros(quantile(&latencies, 50)));
        self.add("latency p99", "µs", micros(quantile(&latencies, 99)));
        let stalls = latencies.iter().filter(|latency| **latency >= STALL).count();
        self.add(STALLS, "≥ 35 ms", float(stalls));
    }
}

/// The metric that counts answers that came after [`STALL`] or later.
pub(crate) const STALLS: &str = "stalls";
/// A wait this long is no scheduling noise: Nagle's algorithm against a delayed ACK takes 40 ms.
const STALL: Duration = Duration::from_millis(35);

/// The value below which `percent` of the sorted `latencies` lie.
fn quantile(latencies: &[Duration], percent: usize) -> Duration {
    let last = latencies.len().saturating_sub(1);
    latencies.get(last * percent / 100).copied().unwrap_or_default()
}

/// The middle value, or the mean of the two middle ones. Zero for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        at(half)
    } else {
        f64::midpoint(at(half.saturating_sub(1)), at(half))
    }
}

/// A duration in microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A count as a number that can be divided.
pub(crate) fn float(count: usize) -> f64 {
    // Counts here are far below 2^32; a larger one would only lose its last digits.
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
