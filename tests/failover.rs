//! Failover without overlap: a user who may have a session on a backend that hangs goes
//! nowhere else before the fence has said that it holds none.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and real sockets run on the real clock"
)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use support::backend::{Backend, Opening};
use support::ordinary::Ordinary;
use support::pointsman::{self, Places, Pointsman};
use support::tls::Authority;
use support::{Stopwatch, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A backend that, while it hangs, neither greets, nor reads, nor closes.
fn hanging(hangs: &Arc<AtomicBool>) -> Backend {
    let hangs = Arc::clone(hangs);
    Backend::start(Opening::clear(), move |peer| {
        let stand_still = |peer: &support::backend::Conversation| {
            while hangs.load(Ordering::SeqCst) {
                peer.pause(Duration::from_millis(5));
            }
        };
        stand_still(peer);
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
        let line = peer.line()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let (tag, command) = line.split_once(' ').unwrap_or((&line, ""));
        if command == "LOGOUT" {
            return peer.send(format!("* BYE\r\n{tag} OK\r\n"));
        }
        peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
        while !hangs.load(Ordering::SeqCst) {
            peer.pause(Duration::from_millis(5));
        }
        stand_still(peer);
        Ok(())
    })
}

/// A primary shard of the hanging backend and a good one, checked often.
fn shard(first: &Backend, second: &Backend, settings: &str) -> String {
    format!(
        "upstream: {{ connect_timeout: 500ms, login_timeout: 2s, disconnect_spread: 300ms }}\n\
         shards:\n  s:\n    kind: primary\n    \
         check: {{ mode: greeting, interval: 100ms, timeout: 1s, fall: 2 }}\n    {settings}\n    \
         backends:\n      - {{ name: one, address: \"{}\", tls: none }}\n      \
         - {{ name: two, address: \"{}\", tls: none }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        first.address(),
        second.address()
    )
}

fn start(first: &Backend, second: &Backend, settings: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| places.head() + &shard(first, second, settings))
}

/// A program in a folder of its own.
struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    fn new(text: &str) -> Self {
        let folder = support::temporary_folder("fence");
        let program = Self { folder };
        let text =
            format!("#!/bin/sh\ncd '{}' || exit 9\n{text}\n", program.folder.path().display());
        std::fs::write(program.path(), text).unwrap();
        std::fs::set_permissions(program.path(), PermissionsExt::from_mode(0o755)).unwrap();
        program
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("fence")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self, more: &str) -> String {
        format!("fence: {{ program: \"{}\"{more} }}", self.path().display())
    }
}

fn fences(proxy: &Pointsman, result: &str) -> f64 {
    let labels = [("backend", "one"), ("result", result)];
    proxy.metrics().sum("pointsman_backend_fences_total", &labels)
}

fn wait_until_down(proxy: &Pointsman) {
    proxy.wait_for_metrics("the first is down", |now| {
        now.sum("pointsman_backend_up", &[("backend", "one")]) < 0.5
    });
}

/// Waits until so many further checks of a backend have ended with that result.
fn wait_for_checks(proxy: &Pointsman, backend: &str, result: &str, more: u32) {
    let labels = [("backend", backend), ("result", result)];
    let checks = || proxy.metrics().sum("pointsman_backend_checks_total", &labels);
    let enough = checks() + f64::from(more);
    wait_until(&format!("{more} checks of {backend} that end with {result}"), || {
        (checks() >= enough).then_some(())
    });
}

fn assert_unavailable(proxy: &Pointsman, user: &str) {
    let told = proxy.client().try_login(user, "secret").status;
    assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
}

#[test]
fn users_of_a_backend_that_hangs_wait_until_its_fence_has_succeeded() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (first, second) = (hanging(&hangs), Ordinary::new().start());
    let program = Program::new("env | sort > told\nexec test -e go");
    let proxy = start(&first, &second, &program.settings(", timeout: 5s"));
    let mut anna = proxy.logged_in("anna", "secret");
    hangs.store(true, Ordering::SeqCst);
    wait_until_down(&proxy);
    // Who has nothing there goes elsewhere at once; who has waits.
    proxy.logged_in("bert", "secret").logout();
    wait_until("the fence has failed twice", || (fences(&proxy, "failed") > 1.5).then_some(()));
    assert_unavailable(&proxy, "anna");
    assert_eq!(second.users(), ["bert"]);
    let told = std::fs::read_to_string(program.file("told")).unwrap();
    for line in [
        "POINTSMAN_BACKEND=one".to_owned(),
        "POINTSMAN_SHARD=s".to_owned(),
        "POINTSMAN_HOST=127.0.0.1".to_owned(),
        format!("POINTSMAN_PORT={}", first.port()),
        "POINTSMAN_ADDRESSES=127.0.0.1".to_owned(),
    ] {
        assert!(told.lines().any(|known| known == line), "{line} in {told}");
    }

    std::fs::write(program.file("go"), "").unwrap();
    wait_until("the fence has succeeded", || (fences(&proxy, "ok") > 0.5).then_some(()));
    anna.expect_end_of_session();
    wait_until("anna is elsewhere", || {
        proxy.client().try_login("anna", "secret").is_ok().then_some(())
    });
    assert_eq!(second.users(), ["bert", "anna"]);
    assert!((fences(&proxy, "ok") - 1.0).abs() < 0.5, "it is run no more");
    hangs.store(false, Ordering::SeqCst);
}

