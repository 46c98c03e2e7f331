//! Worker threads: each runs the sessions given to it on a runtime of its own.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use crate::names::SessionId;
use crate::proxy::accept::Accepted;
use crate::proxy::connection;
use crate::proxy::orders::{Border, CloseReason, Ending, Order, SessionCell, SessionFacts};
use crate::proxy::reaper::Reaper;
use crate::proxy::registry::SessionHandle;
use crate::proxy::shared::Shared;

/// Messages that may wait at a worker. A worker that is this far behind stops the
/// acceptor, which leaves new connections in the kernel's backlog.
const MAILBOX_MAX: usize = 1024;

/// The clock's ticks while connections come, and how many follow the last one.
const TICK: Duration = Duration::from_millis(500);
const TICKS_AFTER_LETTER: u32 = 4;

/// How long a worker may take to say what it knows of sessions.
const DESCRIBE_TIME_MAX: Duration = Duration::from_secs(2);

/// What a worker can be told.
#[derive(Debug)]
pub enum WorkerMessage {
    /// A new connection.
    Accepted(Box<Accepted>),
    /// End all sessions: each gets its BYE at a moment of its own within `spread`, at
    /// its next command border, and is closed when `within` is over.
    Drain {
        /// Over how long the BYEs are spread.
        spread: Duration,
        /// After how long all are closed.
        within: Duration,
    },
    /// End these sessions, where they are there still.
    End(Vec<Target>, Ending),
    /// Take back from these sessions the order to empty their backend, where its time has not
    /// come.
    Withdraw(Vec<Target>),
    /// Say what is known of these sessions, in their order.
    Describe(Vec<Target>, oneshot::Sender<Vec<Option<SessionFacts>>>),
    /// Drop the connection that is not logged in and has been silent longest.
    DropMostSilent,
}

/// A session of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    key: u32,
    turn: u32,
}

impl From<SessionHandle> for Target {
    fn from(handle: SessionHandle) -> Self {
        Self { key: handle.key, turn: handle.turn }
    }
}

