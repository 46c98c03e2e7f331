//! What one client, one address, one user and one listener may have; what is too much before
//! a login, and how each is told so.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and deadlines are real"
)]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use support::backend::{Backend, shard};
use support::client::Client;
use support::flood::anonymous_kib;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman, run_to_end};
use support::tls::Authority;
use support::{Stopwatch, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

fn limited(places: &Places, limits: &str) -> String {
    format!("{}limits: {{ {limits} }}\n", places.head_without_limits())
}

fn start(backend: &Backend, limits: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| limited(places, limits) + &shard(backend))
}

fn hits(proxy: &Pointsman, limit: &str) -> f64 {
    proxy.metrics().sum("pointsman_limit_hits_total", &[("limit", limit)])
}

/// The proxy with one more listener behind a balancer, and that listener's address.
fn behind_balancer(backend: &Backend, limits: &str) -> (Pointsman, SocketAddr) {
    let balanced = SocketAddr::from(([127, 0, 0, 1], support::free_port()));
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let listener = format!(
            "listeners:\n  - {{ name: balanced, address: \"{balanced}\", tls: none, \
             allow_clear_login: true, proxy_protocol: required, trusted: [127.0.0.0/8] }}\n"
        );
        limited(places, limits).replace("listeners:\n", &listener) + &shard(backend)
    });
    (proxy, balanced)
}

fn from(balanced: SocketAddr, address: &str) -> Client {
    let (family, to) = if address.contains(':') { (6, "2001:db8::1") } else { (4, "192.0.2.1") };
    let mut client = Client::connect(balanced).unwrap();
    client.send(format!("PROXY TCP{family} {address} {to} 1000 143\r\n"));
    client
}

#[test]
fn a_listener_takes_no_more_than_its_own_and_says_so() {
    let backend = Backend::ordinary();
    let configuration = |places: &Places, max: &str| {
        let one = format!("allow_clear_login: true, sessions_max: {max}");
        places.head().replace("allow_clear_login: true", &one) + &shard(&backend)
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| configuration(places, "2"));
    let mut logged_in = proxy.logged_in("anna", "secret");
    let _waiting = proxy.client();
    let mut over = Client::connect(proxy.places().clear).unwrap();
    over.expect("* BYE [LIMIT] ");
    over.expect_end();
    wait_until("it is counted", || {
        ((hits(&proxy, "sessions_per_listener") - 1.0).abs() < 0.5).then_some(())
    });
    // The other listeners are not concerned.
    Client::clear(proxy.places().imap).command_ok("NOOP");
    // Who is in counts over a reload that changes the number.
    proxy.rewrite(|places| configuration(places, "3"));
    proxy.reload();
    let third = proxy.client();
    let mut over = Client::connect(proxy.places().clear).unwrap();
    over.expect("* BYE [LIMIT] ");
    // A place is given back at the end, of a session as of one not logged in.
    drop(third);
    wait_until("the place is free", || {
        let mut client = Client::connect(proxy.places().clear).unwrap();
        client.read_line().starts_with("* OK").then_some(())
    });
    logged_in.command_ok("NOOP");
    proxy.rewrite(|places| configuration(places, "none"));
    proxy.reload();
    let many: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
    drop(many);
}

#[test]
fn a_listener_with_implicit_tls_closes_without_a_handshake() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let one = "tls: implicit, sessions_max: 1";
        places.head().replacen("tls: implicit", one, 1) + &shard(&backend)
    });
    let config = AUTHORITY.client_config();
    let mut first = Client::tls(proxy.places().imaps, &config);
    assert!(Client::connect_tls(proxy.places().imaps, "localhost", &config).is_err());
    wait_until("it is counted", || {
        ((hits(&proxy, "sessions_per_listener") - 1.0).abs() < 0.5).then_some(())
    });
    first.login("anna", "secret");
}

