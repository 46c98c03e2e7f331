//! What sources said of users, for a while and bounded. No IO, no clock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::query::Found;
use crate::config::CachePolicy;
use crate::names::UserName;

/// Answers younger than this are kept when a backend refuses the password: guesses at
/// passwords must not become as many questions to the directory.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// A cached answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hit {
    /// Known, and not long ago.
    Found(Kept),
    /// Known once: for the time that the source cannot be asked.
    Stale(Kept),
    /// Not known to the source.
    Missed,
}

/// What a source said of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) found: Arc<Found>,
    /// The [`Inner::epoch`](super::Inner) in which it was said.
    pub(super) epoch: u64,
}

/// Users found and users missed, each kept apart: names that nobody has push out no user.
#[derive(Debug)]
pub(super) struct Cache {
    found: Shelf<Kept>,
    missed: Shelf<()>,
}

impl Cache {
    pub(super) fn new(policy: &CachePolicy) -> Self {
        let kept = policy.found + policy.stale;
        Self {
            found: Shelf::new(policy.found, kept, policy.entries),
            missed: Shelf::new(policy.miss, policy.miss, policy.entries),
        }
    }

    pub(super) fn lookup(&self, user: &UserName, now: Instant) -> Option<Hit> {
        if let Some((kept, fresh)) = self.found.lookup(user, now) {
            let kept = kept.clone();
            return Some(if fresh { Hit::Found(kept) } else { Hit::Stale(kept) });
        }
        let (&(), fresh) = self.missed.lookup(user, now)?;
        fresh.then_some(Hit::Missed)
    }

    /// Takes what a source said in place of what it said before.
    pub(super) fn keep(&mut self, user: &UserName, said: Option<Kept>, now: Instant) {
        match said {
            Some(kept) if kept.found.may_cache => {
                self.missed.remove(user);
                self.found.insert(user, kept, now);
            }
            Some(_) => self.forget(user),
            None => {
                self.found.remove(user);
                self.missed.insert(user, (), now);
            }
        }
    }

    /// What was known of a user is no longer true.
    pub(super) fn forget(&mut self, user: &UserName) {
        self.found.remove(user);
        self.missed.remove(user);
    }

    /// What is known of a user is asked anew, unless it was asked a moment ago.
    pub(super) fn doubt(&mut self, user: &UserName, now: Instant) {
        self.found.doubt(user, now);
    }

    /// Everything is asked anew.
    pub(super) fn doubt_all(&mut self) {
        self.found.doubt_all();
        self.missed.doubt_all();
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        let Self { found, missed } = self;
        [found.entries.len(), found.order.len(), missed.entries.len(), missed.order.len()]
    }
}

/// Answers of one kind, each kept for the same time: the oldest expires first.
#[derive(Debug)]
struct Shelf<V> {
    fresh: Duration,
    kept: Duration,
    entries_max: usize,
    entries: HashMap<UserName, Entry<V>>,
    /// Every entry by age; also former ones of the same user, told by their number.
    order: VecDeque<(UserName, u64)>,
    next_number: u64,
    /// Entries with a lower number are in doubt.
    trusted_from: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    number: u64,
    made: Instant,
    doubted: bool,
}

impl<V> Shelf<V> {
    fn new(fresh: Duration, kept: Duration, entries_max: usize) -> Self {
        Self {
            fresh,
            kept,
            entries_max,
            entries: HashMap::new(),
            order: VecDeque::new(),
            next_number: 0,
            trusted_from: 0,
        }
    }

    /// The value, and whether it is fresh.
    fn lookup(&self, user: &UserName, now: Instant) -> Option<(&V, bool)> {
        let entry = self.entries.get(user)?;
        let age = now.saturating_duration_since(entry.made);
        let trusted = !entry.doubted && entry.number >= self.trusted_from;
        (age < self.kept).then_some((&entry.value, trusted && age < self.fresh))
    }

