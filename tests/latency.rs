//! The command histogram tells what the backend really took: against a scripted backend
//! that measures its own delays, sample by sample, the median error is at most 1 ms.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::float_cmp,
    clippy::unchecked_time_subtraction,
    clippy::format_collect,
    clippy::format_push_string,
    reason = "test code: a broken set-up must panic, delays are real, counters whole"
)]

mod support;

use std::collections::HashMap;
use std::io::Result;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use support::Stopwatch;
use support::backend::{Backend, Conversation, Opening};
use support::client::{Client, announced_literal};
use support::pointsman::{Metrics, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const LAST: &str = "pointsman_command_seconds";
const FIRST: &str = "pointsman_command_first_byte_seconds";
const ERROR_MAX: Duration = Duration::from_millis(1);

/// What the backend measured of one command: to the first byte of its answer, and to its
/// tagged line, both from the moment it had read the whole command.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    first: Duration,
    last: Duration,
}

/// By tag.
type Book = Arc<Mutex<HashMap<String, Taken>>>;

/// What looks like the end of the command that is being answered.
const MAIL: &str = "t1 OK done\r\na OK done\r\n* OK [CAPABILITY X]\r\n+ idling\r\n";

/// Answers every command after the pauses that stand in it as `D<microseconds>`: one
/// before the first byte, one in the middle, one before the tagged line; a single one is
/// before the tagged line, and nothing else comes.
fn serve(peer: &mut Conversation, book: &Book) -> Result<()> {
    peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN] hi\r\n")?;
    peer.answer("AUTHENTICATE PLAIN", "{tag} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n")?;
    peer.wire()?.set_timeout(Duration::from_secs(60))?;
    let mut arrived = Stopwatch::start();
    loop {
        let pipelined = !peer.wire()?.unread().is_empty();
        let mut text = Vec::new();
        let mut asked = false;
        loop {
            let line = peer.wire()?.read_line()?;
            text.extend_from_slice(&line);
            let Some(bytes) = announced_literal(&line) else { break };
            if !line.ends_with(b"+}\r\n") {
                asked = true;
                peer.send("+ go on {9}\r\n")?;
            }
            peer.exactly(bytes)?;
        }
        if !pipelined || asked {
            arrived = Stopwatch::start();
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let tag = text.split(' ').next().unwrap().to_owned();
        if tag.starts_with('"') {
            // No tag by the grammar, so the answer cannot carry it (RFC 9051 §2.2.1).
            peer.send("* BAD invalid tag\r\n")?;
            continue;
        }
        if text.contains(" IDLE") {
            peer.send("+ idling\r\n")?;
            peer.line()?;
            peer.send(format!("{tag} OK IDLE ended\r\n"))?;
            arrived = Stopwatch::start();
            continue;
        }
        let delays: Vec<Duration> = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix('D')?.parse().ok().map(Duration::from_micros))
            .collect();
        let mut taken = Taken::default();
        for (place, delay) in delays.iter().enumerate() {
            peer.pause(*delay);
            match place {
                0 if delays.len() > 1 => {
                    taken.first = arrived.elapsed();
                    peer.send(format!("* 1 FETCH (BODY[] {{{}}}\r\n{}", MAIL.len(), &MAIL[..20]))?;
                }
                1 => peer.send(format!("{})\r\n", &MAIL[20..]))?,
                _ => {}
            }
        }
        taken.last = arrived.elapsed();
        book.lock().unwrap().insert(tag.clone(), taken);
        peer.send(format!("{tag} OK done\r\n"))?;
    }
}

/// A session with a backend that keeps the time.
struct Scene {
    proxy: Pointsman,
    client: Client,
    book: Book,
    before: Metrics,
    _backend: Backend,
}

