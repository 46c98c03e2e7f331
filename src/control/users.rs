//! What operators say of single users: pins and blocks.

use super::audit::{Caller, Subject};
use super::report::{Blocked, PinReport, Pins, UserReport};
use super::run_time::Changed;
use super::{Control, OperateError};
use crate::names::{ShardId, UserName};
use crate::routing::name;

/// Users on one page at most.
pub const USERS_MAX: usize = 1000;

impl Control {
    /// The canonical form of a name in any spelling.
    pub(super) fn user(&self, typed: &str) -> Result<UserName, OperateError> {
        let snapshot = self.shared.snapshot.load();
        Ok(name::canonical(&snapshot.config.routing, typed.as_bytes())?)
    }

    /// Pins a user to a shard, whatever the lookups say; `None` ends that. Sessions stay where
    /// they are, and logins join them as long as there are any.
    ///
    /// # Errors
    /// Among others a shard that is not configured.
    pub async fn pin(
        &self,
        caller: Caller,
        typed: &str,
        shard: Option<&str>,
    ) -> Result<UserReport, OperateError> {
        let user = self.user(typed);
        let result = match &user {
            Ok(user) => self.set_pin(user, shard).await,
            Err(_) => self.user(typed).map(|_| Changed::No),
        };
        let call = if shard.is_some() { "pin" } else { "unpin" };
        self.audit(caller, call, Subject::User(user.as_ref().ok()), &result);
        Ok(self.user_report(&user?, result?))
    }

    async fn set_pin(&self, user: &UserName, shard: Option<&str>) -> Result<Changed, OperateError> {
        let shard = shard.map(ShardId::new);
        if let Some(shard) = &shard {
            let snapshot = self.shared.snapshot.load();
            if snapshot.config.shards.iter().all(|known| known.name != *shard) {
                return Err(OperateError::UnknownShard(shard.to_string()));
            }
        }
        Ok(self.run_time.set_pin(user, shard.as_ref()).await?)
    }

    /// Keeps a user from logging in, or lets him in again. Sessions stay: see
    /// [`Control::kick`].
    ///
    /// # Errors
    /// A name that is none, and what a store can say.
    pub async fn block(
        &self,
        caller: Caller,
        typed: &str,
        blocked: bool,
    ) -> Result<UserReport, OperateError> {
        let user = self.user(typed);
        let result = match &user {
            Ok(user) => self.run_time.set_block(user, blocked).await.map_err(OperateError::from),
            Err(_) => self.user(typed).map(|_| Changed::No),
        };
        let call = if blocked { "block" } else { "unblock" };
        self.audit(caller, call, Subject::User(user.as_ref().ok()), &result);
        Ok(self.user_report(&user?, result?))
    }

    fn user_report(&self, user: &UserName, changed: Changed) -> UserReport {
        let overrides = &self.shared.overrides;
        UserReport {
            user: user.to_string(),
            pinned: overrides.pinned(user).map(|shard| shard.to_string()),
            blocked: overrides.is_blocked(user),
            changed: changed == Changed::Yes,
            sessions: self.shared.registry.sessions_of_user(user).len(),
        }
    }

    /// A page of the pins, at most `max` and [`USERS_MAX`], behind a user.
    pub fn pins(&self, max: usize, after: Option<&str>) -> Pins {
        let max = max.clamp(1, USERS_MAX);
        let after = after.map(UserName::new);
        let rows = self.shared.overrides.pins_after(after.as_ref(), max);
        let next = rows.last().filter(|_| rows.len() == max).map(|(user, _)| user.to_string());
        let snapshot = self.shared.snapshot.load();
        let report = |(user, shard): (UserName, ShardId)| PinReport {
            user: user.to_string(),
            shard: shard.to_string(),
            configured: snapshot.config.shards.iter().any(|known| known.name == shard),
        };
        Pins { pins: rows.into_iter().map(report).collect(), next }
    }

    /// A page of the blocked users, at most `max` and [`USERS_MAX`], behind a user.
    pub fn blocked(&self, max: usize, after: Option<&str>) -> Blocked {
        let max = max.clamp(1, USERS_MAX);
        let after = after.map(UserName::new);
        let rows = self.shared.overrides.blocked_after(after.as_ref(), max);
        let next = rows.last().filter(|_| rows.len() == max).map(ToString::to_string);
        Blocked { users: rows.iter().map(ToString::to_string).collect(), next }
    }
}
