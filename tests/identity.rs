//! Who the user is: one name however it is spelled, nobody signs in as somebody else unless
//! the operator allows it, and nobody learns which users there are.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use pointsman::config::Config;
use pointsman::metrics::Metrics;
use pointsman::names::UserName;
use pointsman::net::resolve::Resolver;
use pointsman::proxy::registry::{Registry, Request, SessionHandle};
use pointsman::routing::maps::Maps;
use pointsman::routing::query::Query;
use pointsman::routing::{SlotTable, Surroundings, Table, name};
use support::Stopwatch;
use support::backend::Backend;
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const FAILED: &str = "NO [AUTHENTICATIONFAILED] Authentication failed.";

/// Shards `north` and `south` of one backend each; the text is further settings under
/// `routing` and at the top.
fn two_shards(places: &Places, [north, south]: [&Backend; 2], routing: &str, top: &str) -> String {
    format!(
        "{}shards:\n{}{}routing: {{ {routing} }}\n{top}\n",
        places.head(),
        shard("north", north),
        shard("south", south)
    )
}

fn shard(name: &str, backend: &Backend) -> String {
    format!(
        "  {name}: {{ kind: shared, backends: \
         [ {{ name: {name}1, address: \"{}\", tls: none }} ] }}\n",
        backend.address()
    )
}

/// A users file as the only lookup.
fn users(places: &Places, lines: &str) -> String {
    let file = places.file("users");
    std::fs::write(&file, lines).unwrap();
    format!("lookups: [ {{ users: {{ file: \"{}\" }} }} ]", file.display())
}

/// AUTHENTICATE PLAIN with all three parts; gives the tagged line.
fn authenticate(client: &mut Client, authzid: &str, user: &str, password: &str) -> String {
    let message = STANDARD.encode(format!("{authzid}\0{user}\0{password}"));
    client.command(&format!("AUTHENTICATE PLAIN {message}")).status
}

/// LOGIN with two literals of any bytes; gives the tagged line.
fn login_bytes(client: &mut Client, user: &[u8], password: &[u8]) -> String {
    let head = format!("b LOGIN {{{}+}}\r\n", user.len());
    let middle = format!(" {{{}+}}\r\n", password.len());
    client.send([head.as_bytes(), user, middle.as_bytes(), password, b"\r\n"].concat());
    client.read_response("b").status
}

#[test]
fn b36_bytes_reach_the_backend_as_typed_and_a_name_that_is_no_text_is_refused() {
    let [north, south] = [Backend::ordinary(), Backend::ordinary()];
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let lookups = users(places, "b\u{f6}b north\nanna south\n");
        let routing = format!("canonical: precis, {lookups}");
        two_shards(places, [&north, &south], &routing, "")
    });
    let password: Vec<u8> = (1..=255).filter(|byte| !b"\r\n".contains(byte)).collect();
    let typed = "BO\u{308}B".as_bytes();
    let mut client = proxy.client();
    // The same name in Latin-1: what it means cannot be known.
    assert_eq!(login_bytes(&mut client, b"b\xf6b", &password), FAILED);
    assert!(login_bytes(&mut client, typed, &password).starts_with("OK "));
    let logins = north.logins();
    assert_eq!(logins.len(), 1);
    assert_eq!((logins[0].user.as_slice(), &logins[0].password), (typed, &password));
    assert!(south.logins().is_empty());
}

#[test]
fn b38_a_name_that_is_a_template_or_a_path_reaches_no_backend() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        two_shards(places, [&backend, &backend], "lookups: [ { shard: north } ]", "")
    });
    let names = [
        "%u",
        "%1000000u",
        "../anna",
        "/etc/passwd",
        "anna/../bob",
        "a*b",
        "a)(uid=*",
        "a;b",
        "a`b`",
        "a{5}",
        "a|b c",
        "a<b",
        "${HOME}",
        "a\\b",
        "a,b",
        "a:b",
    ];
    for typed in names {
        assert_eq!(proxy.client().try_login(typed, "secret").status, FAILED, "{typed}");
    }
    assert_eq!(backend.connections(), 0);
    // A quote is a letter of some names, looked up by value like any other.
    proxy.client().login("o'brien", "secret");
    assert_eq!(backend.users(), ["o'brien"]);
}