/// The balancer's address is nobody's, and every spelling of a name is one user.
#[test]
fn limits_go_by_the_clients_own_address_and_the_canonical_name() {
    let backend = Backend::ordinary();
    let limits =
        "unauthenticated_per_address: 1, sessions_per_user: 3, sessions_per_user_address: 1";
    let (proxy, balanced) = behind_balancer(&backend, limits);
    let mut first = from(balanced, "192.0.2.7");
    first.expect("* OK");
    from(balanced, "192.0.2.7").expect("* BYE [LIMIT]");
    let mut six = from(balanced, "2001:db8::1");
    six.expect("* OK");
    from(balanced, "2001:db8::ffff").expect("* BYE [LIMIT]");
    first.login("anna", "secret");
    six.login("ANNA", "secret");
    let mut again = from(balanced, "192.0.2.7");
    again.expect("* OK");
    assert!(again.try_login(" Anna ", "secret").status.starts_with("NO [LIMIT]"));
    let mut third = from(balanced, "192.0.2.8");
    third.expect("* OK");
    third.login("aNNa", "secret");
    let mut fourth = from(balanced, "192.0.2.9");
    fourth.expect("* OK");
    assert!(fourth.try_login("anna", "secret").status.starts_with("NO [LIMIT]"));
    wait_until("it is counted", || (hits(&proxy, "sessions_per_user") > 0.5).then_some(()));
    wait_until("it is counted", || (hits(&proxy, "sessions_per_user_address") > 0.5).then_some(()));
    wait_until("it is counted", || {
        (hits(&proxy, "unauthenticated_per_address") > 1.5).then_some(())
    });
}

/// A login that only waits takes no place of the user's from others.
#[test]
fn logins_that_stall_at_one_address_do_not_lock_the_user_out_at_another() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let backend = Ordinary::new()
        .verdict(move |_, password| {
            if password == b"stall" {
                let _ = gate.lock().unwrap().recv();
                return "NO wrong".to_owned();
            }
            "OK in".to_owned()
        })
        .start();
    let (proxy, balanced) = behind_balancer(&backend, "sessions_per_user: 2");
    let mut crowd: Vec<Client> = (0..2).map(|_| from(balanced, "192.0.2.7")).collect();
    for client in &mut crowd {
        client.expect("* OK");
        client.send_command("LOGIN anna stall");
    }
    proxy.wait_for_metrics("two logins are held", |now| {
        now.sum("pointsman_held_sessions", &[]) > 1.5
    });
    let mut same = from(balanced, "192.0.2.7");
    same.expect("* OK");
    assert!(same.try_login("anna", "secret").status.starts_with("NO [LIMIT]"));
    let mut sessions: Vec<Client> =
        ["192.0.2.8", "192.0.2.9"].iter().map(|address| from(balanced, address)).collect();
    for client in &mut sessions {
        client.expect("* OK");
        client.login("anna", "secret");
    }
    let mut third = from(balanced, "192.0.2.10");
    third.expect("* OK");
    assert!(third.try_login("anna", "secret").status.starts_with("NO [LIMIT]"));
    drop(release);
}

#[test]
fn exempt_networks_have_no_limit_by_address_and_no_delay() {
    let backend = Ordinary::new().verdict(|_, _| "NO wrong".to_owned()).start();
    let limits = "exempt: [192.0.2.0/24, '2001:db8::/32'], unauthenticated_per_address: 1, \
                  failed_login_delay: 10s";
    let (_proxy, balanced) = behind_balancer(&backend, limits);
    let mut crowd: Vec<Client> = ["192.0.2.7", "2001:db8::7"]
        .iter()
        .flat_map(|address| (0..5).map(|_| from(balanced, address)))
        .collect();
    for client in &mut crowd {
        client.expect("* OK");
    }
    let watch = Stopwatch::start();
    assert!(!crowd[0].try_login("anna", "wrong").is_ok());
    assert!(watch.elapsed() < Duration::from_secs(8));
}

