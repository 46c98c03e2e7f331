//! The proxy as a whole, for operators.

use super::Control;
use super::backends::is_usable;
use super::report::{ListenerReport, ShardReport, Status};
use crate::config;
use crate::drain::Phase;
use crate::proxy::shared::Snapshot;

impl Control {
    /// How the proxy is.
    pub fn status(&self) -> Status {
        let snapshot = self.shared.snapshot.load();
        let listeners = snapshot.config.listeners.iter().map(|listener| ListenerReport {
            name: listener.name.clone(),
            address: listener.address.to_string(),
        });
        let shards = snapshot.config.shards.iter();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            phase: if self.is_ending() { "draining" } else { "running" }.to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: snapshot.generation,
            configuration: self.path.display().to_string(),
            connections: self.drain.running_count(),
            sessions: self.shared.registry.live(),
            users: self.shared.registry.users(),
            remembered: self.shared.registry.remembered(),
            pins: self.shared.overrides.pins(),
            blocked: self.shared.overrides.blocks(),
            store_revision: self.run_time.revision(),
            listeners: listeners.collect(),
            shards: shards.map(|shard| self.shard_report(&snapshot, shard)).collect(),
        }
    }

    /// Whether the process is about to end.
    pub(super) fn is_ending(&self) -> bool {
        self.drain.phase() > Phase::Running
    }

    fn shard_report(&self, snapshot: &Snapshot, shard: &config::Shard) -> ShardReport {
        let backends = snapshot.upstreams.of_shard(&shard.name);
        let counts = backends.iter().map(|backend| self.shared.registry.counts(backend.name()));
        ShardReport {
            name: shard.name.to_string(),
            backends: backends.len(),
            usable: backends.iter().filter(|backend| is_usable(backend)).count(),
            sessions: counts.map(|counts| counts.live).sum(),
        }
    }
}