#[test]
fn b39_master_names_are_refused_by_default_like_a_wrong_password() {
    let backend = Ordinary::new().verdict(|_, _| "NO [AUTHENTICATIONFAILED] no".into()).start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        two_shards(places, [&backend, &backend], "lookups: [ { shard: north } ]", "")
    });
    let wrong = proxy.client().try_login("bob", "wrong").status;
    assert_eq!(wrong, FAILED);
    for typed in ["bob*admin", "bob%admin", "*admin", "bob*", "bob*a*b"] {
        let clock = Stopwatch::start();
        assert_eq!(proxy.client().try_login(typed, "secret").status, wrong, "{typed}");
        assert!(clock.elapsed() >= Duration::from_millis(100), "{typed}: too quick");
        assert_eq!(authenticate(&mut proxy.client(), "", typed, "secret"), wrong, "{typed}");
    }
    assert_eq!(backend.users(), ["bob"]);
}

#[test]
fn b39_an_allowed_master_is_routed_by_the_target_and_sent_as_typed() {
    let [north, south] = [Backend::ordinary(), Backend::ordinary()];
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let routing = users(places, "bob north\nadmin south\n");
        let top = "master: { separator: \"*\", networks: [127.0.0.0/8] }";
        two_shards(places, [&north, &south], &routing, top)
    });
    for odd in ["*admin", "bob*", "bob*a*b", "bob**admin", "bob%admin", "nobody*admin"] {
        assert_eq!(proxy.client().try_login(odd, "secret").status, FAILED, "{odd}");
    }
    let mut client = proxy.client();
    client.login("Bob*ADMIN", "secret");
    assert_eq!((north.users(), south.users()), (vec!["Bob*ADMIN".to_owned()], vec![]));
    client.logout();
    proxy.wait_for_log("a master user signs in");
    // The session is the target's.
    let line = support::wait_until("the session's line", || {
        let ended = |line: &&str| line.contains("session ended") && line.contains("backend=north1");
        proxy.log().lines().find(ended).map(str::to_owned)
    });
    assert!(line.ends_with("user=bob"), "{line}");
}

#[test]
fn b39_a_master_from_another_network_is_refused() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let top = "master: { networks: [192.0.2.0/24] }";
        two_shards(places, [&backend, &backend], "lookups: [ { shard: north } ]", top)
    });
    assert_eq!(proxy.client().try_login("bob*admin", "secret").status, FAILED);
    assert_eq!(authenticate(&mut proxy.client(), "bob", "admin", "secret"), FAILED);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn b40_two_identities_are_a_master_login_and_arrive_as_the_same_triple() {
    let [north, south] = [Backend::ordinary(), Backend::ordinary()];
    let configured = |places: &Places, top: &str| {
        let routing = users(places, "bob north\nadmin south\n");
        two_shards(places, [&north, &south], &routing, top)
    };
    let closed = Pointsman::start(&AUTHORITY, |places| configured(places, ""));
    assert_eq!(authenticate(&mut closed.client(), "bob", "admin", "pw"), FAILED);
    assert_eq!(north.connections() + south.connections(), 0);
    // The same identity, spelled alike or not, is none to be judged.
    for authzid in ["", "bob", "BOB"] {
        assert!(authenticate(&mut closed.client(), authzid, "bob", "pw").starts_with("OK "));
    }
    let allowed = Pointsman::start(&AUTHORITY, |places| {
        configured(places, "master: { networks: [127.0.0.0/8] }")
    });
    assert!(authenticate(&mut allowed.client(), "Bob", "Admin", "pw").starts_with("OK "));
    assert_eq!(authenticate(&mut allowed.client(), "bob*admin", "admin", "pw"), FAILED);
    assert_eq!(authenticate(&mut allowed.client(), "bob", "eve*admin", "pw"), FAILED);
    let triples: Vec<String> = north
        .logins()
        .iter()
        .map(|login| {
            let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            [part(&login.authzid), part(&login.user), part(&login.password)].join("|")
        })
        .collect();
    assert_eq!(triples, ["|bob|pw", "bob|bob|pw", "BOB|bob|pw", "Bob|Admin|pw"]);
    assert_eq!(south.connections(), 0);
}

