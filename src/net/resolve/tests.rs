use std::collections::VecDeque;

use tokio::time::Instant;

use super::*;

const BOUND: Duration = Duration::from_secs(5);

/// Answers to questions for IPv4 addresses in turn, then silence, and when they were asked.
/// There are no IPv6 addresses.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Result<Records, Failure>>>>,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<Records, Failure>>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        Self { answers, asked: Arc::default() }
    }

    fn resolver(&self) -> Resolver {
        let script = self.clone();
        Resolver::with_ask(Metrics::register().unwrap(), move |question| {
            if question.kind == RecordKind::Aaaa {
                return Box::pin(async { Err(Failure::Nothing) });
            }
            script.asked.lock().unwrap().push(Instant::now());
            match script.answers.lock().unwrap().pop_front() {
                Some(answer) => Box::pin(async move { answer }),
                None => Box::pin(std::future::pending()),
            }
        })
    }

    /// The times between the questions so far, in seconds.
    fn pauses(&self) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        asked.windows(2).map(|two| (two[1] - two[0]).as_secs()).collect()
    }
}

fn good(address: &str, lifetime: u64) -> Records {
    let addresses = vec![address.parse().unwrap()];
    let lifetime = Duration::from_secs(lifetime);
    Records { addresses, services: Vec::new(), lifetime }
}

fn failed() -> Result<Records, Failure> {
    Err(Failure::Failed("server failure".to_owned()))
}

fn host(name: &str) -> BackendPlace {
    BackendPlace::Host { host: name.to_owned(), port: 143 }
}

fn shown(addresses: &Addresses) -> Vec<String> {
    addresses.current().iter().map(ToString::to_string).collect()
}