#[test]
fn more_logins_than_may_be_under_way_are_unavailable_for_the_moment() {
    let backend = Ordinary::new().delay("AUTHENTICATE", Duration::from_secs(3)).start();
    let proxy = start(&backend, "held_logins: 2");
    let mut held: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    let tags: Vec<String> =
        held.iter_mut().map(|client| client.send_command("LOGIN anna secret")).collect();
    proxy.wait_for_metrics("two logins are held", |now| {
        now.sum("pointsman_held_sessions", &[]) > 1.5
    });
    let mut third = proxy.client();
    let told = third.try_login("bert", "secret").status;
    assert!(told.starts_with("NO [UNAVAILABLE] "), "{told}");
    for (client, tag) in held.iter_mut().zip(&tags) {
        assert!(client.read_response(tag).is_ok());
    }
    third.login("bert", "secret");
    wait_until("it is counted", || ((hits(&proxy, "held_logins") - 1.0).abs() < 0.5).then_some(()));
}

#[test]
fn b13_an_aborted_or_unfinished_handshake_frees_its_place() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, "tls_handshake: 300ms, unauthenticated_per_address: 4");
    for _ in 0..20 {
        let mut client = Client::connect(proxy.places().imaps).unwrap();
        // A record's head, and no more of it.
        client.send(b"\x16\x03\x01\x02\x00\x01");
        client.read_to_end();
    }
    for _ in 0..20 {
        let mut client = Client::connect(proxy.places().imaps).unwrap();
        client.send(b"\x16\x03\x01\x00\x05hello");
        drop(client);
    }
    // Some may not even have been accepted yet; a place that was never freed would be missed
    // for ever, for there are four.
    let config = AUTHORITY.client_config();
    let mut client = wait_until("a place is free", || {
        Client::connect_tls(proxy.places().imaps, "localhost", &config).ok()
    });
    client.expect("* OK");
    client.login("anna", "secret");
    proxy.wait_for_metrics("every place is free", |now| {
        now.sum("pointsman_client_sessions", &[]) < 1.5
    });
}

#[test]
fn b16_a_huge_literal_is_refused_before_it_is_asked_for_and_the_connection_goes_on() {
    let backend = Backend::ordinary();
    let mut proxy = start(&backend, "syntax_errors: 1000");
    let sizes =
        ["8193", "4294967295", "4294967296", "18446744073709551616", "99999999999999999999"];
    let id = proxy.process().id();
    let mut client = proxy.client();
    let before = anonymous_kib(id);
    for size in sizes {
        for command in ["LOGIN anna", "LOGIN", "ID ("] {
            client.send(format!("a {command} {{{size}}}\r\n"));
            client.expect("a BAD");
            client.command_ok("NOOP");
        }
    }
    assert!(anonymous_kib(id) < before + 1024, "{before} KiB before");
    let refused = hits(&proxy, "literal_bytes");
    assert!((refused - 15.0).abs() < 0.5, "{refused}");
    // The largest that fits is taken.
    client.send("b LOGIN {8192}\r\n");
    client.expect("+ ");
    assert_eq!(backend.connections(), 0);
}

#[test]
fn b17_a_literal_too_big_that_is_on_its_way_ends_the_connection_and_is_never_run() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, "login_tries: 5");
    for size in ["8193", "100000", "4294967296", "99999999999999999999"] {
        for command in ["LOGIN anna", "ID (\"k\"", "XYZZY"] {
            let mut client = proxy.client();
            let _ = client.wire().write(format!("a {command} {{{size}+}}\r\n").as_bytes());
            let _ =
                client.wire().write("x LOGOUT\r\ny LOGIN anna secret\r\n".repeat(300).as_bytes());
            client.expect("* BYE ");
            let rest = client.wire().read_to_end().unwrap_or_default();
            let rest = String::from_utf8_lossy(&rest);
            assert!(!rest.contains("x ") && !rest.contains("y "), "{rest}");
        }
    }
    assert_eq!(backend.connections(), 0);
    wait_until("it is counted", || {
        ((hits(&proxy, "literal_bytes") - 12.0).abs() < 0.5).then_some(())
    });
}

