//! Which backend each user is on: one user, one backend.
//!
//! A login *reserves before it dials*. Where the user has sessions, open ones, logins still
//! dialling or ends that the backend was not seen to notice, the login joins their backend;
//! where the backend of the last session is remembered it goes there; else to the first
//! candidate. The rows are spread over [`BOOKS`] mutexes by user; under a mutex there is a
//! fixed number of hash table and list steps, and none is held across an await.
//!
//! It never forgets a user's sessions: those of a backend that is no longer configured count
//! until they end. Rows are bounded by the sessions there are, the ends not yet seen, and the
//! remembered users (at most the number given to [`Registry::new`], the oldest go first).
//!
//! Time is tokio's: given to [`Registry::reserve`], read where a session ends by `Drop`.

mod backend_row;
mod book;
mod ticket;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use crate::names::{BackendId, ShardId, UserName};
use crate::net::cidr;

pub use backend_row::BackendCounts;
use backend_row::BackendRows;
use book::Book;
pub use book::{Placement, Preview, Reason, SessionRow};
use ticket::Ticket;
pub use ticket::{Live, Moved, Redirect, Reservation, UnseenEnd};

/// Number of mutexes: enough that workers seldom meet, few enough to walk over.
pub const BOOKS: usize = 64;

/// Rows looked at in one turn under a mutex where all rows are walked over.
const PAGE: usize = 256;

/// Where a session lives: its worker and its key in the worker's slab. Control messages go
/// to the worker's mailbox with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionHandle {
    /// Number of the worker.
    pub worker: u16,
    /// Key in that worker's slab.
    pub key: u32,
    /// Which of the sessions that had that key.
    pub turn: u32,
}

/// A place in a walk over all sessions; the default is the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkPlace {
    /// Number of the mutex.
    pub book: u16,
    /// Row behind it.
    pub row: u32,
}

/// A login that wants a backend.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The canonical name.
    pub user: &'a UserName,
    /// The shard of the user's route: where the lookups send the user.
    pub home: &'a ShardId,
    /// The shard to go to: that one, or where a backend of it sends the user on.
    pub shard: &'a ShardId,
    /// Backends of that shard that may take the user, the best first. A backend that is not
    /// up is not among them.
    pub candidates: &'a [BackendId],
    /// How long the backend is remembered after the user's last session.
    pub sticky: Duration,
    /// Most sessions of the user, this one included. Counted are those whose login the
    /// backend took, and of the undecided ones those from the same address: so nobody without
    /// the password can use up the user's places from elsewhere.
    pub user_max: u32,
    /// Where the client is.
    pub address: IpAddr,
    /// Most sessions of the user from that address (/64 for IPv6), this one included;
    /// `u32::MAX` for exempt networks.
    pub address_max: u32,
    /// Now.
    pub now: Instant,
}

/// Why a login gets no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The user has as many sessions as one may have.
    #[error("the user has {max} sessions, the most allowed")]
    UserLimit {
        /// The limit.
        max: u32,
    },
    /// The user has as many sessions from this address as one may have.
    #[error("the user has {max} sessions from this address, the most allowed")]
    AddressLimit {
        /// The limit.
        max: u32,
    },
    /// The user has no session, and there is no candidate.
    #[error("no backend of the shard can take the user")]
    NoCandidate,
}

impl ReserveError {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UserLimit { .. } => "sessions_per_user",
            Self::AddressLimit { .. } => "sessions_per_user_address",
            Self::NoCandidate => "no_candidate",
        }
    }
}

/// All users that have sessions or are remembered. One for the process.
#[derive(Debug)]
pub struct Registry {
    books: Vec<Mutex<Book>>,
    backends: BackendRows,
}

impl Registry {
    /// An empty registry that remembers the backend of at most `sticky_max` users without
    /// sessions (rounded down to a multiple of [`BOOKS`]).
    pub fn new(sticky_max: usize) -> Arc<Self> {
        let books = (0..BOOKS).map(|_| Mutex::new(Book::new(sticky_max / BOOKS))).collect();
        Arc::new(Self { books, backends: BackendRows::default() })
    }

    /// Finds the backend that a login must go to and counts the login there, in one step.
    /// Nothing is counted after an error.
    pub fn reserve(self: &Arc<Self>, request: &Request<'_>) -> Result<Reservation, ReserveError> {
        let number = book_of(request.user);
        let block = cidr::limit_key(request.address);
        let entered = self.book(number).enter(request, block, &self.backends)?;
        let ticket = Ticket::new(Arc::clone(self), number, &entered);
        Ok(Reservation::new(ticket, request, &entered))
    }

