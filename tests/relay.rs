//! What a logged-in session carries: every byte both ways, unchanged, in order, once;
//! bounded memory; and nothing left of a client that vanished.

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

use std::fmt::Write as _;
use std::io::{Read, Result, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::backend::{Backend, Conversation, Opening, fault};
use support::client::Client;
use support::flood::scaled;
use support::ordinary::Ordinary;
use support::pointsman::Pointsman;
use support::tls::Authority;
use support::{Over, Stopwatch, large_mail, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

fn proxy(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}shards:\n  s: {{ kind: shared, backends: \
             [ {{ name: b, address: \"127.0.0.1:{}\", tls: none }} ] }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head(),
            backend.port()
        )
    })
}

/// Takes the login; what follows is the script's.
fn take_login(peer: &mut Conversation) -> Result<()> {
    peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN] hi\r\n")?;
    peer.answer("AUTHENTICATE PLAIN", "{tag} OK [CAPABILITY IMAP4rev1 LITERAL+ IDLE] in\r\n")?;
    peer.wire()?.set_timeout(Duration::from_secs(60))
}

/// Text that looks like everything a proxy reacts to.
const HOSTILE: &str = "\
a1 OK done\r\n\
t1 OK FETCH completed.\r\n\
* CAPABILITY IMAP4rev1 COMPRESS=DEFLATE UNAUTHENTICATE AUTH=PLAIN\r\n\
* OK [CAPABILITY IMAP4rev1 COMPRESS=DEFLATE STARTTLS] hello\r\n\
x1 OK [CAPABILITY IMAP4rev1 LOGINDISABLED COMPRESS=DEFLATE] in\r\n\
* BYE over\r\n\
+ go on\r\n\
x2 LOGIN bert secret\r\n\
x3 AUTHENTICATE PLAIN\r\n\
x4 STARTTLS\r\n\
x5 COMPRESS DEFLATE\r\n\
x6 IDLE\r\n\
DONE\r\n\
x7 FETCH 1 {10}\r\n\
* 1 FETCH (BODY[] {999}\r\n\
x8 APPEND INBOX {999+}\r\n\
\"open quote\r\n\
bare\rcr and bare\nlf and tab\t and 8 bit \u{fc}\u{20ac}\r\n\
no end {5}";

/// B-77, B-76: what looks like protocol inside literals is mail.
#[test]
fn b77_hostile_text_in_fetch_and_append_passes_unchanged() {
    let mut mails = vec![HOSTILE.as_bytes().to_vec()];
    mails.push([HOSTILE.as_bytes(), b"\0\x01\xff", HOSTILE.as_bytes()].concat());
    let ordinary = Ordinary::new().mails(mails.clone());
    let appended = ordinary.appended();
    let backend = ordinary.start();
    let proxy = proxy(&backend);
    let mut client = proxy.client();
    client.login("anna", "secret");
    let at_backend = backend.received(0).len();

    let mut sent = b"f1 FETCH 1:2 BODY[]\r\n".to_vec();
    client.send(&sent);
    let mut wanted = Vec::new();
    for (number, mail) in mails.iter().enumerate() {
        let number = number + 1;
        let head = format!("* {number} FETCH (UID {number} BODY[] {{{}}}\r\n", mail.len());
        wanted.extend_from_slice(head.as_bytes());
        wanted.extend_from_slice(mail);
        wanted.extend_from_slice(b")\r\n");
    }
    wanted.extend_from_slice(b"f1 OK FETCH completed.\r\n");
    assert!(client.read_exactly(wanted.len()) == wanted, "the FETCH came changed");

    for mail in &mails {
        let synchronising = format!("p1 APPEND INBOX {{{}}}\r\n", mail.len());
        client.send(&synchronising);
        client.expect("+ go on");
        client.send(mail);
        client.send("\r\n");
        client.expect("p1 OK APPEND completed.");
        let pushed = format!("p2 APPEND INBOX {{{}+}}\r\n", mail.len());
        client.send_byte_by_byte([pushed.as_bytes(), mail, b"\r\n"].concat());
        client.expect("p2 OK APPEND completed.");
        for head in [&synchronising, &pushed] {
            sent.extend_from_slice(head.as_bytes());
            sent.extend_from_slice(mail);
            sent.extend_from_slice(b"\r\n");
        }
    }
    assert!(backend.received(0)[at_backend..] == sent, "the backend got other bytes");
    let doubled: Vec<_> = mails.iter().flat_map(|mail| [mail.clone(), mail.clone()]).collect();
    assert!(*appended.lock().unwrap() == doubled);
    assert_eq!(proxy.metrics().sum("pointsman_opaque_sessions", &[]), 0.0);
    client.logout();
    backend.assert_no_faults();
}

/// One command of a client and the whole answer to it, by number: the same on both sides.
fn exchange(number: usize) -> (Vec<u8>, Vec<u8>) {
    let mut dice = fastrand::Rng::with_seed(u64::try_from(number).unwrap());
    let tag = format!("c{number}");
    let body = |dice: &mut fastrand::Rng| {
        let mut text = String::new();
        while text.len() < dice.usize(0..600) {
            let line = HOSTILE.lines().nth(dice.usize(0..17)).unwrap();
            write!(text, "{line} {number}\r\n").unwrap();
        }
        text
    };
    let command = match dice.u8(0..5) {
        0 => format!("{tag} NOOP\r\n"),
        1 => format!("{tag} UID FETCH 1:* (FLAGS BODY[HEADER.FIELDS (DATE \"{{5}}\")])\r\n"),
        2 => {
            let (one, two) = (body(&mut dice), body(&mut dice));
            format!("{tag} SEARCH {{{}+}}\r\n{one} {{{}+}}\r\n{two}\r\n", one.len(), two.len())
        }
        3 => format!("{tag} list \"\" \"a {{7+}} b\"\r\n"),
        _ => {
            let mail = body(&mut dice);
            format!("{tag} APPEND INBOX () ~{{{}+}}\r\n{mail}\r\n", mail.len())
        }
    };
    let mut answer = String::new();
    for _ in 0..dice.usize(0..3) {
        let mail = body(&mut dice);
        write!(answer, "* {number} FETCH (BODY[] {{{}}}\r\n{mail} FLAGS ())\r\n", mail.len())
            .unwrap();
        write!(answer, "* OK [ALERT] no literal {{{number}}}\r\n").unwrap();
    }
    let status = ["OK", "NO", "BAD"][dice.usize(0..3)];
    write!(answer, "{tag} {status} answer to {number} {{{}}}\r\n", dice.u8(..)).unwrap();
    (command.into_bytes(), answer.into_bytes())
}

/// Sends in pieces of random length.
fn chopped(bytes: &[u8], longest: usize, mut send: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(fastrand::usize(1..=longest).min(rest.len()));
        send(piece)?;
        rest = later;
    }
    Ok(())
}

/// A backend that wants exactly these exchanges, and chops its answers.
fn exchanging(count: usize, longest: usize) -> Backend {
    Backend::start(Opening::clear(), move |peer| {
        take_login(peer)?;
        for number in 0..count {
            let (command, answer) = exchange(number);
            if peer.exactly(command.len())? != command {
                return Err(fault(format!("command {number} came changed")));
            }
            chopped(&answer, longest, |piece| peer.send(piece))?;
        }
        let rest = peer.wire()?.read_to_end()?;
        if rest.is_empty() { Ok(()) } else { Err(fault(format!("{} bytes too many", rest.len()))) }
    })
}

#[test]
fn b78_thousands_of_pipelined_commands_pass_in_order_once_however_they_are_cut() {
    const COUNT: usize = 3_000;
    for longest in [3, 200, 20_000] {
        let count = if longest < 10 { COUNT / 20 } else { COUNT };
        let backend = exchanging(count, longest);
        let proxy = proxy(&backend);
        let mut client = proxy.logged_in("anna", "secret");
        assert!(client.wire().unread().is_empty());
        let mut reader = client.wire().socket().try_clone().unwrap();
        let mut writer = reader.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let all: Vec<u8> = (0..count).flat_map(|number| exchange(number).0).collect();
            chopped(&all, longest, |piece| writer.write_all(piece)).unwrap();
        });
        let wanted: Vec<u8> = (0..count).flat_map(|number| exchange(number).1).collect();
        let mut came = vec![0; wanted.len()];
        reader.read_exact(&mut came).unwrap();
        sender.join().unwrap();
        assert!(came == wanted, "answers came changed, pieces up to {longest}");
        client.expect_silence(Duration::from_millis(50));
        assert_eq!(proxy.metrics().sum("pointsman_opaque_sessions", &[]), 0.0);
        let counted = proxy.metrics().sum("pointsman_commands_total", &[]);
        assert_eq!(counted, f64::from(u32::try_from(count).unwrap()));
        drop((client, reader));
        backend.wait_until_empty();
        backend.assert_no_faults();
    }
}