#[test]
fn b26_slow_bytes_end_at_the_deadline_and_endless_lines_at_their_bound() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, "login_deadline: 1500ms");
    let watch = Stopwatch::start();
    let mut client = proxy.client();
    while !client.wire().has_line_within(Duration::from_millis(100)).unwrap() {
        client.send("a");
        assert!(watch.elapsed() < support::PATIENCE);
    }
    assert!(watch.elapsed() > Duration::from_millis(1_300), "{:?}", watch.elapsed());
    client.expect("* BYE [UNAVAILABLE] ");
    wait_until("it is counted", || (hits(&proxy, "login_deadline") > 0.5).then_some(()));
    let mut client = proxy.client();
    let _ = client.wire().write(&vec![b'A'; 64 * 1024]);
    client.expect("* BYE Line too long.");
    wait_until("it is counted", || ((hits(&proxy, "line_bytes") - 1.0).abs() < 0.5).then_some(()));
}

#[test]
fn b30_the_budget_is_for_nonsense_alone_and_ends_with_a_bye() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, "login_deadline: 60s");
    let mut client = proxy.client();
    for _ in 0..50 {
        client.command_ok("NOOP");
        client.command_ok("CAPABILITY");
        client.command_ok("ID (\"name\" \"Outlook\")");
    }
    for number in 1..10 {
        client.send("\u{1}garbage\r\n");
        client.expect("* BAD");
        assert!(number < 10);
    }
    client.command_ok("NOOP");
    client.send("more garbage}\r\n");
    client.expect("more BAD");
    client.expect("* BYE ");
    client.expect_end();
    wait_until("it is counted", || {
        ((hits(&proxy, "syntax_errors") - 1.0).abs() < 0.5).then_some(())
    });
}

#[test]
fn b32_an_active_client_that_never_logs_in_leaves_at_the_deadline() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, "login_deadline: 1500ms");
    let watch = Stopwatch::start();
    let mut client = proxy.client();
    let told = loop {
        client.send("a NOOP\r\nb CAPABILITY\r\n");
        let line = client.read_line();
        if line.starts_with("* BYE") {
            break line;
        }
        assert!(watch.elapsed() < support::PATIENCE);
        while client.wire().has_line_within(Duration::from_millis(50)).unwrap() {
            let line = client.read_line();
            if line.starts_with("* BYE") {
                assert!(watch.elapsed() > Duration::from_millis(1_300));
                return;
            }
        }
    };
    assert!(watch.elapsed() > Duration::from_millis(1_300), "{told}");
}

#[test]
fn b67_a_low_soft_limit_of_descriptors_is_raised_and_a_low_hard_one_refused() {
    let backend = Backend::ordinary();
    let configuration = |places: &Places| places.head() + &shard(&backend);
    let proxy = Pointsman::start_with_soft_limit(&AUTHORITY, 256, configuration);
    let held: Vec<Client> = (0..45).map(|_| proxy.client()).collect();
    proxy.logged_in("anna", "secret").logout();
    drop(held);
    let (code, said) = run_to_end("serve with 256 descriptors", &AUTHORITY, configuration);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the limit of open descriptors is 256"), "{said}");
}

/// An idle listener makes nobody leave, however full the share is.
#[test]
fn at_the_share_of_those_not_logged_in_nobody_leaves_while_nobody_comes() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start_limited(&AUTHORITY, 300, |places| {
        limited(places, "unauthenticated_per_address: 1000") + &shard(&backend)
    });
    // 60 percent of 44.
    let mut crowd: Vec<Client> = (0..26).map(|_| proxy.client()).collect();
    crowd[0].expect_silence(Duration::from_millis(500));
    assert!(hits(&proxy, "unauthenticated") < 0.5);
    let mut late = proxy.client();
    crowd[0].expect("* BYE [LIMIT]");
    late.login("anna", "secret");
    // A worker that did not get its turn to look for one to leave in time is relieved by the
    // next, so it may be two.
    let stayed = crowd[1..].iter_mut().map(|client| {
        let _ = client.wire().write(b"n NOOP\r\n");
        client.read_line().starts_with("n OK")
    });
    assert!(stayed.filter(|stays| *stays).count() >= 20);
}