impl Scene {
    fn start() -> Self {
        let book = Book::default();
        let own = Arc::clone(&book);
        let backend = Backend::start(Opening::clear(), move |peer| serve(peer, &own));
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            format!(
                "{}shards:\n  s: {{ kind: shared, backends: \
                 [ {{ name: b, address: \"127.0.0.1:{}\", tls: none }} ] }}\n\
                 routing: {{ lookups: [ {{ shard: s }} ] }}\n",
                places.head(),
                backend.port()
            )
        });
        let client = proxy.logged_in("anna", "secret");
        let before = proxy.metrics();
        Self { proxy, client, book, before, _backend: backend }
    }

    /// What the backend measured of the command with that tag.
    fn taken(&self, tag: &str) -> Taken {
        self.book.lock().unwrap()[tag]
    }

    /// What a histogram gained since the last [`Self::mark`] for that command: seconds and
    /// samples.
    fn gained(&self, now: &Metrics, family: &str, command: &str) -> (Duration, f64) {
        let labels = [("command", command)];
        let gain = |suffix: &str| {
            let name = format!("{family}_{suffix}");
            now.sum(&name, &labels) - self.before.sum(&name, &labels)
        };
        (Duration::from_secs_f64(gain("sum").max(0.0)), gain("count"))
    }

    /// Reads the metrics; later gains count from here.
    fn mark(&mut self) {
        self.before = self.proxy.metrics();
    }

    /// The error of one command's time; it must be the only one of its name since the mark.
    fn error(&self, now: &Metrics, command: &str, tag: &str) -> Duration {
        let (seconds, samples) = self.gained(now, LAST, command);
        assert_eq!(samples, 1.0, "{tag} {command}");
        seconds.abs_diff(self.taken(tag).last)
    }

    /// The same for the first byte.
    fn first_error(&self, now: &Metrics, command: &str, tag: &str) -> Duration {
        let (seconds, samples) = self.gained(now, FIRST, command);
        assert_eq!(samples, 1.0, "{tag} {command}");
        seconds.abs_diff(self.taken(tag).first)
    }

    fn finish(&mut self, tag: &str) {
        let answer = self.client.read_response(tag);
        assert!(answer.is_ok(), "{}", answer.status);
    }
}

fn assert_small(what: &str, mut errors: Vec<Duration>) {
    errors.sort_unstable();
    let median = errors[errors.len() / 2];
    assert!(median <= ERROR_MAX, "{what}: {errors:?}");
}

fn delay() -> u64 {
    fastrand::u64(100..12_000)
}

#[test]
fn b79_single_commands_are_timed_to_their_tagged_line_and_to_their_first_byte() {
    let mut scene = Scene::start();
    let commands = [
        ("FETCH 1", "fetch"),
        ("uid fetch 1", "uid_fetch"),
        ("NOOP", "noop"),
        ("Select INBOX", "select"),
        ("XYZZY", "other"),
    ];
    let (mut last, mut first) = (Vec::new(), Vec::new());
    for round in 0..16 {
        for (command, label) in commands {
            let tag = format!("s{round}");
            let (one, two, three) = (delay(), delay(), delay());
            scene.client.send(format!("{tag} {command} D{one} D{two} D{three}\r\n"));
            scene.finish(&tag);
            let now = scene.proxy.metrics();
            last.push(scene.error(&now, label, &tag));
            first.push(scene.first_error(&now, label, &tag));
            let taken = scene.taken(&tag);
            assert!(taken.last - taken.first >= Duration::from_micros(two + three));
            scene.mark();
        }
    }
    assert_small("to the tagged line", last);
    assert_small("to the first byte", first);
}

#[test]
fn pipelined_commands_are_timed_each_from_its_own_last_byte() {
    let mut scene = Scene::start();
    let commands = [
        ("NOOP", "noop"),
        ("FETCH 1", "fetch"),
        ("SEARCH ALL", "search"),
        ("UID STORE 1", "uid_store"),
    ];
    let mut errors = Vec::new();
    for _ in 0..20 {
        let mut batch = String::new();
        for (number, (command, _)) in commands.iter().enumerate() {
            batch += &format!("p{number} {command} D{} D{}\r\n", delay() / 3, delay() / 3);
        }
        scene.client.send(batch);
        for number in 0..commands.len() {
            scene.finish(&format!("p{number}"));
        }
        let now = scene.proxy.metrics();
        for (number, (_, label)) in commands.iter().enumerate() {
            errors.push(scene.error(&now, label, &format!("p{number}")));
        }
        scene.mark();
    }
    assert_small("pipelined", errors);
}

#[test]
fn b79_an_append_is_timed_from_the_last_byte_of_its_literal_whatever_that_looks_like() {
    let mut scene = Scene::start();
    let mail = "x1 FETCH 1 BODY[]\r\na2 OK done\r\nx3 APPEND INBOX {99}\r\nDONE\r\n";
    let mut errors = Vec::new();
    for round in 0..20 {
        let tag = format!("a{round}");
        let plus = if round % 2 == 0 { "+" } else { "" };
        scene.client.send(format!("{tag} APPEND INBOX D{} {{{}{plus}}}\r\n", delay(), mail.len()));
        if plus.is_empty() {
            scene.client.expect("+ go on {9}");
        }
        // The client's own slowness is not the server's.
        std::thread::sleep(Duration::from_millis(5));
        scene.client.send(&mail[..30]);
        std::thread::sleep(Duration::from_millis(5));
        scene.client.send(&mail[30..]);
        std::thread::sleep(Duration::from_millis(5));
        scene.client.send("\r\n");
        // A pushed literal's last byte finds the backend reading already.
        scene.finish(&tag);
        let now = scene.proxy.metrics();
        errors.push(scene.error(&now, "append", &tag));
        assert_eq!(scene.gained(&now, LAST, "fetch").1, 0.0);
        scene.mark();
    }
    assert_small("APPEND", errors);
}

