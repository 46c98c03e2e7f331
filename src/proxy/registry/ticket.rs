//! What a login and a session hold of the registry; dropping it gives it back.

use std::sync::Arc;

use tokio::time::Instant;

use super::backend_row::BackendRow;
use super::book::{Entered, SessionKey};
use super::{Registry, Request, SessionHandle};
use crate::names::{BackendId, ShardId, UserName};

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It never went live.
    NotDialled,
    /// The backend ended it.
    Seen,
    /// The backend refused the login.
    Rejected,
    /// Nobody knows whether the backend has it still; counted in that era of the backend.
    Unseen { era: u64 },
}

/// One session's row, given back when it drops.
#[derive(Debug)]
pub(super) struct Ticket {
    registry: Arc<Registry>,
    book: usize,
    session: SessionKey,
    /// The backend dialled, or logged in to.
    backend: Arc<BackendRow>,
    end: End,
}

impl Ticket {
    pub(super) fn new(registry: Arc<Registry>, book: usize, entered: &Entered) -> Self {
        let backend = Arc::clone(&entered.backend);
        backend.connecting_began();
        Self { registry, book, session: entered.session, backend, end: End::NotDialled }
    }

    /// Dials another backend from now on.
    fn turn_to(&mut self, backend: Arc<BackendRow>) {
        backend.connecting_began();
        self.backend.connecting_ended();
        self.backend = backend;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // A fault of the proxy itself unwinds the session: nobody saw the backend end it.
        if self.end == End::Seen && std::thread::panicking() {
            self.end = End::Unseen { era: self.backend.ended_unseen(Instant::now()) };
        }
        match self.end {
            End::NotDialled => self.backend.connecting_ended(),
            End::Seen | End::Rejected | End::Unseen { .. } => self.backend.live_ended(),
        }
        self.registry.book(self.book).leave(self.session, self.end, Instant::now());
    }
}

/// What to do after a dial failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// The user was placed on the next backend: dial it.
    Placed,
    /// Another login placed the user meanwhile: dial [`Reservation::backend`].
    Follow,
    /// The user has sessions on the backend, or ends there that were not seen: nobody may go
    /// elsewhere. The login is answered as unavailable.
    Bound,
}

/// A login on its way to a backend. Dropped: given up, as if it had never been.
#[derive(Debug)]
#[must_use = "dropping the reservation gives it up"]
pub struct Reservation {
    ticket: Ticket,
    user: UserName,
    home: ShardId,
    shard: ShardId,
    joined: bool,
    route_pending: bool,
}

impl Reservation {
    pub(super) fn new(ticket: Ticket, request: &Request<'_>, entered: &Entered) -> Self {
        Self {
            ticket,
            user: request.user.clone(),
            home: request.home.clone(),
            shard: request.shard.clone(),
            joined: entered.joined,
            route_pending: entered.route_pending,
        }
    }

    /// The backend to dial.
    pub fn backend(&self) -> &BackendId {
        &self.ticket.backend.id
    }

    /// The backend that the user is on now; another than [`Reservation::backend`] after another
    /// login's dial failed. Only [`Reservation::live`] decides.
    pub fn current_backend(&self) -> BackendId {
        let ticket = &self.ticket;
        ticket.registry.book(ticket.book).backend_of(ticket.session).id.clone()
    }

    /// Whether the user had sessions (open, dialling or ended unseen) that this one joined.
    pub const fn joined(&self) -> bool {
        self.joined
    }

    /// Whether the sessions joined belong to another shard than the user's route names now.
    pub const fn route_pending(&self) -> bool {
        self.route_pending
    }

    /// The dial of [`Reservation::backend`] failed; `next` is the candidate to try now.
    ///
    /// Only a user without live sessions and without ends unseen is placed anew, and only by
    /// the first login that fails; the others follow it.
    pub fn dial_failed(&mut self, next: &BackendId) -> Redirect {
        let registry = Arc::clone(&self.ticket.registry);
        let mut book = registry.book(self.ticket.book);
        let current = book.backend_of(self.ticket.session);
        if !Arc::ptr_eq(&current, &self.ticket.backend) {
            drop(book);
            self.ticket.turn_to(current);
            return Redirect::Follow;
        }
        let next = registry.backends.row(next);
        if !book.place_anew(self.ticket.session, (&self.home, &self.shard), &next) {
            return Redirect::Bound;
        }
        drop(book);
        self.ticket.turn_to(next);
        self.route_pending = false;
        Redirect::Placed
    }