#[test]
fn b40_where_the_backend_cannot_say_two_identities_none_is_dropped() {
    let backend = Ordinary::new().capability("IMAP4rev1 LITERAL+ ID").start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let top = "master: { networks: [127.0.0.0/8] }";
        two_shards(places, [&backend, &backend], "lookups: [ { shard: north } ]", top)
    });
    let status = authenticate(&mut proxy.client(), "bob", "admin", "pw");
    assert!(status.starts_with("NO [SERVERBUG] "), "{status}");
    assert!(backend.logins().is_empty());
    assert!(authenticate(&mut proxy.client(), "bob", "bob", "pw").starts_with("OK "));
}

#[test]
fn b41_every_spelling_is_one_user_for_the_backend_and_the_limit() {
    let [north, south] = [Backend::ordinary(), Backend::ordinary()];
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let domains = "{ domains: { example.org: north, example.com: south } }";
        let routing =
            format!("canonical: precis, default_domain: example.org, lookups: [ {domains} ]");
        two_shards(places, [&north, &south], &routing, "")
            .replace("failed_login_delay: 100ms", "failed_login_delay: 100ms, sessions_per_user: 6")
    });
    let spellings = [
        "bo\u{308}b@example.org",
        "B\u{d6}B@EXAMPLE.ORG",
        " b\u{f6}b@Example.org.",
        "\u{ff42}\u{f6}\u{ff42}",
        "b\u{f6}b\u{ff20}example.org",
        "BO\u{308}B",
    ];
    let mut sessions = Vec::new();
    for typed in spellings {
        let mut client = proxy.client();
        let status = login_bytes(&mut client, typed.as_bytes(), b"secret");
        assert!(status.starts_with("OK "), "{typed}: {status}");
        sessions.push(client);
    }
    assert_eq!(north.users(), spellings);
    let over = login_bytes(&mut proxy.client(), "b\u{f6}b".as_bytes(), b"secret");
    assert!(over.starts_with("NO [LIMIT] "), "{over}");
    assert_eq!(south.connections(), 0);
}

#[test]
fn b42_a_user_who_moves_is_on_the_new_shard_with_the_next_login() {
    let [north, south] = [Backend::ordinary(), Backend::ordinary()];
    let configured = |places: &Places, lines: &str| {
        let routing = users(places, lines);
        two_shards(places, [&north, &south], &routing, "")
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| configured(places, "bob north\neve south\n"));
    for round in 0..5 {
        let (here, there) = if round % 2 == 0 { (&north, &south) } else { (&south, &north) };
        let before = (here.users().len(), there.users().len());
        proxy.logged_in("bob", "secret").logout();
        // What was learnt of one user is nobody else's.
        proxy.logged_in("eve", "secret").logout();
        let bobs = |backend: &Backend| {
            backend.users().iter().filter(|user| user.as_str() == "bob").count()
        };
        assert!(here.users().len() > before.0, "round {round}");
        assert_eq!(bobs(&north) + bobs(&south), round + 1);
        assert_eq!(bobs(here), round / 2 + 1, "round {round}");
        north.wait_until_empty();
        south.wait_until_empty();
        let next = if round % 2 == 0 { "bob south\neve south\n" } else { "bob north\neve south\n" };
        proxy.rewrite(|places| configured(places, next));
        proxy.reload();
    }
    assert!(north.users().iter().all(|user| user == "bob"));
}

/// A login that began when `since` moves were acknowledged, and ended when `until` were ordered.
struct Landing {
    user: String,
    since: usize,
    until: usize,
}

