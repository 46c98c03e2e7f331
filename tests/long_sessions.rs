//! What sessions of hours and of gigabytes bring: IDLE without end, crowds of open tags,
//! lines and literals without end. Nothing is added, nothing piles up.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::float_cmp,
    clippy::format_push_string,
    reason = "test code: a broken set-up must panic, counters are whole"
)]

mod support;

use std::io::Result;
use std::sync::LazyLock;
use std::time::Duration;

use support::backend::{Backend, Conversation, Opening, fault, shard};
use support::clock::MovedClock;
use support::flood::{anonymous_kib, scaled};
use support::pointsman::{Places, Pointsman, check};
use support::tls::Authority;
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const MIB: usize = 1 << 20;

fn proxy(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| places.head() + &shard(backend))
}

/// Takes the login; what follows is the script's.
fn take_login(peer: &mut Conversation) -> Result<()> {
    peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN] hi\r\n")?;
    peer.answer("AUTHENTICATE PLAIN", "{tag} OK [CAPABILITY IMAP4rev1 LITERAL+ IDLE] in\r\n")?;
    peer.wire()?.set_timeout(Duration::from_secs(60))
}

/// Reads exactly this text.
fn wants(peer: &mut Conversation, text: &str) -> Result<()> {
    let came = peer.exactly(text.len())?;
    if came == text.as_bytes() {
        return Ok(());
    }
    Err(fault(format!("expected {text:?}, got {:?}", String::from_utf8_lossy(&came))))
}

fn lines(numbers: impl Iterator<Item = usize>, line: impl Fn(usize) -> String) -> String {
    numbers.map(line).collect()
}

/// A client that has ten thousand commands open, answered last first; some tags are in use
/// twice at a time, and all are used again.
#[test]
fn b78_ten_thousand_open_tags_and_tags_used_twice_pass_and_are_counted() {
    const COUNT: usize = 10_000;
    let commands = lines(0..COUNT, |number| format!("c{} NOOP\r\n", number / 2));
    let answers = lines((0..COUNT).rev(), |number| format!("c{} OK no {number}\r\n", number / 2));
    let backend = {
        let (commands, answers) = (commands.clone(), answers.clone());
        Backend::start(Opening::clear(), move |peer| {
            take_login(peer)?;
            for _ in 0..2 {
                wants(peer, &commands)?;
                peer.send(&answers)?;
            }
            peer.hang()
        })
    };
    let mut proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    let before = anonymous_kib(proxy.process().id());
    for round in 1..=2_u32 {
        client.send(&commands);
        assert!(client.read_exactly(answers.len()) == answers.as_bytes(), "round {round}");
        let now = proxy.metrics();
        assert_eq!(now.sum("pointsman_commands_total", &[]), f64::from(round) * 10_000.0);
        assert_eq!(now.sum("pointsman_opaque_sessions", &[]), 0.0);
    }
    let after = anonymous_kib(proxy.process().id());
    assert!(after < before + 4 * 1024, "memory grew from {before} to {after} KiB");
    client.expect_silence(Duration::from_millis(50));
    backend.assert_no_faults();
}

/// DONE before the `+`, IDLE behind a command that waits, IDLE again at once: each comes
/// to the other side as it was sent, though nothing was answered yet.
#[test]
fn b80_done_before_the_plus_and_idle_behind_a_waiting_command_pass_untouched() {
    const STEPS: [(&str, &str); 4] = [
        ("i1 IDLE\r\nDONE\r\nn1 NOOP\r\n", "+ idling\r\ni1 OK done\r\nn1 OK done\r\n"),
        ("f1 FETCH 1 FLAGS\r\ni2 IDLE\r\n", "* 1 FETCH (FLAGS ())\r\nf1 OK done\r\n+ idling\r\n"),
        ("DONE\r\ni3 IDLE\r\nDONE\r\ni4 idle\r\n", "i2 OK done\r\n+ \r\ni3 OK done\r\n+\r\n"),
        ("done\r\nn2 NOOP\r\n", "* 2 EXISTS\r\ni4 OK done\r\nn2 OK done\r\n"),
    ];
    let backend = Backend::start(Opening::clear(), |peer| {
        take_login(peer)?;
        for (commands, answers) in STEPS {
            wants(peer, commands)?;
            peer.send(answers)?;
        }
        peer.hang()
    });
    let proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    for (commands, answers) in STEPS {
        client.send(commands);
        let came = client.read_exactly(answers.len());
        assert_eq!(String::from_utf8_lossy(&came), answers);
    }
    let now = proxy.metrics();
    assert_eq!(now.sum("pointsman_opaque_sessions", &[]), 0.0);
    assert_eq!(now.sum("pointsman_idle_sessions", &[]), 0.0);
    backend.assert_no_faults();
}

