//! Connections made ahead, and the addresses that connections come from.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use support::backend::{Backend, Opening};
use support::dovecot::{Dovecot, Settings};
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman, check};
use support::tls::Authority;
use support::{Stopwatch, mail, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

fn shard(address: impl Display, settings: &str) -> String {
    format!(
        "shards:\n  s: {{ kind: shared, backends: \
         [ {{ name: b, address: \"{address}\", {settings} }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n"
    )
}

/// The name that certificates carry.
fn by_name(address: SocketAddr) -> String {
    format!("localhost:{}", address.port())
}

fn start(address: SocketAddr, settings: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| places.head() + &shard(address, settings))
}

fn ca(places: &Places) -> String {
    format!("ca: \"{}\"", places.ca.display())
}

fn wait_for_warm(proxy: &Pointsman, count: u32) {
    proxy.wait_for_metrics(&format!("{count} warm connections"), |now| {
        (now.sum("pointsman_backend_warm_connections", &[]) - f64::from(count)).abs() < 0.5
    });
}

fn looks(proxy: &Pointsman, result: &str) -> f64 {
    proxy.metrics().sum("pointsman_backend_warm_looks_total", &[("result", result)])
}

#[test]
fn a_login_does_not_wait_for_the_greeting_of_a_warm_connection() {
    let slow = Duration::from_secs(4);
    let backend = Ordinary::new().delay("GREETING", slow).start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let patient = "upstream: { connect_timeout: 12s }\n";
        places.head() + patient + &shard(backend.address(), "tls: none, warm_connections: 2")
    });
    wait_for_warm(&proxy, 2);
    for _ in 0..2 {
        let mut client = proxy.client();
        let watch = Stopwatch::start();
        client.login("anna", "secret");
        assert!(watch.elapsed() < slow, "{:?}", watch.elapsed());
        client.command_ok("NOOP");
        client.logout();
        // What was taken is made anew.
        wait_for_warm(&proxy, 2);
    }
    assert!((looks(&proxy, "hit") - 2.0).abs() < 0.5);
    // The client's own fields and the login come together, on a connection that was silent.
    let said = backend.received_text(backend.logins()[0].connection);
    assert!(said.contains(" ID (") && said.contains("x-originating-ip"), "{said}");
    backend.assert_no_faults();
}

#[test]
fn more_logins_than_warm_connections_make_their_own() {
    let backend = Backend::ordinary();
    let proxy = start(backend.address(), "tls: none, warm_connections: 1");
    wait_for_warm(&proxy, 1);
    let clients: Vec<_> = (0..8).map(|n| proxy.logged_in(&format!("user{n}"), "secret")).collect();
    assert_eq!(backend.logins().len(), 8);
    let found = looks(&proxy, "hit") + looks(&proxy, "empty");
    assert!((found - 8.0).abs() < 0.5, "{found}");
    for client in clients {
        client.logout();
    }
    // The warm one is no session.
    proxy.wait_for_metrics("no session is left", |now| {
        now.sum("pointsman_backend_sessions", &[]) < 0.5
    });
    wait_for_warm(&proxy, 1);
}

#[test]
fn tls_and_starttls_to_a_real_server_are_done_ahead_and_sessions_run_on_any_worker() {
    let dovecot = Dovecot::start(&AUTHORITY, &[("anna", "secret")]);
    dovecot.put("anna", "secret", "INBOX", &[mail("one")]);
    for (address, tls) in [(dovecot.imaps(), "implicit"), (dovecot.imap(), "starttls")] {
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            let settings = format!("tls: {tls}, warm_connections: 4, {}", ca(places));
            places.head() + &shard(by_name(address), &settings)
        });
        wait_for_warm(&proxy, 4);
        let mut clients: Vec<_> = (0..12).map(|_| proxy.logged_in("anna", "secret")).collect();
        for client in &mut clients {
            client.command_ok("SELECT INBOX");
            let fetched = client.fetch_mail(1);
            assert!(String::from_utf8_lossy(&fetched).contains("Subject: one"));
        }
        for client in clients {
            client.logout();
        }
        assert!(looks(&proxy, "hit") >= 4.0, "{tls}");
    }
}

