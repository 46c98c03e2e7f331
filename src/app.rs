//! The composition root: the only file that knows every part.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{self, AdminSocket, AdminState, Readiness, SocketError};
use crate::admission::{AddressTable, DescriptorCap, Places, TooFewDescriptors};
use crate::config::Config;
use crate::control::{ApplyError, Control, Foundation, LoadError, RunTime, follow_rules};
use crate::drain::{Drain, Phase};
use crate::metrics::Metrics;
use crate::names::UserName;
use crate::net::resolve::Resolver;
use crate::net::sockets;
use crate::proxy::registry::Registry;
use crate::proxy::shared::{Shared, Snapshot};
use crate::proxy::{LoginsUnderWay, Workers};
use crate::routing::maps::Maps;
use crate::routing::overrides::Overrides;
use crate::store::EmbeddedStore;
use crate::telemetry::{self, TelemetryError};

/// Users whose backend is remembered after their last session, over all.
const STICKY_MAX: usize = 1_000_000;

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration, or something that it names.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// What operators said at run time.
    #[error(transparent)]
    RunTime(#[from] LoadError),
    /// The log.
    #[error("the log cannot be set up: {0}")]
    Telemetry(#[from] TelemetryError),
    /// The metrics.
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The admin address.
    #[error("admin.address {address} cannot be opened: {source}; is another process using it?")]
    Admin {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Not enough descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// Threads, signals.
    #[error("the system refused: {0}")]
    Io(#[from] io::Error),
}

impl StartError {
    /// The process's exit code: 64 where the configuration is at fault, else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Apply(error) if error.is_configuration() => 64,
            _ => 1,
        }
    }
}

/// Runs the proxy with that configuration until a signal ends it.
pub async fn serve(path: &Path) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let config = Config::load(path).map_err(ApplyError::from)?;
    let telemetry = telemetry::init(&config.log)?;
    let admin_listener = bind_admin(&config)?;
    let store = EmbeddedStore::open(&config.store.path).map_err(ApplyError::from)?;
    let metrics = Metrics::register()?;
    let resolver = Resolver::new(&config.dns, Arc::clone(&metrics)).await;
    let resolver = resolver.map_err(ApplyError::from)?;
    let socket = config.admin.socket.as_deref().map(AdminSocket::bind).transpose()?;
    let overrides = Arc::new(Overrides::default());
    let shown = |user: &UserName| telemetry.user(user);
    follow_rules(&store, &config.routing, shown).await.map_err(ApplyError::from)?;
    let run_time = RunTime::load(store.clone(), Arc::clone(&overrides)).await?;
    let pins = Arc::clone(&overrides);
    let maps = Maps::new(&config.store.path, Arc::clone(&metrics));
    tokio::spawn(maps.clone().watch_forever());
    let foundation = Foundation { metrics, resolver, store, overrides: pins, maps };
    let first = foundation.snapshot(config, None, 1).await?;

    let descriptors = sockets::raise_descriptor_limit();
    let drain = Drain::new();
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(first),
        overrides,
        registry: Registry::new(STICKY_MAX),
        logins: LoginsUnderWay::new(),
        addresses: AddressTable::new(),
        held_logins: Places::new(),
        descriptors: DescriptorCap::new(descriptors)?,
        metrics: Arc::clone(&foundation.metrics),
        telemetry,
        workers: OnceLock::new(),
        drain: drain.clone(),
    });
    let worker_count = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = Arc::new(Workers::start(worker_count, &shared)?);
    // Set once, here.
    let _ = shared.workers.set(Arc::clone(&workers));
    let readiness = Arc::new(Readiness::starting());
    let admin = admin_task(admin_listener, &shared, &readiness, &drain);
    let control =
        Control::start(path.to_owned(), foundation, Arc::clone(&shared), workers, run_time).await?;
    let api = socket.map(|socket| api_task(socket, &control, &drain));
    readiness.set_ready();
    announce(&shared.snapshot.load(), &shared.descriptors, worker_count);

    let gently = attend(&mut signals, &control).await;
    readiness.set_draining();
    if gently {
        tracing::info!("shutting down; a second signal ends at once");
        tokio::select! {
            () = control.shut_down() => {}
            () = signals.end() => tracing::warn!("ended at once"),
        }
    }
    drain.advance(Phase::Ending);
    for task in admin.into_iter().chain(api) {
        task.abort();
        // The socket's file is gone when the task is.
        let _ = task.await;
    }
    shared.telemetry.flush();
    Ok(())
}

/// Reloads on SIGHUP until a signal asks for the end; whether a gentle one.
async fn attend(signals: &mut Signals, control: &Control) -> bool {
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => tokio::select! {
                // Logged and counted inside. One that hangs holds up no end.
                _ = control.reload() => {}
                _ = signals.terminate.recv() => return true,
                _ = signals.interrupt.recv() => return false,
            },
            _ = signals.terminate.recv() => return true,
            _ = signals.interrupt.recv() => return false,
        }
    }
}

fn bind_admin(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = config.admin.address else { return Ok(None) };
    TcpListener::bind(address).map(Some).map_err(|source| StartError::Admin { address, source })
}

fn admin_task(
    listener: Option<TcpListener>,
    shared: &Shared,
    readiness: &Arc<Readiness>,
    drain: &Drain,
) -> Option<tokio::task::JoinHandle<()>> {
    let listener = listener?;
    let state = AdminState {
        metrics: Arc::clone(&shared.metrics),
        readiness: Arc::clone(readiness),
        host_names: Arc::from([]),
    };
    let drain = drain.clone();
    Some(tokio::spawn(async move {
        let ending = async move { drain.reached(Phase::Ending).await };
        if let Err(error) = admin::serve(listener, state, ending).await {
            tracing::error!(%error, "the admin listener stopped");
        }
    }))
}

fn api_task(
    socket: AdminSocket,
    control: &Arc<Control>,
    drain: &Drain,
) -> tokio::task::JoinHandle<()> {
    tracing::info!(path = %socket.path().display(), "the admin API listens");
    let (control, drain) = (Arc::clone(control), drain.clone());
    tokio::spawn(async move {
        let ending = async move { drain.reached(Phase::Ending).await };
        if let Err(error) = admin::serve_api(socket, control, ending).await {
            tracing::error!(%error, "the admin socket stopped");
        }
    })
}

fn announce(snapshot: &Snapshot, descriptors: &DescriptorCap, workers: usize) {
    for listener in &snapshot.config.listeners {
        tracing::info!(listener = listener.name, address = %listener.address, "listening");
    }
    tracing::info!(
        descriptors = descriptors.cap(),
        workers,
        shards = snapshot.config.shards.len(),
        version = env!("CARGO_PKG_VERSION"),
        "pointsman serves"
    );
    // Tells systemd, where the unit is of Type=notify; elsewhere it is nothing.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// The signals that the proxy knows.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// A second signal, of either kind.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