const TAKES_ALL: u8 = 0;
const REFUSES_THE_CHECK: u8 = 1;
const HANGS: u8 = 2;

/// A backend that serves its sessions, and treats logins as it is told.
fn moody(mood: &Arc<AtomicU8>) -> Backend {
    let told = Arc::clone(mood);
    Ordinary::new()
        .verdict(move |user, _| {
            while told.load(Ordering::SeqCst) == HANGS {
                std::thread::sleep(Duration::from_millis(5));
            }
            let refused = user == b"checker" && told.load(Ordering::SeqCst) == REFUSES_THE_CHECK;
            if refused { "NO wrong password".to_owned() } else { "OK in".to_owned() }
        })
        .start()
}

/// With checks that log in.
fn start_with_logins(first: &Backend, second: &Backend, settings: &str) -> Pointsman {
    let text = shard(first, second, settings).replace(
        "mode: greeting, interval: 100ms, timeout: 1s",
        "mode: login, user: checker, password: checks, interval: 100ms, timeout: 300ms",
    );
    Pointsman::start(&AUTHORITY, |places| places.head() + &text)
}

/// The test user's password has changed: every backend refuses it, and none is to be switched
/// off for that.
#[test]
fn a_backend_that_answers_is_down_and_not_fenced_until_it_is_silent() {
    let mood = Arc::new(AtomicU8::new(TAKES_ALL));
    let (first, second) = (moody(&mood), Ordinary::new().start());
    let program = Program::new("touch ran");
    let proxy = start_with_logins(&first, &second, &program.settings(""));
    let mut anna = proxy.logged_in("anna", "secret");
    mood.store(REFUSES_THE_CHECK, Ordering::SeqCst);
    wait_until_down(&proxy);
    // Each was begun by a look at the backends.
    wait_for_checks(&proxy, "one", "rejected", 10);
    assert!(!program.file("ran").exists());
    assert!(!proxy.log().contains("the fence is run"), "{}", proxy.log());
    anna.command_ok("NOOP");
    proxy.logged_in("bert", "secret").logout();
    assert!(second.users().contains(&"bert".to_owned()), "it is down for new users");

    mood.store(HANGS, Ordering::SeqCst);
    wait_until("the fence has succeeded", || (fences(&proxy, "ok") > 0.5).then_some(()));
    assert!(program.file("ran").exists());
    anna.expect_end_of_session();
    mood.store(TAKES_ALL, Ordering::SeqCst);
}

#[test]
fn a_disabled_backend_is_neither_checked_nor_fenced_until_it_is_resumed() {
    let mood = Arc::new(AtomicU8::new(TAKES_ALL));
    let (first, second) = (moody(&mood), Ordinary::new().start());
    let program = Program::new("exec test -e go");
    let proxy = start_with_logins(&first, &second, &program.settings(""));
    let mut anna = proxy.logged_in("anna", "secret");
    mood.store(HANGS, Ordering::SeqCst);
    wait_until("the fence has failed twice", || (fences(&proxy, "failed") > 1.5).then_some(()));
    proxy.operate_ok(&["disable", "one"]);
    // What was under way has ended by then.
    for _ in 0..2 {
        wait_for_checks(&proxy, "two", "ok", 10);
    }
    let runs = || proxy.log().matches("the fence is run").count();
    let before = (first.connections(), runs());
    // Longer than the pause after a second failure.
    for _ in 0..4 {
        wait_for_checks(&proxy, "two", "ok", 10);
    }
    assert_eq!((first.connections(), runs()), before);

    // It has been down without an answer, and is back: that must be seen before it is fenced.
    mood.store(TAKES_ALL, Ordering::SeqCst);
    proxy.operate_ok(&["resume", "one"]);
    proxy.wait_for_metrics("the first is up", |now| {
        now.sum("pointsman_backend_up", &[("backend", "one")]) > 0.5
    });
    assert_eq!(runs(), before.1);
    anna.command_ok("NOOP");

    mood.store(HANGS, Ordering::SeqCst);
    std::fs::write(program.file("go"), "").unwrap();
    wait_until("the fence has succeeded", || (fences(&proxy, "ok") > 0.5).then_some(()));
    anna.expect_end_of_session();
    mood.store(TAKES_ALL, Ordering::SeqCst);
}

