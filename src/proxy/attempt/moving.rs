//! A user whose route leads to another shard than his sessions are on, where the operator
//! wants him there at once (`on_route_change: end`): his sessions get their BYE, and his
//! logins wait until the backend has let go of all of them.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::OnRouteChange;
use crate::names::{ShardId, UserName};
use crate::proxy::attempt::{Attempt, Failure};
use crate::proxy::orders::{Border, CloseReason, Ending};
use crate::proxy::registry::{Registry, SessionHandle};
use crate::routing::Route;
use crate::session::answer::Answer;

/// Longest wait of a login for its user's sessions elsewhere to end.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// How long a session may take to come to the end of its command. Behind it the backend has
/// time enough within [`HOLD_MAX`] to see the end, or to be given up.
const END_GRACE: Duration = Duration::from_secs(10);
/// From one look whether they have ended to the next.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a session is told that ends for that.
const BYE: &str = "[UNAVAILABLE] The mailbox has moved, please reconnect.";

impl Attempt<'_> {
    /// Where the login goes, once nothing binds its user to another shard: waits for that
    /// where the configuration says so, and asks the lookups again behind it.
    pub(super) async fn route_when_free(&self) -> Result<Route, Failure> {
        let mut route = self.route().await?;
        self.check_not_blocked(&route.user)?;
        let ends = self.snapshot.config.routing.on_route_change == OnRouteChange::End;
        let deadline = Instant::now() + HOLD_MAX;
        while ends && is_elsewhere(&self.shared.registry, &route.user, &route.shard) {
            tracing::info!(
                session = %self.client.session,
                shard = %route.shard,
                "the user's sessions on another shard end for the new route"
            );
            let end = || self.end_sessions(&route.user);
            if !free(&self.shared.registry, &route.user, &route.shard, (deadline, end)).await {
                return Err(Failure::new(Answer::Unavailable, "route_change"));
            }
            route = self.route().await?;
            self.check_not_blocked(&route.user)?;
        }
        Ok(route)
    }

    /// Gives the order to all live sessions of the user; one that has it keeps its turn.
    async fn end_sessions(&self, user: &UserName) {
        let Some(workers) = self.shared.workers.get() else { return };
        let rows = self.shared.registry.sessions_of_user(user);
        let sessions: Vec<SessionHandle> = rows.into_iter().map(|row| row.handle).collect();
        let ending = Ending {
            reason: CloseReason::RouteChanged,
            bye: BYE,
            border: Border::Command,
            spread: Duration::ZERO,
            grace: END_GRACE,
            backend_is_gone: false,
        };
        workers.end_sessions(&sessions, ending).await;
    }
}

/// Whether sessions, logins under way or ends not seen bind the user to another shard.
fn is_elsewhere(registry: &Registry, user: &UserName, shard: &ShardId) -> bool {
    let placement = registry.placement(user, Instant::now());
    placement.is_some_and(|placement| placement.binds_elsewhere(shard))
}

/// Waits until nothing binds the user to another shard; `end` is called again and again, for
/// logins that were under way become sessions meanwhile. Whether it came so in time.
async fn free<F: Future<Output = ()>>(
    registry: &Registry,
    user: &UserName,
    shard: &ShardId,
    (deadline, end): (Instant, impl Fn() -> F),
) -> bool {
    while is_elsewhere(registry, user, shard) {
        if Instant::now() >= deadline {
            return false;
        }
        end().await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::names::BackendId;
    use crate::proxy::registry::{Live, Request};

    fn session(registry: &std::sync::Arc<Registry>, user: &UserName, shard: &ShardId) -> Live {
        let request = Request {
            user,
            home: shard,
            shard,
            candidates: &[BackendId::new("b")],
            sticky: Duration::from_secs(900),
            user_max: 9,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            address_max: 9,
            now: Instant::now(),
        };
        let reserved = registry.reserve(&request).unwrap();
        reserved.live(SessionHandle { worker: 0, key: 0, turn: 0 }).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_waits_until_the_last_session_elsewhere_has_ended() {
        let registry = Registry::new(1000);
        let (user, north, south) = (UserName::new("u"), ShardId::new("n"), ShardId::new("s"));
        let live = RefCell::new(vec![
            session(&registry, &user, &north),
            session(&registry, &user, &north),
        ]);
        let orders = Cell::new(0);
        let end = async || {
            orders.set(orders.get() + 1);
            // They end one after the other.
            live.borrow_mut().pop();
        };
        let deadline = Instant::now() + HOLD_MAX;
        assert!(free(&registry, &user, &south, (deadline, end)).await);
        assert_eq!(orders.get(), 2);
        // On the shard itself nothing is in the way.
        let _there = session(&registry, &user, &south);
        assert!(!is_elsewhere(&registry, &user, &south));
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_gives_up_where_an_end_is_not_seen_in_time() {
        let registry = Registry::new(1000);
        let (user, north, south) = (UserName::new("u"), ShardId::new("n"), ShardId::new("s"));
        let _unseen = session(&registry, &user, &north).end_unseen();
        let begun = Instant::now();
        let end = async || ();
        assert!(!free(&registry, &user, &south, (begun + HOLD_MAX, end)).await);
        assert!((HOLD_MAX..HOLD_MAX + LOOK_EVERY * 2).contains(&begun.elapsed()));
        registry.fenced(&BackendId::new("b"));
        assert!(free(&registry, &user, &south, (begun, end)).await);
    }
}
