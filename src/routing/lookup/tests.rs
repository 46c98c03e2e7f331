//! Directories that hang, die and answer garbage, under paused time.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::query::{Pending, SourceResult};
use super::*;
use crate::config::{BreakerPolicy, CachePolicy};
use crate::metrics::Metrics;
use crate::names::Secret;

const SECOND: Duration = Duration::from_secs(1);

/// How the scripted source behaves.
#[derive(Debug, Clone)]
enum Behaviour {
    Says(SourceResult),
    Takes(Duration, SourceResult),
    Hangs,
    Panics,
}

#[derive(Debug)]
struct Scripted {
    behaviour: Mutex<Behaviour>,
    personal: bool,
    asked: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    passwords: Mutex<Vec<Option<Secret>>>,
}

impl Scripted {
    fn new(behaviour: Behaviour) -> Arc<Self> {
        Self::made(behaviour, false)
    }

    fn made(behaviour: Behaviour, personal: bool) -> Arc<Self> {
        Arc::new(Self {
            behaviour: Mutex::new(behaviour),
            personal,
            asked: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            passwords: Mutex::new(Vec::new()),
        })
    }

    fn now(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Counts what is under way, also when it is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RemoteSource for Scripted {
    fn label(&self) -> LookupSource {
        LookupSource::Users
    }

    fn depends_on_password(&self) -> bool {
        self.personal
    }

    fn lookup<'a>(&'a self, query: &'a Query<'a>) -> Pending<'a> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.passwords.lock().unwrap().push(query.password.cloned());
            let most = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_under_way.fetch_max(most, Ordering::Relaxed);
            let _under_way = UnderWay(&self.under_way);
            let behaviour = self.behaviour.lock().unwrap().clone();
            match behaviour {
                Behaviour::Says(result) => result,
                Behaviour::Takes(time, result) => {
                    tokio::time::sleep(time).await;
                    result
                }
                Behaviour::Hangs => std::future::pending().await,
                Behaviour::Panics => panic!("on purpose"),
            }
        })
    }
}

fn guard() -> LookupGuard {
    LookupGuard {
        timeout: SECOND * 2,
        in_flight: 4,
        on_failure: OnFailure::Unavailable,
        cache: CachePolicy {
            found: SECOND * 60,
            miss: SECOND * 10,
            stale: SECOND * 600,
            entries: 8,
        },
        breaker: BreakerPolicy { failures: 3, open: SECOND * 5 },
    }
}

fn guarded_by(source: &Arc<Scripted>, guard: LookupGuard) -> Guarded {
    let shards: Arc<[ShardId]> = ["north", "south"].map(ShardId::new).into();
    let breakers = Metrics::register().unwrap().logins.breakers(LookupSource::Users);
    Guarded::new(Arc::<Scripted>::clone(source), guard, shards, Handle::current(), breakers)
}

fn guarded(source: &Arc<Scripted>) -> Guarded {
    guarded_by(source, guard())
}

fn on(shard: &str) -> Found {
    Found::on(ShardId::new(shard))
}

fn failing(reason: FailureReason) -> SourceResult {
    Err(SourceFailure::new(reason, "on purpose"))
}

/// What a login makes of a lookup: the shard, or why there is none.
async fn ask(
    guarded: &Guarded,
    user: &str,
) -> (Result<Option<String>, FailureReason>, LookupResult) {
    let user = UserName::new(user);
    let said = guarded.lookup(&Query::of_user(&user)).await;
    let answer = said.answer.map(|found| found.map(|found| found.shard.to_string()));
    (answer.map_err(|failure| failure.reason), said.result)
}

fn found(
    shard: &str,
    result: LookupResult,
) -> (Result<Option<String>, FailureReason>, LookupResult) {
    (Ok(Some(shard.to_owned())), result)
}