#[test]
fn a_tls_client_exchanges_the_same_bytes() {
    const COUNT: usize = 800;
    let backend = exchanging(COUNT, 900);
    let proxy = proxy(&backend);
    let mut client = Client::tls(proxy.places().imaps, &AUTHORITY.client_config());
    client.login("anna", "secret");
    let numbers: Vec<usize> = (0..COUNT).collect();
    for batch in numbers.chunks(10) {
        let commands: Vec<u8> = batch.iter().flat_map(|number| exchange(*number).0).collect();
        chopped(&commands, 700, |piece| client.wire().write(piece)).unwrap();
        for number in batch {
            let (_, answer) = exchange(*number);
            assert!(client.read_exactly(answer.len()) == answer, "answer {number} came changed");
        }
    }
    drop(client);
    backend.wait_until_empty();
    backend.assert_no_faults();
}

#[test]
fn literals_of_twenty_megabytes_pass_unchanged_up_and_down_clear_and_under_tls() {
    let mail = large_mail(20 << 20);
    let ordinary = Ordinary::new().mails(vec![mail.clone()]);
    let appended = ordinary.appended();
    let backend = ordinary.start();
    let proxy = proxy(&backend);
    for tls in [false, true] {
        let mut client = if tls {
            Client::tls(proxy.places().imaps, &AUTHORITY.client_config())
        } else {
            proxy.client()
        };
        client.login("anna", "secret");
        assert!(client.fetch_mail(1) == mail, "down, TLS {tls}");
        client.append("INBOX", &mail);
        assert!(appended.lock().unwrap().pop().unwrap() == mail, "up, TLS {tls}");
        client.append_all("INBOX", std::slice::from_ref(&mail));
        assert!(appended.lock().unwrap().pop().unwrap() == mail, "pushed up, TLS {tls}");
        client.logout();
    }
}