#[test]
fn an_end_that_nobody_saw_binds_its_user_until_the_fence_has_succeeded() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (first, second) = (hanging(&hangs), Ordinary::new().start());
    let program = Program::new("exec test -e go");
    let proxy = start(&first, &second, &program.settings(""));
    let anna = proxy.logged_in("anna", "secret");
    hangs.store(true, Ordering::SeqCst);
    drop(anna);
    proxy.wait_for_log("its end is waited for");
    wait_until_down(&proxy);
    assert_unavailable(&proxy, "anna");
    assert!(second.users().is_empty());
    std::fs::write(program.file("go"), "").unwrap();
    wait_until("the fence has succeeded", || (fences(&proxy, "ok") > 0.5).then_some(()));
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(second.users(), ["anna"]);
    hangs.store(false, Ordering::SeqCst);
}

#[test]
fn a_fence_that_hangs_is_ended_and_run_again() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (first, second) = (hanging(&hangs), Ordinary::new().start());
    let program = Program::new("test -e go || sleep 600");
    let proxy = start(&first, &second, &program.settings(", timeout: 200ms"));
    let _anna = proxy.logged_in("anna", "secret");
    hangs.store(true, Ordering::SeqCst);
    wait_until("a fence took too long", || (fences(&proxy, "timeout") > 0.5).then_some(()));
    std::fs::write(program.file("go"), "").unwrap();
    wait_until("the fence has succeeded", || (fences(&proxy, "ok") > 0.5).then_some(()));
    hangs.store(false, Ordering::SeqCst);
}

/// Between two outages the backend was back and took sessions of which the first one's program
/// knows nothing.
#[test]
fn the_fence_of_an_earlier_outage_frees_nobody_and_no_two_run_at_once() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (first, second) = (hanging(&hangs), Ordinary::new().start());
    let program = Program::new(
        "if mkdir first 2>/dev/null; then\n  touch running\n  \
         while test -e running && ! test -e go; do sleep 0.05; done\n  rm running; exit 0\nfi\n\
         if test -e running; then touch both; fi\nexec test -e second",
    );
    let proxy = start(&first, &second, &program.settings(", timeout: 5m"));
    let _before = proxy.logged_in("anna", "secret");
    hangs.store(true, Ordering::SeqCst);
    wait_until("the fence runs", || program.file("running").exists().then_some(()));
    hangs.store(false, Ordering::SeqCst);
    proxy.wait_for_metrics("the first is back", |now| {
        now.sum("pointsman_backend_up", &[("backend", "one")]) > 0.5
    });
    let _anna = proxy.logged_in("anna", "secret");
    assert!(second.users().is_empty());

    hangs.store(true, Ordering::SeqCst);
    wait_until_down(&proxy);
    // Time for a second program to begin beside the first.
    std::thread::sleep(Duration::from_millis(600));
    std::fs::write(program.file("go"), "").unwrap();
    wait_until("the first fence has ended", || (fences(&proxy, "ok") > 0.5).then_some(()));
    wait_until("the second has failed", || (fences(&proxy, "failed") > 0.5).then_some(()));
    assert_unavailable(&proxy, "anna");
    assert!(second.users().is_empty());
    assert!(!program.file("both").exists());

    std::fs::write(program.file("second"), "").unwrap();
    wait_until("the second has succeeded", || (fences(&proxy, "ok") > 1.5).then_some(()));
    wait_until("anna is elsewhere", || {
        proxy.client().try_login("anna", "secret").is_ok().then_some(())
    });
    assert_eq!(second.users(), ["anna"]);
    hangs.store(false, Ordering::SeqCst);
}

#[test]
fn without_sessions_there_a_backend_that_is_down_is_not_fenced() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (first, second) = (hanging(&hangs), Ordinary::new().start());
    let program = Program::new("touch ran");
    let proxy = start(&first, &second, &program.settings(""));
    hangs.store(true, Ordering::SeqCst);
    wait_until_down(&proxy);
    proxy.logged_in("bert", "secret").logout();
    hangs.store(false, Ordering::SeqCst);
    proxy.wait_for_metrics("the first is up", |now| {
        now.sum("pointsman_backend_up", &[("backend", "one")]) > 0.5
    });
    assert!(!program.file("ran").exists());
}