/// The handles of all workers.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<WorkerHandle>,
    /// Whose turn it is to drop a connection.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct WorkerHandle {
    mailbox: mpsc::Sender<WorkerMessage>,
    sessions: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` worker threads.
    pub fn start(count: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let workers: io::Result<Vec<_>> =
            (0..count).map(|number| start_worker(number, count, shared)).collect();
        Ok(Self { workers: workers?, turn: AtomicUsize::new(0) })
    }

    /// Gives a connection to the worker with the fewest sessions; waits when its
    /// mailbox is full.
    pub(super) async fn hand_over(&self, accepted: Box<Accepted>) {
        let least = self.workers.iter().min_by_key(|w| w.sessions.load(Ordering::Relaxed));
        let Some(worker) = least else { return };
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        if worker.mailbox.send(WorkerMessage::Accepted(accepted)).await.is_err() {
            worker.sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Asks the next worker in turn to drop its most silent connection that is not logged
    /// in; connections are spread evenly, so the most silent of all goes soon. Nothing
    /// happens when its mailbox is full.
    pub(super) fn drop_most_silent(&self) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let number = turn.checked_rem(self.workers.len()).unwrap_or(0);
        if let Some(worker) = self.workers.get(number) {
            let _ = worker.mailbox.try_send(WorkerMessage::DropMostSilent);
        }
    }

    /// Gives these sessions the order to end. Those that ended meanwhile, and whoever took
    /// their places, are not touched.
    pub async fn end_sessions(&self, sessions: &[SessionHandle], ending: Ending) {
        for (worker, targets) in self.by_worker(sessions) {
            let targets = targets.into_iter().map(|(_, target)| target).collect();
            let _ = worker.mailbox.send(WorkerMessage::End(targets, ending)).await;
        }
    }

    /// Takes back from these sessions the order to empty their backend, where its time has not
    /// come.
    pub async fn withdraw(&self, sessions: &[SessionHandle]) {
        for (worker, targets) in self.by_worker(sessions) {
            let targets = targets.into_iter().map(|(_, target)| target).collect();
            let _ = worker.mailbox.send(WorkerMessage::Withdraw(targets)).await;
        }
    }

    /// What is known of these sessions, in their order; nothing of one that has ended, or
    /// whose worker did not answer in time.
    pub async fn describe(&self, sessions: &[SessionHandle]) -> Vec<Option<SessionFacts>> {
        let mut described = vec![None; sessions.len()];
        for (worker, targets) in self.by_worker(sessions) {
            let (places, targets): (Vec<usize>, Vec<Target>) = targets.into_iter().unzip();
            let (answer, answered) = oneshot::channel();
            let ask = async {
                let message = WorkerMessage::Describe(targets, answer);
                worker.mailbox.send(message).await.ok()?;
                answered.await.ok()
            };
            let facts = timeout(DESCRIBE_TIME_MAX, ask).await.ok().flatten();
            for (place, facts) in places.into_iter().zip(facts.unwrap_or_default()) {
                if let Some(slot) = described.get_mut(place) {
                    *slot = facts;
                }
            }
        }
        described
    }

    /// The sessions of each worker, with their places in the list.
    fn by_worker(
        &self,
        sessions: &[SessionHandle],
    ) -> impl Iterator<Item = (&WorkerHandle, Vec<(usize, Target)>)> {
        self.workers.iter().enumerate().filter_map(|(number, worker)| {
            let own = |(_, handle): &(usize, &SessionHandle)| usize::from(handle.worker) == number;
            let listed = sessions.iter().enumerate().filter(own);
            let targets: Vec<_> = listed.map(|(at, handle)| (at, Target::from(*handle))).collect();
            (!targets.is_empty()).then_some((worker, targets))
        })
    }

    /// Tells every worker to end its sessions.
    pub async fn drain(&self, spread: Duration, within: Duration) {
        for worker in &self.workers {
            let _ = worker.mailbox.send(WorkerMessage::Drain { spread, within }).await;
        }
    }
}

fn start_worker(number: usize, workers: usize, shared: &Arc<Shared>) -> io::Result<WorkerHandle> {
    let (mailbox, letters) = mpsc::channel(MAILBOX_MAX);
    let sessions = Arc::new(AtomicUsize::new(0));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let shared = Arc::clone(shared);
    let count = Arc::clone(&sessions);
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    // The thread ends with the process: its sessions have no other place to go.
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let worker = Rc::new(Worker {
            number,
            reaper: Rc::new(Reaper::new(shared.descriptors.cap(), workers)),
            shared,
            count,
            sessions: RefCell::new(Slab::new()),
            turn: Cell::new(0),
            drained: RefCell::new(None),
        });
        LocalSet::new().block_on(&runtime, run(worker, letters));
    })?;
    Ok(WorkerHandle { mailbox, sessions })
}

/// One worker, as its sessions see it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) number: u16,
    pub(super) shared: Arc<Shared>,
    /// Watches backend connections whose end was not seen with their session's.
    pub(super) reaper: Rc<Reaper>,
    count: Arc<AtomicUsize>,
    sessions: RefCell<Slab<Rc<SessionCell>>>,
    /// Sessions so far: keys are used again, turns are not for a long time.
    turn: Cell<u32>,
    /// The order that a session accepted during a drain gets at once.
    drained: RefCell<Option<Order>>,
}

/// A session's place on its worker; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    worker: Rc<Worker>,
    /// Its key in the worker's table.
    pub(super) key: u32,
    /// Where orders come in.
    pub(super) cell: Rc<SessionCell>,
}

impl Place {
    /// Where the session lives.
    pub(super) fn handle(&self) -> SessionHandle {
        SessionHandle { worker: self.worker.number, key: self.key, turn: self.cell.turn }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let key = usize::try_from(self.key).unwrap_or(usize::MAX);
        self.worker.sessions.borrow_mut().try_remove(key);
        self.worker.count.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run(worker: Rc<Worker>, mut letters: mpsc::Receiver<WorkerMessage>) {
    while let Some(message) = next_letter(&mut letters).await {
        match message {
            WorkerMessage::Accepted(accepted) => {
                let place = worker.settle(&accepted);
                tokio::task::spawn_local(connection::run(accepted, Rc::clone(&worker), place));
            }
            WorkerMessage::Drain { spread, within } => worker.drain(spread, within),
            WorkerMessage::End(targets, ending) => worker.end(&targets, &ending),
            WorkerMessage::Withdraw(targets) => worker.withdraw(&targets),
            WorkerMessage::Describe(targets, answer) => {
                // Who asked may have given up.
                let _ = answer.send(worker.describe(&targets));
            }
            WorkerMessage::DropMostSilent => worker.drop_most_silent(),
        }
    }
}

/// The next message. While connections come, the worker's clock ticks: a timer that is
/// due later than the next tick is only noted, where one that is due first would cost a
/// system call and an extra turn of the reactor each time (every login sets several).
async fn next_letter(letters: &mut mpsc::Receiver<WorkerMessage>) -> Option<WorkerMessage> {
    for _ in 0..TICKS_AFTER_LETTER {
        if let Ok(letter) = tokio::time::timeout(TICK, letters.recv()).await {
            return letter;
        }
    }
    letters.recv().await
}

impl Worker {
    fn settle(self: &Rc<Self>, accepted: &Accepted) -> Place {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        let session = SessionId::from_bits(random_bits());
        let from = (Arc::clone(&accepted.listener.name), accepted.peer);
        let cell = Rc::new(SessionCell::new(session, turn, from, Instant::now()));
        if let Some(order) = *self.drained.borrow() {
            cell.order(order);
        }
        let key = self.sessions.borrow_mut().insert(Rc::clone(&cell));
        Place { worker: Rc::clone(self), key: u32::try_from(key).unwrap_or(u32::MAX), cell }
    }

    /// The session, if it is still the one that is meant.
    fn session(&self, target: Target) -> Option<Rc<SessionCell>> {
        let sessions = self.sessions.borrow();
        let cell = sessions.get(usize::try_from(target.key).ok()?)?;
        (cell.turn == target.turn).then(|| Rc::clone(cell))
    }

    fn end(&self, targets: &[Target], ending: &Ending) {
        let now = Instant::now();
        for cell in targets.iter().filter_map(|target| self.session(*target)) {
            cell.end(ending, now);
        }
    }

    fn withdraw(&self, targets: &[Target]) {
        let now = Instant::now();
        for cell in targets.iter().filter_map(|target| self.session(*target)) {
            cell.withdraw(now);
        }
    }

    fn describe(&self, targets: &[Target]) -> Vec<Option<SessionFacts>> {
        targets.iter().map(|target| Some(self.session(*target)?.facts())).collect()
    }

    fn drain(&self, spread: Duration, within: Duration) {
        let now = Instant::now();
        let order = Order {
            reason: CloseReason::Drain,
            bye: "[UNAVAILABLE] The server is restarting, please reconnect.",
            border: Border::Command,
            bye_from: now,
            until: now + within,
            backend_is_gone: false,
        };
        *self.drained.borrow_mut() = Some(order);
        for (_, cell) in self.sessions.borrow().iter() {
            let bye_from = now + spread.mul_f64(fastrand::f64());
            cell.order(Order { bye_from, ..order });
        }
    }

    /// Looks at every session: rare, and bounded by the cap on descriptors.
    fn drop_most_silent(&self) {
        let sessions = self.sessions.borrow();
        let silent = sessions
            .iter()
            .map(|(_, cell)| cell)
            .filter(|cell| !cell.logged_in() && !cell.has_order())
            .min_by_key(|cell| cell.last_heard());
        if let Some(cell) = silent {
            let now = Instant::now();
            cell.order(Order {
                reason: CloseReason::Crowded,
                bye: "[LIMIT] Too many connections that are not logged in.",
                border: Border::Response,
                bye_from: now,
                until: now,
                backend_is_gone: false,
            });
        }
    }
}

/// Session ids must not collide over the nodes of a service and need not be secret;
/// without the system's randomness the clock-seeded one has to do.
fn random_bits() -> u128 {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u128::from_ne_bytes(bytes),
        Err(_) => fastrand::u128(..),
    }
}
