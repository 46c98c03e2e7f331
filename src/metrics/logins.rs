//! How long the parts of a login and its lookups take.

use std::array;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntGauge, IntGaugeVec, Result};

use super::families::Families;
use super::labels::{LookupResult, LookupSource, Stage};
use super::series::{Life, Series, SessionGauge};

/// Time spent in logins, over all listeners and shards.
pub struct LoginMetrics {
    life: Life,
    stage_family: HistogramVec,
    lookup_family: HistogramVec,
    breakers: IntGaugeVec,
    stages: [Series<Histogram>; Stage::COUNT],
    lookups: [[Series<Histogram>; LookupResult::COUNT]; LookupSource::COUNT],
}

impl LoginMetrics {
    pub(super) fn register(families: &Families<'_>) -> Result<Self> {
        Ok(Self {
            life: Life::new(),
            stage_family: families.seconds_by(
                "pointsman_login_seconds",
                "Time spent in each stage of a login.",
                &["stage"],
            )?,
            lookup_family: families.seconds_by(
                "pointsman_lookup_seconds",
                "Time of routing lookups, by kind of source and result.",
                &["source", "result"],
            )?,
            breakers: families.gauges(
                "pointsman_lookup_breakers_open",
                "Lookups that are not asked for a while since they failed too often.",
                &["source"],
            )?,
            stages: array::from_fn(|_| Series::unborn()),
            lookups: array::from_fn(|_| array::from_fn(|_| Series::unborn())),
        })
    }

    /// A stage of a login is over, well or not.
    pub fn stage(&self, stage: Stage, elapsed: Duration) {
        if let Some(histogram) = self.stage_series(stage) {
            histogram.observe(elapsed.as_secs_f64());
        }
    }

    /// A lookup answered.
    pub fn lookup(&self, source: LookupSource, result: LookupResult, elapsed: Duration) {
        if let Some(histogram) = self.lookup_series(source, result) {
            histogram.observe(elapsed.as_secs_f64());
        }
    }

    /// The count of open breakers of that kind of lookup; its series is born here.
    pub fn breakers(&self, source: LookupSource) -> OpenBreakers {
        OpenBreakers(self.breakers.with_label_values(&[source.label()]))
    }

    fn stage_series(&self, stage: Stage) -> Option<&Histogram> {
        let series = self.stages.get(stage.index())?;
        series.born(&self.life, || self.stage_family.with_label_values(&[stage.label()]))
    }

    fn lookup_series(&self, source: LookupSource, result: LookupResult) -> Option<&Histogram> {
        let series = self.lookups.get(source.index())?.get(result.index())?;
        let labels = [source.label(), result.label()];
        series.born(&self.life, || self.lookup_family.with_label_values(&labels))
    }
}

/// How many breakers of one kind of lookup are open.
#[derive(Debug, Clone)]
pub struct OpenBreakers(IntGauge);

impl OpenBreakers {
    /// Counts one that opened, until the guard is dropped.
    pub fn enter(&self) -> SessionGauge {
        SessionGauge::enter(&self.0)
    }
}
