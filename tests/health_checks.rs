//! Checks of backends: what they find, what they leave alone, and what backends say of them.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use support::backend::{Backend, Opening};
use support::dovecot::Settings;
use support::ordinary::Ordinary;
use support::pointsman::{self, Metrics, Places, Pointsman};
use support::tls::Authority;
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Quick checks.
const OFTEN: &str = "interval: 100ms, timeout: 2s";

/// A primary shard `s` of backends `b0`, `b1` and so on, each with its settings.
fn shard(check: &str, backends: &[(String, &str)]) -> String {
    use std::fmt::Write;
    let mode = if check.contains("mode:") { "" } else { "mode: greeting, " };
    let mut text = format!(
        "shards:\n  s:\n    kind: primary\n    check: {{ {mode}{check} }}\n    backends:\n"
    );
    for (number, (address, settings)) in backends.iter().enumerate() {
        writeln!(text, "      - {{ name: b{number}, address: \"{address}\", {settings} }}")
            .unwrap();
    }
    text + "routing: { lookups: [ { shard: s } ] }\n"
}

fn clear(backends: &[&Backend]) -> Vec<(String, &'static str)> {
    backends.iter().map(|backend| (backend.address().to_string(), "tls: none")).collect()
}

fn start(check: &str, backends: &[&Backend]) -> Pointsman {
    start_at(check, &clear(backends))
}

fn start_at(check: &str, backends: &[(String, &str)]) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        let hurry = "upstream: { connect_timeout: 400ms, login_timeout: 2s, skip_failed: 0s }\n";
        // Only there: the name of the test's folder may hold the same letters.
        let shard =
            shard(check, backends).replace("\"CA\"", &format!("\"{}\"", places.ca.display()));
        places.head() + hurry + &shard
    })
}

fn is_up(metrics: &Metrics, backend: &str) -> bool {
    metrics.sum("pointsman_backend_up", &[("backend", backend)]) > 0.5
}

fn wait_until_down(proxy: &Pointsman, backend: &str) {
    proxy.wait_for_metrics(&format!("{backend} is down"), |now| !is_up(now, backend));
}

fn checks(proxy: &Pointsman, backend: &str, result: &str) -> f64 {
    let labels = [("backend", backend), ("result", result)];
    proxy.metrics().sum("pointsman_backend_checks_total", &labels)
}

/// Waits until so many further checks of a backend have ended with that result.
fn wait_for_checks(proxy: &Pointsman, backend: &str, result: &str, more: u32) {
    let enough = checks(proxy, backend, result) + f64::from(more);
    wait_until(&format!("{more} checks of {backend} that end with {result}"), || {
        (checks(proxy, backend, result) >= enough).then_some(())
    });
}

#[test]
fn b62_a_backend_that_greets_and_hangs_on_every_login_is_found_by_checks_that_log_in() {
    let hang = Duration::from_secs(20);
    let lies = Ordinary::new().delay("AUTHENTICATE", hang).start();
    let serves = Backend::ordinary();
    let proxy = start(
        &format!("{OFTEN}, mode: login, user: checker, password: checks, fall: 2"),
        &[&lies, &serves],
    );
    wait_until_down(&proxy, "b0");
    assert!(is_up(&proxy.metrics(), "b1"));
    let mut client = proxy.logged_in("anna", "secret");
    client.command_ok("NOOP");
    assert!(lies.users().iter().all(|user| user == "checker"), "{:?}", lies.users());
    assert!(serves.users().contains(&"anna".to_owned()));
    // A check says who it is, and goes politely.
    let said = serves.received_text(0);
    assert!(said.contains("ID (\"name\" \"pointsman-check\")"), "{said}");
    assert!(said.contains(" LOGOUT\r\n"), "{said}");
    client.logout();
}

#[test]
fn a_check_that_greets_does_not_see_that_logins_hang_and_one_that_connects_sees_no_greeting() {
    let deaf = Ordinary::new().delay("AUTHENTICATE", Duration::from_secs(20)).start();
    let mute = Backend::start(Opening::clear(), support::backend::Conversation::hang);
    let settings = |backend: &Backend, mode| (backend.address().to_string(), mode);
    let proxy = start_at(
        OFTEN,
        &[
            settings(&deaf, "tls: none, check: { mode: greeting }"),
            settings(&mute, "tls: none, check: { mode: connect }"),
            settings(&mute, "tls: none, check: { mode: greeting }"),
            settings(&mute, "tls: none, check: { mode: none }"),
        ],
    );
    wait_until_down(&proxy, "b2");
    wait_for_checks(&proxy, "b0", "ok", 4);
    wait_for_checks(&proxy, "b1", "ok", 4);
    let metrics = proxy.metrics();
    assert!(["b0", "b1", "b3"].iter().all(|backend| is_up(&metrics, backend)));
    assert_eq!(metrics.count("pointsman_backend_checks_total", &[("backend", "b3")]), 0);
}

