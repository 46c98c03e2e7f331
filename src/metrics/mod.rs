//! Prometheus metrics: handles made once, resolved by name at login or reload, observed
//! without lock or lookup. `docs/metrics.md` describes every family.

mod backends;
mod catalogue;
mod configuration;
mod dns;
mod families;
mod labels;
mod listeners;
mod logins;
mod series;
mod sessions;
mod shards;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, Result, TextEncoder};

pub use self::backends::BackendHandles;
pub use self::configuration::ConfigMetrics;
pub use self::dns::DnsMetrics;
pub use self::labels::{
    BackendState, CommandStatus, Direction, DnsResult, Limit, LoginMechanism, LoginResult,
    LookupResult, LookupSource, ReloadResult, Stage,
};
pub use self::listeners::ListenerHandles;
pub use self::logins::{LoginMetrics, OpenBreakers};
pub use self::series::SessionGauge;
pub use self::sessions::SessionMetrics;
pub use self::shards::ShardHandles;
use crate::names::{BackendId, ShardId};
use catalogue::Catalogue;
use families::Families;

/// All metrics of one process, in a registry of their own. Shared as `Arc<Metrics>`.
pub struct Metrics {
    registry: Registry,
    /// Time spent in logins and lookups.
    pub logins: LoginMetrics,
    /// What sessions do, why they end, what clients do wrong, limits.
    pub sessions: SessionMetrics,
    /// Reloads, users maps and certificates.
    pub config: ConfigMetrics,
    /// Lookups of backends' names.
    pub dns: DnsMetrics,
    shard_families: shards::ShardFamilies,
    backend_families: backends::BackendFamilies,
    listener_families: listeners::ListenerFamilies,
    shards: Catalogue<ShardId, ShardHandles>,
    backends: Catalogue<(ShardId, BackendId), BackendHandles>,
    listeners: Catalogue<String, ListenerHandles>,
}

impl Metrics {
    /// Makes and registers every family.
    ///
    /// # Errors
    /// Only when two families share a name or a name is illegal: a fault of this module.
    pub fn register() -> Result<Arc<Self>> {
        let registry = Registry::new();
        let families = Families(&registry);
        let metrics = Self {
            logins: LoginMetrics::register(&families)?,
            sessions: SessionMetrics::register(&families)?,
            config: ConfigMetrics::register(&families)?,
            dns: DnsMetrics::register(&families)?,
            shard_families: shards::ShardFamilies::register(&families)?,
            backend_families: backends::BackendFamilies::register(&families)?,
            listener_families: listeners::ListenerFamilies::register(&families)?,
            shards: Catalogue::new(),
            backends: Catalogue::new(),
            listeners: Catalogue::new(),
            registry: registry.clone(),
        };
        let build = families.gauges(
            "pointsman_build_info",
            "Always 1; the labels say which build this is.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Arc::new(metrics))
    }

    /// A shard's handles, made at the first call. Takes a lock: for logins and reloads.
    pub fn shard(&self, name: &ShardId) -> Arc<ShardHandles> {
        self.shards.resolve(name, || ShardHandles::new(name, &self.shard_families))
    }

    /// A backend's handles, made at the first call. Takes a lock: for logins and reloads.
    pub fn backend(&self, shard: &ShardId, name: &BackendId) -> Arc<BackendHandles> {
        let key = (shard.clone(), name.clone());
        self.backends.resolve(&key, || BackendHandles::new(shard, name, &self.backend_families))
    }

    /// A listener's handles, made at the first call. Takes a lock: for start and reloads.
    pub fn listener(&self, name: &str) -> Arc<ListenerHandles> {
        let make = || ListenerHandles::new(name, &self.listener_families);
        self.listeners.resolve(&name.to_owned(), make)
    }

    /// Ends the series of every shard that is not listed. Handles that sessions still hold
    /// stay usable; what they observe is no longer exported. For after each reload.
    pub fn retain_shards(&self, configured: &[ShardId]) {
        let configured: HashSet<_> = configured.iter().collect();
        self.shards.retain(|name| configured.contains(name));
    }

    /// Ends the series of every backend that is not listed, with its shard; those with
    /// sessions follow when the last has ended. For after each reload.
    pub fn retain_backends(&self, configured: &[(ShardId, BackendId)]) {
        let configured: HashSet<_> = configured.iter().collect();
        self.backends.retain(|key| configured.contains(key));
    }

    /// Ends the series of every listener that is not listed; those with sessions follow
    /// when the last has ended. For after each reload.
    pub fn retain_listeners(&self, configured: &[&str]) {
        self.listeners.retain(|name| configured.contains(&name.as_str()));
    }

    /// All series in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// When the encoder refuses a family: a fault of this module.
    pub fn encode(&self) -> Result<String> {
        self.backends.sweep();
        self.listeners.sweep();
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