#[test]
fn warm_connections_that_the_server_ended_cost_no_login() {
    let users = [("anna", "secret")];
    let mut dovecot = Settings::new(&AUTHORITY, &users).start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let settings = format!("tls: implicit, warm_connections: 4, {}", ca(places));
        places.head() + &shard(by_name(dovecot.imaps()), &settings)
    });
    wait_for_warm(&proxy, 4);
    for _ in 0..3 {
        dovecot.restart();
        proxy.logged_in("anna", "secret").logout();
    }
    let metrics = proxy.metrics();
    let failed = metrics.sum("pointsman_logins_total", &[])
        - metrics.sum("pointsman_logins_total", &[("result", "ok")]);
    assert!(failed < 0.5, "{failed} logins failed");
}

#[test]
fn what_the_backend_says_goodbye_to_is_not_used() {
    let greeted = Arc::new(AtomicBool::new(false));
    let backend = {
        let greeted = Arc::clone(&greeted);
        Backend::start(Opening::clear(), move |peer| {
            let ordinary = Ordinary::new();
            if peer.number() == 0 {
                peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n")?;
                while !greeted.load(Ordering::SeqCst) {
                    peer.pause(Duration::from_millis(5));
                }
                // The connection stays open: words alone must be enough.
                peer.send("* BYE too long\r\n")?;
                return peer.hang();
            }
            ordinary.converse(peer)
        })
    };
    let proxy = start(backend.address(), "tls: none, warm_connections: 1");
    wait_for_warm(&proxy, 1);
    greeted.store(true, Ordering::SeqCst);
    // The pool notices by itself, or the login does.
    wait_until("the first connection is given up", || backend.has_ended(0).then_some(()));
    proxy.logged_in("anna", "secret").logout();
    assert!(backend.logins()[0].connection > 0);
}

#[test]
fn old_ones_get_a_logout_and_are_renewed() {
    let backend = Backend::ordinary();
    let settings = "tls: none, warm_connections: 1, warm_age_max: 1s";
    let proxy = start(backend.address(), settings);
    wait_for_warm(&proxy, 1);
    backend.wait_for_received(0, "LOGOUT");
    backend.wait_for_connections(2);
    wait_for_warm(&proxy, 1);
    assert!(backend.logins().is_empty());
}

#[test]
fn a_disabled_backend_and_one_that_left_the_file_keep_none() {
    let backend = Backend::ordinary();
    let settings = "tls: none, warm_connections: 3";
    let proxy = start(backend.address(), settings);
    wait_for_warm(&proxy, 3);
    let down = format!("{settings}, state: down");
    proxy.rewrite(|places| places.head() + &shard(backend.address(), &down));
    proxy.reload();
    backend.wait_until_empty();
    proxy.rewrite(|places| places.head() + &shard(backend.address(), settings));
    proxy.reload();
    wait_for_warm(&proxy, 3);
    proxy.rewrite(|places| places.head() + &shard(backend.address(), "tls: none"));
    proxy.reload();
    backend.wait_until_empty();
    proxy.logged_in("anna", "secret").logout();
    proxy.rewrite(|places| places.head() + &shard(backend.address(), settings));
    proxy.reload();
    wait_for_warm(&proxy, 3);
    // The backend itself goes; a session of its users would keep it, a warm connection not.
    let other = Backend::ordinary();
    let renamed = shard(other.address(), "tls: none").replace("name: b", "name: c");
    proxy.rewrite(|places| places.head() + &renamed);
    proxy.reload();
    backend.wait_until_empty();
    proxy.reload();
    assert_eq!(backend.open_connections(), 0);
    let known = proxy.operate_ok(&["backends"]);
    assert!(!known.contains(&backend.address().to_string()), "{known}");
}

#[test]
fn a_reload_that_leaves_a_backend_as_it_is_keeps_its_warm_connections() {
    let backend = Backend::ordinary();
    let proxy = start(backend.address(), "tls: none, warm_connections: 3, warm_age_max: 30m");
    wait_for_warm(&proxy, 3);
    for _ in 0..3 {
        proxy.reload();
    }
    proxy.logged_in("anna", "secret").logout();
    assert!((looks(&proxy, "hit") - 1.0).abs() < 0.5);
    assert!(backend.logins()[0].connection < 3, "one of the first three");
    // One to take its place, and one that the reload may have cut short.
    assert!(backend.connections() <= 5, "{}", backend.connections());
}

