//! The registry against single cases, against a naive model and against threads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

const STICKY: Duration = Duration::from_secs(900);
const HANDLE: SessionHandle = SessionHandle { worker: 1, key: 7, turn: 0 };

fn backend(name: &str) -> BackendId {
    BackendId::new(name)
}

/// A login as the tests make it: `user` on shard `north`, candidates by name.
struct Login {
    user: UserName,
    home: ShardId,
    shard: ShardId,
    candidates: Vec<BackendId>,
    address: IpAddr,
    user_max: u32,
    address_max: u32,
}

fn login(user: &str, candidates: &[&str]) -> Login {
    Login {
        user: UserName::new(user),
        home: ShardId::new("north"),
        shard: ShardId::new("north"),
        candidates: candidates.iter().map(|name| backend(name)).collect(),
        address: IpAddr::from([192, 0, 2, 1]),
        user_max: 100,
        address_max: 40,
    }
}

impl Login {
    fn of_shard(mut self, shard: &str) -> Self {
        self.home = ShardId::new(shard);
        self.referred_to(shard)
    }

    fn referred_to(mut self, shard: &str) -> Self {
        self.shard = ShardId::new(shard);
        self
    }

    fn from(mut self, address: &str) -> Self {
        self.address = address.parse().unwrap();
        self
    }

    fn limited(mut self, user_max: u32, address_max: u32) -> Self {
        (self.user_max, self.address_max) = (user_max, address_max);
        self
    }

    fn reserve(&self, registry: &Arc<Registry>) -> Result<Reservation, ReserveError> {
        registry.reserve(&Request {
            user: &self.user,
            home: &self.home,
            shard: &self.shard,
            candidates: &self.candidates,
            sticky: STICKY,
            user_max: self.user_max,
            address: self.address,
            address_max: self.address_max,
            now: Instant::now(),
        })
    }
}

fn reserve(registry: &Arc<Registry>, user: &str, candidates: &[&str]) -> Reservation {
    login(user, candidates).reserve(registry).unwrap()
}

fn live(registry: &Arc<Registry>, user: &str, candidates: &[&str]) -> Live {
    reserve(registry, user, candidates).live(HANDLE).unwrap()
}

fn counts(connecting: u64, live: u64, unseen: u64) -> BackendCounts {
    BackendCounts { connecting, live, unseen }
}

