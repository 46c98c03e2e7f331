//! All of one configuration's backends, by shard and by name, with those that left it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::{Backend, Shard, State};
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::names::{BackendId, ShardId, UserName};
use crate::net::resolve::Resolver;
use crate::net::tls::{ClientTls, TlsError, TrustStores};
use crate::protocol::capability::CapabilityFilter;
use crate::routing::Route;
use crate::upstream::capacity::{Gate, GateSettings};
use crate::upstream::choice::{self, Candidate, Candidates};
use crate::upstream::warm::WarmPool;

/// All shards and backends of one configuration.
#[derive(Debug, Default)]
pub struct Upstreams {
    shards: HashMap<ShardId, (Arc<Shard>, Vec<Arc<Backend>>)>,
    backends: HashMap<BackendId, Arc<Backend>>,
    /// Backends of former configurations that sessions still use: a user with open
    /// sessions joins them even after a reload took the backend out of the file.
    retired: HashMap<BackendId, Arc<Backend>>,
}

impl Upstreams {
    /// Makes the backends of a configuration; what `former` learnt is kept by name.
    pub fn build(
        config: &Config,
        former: &Self,
        resolver: &Resolver,
        metrics: &Metrics,
    ) -> Result<Self, TlsError> {
        let mut made = Self::default();
        let mut stores = TrustStores::default();
        for shard_config in &config.shards {
            let shard = Arc::new(Shard {
                name: shard_config.name.clone(),
                kind: shard_config.kind,
                balance: shard_config.balance,
                failover: shard_config.failover.clone(),
                slow_start: shard_config.slow_start,
                filter: CapabilityFilter::new(shard_config.capabilities.as_deref()),
                metrics: metrics.shard(&shard_config.name),
            });
            let mut backends = Vec::with_capacity(shard_config.backends.len());
            for backend in &shard_config.backends {
                let state = former.state_of(&backend.name);
                let gate = GateSettings {
                    logins_max: backend.logins_max,
                    queue_max: config.upstream.login_queue,
                    wait: config.upstream.login_queue_wait,
                };
                let made_backend = Arc::new(Backend {
                    tls: ClientTls::for_backend_with(backend, &mut stores)?,
                    addresses: resolver.follow(&backend.place),
                    metrics: metrics.backend(&shard.name, &backend.name),
                    warm: former.warm_of(backend),
                    config: backend.clone(),
                    shard: Arc::clone(&shard),
                    gate: former.gate_of(&backend.name, gate),
                    state,
                });
                made.backends.insert(backend.name.clone(), Arc::clone(&made_backend));
                backends.push(made_backend);
            }
            made.shards.insert(shard.name.clone(), (shard, backends));
        }
        made.retire_missing(former);
        Ok(made)
    }

    /// Opens what the backends of a configuration name (authorities), keeps nothing, and
    /// says what is wrong, a file that several backends name once.
    pub fn faults(config: &Config) -> Vec<TlsError> {
        let mut faults: Vec<TlsError> = Vec::new();
        let mut stores = TrustStores::default();
        let mut told = HashSet::new();
        for backend in config.shards.iter().flat_map(|shard| &shard.backends) {
            let loaded = ClientTls::for_backend_with(backend, &mut stores);
            faults.extend(loaded.err().filter(|fault| told.insert(fault.to_string())));
        }
        faults
    }

    /// The gate that the backend had, where its bounds are the same: who passed it counts.
    fn gate_of(&self, name: &BackendId, settings: GateSettings) -> Arc<Gate> {
        let known = self.backends.get(name).or_else(|| self.retired.get(name));
        let same = known.filter(|known| known.gate.settings() == settings);
        same.map_or_else(|| Arc::new(Gate::new(settings)), |known| Arc::clone(&known.gate))
    }

    /// The connections that are ready for the backend, where nothing of it has changed.
    fn warm_of(&self, backend: &config::Backend) -> Option<Arc<WarmPool>> {
        let size = backend.warm_connections?;
        let known = self.backends.get(&backend.name).filter(|known| known.config == *backend);
        let kept = known.and_then(|known| known.warm.clone());
        Some(kept.unwrap_or_else(|| Arc::new(WarmPool::new(size, backend.warm_age_max))))
    }

    fn state_of(&self, name: &BackendId) -> Arc<State> {
        let known = self.backends.get(name).or_else(|| self.retired.get(name));
        known.map_or_else(|| Arc::new(State::new()), |known| Arc::clone(&known.state))
    }