    fn insert(&mut self, user: &UserName, value: V, now: Instant) {
        self.drop_expired(now);
        if self.kept.is_zero() || self.entries_max == 0 {
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        let entry = Entry { value, number, made: now, doubted: false };
        self.entries.insert(user.clone(), entry);
        self.order.push_back((user.clone(), number));
        while self.entries.len() > self.entries_max && self.drop_oldest() {}
        if self.order.len() > 2 * self.entries_max {
            let entries = &self.entries;
            self.order.retain(|(user, number)| is_present(entries, user, *number));
        }
    }

    fn remove(&mut self, user: &UserName) {
        self.entries.remove(user);
    }

    fn doubt(&mut self, user: &UserName, now: Instant) {
        if let Some(entry) = self.entries.get_mut(user)
            && now.saturating_duration_since(entry.made) >= TRUSTED_FOR
        {
            entry.doubted = true;
        }
    }

    fn doubt_all(&mut self) {
        self.trusted_from = self.next_number;
    }

    fn drop_expired(&mut self, now: Instant) {
        while let Some((user, number)) = self.order.front() {
            let stays = self.entries.get(user).is_some_and(|entry| {
                entry.number == *number && now.saturating_duration_since(entry.made) < self.kept
            });
            if stays {
                break;
            }
            self.drop_oldest();
        }
    }

    /// Whether there was one, or what is left of one.
    fn drop_oldest(&mut self) -> bool {
        let Some((user, number)) = self.order.pop_front() else { return false };
        if is_present(&self.entries, &user, number) {
            self.entries.remove(&user);
        }
        true
    }
}

fn is_present<V>(entries: &HashMap<UserName, Entry<V>>, user: &UserName, number: u64) -> bool {
    entries.get(user).is_some_and(|entry| entry.number == number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::ShardId;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(entries: usize) -> CachePolicy {
        CachePolicy { found: SECOND * 10, miss: SECOND * 3, stale: SECOND * 20, entries }
    }

    fn user(number: usize) -> UserName {
        UserName::new(format!("user{number}"))
    }

    fn found(shard: &str) -> Kept {
        Kept { found: Arc::new(Found::on(ShardId::new(shard))), epoch: 0 }
    }

    #[tokio::test]
    async fn found_and_missed_have_times_of_their_own() {
        let mut cache = Cache::new(&policy(9));
        let now = Instant::now();
        let north = found("north");
        cache.keep(&user(1), Some(north.clone()), now);
        cache.keep(&user(2), None, now);
        let at =
            |cache: &Cache, number, seconds| cache.lookup(&user(number), now + SECOND * seconds);
        assert_eq!(at(&cache, 1, 9), Some(Hit::Found(north.clone())));
        assert_eq!(at(&cache, 1, 10), Some(Hit::Stale(north.clone())));
        assert_eq!(at(&cache, 1, 30), None);
        assert_eq!(at(&cache, 2, 2), Some(Hit::Missed));
        assert_eq!(at(&cache, 2, 3), None);
        assert_eq!(at(&cache, 3, 0), None);
        // A new answer takes the place of the former one, of either kind.
        cache.keep(&user(2), Some(north.clone()), now + SECOND);
        cache.keep(&user(1), None, now + SECOND);
        assert_eq!(at(&cache, 1, 2), Some(Hit::Missed));
        assert_eq!(at(&cache, 2, 2), Some(Hit::Found(north)));
        // One that holds for a moment only leaves nothing, not even of the one before.
        let once = Found { may_cache: false, ..Found::on(ShardId::new("south")) };
        let once = Kept { found: Arc::new(once), epoch: 0 };
        cache.keep(&user(2), Some(once), now + SECOND);
        assert_eq!(at(&cache, 2, 1), None);
    }

    #[tokio::test]
    async fn doubted_answers_are_stale() {
        let mut cache = Cache::new(&policy(9));
        let now = Instant::now();
        let north = found("north");
        cache.keep(&user(1), Some(north.clone()), now);
        cache.doubt(&user(1), now);
        assert_eq!(cache.lookup(&user(1), now), Some(Hit::Found(north.clone())));
        cache.doubt(&user(1), now + SECOND);
        assert_eq!(cache.lookup(&user(1), now), Some(Hit::Stale(north.clone())));
        cache.keep(&user(1), Some(north.clone()), now);
        cache.keep(&user(2), None, now);
        cache.doubt_all();
        assert_eq!(cache.lookup(&user(1), now), Some(Hit::Stale(north.clone())));
        assert_eq!(cache.lookup(&user(2), now), None);
        cache.keep(&user(1), Some(north.clone()), now);
        assert_eq!(cache.lookup(&user(1), now), Some(Hit::Found(north)));
    }

    #[tokio::test]
    async fn the_oldest_go_first_and_misses_push_out_no_user() {
        let mut cache = Cache::new(&policy(3));
        let now = Instant::now();
        for number in 0..3 {
            cache.keep(&user(number), Some(found("north")), now);
        }
        cache.keep(&user(0), Some(found("south")), now); // Now the youngest.
        cache.keep(&user(3), Some(found("north")), now);
        let known: Vec<bool> =
            (0..4).map(|number| cache.lookup(&user(number), now).is_some()).collect();
        assert_eq!(known, [true, false, true, true]);
        for number in 100..200 {
            cache.keep(&user(number), None, now);
        }
        assert!(cache.lookup(&user(0), now).is_some());
        assert_eq!(cache.sizes()[2], 3);
    }

    proptest! {
        /// No order of answers grows it beyond its bound, and it never gives what was not kept.
        #[test]
        fn it_stays_within_its_bound(
            steps in prop::collection::vec((0_usize..12, any::<bool>(), 0_u32..8), 0..300),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut now = runtime.block_on(async { Instant::now() });
            let mut cache = Cache::new(&policy(5));
            let mut said: HashMap<UserName, bool> = HashMap::new();
            for (number, is_found, seconds) in steps {
                now += SECOND * seconds / 4;
                let north = found("north");
                cache.keep(&user(number), is_found.then_some(north), now);
                said.insert(user(number), is_found);
                prop_assert!(cache.sizes().into_iter().all(|size| size <= 10));
                prop_assert!(cache.sizes()[0] <= 5 && cache.sizes()[2] <= 5);
                for (user, is_found) in &said {
                    let hit = cache.lookup(user, now);
                    prop_assert!(hit.is_none_or(|hit| (hit != Hit::Missed) == *is_found));
                }
            }
        }
    }
}
