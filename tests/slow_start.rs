//! A backend that is up again gets a share of the new users that grows over its `slow_start`.
//!
//! The hash says for each user from which share on the backend is his. So every login has one
//! right answer, as far as the moment is known at which it was decided.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and real sockets run on the real clock"
)]

mod support;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use pointsman::config::{AdminState, Balance};
use pointsman::names::{BackendId, UserName};
use pointsman::upstream::choice::{Candidate, SHARE_FULL, candidates};
use support::backend::Backend;
use support::ordinary::Ordinary;
use support::pointsman::Pointsman;
use support::tls::Authority;
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const SLOW_START: Duration = Duration::from_secs(12);
/// Users of each kind that log in at each moment.
const USERS: usize = 8;

/// The share in percent from which on a user is the backend's that came back; none where he
/// is the other one's in any case.
fn belongs_from(user: &str) -> Option<u32> {
    let (steady, back) = (BackendId::new("steady"), BackendId::new("back"));
    let user = UserName::new(user);
    let first_at = |share| {
        let with = |name, share| Candidate {
            name,
            weight: 1,
            share,
            state: AdminState::Up,
            skipped: false,
            down: false,
            sessions: 0,
            full: false,
        };
        let both = [with(&steady, SHARE_FULL), with(&back, share)];
        candidates(Balance::Rendezvous, &user, &both).first.into_iter().next().unwrap()
    };
    (1..=SHARE_FULL).find(|share| first_at(*share) == back)
}

/// Users, each of whom logs in once, by the share from which on they are the backend's.
struct Users {
    next: usize,
}

impl Users {
    /// New ones of whom that is so.
    fn take(&mut self, wanted: impl Fn(Option<u32>) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < USERS {
            let user = format!("user{}", self.next);
            self.next += 1;
            if wanted(belongs_from(&user)) {
                found.push(user);
            }
        }
        found
    }
}

struct Scene {
    proxy: Pointsman,
    steady: Backend,
    back: Backend,
    /// Between these two the backend came up.
    rose: (Instant, Instant),
}

impl Scene {
    /// The share of the backend at present, at least.
    fn share_at_least(&self) -> u32 {
        percent(self.rose.1.elapsed())
    }

    /// The share at present, at most: a rise shows a little later than it is.
    fn share_at_most(&self) -> u32 {
        percent(self.rose.0.elapsed()) + 5
    }

    fn wait_for_share(&self, share: u32) {
        wait_until("the share has grown", || (self.share_at_least() >= share).then_some(()));
    }

    /// Logs users in that are the backend's by now: they are on it.
    fn assert_on_it(&self, users: &[String]) {
        for user in users {
            self.proxy.logged_in(user, "secret").logout();
            assert!(self.back.users().contains(user), "{user} is not on it: {:?}", self.rose);
        }
    }

    /// Logs users in that are the other backend's below that share: they are there. The rest
    /// of them says nothing where the machine was too slow.
    fn assert_not_yet_on_it(&self, users: &[String], below: u32) {
        for user in users {
            self.proxy.logged_in(user, "secret").logout();
            if self.share_at_most() >= below {
                return;
            }
            assert!(self.steady.users().contains(user), "{user} is on it: {:?}", self.rose);
        }
    }
}

fn percent(elapsed: Duration) -> u32 {
    let share = elapsed.as_millis() * u128::from(SHARE_FULL) / SLOW_START.as_millis();
    u32::try_from(share).unwrap().clamp(1, SHARE_FULL)
}

fn is_up(proxy: &Pointsman) -> bool {
    proxy.metrics().sum("pointsman_backend_up", &[("backend", "back")]) > 0.5
}

/// The backend served, was killed, and is up again.
fn come_back(users: &mut Users) -> Scene {
    let (steady, mut first) = (Backend::ordinary(), Backend::ordinary());
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}shards:\n  s:\n    kind: shared\n    slow_start: {}s\n    \
             check: {{ mode: greeting, interval: 100ms, timeout: 2s, rise: 3, fall: 2 }}\n    \
             backends:\n      - {{ name: steady, address: \"{}\", tls: none }}\n      \
             - {{ name: back, address: \"{}\", tls: none }}\n\
             routing: {{ lookups: [ {{ shard: s }} ], sticky: 0s }}\n",
            places.head(),
            SLOW_START.as_secs(),
            steady.address(),
            first.address()
        )
    });
    // From the start of the proxy on it has its whole share.
    for user in users.take(|from| from.is_some_and(|from| from > 50)) {
        proxy.logged_in(&user, "secret").logout();
        assert!(first.users().contains(&user), "{user}");
    }
    first.stop();
    wait_until("it is down", || (!is_up(&proxy)).then_some(()));
    for user in users.take(|from| from.is_some()) {
        proxy.logged_in(&user, "secret").logout();
        assert!(steady.users().contains(&user), "{user}");
    }
    let mut before = Instant::now();
    let back = Ordinary::new().start_at(first.port());
    wait_until("it is up again", || {
        let now = Instant::now();
        let up = is_up(&proxy);
        if !up {
            before = now;
        }
        up.then_some(())
    });
    Scene { proxy, steady, back, rose: (before, Instant::now()) }
}

#[test]
fn a_backend_that_is_up_again_gets_a_share_of_new_users_that_grows_over_its_slow_start() {
    let mut users = Users { next: 0 };
    let scene = come_back(&mut users);
    let within = |from: u32, to: u32| {
        move |share: Option<u32>| share.is_some_and(|share| share > from && share <= to)
    };
    // At first hardly anybody is sent there, though he would be with the whole share.
    let late = users.take(within(50, SHARE_FULL));
    scene.assert_not_yet_on_it(&late, 50);
    scene.wait_for_share(25);
    scene.assert_on_it(&users.take(within(0, 25)));
    scene.assert_not_yet_on_it(&users.take(within(75, SHARE_FULL)), 75);
    scene.wait_for_share(50);
    scene.assert_on_it(&users.take(within(25, 50)));
    scene.wait_for_share(SHARE_FULL);
    scene.assert_on_it(&users.take(within(50, SHARE_FULL)));
    // Users who are the other one's stayed there all the time.
    let theirs = users.take(|share| share.is_none());
    for user in &theirs {
        scene.proxy.logged_in(user, "secret").logout();
        assert!(scene.steady.users().contains(user), "{user}");
    }
    // Who was sent away at first is the backend's by now.
    scene.assert_on_it(&late[..1]);
}
