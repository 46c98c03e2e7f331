//! How users are shared among a shard's backends, and what one backend is given at once.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and real sockets run on the real clock"
)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use support::backend::Backend;
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::Pointsman;
use support::tls::Authority;
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A shared shard of backends `b0`, `b1` and so on, each with its settings.
fn shard(settings: &str, backends: &[(&Backend, &str)]) -> String {
    let mut text = format!("shards:\n  s:\n    kind: shared\n    {settings}\n    backends:\n");
    for (number, (backend, settings)) in backends.iter().enumerate() {
        let address = backend.address();
        writeln!(
            text,
            "      - {{ name: b{number}, address: \"{address}\", tls: none{settings} }}"
        )
        .unwrap();
    }
    text + "routing: { lookups: [ { shard: s } ], sticky: 0s }\n"
}

fn start(upstream: &str, settings: &str, backends: &[(&Backend, &str)]) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        format!("{}upstream: {{ {upstream} }}\n{}", places.head(), shard(settings, backends))
    })
}

fn limit_hits(proxy: &Pointsman, limit: &str) -> f64 {
    proxy.metrics().sum("pointsman_limit_hits_total", &[("limit", limit)])
}

/// Logins at a backend at once, and the most there ever were.
#[derive(Default)]
struct InFlight {
    now: AtomicU32,
    most: AtomicU32,
}

/// A backend that takes that long for a login.
fn slow(time: Duration) -> (Backend, Arc<InFlight>) {
    let in_flight = Arc::new(InFlight::default());
    let counted = Arc::clone(&in_flight);
    let backend = Ordinary::new()
        .verdict(move |_, _| {
            let now = counted.now.fetch_add(1, Ordering::SeqCst) + 1;
            counted.most.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(time);
            counted.now.fetch_sub(1, Ordering::SeqCst);
            "OK in".to_owned()
        })
        .start();
    (backend, in_flight)
}