#[test]
fn b79_idle_is_in_no_latency_and_what_follows_it_is_timed_alone() {
    let mut scene = Scene::start();
    let mut errors = Vec::new();
    for round in 0..10 {
        let tag = format!("i{round}");
        scene.client.send("idle IDLE\r\n");
        scene.client.expect("+ idling");
        scene.proxy.wait_for_metrics("a session in IDLE", |now| {
            now.sum("pointsman_idle_sessions", &[]) == 1.0
        });
        std::thread::sleep(Duration::from_millis(300));
        scene.client.send("DONE\r\n");
        scene.finish("idle");
        scene.client.send(format!("{tag} NOOP D{}\r\n", delay()));
        scene.finish(&tag);
        let now = scene.proxy.metrics();
        errors.push(scene.error(&now, "noop", &tag));
        let (all, samples) = ["idle", "other", "noop"].iter().fold(
            (Duration::ZERO, 0.0),
            |(time, samples), command| {
                let (more, count) = scene.gained(&now, LAST, command);
                (time + more, samples + count)
            },
        );
        assert_eq!(samples, 1.0, "IDLE is counted, not timed");
        assert!(all < Duration::from_millis(300), "{all:?}");
        scene.mark();
    }
    let now = scene.proxy.metrics();
    assert_eq!(now.count("pointsman_command_seconds_count", &[("command", "idle")]), 0);
    assert_eq!(now.count("pointsman_command_first_byte_seconds_count", &[("command", "idle")]), 0);
    let counted = now.sum("pointsman_commands_total", &[("command", "idle"), ("status", "ok")]);
    assert_eq!(counted, 10.0);
    assert_small("behind IDLE", errors);
}

#[test]
fn hostile_tags_do_not_mislead_the_clock() {
    let mut scene = Scene::start();
    let long = "T".repeat(80);
    let tags = ["OK", "BYE", "1", "]", "a.b:c=d", "fetch", "DONE1", "CAPABILITY", &long];
    let mut errors = Vec::new();
    for tag in tags {
        for _ in 0..3 {
            scene.client.send(format!("{tag} FETCH 1 D{} D{} D{}\r\n", delay(), delay(), delay()));
            scene.finish(tag);
            let now = scene.proxy.metrics();
            errors.push(scene.error(&now, "fetch", tag));
            scene.mark();
        }
        // No tag by the grammar: passed on, not timed.
        scene.client.send("\"quoted FETCH 1\r\n");
        scene.client.expect("* BAD invalid tag");
        assert_eq!(scene.gained(&scene.proxy.metrics(), LAST, "fetch").1, 0.0);
        scene.mark();
    }
    // One is the beginning of the next.
    for _ in 0..5 {
        let (one, two, three) = (delay(), delay(), delay());
        let batch = format!("a NOOP D{one}\r\naa FETCH 1 D{two}\r\naaa STATUS x D{three}\r\n");
        scene.client.send(batch);
        for tag in ["a", "aa", "aaa"] {
            scene.finish(tag);
        }
        let now = scene.proxy.metrics();
        for (tag, label) in [("a", "noop"), ("aa", "fetch"), ("aaa", "status")] {
            errors.push(scene.error(&now, label, tag));
        }
        scene.mark();
    }
    assert_eq!(scene.proxy.metrics().sum("pointsman_opaque_sessions", &[]), 0.0);
    assert_small("hostile tags", errors);
}

#[test]
fn b78_all_commands_are_counted_but_those_beyond_the_bound_in_flight_are_not_timed() {
    const COUNT: usize = 500;
    let mut scene = Scene::start();
    let mut batch = "n0 NOOP D200000\r\n".to_owned();
    for number in 1..COUNT {
        batch += &format!("n{number} NOOP\r\n");
    }
    scene.client.send(batch);
    for number in 0..COUNT {
        scene.finish(&format!("n{number}"));
    }
    let now = scene.proxy.metrics();
    let counted = now.sum("pointsman_commands_total", &[("status", "ok")]);
    assert_eq!(counted, 500.0);
    let (_, timed) = scene.gained(&now, LAST, "noop");
    assert_eq!(timed, 64.0);
    scene.mark();
    scene.client.send("x NOOP D1000\r\n");
    scene.finish("x");
    let now = scene.proxy.metrics();
    assert!(scene.error(&now, "noop", "x") < Duration::from_millis(200));
}
