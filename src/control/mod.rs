//! The one door for everything that changes a running proxy: building a snapshot from
//! a configuration, swapping it in, shutting down.

mod audit;
mod backends;
mod emptying;
mod error;
mod fences;
mod health;
mod hook;
mod locate;
mod rename;
pub mod report;
mod route;
mod run_time;
mod sessions;
mod stated;
mod status;
mod users;
mod users_map;
mod warm;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::{Config, ConfigErrors, Failover, Object};
use crate::drain::{Drain, Phase};
use crate::metrics::Metrics;
use crate::names::{BackendId, ShardId};
use crate::net::listen::{self, BindError};
use crate::net::resolve::{Resolver, ResolverError};
use crate::net::tls::{ServerTls, TlsError};
use crate::proxy::shared::{Shared, Snapshot};
use crate::proxy::{Acceptor, BoundListener, Workers};
use crate::routing::maps::Maps;
use crate::routing::overrides::Overrides;
use crate::routing::slots::hash_shards;
use crate::routing::{RoutingError, SlotError, SlotTable, Surroundings, Table};
use crate::store::{EmbeddedStore, StoreError, TopologyStore};
use crate::upstream::backends::Upstreams;

pub use self::audit::Caller;
use self::audit::Subject;
pub use self::backends::{END_WITHIN_MAX, StateOrder};
pub use self::error::{Blame, OperateError};
pub use self::rename::follow_rules;
pub use self::run_time::{ChangeError, LoadError, RunTime, Stated, States};
pub use self::sessions::{Kick, SESSIONS_MAX, Selection};
pub use self::users::USERS_MAX;
pub use self::users_map::{UsersMapError, build_users_map};
pub use crate::upstream::backends::AdminState;

/// How long names may take at start and at a reload; what is missing then is found in
/// the background.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a late end may bind a user to a fenced backend.
const FENCED_KEPT_EVERY: Duration = Duration::from_secs(1);