/// B-63: the client says no more, but what it asked for still comes.
#[test]
fn b63_a_half_closed_client_gets_all_that_it_asked_for() {
    let mail = large_mail(24 << 20);
    let backend = Ordinary::new().mails(vec![mail.clone()]).start();
    let proxy = proxy(&backend);
    for tls in [false, true] {
        let mut client = if tls {
            Client::tls(proxy.places().imaps, &AUTHORITY.client_config())
        } else {
            proxy.client()
        };
        client.login("anna", "secret");
        client.send("h1 NOOP\r\nh2 FETCH 1 BODY[]\r\nh3 NOOP\r\n");
        client.expect("h1 OK");
        client.expect("* 1 FETCH (UID 1 BODY[] {");
        client.wire().finish_writing().unwrap();
        assert!(client.read_exactly(mail.len()) == mail, "TLS {tls}");
        client.expect(")");
        client.expect("h2 OK");
        client.expect("h3 OK");
        client.expect_end();
    }
    backend.wait_until_empty();
    proxy.wait_for_metrics("no session is left", |now| {
        now.sum("pointsman_client_sessions", &[]) == 0.0
            && now.sum("pointsman_backend_sessions", &[]) == 0.0
    });
}

/// B-63, B-65: a client that says no more and is slow to read is waited for.
#[test]
fn b63_a_half_closed_client_that_rests_gets_all_that_it_asked_for() {
    let mail = large_mail(24 << 20);
    let backend = Ordinary::new().mails(vec![mail.clone()]).start();
    let proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    client.send("h1 FETCH 1 BODY[]\r\nh2 NOOP\r\n");
    client.expect("* 1 FETCH (UID 1 BODY[] {");
    client.wire().finish_writing().unwrap();
    // Longer than a backend may take that is waited for.
    std::thread::sleep(Duration::from_secs(12));
    assert!(client.read_exactly(mail.len()) == mail);
    client.expect(")");
    client.expect("h1 OK");
    client.expect("h2 OK");
    client.expect_end();
    backend.wait_until_empty();
}

