//! The order in which a shard's backends are tried for a user. Pure.

use std::cmp::Ordering;

use crate::config::{AdminState, Balance};
use crate::names::{BackendId, UserName};
use crate::routing::hashing;

/// What the choice needs to know of one backend.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The backend.
    pub name: &'a BackendId,
    /// Its share of the users in a `shared` shard.
    pub weight: u32,
    /// The part of the weight that counts now, in percent of [`SHARE_FULL`]; 1 at least.
    pub share: u32,
    /// What the operator lets it do.
    pub state: AdminState,
    /// Whether its last connect failed a moment ago.
    pub skipped: bool,
    /// Whether it is judged not to serve.
    pub down: bool,
    /// Sessions of this proxy there.
    pub sessions: u32,
    /// Whether it has as many as it may.
    pub full: bool,
}

/// A [`Candidate::share`] of the whole weight.
pub const SHARE_FULL: u32 = 100;

impl Candidate<'_> {
    /// Whether nothing speaks against it.
    const fn serves(&self) -> bool {
        !self.skipped && !self.down
    }

    /// The weight, in hundredths.
    const fn weight_now(&self) -> u32 {
        self.weight.saturating_mul(self.share)
    }

    /// Compares sessions for the weight, one more counted, without dividing.
    fn cmp_load(&self, other: &Self) -> Ordering {
        let load = |one: &Self, weight: u32| (u64::from(one.sessions) + 1) * u64::from(weight);
        load(self, other.weight_now()).cmp(&load(other, self.weight_now()))
    }
}

/// Where a user without sessions may go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Candidates {
    /// The backends in the order of trying. One of these the user may be remembered on.
    pub first: Vec<BackendId>,
    /// Those on standby, for when a login found none of the first to serve.
    pub standby: Vec<BackendId>,
}