#[tokio::test(start_paused = true)]
async fn a_user_with_sessions_joins_them_even_off_the_candidates() {
    let registry = Registry::new(1000);
    let first = live(&registry, "bob", &["n1", "n2"]);
    let second = reserve(&registry, "bob", &["n2"]);
    assert!(second.joined() && !second.route_pending());
    assert_eq!(second.backend(), &backend("n1"));
    let third = login("bob", &[]).reserve(&registry).unwrap();
    assert_eq!(third.backend(), &backend("n1"));
    assert_eq!(registry.counts(&backend("n1")), counts(2, 1, 0));
    assert_eq!(reserve(&registry, "eve", &["n2"]).backend(), &backend("n2"));
    drop((first, second, third));
    assert_eq!(registry.counts(&backend("n1")), counts(0, 0, 0));
    assert_eq!(registry.users(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_only_dials_is_joined_too() {
    let registry = Registry::new(1000);
    let first = reserve(&registry, "bob", &["n1", "n2"]);
    let second = reserve(&registry, "bob", &["n2", "n1"]);
    assert!(second.joined());
    assert_eq!(second.backend(), first.backend());
}

#[tokio::test(start_paused = true)]
async fn a_changed_route_is_pending_while_sessions_live_and_taken_after() {
    let registry = Registry::new(1000);
    let first = live(&registry, "bob", &["n1"]);
    let moved = login("bob", &["s1"]).of_shard("south");
    let second = moved.reserve(&registry).unwrap();
    assert!(second.route_pending());
    assert_eq!(second.backend(), &backend("n1"));
    drop((first, second));
    let third = moved.reserve(&registry).unwrap();
    assert!(!third.joined() && !third.route_pending());
    assert_eq!(third.backend(), &backend("s1"));
}

#[tokio::test(start_paused = true)]
async fn a_referral_to_another_shard_is_no_change_of_the_route() {
    let registry = Registry::new(1000);
    let bound = |shard: &str| {
        let placement = registry.placement(&UserName::new("kim"), Instant::now()).unwrap();
        placement.binds_elsewhere(&ShardId::new(shard))
    };
    let referred = login("kim", &["s1"]).referred_to("south");
    let first = referred.reserve(&registry).unwrap().live(HANDLE).unwrap();
    let second = reserve(&registry, "kim", &["n1"]);
    assert!(second.joined() && !second.route_pending());
    // Nor is it one where the lookups say themselves what the referral said.
    assert_eq!(["north", "south", "west"].map(bound), [false, false, true]);
    assert!(login("kim", &["w1"]).of_shard("west").reserve(&registry).unwrap().route_pending());
    drop((first, second));

    // A remembered place belongs to the route that leads there now.
    let moved = login("kim", &["s1"]).of_shard("south");
    let third = moved.reserve(&registry).unwrap();
    assert!(!third.joined() && !third.route_pending());
    assert_eq!(["north", "south", "west"].map(bound), [true, false, true]);
    drop(third);
    let mut fourth = reserve(&registry, "kim", &["n1", "n2"]);
    assert_eq!(fourth.dial_failed(&backend("n2")), Redirect::Placed);
    assert_eq!(["north", "south", "west"].map(bound), [false, true, true]);
}

#[tokio::test(start_paused = true)]
async fn the_last_backend_is_remembered_for_the_sticky_time() {
    let registry = Registry::new(1000);
    drop(live(&registry, "bob", &["n1", "n2"]));
    assert_eq!((registry.remembered(), registry.users()), (1, 0));
    advance(STICKY.checked_sub(Duration::from_secs(1)).unwrap()).await;
    let again = reserve(&registry, "bob", &["n2", "n1"]);
    assert_eq!(again.backend(), &backend("n1"));
    assert!(!again.joined());
    drop(again); // Given up: the time of the last end stays.
    advance(Duration::from_secs(1)).await;
    assert_eq!(reserve(&registry, "bob", &["n2", "n1"]).backend(), &backend("n2"));
}

#[tokio::test(start_paused = true)]
async fn a_remembered_backend_that_is_no_candidate_or_forgotten_is_not_used() {
    let registry = Registry::new(1000);
    drop(live(&registry, "bob", &["n1"]));
    assert_eq!(reserve(&registry, "bob", &["n2", "n3"]).backend(), &backend("n2"));
    drop(live(&registry, "eve", &["n1"]));
    registry.forget_backend(&backend("n1"));
    assert_eq!(reserve(&registry, "eve", &["n2", "n1"]).backend(), &backend("n2"));
    drop(live(&registry, "ann", &["n1"]));
    assert_eq!(reserve(&registry, "ann", &["n2", "n1"]).backend(), &backend("n1"));
}

#[tokio::test(start_paused = true)]
async fn refused_and_given_up_logins_are_not_remembered() {
    let registry = Registry::new(1000);
    live(&registry, "bob", &["n1"]).rejected();
    drop(reserve(&registry, "eve", &["n1"]));
    assert_eq!((registry.remembered(), registry.users()), (0, 0));
    drop(live(&registry, "ann", &["n1"]));
    live(&registry, "ann", &["n2", "n1"]).rejected();
    assert_eq!(reserve(&registry, "ann", &["n2", "n1"]).backend(), &backend("n1"));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_memories_go_first() {
    let registry = Registry::new(BOOKS); // One a book.
    for number in 0..1000 {
        drop(live(&registry, &format!("user{number}"), &["n1"]));
        assert!(registry.remembered() <= BOOKS);
    }
    assert_eq!(registry.remembered(), BOOKS);
    assert_eq!(reserve(&registry, "user999", &["n2", "n1"]).backend(), &backend("n1"));
    assert_eq!(reserve(&registry, "user0", &["n2", "n1"]).backend(), &backend("n2"));
}

#[tokio::test(start_paused = true)]
async fn expired_memories_go_when_others_log_in() {
    let registry = Registry::new(100_000);
    for number in 0..1000 {
        drop(live(&registry, &format!("user{number}"), &["n1"]));
    }
    advance(STICKY).await;
    for number in 0..2000 {
        live(&registry, &format!("other{number}"), &["n1"]).rejected();
    }
    assert_eq!(registry.remembered(), 0);
}

#[tokio::test(start_paused = true)]
async fn limits_count_dialling_and_live_sessions() {
    let registry = Registry::new(1000);
    let limited = login("bob", &["n1"]).limited(2, 10);
    let first = limited.reserve(&registry).unwrap();
    let second = limited.reserve(&registry).unwrap().live(HANDLE).unwrap();
    let over = limited.reserve(&registry).unwrap_err();
    assert_eq!(over, ReserveError::UserLimit { max: 2 });
    drop(first);
    let third = limited.reserve(&registry).unwrap();
    drop((second, third));
    assert_eq!(registry.counts(&backend("n1")), counts(0, 0, 0));
    assert!(limited.reserve(&registry).is_ok());
}

/// Else anybody could lock a user out from a few addresses, without the password.
#[tokio::test(start_paused = true)]
async fn logins_that_are_not_decided_take_no_place_from_other_addresses() {
    let registry = Registry::new(1000);
    let from = |address: &str| login("bob", &["n1"]).limited(2, 10).from(address);
    let dialling = from("192.0.2.1").reserve(&registry).unwrap();
    let stalled = from("192.0.2.1").reserve(&registry).unwrap().live(HANDLE).unwrap();
    assert!(from("192.0.2.1").reserve(&registry).is_err());
    let sessions: Vec<Live> = (0..2)
        .map(|_| from("192.0.2.2").reserve(&registry).unwrap().live(HANDLE).unwrap())
        .inspect(|session| assert!(session.proved(2)))
        .collect();
    assert!(sessions[0].proved(2), "it counts once");
    assert!(!stalled.proved(2), "others were taken meanwhile");
    for address in ["192.0.2.2", "192.0.2.3"] {
        let over = from(address).reserve(&registry).unwrap_err();
        assert_eq!(over, ReserveError::UserLimit { max: 2 }, "{address}");
    }
    drop(sessions);
    assert!(from("192.0.2.3").reserve(&registry).is_ok());
    drop((dialling, stalled));
    assert!(from("192.0.2.1").reserve(&registry).is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_address_limit_is_by_user_and_ipv6_64() {
    let registry = Registry::new(1000);
    let from = |address: &str| login("bob", &["n1"]).limited(10, 1).from(address);
    let first = from("2001:db8::1").reserve(&registry).unwrap();
    let over = from("2001:db8::2").reserve(&registry).unwrap_err();
    assert_eq!(over, ReserveError::AddressLimit { max: 1 });
    assert!(from("2001:db8:0:1::1").reserve(&registry).is_ok());
    let other = login("eve", &["n1"]).limited(10, 1).from("2001:db8::1");
    assert!(other.reserve(&registry).is_ok());
    drop(first);
    assert!(from("2001:db8::2").reserve(&registry).is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_candidates_only_users_with_sessions_get_in() {
    let registry = Registry::new(1000);
    assert_eq!(login("bob", &[]).reserve(&registry).unwrap_err(), ReserveError::NoCandidate);
    drop(live(&registry, "bob", &["n1"]));
    assert_eq!(login("bob", &[]).reserve(&registry).unwrap_err(), ReserveError::NoCandidate);
    assert_eq!((registry.users(), registry.remembered()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_failed_dial_places_anew_and_the_others_follow() {
    let registry = Registry::new(1000);
    let mut first = reserve(&registry, "bob", &["n1", "n2"]);
    let mut second = reserve(&registry, "bob", &["n1", "n3"]);
    let third = reserve(&registry, "bob", &["n1"]);
    assert_eq!(first.dial_failed(&backend("n2")), Redirect::Placed);
    assert_eq!(second.current_backend(), backend("n2"));
    assert_eq!(second.backend(), &backend("n1"));
    assert_eq!(second.dial_failed(&backend("n3")), Redirect::Follow);
    assert_eq!(second.backend(), &backend("n2"));
    // The third reached n1 all the same, but must not log in there.
    let moved = third.live(HANDLE).unwrap_err();
    assert_eq!(moved.reservation.backend(), &backend("n2"));
    assert_eq!(registry.counts(&backend("n1")), counts(0, 0, 0));
    assert_eq!(registry.counts(&backend("n2")), counts(3, 0, 0));
    let _live = moved.reservation.live(HANDLE).unwrap();
    let _first = first.live(HANDLE).unwrap();
    assert_eq!(registry.counts(&backend("n2")), counts(1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_live_session_binds_the_logins_that_fail() {
    let registry = Registry::new(1000);
    let mut dialling = reserve(&registry, "bob", &["n1", "n2"]);
    let session = live(&registry, "bob", &["n1", "n2"]);
    assert_eq!(dialling.dial_failed(&backend("n2")), Redirect::Bound);
    assert_eq!(dialling.backend(), &backend("n1"));
    drop(session);
    assert_eq!(dialling.dial_failed(&backend("n2")), Redirect::Placed);
    assert_eq!(dialling.backend(), &backend("n2"));
}

#[tokio::test(start_paused = true)]
async fn an_unseen_end_binds_until_the_backend_is_fenced() {
    let registry = Registry::new(1000);
    live(&registry, "bob", &["n1", "n2"]).end_unseen();
    advance(STICKY * 2).await;
    assert_eq!(registry.counts(&backend("n1")), counts(0, 0, 1));
    let mut login = reserve(&registry, "bob", &["n2"]);
    assert!(login.joined());
    assert_eq!(login.backend(), &backend("n1"));
    assert_eq!(login.dial_failed(&backend("n2")), Redirect::Bound);
    registry.fenced(&backend("n2")); // Another backend's fence changes nothing.
    assert_eq!(login.dial_failed(&backend("n2")), Redirect::Bound);
    registry.fenced(&backend("n1"));
    assert_eq!(login.dial_failed(&backend("n2")), Redirect::Placed);
    assert_eq!(registry.counts(&backend("n1")), counts(0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn unseen_ends_grow_old_unless_a_connection_is_watched() {
    const SECOND: Duration = Duration::from_secs(1);
    const NEARLY: Duration = Duration::from_secs(1859);
    const AGE: Duration = Duration::from_secs(1860);
    let registry = Registry::new(1000);
    let n1 = backend("n1");
    let expire = || registry.expire_unseen(&n1, Instant::now(), AGE);
    let watched = live(&registry, "bob", &["n1"]).end_unseen();
    drop(live(&registry, "eve", &["n1"]).end_unseen());
    advance(AGE).await;
    expire();
    assert_eq!(registry.counts(&n1).unseen, 2, "bob's connection is open still");
    drop(watched);
    drop(live(&registry, "kim", &["n1"]).end_unseen());
    advance(NEARLY).await;
    expire();
    assert_eq!(registry.counts(&n1).unseen, 3, "kim's is not old enough");
    advance(SECOND).await;
    expire();
    assert_eq!((registry.counts(&n1).unseen, registry.users()), (0, 0));
}

/// An end that comes while the old ones are judged is not void with them.
#[test]
fn an_end_that_comes_while_old_ones_grow_void_counts() {
    const ROUNDS: u32 = 100_000;
    const AGE: Duration = Duration::from_secs(1860);
    let registry = Registry::new(1000);
    let n1 = backend("n1");
    let row = registry.backends.row(&n1);
    let long_ago = Instant::now();
    let now = long_ago + AGE;
    let over = AtomicBool::new(false);
    let spin = |turns: u32| (0..turns).for_each(|_| std::hint::spin_loop());
    let lost = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                registry.expire_unseen(&n1, now, AGE);
            }
        });
        let mut lost = 0;
        for round in 0..ROUNDS {
            row.void_unseen();
            row.ended_unseen(long_ago);
            // At another moment of the other thread's look each time.
            spin(round % 64);
            let era = row.ended_unseen(now);
            spin(32);
            lost += u32::from(row.unseen_era() != era);
        }
        over.store(true, Ordering::Relaxed);
        lost
    });
    assert_eq!(lost, 0);
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_proxy_ends_a_session_unseen() {
    let registry = Registry::new(1000);
    let session = live(&registry, "bob", &["n1", "n2"]);
    let refused = live(&registry, "eve", &["n1"]);
    let fault = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        refused.rejected();
        let _held = session;
        panic!("on purpose");
    }));
    assert!(fault.is_err());
    assert_eq!(registry.counts(&backend("n1")), counts(0, 0, 1));
    let mut again = reserve(&registry, "bob", &["n2", "n1"]);
    assert_eq!(again.backend(), &backend("n1"));
    assert_eq!(again.dial_failed(&backend("n2")), Redirect::Bound);
}

#[tokio::test(start_paused = true)]
async fn ends_unseen_after_the_fence_bind_again() {
    let registry = Registry::new(1000);
    let (one, two) = (live(&registry, "bob", &["n1"]), live(&registry, "bob", &["n1"]));
    one.end_unseen();
    registry.fenced(&backend("n1"));
    two.end_unseen();
    assert_eq!(registry.counts(&backend("n1")), counts(0, 0, 1));
    let mut login = reserve(&registry, "bob", &["n2"]);
    assert_eq!(login.dial_failed(&backend("n2")), Redirect::Bound);
    registry.fenced(&backend("n1"));
    assert_eq!(login.dial_failed(&backend("n2")), Redirect::Placed);
}

#[tokio::test(start_paused = true)]
async fn rows_of_unseen_ends_are_freed_when_the_backend_is_fenced() {
    let registry = Registry::new(100_000);
    for number in 0..2000 {
        let name = if number % 2 == 0 { "n1" } else { "n2" };
        live(&registry, &format!("user{number}"), &[name]).end_unseen();
    }
    assert_eq!((registry.users(), registry.remembered()), (2000, 0));
    registry.fenced(&backend("n1"));
    assert_eq!((registry.users(), registry.remembered()), (1000, 1000));
    advance(STICKY).await;
    registry.fenced(&backend("n2"));
    assert_eq!((registry.users(), registry.remembered()), (0, 1000));
}

#[tokio::test(start_paused = true)]
async fn sessions_are_found_by_user_and_by_backend() {
    let registry = Registry::new(1000);
    let mut held = Vec::new();
    for key in 0..3000_u32 {
        let handle = SessionHandle { worker: 0, key, turn: 0 };
        let user = format!("user{}", key % 1000);
        let name = if key % 2 == 0 { "n1" } else { "n2" };
        held.push(reserve(&registry, &user, &[name]).live(handle).unwrap());
    }
    let _dialling = reserve(&registry, "user4", &["n1"]);
    let keys = |rows: Vec<SessionRow>| {
        let mut keys: Vec<u32> = rows.iter().map(|row| row.handle.key).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(registry.sessions_of_user(&UserName::new("user4"))), [4, 1004, 2004]);
    assert!(registry.sessions_of_user(&UserName::new("nobody")).is_empty());
    let even: Vec<u32> = (0..3000).filter(|key| key % 2 == 0).collect();
    assert_eq!(keys(registry.sessions_of_backend(&backend("n1"))), even);
    let (mut paged, mut place) = (Vec::new(), Some(WalkPlace::default()));
    while let Some(at) = place {
        let (page, next) = registry.sessions_from(at, None, 7);
        assert!(page.len() <= 7);
        paged.extend(page);
        place = next;
    }
    assert_eq!(keys(paged), (0..3000).collect::<Vec<u32>>());
    assert_eq!(registry.live(), 3000);
    held.retain(|session| session.user().as_str() != "user4");
    assert!(registry.sessions_of_user(&UserName::new("user4")).is_empty());
    assert_eq!(registry.sessions_of_backend(&backend("n1")).len(), 1497);
}

#[tokio::test(start_paused = true)]
async fn a_users_place_is_shown_without_touching_it() {
    let registry = Registry::new(1000);
    let anna = UserName::new("anna");
    let place = || registry.placement(&anna, Instant::now());
    assert_eq!(place(), None);
    let session = live(&registry, "anna", &["n1"]);
    let dialling = reserve(&registry, "anna", &["n2"]);
    let there = place().unwrap();
    assert_eq!((there.backend.as_str(), there.connecting, there.live), ("n1", 1, 1));
    assert!(there.binds());
    drop((session, dialling));
    advance(Duration::from_secs(100)).await;
    let remembered = place().unwrap();
    assert!(!remembered.binds());
    assert_eq!(remembered.remembered, Some(Duration::from_secs(800)));
    advance(Duration::from_secs(800)).await;
    assert_eq!(place(), None);
}

/// Many threads, few users: whoever is live is where all others of the user are.
#[test]
fn threads_never_see_a_user_live_on_two_backends() {
    let registry = Registry::new(BOOKS * 4);
    let places: Mutex<HashMap<(usize, BackendId), usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (registry, places) = (&registry, &places);
            scope.spawn(move || hammer(registry, places, thread));
        }
    });
    for name in ["n1", "n2", "n3"] {
        assert_eq!(registry.counts(&backend(name)), counts(0, 0, 0));
    }
    assert_eq!(registry.users(), 0);
}

fn hammer(registry: &Arc<Registry>, places: &Mutex<HashMap<(usize, BackendId), usize>>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let names = ["n1", "n2", "n3"];
    for _ in 0..4000 {
        let user = random.usize(0..3);
        let start = random.usize(0..3);
        let order = [names[start], names[(start + 1) % 3]];
        let mut reservation = reserve(registry, &format!("user{user}"), &order);
        if random.u8(0..3) == 0 {
            let _ = reservation.dial_failed(&backend(names[random.usize(0..3)]));
        }
        let Ok(session) = reservation.live(HANDLE) else { continue };
        let key = (user, session.backend().clone());
        {
            let mut places = places.lock().unwrap();
            *places.entry(key.clone()).or_insert(0) += 1;
            let on = places.keys().filter(|(other, _)| *other == user).count();
            assert_eq!(on, 1, "{places:?}");
        }
        let mut places = places.lock().unwrap();
        let count = places.get_mut(&key).unwrap();
        *count -= 1;
        if *count == 0 {
            places.remove(&key);
        }
        drop(places);
        drop(session);
    }
}

/// One step of the random runs. Numbers choose users, backends and tickets.
#[derive(Debug, Clone)]
enum Step {
    Reserve { user: usize, shard: usize, first: usize },
    DialFailed { ticket: prop::sample::Index, next: usize },
    GoLive { ticket: prop::sample::Index },
    End { ticket: prop::sample::Index, how: usize },
    Seen { end: prop::sample::Index },
    Free { backend: usize },
    Forget { backend: usize },
    Pass { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let ticket = any::<prop::sample::Index>();
    prop_oneof![
        4 => (0..3_usize, 0..2_usize, 0..4_usize)
            .prop_map(|(user, shard, first)| Step::Reserve { user, shard, first }),
        3 => (ticket.clone(), 0..4_usize)
            .prop_map(|(ticket, next)| Step::DialFailed { ticket, next }),
        3 => ticket.clone().prop_map(|ticket| Step::GoLive { ticket }),
        4 => (ticket.clone(), 0..3_usize).prop_map(|(ticket, how)| Step::End { ticket, how }),
        2 => ticket.prop_map(|end| Step::Seen { end }),
        1 => (0..4_usize).prop_map(|backend| Step::Free { backend }),
        1 => (0..4_usize).prop_map(|backend| Step::Forget { backend }),
        1 => (0..700_u64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

const BACKENDS: [&str; 4] = ["b0", "b1", "b2", "b3"];

#[derive(Debug)]
enum Held {
    Dialling(Reservation),
    Live(Live),
}

/// What the naive model knows of one user: plain lists, all recomputed at each question.
#[derive(Debug, Default)]
struct ModelUser {
    shard: usize,
    backend: usize,
    unseen: usize,
    memory: Option<Instant>,
}

/// The registry's rules, told slowly.
#[derive(Debug, Default)]
struct Model {
    users: HashMap<usize, ModelUser>,
    /// Of each ticket: user, shard of its route, backend it dials or is on, whether live.
    tickets: Vec<(usize, usize, usize, bool)>,
    /// Of each unseen end: user, backend, whether it still counts.
    unseen: Vec<(usize, usize, bool)>,
}

impl Model {
    fn has_sessions(&self, user: usize) -> bool {
        self.tickets.iter().any(|ticket| ticket.0 == user)
            || self.users.get(&user).is_some_and(|known| known.unseen > 0)
    }

    fn is_bound(&self, user: usize) -> bool {
        self.tickets.iter().any(|ticket| ticket.0 == user && ticket.3)
            || self.users[&user].unseen > 0
    }

    /// The backend of a login, and whether it joins and is pending. Candidates are `first` and
    /// the one after it.
    fn reserve(&mut self, user: usize, shard: usize, first: usize) -> (usize, bool, bool) {
        let joins = self.has_sessions(user);
        let known = self.users.entry(user).or_default();
        let remembered = known.memory.is_some_and(|until| Instant::now() < until)
            && known.shard == shard
            && [first, (first + 1) % 4].contains(&known.backend);
        let pending = joins && known.shard != shard;
        if !joins && !remembered {
            *known = ModelUser { shard, backend: first, unseen: 0, memory: None };
        }
        self.tickets.push((user, shard, known.backend, false));
        (known.backend, joins, pending)
    }

    fn dial_failed(&mut self, ticket: usize, next: usize) -> Redirect {
        let (user, shard, dialled, _) = self.tickets[ticket];
        let current = self.users[&user].backend;
        if current != dialled {
            self.tickets[ticket].2 = current;
            return Redirect::Follow;
        }
        if self.is_bound(user) {
            return Redirect::Bound;
        }
        self.users.insert(user, ModelUser { shard, backend: next, unseen: 0, memory: None });
        self.tickets[ticket].2 = next;
        Redirect::Placed
    }

    /// Whether the ticket may go live; else it is turned to the user's backend.
    fn go_live(&mut self, ticket: usize) -> bool {
        let (user, _, dialled, _) = self.tickets[ticket];
        let current = self.users[&user].backend;
        self.tickets[ticket].2 = current;
        self.tickets[ticket].3 = current == dialled;
        current == dialled
    }

    /// Ends a ticket; `how`: 0 seen, 1 refused, 2 unseen.
    fn end(&mut self, ticket: usize, how: usize) {
        let (user, _, backend, live) = self.tickets.swap_remove(ticket);
        let known = self.users.get_mut(&user).unwrap();
        if live && how != 1 {
            known.memory = Some(Instant::now() + STICKY);
        }
        if live && how == 2 {
            known.unseen += 1;
            self.unseen.push((user, backend, true));
        }
    }

    /// An unseen end was seen after all.
    fn seen(&mut self, end: usize) {
        let (user, _, counts) = self.unseen.swap_remove(end);
        if counts {
            let known = self.users.get_mut(&user).unwrap();
            known.unseen -= 1;
            known.memory = Some(Instant::now() + STICKY);
        }
    }

    /// The backend came back.
    fn free(&mut self, backend: usize) {
        let on = |known: &&mut ModelUser| known.backend == backend;
        self.users.values_mut().filter(on).for_each(|known| known.unseen = 0);
        let of = |end: &&mut (usize, usize, bool)| end.1 == backend;
        self.unseen.iter_mut().filter(of).for_each(|end| end.2 = false);
    }

    fn counts(&self, backend: usize) -> BackendCounts {
        let tickets = |live: bool| {
            let on =
                |ticket: &&(usize, usize, usize, bool)| ticket.2 == backend && ticket.3 == live;
            u64::try_from(self.tickets.iter().filter(on).count()).unwrap()
        };
        let unseen: usize = self
            .users
            .values()
            .filter(|known| known.backend == backend)
            .map(|known| known.unseen)
            .sum();
        counts(tickets(false), tickets(true), u64::try_from(unseen).unwrap())
    }
}

/// Registry and model side by side.
struct Run {
    registry: Arc<Registry>,
    held: Vec<Held>,
    unseen: Vec<UnseenEnd>,
    model: Model,
}

impl Run {
    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Reserve { user, shard, first } => {
                let expected = self.model.reserve(user, shard, first);
                let order = [BACKENDS[first], BACKENDS[(first + 1) % 4]];
                let login = login(&format!("user{user}"), &order);
                let got = login.of_shard(&format!("s{shard}")).reserve(&self.registry).unwrap();
                let (backend, joined, pending) = expected;
                prop_assert_eq!(got.backend().as_str(), BACKENDS[backend]);
                prop_assert_eq!((got.joined(), got.route_pending()), (joined, pending));
                self.held.push(Held::Dialling(got));
            }
            Step::DialFailed { ticket, next } if !self.held.is_empty() => {
                let at = ticket.index(self.held.len());
                if let Held::Dialling(reservation) = &mut self.held[at] {
                    let expected = self.model.dial_failed(at, next);
                    prop_assert_eq!(reservation.dial_failed(&backend(BACKENDS[next])), expected);
                }
            }
            Step::GoLive { ticket } if !self.held.is_empty() => {
                self.go_live(ticket.index(self.held.len()))?;
            }
            Step::End { ticket, how } if !self.held.is_empty() => {
                let at = ticket.index(self.held.len());
                self.model.end(at, how);
                match (self.held.swap_remove(at), how) {
                    (Held::Live(live), 1) => live.rejected(),
                    (Held::Live(live), 2) => self.unseen.push(live.end_unseen()),
                    (other, _) => drop(other),
                }
            }
            Step::Free { backend: at } => {
                self.registry.fenced(&backend(BACKENDS[at]));
                self.model.free(at);
            }
            Step::Seen { end } if !self.unseen.is_empty() => {
                let at = end.index(self.unseen.len());
                self.model.seen(at);
                self.unseen.swap_remove(at).seen();
            }
            Step::Forget { backend: at } => {
                self.registry.forget_backend(&backend(BACKENDS[at]));
                self.model
                    .users
                    .values_mut()
                    .filter(|known| known.backend == at)
                    .for_each(|known| known.memory = None);
            }
            Step::Pass { seconds } => advance(Duration::from_secs(seconds)).await,
            _ => {}
        }
        self.check()
    }

    fn go_live(&mut self, at: usize) -> Result<(), TestCaseError> {
        let last = self.held.len() - 1;
        let held = match self.held.swap_remove(at) {
            Held::Dialling(reservation) => {
                let may = self.model.go_live(at);
                match reservation.live(HANDLE) {
                    Ok(live) => {
                        prop_assert!(may);
                        Held::Live(live)
                    }
                    Err(moved) => {
                        prop_assert!(!may);
                        Held::Dialling(moved.reservation)
                    }
                }
            }
            live @ Held::Live(_) => live,
        };
        self.held.push(held);
        self.held.swap(at, last);
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (at, name) in BACKENDS.iter().enumerate() {
            prop_assert_eq!(self.registry.counts(&backend(name)), self.model.counts(at));
        }
        let mut places: HashMap<&str, HashSet<&str>> = HashMap::new();
        for held in &self.held {
            if let Held::Live(live) = held {
                places.entry(live.user().as_str()).or_default().insert(live.backend().as_str());
            }
        }
        for (user, on) in places {
            prop_assert_eq!(on.len(), 1, "{} is live on {:?}", user, on);
        }
        let with_sessions = (0..3).filter(|user| self.model.has_sessions(*user)).count();
        prop_assert_eq!(self.registry.users(), with_sessions);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_registry_does_what_the_naive_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let registry = Registry::new(BOOKS * 10);
            let mut run = Run { registry, held: Vec::new(), unseen: Vec::new(), model: Model::default() };
            for step in steps {
                run.take(step).await?;
            }
            run.held.clear();
            for name in BACKENDS {
                run.registry.fenced(&backend(name));
            }
            prop_assert_eq!(run.registry.users(), 0);
            Ok(())
        })?;
    }
}