/// Why a configuration was not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The file itself.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A certificate, key or authority file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A users file.
    #[error(transparent)]
    Routing(#[from] RoutingError),
    /// The slot table.
    #[error(transparent)]
    Slots(#[from] SlotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name servers.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// A port that is taken, or may not be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No thread could be started.
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
}

impl ApplyError {
    /// Whether the configuration, or a file that it names, is at fault (exit code 64),
    /// not the machine.
    pub const fn is_configuration(&self) -> bool {
        !matches!(self, Self::Bind(_) | Self::Store(_) | Self::Thread(_))
    }
}

/// The parts that outlive a configuration.
#[derive(Debug)]
pub struct Foundation {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Addresses of backends.
    pub resolver: Resolver,
    /// The embedded store.
    pub store: EmbeddedStore,
    /// Pins, which decide the shard whatever the lookups say.
    pub overrides: Arc<Overrides>,
    /// The users maps that are open.
    pub maps: Maps,
}

impl Foundation {
    /// Makes everything that a configuration names, or says what is wrong. Nothing in
    /// force changes, and nothing is written. What the former snapshot has learnt, and its
    /// connections to directories, are taken over where the configuration of them is the same.
    pub async fn snapshot(
        &self,
        config: Config,
        former: Option<&Snapshot>,
        generation: u64,
    ) -> Result<Snapshot, ApplyError> {
        let config = Arc::new(config);
        let slots = match hash_shards(&config.routing) {
            Some(shards) => SlotTable::planned(&self.store.snapshot().await?, shards),
            None => Ok(SlotTable::unassigned()),
        };
        let resolver = self.resolver.reconfigured(&config.dns).await?;
        let around = Surroundings {
            runtime: Handle::current(),
            metrics: Arc::clone(&self.metrics),
            maps: self.maps.clone(),
            resolver: resolver.clone(),
            former: former.map(|former| former.table.former(Arc::clone(&former.config))),
        };
        let (config, loaded) = load_files(config, slots, generation, around).await?;
        let (tls, table) = loaded?;
        let table = table.with_pins(Arc::clone(&self.overrides));
        let none = Upstreams::default();
        let known = former.map_or(&none, |former| &former.upstreams);
        let upstreams = Upstreams::build(&config, known, &resolver, &self.metrics)?;
        for place in resolver.resolve_now(RESOLVE_TIME_MAX).await {
            tracing::warn!(place, "a server's name has no address yet; it is asked again");
        }
        Ok(Snapshot { generation, config, table, upstreams, tls })
    }
}

impl Foundation {
    /// Writes the first assignment of hash slots, where a configuration that is taken
    /// needs one. The store is this process's alone, so it is the one that was planned.
    async fn assign_slots(&self, config: &Config) -> Result<(), ApplyError> {
        if let Some(shards) = hash_shards(&config.routing) {
            SlotTable::load_or_assign(&self.store, shards).await?;
        }
        Ok(())
    }
}

/// What is loaded of the files that a configuration names.
type Loaded = (Option<ServerTls>, Table);

/// Loads what a configuration names, or tells every fault. A users file of millions takes
/// seconds: signals and scrapes must not wait for it.
async fn load_files(
    config: Arc<Config>,
    slots: Result<SlotTable, SlotError>,
    generation: u64,
    around: Surroundings,
) -> Result<(Arc<Config>, Result<Loaded, ApplyError>), ApplyError> {
    let load = tokio::task::spawn_blocking(move || {
        let loaded = load_or_tell_all(&config, &slots, generation, &around);
        (config, loaded)
    });
    load.await.map_err(|error| ApplyError::Thread(io::Error::other(error)))
}

/// The files are read a second time only to tell all that is wrong.
fn load_or_tell_all(
    config: &Config,
    slots: &Result<SlotTable, SlotError>,
    generation: u64,
    around: &Surroundings,
) -> Result<Loaded, ApplyError> {
    // Without slots a `hash` lookup is refused.
    let table = slots.as_ref().map_or_else(|_| SlotTable::unassigned(), Clone::clone);
    load(config, &table, generation, around).or_else(|error| {
        locate::refusal(locate::faults(config, slots, &around.maps))?;
        // Mended between the two readings: the next try will do.
        Err(error)
    })
}

fn load(
    config: &Config,
    slots: &SlotTable,
    generation: u64,
    around: &Surroundings,
) -> Result<Loaded, ApplyError> {
    if let Some(fault) = Upstreams::faults(config).into_iter().next() {
        return Err(fault.into());
    }
    locate::refusal(
        [locate::passwords(config), locate::programs(config), locate::authorities(config)].concat(),
    )?;
    let tls = locate::wants_tls(config).then(|| ServerTls::load(&config.tls)).transpose()?;
    Ok((tls, Table::load(config, slots, generation, around)?))
}

/// Checks a configuration alone; opens nothing that it names.
pub fn check_syntax(path: &Path) -> Result<Config, ApplyError> {
    Config::load(path).map_err(ApplyError::from)
}

/// Checks a configuration and every file that it names, and changes nothing.
pub fn check(path: &Path) -> Result<Config, ApplyError> {
    let config = Config::load(path)?;
    let slots = match hash_shards(&config.routing) {
        Some(shards) => SlotTable::planned(&EmbeddedStore::peek(&config.store.path)?, shards),
        None => Ok(SlotTable::unassigned()),
    };
    locate::refusal(locate::faults(&config, &slots, &Maps::default()))?;
    Ok(config)
}

/// Changes a running proxy.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    foundation: Foundation,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    acceptor: Acceptor,
    drain: Drain,
    run_time: Arc<RunTime<EmbeddedStore>>,
    started: Instant,
    /// Backends that are dead by the operator's word.
    fenced: SyncMutex<HashSet<BackendId>>,
    /// The orders to empty backends.
    emptying: emptying::Orders,
    /// One configuration at a time.
    changing: Mutex<()>,
    /// One backend's state at a time: whether a backend is the last of its shard is asked
    /// before, and must hold until the change is in force.
    changing_state: Mutex<()>,
}

/// The listening sockets of a configuration that are not open yet.
fn bind_new(config: &Config, open: &HashSet<SocketAddr>) -> Result<Vec<BoundListener>, BindError> {
    config
        .listeners
        .iter()
        .map(|listener| {
            let socket =
                if open.contains(&listener.address) { None } else { Some(listen::bind(listener)?) };
            Ok(BoundListener { config: Arc::new(listener.clone()), socket })
        })
        .collect()
}