fn counted(resolver: &Resolver, result: &str) -> f64 {
    let text = resolver.metrics.encode().unwrap();
    let series = format!("pointsman_dns_lookups_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn literals_are_their_own_answer_and_are_never_asked_for() {
    let script = Script::default();
    let resolver = script.resolver();
    let cases = [
        ("192.0.2.1", "192.0.2.1:143"),
        ("2001:db8::1", "[2001:db8::1]:143"),
        ("::ffff:192.0.2.1", "192.0.2.1:143"),
    ];
    for (literal, address) in cases {
        let addresses = resolver.follow(&host(literal));
        assert!(resolver.resolve_now(BOUND).await.is_empty());
        assert_eq!(shown(&addresses), [address]);
    }
    assert!(script.asked.lock().unwrap().is_empty());
    assert!(resolver.followed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_when_its_lifetime_ends_within_limits() {
    let lifetimes = [30, 300, 0, 86_400, 5];
    let answers =
        (1..).zip(lifetimes).map(|(last, time)| Ok(good(&format!("192.0.2.{last}"), time)));
    let script = Script::new(answers);
    let resolver = script.resolver();
    let name = resolver.follow(&host("b"));
    assert!(resolver.resolve_now(BOUND).await.is_empty());
    for (last, lifetime) in (1..).zip([30, 300, 1, 3600]) {
        assert_eq!(shown(&name), [format!("192.0.2.{last}:143")]);
        tokio::time::sleep(Duration::from_secs(lifetime)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(shown(&name), ["192.0.2.5:143"]);
    assert_eq!(script.pauses(), [30, 300, 1, 3600]);
    assert!((counted(&resolver, "ok") - 5.0).abs() < 0.1);
}

#[tokio::test(start_paused = true)]
async fn failures_are_asked_again_with_a_growing_pause_and_the_last_answer_stays() {
    let nothing = || Err(Failure::Nothing);
    let mut answers = vec![Ok(good("192.0.2.1", 60))];
    answers.extend([failed(), nothing(), Err(Failure::Timeout), failed(), failed(), failed()]);
    answers.extend([failed(), Ok(good("192.0.2.2", 60)), failed(), Ok(good("192.0.2.3", 60))]);
    let script = Script::new(answers);
    let resolver = script.resolver();
    let name = resolver.follow(&host("b"));
    assert!(resolver.resolve_now(BOUND).await.is_empty());
    tokio::time::sleep(Duration::from_secs(60 + 1 + 2 + 4 + 8 + 16 + 30 + 29)).await;
    assert_eq!(shown(&name), ["192.0.2.1:143"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shown(&name), ["192.0.2.2:143"]);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(shown(&name), ["192.0.2.3:143"]);
    assert_eq!(script.pauses(), [60, 1, 2, 4, 8, 16, 30, 30, 60, 1]);
    for (result, count) in [("ok", 3.0), ("failed", 6.0), ("empty", 1.0), ("timeout", 1.0)] {
        assert!((counted(&resolver, result) - count).abs() < 0.1, "{result}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_part_fails_it_is_asked_again_sooner() {
    let part = Arc::new(Mutex::new(vec![None, None, Some("2001:db8::1")].into_iter()));
    let resolver = Resolver::with_ask(Metrics::register().unwrap(), move |question| {
        let answer = match question.kind {
            RecordKind::Aaaa => part.lock().unwrap().next().flatten().map(|six| Ok(good(six, 600))),
            _ => Some(Ok(good("192.0.2.1", 600))),
        };
        Box::pin(async move { answer.unwrap_or_else(failed) })
    });
    let name = resolver.follow(&host("b"));
    assert!(resolver.resolve_now(BOUND).await.is_empty());
    assert_eq!(shown(&name), ["192.0.2.1:143"]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(shown(&name), ["[2001:db8::1]:143", "192.0.2.1:143"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_delays_the_start_by_the_bound_only() {
    let resolver = Script::default().resolver();
    let _name = resolver.follow(&host("n1.mail.internal"));
    let began = Instant::now();
    assert_eq!(resolver.resolve_now(BOUND).await, ["n1.mail.internal:143"]);
    assert_eq!(began.elapsed(), BOUND);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_has_an_address_is_not_waited_for_but_asked_for_again() {
    let script = Script::new([Ok(good("192.0.2.1", 3600)), Ok(good("192.0.2.2", 3600))]);
    let resolver = script.resolver();
    let name = resolver.follow(&host("b"));
    resolver.resolve_now(BOUND).await;
    let began = Instant::now();
    assert!(resolver.resolve_now(BOUND).await.is_empty());
    assert_eq!(began.elapsed(), Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shown(&name), ["192.0.2.2:143"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_followed_once_and_one_that_nobody_holds_no_more() {
    let script = Script::new([Ok(good("192.0.2.1", 10)), Ok(good("192.0.2.1", 10))]);
    let resolver = script.resolver();
    let held = resolver.follow(&host("b"));
    let again = resolver.follow(&host("b"));
    assert!(Arc::ptr_eq(&held.0, &again.0));
    resolver.resolve_now(BOUND).await;
    drop(held);
    assert_eq!(resolver.followed().len(), 1);
    tokio::time::sleep(Duration::from_secs(11)).await;
    drop(again);
    assert!(resolver.followed().is_empty());
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(script.pauses(), [10]);
}

#[tokio::test]
async fn other_name_servers_begin_with_the_last_good_answer() {
    let dns = |last: u8| Dns {
        servers: vec![SocketAddr::from(([192, 0, 2, last], 53))],
        timeout: Duration::from_millis(100),
    };
    let first = Resolver::new(&dns(1), Metrics::register().unwrap()).await.unwrap();
    let name = first.follow(&host("localhost"));
    assert!(first.resolve_now(BOUND).await.is_empty());
    let same = first.reconfigured(&dns(1)).await.unwrap();
    assert!(Arc::ptr_eq(&name.0, &same.follow(&host("localhost")).0));
    let other = first.reconfigured(&dns(2)).await.unwrap();
    let follower = other.follow(&host("localhost"));
    assert!(!Arc::ptr_eq(&name.0, &follower.0));
    assert_eq!(*follower.current(), *name.current());
    let back = first.reconfigured(&dns(2)).await.unwrap();
    assert!(Arc::ptr_eq(&follower.0, &back.follow(&host("localhost")).0));
}

#[tokio::test]
async fn the_system_knows_localhost() {
    let resolver = Resolver::new(&Dns::default(), Metrics::register().unwrap()).await.unwrap();
    let name = resolver.follow(&host("localhost"));
    assert!(resolver.resolve_now(BOUND).await.is_empty());
    assert!(name.current().iter().all(|address| address.ip().is_loopback()));
}