/// The proxy's own answers to a client that does not read them stop it like a backend's.
#[test]
fn b65_a_client_that_reads_no_answers_costs_no_memory() {
    let backend = Ordinary::new().start();
    let mut proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    client.command_ok("NOOP");
    let process = proxy.process().id();
    let before = resident_kib(process);
    let mut writer = client.wire().socket().try_clone().unwrap();
    writer.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    // Each of them is answered by the proxy, in eight times as many bytes.
    let lone = b"x\r\n".repeat(1 << 15);
    let taken = (0..400).take_while(|_| writer.write_all(&lone).is_ok()).count();
    let grown = resident_kib(process).saturating_sub(before);
    assert!(grown < 6 << 10, "{grown} KiB more after {taken} times {} bytes", lone.len());
    assert!(taken < 400, "all of it was taken");
    proxy.logged_in("bert", "secret").command_ok("NOOP");
}

/// A client that stopped reading does not hide that its backend is gone: its user is taken
/// elsewhere.
#[test]
fn a_killed_backend_is_seen_behind_a_client_that_does_not_read() {
    let mail = large_mail(24 << 20);
    let start = || Ordinary::new().mails(vec![mail.clone()]).start();
    let mut backends = vec![start(), start()];
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}shards:\n  s:\n    kind: shared\n    backends:\n      \
             - {{ name: b0, address: \"{}\", tls: none }}\n      \
             - {{ name: b1, address: \"{}\", tls: none }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head(),
            backends[0].address(),
            backends[1].address()
        )
    });
    let mut stuck = proxy.logged_in("anna", "secret");
    stuck.send("a FETCH 1 BODY[]\r\n");
    stuck.expect("* 1 FETCH");
    let mut killed = backends.remove(usize::from(backends[1].connections() > 0));
    killed.reset_connections();
    killed.stop();
    wait_until("the user is elsewhere", || {
        proxy.client().try_login("anna", "secret").is_ok().then_some(())
    });
    assert_eq!(backends[0].connections(), 1);
    // What came before the end is still the client's.
    let read = stuck.read_to_end().len();
    assert!(read < mail.len(), "{read}");
}

/// Dovecot asks for a literal as soon as it has read the brace, whatever becomes of the line's
/// end: a client that sends the two apart is not left waiting.
#[test]
fn a_literal_that_is_asked_for_before_its_line_has_ended_is_passed_on() {
    let backend = Backend::start(Opening::clear(), |peer| {
        take_login(peer)?;
        let announced = peer.exactly(b"A2 SELECT {5}".len())?;
        assert_eq!(announced, b"A2 SELECT {5}");
        peer.send("+ OK\r\n")?;
        let rest = peer.exactly(b"\r\nINBOX\r\n".len())?;
        assert_eq!(rest, b"\r\nINBOX\r\n");
        peer.send("A2 OK done\r\n")?;
        peer.answer("NOOP", "{tag} OK done\r\n")?;
        peer.hang()
    });
    let proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    client.send("A2 SELECT {5}");
    client.expect("+ OK");
    client.send("\r\n");
    client.send("INBOX\r\n");
    client.expect("A2 OK");
    client.command_ok("NOOP");
    backend.assert_no_faults();
}