fn addresses(config: &Config) -> HashSet<SocketAddr> {
    config.listeners.iter().map(|listener| listener.address).collect()
}

impl Control {
    /// Opens the listeners of the first snapshot and takes charge.
    pub async fn start(
        path: PathBuf,
        foundation: Foundation,
        shared: Arc<Shared>,
        workers: Arc<Workers>,
        run_time: RunTime<EmbeddedStore>,
    ) -> Result<Arc<Self>, ApplyError> {
        let snapshot = shared.snapshot.load_full();
        run_time.show_on(&snapshot.upstreams);
        let listeners = bind_new(&snapshot.config, &HashSet::new())?;
        foundation.assign_slots(&snapshot.config).await?;
        let acceptor = Acceptor::start(Arc::clone(&shared), Arc::clone(&workers))
            .map_err(ApplyError::Thread)?;
        acceptor.listen(listeners).await;
        shared.metrics.config.started(snapshot.generation, SystemTime::now());
        publish(&shared.metrics, &snapshot);
        let control = Arc::new(Self {
            path,
            foundation,
            workers,
            acceptor,
            drain: shared.drain.clone(),
            shared,
            run_time: Arc::new(run_time),
            started: Instant::now(),
            fenced: SyncMutex::default(),
            emptying: Mutex::default(),
            changing: Mutex::new(()),
            changing_state: Mutex::new(()),
        });
        tokio::spawn(health::watch_forever(
            Arc::clone(&control.shared),
            Arc::clone(&control.workers),
        ));
        tokio::spawn(warm::keep_forever(Arc::clone(&control.shared)));
        tokio::spawn(keep_fenced(Arc::clone(&control)));
        let (run_time, shared) = (Arc::clone(&control.run_time), Arc::clone(&control.shared));
        tokio::spawn(async move { run_time.follow(shared.as_ref()).await });
        Ok(control)
    }

    fn fenced(&self) -> MutexGuard<'_, HashSet<BackendId>> {
        self.fenced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reload that an operator asked for.
    ///
    /// # Errors
    /// Where the configuration is refused; the former one stays.
    pub async fn reload_for(&self, caller: Caller) -> Result<report::Reloaded, OperateError> {
        let result = if self.is_ending() {
            Err(OperateError::Ending)
        } else {
            self.reload().await.map_err(OperateError::Reload)
        };
        self.audit(caller, "reload", Subject::Proxy, &result);
        result.map(|generation| report::Reloaded { generation })
    }

    /// Reads the configuration again: all of it is taken, or nothing and the reason is
    /// logged. Sessions in progress are not touched.
    pub async fn reload(&self) -> Result<u64, ApplyError> {
        let _one = self.changing.lock().await;
        let result = self.apply().await;
        match &result {
            Ok(generation) => {
                self.shared.metrics.config.reload_applied(*generation, SystemTime::now());
                tracing::info!(generation, "configuration reloaded");
            }
            Err(error) => {
                self.shared.metrics.config.reload_refused();
                tell(error);
            }
        }
        result
    }