/// Nobody who comes after the operator was told of the end of a move lands where he was.
#[test]
fn b42_no_login_lands_wrongly_once_a_move_is_acknowledged() {
    const MOVES: usize = 6;
    const LOGINS_BETWEEN: usize = 20;
    let [north, south] = [Backend::ordinary(), Backend::ordinary()];
    let shards = ["north", "south"];
    // Each login is of another user: a session that is still open would hold its own.
    let everybody = |number: usize| {
        let user = |n| format!("u{n} {}\n", shards[number % 2]);
        (0..10_000).map(user).collect::<String>()
    };
    let configured = |places: &Places, number: usize| {
        let routing = users(places, &everybody(number));
        two_shards(places, [&north, &south], &routing, "")
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| configured(places, 0));
    let (ordered, acknowledged) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let landings = Mutex::new(Vec::new());
    let over = AtomicBool::new(false);
    let settled = |number: usize| {
        let landings = landings.lock().unwrap();
        landings.iter().filter(|landing: &&Landing| landing.since == number).count()
    };
    std::thread::scope(|scope| {
        let logins = scope.spawn(|| {
            for number in 0.. {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let user = format!("u{number}");
                let since = acknowledged.load(Ordering::SeqCst);
                proxy.logged_in(&user, "secret").logout();
                let until = ordered.load(Ordering::SeqCst);
                landings.lock().unwrap().push(Landing { user, since, until });
            }
        });
        for number in 0..=MOVES {
            if number > 0 {
                ordered.store(number, Ordering::SeqCst);
                proxy.rewrite(|places| configured(places, number));
                proxy.reload();
                acknowledged.store(number, Ordering::SeqCst);
            }
            support::wait_until("enough logins between two moves", || {
                assert!(!logins.is_finished(), "a login failed");
                (settled(number) >= LOGINS_BETWEEN).then_some(())
            });
        }
        over.store(true, Ordering::SeqCst);
    });
    let found = [north.users(), south.users()];
    for Landing { user, since, until } in landings.into_inner().unwrap() {
        let place = found.iter().position(|users| users.contains(&user)).unwrap();
        let right = (since..=until).any(|number| number % 2 == place);
        assert!(right, "{user} is on {}, {since} to {until}", shards[place]);
    }
}

/// The backend takes its time over a password; who has none is answered as late.
#[test]
fn b56_unknown_users_and_wrong_passwords_are_alike_in_words_and_time() {
    const ROUNDS: usize = 9;
    let backend = Ordinary::new()
        .delay("AUTHENTICATE", Duration::from_millis(120))
        .verdict(|_, _| "NO [AUTHENTICATIONFAILED] The password of this user is wrong.".into())
        .start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let routing = users(places, "bob north\n");
        two_shards(places, [&backend, &backend], &routing, "")
            .replace("failed_login_delay: 100ms", "failed_login_delay: 400ms")
    });
    let try_one = |typed: &str| {
        let mut client = proxy.client();
        let clock = Stopwatch::start();
        assert_eq!(client.try_login(typed, "wrong").status, FAILED);
        clock.elapsed()
    };
    let mut differences = Vec::new();
    for round in 0..ROUNDS {
        // Interleaved, and each in turn the first, so that no trend favours one.
        let (known, unknown) = if round % 2 == 0 {
            let known = try_one("bob");
            (known, try_one("nobody"))
        } else {
            let unknown = try_one("nobody");
            (try_one("bob"), unknown)
        };
        assert!(known >= Duration::from_millis(400) && unknown >= Duration::from_millis(400));
        differences.push(known.as_secs_f64() - unknown.as_secs_f64());
    }
    differences.sort_by(f64::total_cmp);
    let median = differences[ROUNDS / 2];
    assert!(median.abs() < 0.04, "known and unknown users differ by {median} s: {differences:?}");
    assert_eq!(backend.users().len(), ROUNDS);
}

/// Only the operator knows of a command that no capability names.
#[test]
fn b74_proxyauth_in_a_literal_ends_the_session_where_the_operator_names_it() {
    for named in [true, false] {
        let backend = Ordinary::new().capability_after("IMAP4rev1").start();
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            let routing = "lookups: [ { shard: north } ]";
            two_shards(places, [&backend, &backend], routing, "").replacen(
                "tls: none } ] }",
                &format!("tls: none, proxyauth: {named} }} ] }}"),
                1,
            )
        });
        let mut client = proxy.logged_in("bob", "secret");
        let body = "hello\r\nb PROXYAUTH eve\r\nmore\r\n";
        client.send(format!("a APPEND INBOX {{{}+}}\r\n{body}\r\n", body.len()));
        if named {
            client.expect_end_of_session();
            backend.wait_until_empty();
            assert!(!backend.received_text(0).contains("PROXYAUTH eve"));
        } else {
            client.expect("a OK");
        }
    }
}

