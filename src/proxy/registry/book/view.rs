//! Looking into a book, for operators and for orders to sessions.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::{Book, Choice, Entry, Session};
use crate::names::{BackendId, ShardId, UserName};
use crate::proxy::registry::SessionHandle;

/// One live session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Whose it is.
    pub user: UserName,
    /// The shard that the user is placed on.
    pub shard: ShardId,
    /// The backend that has it.
    pub backend: BackendId,
    /// The client's address.
    pub address: IpAddr,
    /// Where it lives.
    pub handle: SessionHandle,
}

/// Where a user is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The shard where the lookups sent the user then.
    pub home: ShardId,
    /// The shard, which is another one behind a backend's referral.
    pub shard: ShardId,
    /// The backend.
    pub backend: BackendId,
    /// Logins on their way there.
    pub connecting: u32,
    /// Sessions that the backend may have.
    pub live: u32,
    /// Sessions whose end the backend was not seen to notice.
    pub unseen: u32,
    /// For how long still the backend is remembered, without sessions.
    pub remembered: Option<Duration>,
}

impl Placement {
    /// Whether the user's next login joins this backend whatever the route says.
    pub const fn binds(&self) -> bool {
        self.connecting + self.live + self.unseen > 0
    }

    /// Whether it binds the user to another shard than that of the present route.
    pub fn binds_elsewhere(&self, route: &ShardId) -> bool {
        self.binds() && is_elsewhere((&self.home, &self.shard), route)
    }
}

/// Whether somebody whom the lookups sent to `home`, and who is on `shard`, is not where the
/// present route leads. Whom a backend sent on is where his route leads as long as that is the
/// same: else each of his logins would find the others elsewhere.
pub(super) fn is_elsewhere((home, shard): (&ShardId, &ShardId), route: &ShardId) -> bool {
    home != route && shard != route
}

/// Where a user's next login would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The backend.
    pub backend: BackendId,
    /// Why there.
    pub reason: Reason,
}

/// Why a login goes to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The user has sessions there.
    Joined,
    /// The last ones were there, and are remembered.
    Remembered,
    /// It is the first candidate.
    First,
}

impl Reason {
    /// For operators.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Joined => "joins-sessions",
            Self::Remembered => "remembered",
            Self::First => "first-candidate",
        }
    }
}

impl Book {
    /// Where the user's next login would go, by the very choice that it makes; `None` where
    /// it would find no candidate.
    pub(in crate::proxy::registry) fn preview(
        &mut self,
        user: &UserName,
        shard: &ShardId,
        candidates: &[BackendId],
        now: Instant,
    ) -> Option<Preview> {
        let known = self.by_user.get(user).copied();
        let (backend, reason) = match self.choose(known, shard, candidates, now).ok()? {
            Choice::Join(key) => (&self.entry(key).backend.id, Reason::Joined),
            Choice::Keep(key) => (&self.entry(key).backend.id, Reason::Remembered),
            Choice::Place(_, first) => (first, Reason::First),
        };
        Some(Preview { backend: backend.clone(), reason })
    }

    /// Where a user is, as the next login would find it.
    pub(in crate::proxy::registry) fn placement(
        &mut self,
        user: &UserName,
        now: Instant,
    ) -> Option<Placement> {
        let key = self.by_user.get(user).copied()?;
        let entry = self.entry_mut(key);
        entry.refresh_unseen();
        let remembered = entry.remembers(now).then_some(entry.memory).flatten();
        let placement = Placement {
            home: entry.home.clone(),
            shard: entry.shard.clone(),
            backend: entry.backend.id.clone(),
            connecting: entry.connecting,
            live: entry.live,
            unseen: entry.unseen,
            remembered: remembered.map(|memory| memory.until.saturating_duration_since(now)),
        };
        (placement.binds() || placement.remembered.is_some()).then_some(placement)
    }

    /// A user's live sessions, the latest first.
    pub(in crate::proxy::registry) fn sessions_of_user(&self, user: &UserName) -> Vec<SessionRow> {
        let mut rows = Vec::new();
        let Some(&key) = self.by_user.get(user) else {
            return rows;
        };
        let entry = self.entry(key);
        let mut at = entry.first;
        while let Some(session) = at {
            let session = self.session(session);
            rows.extend(entry.row(session));
            at = session.next;
        }
        rows
    }

    /// Live sessions from a row on: at most `rows_max` rows are looked at and `found_max`
    /// sessions found. Says where to go on, `None` behind the last row.
    pub(in crate::proxy::registry) fn sessions_from(
        &self,
        from: usize,
        backend: Option<&BackendId>,
        (rows_max, found_max): (usize, usize),
        found: &mut Vec<SessionRow>,
    ) -> Option<usize> {
        let mut left = found_max;
        for at in from..from + rows_max {
            if at >= self.sessions.capacity() {
                return None;
            }
            if left == 0 {
                return Some(at);
            }
            let Some(session) = self.sessions.get(at) else { continue };
            let entry = self.entry(session.entry);
            if backend.is_some_and(|wanted| *wanted != entry.backend.id) {
                continue;
            }
            if let Some(row) = entry.row(session) {
                found.push(row);
                left -= 1;
            }
        }
        Some(from + rows_max)
    }
}

impl Entry {
    /// A session's row, once it is live.
    fn row(&self, session: &Session) -> Option<SessionRow> {
        Some(SessionRow {
            user: self.user.clone(),
            shard: self.shard.clone(),
            backend: self.backend.id.clone(),
            address: session.address,
            handle: session.handle?,
        })
    }
}
