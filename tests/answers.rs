//! What a client is told about its login: the table of answers, row by row, over sockets.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and delays are real"
)]

mod support;

use std::io::Result;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::process::Signal;

use support::backend::{Backend, Conversation, Opening};
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;
use support::{Stopwatch, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Shard `s` with one backend, its settings behind the address.
fn shard(backend: &Backend, settings: &str) -> String {
    format!(
        "shards:\n  s: {{ kind: shared, backends: \
         [ {{ name: b, address: \"localhost:{}\", {settings} }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        backend.port()
    )
}

fn clear(backend: &Backend) -> String {
    shard(backend, "tls: none")
}

fn limited(places: &Places, limits: &str) -> String {
    format!("{}limits: {{ {limits} }}\n", places.head_without_limits())
}

/// Short waits, for backends that say nothing.
const HURRY: &str = "upstream: { connect_timeout: 1s, login_timeout: 1s, skip_failed: 50ms }\n";

/// Passwords choose the backend's answer: it is what stands behind `tag `.
fn by_password() -> Backend {
    Ordinary::new().verdict(|_, password| String::from_utf8_lossy(password).into_owned()).start()
}

/// The id in an answer `... (id)`.
fn session_in(status: &str) -> String {
    let (_, rest) = status.rsplit_once('(').unwrap_or_else(|| panic!("no id in {status:?}"));
    let id = rest.strip_suffix(')').unwrap();
    assert_eq!(id.len(), 16, "{status}");
    id.to_owned()
}

fn assert_unavailable(status: &str) -> String {
    assert!(
        status.starts_with("NO [UNAVAILABLE] Please try again later. ("),
        "unavailable expected, got {status:?}"
    );
    session_in(status)
}

#[test]
fn each_code_of_a_backends_no_becomes_what_the_table_says() {
    let backend = by_password();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "failed_login_delay: 1ms, login_tries: 100") + &clear(&backend)
    });
    let long = "x".repeat(1_000);
    let failed = "NO [AUTHENTICATIONFAILED] Authentication failed.";
    let same = [
        "AUTHORIZATIONFAILED",
        "EXPIRED",
        "PRIVACYREQUIRED",
        "CONTACTADMIN",
        "LIMIT",
        "UNAVAILABLE",
        "ALERT",
    ];
    let mut client = proxy.client();
    for code in same {
        let told = client.try_login("anna", &format!("NO [{code}] Because."));
        assert_eq!(told.status, format!("NO [{code}] Because."));
        let told = client.try_login("anna", &format!("NO [{code}] {long}"));
        assert_eq!(told.status, format!("NO [{code}] {}", &long[..200]));
        let told = client.try_login("anna", &format!("NO [{code}] a\u{1}\u{1b}[2Jb"));
        assert_eq!(told.status, format!("NO [{code}] a[2Jb"));
    }
    for code in ["SERVERBUG", "INUSE", "CORRUPTION", "SYS/TEMP", "SYS/PERM"] {
        let told = client.try_login("anna", &format!("NO [{code}] Secret reason."));
        assert_unavailable(&told.status);
    }
    for answer in [
        "NO [AUTHENTICATIONFAILED] No such user.",
        "NO bare",
        "NO [NONSENSE] what",
        "NO [CAPABILITY IMAP4rev1] what",
        "NO [CANNOT] what",
    ] {
        assert_eq!(client.try_login("anna", answer).status, failed, "{answer}");
    }
    // B-55: the client must not go past the proxy.
    let told = client.try_login("anna", "NO [REFERRAL imap://elsewhere.example/] Go there.");
    assert_unavailable(&told.status);
    assert_unavailable(&client.try_login("anna", "BAD what").status);
    client.login("anna", "OK now");
    backend.assert_no_faults();
}

/// What a backend does with a connection whose login must fail as unavailable.
type Trouble = fn(&mut Conversation) -> Result<()>;

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n";