fn library_configuration(canonical: &str) -> Config {
    let text = format!(
        "listeners: [ {{ name: i, address: \"127.0.0.1:143\", tls: none }} ]\n\
         shards:\n\
         \x20 north: {{ kind: shared, backends: [ {{ name: n1, address: \"h:1\", tls: none }}, \
         {{ name: n2, address: \"h:2\", tls: none }} ] }}\n\
         \x20 south: {{ kind: shared, backends: [ {{ name: s1, address: \"h:3\", tls: none }} ] }}\n\
         routing:\n\
         \x20 canonical: {canonical}\n\
         \x20 default_domain: x.org\n\
         \x20 lookups: [ {{ domains: {{ x.org: north }} }}, {{ shard: south }} ]\n"
    );
    Config::parse(Path::new("p.yaml"), &text).unwrap()
}

/// What a client might make of a name: other case, blanks, dots, decomposed or wide letters.
fn respelled(name: &str, choices: &[u8], unicode: bool) -> String {
    let mut out = " ".repeat(usize::from(choices[0] % 3));
    for (letter, choice) in name.chars().zip(choices.iter().cycle()) {
        match (choice % 4, letter) {
            (0, letter) => out.extend(letter.to_uppercase()),
            (1, 'a'..='z') if unicode => {
                out.extend(char::from_u32(u32::from(letter) - 0x61 + 0xff41));
            }
            (2, '\u{f6}') => out.push_str("o\u{308}"),
            (2, '\u{e9}') => out.push_str("e\u{301}"),
            (_, letter) => out.push(letter),
        }
    }
    if choices[0].is_multiple_of(2) && name.contains('@') {
        out.push('.');
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn b41_equal_canonical_names_have_one_route_and_one_row(
        local in "[a-z\u{f6}\u{e9}0-9]{1,12}",
        domain in prop::option::of("(x|y)\\.org"),
        choices in prop::collection::vec(any::<u8>(), 4..20),
    ) {
        let unicode = !local.is_ascii();
        let config = library_configuration(if unicode { "precis" } else { "lowercase" });
        let plain = domain.map_or(local.clone(), |domain| format!("{local}@{domain}"));
        let typed = respelled(&plain, &choices, unicode);
        let canonical = |text: &str| name::canonical(&config.routing, text.as_bytes());
        let (one, other) = (canonical(&plain).unwrap(), canonical(&typed).unwrap());
        prop_assert_eq!(&one, &other, "{} and {}", plain, typed);

        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let metrics = Metrics::register().unwrap();
        let around = Surroundings {
            runtime: runtime.handle().clone(),
            resolver: Resolver::with_ask(Arc::clone(&metrics), |_| Box::pin(std::future::pending())),
            metrics,
            maps: Maps::default(),
            former: None,
        };
        let table = Table::load(&config, &SlotTable::unassigned(), 1, &around).unwrap();
        runtime.block_on(async {
            let [first, second] = [&one, &other].map(Query::of_user);
            let [first, second] =
                [table.route(&first, |_| ()).await, table.route(&second, |_| ()).await];
            assert_eq!(first, second);
            let registry = Registry::new(64);
            let route = first.unwrap();
            let candidates: Vec<_> = config
                .shards
                .iter()
                .filter(|shard| shard.name == route.shard)
                .flat_map(|shard| shard.backends.iter().map(|backend| backend.name.clone()))
                .collect();
            let enter = |user: &UserName, candidates: &[_], key| {
                let request = Request {
                    user,
                    home: &route.shard,
                    shard: &route.shard,
                    candidates,
                    sticky: Duration::ZERO,
                    user_max: 2,
                    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    address_max: 2,
                    now: tokio::time::Instant::now(),
                };
                registry
                    .reserve(&request)
                    .map(|row| row.live(SessionHandle { worker: 0, key, turn: 0 }).unwrap())
            };
            let live = enter(&one, &candidates, 1).unwrap();
            let reversed: Vec<_> = candidates.iter().rev().cloned().collect();
            let joined = enter(&other, &reversed, 2).unwrap();
            assert_eq!(live.backend(), joined.backend());
            assert!(enter(&other, &candidates, 3).is_err(), "the limit is one for both");
            // A kick by either spelling finds both sessions.
            assert_eq!(registry.sessions_of_user(&one).len(), 2);
            assert_eq!(registry.sessions_of_user(&other).len(), 2);
        });
    }
}
