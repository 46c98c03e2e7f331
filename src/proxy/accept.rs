//! The acceptor: one thread that owns every listening socket.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle as Task, LocalSet};

use crate::admission::{AtCap, DescriptorPermit, Places};
use crate::config;
use crate::metrics::{Limit, ListenerHandles};
use crate::net::sockets;
use crate::proxy::shared::Shared;
use crate::proxy::worker::Workers;

/// How long accepting pauses at the descriptor cap or when the kernel has none left.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause between two looks whether a dropped connection has made room.
const ROOM_PAUSE: Duration = Duration::from_millis(1);
/// How often that is looked at before another one is dropped.
const ROOM_LOOKS: u32 = 10;

/// A listener's socket with what the configuration says of it.
#[derive(Debug)]
pub struct BoundListener {
    /// Its settings.
    pub config: Arc<config::Listener>,
    /// The socket; `None` where the acceptor has it already.
    pub socket: Option<TcpListener>,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, not blocking.
    pub(super) socket: TcpStream,
    /// The other end.
    pub(super) peer: SocketAddr,
    /// Where it came in.
    pub(super) listener: Arc<ListenerState>,
    /// Its share of the descriptors.
    pub(super) permit: DescriptorPermit,
}

/// A listener as its connections see it.
#[derive(Debug)]
pub(super) struct ListenerState {
    pub(super) name: Arc<str>,
    pub(super) config: Arc<config::Listener>,
    pub(super) metrics: Arc<ListenerHandles>,
    /// Its connections, where the configuration limits them: by name, over reloads.
    pub(super) places: Arc<Places>,
}

/// New listeners, and where to say that they are in force.
type Orders = (Vec<BoundListener>, oneshot::Sender<()>);

/// The acceptor's thread and the way to tell it of other listeners.
#[derive(Debug)]
pub struct Acceptor {
    /// None once closed.
    orders: Mutex<Option<mpsc::UnboundedSender<Orders>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Acceptor {
    /// Starts the thread. It listens on nothing until [`Self::listen`].
    pub fn start(shared: Arc<Shared>, workers: Arc<Workers>) -> io::Result<Self> {
        let (orders, letters) = mpsc::unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("acceptor".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, run(shared, workers, letters));
        })?;
        Ok(Self { orders: Mutex::new(Some(orders)), thread: Mutex::new(Some(thread)) })
    }

    /// From now on these are the listeners: new sockets are taken, those of addresses
    /// that are not named are closed, the others get their new settings. Returns when that
    /// is done, so that a closed address can be opened again. After [`Self::close`] nothing
    /// happens.
    pub async fn listen(&self, listeners: Vec<BoundListener>) {
        let (done, in_force) = oneshot::channel();
        let orders = lock(&self.orders).clone();
        if orders.is_some_and(|orders| orders.send((listeners, done)).is_ok()) {
            let _ = in_force.await;
        }
    }

    /// Closes every listener and ends the thread.
    pub fn close(&self) {
        drop(lock(&self.orders).take());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listening address at work.
struct Open {
    settings: watch::Sender<Arc<ListenerState>>,
    task: Task<()>,
}

async fn run(
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    mut letters: mpsc::UnboundedReceiver<Orders>,
) {
    let mut open: HashMap<SocketAddr, Open> = HashMap::new();
    let mut places: HashMap<String, Arc<Places>> = HashMap::new();
    while let Some((listeners, done)) = letters.recv().await {
        let mut kept = HashMap::new();
        for BoundListener { config, socket } in listeners {
            let address = config.address;
            let state = Arc::new(ListenerState {
                name: Arc::from(config.name.as_str()),
                metrics: shared.metrics.listener(&config.name),
                places: Arc::clone(places.entry(config.name.clone()).or_default()),
                config,
            });
            match (open.remove(&address), socket) {
                (Some(there), _) => {
                    there.settings.send_replace(state);
                    kept.insert(address, there);
                }
                (None, Some(socket)) => {
                    let (settings, current) = watch::channel(state);
                    let work =
                        accept_all(socket, current, Arc::clone(&shared), Arc::clone(&workers));
                    kept.insert(address, Open { settings, task: tokio::task::spawn_local(work) });
                }
                (None, None) => {
                    tracing::error!(%address, "a listener without a socket was left out");
                }
            }
        }
        for gone in std::mem::replace(&mut open, kept).into_values() {
            gone.task.abort();
            // The socket is closed when the task has ended.
            let _ = gone.task.await;
        }
        // Shared by the listener or by a connection that is still there: not forgotten.
        places.retain(|_, counted| Arc::strong_count(counted) > 1);
        let _ = done.send(());
    }
    for last in open.into_values() {
        last.task.abort();
    }
}

async fn accept_all(
    socket: TcpListener,
    settings: watch::Receiver<Arc<ListenerState>>,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
) {
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "a listener cannot be watched");
            return;
        }
    };
    loop {
        match accept(&socket, &shared).await {
            Ok((stream, peer)) => {
                // Only now: an idle listener takes no permit and makes nobody leave. Those
                // who wait for one, one of each listener, use what is kept back.
                let permit = permit(&shared, &workers).await;
                let listener = settings.borrow().clone();
                let accepted = Accepted { socket: stream, peer, listener, permit };
                workers.hand_over(Box::new(accepted)).await;
            }
            Err(error) => pause_after(&error, &shared).await,
        }
    }
}

/// Waits until a descriptor may be used. At the share of connections that are not
/// logged in, the most silent of them makes room.
async fn permit(shared: &Shared, workers: &Workers) -> DescriptorPermit {
    let mut looks_until_drop = 0;
    loop {
        match shared.descriptors.acquire() {
            Ok(permit) => return permit,
            Err(AtCap::NotLoggedIn) => {
                if looks_until_drop == 0 {
                    shared.metrics.sessions.limit_hit(Limit::Unauthenticated);
                    workers.drop_most_silent();
                    looks_until_drop = ROOM_LOOKS;
                }
                looks_until_drop -= 1;
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            Err(AtCap::All) => {
                shared.metrics.sessions.limit_hit(Limit::Sessions);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The socket leaves this thread's reactor, since it will live in its worker's.
async fn accept(
    socket: &tokio::net::TcpListener,
    shared: &Shared,
) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = socket.accept().await?;
    // What a reload said is in force, and a socket that takes no options is over already.
    let _ = sockets::tune(&stream, shared.snapshot.load().config.limits.silence);
    Ok((stream.into_std()?, peer))
}

/// A connection that was gone before it was accepted is nothing; with no descriptors
/// left, trying again at once would only burn the processor.
async fn pause_after(error: &io::Error, shared: &Shared) {
    let gone = [io::ErrorKind::ConnectionAborted, io::ErrorKind::Interrupted];
    if gone.contains(&error.kind()) {
        return;
    }
    shared.metrics.sessions.limit_hit(Limit::Sessions);
    tracing::warn!(%error, "accepting pauses");
    tokio::time::sleep(PAUSE).await;
}