/// Half an hour and more of silence, of which the test waits for none: the deadline of
/// a login beside it shows that the proxy's clock has moved.
#[test]
fn b81_thirty_one_minutes_of_idle_end_nothing_and_add_no_byte() {
    let backend = Backend::ordinary();
    let clock = MovedClock::new();
    let environment = clock.environment();
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let proxy =
        Pointsman::start_with(&AUTHORITY, &environment, |places| places.head() + &shard(&backend));
    let mut client = proxy.logged_in("anna", "secret");
    let at_backend = backend.received(0).len();
    client.send("i IDLE\r\n");
    client.expect("+ idling");
    let mut undecided = proxy.client();
    clock.move_by("+31m");
    // Others wake the workers, which then look at their clock.
    for number in 0..8 {
        proxy.logged_in(&format!("user{number}"), "secret").logout();
    }
    undecided.expect("* BYE ");
    client.expect_silence(Duration::from_millis(500));
    backend.push("* 23 EXISTS\r\n");
    assert_eq!(client.read_line(), "* 23 EXISTS");
    client.send("DONE\r\n");
    assert_eq!(client.read_line(), "i OK IDLE ended.");
    client.expect_silence(Duration::from_millis(50));
    assert_eq!(&backend.received(0)[at_backend..], b"i IDLE\r\nDONE\r\n");
    client.logout();
}

#[test]
fn b81_an_idle_limit_that_would_cut_an_idle_is_refused() {
    let backend = Backend::ordinary();
    let checked = |idle: &str| {
        check(&AUTHORITY, |places: &Places| {
            format!(
                "{}limits: {{ idle: {idle} }}\n{}",
                places.head_without_limits(),
                shard(&backend)
            )
        })
    };
    for idle in ["30m", "34m", "1s"] {
        let (code, said) = checked(idle);
        assert!(code != 0 && said.contains("idle"), "{idle}: {said}");
    }
    for idle in ["35m", "none"] {
        let (code, said) = checked(idle);
        assert_eq!(code, 0, "{idle}: {said}");
    }
}

/// Reads so many MiB of `x`.
fn takes(peer: &mut Conversation, mebibytes: usize) -> Result<()> {
    for at in 0..mebibytes {
        if peer.exactly(MIB)?.iter().any(|byte| *byte != b'x') {
            return Err(fault(format!("MiB {at} came changed")));
        }
    }
    Ok(())
}

/// Lines of 64 MiB (100 in `make soak`) and literals of 4 GiB, of which a part is sent,
/// both ways: beyond the first MiB memory grows by less than 2 MiB.
#[test]
fn b85_endless_lines_and_huge_literals_cost_no_memory_either_way() {
    let size = scaled(64, 100);
    let chunk = vec![b'x'; MIB];
    let backend = Backend::start(Opening::clear(), move |peer| {
        take_login(peer)?;
        wants(peer, "l SEARCH TEXT ")?;
        takes(peer, size)?;
        wants(peer, "\r\n")?;
        let chunk = vec![b'x'; MIB];
        peer.send("* SEARCH ")?;
        (0..size).try_for_each(|_| peer.send(&chunk))?;
        peer.send("\r\nl OK done\r\n")?;
        wants(peer, "f FETCH 1 BODY[]\r\n")?;
        wants(peer, "a APPEND INBOX {4294967296}\r\n")?;
        peer.send("+ go on\r\n")?;
        takes(peer, size)?;
        peer.send("* 1 FETCH (BODY[] {4294967296}\r\n")?;
        (0..size).try_for_each(|_| peer.send(&chunk))
    });
    let mut proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    let process = proxy.process().id();
    client.send("l SEARCH TEXT ");
    client.send(&chunk);
    wait_until("the first MiB passed", || (backend.received(0).len() > MIB).then_some(()));
    let before = anonymous_kib(process);
    let mut most = before;
    for _ in 1..size {
        client.send(&chunk);
        most = most.max(anonymous_kib(process));
    }
    client.send("\r\n");
    assert_eq!(client.read_exactly(9), b"* SEARCH ");
    for _ in 0..size {
        assert!(client.read_exactly(MIB) == chunk);
        most = most.max(anonymous_kib(process));
    }
    assert_eq!(client.read_line(), "");
    client.expect("l OK done");
    client.send("f FETCH 1 BODY[]\r\na APPEND INBOX {4294967296}\r\n");
    client.expect("+ go on");
    for _ in 0..size {
        client.send(&chunk);
        most = most.max(anonymous_kib(process));
    }
    client.expect("* 1 FETCH (BODY[] {4294967296}");
    for _ in 0..size {
        assert!(client.read_exactly(MIB) == chunk);
        most = most.max(anonymous_kib(process));
    }
    client.expect_end();
    drop(client);
    assert!(most < before + 2 * 1024, "memory grew from {before} to {most} KiB");
    backend.wait_until_empty();
    backend.assert_no_faults();
}
