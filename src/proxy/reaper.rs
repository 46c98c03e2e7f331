//! Backend connections whose session is over but whose end the backend has not shown yet.
//!
//! The relay waits some seconds for the backend's end; then the end counts as unseen and
//! binds the user. Most such backends were only slow: their sockets are read on here, each
//! by a task without a buffer of its own, until EOF or RST comes, which frees the user.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::proxy::registry::UnseenEnd;

/// Bytes read and thrown away at once, on the stack.
const READ_BYTES: usize = 4096;

/// Sockets watched by one worker at most, however many descriptors there are.
const WATCHED_MAX: usize = 4096;

/// The sockets of one worker take at most this part of the worker's share of descriptors.
const SHARE_DIVISOR: u64 = 16;

/// A connection that the backend has not been seen to end.
#[derive(Debug)]
pub(super) struct Leaving {
    /// The socket; what comes over it is of no interest.
    pub(super) socket: TcpStream,
    /// What its end undoes.
    pub(super) unseen: UnseenEnd,
}

/// The watched sockets of one worker. A reload leaves them alone; a shutdown does not wait
/// for them.
#[derive(Debug)]
pub(super) struct Reaper {
    watched_max: usize,
    watched: RefCell<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// Grows with each socket, so that the first key is the oldest.
    next: u64,
    tasks: BTreeMap<u64, AbortHandle>,
}

impl Reaper {
    /// For one of `workers` workers that share so many descriptors.
    pub(super) fn new(descriptors: u64, workers: usize) -> Self {
        let workers = u64::try_from(workers).unwrap_or(u64::MAX).max(1);
        // Each watched socket keeps two descriptors counted.
        let share = descriptors / workers / SHARE_DIVISOR / 2;
        let watched_max = usize::try_from(share).unwrap_or(WATCHED_MAX).clamp(1, WATCHED_MAX);
        Self { watched_max, watched: RefCell::default() }
    }

    /// Watches a socket on the current worker until its end, and holds `kept` as long. Where
    /// there are too many, the oldest is closed and its user stays bound to the backend.
    pub(super) fn watch(self: &Rc<Self>, leaving: Leaving, kept: impl Sized + 'static) {
        let mut watched = self.watched.borrow_mut();
        if watched.tasks.len() >= self.watched_max
            && let Some((_, oldest)) = watched.tasks.pop_first()
        {
            oldest.abort();
        }
        let key = watched.next;
        watched.next += 1;
        let reaper = Rc::clone(self);
        let task = tokio::task::spawn_local(async move {
            reap(leaving).await;
            drop(kept);
            reaper.watched.borrow_mut().tasks.remove(&key);
        });
        watched.tasks.insert(key, task.abort_handle());
    }
}

/// Waits for the backend's end. A socket that the system gave up shows none: nobody knows
/// what the backend has.
async fn reap(leaving: Leaving) {
    let Leaving { mut socket, unseen } = leaving;
    let backend = unseen.backend().clone();
    tracing::debug!(%backend, "the backend has not ended a session yet; its end is waited for");
    // Where the session could not say FIN behind what was queued, it goes out now.
    let _ = SockRef::from(&socket).shutdown(Shutdown::Write);
    let ended = loop {
        match read_away(&mut socket).await {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break is_end(&error),
        }
    };
    if ended {
        unseen.seen();
        tracing::debug!(%backend, "a session's late end was seen");
    }
}

/// Whether an error of a socket says that the peer has let go, as an EOF does. Silence that
/// the system gave up says nothing of the peer.
pub(super) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

async fn read_away(socket: &mut TcpStream) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [0; READ_BYTES];
        let mut window = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut *socket).poll_read(cx, &mut window))?;
        Poll::Ready(Ok(window.filled().len()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener};
    use std::time::Duration;

    use tokio::task::LocalSet;
    use tokio::time::Instant;

    use super::*;
    use crate::names::{BackendId, ShardId, UserName};
    use crate::proxy::registry::{Registry, Request, SessionHandle};

    const USERS: [&str; 3] = ["anna", "bert", "carl"];

    /// A session that ended unseen, and the backend's end of its socket.
    async fn leaving(
        registry: &std::sync::Arc<Registry>,
        user: &str,
    ) -> (Leaving, std::net::TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let request = Request {
            user: &UserName::new(user),
            home: &ShardId::new("s"),
            shard: &ShardId::new("s"),
            candidates: &[BackendId::new("b")],
            sticky: Duration::from_secs(900),
            user_max: 9,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            address_max: 9,
            now: Instant::now(),
        };
        let reservation = registry.reserve(&request).unwrap();
        let unseen =
            reservation.live(SessionHandle { worker: 0, key: 0, turn: 0 }).unwrap().end_unseen();
        (Leaving { socket, unseen }, listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn the_oldest_is_given_up_and_only_the_ends_that_are_seen_free_their_users() {
        let registry = Registry::new(1000);
        let unseen = || registry.counts(&BackendId::new("b")).unseen;
        let reaper = Rc::new(Reaper { watched_max: 2, watched: RefCell::default() });
        let kept = Rc::new(());
        let work = async {
            let mut peers = Vec::new();
            for user in USERS {
                let (leaving, peer) = leaving(&registry, user).await;
                reaper.watch(leaving, Rc::clone(&kept));
                peers.push(peer);
            }
            while Rc::strong_count(&kept) > 3 {
                tokio::task::yield_now().await;
            }
            assert_eq!((unseen(), registry.users()), (3, 3));
            drop(peers);
            while Rc::strong_count(&kept) > 1 {
                tokio::task::yield_now().await;
            }
            assert_eq!((unseen(), registry.users()), (1, 1), "anna stays bound");
            assert!(reaper.watched.borrow().tasks.is_empty());
        };
        tokio::time::timeout(Duration::from_secs(20), LocalSet::new().run_until(work))
            .await
            .unwrap();
    }

    #[test]
    fn all_workers_together_watch_a_small_part_of_the_descriptors() {
        assert_eq!(Reaper::new(1_000, 2).watched_max, 15);
        assert_eq!(Reaper::new(100, 64).watched_max, 1);
        assert_eq!(Reaper::new(u64::MAX, 0).watched_max, WATCHED_MAX);
    }
}