/// All of them log in at once, each as a user of its own; gives what they were told.
fn log_in_together(proxy: &Pointsman, users: u32) -> Vec<(Client, String)> {
    let clear = proxy.places().clear;
    let threads: Vec<_> = (0..users)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::clear(clear);
                client.wire().set_timeout(Duration::from_secs(30)).unwrap();
                let status = client.try_login(&format!("user{number}"), "secret").status;
                (client, status)
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn b61_a_backend_has_no_more_logins_in_flight_than_it_may_and_the_others_wait() {
    let (backend, in_flight) = slow(Duration::from_millis(100));
    let proxy = start("login_queue: 100", "slow_start: 0s", &[(&backend, ", logins_max: 3")]);
    let told = log_in_together(&proxy, 24);
    assert!(told.iter().all(|(_, status)| status.starts_with("OK")), "all came in");
    assert_eq!(in_flight.most.load(Ordering::SeqCst), 3);
    assert!(limit_hits(&proxy, "login_queue") < 0.5);
}

#[test]
fn b61_beyond_the_queue_and_its_deadline_is_unavailable_and_no_wrong_password() {
    let (backend, in_flight) = slow(Duration::from_secs(4));
    let settings = "login_queue: 2, login_queue_wait: 500ms";
    let proxy = start(settings, "slow_start: 0s", &[(&backend, ", logins_max: 1")]);
    let told = log_in_together(&proxy, 6);
    let taken = told.iter().filter(|(_, status)| status.starts_with("OK")).count();
    let refused = told.iter().filter(|(_, status)| status.starts_with("NO [UNAVAILABLE]")).count();
    assert_eq!((taken, refused), (1, 5), "one is served, two wait in vain, three do not wait");
    assert_eq!(in_flight.most.load(Ordering::SeqCst), 1);
    assert!((limit_hits(&proxy, "login_queue") - 5.0).abs() < 0.5);
    // Nothing of them is left.
    drop(told);
    proxy.logged_in("user0", "secret").logout();
}

#[test]
fn where_the_queue_is_full_a_free_user_goes_to_the_next_backend() {
    let (first, _) = slow(Duration::from_secs(3));
    let second = Backend::ordinary();
    let proxy =
        start("login_queue: 0", "balance: ordered", &[(&first, ", logins_max: 1"), (&second, "")]);
    let told = log_in_together(&proxy, 6);
    assert!(told.iter().all(|(_, status)| status.starts_with("OK")));
    assert_eq!((first.users().len(), second.users().len()), (1, 5));
}

#[test]
fn a_full_backend_sends_free_users_on_and_refuses_those_who_belong_to_it() {
    let (first, second) = (Backend::ordinary(), Backend::ordinary());
    let proxy = start(
        "login_queue: 5",
        "balance: ordered",
        &[(&first, ", sessions_max: 2"), (&second, ", sessions_max: 1")],
    );
    let anna = proxy.logged_in("anna", "secret");
    let bert = proxy.logged_in("bert", "secret");
    let carl = proxy.logged_in("carl", "secret");
    assert_eq!((first.users().len(), second.users().len()), (2, 1));
    for user in ["anna", "dora"] {
        let status = proxy.client().try_login(user, "secret").status;
        assert!(status.starts_with("NO [UNAVAILABLE]"), "{user}: {status}");
    }
    assert!(limit_hits(&proxy, "backend_sessions") > 1.5);
    assert_eq!((first.users().len(), second.users().len()), (2, 1), "nobody else was let in");
    bert.logout();
    let second_of_anna = wait_until("bert's place is free", || {
        let mut client = proxy.client();
        client.try_login("anna", "secret").is_ok().then_some(client)
    });
    assert_eq!(first.users(), ["anna", "bert", "anna"]);
    for client in [anna, carl, second_of_anna] {
        client.logout();
    }
}

#[test]
fn least_sessions_levels_the_backends() {
    let backends = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
    let settings: Vec<(&Backend, &str)> = backends.iter().map(|backend| (backend, "")).collect();
    let proxy = start("login_queue: 5", "balance: least_sessions", &settings);
    let clients: Vec<Client> =
        (0..9).map(|number| proxy.logged_in(&format!("user{number}"), "secret")).collect();
    assert!(backends.iter().all(|backend| backend.users().len() == 3));
    for client in clients {
        client.logout();
    }
}

/// Who is on which backend, by the backends' own word.
fn places(backends: &[Backend]) -> BTreeMap<String, usize> {
    let users = |(at, backend): (usize, &Backend)| {
        backend.users().into_iter().map(move |user| (user.to_ascii_lowercase(), at))
    };
    backends.iter().enumerate().flat_map(users).collect()
}

#[test]
fn equal_names_are_placed_alike_in_every_spelling_and_after_a_restart() {
    let users: Vec<String> = (0..24).map(|number| format!("user{number}@example.org")).collect();
    let place_all = |spell: fn(&str) -> String| {
        let backends = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
        let settings = [(&backends[0], ", weight: 3"), (&backends[1], ""), (&backends[2], "")];
        let proxy = start("login_queue: 5", "slow_start: 0s", &settings);
        for user in &users {
            proxy.logged_in(&spell(user), "secret").logout();
        }
        places(&backends)
    };
    let first = place_all(str::to_owned);
    assert_eq!(first.len(), 24);
    let used: std::collections::HashSet<_> = first.values().collect();
    assert_eq!(used.len(), 3, "{first:?}");
    assert_eq!(first, place_all(str::to_ascii_uppercase));
}

#[test]
fn adding_a_shard_to_the_hash_lookup_moves_nobody() {
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    let configuration = |shards: &str| {
        let shard = |name: &str, backend: &Backend| {
            format!(
                "  {name}: {{ kind: shared, backends: [ {{ name: {name}1, address: \"{}\", \
                 tls: none }} ] }}\n",
                backend.address()
            )
        };
        format!(
            "shards:\n{}{}routing: {{ sticky: 0s, lookups: [ {{ hash: {{ shards: [{shards}] }} }} ] }}\n",
            shard("north", &north),
            shard("south", &south)
        )
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &configuration("north"));
    let log_all_in = || {
        for number in 0..12 {
            proxy.logged_in(&format!("user{number}"), "secret").logout();
        }
    };
    log_all_in();
    proxy.rewrite(|places| places.head() + &configuration("south, north"));
    proxy.reload();
    log_all_in();
    assert_eq!((north.users().len(), south.users().len()), (24, 0));
}