/// Resident memory of a process in KiB.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// B-65: the backend is stopped at the client's speed; nothing piles up between: memory
/// grows by less than 6 MiB of 256 (of 1024 in `make soak`).
#[test]
fn b65_a_slow_reader_of_a_large_mail_costs_no_memory_and_disturbs_nobody() {
    const CHUNK: usize = 1 << 20;
    static CHUNK_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut chunk = large_mail(CHUNK);
        chunk.truncate(CHUNK);
        chunk
    });
    let chunks = scaled(256, 1024);
    let ordinary = Ordinary::new();
    let backend = Backend::start(Opening::clear(), move |peer| {
        if peer.number() > 0 {
            return ordinary.converse(peer);
        }
        take_login(peer)?;
        let tag = peer.expect("FETCH 1 BODY[]")?;
        peer.send(format!("* 1 FETCH (BODY[] {{{}}}\r\n", CHUNK * chunks))?;
        for _ in 0..chunks {
            peer.send(&*CHUNK_BYTES)?;
        }
        peer.send(format!(")\r\n{tag} OK done\r\n"))?;
        peer.hang()
    });
    let mut proxy = proxy(&backend);
    let mut slow = proxy.logged_in("anna", "secret");
    let mut other = proxy.logged_in("bert", "secret");
    let process = proxy.process().id();
    other.command_ok("NOOP");
    let before = resident_kib(process);

    slow.send("s1 FETCH 1 BODY[]\r\n");
    slow.expect("* 1 FETCH");
    let mut most = 0;
    let mut rounds = Vec::new();
    let mut read = 0;
    let begun = Stopwatch::start();
    while begun.elapsed() < Duration::from_secs(4) {
        read += 1024;
        slow.read_exactly(1024);
        let round = Stopwatch::start();
        other.command_ok("NOOP");
        rounds.push(round.elapsed());
        most = most.max(resident_kib(process));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(most < before + 6 * 1024, "memory grew from {before} to {most} KiB");
    // One may have waited for the machine; all would, for a session that is held up.
    rounds.sort_unstable();
    let usual = rounds[rounds.len() * 9 / 10];
    assert!(usual < Duration::from_millis(500), "another session waited {usual:?}");

    let mut rest = CHUNK * chunks - read;
    let mut at = read;
    while rest > 0 {
        let count = rest.min(CHUNK - at % CHUNK);
        let came = slow.read_exactly(count);
        let from = at % CHUNK;
        assert!(came == CHUNK_BYTES[from..from + count], "changed at {at}");
        at += count;
        rest -= count;
    }
    slow.expect(")");
    slow.expect("s1 OK done");
    let after = resident_kib(process);
    assert!(after < before + 6 * 1024, "memory grew from {before} to {after} KiB");
    backend.assert_no_faults();
}

/// The other way: a backend that takes nothing stops the client's upload.
#[test]
fn a_backend_that_does_not_read_stops_the_upload_and_costs_no_memory() {
    let backend = Backend::start(Opening::clear(), |peer| {
        take_login(peer)?;
        peer.pause(Duration::from_secs(3));
        let line = peer.line()?;
        if line != b"u1 APPEND INBOX {67108864+}" {
            return Err(fault(format!("{:?}", String::from_utf8_lossy(&line))));
        }
        let mail = peer.exactly(64 << 20)?;
        if mail.iter().any(|byte| *byte != b'm') {
            return Err(fault("the upload came changed".to_owned()));
        }
        peer.line()?;
        peer.send("u1 OK stored\r\n")?;
        peer.hang()
    });
    let mut proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    let process = proxy.process().id();
    let before = resident_kib(process);
    let done = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let over = Over(&done);
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::SeqCst) {
                most = most.max(resident_kib(process));
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        client.send("u1 APPEND INBOX {67108864+}\r\n");
        client.send(vec![b'm'; 64 << 20]);
        client.send("\r\n");
        client.expect("u1 OK stored");
        drop(over);
        watcher.join().unwrap()
    });
    assert!(most < before + 6 * 1024, "memory grew from {before} to {most} KiB");
    backend.assert_no_faults();
}

/// What a client does before it vanishes.
type Act = fn(&mut Client);

