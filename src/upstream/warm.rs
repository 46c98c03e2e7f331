//! Connections made ahead: TCP, TLS and the greeting are done, so that a login that takes one
//! costs one round trip. Nobody is logged in on them and nothing of a client was sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Silence;
use crate::upstream::backends::Backend;
use crate::upstream::conversation::Conversation;
use crate::upstream::dial::{self, DialError, Greeted, Origin};

/// How long the backend's end is waited for after the LOGOUT of one that nobody used.
const FAREWELL: Duration = Duration::from_secs(1);

/// The warm connections of one backend, oldest first. Filled from the control plane, taken
/// from by logins on any worker; neither waits for the other.
#[derive(Debug)]
pub struct WarmPool {
    size: usize,
    age_max: Duration,
    ready: Mutex<VecDeque<Warm>>,
    taken: Notify,
}

/// A connection on which a login may begin at once.
#[derive(Debug)]
struct Warm {
    greeted: Greeted,
    made: Instant,
    peer: Option<SocketAddr>,
}

/// What a login found.
#[derive(Debug)]
pub(super) enum Taken {
    /// A connection that was alive a moment ago.
    Ready(Box<Greeted>),
    /// None was left.
    Empty,
    /// None but such as the backend had ended.
    Stale,
}

impl WarmPool {
    /// For `size` connections, none of them older than `age_max` when it is taken.
    pub fn new(size: u32, age_max: Duration) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { size, age_max, ready: Mutex::default(), taken: Notify::new() }
    }

    /// How many are ready.
    pub fn len(&self) -> usize {
        self.ready().len()
    }

    /// Whether none is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many it may hold.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits until a login looked for one.
    pub async fn taken(&self) {
        self.taken.notified().await;
    }

    /// Throws away what the backend has ended and says goodbye, without waiting, to what has
    /// become too old or leads to none of the backend's `addresses` any more. To be called from
    /// the runtime that fills the pool.
    pub fn tidy(&self, now: Instant, addresses: &[SocketAddr]) {
        let leads_elsewhere =
            |warm: &Warm| warm.peer.is_some_and(|peer| !addresses.contains(&peer));
        let past = {
            let mut ready = self.ready();
            let (mut kept, mut past) = (VecDeque::with_capacity(ready.len()), Vec::new());
            for warm in ready.drain(..).filter(|warm| warm.greeted.is_at_rest()) {
                if self.is_old(&warm, now) || leads_elsewhere(&warm) {
                    past.push(warm);
                } else {
                    kept.push_back(warm);
                }
            }
            *ready = kept;
            past
        };
        for warm in past {
            dismiss(warm.greeted);
        }
    }

    /// Says goodbye to all, without waiting.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.ready());
        for warm in all {
            dismiss(warm.greeted);
        }
    }

    /// The youngest that is alive: it has the most time left before the backend tires of it.
    /// It belongs to the runtime of the caller from then on.
    pub(super) fn take(&self, now: Instant) -> Taken {
        let mut found = Taken::Empty;
        loop {
            let Some(warm) = self.ready().pop_back() else { break };
            if self.is_old(&warm, now) {
                // Those below it are older still; whoever fills the pool says goodbye to them.
                self.ready().push_back(warm);
                break;
            }
            match warm.greeted.moved_here() {
                Some(greeted) => {
                    found = Taken::Ready(Box::new(greeted));
                    break;
                }
                None => found = Taken::Stale,
            }
        }
        self.taken.notify_one();
        found
    }

    fn is_old(&self, warm: &Warm, now: Instant) -> bool {
        now.saturating_duration_since(warm.made) >= self.age_max
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Warm>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one connection and puts it into the backend's pool, within `time`. Where the backend
/// wants a PROXY header there is none to send yet: the configuration refuses that.
///
/// # Errors
/// Where the backend could not be brought to the point where a login may begin.
pub async fn fill(backend: &Backend, time: Duration, silence: Silence) -> Result<(), DialError> {
    let Some(pool) = backend.warm() else { return Ok(()) };
    let deadline = Instant::now() + time;
    let prefix = format!("w{:08x}.", fastrand::u32(..));
    let work = dial::greet(backend, Origin::Proxy, prefix, (deadline, silence));
    let greeted = timeout_at(deadline, work).await.map_err(|_| DialError::Timeout)??;
    backend.metrics.connected(greeted.connect_time());
    let peer = greeted.peer_address();
    pool.ready().push_back(Warm { greeted, made: Instant::now(), peer });
    Ok(())
}

/// LOGOUT, so that the backend's log has no word of a broken connection.
fn dismiss(greeted: Greeted) {
    let conversation: Conversation = greeted.into_conversation();
    tokio::spawn(async move {
        // One that does not answer is closed all the same.
        let _ = timeout(FAREWELL, conversation.say_goodbye()).await;
    });
}

/// Pools are filled on the control runtime, whose tasks move between threads.
const _: fn() = || {
    fn sendable<T: Send>(_: T) {}
    let _ = |backend: std::sync::Arc<Backend>, time, silence| {
        sendable(async move { fill(&backend, time, silence).await });
    };
};