/// B-57, B-58, B-47, B-07: kinds of trouble after which nobody may be blamed but the
/// backend. `true` where the credentials reach it.
fn troubles() -> Vec<(&'static str, bool, Trouble)> {
    vec![
        ("bad", true, |peer| {
            peer.send(GREETING)?;
            peer.answer("AUTHENTICATE", "{tag} BAD Internal error.\r\n")?;
            peer.hang()
        }),
        ("bye instead of an answer", true, |peer| {
            peer.send(GREETING)?;
            peer.answer("AUTHENTICATE", "* BYE Going down.\r\n")
        }),
        ("close after the credentials", true, |peer| {
            peer.send(GREETING)?;
            peer.expect("AUTHENTICATE").map(drop)
        }),
        ("reset after the credentials", true, |peer| {
            peer.send(GREETING)?;
            peer.expect("AUTHENTICATE")?;
            peer.reset()
        }),
        ("silence after the credentials", true, |peer| {
            peer.send(GREETING)?;
            peer.expect("AUTHENTICATE")?;
            peer.hang()
        }),
        ("wrong tag", true, |peer| {
            peer.send(GREETING)?;
            peer.answer("AUTHENTICATE", "x OK [CAPABILITY IMAP4rev1] in\r\n")?;
            peer.hang()
        }),
        ("nonsense instead of an answer", true, |peer| {
            peer.send(GREETING)?;
            peer.answer("AUTHENTICATE", "HTTP/1.1 400 Bad Request\r\n")?;
            peer.hang()
        }),
        ("endless untagged data", true, |peer| {
            peer.send(GREETING)?;
            peer.expect("AUTHENTICATE")?;
            for _ in 0..10_000 {
                peer.send("* OK still thinking about it, please be patient\r\n")?;
            }
            peer.hang()
        }),
        ("close before the greeting", false, |_| Ok(())),
        ("silence before the greeting", false, Conversation::hang),
        ("preauth", false, |peer| {
            peer.send("* PREAUTH [CAPABILITY IMAP4rev1] in already\r\n")?;
            peer.hang()
        }),
        ("bye as greeting", false, |peer| peer.send("* BYE too busy\r\n")),
        ("no as greeting", false, |peer| {
            peer.send("* NO not now\r\n")?;
            peer.hang()
        }),
        ("another protocol", false, |peer| {
            peer.send("220 mail.example.org ESMTP\r\n")?;
            peer.hang()
        }),
        ("an endless greeting", false, |peer| {
            peer.send("* OK ".to_owned() + &"x".repeat(1_000_000))?;
            peer.hang()
        }),
        ("an answer before the question", false, |peer| {
            peer.send("* OK hi\r\na1 OK [CAPABILITY IMAP4rev1] in\r\n")?;
            peer.hang()
        }),
    ]
}

/// B-57, B-59: unavailable with the session's id; the credentials went out once; the same
/// connection logs in once the backend is well.
#[test]
fn b57_any_trouble_of_the_backend_is_unavailable_and_the_connection_goes_on() {
    let number = Arc::new(AtomicUsize::new(0));
    let well = troubles().len();
    let backend = {
        let number = Arc::clone(&number);
        Backend::start(Opening::clear(), move |peer| {
            let now = number.load(Ordering::SeqCst);
            match troubles().get(now) {
                Some((_, _, trouble)) => trouble(peer),
                None => Ordinary::new().converse(peer),
            }
        })
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "failed_login_delay: 1ms, login_tries: 100") + HURRY + &clear(&backend)
    });
    let mut client = proxy.client();
    let mut ids = Vec::new();
    for (place, (name, credentials, _)) in troubles().into_iter().enumerate() {
        number.store(place, Ordering::SeqCst);
        let first = backend.connections();
        let told = client.try_login("anna", &format!("secret-{place}"));
        assert!(told.status.starts_with("NO [UNAVAILABLE]"), "{name}: {}", told.status);
        ids.push(assert_unavailable(&told.status));
        let sent = (first..backend.connections())
            .filter(|connection| backend.received_text(*connection).contains("AUTHENTICATE"))
            .count();
        assert_eq!(sent, usize::from(credentials), "{name}");
        wait_until(name, || (backend.open_connections() == 0).then_some(()));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert!(proxy.log().contains(&format!("session={}", ids[0])));
    number.store(well, Ordering::SeqCst);
    client.login("anna", "secret");
    let failed = [("result", "auth_failed")];
    assert!(proxy.metrics().sum("pointsman_logins_total", &failed) < 0.5);
}