/// That the proxy cannot read the file of its own test user says nothing of a backend: it is
/// neither taken for down nor, by a fence, switched off.
#[test]
fn a_test_user_whose_password_cannot_be_read_leaves_the_backend_up() {
    let backend = Backend::ordinary();
    let folder = support::temporary_folder("password");
    let file = folder.path().join("checker");
    std::fs::write(&file, "checks\n").unwrap();
    let login = format!(
        "{OFTEN}, mode: login, user: checker, password: \"file:{}\", fall: 2",
        file.display()
    );
    let proxy = start(&login, &[&backend]);
    wait_for_checks(&proxy, "b0", "ok", 2);
    std::fs::remove_file(&file).unwrap();
    wait_for_checks(&proxy, "b0", "password", 5);
    assert!(is_up(&proxy.metrics(), "b0"));
    proxy.wait_for_log("the test user's password cannot be read");
    std::fs::write(&file, "checks\n").unwrap();
    wait_for_checks(&proxy, "b0", "ok", 2);
    assert!(!proxy.log().contains("the backend is down"), "{}", proxy.log());
}

/// As where the machine has no port left: the system says the same.
#[test]
fn a_source_address_that_cannot_be_had_leaves_the_backend_up() {
    let backend = Backend::ordinary();
    // Of a network for examples, so no address of this machine (RFC 5737).
    let settings = "tls: none, source_addresses: [192.0.2.1]";
    let proxy =
        start_at(&format!("{OFTEN}, fall: 2"), &[(backend.address().to_string(), settings)]);
    wait_for_checks(&proxy, "b0", "connect", 5);
    for _ in 0..3 {
        let told = proxy.client().try_login("anna", "secret").status;
        assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
    }
    assert!(is_up(&proxy.metrics(), "b0"));
    assert!(!proxy.log().contains("the backend is down"), "{}", proxy.log());
}

#[test]
fn a_disabled_backend_is_not_checked_and_is_at_once_when_it_is_resumed() {
    let (first, second) = (Backend::ordinary(), Backend::ordinary());
    let settings = |backend: &Backend, check| (backend.address().to_string(), check);
    let proxy = start_at(
        OFTEN,
        &[settings(&first, "tls: none, check: { interval: 1h }"), settings(&second, "tls: none")],
    );
    wait_until("the first check has ended", || (checks(&proxy, "b0", "ok") > 0.5).then_some(()));
    proxy.operate_ok(&["disable", "b0"]);
    // Each was begun by a look at the backends.
    wait_for_checks(&proxy, "b1", "ok", 5);
    assert_eq!(first.connections(), 1);
    proxy.operate_ok(&["resume", "b0"]);
    wait_until("a second check has ended", || (checks(&proxy, "b0", "ok") > 1.5).then_some(()));
}

const GOOD: u8 = 0;
const BAD: u8 = 1;
const TWO_BAD_ONE_GOOD: u8 = 2;

/// A backend that refuses with its greeting as it is told.
fn moody(mood: &Arc<AtomicU8>) -> Backend {
    let (mood, ordinary) = (Arc::clone(mood), Ordinary::new());
    Backend::start(Opening::clear(), move |peer| {
        let bad = match mood.load(Ordering::SeqCst) {
            GOOD => false,
            BAD => true,
            _ => peer.number() % 3 != 0,
        };
        if bad { peer.send("* BYE no\r\n") } else { ordinary.converse(peer) }
    })
}

#[test]
fn b62_a_backend_that_flaps_neither_falls_nor_rises() {
    let mood = Arc::new(AtomicU8::new(TWO_BAD_ONE_GOOD));
    let flaps = moody(&mood);
    let proxy = start(&format!("{OFTEN}, fall: 3, rise: 2"), &[&flaps]);
    wait_for_checks(&proxy, "b0", "ok", 4);
    assert!(!proxy.log().contains("the backend is down"), "two failures in a row are too few");
    mood.store(BAD, Ordering::SeqCst);
    proxy.wait_for_log("the backend is down");
    assert!(!is_up(&proxy.metrics(), "b0"));
    mood.store(TWO_BAD_ONE_GOOD, Ordering::SeqCst);
    wait_for_checks(&proxy, "b0", "ok", 4);
    assert!(!proxy.log().contains("the backend is up"), "one good check is too few");
    mood.store(GOOD, Ordering::SeqCst);
    proxy.wait_for_log("the backend is up");
    assert!(is_up(&proxy.metrics(), "b0"));
}