/// The backends in the order of trying, as the shard's `balance` says. Those that are `up` come first; those
/// on standby take their place where none of them can be used. Those that are judged down or
/// failed a moment ago are left out, unless it is all of them: then all are tried, the ones
/// not judged down first. Nobody new goes to the others. One that has as many sessions as it may comes last.
pub fn candidates(balance: Balance, key: &UserName, backends: &[Candidate<'_>]) -> Candidates {
    let of = |state: AdminState, serves: bool| {
        let chosen =
            |backend: &&Candidate<'_>| backend.state == state && backend.serves() == serves;
        ordered(balance, key, backends.iter().filter(chosen).collect())
    };
    let (up, standby) = (of(AdminState::Up, true), of(AdminState::Standby, true));
    if !up.is_empty() {
        return Candidates { first: up, standby };
    }
    if !standby.is_empty() {
        return Candidates { first: standby, standby: Vec::new() };
    }
    let (up, standby) = (of(AdminState::Up, false), of(AdminState::Standby, false));
    if up.is_empty() {
        return Candidates { first: standby, standby: Vec::new() };
    }
    Candidates { first: up, standby }
}

fn ordered(balance: Balance, key: &UserName, mut backends: Vec<&Candidate<'_>>) -> Vec<BackendId> {
    if balance != Balance::Ordered {
        backends.sort_by_cached_key(|backend| {
            hashing::Score::of(key, backend.name, backend.weight_now())
        });
    }
    if balance == Balance::LeastSessions {
        backends.sort_by(|one, other| one.cmp_load(other));
    }
    backends.sort_by_key(|backend| (backend.down, backend.full));
    backends.into_iter().map(|backend| backend.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(count: usize) -> Vec<BackendId> {
        (0..count).map(|n| BackendId::new(format!("b{n}"))).collect()
    }

    fn list<'a>(names: &'a [BackendId], skipped: &[usize]) -> Vec<Candidate<'a>> {
        let up = vec![AdminState::Up; names.len()];
        in_states(names, &up, skipped)
    }

    fn in_states<'a>(
        names: &'a [BackendId],
        states: &[AdminState],
        skipped: &[usize],
    ) -> Vec<Candidate<'a>> {
        let with = |(n, name)| Candidate {
            name,
            weight: 1,
            share: SHARE_FULL,
            state: states[n],
            skipped: skipped.contains(&n),
            down: false,
            sessions: 0,
            full: false,
        };
        names.iter().enumerate().map(with).collect()
    }

    #[test]
    fn a_primary_shard_is_tried_in_file_order_without_those_that_failed() {
        let names = names(3);
        let user = UserName::new("kim");
        let order = candidates(Balance::Ordered, &user, &list(&names, &[0]));
        assert_eq!(order.first, vec![names[1].clone(), names[2].clone()]);
        let order = candidates(Balance::Ordered, &user, &list(&names, &[0, 1, 2]));
        assert_eq!(order.first, names);
    }

    #[test]
    fn a_shared_shard_spreads_users_and_a_failed_backend_moves_only_its_own() {
        let names = names(3);
        let mut firsts = std::collections::HashMap::new();
        for n in 0..300 {
            let user = UserName::new(format!("user{n}"));
            let all = candidates(Balance::Rendezvous, &user, &list(&names, &[])).first;
            let without = candidates(Balance::Rendezvous, &user, &list(&names, &[1])).first;
            if all[0] != names[1] {
                assert_eq!(all[0], without[0]);
            }
            assert!(!without.contains(&names[1]));
            *firsts.entry(all[0].clone()).or_insert(0) += 1;
        }
        assert!(firsts.values().all(|share| *share > 50), "{firsts:?}");
    }

    #[test]
    fn nobody_new_goes_to_a_backend_that_drains_or_is_down() {
        use AdminState::{Down, Drain, Up};
        let names = names(3);
        let user = UserName::new("kim");
        for balance in [Balance::Ordered, Balance::Rendezvous] {
            let order = candidates(balance, &user, &in_states(&names, &[Drain, Down, Up], &[]));
            assert_eq!(order.first, [names[2].clone()]);
            let none = candidates(balance, &user, &in_states(&names, &[Drain, Down, Down], &[]));
            assert_eq!(none, Candidates::default());
        }
    }

    #[test]
    fn a_standby_is_taken_only_while_no_other_can_be_used() {
        use AdminState::{Standby, Up};
        let names = names(3);
        let user = UserName::new("kim");
        let states = [Standby, Up, Up];
        let ask = |skipped: &[usize]| {
            candidates(Balance::Ordered, &user, &in_states(&names, &states, skipped))
        };
        let (ups, standby) = (names[1..].to_vec(), names[..1].to_vec());
        assert_eq!(ask(&[]), Candidates { first: ups.clone(), standby: standby.clone() });
        let one = Candidates { first: ups[1..].to_vec(), standby: standby.clone() };
        assert_eq!(ask(&[1]), one);
        assert_eq!(ask(&[1, 2]), Candidates { first: standby.clone(), standby: Vec::new() });
        assert_eq!(ask(&[0, 1, 2]), Candidates { first: ups, standby });
    }

    #[test]
    fn a_shard_that_lives_on_standbys_tries_them_also_when_all_of_them_failed() {
        use AdminState::{Down, Standby};
        let names = names(3);
        let user = UserName::new("kim");
        let mut backends = in_states(&names, &[Down, Standby, Standby], &[1, 2]);
        let only = |first: &[&BackendId]| Candidates {
            first: first.iter().copied().cloned().collect(),
            standby: Vec::new(),
        };
        let order = candidates(Balance::Ordered, &user, &backends);
        assert_eq!(order, only(&[&names[1], &names[2]]));
        backends[1].down = true;
        let order = candidates(Balance::Ordered, &user, &backends);
        assert_eq!(order, only(&[&names[2], &names[1]]));
    }

    #[test]
    fn a_backend_that_is_down_is_left_out_and_comes_last_where_none_serves() {
        let names = names(3);
        let user = UserName::new("kim");
        let mut backends = list(&names, &[1, 2]);
        backends[0].down = true;
        let order = candidates(Balance::Ordered, &user, &backends).first;
        assert_eq!(order, [names[1].clone(), names[2].clone(), names[0].clone()]);
        backends[2].skipped = false;
        assert_eq!(candidates(Balance::Ordered, &user, &backends).first, [names[2].clone()]);
    }

    #[test]
    fn a_growing_share_takes_users_of_its_own_and_no_others() {
        let names = names(3);
        let first = |number: u32, share| {
            let mut backends = list(&names, &[]);
            backends[1].share = share;
            let user = UserName::new(format!("user{number}"));
            candidates(Balance::Rendezvous, &user, &backends).first[0].clone()
        };
        let mut shares = Vec::new();
        for share in [1, 25, 50, SHARE_FULL] {
            let mut own = 0;
            for number in 0..1000 {
                let (now, whole) = (first(number, share), first(number, SHARE_FULL));
                assert!(now == whole || whole == names[1], "user{number} moved at {share} %");
                own += u32::from(now == names[1]);
            }
            shares.push(own);
        }
        assert!(shares.is_sorted() && shares[0] < 20 && shares[3] > 280, "{shares:?}");
    }

    #[test]
    fn least_sessions_goes_by_sessions_for_the_weight_and_then_by_the_name() {
        let names = names(3);
        let order = |sessions: [u32; 3], weights: [u32; 3], user: &str| {
            let mut backends = list(&names, &[]);
            for (at, backend) in backends.iter_mut().enumerate() {
                (backend.sessions, backend.weight) = (sessions[at], weights[at]);
            }
            candidates(Balance::LeastSessions, &UserName::new(user), &backends).first
        };
        let in_order = |order: [usize; 3]| order.map(|at| names[at].clone());
        assert_eq!(order([5, 3, 4], [1, 1, 1], "kim"), in_order([1, 2, 0]));
        assert_eq!(order([5, 3, 4], [4, 1, 1], "kim"), in_order([0, 1, 2]));
        let firsts: std::collections::HashSet<_> =
            (0..50).map(|n| order([7, 7, 7], [1, 1, 1], &format!("u{n}"))[0].clone()).collect();
        assert_eq!(firsts.len(), 3, "equal ones share the users");
    }

    #[test]
    fn a_full_backend_is_the_last_resort() {
        let names = names(3);
        for balance in [Balance::Ordered, Balance::LeastSessions, Balance::Rendezvous] {
            let mut backends = list(&names, &[]);
            backends[0].full = true;
            let order = candidates(balance, &UserName::new("kim"), &backends).first;
            assert_eq!(order[2], names[0]);
        }
    }

    proptest! {
        /// Whatever takes a backend out of the choice moves its own users and nobody else's,
        /// and the order among the others stays.
        #[test]
        fn a_backend_that_leaves_the_choice_moves_exactly_its_own_users(
            weights in prop::collection::vec(1_u32..1001, 2..9),
            gone in any::<prop::sample::Index>(),
            how in 0_usize..4,
            users in prop::collection::vec("[a-z0-9.]{1,12}", 1..40),
        ) {
            let names = names(weights.len());
            let gone = gone.index(names.len());
            let mut before = list(&names, &[]);
            for (backend, weight) in before.iter_mut().zip(&weights) {
                backend.weight = *weight;
            }
            let mut after = before.clone();
            match how {
                0 => after[gone].down = true,
                1 => after[gone].skipped = true,
                2 => after[gone].state = AdminState::Drain,
                _ => { after.remove(gone); }
            }
            for user in users {
                let user = UserName::new(user);
                let mut all = candidates(Balance::Rendezvous, &user, &before).first;
                let fewer = candidates(Balance::Rendezvous, &user, &after).first;
                if all[0] != names[gone] {
                    prop_assert_eq!(&all[0], &fewer[0]);
                }
                all.retain(|name| *name != names[gone]);
                prop_assert_eq!(all, fewer);
            }
        }
    }
}