/// B-57: nobody listens.
#[test]
fn b57_a_refused_connection_is_unavailable_until_the_backend_is_back() {
    let mut backend = Backend::ordinary();
    let port = backend.port();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + HURRY + &clear(&backend));
    backend.stop();
    let mut client = proxy.client();
    assert_unavailable(&client.try_login("anna", "secret").status);
    assert_unavailable(&client.try_authenticate_plain("anna", "secret").status);
    let _back = Ordinary::new().start_at(port);
    client.login("anna", "secret");
}

/// B-57: a handshake that fails.
#[test]
fn a_backend_without_tls_where_it_is_asked_for_is_unavailable() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let settings = format!("tls: implicit, ca: \"{}\"", places.ca.display());
        places.head() + HURRY + &shard(&backend, &settings)
    });
    let mut client = proxy.client();
    assert_unavailable(&client.try_login("anna", "secret").status);
    client.command_ok("NOOP");
    assert!(backend.logins().is_empty());
}

/// A backend that may have taken the login still holds the user: another backend of the
/// shard gets nothing of it.
#[test]
fn a_login_cut_off_at_one_backend_is_never_tried_at_another() {
    let hanging = || {
        Backend::start(Opening::clear(), |peer| {
            peer.send(GREETING)?;
            peer.expect("AUTHENTICATE")?;
            peer.hang()
        })
    };
    let (one, two) = (hanging(), hanging());
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}{HURRY}shards:\n  s: {{ kind: primary, backends: [ \
             {{ name: one, address: \"{}\", tls: none }}, \
             {{ name: two, address: \"{}\", tls: none }} ] }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head(),
            one.address(),
            two.address()
        )
    });
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_unavailable(&client.try_login("anna", "secret").status);
    }
    assert_eq!((one.connections(), two.connections()), (2, 0));
}

/// One user's credentials, however they end, turn no other user away from a backend.
#[test]
fn a_login_cut_off_by_its_credentials_is_no_outage_of_the_backend() {
    let cut = Arc::new(AtomicBool::new(true));
    let first = {
        let cut = Arc::clone(&cut);
        Backend::start(Opening::clear(), move |peer| {
            if cut.load(Ordering::SeqCst) {
                peer.send(GREETING)?;
                return peer.expect("AUTHENTICATE").map(drop);
            }
            Ordinary::new().converse(peer)
        })
    };
    let second = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}shards:\n  s: {{ kind: primary, backends: [ \
             {{ name: one, address: \"{}\", tls: none }}, \
             {{ name: two, address: \"{}\", tls: none }} ] }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head(),
            first.address(),
            second.address()
        )
    });
    assert_unavailable(&proxy.client().try_login("anna", "secret").status);
    cut.store(false, Ordering::SeqCst);
    for user in ["bert", "anna"] {
        proxy.logged_in(user, "secret").logout();
    }
    assert_eq!((first.logins().len(), second.connections()), (2, 0));
    let closed = [("reason", "closed"), ("backend", "one")];
    let metrics = proxy.wait_for_metrics("the failures are counted", |now| {
        now.sum("pointsman_backend_failures_total", &closed) > 0.5
    });
    assert!(metrics.sum("pointsman_backend_up", &[("backend", "one")]) > 0.5);
}

/// B-56: the same line, at the same time: not before the delay.
#[test]
fn an_unknown_user_and_a_wrong_password_are_the_same_to_a_client() {
    let backend = by_password();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        std::fs::write(places.file("users"), "anna s\n").unwrap();
        let users = format!("users: {{ file: \"{}\" }}", places.file("users").display());
        limited(places, "failed_login_delay: 1s")
            + &clear(&backend).replace("shard: s }", &(users + " }"))
    });
    let mut answers = Vec::new();
    for (user, password) in [
        ("anna", "NO [AUTHENTICATIONFAILED] Wrong password."),
        ("anna", "NO account locked"),
        ("nobody", "secret"),
        ("not/a*name", "secret"),
        ("", "secret"),
    ] {
        let mut client = proxy.client();
        let watch = Stopwatch::start();
        answers.push(client.try_login(user, password).status);
        let took = watch.elapsed();
        assert!(took >= Duration::from_secs(1), "{user}: {took:?}");
        assert!(took < Duration::from_secs(3), "{user}: {took:?}");
    }
    answers.dedup();
    assert_eq!(answers, ["NO [AUTHENTICATIONFAILED] Authentication failed."]);
    // Only that answer waits.
    let watch = Stopwatch::start();
    let mut client = proxy.client();
    assert!(client.try_login("anna", "NO [LIMIT] Too many.").status.starts_with("NO [LIMIT]"));
    client.login("anna", "OK in");
    assert!(watch.elapsed() < Duration::from_secs(1), "{:?}", watch.elapsed());
    assert_eq!(backend.users(), ["anna"; 4]);
}

