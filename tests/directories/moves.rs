//! A user who is moved in the directory while the proxy still keeps where he was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::flow;
use super::support::backend::Backend;
use super::support::ordinary::Ordinary;
use super::support::redis::Redis;
use super::troubles::{FAILED, Site};

/// A server that has Bob only while this says so, and everybody else always.
fn server(has_bob: impl Fn() -> bool + Send + Sync + 'static) -> Backend {
    let verdict = move |user: &[u8], _: &[u8]| match user {
        b"bob" if !has_bob() => "NO [AUTHENTICATIONFAILED] no such user".to_owned(),
        _ => "OK in".to_owned(),
    };
    Ordinary::new().verdict(verdict).start()
}

/// However long answers are kept: the old server's refusal has the directory asked anew.
#[test]
fn b42_a_row_that_moves_costs_one_refused_login() {
    let redis = Redis::start(&super::AUTHORITY);
    redis.set("mail:bob", b"north");
    redis.set("mail:eve", b"north");
    let moved = Arc::new(AtomicBool::new(false));
    let [of_north, of_south] = [Arc::clone(&moved), Arc::clone(&moved)];
    let north = server(move || !of_north.load(Ordering::SeqCst));
    let south = server(move || of_south.load(Ordering::SeqCst));
    let keys = flow(&[("url", redis.url().as_str()), ("key", "mail:%u")]);
    let lookup = format!("redis: {{ {keys} }}, cache: {{ found: 1h }}");
    let site = Site::between([north, south], &lookup);
    for user in ["bob", "eve"] {
        assert!(site.try_login(user).starts_with("OK"), "{user}");
    }
    site.proxy.wait_for_metrics("no session holds them there", |now| {
        now.sum("pointsman_backend_sessions", &[]) < 0.5
    });

    redis.set("mail:bob", b"south");
    moved.store(true, Ordering::SeqCst);
    // What was asked a moment ago is not asked again for a refusal.
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(site.try_login("bob"), FAILED);
    assert_eq!(site.south.connections(), 0);
    for _ in 0..2 {
        assert!(site.try_login("bob").starts_with("OK"), "on the new shard");
    }
    assert_eq!(site.south.users(), ["bob", "bob"]);
    // Of others nothing was forgotten.
    assert!(site.try_login("eve").starts_with("OK"));
    assert_eq!(site.north.users(), ["bob", "eve", "bob", "eve"]);
    let asked = |result| {
        let labels = [("source", "redis"), ("result", result)];
        site.proxy.metrics().sum("pointsman_lookup_seconds_count", &labels)
    };
    assert!((asked("found") - 3.0).abs() < 0.5, "{}", asked("found"));
    assert!((asked("cached_found") - 3.0).abs() < 0.5, "{}", asked("cached_found"));
}
