//! Listing sessions and ending them.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::audit::{Caller, Subject};
use super::report::{KickReport, SessionReport, Sessions};
use super::{Control, OperateError};
use crate::names::{BackendId, UserName};
use crate::proxy::orders::{Border, CloseReason, Ending, SessionFacts};
use crate::proxy::registry::{SessionHandle, SessionRow, WalkPlace};
use crate::proxy::shared::Shared;
use crate::routing::query::Query;

/// Sessions on one page at most.
pub const SESSIONS_MAX: usize = 1000;

/// How long a kicked session may take to come to a border where its BYE may stand.
const KICK_GRACE: Duration = Duration::from_secs(2);
/// Over how long the sessions of many users end, so that they do not all come back at once.
const KICK_SPREAD: Duration = Duration::from_secs(30);
const KICK_BYE: &str = "[UNAVAILABLE] The administrator ended this session.";

/// Which sessions are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All.
    All,
    /// Those of a user, by any spelling of the name.
    User(String),
    /// Those on a backend.
    Backend(String),
}

/// Sessions to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kick {
    /// Which.
    pub selection: Selection,
    /// Whether the user, who must be the selection, is blocked before.
    pub block: bool,
    /// Done although it hurts.
    pub force: bool,
}

impl Control {
    /// A page of the sessions that are logged in, at most `max` and [`SESSIONS_MAX`], from a
    /// place that the page before it named.
    ///
    /// # Errors
    /// Unknown names, a place that is none.
    pub async fn sessions(
        &self,
        selection: &Selection,
        max: usize,
        from: Option<&str>,
    ) -> Result<Sessions, OperateError> {
        let max = max.clamp(1, SESSIONS_MAX);
        let place = from.map_or(Some(WalkPlace::default()), parse_place);
        let no_place = || OperateError::Nonsense("no page begins there".to_owned());
        let place = place.ok_or_else(no_place)?;
        let registry = &self.shared.registry;
        let (rows, next) = match selection {
            Selection::All => registry.sessions_from(place, None, max),
            Selection::Backend(name) => {
                registry.sessions_from(place, Some(&self.known_backend(name)?), max)
            }
            Selection::User(typed) => {
                let mut rows = registry.sessions_of_user(&self.user(typed)?);
                let skipped = usize::try_from(place.row).unwrap_or(usize::MAX).min(rows.len());
                let end = (skipped + max).min(rows.len());
                let more = (end < rows.len()).then(|| u32::try_from(end).ok()).flatten();
                let page = rows.drain(skipped..end).collect();
                (page, more.map(|row| WalkPlace { book: 0, row }))
            }
        };
        let handles: Vec<SessionHandle> = rows.iter().map(|row| row.handle).collect();
        let facts = self.workers.describe(&handles).await;
        let now = Instant::now();
        let described = rows.iter().zip(facts);
        let sessions =
            described.filter_map(|(row, facts)| Some(session_report(row, &facts?, now))).collect();
        Ok(Sessions { sessions, next: next.map(|place| format!("{}.{}", place.book, place.row)) })
    }

    /// Ends sessions: a BYE at a border between two responses, else a close. Of a single user
    /// also the logins under way: no session whose login began before goes on behind it.
    ///
    /// # Errors
    /// Among others where it would be everybody, unless forced.
    pub async fn kick(&self, caller: Caller, kick: &Kick) -> Result<KickReport, OperateError> {
        let user = match &kick.selection {
            Selection::User(typed) => self.user(typed).ok(),
            Selection::All | Selection::Backend(_) => None,
        };
        let result = self.end_selected(kick).await;
        let subject = match &kick.selection {
            Selection::User(_) => Subject::User(user.as_ref()),
            Selection::Backend(name) => Subject::Backend(name),
            Selection::All => Subject::Proxy,
        };
        self.audit(caller, if kick.block { "kick --block" } else { "kick" }, subject, &result);
        result
    }