#[test]
fn exempt_networks_wait_for_nothing() {
    let backend = by_password();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(
            places,
            "exempt: [127.0.0.0/8], failed_login_delay: 20s, sessions_per_user_address: 1, \
             unauthenticated_per_address: 1",
        ) + &clear(&backend)
    });
    let watch = Stopwatch::start();
    let (mut one, mut two) = (proxy.client(), proxy.client());
    assert!(one.try_login("anna", "NO wrong").status.starts_with("NO [AUTHENTICATIONFAILED]"));
    one.login("anna", "OK in");
    two.login("anna", "OK in");
    assert!(watch.elapsed() < Duration::from_secs(5));
}

#[test]
fn with_on_unavailable_bye_the_client_is_sent_away_instead() {
    let mut backend = by_password();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "failed_login_delay: 1ms, on_unavailable: bye") + HURRY + &clear(&backend)
    });
    let mut client = proxy.client();
    assert!(client.try_login("anna", "NO wrong").status.starts_with("NO [AUTHENTICATIONFAILED]"));
    for password in ["NO [UNAVAILABLE] Later.", "BAD oh"] {
        let mut client = proxy.client();
        client.send(format!("a LOGIN anna \"{password}\"\r\n"));
        client.expect("* BYE [UNAVAILABLE] ");
        client.expect_end();
    }
    backend.stop();
    client.send("a LOGIN anna secret\r\n");
    let line = client.expect("* BYE [UNAVAILABLE] Please try again later.");
    session_in(&line);
    client.expect_end();
}

#[test]
fn a_users_sessions_are_limited_and_end_with_their_connection() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "sessions_per_user: 2, sessions_per_user_address: 2") + &clear(&backend)
    });
    let one = proxy.logged_in("anna", "secret");
    let _two = proxy.logged_in("ANNA", "secret");
    let mut third = proxy.client();
    let told = third.try_login("anna", "secret");
    assert!(told.status.starts_with("NO [LIMIT] "), "{}", told.status);
    let _other = proxy.logged_in("bert", "secret");
    assert_eq!(backend.logins().len(), 3);
    one.logout();
    wait_until("a place is free", || third.try_login("anna", "secret").is_ok().then_some(()));
    let hits = [("limit", "sessions_per_user")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_limit_hits_total", &hits) >= 1.0
    });
}