    /// Keeps the backends that the file no longer names: at first all, for the logins under
    /// way, then those with sessions. A session may hold the backend of any generation; the
    /// state is what all of them share.
    fn retire_missing(&mut self, former: &Self) {
        let in_use = |backend: &Arc<Backend>| {
            Arc::strong_count(backend) > 1 || Arc::strong_count(&backend.state) > 1
        };
        let older = former.retired.iter().filter(|(_, backend)| in_use(backend));
        let missing = former
            .backends
            .iter()
            .chain(older)
            .filter(|(name, _)| !self.backends.contains_key(*name))
            .map(|(name, backend)| (name.clone(), Arc::clone(backend)));
        self.retired = missing.collect();
    }

    /// Keeps of the backends that a former configuration no longer named also those where
    /// somebody may have a session still: a user who is bound to one could never log in.
    pub fn keep_bound(&mut self, former: &Self, is_bound: impl Fn(&BackendId) -> bool) {
        for (name, backend) in &former.retired {
            if !self.backends.contains_key(name) && is_bound(name) {
                self.retired.entry(name.clone()).or_insert_with(|| Arc::clone(backend));
            }
        }
    }

    /// The backend of that name, also one of a former configuration while sessions
    /// still use it.
    pub fn backend(&self, name: &BackendId) -> Option<Arc<Backend>> {
        self.backends.get(name).cloned().or_else(|| self.retired.get(name).cloned())
    }

    /// All backends of the present configuration.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.values()
    }

    /// The shards with their backends.
    pub fn shards(&self) -> impl Iterator<Item = (&Arc<Shard>, &[Arc<Backend>])> {
        self.shards.values().map(|(shard, backends)| (shard, backends.as_slice()))
    }

    /// The same, and those of former configurations that are still kept.
    pub fn all_backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.values().chain(self.retired.values())
    }

    /// The backends of a shard in file order; none when there is no such shard.
    pub fn of_shard(&self, shard: &ShardId) -> &[Arc<Backend>] {
        self.shards.get(shard).map_or(&[], |(_, backends)| backends)
    }

    /// The backends that may take new sessions of a route, in the order of trying.
    pub fn candidates_of(&self, route: &Route, now: Instant) -> Candidates {
        let mut candidates = self.candidates(&route.shard, &route.routing_key, now);
        if let Some(only) = &route.backend {
            candidates.first.append(&mut candidates.standby);
            candidates.first.retain(|candidate| candidate == only);
        }
        candidates
    }

    /// The shard's backends that may take a new user, in the order of trying for that key;
    /// none when there is no such shard.
    pub fn candidates(&self, shard: &ShardId, key: &UserName, now: Instant) -> Candidates {
        let Some((shard, backends)) = self.shards.get(shard) else {
            return Candidates::default();
        };
        let list: Vec<Candidate<'_>> = backends
            .iter()
            .map(|backend| Candidate {
                name: backend.name(),
                weight: backend.config.weight,
                share: backend.share(now),
                state: backend.admin_state(),
                skipped: backend.skipped(now),
                down: backend.is_down(),
                sessions: backend.state.seats.taken(),
                full: backend
                    .config
                    .sessions_max
                    .is_some_and(|max| backend.state.seats.taken() >= max),
            })
            .collect();
        choice::candidates(shard.balance, key, &list)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(backends: &[&str]) -> Config {
        let backend = |name: &&str| format!("{{ name: {name}, address: \"h:1\", tls: none }}");
        let backends: Vec<String> = backends.iter().map(backend).collect();
        let text = format!(
            "listeners: [ {{ name: c, address: \"127.0.0.1:1\", tls: none }} ]\n\
             shards: {{ s: {{ kind: shared, backends: [ {} ] }} }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\nstore: {{ path: /nowhere }}\n",
            backends.join(", ")
        );
        Config::parse(Path::new("test.yaml"), &text).unwrap()
    }

    #[tokio::test]
    async fn a_backend_that_left_the_file_is_kept_while_somebody_may_be_on_it() {
        let metrics = Metrics::register().unwrap();
        let resolver =
            Resolver::with_ask(Arc::clone(&metrics), |_| Box::pin(std::future::pending()));
        let next = |former: &Upstreams, backends: &[&str], bound: &[&str]| {
            let mut made =
                Upstreams::build(&config(backends), former, &resolver, &metrics).unwrap();
            made.keep_bound(former, |name| bound.contains(&name.as_str()));
            made
        };
        let gone = BackendId::new("b");
        let first = next(&Upstreams::default(), &["a", "b"], &[]);
        let second = next(&first, &["a"], &[]);
        drop(first);
        assert!(second.backend(&gone).is_some(), "for the logins under way");
        let third = next(&second, &["a"], &["b"]);
        drop(second);
        assert!(third.backend(&gone).is_some(), "a user is bound to it");
        let fourth = next(&third, &["a"], &[]);
        drop(third);
        assert!(fourth.backend(&gone).is_none());
        let fifth = next(&fourth, &["a", "b"], &["b"]);
        assert_eq!(fifth.backends().count(), 2);
        assert_eq!(fifth.all_backends().count(), 2);
    }
}