#[test]
fn who_gives_the_rule_up_is_told_so_and_users_go_elsewhere_at_once() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (first, second) = (hanging(&hangs), Ordinary::new().start());
    let proxy = start(&first, &second, "failover_unfenced: true");
    proxy.wait_for_log("one user may be on two backends");
    let mut anna = proxy.logged_in("anna", "secret");
    hangs.store(true, Ordering::SeqCst);
    wait_until_down(&proxy);
    anna.expect_end_of_session();
    wait_until("anna is elsewhere", || {
        proxy.client().try_login("anna", "secret").is_ok().then_some(())
    });
    assert_eq!(second.users(), ["anna"]);
    hangs.store(false, Ordering::SeqCst);
}

#[test]
fn without_a_fence_users_wait_until_the_backend_has_ended_their_sessions() {
    let hangs = Arc::new(AtomicBool::new(false));
    let (first, second) = (hanging(&hangs), Ordinary::new().start());
    let proxy = start(&first, &second, "slow_start: 0s");
    let anna = proxy.logged_in("anna", "secret");
    hangs.store(true, Ordering::SeqCst);
    wait_until_down(&proxy);
    assert_unavailable(&proxy, "anna");
    drop(anna);
    assert_unavailable(&proxy, "anna");
    assert!(second.users().is_empty(), "{:?}", second.users());
    hangs.store(false, Ordering::SeqCst);
    wait_until("anna has a session again", || {
        proxy.client().try_login("anna", "secret").is_ok().then_some(())
    });
}

#[test]
fn b61_clients_of_a_herd_that_is_cut_off_are_let_go_over_some_time() {
    const SPREAD: Duration = Duration::from_secs(2);
    let backend = Ordinary::new().start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}limits: {{ exempt: [127.0.0.0/8] }}\nupstream: {{ disconnect_spread: 2s }}\n\
             shards:\n  s: {{ kind: shared, backends: [ {{ name: b, address: \"{}\", \
             tls: none }} ] }}\nrouting: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head_without_limits(),
            backend.address()
        )
    });
    let mut clients: Vec<_> =
        (0..100).map(|number| proxy.logged_in(&format!("user{number}"), "secret")).collect();
    let watch = Stopwatch::start();
    backend.cut_connections();
    let ends: Vec<Duration> = std::thread::scope(|scope| {
        let wait = |client: &mut support::client::Client| {
            client.expect_end_of_session();
            watch.elapsed()
        };
        let threads: Vec<_> =
            clients.iter_mut().map(|client| scope.spawn(move || wait(client))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let late = ends.iter().filter(|end| **end > SPREAD / 4).count();
    assert!(late > 20, "{late} of 100 were let go later");
    assert!(ends.iter().all(|end| *end < SPREAD * 3), "{ends:?}");
}

fn faults_of(settings: &str) -> (i32, String) {
    let text = |places: &Places| {
        format!(
            "{}shards:\n  s:\n    kind: shared\n    {settings}\n    backends:\n      \
             - {{ name: b, address: \"127.0.0.1:1\", tls: none }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head()
        )
    };
    pointsman::check(&AUTHORITY, text)
}

#[test]
fn wrong_settings_are_refused_with_their_line() {
    let on = "check: { mode: greeting }\n    ";
    for (settings, words) in [
        (format!("{on}fence: {{ timeout: 5s }}"), "`program` is missing"),
        (format!("{on}fence: {{ program: /nowhere/fence }}"), "cannot be run: No such file"),
        (format!("{on}fence: {{ program: /etc/passwd }}"), "it is no program"),
        (format!("{on}fence: {{ program: /bin/true, timeout: 1h }}"), "`timeout` cannot be `1h`"),
        ("fence: { program: /bin/true }".to_owned(), "nobody would find out that `b` is down"),
        ("failover_unfenced: true".to_owned(), "nobody would find out that `b` is down"),
        (
            format!("{on}fence: {{ program: /bin/true }}\n    failover_unfenced: true"),
            "`failover_unfenced: true` beside `fence`",
        ),
    ] {
        let (code, output) = faults_of(&settings);
        assert_eq!(code, 64, "{settings}: {output}");
        assert!(output.contains(words), "{settings}: {output}");
        assert!(output.contains("pointsman.yaml:"), "{settings}: {output}");
    }
    let (code, output) = faults_of(&format!("{on}fence: {{ program: /bin/true }}"));
    assert_eq!(code, 0, "{output}");
}