/// Clients that are not logged in reconnect elsewhere over the whole drain, not all at once.
#[test]
fn at_the_drain_the_byes_before_a_login_are_spread_too() {
    const CLIENTS: usize = 30;
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        places.head().replace("drain: 2s", "drain: 4s") + &shard(&backend)
    });
    let mut crowd: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    proxy.terminate();
    crowd[0].wire().set_timeout(support::PATIENCE).unwrap();
    let watch = Stopwatch::start();
    let mut told: Vec<Duration> = std::thread::scope(|scope| {
        let waiting: Vec<_> = crowd
            .iter_mut()
            .map(|client| {
                scope.spawn(|| {
                    client.expect("* BYE [UNAVAILABLE]");
                    watch.elapsed()
                })
            })
            .collect();
        waiting.into_iter().map(|told| told.join().unwrap()).collect()
    });
    told.sort_unstable();
    let spread = told[CLIENTS - 1].saturating_sub(told[0]);
    assert!(spread > Duration::from_millis(1_200), "all within {spread:?}");
}

/// A reload that takes long is given up at the end: a large users file takes seconds.
#[test]
fn a_reload_under_way_does_not_hold_up_the_end() {
    use std::io::Write;
    let backend = Backend::ordinary();
    let mut proxy = start(&backend, "login_tries: 5");
    let users = proxy.places().file("users");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&users).unwrap());
    for number in 0..2_000_000 {
        writeln!(file, "user{number}@example.org s").unwrap();
    }
    file.into_inner().unwrap();
    proxy.rewrite(|places| {
        let lookups = format!("users: {{ file: '{}' }}", users.display());
        limited(places, "login_tries: 5") + &shard(&backend).replace("shard: s", &lookups)
    });
    proxy.process().signal(rustix::process::Signal::HUP);
    proxy.terminate();
    assert_eq!(proxy.wait_for_end(), 0, "{}", proxy.log());
    assert!(!proxy.log().contains("configuration reloaded"), "{}", proxy.log());
}

/// A client that sends without a pause keeps the proxy busy for no longer than one that rests.
#[test]
fn b26_a_flood_of_good_commands_ends_at_its_bound() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, "login_deadline: 60s");
    let mut client = proxy.client();
    let mut writer = client.wire().socket().try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let noops = b"a NOOP\r\n".repeat(1000);
        (0..200).take_while(|_| writer.write_all(&noops).is_ok()).count()
    });
    let mut answered = 0;
    let told = loop {
        let line = client.read_line();
        if !line.starts_with("a OK") {
            break line;
        }
        answered += 1;
    };
    assert_eq!(told, "* BYE Too much before the login.");
    assert_eq!(answered, 256 * 1024 / "a NOOP\r\n".len());
    drop(client);
    sending.join().unwrap();
    // The bound counts for a connection, not for what comes after its login.
    let mut client = proxy.logged_in("anna", "secret");
    for _ in 0..40 {
        client.send("a NOOP\r\n".repeat(1000));
        for _ in 0..1000 {
            client.expect("a OK");
        }
    }
}

/// Logins of one user that overlap, from one address each, are as many as any.
#[test]
fn logins_from_many_addresses_at_once_keep_to_the_users_limit() {
    let delay = Duration::from_millis(500);
    let backend = Ordinary::new().delay("AUTHENTICATE", delay).start();
    let (proxy, balanced) = behind_balancer(&backend, "sessions_per_user: 2");
    let mut clients: Vec<Client> = (1..=6)
        .map(|number| {
            let mut client = from(balanced, &format!("192.0.2.{number}"));
            client.expect("* OK");
            client.send("a LOGIN anna secret\r\n");
            client
        })
        .collect();
    let answers: Vec<String> = clients.iter_mut().map(Client::read_line).collect();
    let taken = answers.iter().filter(|answer| answer.starts_with("a OK")).count();
    assert_eq!(taken, 2, "{answers:?}");
    assert!(answers.iter().all(|a| a.starts_with("a OK") || a.starts_with("a NO [LIMIT]")));
    wait_until("the backend is left by the others", || {
        (backend.open_connections() == 2).then_some(())
    });
    drop(clients);
    proxy.wait_for_metrics("the proxy has seen their ends", |now| {
        now.sum("pointsman_backend_sessions", &[]) < 0.5
    });
    let mut client = from(balanced, "192.0.2.9");
    client.expect("* OK");
    client.login("anna", "secret");
}