    /// The backend has served for so long that what ended there unseen must be over: where the
    /// last such end is that old, and no connection is watched for its end, its users may be
    /// placed anew. A backend that only came back may hold their sessions still; they go there.
    pub fn expire_unseen(&self, backend: &BackendId, now: Instant, age: Duration) {
        if self.backends.row(backend).void_if_old(now, age) {
            self.free_void();
        }
    }

    /// The backend is known to hold nothing any more (its fence hook returned 0, or the
    /// operator said so): its users may be placed anew.
    pub fn fenced(&self, backend: &BackendId) {
        self.backends.row(backend).void_unseen();
        self.free_void();
    }

    /// Users without sessions are no longer remembered to be on this backend, because it is
    /// going down or out of the configuration. Users with sessions stay.
    pub fn forget_backend(&self, backend: &BackendId) {
        self.backends.row(backend).forget();
    }

    /// The user's live sessions (at most the user's limit), the latest first. A login that
    /// has not reached [`Reservation::live`] yet is not among them.
    pub fn sessions_of_user(&self, user: &UserName) -> Vec<SessionRow> {
        self.book(book_of(user)).sessions_of_user(user)
    }

    /// Live sessions, all or those on a backend, found by walking over the rows in short
    /// turns: for operators, not for logins. At most `max` at once; the second value says
    /// where to go on. Sessions that begin or end meanwhile may be missed or be listed though
    /// they are gone.
    pub fn sessions_from(
        &self,
        place: WalkPlace,
        backend: Option<&BackendId>,
        max: usize,
    ) -> (Vec<SessionRow>, Option<WalkPlace>) {
        let mut found = Vec::new();
        let WalkPlace { mut book, mut row } = place;
        while usize::from(book) < BOOKS {
            let left = max - found.len();
            if left == 0 {
                return (found, Some(WalkPlace { book, row }));
            }
            let from = usize::try_from(row).unwrap_or(usize::MAX - PAGE);
            let next =
                self.book(book.into()).sessions_from(from, backend, (PAGE, left), &mut found);
            (book, row) = match next.map(u32::try_from) {
                Some(Ok(next)) => (book, next),
                _ => (book + 1, 0),
            };
        }
        (found, None)
    }

    /// All live sessions on a backend; as [`Registry::sessions_from`].
    pub fn sessions_of_backend(&self, backend: &BackendId) -> Vec<SessionRow> {
        self.sessions_from(WalkPlace::default(), Some(backend), usize::MAX).0
    }

    /// Where a user is; `None` for one who would be placed anew.
    pub fn placement(&self, user: &UserName, now: Instant) -> Option<Placement> {
        self.book(book_of(user)).placement(user, now)
    }

    /// Where the user's next login would go; `None` where it would find no candidate.
    pub fn preview(
        &self,
        user: &UserName,
        shard: &ShardId,
        candidates: &[BackendId],
        now: Instant,
    ) -> Option<Preview> {
        self.book(book_of(user)).preview(user, shard, candidates, now)
    }

    /// Live sessions on all backends.
    pub fn live(&self) -> u64 {
        self.backends.live()
    }

    /// Live sessions on all backends but that one.
    pub fn live_elsewhere(&self, than: &BackendId) -> u64 {
        self.backends.live_elsewhere(than)
    }

    /// How many sessions a backend has.
    pub fn counts(&self, backend: &BackendId) -> BackendCounts {
        self.backends.row(backend).counts()
    }

    /// Users without sessions whose backend is remembered.
    pub fn remembered(&self) -> usize {
        (0..BOOKS).map(|number| self.book(number).remembered()).sum()
    }

    /// Users with sessions, open, dialling or ended unseen.
    pub fn users(&self) -> usize {
        (0..BOOKS).map(|number| self.book(number).users()).sum()
    }

    /// Frees the rows of users whom only ends that are void hold.
    fn free_void(&self) {
        let now = Instant::now();
        for number in 0..BOOKS {
            let mut left = self.book(number).bound();
            while left > 0 {
                self.book(number).sweep_bound(left.min(PAGE), now);
                left = left.saturating_sub(PAGE);
            }
        }
    }

    /// The book with this number, which is below [`BOOKS`].
    fn book(&self, number: usize) -> MutexGuard<'_, Book> {
        let book = self.books.get(number).expect("book numbers are taken modulo BOOKS");
        // A panic under the lock is a bug that must not take all other users along.
        book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the book that has the user.
fn book_of(user: &UserName) -> usize {
    usize::try_from(xxh3_64(user.as_str().as_bytes())).unwrap_or(0) % BOOKS
}