fn failed(reason: FailureReason) -> (Result<Option<String>, FailureReason>, LookupResult) {
    (Err(reason), LookupResult::Failed)
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_its_time_and_then_asked_anew() {
    let source = Scripted::new(Behaviour::Says(Ok(Some(on("north")))));
    let guarded = guarded(&source);
    assert_eq!(ask(&guarded, "bob").await, found("north", LookupResult::Found));
    source.now(Behaviour::Says(Ok(Some(on("south")))));
    assert_eq!(ask(&guarded, "bob").await, found("north", LookupResult::CachedFound));
    tokio::time::advance(SECOND * 60).await;
    assert_eq!(ask(&guarded, "bob").await, found("south", LookupResult::Found));
    source.now(Behaviour::Says(Ok(None)));
    assert_eq!(ask(&guarded, "eve").await, (Ok(None), LookupResult::Miss));
    assert_eq!(ask(&guarded, "eve").await, (Ok(None), LookupResult::CachedMiss));
    tokio::time::advance(SECOND * 10).await;
    assert_eq!(ask(&guarded, "eve").await, (Ok(None), LookupResult::Miss));
    assert_eq!(source.asked(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_hangs_costs_its_timeout_and_then_nothing() {
    let source = Scripted::new(Behaviour::Says(Ok(Some(on("north")))));
    let guarded = guarded(&source);
    assert!(ask(&guarded, "bob").await.0.is_ok());
    source.now(Behaviour::Hangs);
    let start = Instant::now();
    for name in ["a", "b", "c"] {
        assert_eq!(ask(&guarded, name).await, failed(FailureReason::Timeout));
    }
    assert_eq!(start.elapsed(), SECOND * 6);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(ask(&guarded, name).await, failed(FailureReason::BreakerOpen));
    }
    assert_eq!(start.elapsed(), SECOND * 6);
    assert_eq!(ask(&guarded, "bob").await, found("north", LookupResult::CachedFound));
    assert_eq!(source.under_way.load(Ordering::Relaxed), 0, "what took too long was dropped");
}

#[tokio::test(start_paused = true)]
async fn a_user_who_was_found_goes_on_while_the_directory_is_down() {
    for down in [
        Behaviour::Hangs,
        Behaviour::Panics,
        Behaviour::Says(failing(FailureReason::Connect)),
        Behaviour::Says(failing(FailureReason::Protocol)),
    ] {
        let source = Scripted::new(Behaviour::Says(Ok(Some(on("north")))));
        let guarded = guarded(&source);
        assert!(ask(&guarded, "bob").await.0.is_ok());
        source.now(down);
        tokio::time::advance(SECOND * 60).await;
        for _ in 0..6 {
            assert_eq!(ask(&guarded, "bob").await, found("north", LookupResult::Stale));
        }
        assert_eq!(source.asked(), 4, "the breaker opened");
        tokio::time::advance(SECOND * 600).await;
        assert!(ask(&guarded, "bob").await.0.is_err(), "not for ever");
        source.now(Behaviour::Says(Ok(Some(on("south")))));
        tokio::time::advance(SECOND * 5).await;
        assert_eq!(ask(&guarded, "bob").await, found("south", LookupResult::Found));
    }
}

/// A reload must not cost an outage of the directory those users whose place is known.
#[tokio::test(start_paused = true)]
async fn a_lookup_by_other_backends_knows_what_could_not_have_been_said_otherwise() {
    let host = Found { by_host: true, ..on("north") };
    let source = Scripted::new(Behaviour::Says(Ok(Some(host))));
    let before = guarded(&source);
    assert_eq!(ask(&before, "host").await, found("north", LookupResult::Found));
    source.now(Behaviour::Says(Ok(Some(on("south")))));
    assert_eq!(ask(&before, "moved").await, found("south", LookupResult::Found));
    source.now(Behaviour::Says(Ok(Some(on("north")))));
    assert_eq!(ask(&before, "bob").await, found("north", LookupResult::Found));
    source.now(Behaviour::Says(failing(FailureReason::Connect)));
    let north: Arc<[ShardId]> = [ShardId::new("north")].into();
    let after = before.renewed(Arc::<Scripted>::clone(&source), north);
    after.doubt_all();
    assert_eq!(ask(&after, "bob").await, found("north", LookupResult::Stale));
    assert_eq!(ask(&after, "host").await, failed(FailureReason::Connect));
    assert_eq!(ask(&after, "moved").await, failed(FailureReason::Connect));
    // That was the third in a row for both.
    assert_eq!(ask(&before, "nobody").await, failed(FailureReason::BreakerOpen));
    // Sessions that began before go on with what was said to them.
    assert_eq!(ask(&before, "host").await, found("north", LookupResult::Stale));
    assert_eq!(ask(&before, "moved").await, found("south", LookupResult::Stale));
    let third = after.renewed(Arc::<Scripted>::clone(&source), before.inner.shards.clone());
    assert_eq!(ask(&third, "moved").await, found("south", LookupResult::Stale));
    assert_eq!(ask(&third, "host").await, failed(FailureReason::BreakerOpen));
}

/// The answer on its way is of a source that knew other backends.
#[tokio::test(start_paused = true)]
async fn a_lookup_by_other_backends_waits_for_no_question_of_the_former() {
    let says = |shard: &str| Ok(Some(Found { by_host: true, ..on(shard) }));
    let slow = Scripted::new(Behaviour::Takes(SECOND, says("south")));
    let before = guarded(&slow);
    let quick = Scripted::new(Behaviour::Says(says("north")));
    let after = before.renewed(Arc::<Scripted>::clone(&quick), before.inner.shards.clone());
    let later = async {
        tokio::time::sleep(SECOND / 2).await;
        ask(&after, "bob").await
    };
    let (old, new) = tokio::join!(ask(&before, "bob"), later);
    assert_eq!(old, found("south", LookupResult::Found));
    assert_eq!(new, found("north", LookupResult::Found));
    assert_eq!(ask(&after, "bob").await, found("north", LookupResult::Found), "asked anew");
    assert_eq!((slow.asked(), quick.asked()), (1, 2));
    assert!(before.inner.state().flights.is_empty());
}

/// A user who has been moved must not be sent to the former shard.
#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_used_ends_what_was_known_of_the_user() {
    for garbage in [Ok(Some(on("east"))), failing(FailureReason::BrokenRow)] {
        let source = Scripted::new(Behaviour::Says(Ok(Some(on("north")))));
        let guarded = guarded(&source);
        assert!(ask(&guarded, "bob").await.0.is_ok());
        tokio::time::advance(SECOND * 60).await;
        source.now(Behaviour::Says(garbage));
        for _ in 0..9 {
            let (answer, result) = ask(&guarded, "bob").await;
            assert!(answer.is_err_and(FailureReason::is_about_the_user), "others are served");
            assert_eq!(result, LookupResult::Failed);
        }
        source.now(Behaviour::Says(failing(FailureReason::Connect)));
        assert_eq!(ask(&guarded, "bob").await, failed(FailureReason::Connect));
    }
}

#[tokio::test(start_paused = true)]
async fn a_herd_on_one_user_asks_once() {
    let source = Scripted::new(Behaviour::Takes(SECOND, Ok(Some(on("north")))));
    let guarded = guarded(&source);
    let mut herd = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let guarded = guarded.clone();
        herd.spawn(async move { ask(&guarded, "bob").await });
    }
    for said in herd.join_all().await {
        assert_eq!(said, found("north", LookupResult::Found));
    }
    assert_eq!(source.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_given_up_strands_nobody_who_waits_with_it() {
    let source = Scripted::new(Behaviour::Takes(SECOND, Ok(Some(on("north")))));
    let guarded = guarded(&source);
    let leader = tokio::time::timeout(SECOND / 2, ask(&guarded, "bob"));
    let follower = async {
        tokio::time::sleep(SECOND / 4).await;
        ask(&guarded, "bob").await
    };
    let (leader, follower) = tokio::join!(leader, follower);
    assert!(leader.is_err());
    assert_eq!(follower, found("north", LookupResult::Found));
    assert_eq!(source.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_lets_one_through_and_closes() {
    let metrics = Metrics::register().unwrap();
    let open = || {
        let text = metrics.encode().unwrap();
        let series = "pointsman_lookup_breakers_open{source=\"users\"} ";
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value.unwrap().to_owned()
    };
    let source = Scripted::new(Behaviour::Says(failing(FailureReason::Connect)));
    let shards: Arc<[ShardId]> = [ShardId::new("north")].into();
    let guarded = Guarded::new(
        Arc::<Scripted>::clone(&source),
        guard(),
        shards,
        Handle::current(),
        metrics.logins.breakers(LookupSource::Users),
    );
    assert_eq!(open(), "0");
    for name in ["a", "b", "c"] {
        assert_eq!(ask(&guarded, name).await, failed(FailureReason::Connect));
    }
    assert_eq!(open(), "1");
    assert_eq!(ask(&guarded, "d").await, failed(FailureReason::BreakerOpen));
    tokio::time::advance(SECOND * 5).await;
    assert_eq!(ask(&guarded, "d").await, failed(FailureReason::Connect), "the probe");
    assert_eq!(ask(&guarded, "d").await, failed(FailureReason::BreakerOpen));
    tokio::time::advance(SECOND * 5).await;
    // Of a login that it cannot be asked about nothing is learnt.
    source.now(Behaviour::Says(failing(FailureReason::NeedsClient)));
    assert_eq!(ask(&guarded, "d").await, failed(FailureReason::NeedsClient));
    assert_eq!(open(), "1");
    source.now(Behaviour::Takes(SECOND, Ok(Some(on("north")))));
    let (probe, other) = tokio::join!(ask(&guarded, "d"), ask(&guarded, "e"));
    assert_eq!(probe, found("north", LookupResult::Found));
    assert_eq!(other, failed(FailureReason::BreakerOpen), "one at a time");
    assert_eq!(open(), "0");
    assert_eq!(ask(&guarded, "e").await, found("north", LookupResult::Found));
    assert_eq!(source.asked(), 7);
}

#[tokio::test(start_paused = true)]
async fn so_many_are_under_way_and_no_more() {
    let source = Scripted::new(Behaviour::Takes(SECOND / 2, Ok(Some(on("north")))));
    let guarded = guarded(&source);
    let mut logins = tokio::task::JoinSet::new();
    for number in 0..20 {
        let guarded = guarded.clone();
        logins.spawn(async move { ask(&guarded, &format!("user{number}")).await });
    }
    let said = logins.join_all().await;
    let served = said.iter().filter(|(answer, _)| answer.is_ok()).count();
    // Four at a time, half a second each, two seconds.
    assert!((12..=16).contains(&served), "{served}");
    assert!(said.iter().all(|(answer, _)| {
        answer
            .as_ref()
            .err()
            .is_none_or(|reason| matches!(reason, FailureReason::Busy | FailureReason::Timeout))
    }));
    assert_eq!(source.most_under_way.load(Ordering::Relaxed), 4);
    assert_eq!(guarded.inner.state().under_way, 0);
    assert!(guarded.inner.state().flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn lookups_that_wait_are_bounded_too() {
    let source = Scripted::new(Behaviour::Hangs);
    let guarded = guarded_by(&source, LookupGuard { in_flight: 1, ..guard() });
    let mut logins = tokio::task::JoinSet::new();
    for number in 0..2 * WAITING_PER_PLACE {
        let guarded = guarded.clone();
        logins
            .spawn(async move { (ask(&guarded, &format!("user{number}")).await, Instant::now()) });
    }
    let start = Instant::now();
    let at_once = logins
        .join_all()
        .await
        .into_iter()
        .filter(|(said, at)| *said == failed(FailureReason::Busy) && *at == start);
    assert_eq!(at_once.count(), WAITING_PER_PLACE);
    assert_eq!(guarded.inner.state().under_way, 0);
}

#[tokio::test(start_paused = true)]
async fn answers_that_depend_on_a_password_are_each_logins_own() {
    let source = Scripted::made(Behaviour::Takes(SECOND, Ok(Some(on("north")))), true);
    let guarded = guarded(&source);
    let user = UserName::new("bob");
    let [right, wrong] = ["right", "wrong"].map(|text| Secret::new(text.into()));
    let query = |password| Query { password: Some(password), ..Query::of_user(&user) };
    let (right, wrong) = (query(&right), query(&wrong));
    let (one, other) = tokio::join!(guarded.lookup(&right), guarded.lookup(&wrong));
    assert!(one.answer.is_ok() && other.answer.is_ok());
    assert_eq!(guarded.lookup(&right).await.result, LookupResult::Found);
    assert_eq!(source.asked(), 3);
    assert_eq!(guarded.inner.state().cache.sizes(), [0; 4]);
    let told: Vec<_> = source.passwords.lock().unwrap().drain(..).flatten().collect();
    assert_eq!(told.len(), 3);
    // Nobody waits any more: the question is dropped.
    source.now(Behaviour::Hangs);
    assert!(tokio::time::timeout(SECOND, guarded.lookup(&wrong)).await.is_err());
    tokio::task::yield_now().await;
    assert_eq!(source.under_way.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_needs_no_password_is_given_none() {
    let source = Scripted::new(Behaviour::Says(Ok(None)));
    let guarded = guarded(&source);
    let (user, password) = (UserName::new("bob"), Secret::new(b"hunter2".to_vec()));
    guarded.lookup(&Query { password: Some(&password), ..Query::of_user(&user) }).await;
    assert_eq!(*source.passwords.lock().unwrap(), [None]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_one_time_is_not_kept() {
    let once = Found { may_cache: false, ..Found::on(ShardId::new("north")) };
    let source = Scripted::new(Behaviour::Says(Ok(Some(once))));
    let guarded = guarded(&source);
    for asked in 1..4 {
        assert_eq!(ask(&guarded, "bob").await, found("north", LookupResult::Found));
        assert_eq!(source.asked(), asked);
    }
}

/// B-42: a user who was moved gets there at the next login.
#[tokio::test(start_paused = true)]
async fn b42_an_answer_that_a_backend_contradicts_is_asked_anew() {
    let source = Scripted::new(Behaviour::Says(Ok(Some(on("north")))));
    let guarded = guarded(&source);
    assert!(ask(&guarded, "bob").await.0.is_ok());
    source.now(Behaviour::Says(Ok(Some(on("south")))));
    tokio::time::advance(SECOND * 2).await;
    guarded.doubt(&UserName::new("bob"));
    assert_eq!(ask(&guarded, "bob").await, found("south", LookupResult::Found));
    guarded.doubt_all();
    source.now(Behaviour::Says(Ok(Some(on("north")))));
    assert_eq!(ask(&guarded, "bob").await, found("north", LookupResult::Found));
}

#[tokio::test(start_paused = true)]
async fn names_without_end_do_not_fill_the_memory() {
    let source = Scripted::new(Behaviour::Says(Ok(Some(on("north")))));
    let guarded = guarded(&source);
    for number in 0..1000 {
        assert!(ask(&guarded, &format!("user{number}")).await.0.is_ok());
    }
    source.now(Behaviour::Says(Ok(None)));
    for number in 0..1000 {
        assert!(ask(&guarded, &format!("nobody{number}")).await.0.is_ok());
    }
    assert!(guarded.inner.state().cache.sizes().into_iter().all(|size| size <= 16));
    assert_eq!(ask(&guarded, "user999").await, found("north", LookupResult::CachedFound));
}