    async fn apply(&self) -> Result<u64, ApplyError> {
        let former = self.shared.snapshot.load_full();
        let config = Config::load(&self.path)?;
        if config.store != former.config.store {
            return Err(locate::needs_restart(&config, "store.path", &Object::StorePath));
        }
        if config.admin.address != former.config.admin.address {
            return Err(locate::needs_restart(&config, "admin.address", &Object::AdminAddress));
        }
        if config.admin.socket != former.config.admin.socket {
            return Err(locate::needs_restart(&config, "admin.socket", &Object::AdminSocket));
        }
        if config.log.format != former.config.log.format {
            return Err(locate::needs_restart(&config, "log.format", &Object::LogFormat));
        }
        // Sessions, pins and blocks go by the canonical name.
        let (was, is) = (&former.config.routing, &config.routing);
        if is.canonical != was.canonical {
            return Err(locate::needs_restart(&config, "routing.canonical", &Object::Canonical));
        }
        if is.default_domain != was.default_domain {
            let (key, object) = ("routing.default_domain", Object::DefaultDomain);
            return Err(locate::needs_restart(&config, key, &object));
        }
        let generation = former.generation + 1;
        let mut snapshot = self.foundation.snapshot(config, Some(&former), generation).await?;
        snapshot.upstreams.keep_bound(&former.upstreams, |name| {
            let counts = self.shared.registry.counts(name);
            counts.live + counts.connecting + counts.unseen > 0
        });
        let listeners = bind_new(&snapshot.config, &addresses(&former.config))?;
        self.foundation.assign_slots(&snapshot.config).await?;
        // From here on nothing can fail.
        // The level was read when the file was checked.
        let _ = self.shared.telemetry.apply(&snapshot.config.log);
        self.run_time.show_on(&snapshot.upstreams);
        publish(&self.shared.metrics, &snapshot);
        snapshot.table.doubt_all();
        let snapshot = Arc::new(snapshot);
        self.shared.snapshot.store(Arc::clone(&snapshot));
        // What was said between the two is in force too.
        self.run_time.show_on(&snapshot.upstreams);
        self.acceptor.listen(listeners).await;
        Ok(generation)
    }

    /// Ends the proxy as the configuration says: `/readyz` is 503 already; listeners
    /// stay open for `lame_duck`, then sessions get their BYE spread over the drain
    /// time. Returns when the last session has ended.
    pub async fn shut_down(&self) {
        self.drain.advance(Phase::Draining);
        let times = self.shared.snapshot.load().config.shutdown.clone();
        tokio::time::sleep(times.lame_duck).await;
        self.acceptor.close();
        // The last ones need a moment for their command to end.
        let spread = times.drain.mul_f64(0.8);
        self.workers.drain(spread, times.drain).await;
        let grace = times.drain + Duration::from_secs(12);
        let waited = tokio::time::timeout(grace, self.drain.wait_idle()).await;
        if waited.is_err() {
            tracing::warn!(sessions = self.drain.running_count(), "sessions cut at the end");
        }
        self.drain.advance(Phase::Ending);
    }
}

/// Each fault has a line of its own: the log cuts long ones.
fn tell(error: &ApplyError) {
    if let ApplyError::Config(errors) = error {
        for fault in &errors.faults {
            tracing::error!(%fault, "fault in the configuration");
        }
    }
    tracing::error!(%error, "configuration refused, the former one stays");
}

fn show_backends(snapshot: &Snapshot) {
    let now = Instant::now();
    snapshot.upstreams.backends().for_each(|backend| backend.show_up(now));
}

/// Ends that come late bind nobody to a backend that is fenced.
async fn keep_fenced(control: Arc<Control>) {
    loop {
        tokio::time::sleep(FENCED_KEPT_EVERY).await;
        control.free_of_fenced();
    }
}

/// What an operator gave up must not be forgotten.
fn warn_of_unfenced(config: &Config) {
    for shard in config.shards.iter().filter(|shard| shard.failover == Failover::Unfenced) {
        tracing::warn!(
            shard = %shard.name,
            "failover_unfenced: when a backend hangs, one user may be on two backends"
        );
    }
}

/// Brings the metrics' closed sets in line with the snapshot.
fn publish(metrics: &Metrics, snapshot: &Snapshot) {
    let config = &snapshot.config;
    let shards: Vec<ShardId> = config.shards.iter().map(|shard| shard.name.clone()).collect();
    let backends: Vec<(ShardId, BackendId)> = config
        .shards
        .iter()
        .flat_map(|shard| {
            shard.backends.iter().map(|backend| (shard.name.clone(), backend.name.clone()))
        })
        .collect();
    let listeners: Vec<&str> = config.listeners.iter().map(|l| l.name.as_str()).collect();
    metrics.retain_shards(&shards);
    metrics.retain_backends(&backends);
    metrics.retain_listeners(&listeners);
    show_backends(snapshot);
    warn_of_unfenced(config);
    let certificates = snapshot.tls.iter().flat_map(ServerTls::certificates);
    metrics.config.set_certificates(certificates.map(|c| (c.name.as_str(), c.not_after)));
}