#[test]
fn logins_that_fail_count_too_and_logins_do_not_bring_a_backend_back() {
    let mood = Arc::new(AtomicU8::new(GOOD));
    let first = moody(&mood);
    let second = Backend::ordinary();
    // The next check is far off.
    let proxy = start("interval: 1h, fall: 3", &[&first, &second]);
    wait_until("the first check has ended", || (checks(&proxy, "b0", "ok") > 0.5).then_some(()));
    mood.store(BAD, Ordering::SeqCst);
    for number in 0..3 {
        assert!(is_up(&proxy.metrics(), "b0"));
        proxy.logged_in(&format!("user{number}"), "secret").logout();
    }
    wait_until_down(&proxy, "b0");
    mood.store(GOOD, Ordering::SeqCst);
    let before = first.connections();
    for number in 3..6 {
        proxy.logged_in(&format!("user{number}"), "secret").logout();
    }
    assert_eq!(first.connections(), before, "nobody goes to a backend that is down");
    assert!(!is_up(&proxy.metrics(), "b0"), "no check has seen that it is back");
}

#[test]
fn where_all_backends_are_down_they_are_tried_all_the_same() {
    let mood = Arc::new(AtomicU8::new(BAD));
    let backend = moody(&mood);
    let proxy = start("interval: 200ms, rise: 100, fall: 1", &[&backend]);
    wait_until_down(&proxy, "b0");
    mood.store(GOOD, Ordering::SeqCst);
    proxy.logged_in("anna", "secret").logout();
    assert!(!is_up(&proxy.metrics(), "b0"), "it takes a hundred good checks");
}

#[test]
fn checks_speak_for_the_proxy_itself_in_the_proxy_header_and_use_the_legs_tls() {
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let identity = AUTHORITY.issue(&["localhost"]).server_config();
    let announced = Ordinary::new().opening(Opening::clear().with_proxy_header()).start();
    let implicit = Ordinary::new().opening(Opening::implicit(Arc::clone(&identity))).start();
    let starttls = Ordinary::new().opening(Opening::starttls(Arc::clone(&identity))).start();
    let elsewhere = AUTHORITY.issue(&["imap.example.org"]).server_config();
    let untrusted = Ordinary::new().opening(Opening::implicit(elsewhere)).start();
    let at = |backend: &Backend, settings| (format!("localhost:{}", backend.port()), settings);
    let proxy = start_at(
        OFTEN,
        &[
            at(&announced, "tls: none, forward: proxy_v2"),
            at(&implicit, "tls: implicit, ca: \"CA\""),
            at(&starttls, "tls: starttls, ca: \"CA\""),
            at(&untrusted, "tls: implicit, ca: \"CA\""),
        ],
    );
    for backend in ["b0", "b1", "b2"] {
        wait_for_checks(&proxy, backend, "ok", 2);
    }
    wait_for_checks(&proxy, "b3", "untrusted", 3);
    wait_until_down(&proxy, "b3");
    assert_eq!(announced.proxy_header(0), LOCAL);
    for backend in [&announced, &implicit, &starttls] {
        assert!(backend.received_text(0).ends_with(" LOGOUT\r\n"));
        backend.assert_no_faults();
    }
    assert_eq!(implicit.alpn(0).as_deref(), Some(&b"imap"[..]));
}

#[test]
fn backends_of_a_shard_that_list_different_capabilities_are_told_once_and_shown() {
    const FAMILY: &str = "pointsman_shard_capabilities_differ";
    let list = "IMAP4rev1 SASL-IR ID AUTH=PLAIN";
    let first = Ordinary::new().capability(&format!("{list} QRESYNC")).start();
    let mut second = Ordinary::new().capability(list).start();
    let port = second.port();
    let proxy = start(OFTEN, &[&first, &second]);
    proxy.wait_for_metrics("they differ", |now| now.sum(FAMILY, &[("shard", "s")]) > 0.5);
    wait_for_checks(&proxy, "b0", "ok", 3);
    wait_for_checks(&proxy, "b1", "ok", 3);
    let log = proxy.log();
    let told: Vec<&str> =
        log.lines().filter(|line| line.contains("different capabilities")).collect();
    assert!(told.len() == 1 && told[0].contains("QRESYNC (not on b1)"), "{told:?}");
    // Clients are offered what they were offered.
    assert!(!proxy.client().command_ok("CAPABILITY").text().contains("QRESYNC"));

    second.stop();
    let same = Ordinary::new().capability(&format!("QRESYNC {list}")).start_at(port);
    proxy.wait_for_metrics("they agree", |now| {
        now.count(FAMILY, &[("shard", "s")]) == 1 && now.sum(FAMILY, &[]) < 0.5
    });
    drop(same);
}