    /// Turns the login into a live session. To be called **before anything of the login is
    /// sent** on the connection to [`Reservation::backend`]: from here on the backend may have
    /// the session. In the same step it is made sure that the user is still on this backend;
    /// else the connection must be dropped unused and the new backend be dialled.
    pub fn live(mut self, handle: SessionHandle) -> Result<Live, Moved> {
        let registry = Arc::clone(&self.ticket.registry);
        let mut book = registry.book(self.ticket.book);
        let current = book.backend_of(self.ticket.session);
        if !Arc::ptr_eq(&current, &self.ticket.backend) {
            drop(book);
            self.ticket.turn_to(current);
            return Err(Moved { reservation: self });
        }
        book.went_live(self.ticket.session, handle);
        drop(book);
        self.ticket.backend.live_began();
        self.ticket.backend.connecting_ended();
        self.ticket.end = End::Seen;
        Ok(Live { ticket: self.ticket, user: self.user })
    }
}

/// The user was placed on another backend while this login dialled.
#[derive(Debug, thiserror::Error)]
#[error("the user was placed on backend {} meanwhile", .reservation.backend())]
pub struct Moved {
    /// The login again; its backend is the one to dial now.
    pub reservation: Reservation,
}

/// A session that its backend may have. Dropped: the backend was seen to end it (EOF or RST),
/// and is remembered for the user; dropped by a panic, it ended unseen.
#[derive(Debug)]
#[must_use = "dropping it says that the backend was seen to end the session"]
pub struct Live {
    ticket: Ticket,
    user: UserName,
}

impl Live {
    /// The user.
    pub const fn user(&self) -> &UserName {
        &self.user
    }

    /// The backend.
    pub fn backend(&self) -> &BackendId {
        &self.ticket.backend.id
    }

    /// The backend took the login: from now on the session counts for the user's limit, from
    /// whatever address the next one comes. False where `user_max` others, begun elsewhere,
    /// were taken meanwhile: then it must be given up.
    #[must_use]
    pub fn proved(&self, user_max: u32) -> bool {
        self.ticket.registry.book(self.ticket.book).proved(self.ticket.session, user_max)
    }

    /// The backend answered the login with NO: it has no session, and nothing is remembered,
    /// so that wrong passwords cannot fill the memory.
    pub fn rejected(mut self) {
        self.ticket.end = End::Rejected;
    }

    /// The connection is given up, but the backend was not seen to end the session (no EOF,
    /// no RST): it may hold the mailbox still. The user stays bound to the backend until
    /// [`UnseenEnd::seen`], [`Registry::expire_unseen`] or [`Registry::fenced`].
    pub fn end_unseen(mut self) -> UnseenEnd {
        let era = self.ticket.backend.ended_unseen(Instant::now());
        self.ticket.end = End::Unseen { era };
        self.ticket.backend.watch_began();
        UnseenEnd {
            registry: Arc::clone(&self.ticket.registry),
            book: self.ticket.book,
            user: self.user.clone(),
            backend: Arc::clone(&self.ticket.backend),
            era,
        }
    }
}

/// A session whose end the backend was not seen to notice. Dropping it says that nobody
/// watches for that end any more: the user stays bound.
#[derive(Debug)]
pub struct UnseenEnd {
    registry: Arc<Registry>,
    book: usize,
    user: UserName,
    backend: Arc<BackendRow>,
    /// The backend's era in which the session ended.
    era: u64,
}

impl UnseenEnd {
    /// The backend that may have the session still.
    pub fn backend(&self) -> &BackendId {
        &self.backend.id
    }

    /// The backend's EOF or RST came after all: this end, and no other, binds the user no
    /// longer. Where its age or a fence made it void before, nothing happens.
    pub fn seen(self) {
        if self.backend.unseen_seen(self.era) {
            let mut book = self.registry.book(self.book);
            book.unseen_seen(&self.user, &self.backend, self.era, Instant::now());
        }
    }
}

impl Drop for UnseenEnd {
    fn drop(&mut self) {
        self.backend.watch_ended();
    }
}
