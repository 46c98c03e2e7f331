//! Connections made ahead: TCP, TLS and the greeting are done, so that a login that takes one
//! costs one round trip. Nobody is logged in on them and nothing of a client was sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::admission::DescriptorPermit;
use crate::config::Silence;
use crate::upstream::backends::Backend;
use crate::upstream::dial::{self, DialError, Greeted, Origin};

/// How long the backend's end is waited for after the LOGOUT of one that nobody used.
const FAREWELL: Duration = Duration::from_secs(1);

/// From this part of the greatest age on, in percent, a connection is renewed. Each has its
/// own moment between that and the end, so that those made together are not renewed together.
const RENEWAL_PERCENT: u32 = 75;

/// The warm connections of one backend, oldest first. Filled from the control plane, taken
/// from by logins on any worker; a login waits for neither a filler nor the network.
#[derive(Debug)]
pub struct WarmPool {
    size: usize,
    age_max: Duration,
    ready: Mutex<Ready>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Ready {
    connections: VecDeque<Warm>,
    /// Nobody will take or look after what is put here.
    closed: bool,
}

/// A connection on which a login may begin at once.
#[derive(Debug)]
struct Warm {
    greeted: Greeted,
    /// Where it leads.
    peer: Option<SocketAddr>,
    /// When another one is made in its place.
    renewed_at: Instant,
    /// When it is too old to be taken.
    old_at: Instant,
    /// Its descriptor.
    permit: DescriptorPermit,
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
        self.ready().connections.len()
    }

    /// Whether none is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are to be made: those missing and those whose renewal is due.
    pub fn wanted(&self, now: Instant) -> usize {
        let ready = self.ready();
        let fresh = ready.connections.iter().filter(|warm| now < warm.renewed_at).count();
        self.size.saturating_sub(fresh)
    }

    /// Waits until a login looked for one.
    pub async fn taken(&self) {
        self.taken.notified().await;
    }

    /// Throws away what the backend has ended, and says goodbye, without waiting, to what has
    /// become too old, leads to none of the backend's `addresses` any more, or was renewed. To
    /// be called on the runtime that fills the pool.
    pub fn tidy(&self, now: Instant, addresses: &[SocketAddr]) {
        let is_past = |warm: &Warm| {
            now >= warm.old_at || warm.peer.is_some_and(|peer| !addresses.contains(&peer))
        };
        let mut past = Vec::new();
        {
            let mut ready = self.ready();
            let all = std::mem::take(&mut ready.connections);
            for warm in all.into_iter().filter(|warm| warm.greeted.is_at_rest()) {
                if is_past(&warm) {
                    past.push(warm);
                } else {
                    ready.connections.push_back(warm);
                }
            }
            let renewed = ready.connections.len().saturating_sub(self.size);
            past.extend(ready.connections.drain(..renewed));
        }
        past.into_iter().for_each(Warm::dismiss);
    }

    /// Says goodbye to all, without waiting. To be called as [`Self::tidy`].
    pub fn clear(&self) {
        let all = std::mem::take(&mut self.ready().connections);
        all.into_iter().for_each(Warm::dismiss);
    }

    /// The same for good: what comes later is not kept either.
    pub fn close(&self) {
        self.ready().closed = true;
        self.clear();
    }

    /// Gives all up at once, without a word: one of them turned out to be dead.
    pub fn distrust(&self) {
        let all = std::mem::take(&mut self.ready().connections);
        drop(all);
        self.taken.notify_one();
    }

    /// The youngest that is alive: it has the most time left before the backend tires of it.
    /// It belongs to the runtime of the caller from then on.
    pub(super) fn take(&self, now: Instant) -> Taken {
        let mut found = Taken::Empty;
        loop {
            let Some(warm) = self.pop(now) else { break };
            if let Some(greeted) = warm.greeted.moved_here() {
                found = Taken::Ready(Box::new(greeted));
                break;
            }
            found = Taken::Stale;
        }
        self.taken.notify_one();
        found
    }

    fn pop(&self, now: Instant) -> Option<Warm> {
        // Those below one that is too old are older still; the filler says goodbye to them.
        self.ready().connections.pop_back_if(|warm| now < warm.old_at)
    }

    fn put(&self, warm: Warm) {
        let mut ready = self.ready();
        if ready.closed {
            drop(ready);
            warm.dismiss();
        } else {
            ready.connections.push_back(warm);
        }
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Warm {
    /// LOGOUT, so that the backend's log has no word of a broken connection.
    fn dismiss(self) {
        tokio::spawn(async move {
            let Self { greeted, permit, .. } = self;
            // One that does not answer is closed all the same.
            let _ = timeout(FAREWELL, greeted.into_conversation().say_goodbye()).await;
            drop(permit);
        });
    }
}

/// Makes one connection and puts it into the backend's pool, within `time`. Where the backend
/// wants a PROXY header there is none to send yet: the configuration refuses that.
///
/// # Errors
/// Where the backend could not be brought to the point where a login may begin.
pub async fn fill(
    backend: &Backend,
    time: Duration,
    silence: Silence,
    permit: DescriptorPermit,
) -> Result<(), DialError> {
    let Some(pool) = backend.warm() else { return Ok(()) };
    let deadline = Instant::now() + time;
    let prefix = format!("w{:08x}.", fastrand::u32(..));
    let work = dial::greet(backend, Origin::Proxy, prefix, (deadline, silence));
    let greeted = timeout_at(deadline, work).await.map_err(|_| DialError::Timeout)??;
    backend.metrics.connected(greeted.connect_time());
    let now = Instant::now();
    let percent = fastrand::u32(RENEWAL_PERCENT..100);
    pool.put(Warm {
        peer: greeted.peer_address(),
        greeted,
        renewed_at: now + pool.age_max * percent / 100,
        old_at: now + pool.age_max,
        permit,
    });
    Ok(())
}

/// Pools are filled on the control runtime, whose tasks move between threads.
const _: fn() = || {
    fn sendable<T: Send>(_: T) {}
    let _ = |backend: Arc<Backend>, time, silence, permit| {
        sendable(async move { fill(&backend, time, silence, permit).await });
    };
};
