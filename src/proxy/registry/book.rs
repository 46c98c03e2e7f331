//! The rows of the users behind one mutex. Every step takes the same time however many users
//! there are.

mod by_address;
mod idle_list;
mod view;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use self::by_address::ByAddress;
use self::idle_list::{IdleList, Links};
use self::view::is_elsewhere;
pub use self::view::{Placement, Preview, Reason, SessionRow};
use super::backend_row::{BackendRow, BackendRows};
use super::ticket::End;
use super::{Request, ReserveError, SessionHandle};
use crate::names::{BackendId, ShardId, UserName};

/// Remembered users looked at for their end at each login: more than a login can add, so the
/// memory shrinks when logins become fewer.
const EXPIRED_PER_LOGIN: usize = 2;

/// Key of a session's row, owned by its ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionKey(usize);

/// What a login found.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) session: SessionKey,
    pub(super) backend: Arc<BackendRow>,
    pub(super) joined: bool,
    pub(super) route_pending: bool,
}

/// Where a login goes.
enum Choice<'r> {
    /// To the sessions of this entry's user.
    Join(usize),
    /// To the backend that this entry remembers.
    Keep(usize),
    /// To a candidate; with the user's entry, where there is one.
    Place(Option<usize>, &'r BackendId),
}

/// One user with sessions, or remembered.
#[derive(Debug)]
struct Entry {
    user: UserName,
    /// Where the lookups sent the user when the place was found.
    home: ShardId,
    shard: ShardId,
    backend: Arc<BackendRow>,
    connecting: u32,
    live: u32,
    /// Of the live ones those whose login the backend took.
    proven: u32,
    /// Ends not seen; they count while the backend is in the era `unseen_era`.
    unseen: u32,
    unseen_era: u64,
    memory: Option<Memory>,
    /// How long to remember, from the latest login.
    sticky: Duration,
    /// First of the user's sessions.
    first: Option<usize>,
    idle: Idle,
    links: Links,
}

/// Until when a user's last backend is remembered.
#[derive(Debug, Clone, Copy)]
struct Memory {
    until: Instant,
    /// The backend's memory era in which it was made.
    era: u64,
}

/// The list that an entry without connecting or live sessions is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    No,
    Remembered,
    Bound,
}

impl Entry {
    /// Forgets unseen ends that the backend's return or a fence made void.
    fn refresh_unseen(&mut self) {
        if self.unseen > 0 && self.unseen_era != self.backend.unseen_era() {
            self.unseen = 0;
        }
    }

    const fn sessions(&self) -> u32 {
        self.connecting + self.live
    }

    fn remembers(&self, now: Instant) -> bool {
        self.memory
            .is_some_and(|memory| now < memory.until && memory.era == self.backend.memory_era())
    }

    /// The backend is remembered from now on.
    fn remember(&mut self, now: Instant) {
        let era = self.backend.memory_era();
        self.memory = Some(Memory { until: now + self.sticky, era });
    }

    fn place_on(&mut self, home: &ShardId, shard: &ShardId, backend: &Arc<BackendRow>) {
        self.home = home.clone();
        self.shard = shard.clone();
        self.backend = Arc::clone(backend);
        self.memory = None;
    }
}

/// One session.
#[derive(Debug)]
struct Session {
    entry: usize,
    address: IpAddr,
    /// Set when it goes live.
    handle: Option<SessionHandle>,
    /// The backend took the login.
    proven: bool,
    next: Option<usize>,
    previous: Option<usize>,
}

/// The rows behind one mutex.
#[derive(Debug)]
pub(super) struct Book {
    by_user: HashMap<UserName, usize>,
    entries: Slab<Entry>,
    sessions: Slab<Session>,
    by_address: ByAddress,
    /// Entries that are only remembered, the oldest first.
    remembered: IdleList,
    remembered_max: usize,
    /// Entries that have nothing but ends not seen.
    bound: IdleList,
}

impl Book {
    pub(super) fn new(remembered_max: usize) -> Self {
        Self {
            by_user: HashMap::new(),
            entries: Slab::new(),
            sessions: Slab::new(),
            by_address: ByAddress::default(),
            remembered: IdleList::default(),
            remembered_max,
            bound: IdleList::default(),
        }
    }

    /// Counts a login in, as connecting.
    pub(super) fn enter(
        &mut self,
        request: &Request<'_>,
        address: IpAddr,
        backends: &BackendRows,
    ) -> Result<Entered, ReserveError> {
        self.drop_expired(request.now);
        let known = self.by_user.get(request.user).copied();
        self.check_limits(request, address, known)?;
        let choice = self.choose(known, request.shard, request.candidates, request.now)?;
        let joined = matches!(choice, Choice::Join(_));
        let key = match choice {
            Choice::Join(key) => key,
            Choice::Keep(key) => {
                self.entry_mut(key).home = request.home.clone();
                key
            }
            Choice::Place(Some(key), backend) => {
                let backend = backends.row(backend);
                self.entry_mut(key).place_on(request.home, request.shard, &backend);
                key
            }
            Choice::Place(None, backend) => self.add(request, backends.row(backend)),
        };
        self.take_off_idle_list(key);
        let session = self.add_session(key, address);
        let entry = self.entry_mut(key);
        entry.connecting += 1;
        entry.sticky = request.sticky;
        Ok(Entered {
            session: SessionKey(session),
            backend: Arc::clone(&entry.backend),
            joined,
            route_pending: joined && is_elsewhere((&entry.home, &entry.shard), request.home),
        })
    }