#[test]
fn a_users_sessions_from_one_address_are_limited_by_themselves() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let listeners = places.head_without_limits().replace(
            "tls: none, allow_clear_login: true",
            "tls: none, allow_clear_login: true, proxy_protocol: required, trusted: [127.0.0.1]",
        );
        format!("{listeners}limits: {{ sessions_per_user_address: 1 }}\n{}", clear(&backend))
    });
    let from = |address: &str, to: &str| {
        let mut client = Client::connect(proxy.places().clear).unwrap();
        client.send(format!(
            "PROXY TCP{} {address} {to} 1000 143\r\n",
            if address.contains(':') { 6 } else { 4 }
        ));
        client.expect("* OK");
        client
    };
    let mut one = from("192.0.2.1", "192.0.2.9");
    one.login("anna", "secret");
    let mut two = from("192.0.2.1", "192.0.2.9");
    assert!(two.try_login("anna", "secret").status.starts_with("NO [LIMIT] "));
    from("192.0.2.2", "192.0.2.9").login("anna", "secret");
    let mut six = from("2001:db8::1", "2001:db8::9");
    six.login("anna", "secret");
    // The same /64 is the same address.
    let mut same = from("2001:db8::2", "2001:db8::9");
    assert!(same.try_login("anna", "secret").status.starts_with("NO [LIMIT] "));
    from("2001:db8:0:1::1", "2001:db8::9").login("anna", "secret");
    let hits = [("limit", "sessions_per_user_address")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_limit_hits_total", &hits) > 1.5
    });
}

#[test]
fn connections_not_logged_in_are_limited_per_address() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "unauthenticated_per_address: 3") + &clear(&backend)
    });
    let mut held: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for address in [proxy.places().clear, proxy.places().imap] {
        let mut over = Client::connect(address).unwrap();
        over.expect("* BYE [LIMIT] ");
        over.expect_end();
    }
    // Implicit TLS: nothing is said that would cost a handshake.
    let tls = AUTHORITY.client_config();
    let mut over = Client::connect(proxy.places().imaps).unwrap();
    over.expect_end();
    assert!(Client::connect_tls(proxy.places().imaps, "localhost", &tls).is_err());
    // A login leaves the count, and so does an end.
    held[0].login("anna", "secret");
    let mut next = proxy.client();
    next.command_ok("NOOP");
    next.logout();
    wait_until("the place is given back", || {
        let mut client = Client::connect(proxy.places().clear).unwrap();
        client.read_line().starts_with("* OK").then_some(())
    });
    let hits = [("limit", "unauthenticated_per_address")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_limit_hits_total", &hits) > 3.5
    });
}

/// No word of the login leaves the proxy, and a password in a literal is not asked for.
#[test]
fn b09_a_login_in_clear_text_is_refused_before_a_backend_sees_it() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "login_tries: 100") + &clear(&backend)
    });
    let mut client = Client::connect(proxy.places().imap).unwrap();
    assert!(client.expect("* OK").contains("LOGINDISABLED"));
    let watch = Stopwatch::start();
    for command in [
        "LOGIN anna secret",
        "LOGIN \"anna\" \"secret\"",
        "LOGIN {4+}\r\nanna {6+}\r\nsecret",
        "LOGIN {4}",
        "LOGIN anna {6}",
        "AUTHENTICATE PLAIN AGFubmEAc2VjcmV0",
        "AUTHENTICATE PLAIN",
    ] {
        let told = client.command(command);
        assert!(told.status.starts_with("NO [PRIVACYREQUIRED] "), "{command}: {}", told.status);
        assert!(told.untagged.is_empty());
    }
    assert!(watch.elapsed() < Duration::from_secs(2));
    assert_eq!(backend.connections(), 0);
    client.starttls("localhost", &AUTHORITY.client_config());
    client.login("anna", "secret");
    assert!(!proxy.log().contains("secret"));
}

/// B-26, B-32: no activity moves the deadline.
#[test]
fn the_login_deadline_is_absolute() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "login_deadline: 2s") + &clear(&backend)
    });
    let watch = Stopwatch::start();
    let mut quiet = proxy.client();
    let mut busy = proxy.client();
    let bye = loop {
        busy.send("x NOOP\r\n");
        let line = busy.read_line();
        if line.starts_with("* BYE") {
            break line;
        }
        assert!(line.starts_with("x OK"), "{line}");
        assert!(watch.elapsed() < Duration::from_secs(8), "still there");
        std::thread::sleep(Duration::from_millis(50));
    };
    let took = watch.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    assert!(bye.starts_with("* BYE [UNAVAILABLE]"), "{bye}");
    quiet.expect("* BYE [UNAVAILABLE]");
    quiet.expect_end();
    let hits = [("limit", "login_deadline")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_limit_hits_total", &hits) > 1.5
    });
    // A session that logged in in time stays.
    let mut client = proxy.logged_in("anna", "secret");
    client.expect_silence(Duration::from_millis(1_500));
    client.command_ok("NOOP");
}