    async fn end_selected(&self, kick: &Kick) -> Result<KickReport, OperateError> {
        let registry = &self.shared.registry;
        let (rows, spread) = match &kick.selection {
            Selection::User(typed) => {
                let user = self.user(typed)?;
                if kick.block {
                    // First: a login that passes this moment finds the block before it sends
                    // anything, or is among the sessions below.
                    self.run_time.set_block(&user, true).await?;
                }
                (self.stop_logins(&user).await, Duration::ZERO)
            }
            _ if kick.block => {
                let message = "only a single user can be blocked with a kick".to_owned();
                return Err(OperateError::Nonsense(message));
            }
            Selection::Backend(name) => {
                (registry.sessions_of_backend(&self.known_backend(name)?), KICK_SPREAD)
            }
            Selection::All => {
                let all = registry.sessions_from(WalkPlace::default(), None, usize::MAX);
                (all.0, KICK_SPREAD)
            }
        };
        let users: HashSet<&UserName> = rows.iter().map(|row| &row.user).collect();
        self.check_everybody(kick, rows.len(), users.len())?;
        let report = KickReport { users: users.len(), sessions: rows.len(), blocked: kick.block };
        let sessions: Vec<SessionHandle> = rows.iter().map(|row| row.handle).collect();
        let ending = Ending {
            reason: CloseReason::Kicked,
            bye: KICK_BYE,
            border: Border::Response,
            spread,
            grace: KICK_GRACE,
            backend_is_gone: false,
        };
        self.workers.end_sessions(&sessions, ending).await;
        Ok(report)
    }

    /// Ends the logins under way of a user, or of the identity that the name leads to (aliases
    /// share one), and gives the sessions: one of the two has every login that began before.
    async fn stop_logins(&self, user: &UserName) -> Vec<SessionRow> {
        let Shared { registry, logins, .. } = self.shared.as_ref();
        logins.kick(user);
        let rows = registry.sessions_of_user(user);
        if !rows.is_empty() {
            return rows;
        }
        let snapshot = self.shared.snapshot.load_full();
        match snapshot.table.route(&Query::of_user(user), |_| ()).await {
            Ok(route) if route.user != *user => {
                logins.kick(&route.user);
                registry.sessions_of_user(&route.user)
            }
            // Without a lookup there is nobody but the user himself.
            _ => rows,
        }
    }

    /// Refuses to end all there is, where that is more than one user. The selection says so, not
    /// a count of all sessions: users log in between two counts.
    fn check_everybody(
        &self,
        kick: &Kick,
        sessions: usize,
        users: usize,
    ) -> Result<(), OperateError> {
        let everybody = match &kick.selection {
            Selection::All => true,
            Selection::User(_) => false,
            Selection::Backend(name) => {
                self.shared.registry.live_elsewhere(&BackendId::new(name.as_str())) == 0
            }
        };
        if kick.force || !everybody || users < 2 {
            return Ok(());
        }
        let message = format!("this would end all {sessions} sessions of {users} users");
        Err(OperateError::NeedsForce(message))
    }

    fn known_backend(&self, name: &str) -> Result<BackendId, OperateError> {
        let id = BackendId::new(name);
        let known = self.shared.snapshot.load().upstreams.backend(&id).is_some();
        if known { Ok(id) } else { Err(OperateError::UnknownBackend(name.to_owned())) }
    }
}

fn parse_place(text: &str) -> Option<WalkPlace> {
    let (book, row) = text.split_once('.')?;
    Some(WalkPlace { book: book.parse().ok()?, row: row.parse().ok()? })
}

fn session_report(row: &SessionRow, facts: &SessionFacts, now: Instant) -> SessionReport {
    SessionReport {
        session: facts.session.to_string(),
        user: row.user.to_string(),
        shard: row.shard.to_string(),
        backend: row.backend.to_string(),
        listener: facts.listener.clone(),
        client: facts.remote.to_string(),
        seconds: now.saturating_duration_since(facts.since).as_secs(),
    }
}