/// What a real server makes of checks: lines of information, no warning and no error.
#[test]
fn a_real_dovecot_has_no_complaint_about_checks() {
    let dovecot =
        Settings::new(&AUTHORITY, &[("checker", "checks"), ("anna", "secret")]).haproxy().start();
    let login = "mode: login, user: checker, password: checks";
    let at = |address: std::net::SocketAddr, settings: String| {
        (format!("localhost:{}", address.port()), settings)
    };
    let legs = [
        at(dovecot.imap(), "tls: none, check: { mode: greeting }".to_owned()),
        at(dovecot.imap(), format!("tls: none, check: {{ {login} }}")),
        at(dovecot.imap(), "tls: starttls, ca: \"CA\"".to_owned()),
        at(dovecot.imaps(), "tls: implicit, ca: \"CA\", check: { mode: greeting }".to_owned()),
        at(dovecot.imaps(), format!("tls: implicit, ca: \"CA\", check: {{ {login} }}")),
        at(dovecot.imaps(), "tls: implicit, ca: \"CA\", check: { mode: connect }".to_owned()),
        at(dovecot.haproxy(), "tls: none, forward: proxy_v2".to_owned()),
        at(dovecot.haproxy(), format!("tls: none, forward: proxy_v2, check: {{ {login} }}")),
    ];
    let legs: Vec<(String, &str)> =
        legs.iter().map(|(address, settings)| (address.clone(), settings.as_str())).collect();
    let proxy = start_at("interval: 200ms, timeout: 5s", &legs);
    for number in 0..legs.len() {
        wait_for_checks(&proxy, &format!("b{number}"), "ok", 3);
    }
    let results = proxy.metrics();
    let ok = results.sum("pointsman_backend_checks_total", &[("result", "ok")]);
    let all = results.sum("pointsman_backend_checks_total", &[]);
    assert!((ok - all).abs() < 0.5, "{ok} of {all}");
    let log = dovecot.log();
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| {
            ["Error", "Warning", "Fatal", "Panic", "broken", "failed"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(log.contains("Login: user=<checker>"), "{log}");
    if std::env::var_os("SHOW_LOG").is_some() {
        println!("{log}");
    }
}

fn faults_of(check: &str) -> (i32, String) {
    let text =
        |places: &Places| places.head() + &shard(check, &[("127.0.0.1:1".to_owned(), "tls: none")]);
    pointsman::check(&AUTHORITY, text)
}

#[test]
fn wrong_settings_are_refused_with_their_line_and_a_password_is_never_drawn() {
    for (check, words) in [
        ("mode: ping", "`mode` cannot be `ping`"),
        ("interval: 1ms", "`interval` cannot be `1ms`"),
        ("rise: 0", "`rise` cannot be `0`"),
        ("fall: 1000", "`fall` cannot be `1000`"),
        ("mode: login", "`mode: login` without a test user"),
        ("mode: login, user: checker", "`mode: login` without a test user"),
        ("password: \"${POINTSMAN_NO_SUCH}\"", "POINTSMAN_NO_SUCH is not set"),
        ("mode: login, user: u, password: \"file:gone\"", "cannot be read"),
    ] {
        let (code, output) = faults_of(check);
        assert_eq!(code, 64, "{check}: {output}");
        assert!(output.contains(words), "{check}: {output}");
        assert!(output.contains("pointsman.yaml:"), "{check}: {output}");
    }
    let (code, output) = faults_of("mode: login, user: u, password: hunter2, rise: 0");
    assert!(code == 64 && output.contains("`rise` cannot be `0`"), "{output}");
    assert!(!output.contains("hunter2"), "{output}");
    let (code, output) = faults_of("mode: login, user: u, password: hunter2");
    assert_eq!(code, 0, "{output}");
}