/// The time that the proxy makes a client wait is not the client's.
#[test]
fn the_deadline_does_not_run_while_the_proxy_makes_the_client_wait() {
    let backend = by_password();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "login_deadline: 1s, failed_login_delay: 700ms") + &clear(&backend)
    });
    let mut client = proxy.client();
    for _ in 0..3 {
        assert!(client.try_login("anna", "NO wrong").status.starts_with("NO [AUTH"));
    }
    client.login("anna", "OK in");
}

#[test]
fn the_fifth_failed_login_is_the_last() {
    let backend = by_password();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &clear(&backend));
    let mut client = proxy.client();
    for _ in 0..5 {
        assert!(client.try_login("anna", "NO wrong").status.starts_with("NO [AUTH"));
    }
    client.expect("* BYE ");
    client.expect_end();
    assert_eq!(backend.logins().len(), 5);
    let hits = [("limit", "login_tries")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_limit_hits_total", &hits) > 0.5
    });
}

/// B-30: ten syntax errors and no fewer; ID, NOOP and CAPABILITY are none.
#[test]
fn the_tenth_syntax_error_is_the_last() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &clear(&backend));
    let mut client = proxy.client();
    for _ in 0..30 {
        client.command_ok("NOOP");
        client.command_ok("CAPABILITY");
        client.command_ok("ID NIL");
        // Legal later: out of place but no noise.
        assert!(client.command("SELECT INBOX").status.starts_with("BAD "));
    }
    for number in 0..10 {
        let told = client.command(&format!("XYZZY {number}"));
        assert!(told.status.starts_with("BAD "), "{}", told.status);
    }
    client.expect("* BYE ");
    client.expect_end();
    assert_eq!(backend.connections(), 0);
}

/// A client that goes away while its failed login is delayed leaves nothing.
#[test]
fn a_client_that_leaves_during_the_delay_frees_its_place() {
    let backend = by_password();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        limited(places, "failed_login_delay: 60s, unauthenticated_per_address: 1")
            + &clear(&backend)
    });
    let mut client = proxy.client();
    client.send("a LOGIN anna \"NO wrong\"\r\n");
    proxy.wait_for_log("login failed");
    drop(client);
    wait_until("the place is given back", || {
        let mut client = Client::connect(proxy.places().clear).unwrap();
        client.read_line().starts_with("* OK").then_some(())
    });
}

/// B-86: nothing of the credentials is in the log, in clear or in base64.
#[test]
fn no_password_is_logged_at_any_level() {
    let backend = Ordinary::new()
        .verdict(|_, password| {
            let wrong = password.starts_with(b"wrong");
            if wrong { "NO [AUTHENTICATIONFAILED] No.".to_owned() } else { "OK in".to_owned() }
        })
        .start();
    let mut proxy = Pointsman::start(&AUTHORITY, |places| {
        places.head().replace("level: debug", "level: trace") + &clear(&backend)
    });
    let mut client = proxy.client();
    let password = "wrong hunter2hunter2";
    assert!(!client.try_login("anna", password).is_ok());
    assert!(!client.try_authenticate_plain("anna", password).is_ok());
    client.login("anna", "hunter2hunter2");
    client.logout();
    proxy.wait_for_log("session ended");
    proxy.process().signal(Signal::TERM);
    proxy.wait_for_end();
    let log = proxy.log();
    assert!(!log.contains("hunter2"), "{log}");
    // The base64 of any alignment of the word.
    for part in ["aHVudGVyMmh1bnRlcj", "h1bnRlcjJodW50ZXIy", "odW50ZXIyaHVudGVy"] {
        assert!(!log.contains(part));
    }
}