    /// The backend that the session's user is on.
    pub(super) fn backend_of(&self, session: SessionKey) -> Arc<BackendRow> {
        Arc::clone(&self.entry(self.session(session.0).entry).backend)
    }

    /// Places the user of a dialling session anew, unless live sessions or ends not seen bind
    /// the user.
    pub(super) fn place_anew(
        &mut self,
        session: SessionKey,
        (home, shard): (&ShardId, &ShardId),
        backend: &Arc<BackendRow>,
    ) -> bool {
        let key = self.session(session.0).entry;
        let entry = self.entry_mut(key);
        entry.refresh_unseen();
        if entry.live > 0 || entry.unseen > 0 {
            return false;
        }
        entry.place_on(home, shard, backend);
        true
    }

    /// A connecting session may now be had by its backend.
    pub(super) fn went_live(&mut self, session: SessionKey, handle: SessionHandle) {
        let row = self.session_mut(session.0);
        row.handle = Some(handle);
        let key = row.entry;
        let entry = self.entry_mut(key);
        entry.connecting -= 1;
        entry.live += 1;
    }

    /// The backend took the session's login; false where the user has that many already.
    pub(super) fn proved(&mut self, session: SessionKey, user_max: u32) -> bool {
        let row = self.session(session.0);
        let (key, address) = (row.entry, row.address);
        if row.proven {
            return true;
        }
        let entry = self.entry_mut(key);
        if entry.proven >= user_max {
            return false;
        }
        entry.proven += 1;
        self.session_mut(session.0).proven = true;
        self.by_address.proved(key, address);
        true
    }

    /// Takes a session out.
    pub(super) fn leave(&mut self, session: SessionKey, end: End, now: Instant) {
        let key = self.remove_session(session.0);
        let entry = self.entry_mut(key);
        match end {
            End::NotDialled => entry.connecting -= 1,
            End::Seen | End::Rejected | End::Unseen { .. } => entry.live -= 1,
        }
        if matches!(end, End::Seen | End::Unseen { .. }) {
            entry.remember(now);
        }
        // One of an era that is over is void already.
        if let End::Unseen { era } = end
            && era == entry.backend.unseen_era()
        {
            entry.refresh_unseen();
            entry.unseen += 1;
            entry.unseen_era = era;
        }
        self.settle(key, now);
    }

    /// The backend was seen after all to end one of the user's sessions that had counted as
    /// ended unseen in that era.
    pub(super) fn unseen_seen(
        &mut self,
        user: &UserName,
        backend: &Arc<BackendRow>,
        era: u64,
        now: Instant,
    ) {
        let Some(&key) = self.by_user.get(user) else {
            return;
        };
        let entry = self.entry_mut(key);
        let counts = Arc::ptr_eq(&entry.backend, backend) && entry.unseen_era == era;
        if !counts || entry.unseen == 0 {
            return;
        }
        entry.unseen -= 1;
        entry.remember(now);
        if entry.idle == Idle::Bound {
            self.take_off_idle_list(key);
            self.settle(key, now);
        }
    }

    /// Number of entries that are only remembered.
    pub(super) const fn remembered(&self) -> usize {
        self.remembered.len()
    }

    /// Number of entries that have nothing but ends not seen.
    pub(super) const fn bound(&self) -> usize {
        self.bound.len()
    }

    /// Number of entries that are more than remembered.
    pub(super) fn users(&self) -> usize {
        self.entries.len() - self.remembered.len()
    }

    /// Looks at some entries that ends not seen bind, and frees those that are void.
    pub(super) fn sweep_bound(&mut self, entries_max: usize, now: Instant) {
        for _ in 0..entries_max {
            let Some(key) = self.bound.first() else {
                return;
            };
            self.take_off_idle_list(key);
            self.settle(key, now); // Back to the end of the list if it is bound still.
        }
    }

    fn check_limits(
        &self,
        request: &Request<'_>,
        address: IpAddr,
        known: Option<usize>,
    ) -> Result<(), ReserveError> {
        let of_address = known.map(|key| self.by_address.of(key, address)).unwrap_or_default();
        // Logins that anybody begins elsewhere, without a password, do not lock the user out.
        let of_user = known.map_or(0, |key| self.entry(key).proven) + of_address.unproven;
        if of_user >= request.user_max {
            return Err(ReserveError::UserLimit { max: request.user_max });
        }
        if of_address.all >= request.address_max {
            return Err(ReserveError::AddressLimit { max: request.address_max });
        }
        Ok(())
    }

