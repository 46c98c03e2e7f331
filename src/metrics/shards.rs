//! What happens on a shard's sessions: commands and bytes. This is the hot path.

use std::array;
use std::fmt;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result,
};

use super::catalogue::Handles;
use super::families::Families;
use super::labels::{CommandStatus, Direction};
use super::series::{Life, Series};
use crate::names::ShardId;
use crate::protocol::command_kind::CommandKind;

const KINDS: usize = CommandKind::ALL.len();

/// The families that every shard shares.
#[derive(Clone)]
pub(super) struct ShardFamilies {
    command_seconds: HistogramVec,
    first_byte_seconds: HistogramVec,
    commands: IntCounterVec,
    bytes: IntCounterVec,
    capabilities_differ: IntGaugeVec,
}

impl ShardFamilies {
    pub(super) fn register(families: &Families<'_>) -> Result<Self> {
        Ok(Self {
            command_seconds: families.seconds_by(
                "pointsman_command_seconds",
                "Time from a command's last byte to its tagged answer; IDLE is never in it.",
                &["command", "shard"],
            )?,
            first_byte_seconds: families.seconds_by(
                "pointsman_command_first_byte_seconds",
                "Time from a command's last byte to the first byte of the backend's answer.",
                &["command", "shard"],
            )?,
            commands: families.counters(
                "pointsman_commands_total",
                "Commands answered after login, by the tagged answer.",
                &["command", "shard", "status"],
            )?,
            bytes: families.counters(
                "pointsman_bytes_total",
                "Bytes relayed after login, counted inside TLS.",
                &["direction", "shard"],
            )?,
            capabilities_differ: families.gauges(
                "pointsman_shard_capabilities_differ",
                "Whether the backends of a shard list different capabilities: 1, else 0.",
                &["shard"],
            )?,
        })
    }
}

/// One shard's series. Each is born at its first observation, so an idle shard costs none;
/// observations take no lock and look nothing up.
pub struct ShardHandles {
    name: ShardId,
    families: ShardFamilies,
    life: Life,
    command_seconds: [Series<Histogram>; KINDS],
    first_byte_seconds: [Series<Histogram>; KINDS],
    commands: [[Series<IntCounter>; CommandStatus::COUNT]; KINDS],
    bytes: [Series<IntCounter>; Direction::COUNT],
    capabilities_differ: Series<IntGauge>,
}

impl ShardHandles {
    pub(super) fn new(name: &ShardId, families: &ShardFamilies) -> Self {
        Self {
            name: name.clone(),
            families: families.clone(),
            life: Life::new(),
            command_seconds: array::from_fn(|_| Series::unborn()),
            first_byte_seconds: array::from_fn(|_| Series::unborn()),
            commands: array::from_fn(|_| array::from_fn(|_| Series::unborn())),
            bytes: array::from_fn(|_| Series::unborn()),
            capabilities_differ: Series::unborn(),
        }
    }

    /// The shard they are of.
    pub fn name(&self) -> &ShardId {
        &self.name
    }

    /// A command got its tagged answer. `elapsed` runs from the client's last byte of it;
    /// `None` where it was not timed (more than 64 in flight). IDLE is counted only.
    pub fn command_finished(
        &self,
        kind: CommandKind,
        status: CommandStatus,
        elapsed: Option<Duration>,
    ) {
        if let Some(counter) = self.command_counter(kind, status) {
            counter.inc();
        }
        if let Some(elapsed) = elapsed {
            self.observe(&self.command_seconds, &self.families.command_seconds, kind, elapsed);
        }
    }

    /// The first byte of the backend's answer to a command came. Nothing for IDLE.
    pub fn first_byte(&self, kind: CommandKind, elapsed: Duration) {
        self.observe(&self.first_byte_seconds, &self.families.first_byte_seconds, kind, elapsed);
    }

    /// Bytes were handed on.
    pub fn relayed(&self, direction: Direction, bytes: u64) {
        if let Some(counter) = self.byte_counter(direction) {
            counter.inc_by(bytes);
        }
    }

    /// Sets whether checks found that the backends list different capabilities. The series
    /// is born here.
    pub fn set_capabilities_differ(&self, differ: bool) {
        let family = &self.families.capabilities_differ;
        let make = || family.with_label_values(&[self.name.as_str()]);
        if let Some(gauge) = self.capabilities_differ.born(&self.life, make) {
            gauge.set(i64::from(differ));
        }
    }

    fn command_counter(&self, kind: CommandKind, status: CommandStatus) -> Option<&IntCounter> {
        let series = self.commands.get(kind.index())?.get(status.index())?;
        let labels = [kind.label(), self.name.as_str(), status.label()];
        series.born(&self.life, || self.families.commands.with_label_values(&labels))
    }

    fn byte_counter(&self, direction: Direction) -> Option<&IntCounter> {
        let series = self.bytes.get(direction.index())?;
        let labels = [direction.label(), self.name.as_str()];
        series.born(&self.life, || self.families.bytes.with_label_values(&labels))
    }

    fn observe(
        &self,
        table: &[Series<Histogram>; KINDS],
        family: &HistogramVec,
        kind: CommandKind,
        elapsed: Duration,
    ) {
        if kind == CommandKind::Idle {
            return; // It lasts as long as the client likes and says nothing of the backend.
        }
        if let Some(histogram) = table.get(kind.index()).and_then(|series| {
            let labels = [kind.label(), self.name.as_str()];
            series.born(&self.life, || family.with_label_values(&labels))
        }) {
            histogram.observe(elapsed.as_secs_f64());
        }
    }
}

impl fmt::Debug for ShardHandles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardHandles").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Handles for ShardHandles {
    /// Never: a shard's series end at once with its configuration.
    fn busy(&self) -> bool {
        false
    }

    fn end(&self) {
        self.life.end(|| {
            let shard = self.name.as_str();
            // Removing a series that was never born is an error without meaning here.
            for kind in CommandKind::ALL {
                let _ = self.families.command_seconds.remove_label_values(&[kind.label(), shard]);
                let _ =
                    self.families.first_byte_seconds.remove_label_values(&[kind.label(), shard]);
                for status in CommandStatus::ALL {
                    let labels = [kind.label(), shard, status.label()];
                    let _ = self.families.commands.remove_label_values(&labels);
                }
            }
            let _ = self.families.capabilities_differ.remove_label_values(&[shard]);
            for direction in Direction::ALL {
                let _ = self.families.bytes.remove_label_values(&[direction.label(), shard]);
            }
        });
    }
}
