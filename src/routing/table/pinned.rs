//! What pins and lookups together say of a user.

use tokio::time::Instant;

use super::{Link, Table};
use crate::metrics::{LookupResult, LookupSource};
use crate::names::{ShardId, UserName};
use crate::routing::lookup::Guarded;
use crate::routing::query::{FailureReason, Found, Query};
use crate::routing::{LookupError, Route, Step};

impl Table {
    /// Asks the lookups in their order; the first that knows the user decides. Those in memory
    /// answer at once. `tell` hears of each that was asked. A pin decides the shard, and
    /// nothing else of what a directory says: whose mailbox it is, and whether he may log in.
    ///
    /// # Errors
    /// Of a user whom no lookup knows [`LookupError::NoRoute`], unless one that failed was
    /// passed over: an outage never looks like an unknown user.
    pub async fn route(
        &self,
        query: &Query<'_>,
        mut tell: impl FnMut(Step),
    ) -> Result<Route, LookupError> {
        let pin = self.ask_pins(query.user, &mut tell);
        if self.links.iter().all(|link| link.remote().is_none())
            && let Some(shard) = pin
        {
            return shard
                .map(|shard| self.route_of(query.user, &Found::on(shard), LookupSource::Pins));
        }
        match self.ask_links(query, &mut tell).await {
            Ok((found, source)) => {
                let identity = found.user.as_ref().filter(|user| *user != query.user);
                let of_identity = identity.and_then(|user| self.ask_pins(user, &mut tell));
                match of_identity.or(pin) {
                    None => Ok(self.route_of(query.user, &found, source)),
                    Some(shard) => {
                        let found = Found { shard: shard?, backend: None, ..Found::clone(&found) };
                        Ok(self.route_of(query.user, &found, LookupSource::Pins))
                    }
                }
            }
            Err(LookupError::NoRoute) => match pin {
                Some(shard) if !self.checks_passwords() => {
                    Ok(self.route_of(query.user, &Found::on(shard?), LookupSource::Pins))
                }
                _ => Err(LookupError::NoRoute),
            },
            Err(error) => Err(error),
        }
    }

    /// Whether a lookup decides also whether the client may log in.
    fn checks_passwords(&self) -> bool {
        self.links.iter().filter_map(Link::remote).any(Guarded::depends_on_password)
    }

    /// What a pin says of the user, where there is one.
    fn ask_pins(
        &self,
        user: &UserName,
        mut tell: impl FnMut(Step),
    ) -> Option<Result<ShardId, LookupError>> {
        let start = Instant::now();
        let pinned = self.pinned(user)?;
        let result = if pinned.is_ok() { LookupResult::Found } else { LookupResult::Failed };
        tell(Step { place: None, source: LookupSource::Pins, result, elapsed: start.elapsed() });
        Some(pinned)
    }

    fn pinned(&self, user: &UserName) -> Option<Result<ShardId, LookupError>> {
        let shard = self.pins.pinned(user)?;
        if self.shards.contains(&shard) {
            return Some(Ok(shard));
        }
        tracing::warn!(%shard, "a user is pinned to a shard that is not configured");
        let (lookup, reason) = (LookupSource::Pins, FailureReason::UnknownShard);
        Some(Err(LookupError::Unavailable { lookup, reason }))
    }
}
