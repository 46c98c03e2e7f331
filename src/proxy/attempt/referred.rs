//! What becomes of a login whose backend names another one.

use crate::names::BackendId;
use crate::proxy::attempt::{Attempt, Failure, Referral, Way};
use crate::proxy::referral::Target;
use crate::routing::{Route, name};
use crate::session::answer::Answer;
use crate::upstream::backends::AdminState;

/// How many referrals of backends one login follows.
const REFERRALS_MAX: usize = 2;

impl Attempt<'_> {
    /// The way to the backend that a referral names, where it may be followed: to another
    /// configured backend that takes users, for the same user, and not too often.
    pub(super) fn follow(&self, way: Way, referral: Referral) -> Result<Way, Failure> {
        let mut referred_by = way.referred_by;
        referred_by.push(referral.from);
        if referred_by.len() > REFERRALS_MAX {
            return Err(self.lost(&referred_by, "too many referrals"));
        }
        let Some(target) = Target::parse(&referral.url) else {
            return Err(self.lost(&referred_by, "it names no server"));
        };
        let routing = &self.snapshot.config.routing;
        let same_user = target.user.as_deref().is_none_or(|typed| {
            name::canonical(routing, typed).is_ok_and(|user| user == self.identity.user)
        });
        if !same_user {
            return Err(self.lost(&referred_by, "it names another user"));
        }
        let Some(backend) = target.find(&self.snapshot.upstreams) else {
            return Err(self.lost(&referred_by, "the server is no configured backend"));
        };
        if referred_by.contains(backend.name()) {
            return Err(self.lost(&referred_by, "it leads back"));
        }
        // Whoever has sessions there went there without a referral.
        if backend.admin_state() == AdminState::Drain {
            return Err(self.lost(&referred_by, "the server takes nobody new"));
        }
        tracing::debug!(session = %self.client.session, backend = %backend.name(), "referral followed");
        let route = Route { shard: backend.shard.name.clone(), ..way.route };
        let candidates = vec![backend.name().clone()];
        Ok(Way { route, candidates, standby: Vec::new(), referred_by, ..way })
    }

    /// A referral that is not followed: told to the operator, never to the client.
    pub(super) fn lost(&self, referred_by: &[BackendId], why: &'static str) -> Failure {
        if let Some(from) = referred_by.last() {
            tracing::warn!(session = %self.client.session, backend = %from, why, "a referral is not followed");
            if let Some(backend) = self.snapshot.upstreams.backend(from) {
                backend.metrics.failed("referral");
            }
        }
        Failure::new(Answer::Unavailable, "referral")
    }
}