/// B-68: whatever the client was doing, its backend connection goes and nothing is counted.
#[test]
fn b68_a_client_that_vanishes_leaves_no_connection_and_no_count() {
    let mail = large_mail(8 << 20);
    let backend = Ordinary::new()
        .mails(vec![mail])
        .delay("LOGIN", Duration::from_millis(300))
        .delay("AUTHENTICATE", Duration::from_millis(300))
        .start();
    let proxy = proxy(&backend);
    let moments: [(&str, Act); 7] = [
        ("between commands", |client| {
            client.command_ok("NOOP");
        }),
        ("with a command half sent", |client| client.send("a FETCH 1 (FLA")),
        ("with a literal half sent", |client| {
            client.send("a APPEND INBOX {5000}\r\n");
            client.expect("+ ");
            client.send(vec![b'x'; 1000]);
        }),
        ("before the plus", |client| client.send("a APPEND INBOX {5000}\r\n")),
        ("in IDLE", |client| {
            client.send("a IDLE\r\n");
            client.expect("+ ");
        }),
        ("in the middle of a FETCH", |client| {
            client.send("a FETCH 1 BODY[]\r\n");
            client.expect("* 1 FETCH");
        }),
        ("after LOGOUT was sent", |client| client.send("a LOGOUT\r\n")),
    ];
    for tls in [false, true] {
        for (what, act) in &moments {
            let mut client = if tls {
                Client::tls(proxy.places().imaps, &AUTHORITY.client_config())
            } else {
                proxy.client()
            };
            client.login("anna", "secret");
            act(&mut client);
            wipe(client);
            all_gone(&proxy, &backend, what);
        }
    }
    let mut early = proxy.client();
    let before = backend.connections();
    early.send("a LOGIN anna secret\r\n");
    backend.wait_for_connections(before + 1);
    wipe(early);
    all_gone(&proxy, &backend, "during the login");
}

fn wipe(mut client: Client) {
    socket2::SockRef::from(client.wire().socket()).set_linger(Some(Duration::ZERO)).unwrap();
}

fn all_gone(proxy: &Pointsman, backend: &Backend, what: &str) {
    wait_until(&format!("the backend has no connection of a client that vanished {what}"), || {
        (backend.open_connections() == 0).then_some(())
    });
    proxy.wait_for_metrics(
        &format!("nothing is counted of a client that vanished {what}"),
        |now| {
            ["client", "backend", "idle", "opaque", "route_pending"]
                .iter()
                .all(|kind| now.sum(&format!("pointsman_{kind}_sessions"), &[]) == 0.0)
        },
    );
}

/// The classic of Nagle and delayed acknowledgements: 40 ms for every small answer.
#[test]
fn small_commands_never_stall_for_an_acknowledgement() {
    let backend = Backend::start(Opening::clear(), |peer| {
        take_login(peer)?;
        loop {
            let line = peer.line()?;
            let tag = String::from_utf8_lossy(&line).split(' ').next().unwrap().to_owned();
            // Two small packets: the second is what a stalled sender would hold back.
            peer.send("* 1 EXISTS\r\n")?;
            peer.send(format!("{tag} OK done\r\n"))?;
        }
    });
    let proxy = proxy(&backend);
    for tls in [false, true] {
        let mut client = if tls {
            Client::tls(proxy.places().imaps, &AUTHORITY.client_config())
        } else {
            proxy.client()
        };
        client.login("anna", "secret");
        // A stall is there in every round; a busy machine is not.
        let mut rounds = Vec::new();
        let patience = Stopwatch::start();
        let mut calm = false;
        while !calm && patience.elapsed() < support::PATIENCE {
            let mut samples: Vec<Duration> = (0..300).map(|_| round_trip(&mut client)).collect();
            samples.sort_unstable();
            let (p99, last) = (samples[296], samples[299]);
            rounds.push((p99, last));
            calm = p99 < Duration::from_millis(10) && last < Duration::from_millis(35);
        }
        println!("TLS {tls}: 99 % and longest {rounds:?}");
        assert!(calm, "TLS {tls}: 99 % and longest of each round: {rounds:?}");
    }
}

/// A command in two small packets, to its tagged answer.
fn round_trip(client: &mut Client) -> Duration {
    let start = Stopwatch::start();
    client.send("n1 NO");
    client.send("OP\r\n");
    client.expect("* 1 EXISTS");
    client.expect("n1 OK");
    start.elapsed()
}