/// Nobody can tell a connection over which nothing comes from one that waits: the first login
/// on it fails, and no other is tried on what was made before.
#[test]
fn one_that_fell_silent_discredits_the_others() {
    let backend = Backend::start(Opening::clear(), |peer| {
        let ordinary = Ordinary::new();
        if peer.number() < 2 {
            peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n")?;
            return peer.hang();
        }
        ordinary.converse(peer)
    });
    let settings = "tls: none, warm_connections: 2, warm_age_max: 30m";
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let hurry = "upstream: { connect_timeout: 4s, login_timeout: 4s }\n";
        places.head() + hurry + &shard(backend.address(), settings)
    });
    wait_for_warm(&proxy, 2);
    let status = proxy.client().try_login("anna", "secret").status;
    assert!(status.starts_with("NO [UNAVAILABLE]"), "{status}");
    proxy.logged_in("bert", "secret").logout();
}

#[test]
fn a_server_that_is_away_is_not_dialled_all_the_time() {
    let port = support::free_port();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let hurry = "upstream: { skip_failed: 100ms }\n";
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        places.head() + hurry + &shard(address, "tls: none, warm_connections: 8")
    });
    // It comes after some tries have failed.
    std::thread::sleep(Duration::from_millis(300));
    let backend = Ordinary::new().start_at(port);
    wait_for_warm(&proxy, 8);
    proxy.logged_in("anna", "secret").logout();
    wait_for_warm(&proxy, 8);
    assert!(backend.connections() <= 10, "{}", backend.connections());
}

/// Connections made ahead may fail hours apart: where a backend is checked, those checks say
/// whether it is down.
#[test]
fn failures_ahead_do_not_add_up_to_a_backend_that_is_down() {
    let backend = Backend::start(Opening::clear(), |peer| peer.send("* BYE not now\r\n"));
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let hurry = "upstream: { skip_failed: 0s }\n";
        let settings = "tls: none, warm_connections: 1, \
                        check: { mode: connect, interval: 1h, fall: 2 }";
        places.head() + hurry + &shard(backend.address(), settings)
    });
    proxy.wait_for_metrics("some failures", |now| {
        now.sum("pointsman_backend_failures_total", &[("backend", "b")]) >= 3.0
    });
    let metrics = proxy.metrics();
    assert_eq!(metrics.count("pointsman_backend_up", &[("backend", "b")]), 1);
    assert!(!proxy.log().contains("the backend is down"), "{}", proxy.log());
}

#[test]
fn connections_come_from_the_source_addresses_in_turn_and_one_that_is_missing_is_passed_over() {
    let peers = Arc::new(Mutex::new(Vec::new()));
    let backend = {
        let peers = Arc::clone(&peers);
        Backend::start(Opening::clear(), move |peer| {
            let from = peer.wire()?.socket().peer_addr()?;
            peers.lock().unwrap().push(from.ip().to_string());
            Ordinary::new().converse(peer)
        })
    };
    // 192.0.2.1 is for documentation: no machine has it. ::1 is of another family.
    let sources = "source_addresses: [127.0.0.5, 192.0.2.1, \"::1\", 127.0.0.6]";
    let proxy = start(backend.address(), &format!("tls: none, {sources}"));
    for _ in 0..8 {
        proxy.logged_in("anna", "secret").logout();
    }
    let peers = peers.lock().unwrap().clone();
    assert!(peers.iter().all(|peer| peer == "127.0.0.5" || peer == "127.0.0.6"), "{peers:?}");
    for source in ["127.0.0.5", "127.0.0.6"] {
        assert!(peers.iter().filter(|peer| *peer == source).count() >= 2, "{peers:?}");
    }
    let proxy = start(backend.address(), "tls: none, source_addresses: [192.0.2.1]");
    let status = proxy.client().try_login("anna", "secret").status;
    assert!(status.starts_with("NO [UNAVAILABLE]"), "{status}");
    proxy.wait_for_log("Cannot assign requested address");
}

#[test]
fn wrong_settings_are_refused_with_their_line() {
    let address: SocketAddr = ([127, 0, 0, 1], 1).into();
    for (settings, told) in [
        ("warm_connections: 2, forward: proxy_v2", "its header names the client"),
        ("warm_connections: 0", "`warm_connections` cannot be `0`"),
        ("warm_connections: 1, warm_age_max: 1ms", "`warm_age_max` cannot be `1ms`"),
        ("source_addresses: [localhost]", "an IP address of this machine"),
        ("source_addresses: [0.0.0.0]", "an IP address of this machine"),
    ] {
        let (code, said) = check(&AUTHORITY, |places| {
            places.head() + &shard(address, &format!("tls: none, {settings}"))
        });
        assert_eq!(code, 64, "{settings}: {said}");
        assert!(said.contains(told), "{settings}: {said}");
    }
}