    fn has_sessions(&mut self, key: usize) -> bool {
        let entry = self.entry_mut(key);
        entry.refresh_unseen();
        entry.sessions() > 0 || entry.unseen > 0
    }

    /// Where a login goes: to the user's sessions; else to the remembered backend where that
    /// is still right; else to the first candidate.
    fn choose<'r>(
        &mut self,
        known: Option<usize>,
        shard: &ShardId,
        candidates: &'r [BackendId],
        now: Instant,
    ) -> Result<Choice<'r>, ReserveError> {
        if let Some(key) = known {
            if self.has_sessions(key) {
                return Ok(Choice::Join(key));
            }
            let entry = self.entry(key);
            let keep = entry.remembers(now)
                && entry.shard == *shard
                && candidates.contains(&entry.backend.id);
            if keep {
                return Ok(Choice::Keep(key));
            }
        }
        let first = candidates.first().ok_or(ReserveError::NoCandidate)?;
        Ok(Choice::Place(known, first))
    }

    fn add(&mut self, request: &Request<'_>, backend: Arc<BackendRow>) -> usize {
        let key = self.entries.insert(Entry {
            user: request.user.clone(),
            home: request.home.clone(),
            shard: request.shard.clone(),
            backend,
            connecting: 0,
            live: 0,
            proven: 0,
            unseen: 0,
            unseen_era: 0,
            memory: None,
            sticky: request.sticky,
            first: None,
            idle: Idle::No,
            links: Links::default(),
        });
        self.by_user.insert(request.user.clone(), key);
        key
    }

    /// Puts an entry where it belongs after its sessions became fewer.
    fn settle(&mut self, key: usize, now: Instant) {
        let entry = self.entry_mut(key);
        entry.refresh_unseen();
        if entry.sessions() > 0 {
            return;
        }
        if entry.unseen > 0 {
            entry.idle = Idle::Bound;
            self.bound.push(&mut self.entries, key);
        } else if entry.remembers(now) {
            entry.idle = Idle::Remembered;
            self.remembered.push(&mut self.entries, key);
            if self.remembered.len() > self.remembered_max
                && let Some(oldest) = self.remembered.first()
            {
                self.remove(oldest);
            }
        } else {
            self.remove(key);
        }
    }

    fn drop_expired(&mut self, now: Instant) {
        for _ in 0..EXPIRED_PER_LOGIN {
            match self.remembered.first() {
                Some(oldest) if !self.entry(oldest).remembers(now) => self.remove(oldest),
                _ => return,
            }
        }
    }

    fn remove(&mut self, key: usize) {
        self.take_off_idle_list(key);
        let entry = self.entries.remove(key);
        self.by_user.remove(&entry.user);
    }

    fn take_off_idle_list(&mut self, key: usize) {
        let entry = self.entry_mut(key);
        match std::mem::replace(&mut entry.idle, Idle::No) {
            Idle::No => {}
            Idle::Remembered => self.remembered.unlink(&mut self.entries, key),
            Idle::Bound => self.bound.unlink(&mut self.entries, key),
        }
    }

    fn add_session(&mut self, entry: usize, address: IpAddr) -> usize {
        let next = self.entry(entry).first;
        let row = Session { entry, address, handle: None, proven: false, next, previous: None };
        let key = self.sessions.insert(row);
        if let Some(next) = next {
            self.session_mut(next).previous = Some(key);
        }
        self.entry_mut(entry).first = Some(key);
        self.by_address.entered(entry, address);
        key
    }

    /// Takes the session's row out and says whose it was.
    fn remove_session(&mut self, key: usize) -> usize {
        let row = self.sessions.remove(key);
        if let Some(next) = row.next {
            self.session_mut(next).previous = row.previous;
        }
        match row.previous {
            Some(previous) => self.session_mut(previous).next = row.next,
            None => self.entry_mut(row.entry).first = row.next,
        }
        if row.proven {
            self.entry_mut(row.entry).proven -= 1;
        }
        self.by_address.left(row.entry, row.address, row.proven);
        row.entry
    }

    // A ticket owns its session's row, a session its user's entry, and the lists hold keys of
    // entries that are there: these four cannot fail.

    fn entry(&self, key: usize) -> &Entry {
        self.entries.get(key).expect("an entry lives as long as its sessions and list places")
    }

    fn entry_mut(&mut self, key: usize) -> &mut Entry {
        self.entries.get_mut(key).expect("an entry lives as long as its sessions and list places")
    }

    fn session(&self, key: usize) -> &Session {
        self.sessions.get(key).expect("a session's row lives as long as its ticket")
    }

    fn session_mut(&mut self, key: usize) -> &mut Session {
        self.sessions.get_mut(key).expect("a session's row lives as long as its ticket")
    }
}
