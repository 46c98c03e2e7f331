//! Between the client's credentials and the relay: what a backend may say there, who is
//! told of it, and that neither a herd nor a fault takes others along.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and pauses are real"
)]

mod support;

use std::net::TcpStream;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;

use support::backend::{Backend, Conversation, Opening, fault};
use support::client::Client;
use support::pointsman::Pointsman;
use support::tls::Authority;
use support::{Stopwatch, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n";

/// What a backend does with every connection.
type Script = fn(&mut Conversation) -> std::io::Result<()>;

fn shard(backend: &Backend) -> String {
    format!(
        "shards:\n  s: {{ kind: primary, backends: \
         [ {{ name: b, address: \"{}\", tls: none }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        backend.address()
    )
}

fn start(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        let upstream = "upstream: { connect_timeout: 1s, login_timeout: 1s }\n";
        places.head() + upstream + &shard(backend)
    })
}

/// A backend that answers the credentials so; `{tag}` is the proxy's tag.
fn answering(answer: &'static str) -> Backend {
    Backend::start(Opening::clear(), move |peer| {
        peer.send(GREETING)?;
        peer.answer("AUTHENTICATE PLAIN ", answer)?;
        peer.hang()
    })
}

fn assert_unavailable(client: &mut Client, what: &str) {
    let told = client.try_login("anna", "secret");
    assert!(told.status.starts_with("NO [UNAVAILABLE] "), "{what}: {}", told.status);
    assert!(told.untagged.is_empty(), "{what}: {}", told.text());
    client.command_ok("NOOP");
}

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Gmail and others list their capabilities untagged before the OK.
#[test]
fn b46_a_list_before_the_ok_is_the_clients_filtered_and_the_rest_passes() {
    let backend = answering(
        "* CAPABILITY IMAP4rev1 IDLE COMPRESS=DEFLATE UNAUTHENTICATE\r\n\
         * OK [ALERT] Mind the gap\r\n* XSTRANGE 1 (2 3)\r\n{tag} OK in\r\n",
    );
    let proxy = start(&backend);
    let mut client = proxy.client();
    let told = client.login("anna", "secret");
    assert_eq!(told.text(), "* OK [ALERT] Mind the gap\r\n* XSTRANGE 1 (2 3)\r\n");
    assert_eq!(told.status, "OK [CAPABILITY IMAP4rev1 IDLE] in");
    backend.assert_no_faults();
}

/// A client that hears BYE goes away, though its next try could be at a sound backend.
#[test]
fn b46_a_bye_of_the_backend_is_hidden_while_another_try_is_possible() {
    for answer in [
        "* BYE going down\r\n",
        "* OK [ALERT] soon\r\n* BYE going down\r\n{tag} NO [UNAVAILABLE] gone\r\n",
        "* BYE going down\r\n{tag} OK [CAPABILITY IMAP4rev1] in\r\n",
    ] {
        let backend = answering(answer);
        let proxy = start(&backend);
        assert_unavailable(&mut proxy.client(), answer);
        backend.wait_until_empty();
    }
}

/// Megabytes before the answer, in lines or in one: given up early and not kept.
#[test]
fn b46_untagged_data_without_end_fails_the_login_and_is_not_kept() {
    // More than the kernel holds for both ends, so that a write of all of it must fail.
    const JUNK_BYTES: usize = 32 << 20;
    let floods: [(&str, Script); 4] = [
        ("lines after the credentials", |peer| {
            peer.send(GREETING)?;
            peer.expect("AUTHENTICATE")?;
            peer.send("* 1 FETCH (X \"junk junk junk junk\")\r\n".repeat(JUNK_BYTES / 36))
        }),
        ("long lines after the credentials", |peer| {
            peer.send(GREETING)?;
            peer.expect("AUTHENTICATE")?;
            let line = format!("* OK {}\r\n", "x".repeat(8_000));
            peer.send(line.repeat(JUNK_BYTES / 8_000))
        }),
        ("one line after the credentials", |peer| {
            peer.send(GREETING)?;
            peer.expect("AUTHENTICATE")?;
            peer.send("* ".to_owned() + &"x".repeat(JUNK_BYTES))
        }),
        ("lines before the credentials", |peer| {
            peer.send("* OK hi\r\n")?;
            peer.expect("CAPABILITY")?;
            peer.send("* OK have patience\r\n".repeat(JUNK_BYTES / 20))
        }),
    ];
    for (what, flood) in floods {
        let backend = Backend::start(Opening::clear(), move |peer| {
            // The proxy closes in the middle of it.
            match flood(peer) {
                Ok(()) => Err(fault("all of it was taken".to_owned())),
                Err(_) => Ok(()),
            }
        });
        // Time enough to take all of it, so that no deadline stands in for the bounds.
        let mut proxy = Pointsman::start(&AUTHORITY, |places| {
            let upstream = "upstream: { connect_timeout: 60s, login_timeout: 60s, \
                            connect_tries: 1 }\n";
            places.head() + upstream + &shard(&backend)
        });
        let id = proxy.process().id();
        assert_unavailable(&mut proxy.client(), what);
        let before = resident_kib(id);
        for _ in 0..4 {
            assert_unavailable(&mut proxy.client(), what);
        }
        backend.wait_until_empty();
        backend.assert_no_faults();
        let grown = resident_kib(id).saturating_sub(before);
        assert!(grown < 4_096, "{what}: {grown} KiB more");
    }
}

/// What is kept for the client has a bound of its own, however few its lines are.
#[test]
fn b46_a_few_long_lines_before_the_answer_fail_the_login_too() {
    let long = format!("* OK {}\r\n", "x".repeat(8_000));
    for (lines, taken) in [(2, true), (3, false)] {
        let answer = long.repeat(lines) + "{tag} OK [CAPABILITY IMAP4rev1] in\r\n";
        let backend = answering(Box::leak(answer.into_boxed_str()));
        let proxy = start(&backend);
        if taken {
            assert_eq!(proxy.client().login("anna", "secret").text(), long.repeat(lines));
        } else {
            assert_unavailable(&mut proxy.client(), "three long lines");
        }
        backend.wait_until_empty();
    }
}

/// Only the tag that the proxy chose for its login takes it; the credentials went once.
#[test]
fn b47_an_answer_with_another_tag_is_no_login() {
    let own = "{tag} OK [CAPABILITY IMAP4rev1] in\r\n";
    let answers: [(&str, String); 6] = [
        ("the client's tag", "t1 OK [CAPABILITY IMAP4rev1] in\r\n".to_owned()),
        ("a wrong tag", "x OK [CAPABILITY IMAP4rev1] in\r\n".to_owned()),
        ("a wrong tag, then the right one", format!("x NO wrong\r\n{own}")),
        ("the tag in front of a longer one", own.replace("{tag}", "{tag}0")),
        ("a tag that is cut", own.replace("{tag}", "")),
        ("no tag", "OK [CAPABILITY IMAP4rev1] in\r\n".to_owned()),
    ];
    for (what, answer) in answers {
        let backend = answering(Box::leak(answer.into_boxed_str()));
        let proxy = start(&backend);
        assert_unavailable(&mut proxy.client(), what);
        let asked = backend.received_text(0);
        assert_eq!(asked.matches("AUTHENTICATE").count(), 1, "{what}: {asked}");
        assert_eq!(backend.connections(), 1, "{what}");
    }
    // Before it was asked: nothing is taken for the answer, and no password goes out.
    for early in ["t1 OK in\r\n", "A1 OK [CAPABILITY IMAP4rev1] in\r\n", "+ go on\r\n"] {
        let backend = Backend::start(Opening::clear(), move |peer| {
            peer.send(format!("* OK hi\r\n{early}"))?;
            peer.hang()
        });
        let proxy = start(&backend);
        assert_unavailable(&mut proxy.client(), early);
        assert!(!backend.received_text(0).contains("AUTH"), "{early}");
    }
}

/// Each side's way to write a continuation is understood, and the strict one is written.
#[test]
fn b49_continuations_are_sent_with_their_blank_and_taken_without() {
    for plus in ["+\r\n", "+ \r\n", "+ go on, please\r\n", "+ R28gb24=\r\n"] {
        let sasl = Backend::start(Opening::clear(), move |peer| {
            peer.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi\r\n")?;
            let tag = peer.expect("AUTHENTICATE PLAIN")?;
            peer.send(plus)?;
            let message = STANDARD.decode(peer.line()?).unwrap_or_default();
            peer.note_login("PLAIN", b"", b"", &message);
            peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
            peer.hang()
        });
        let literals = Backend::start(Opening::clear(), move |peer| {
            peer.send("* OK [CAPABILITY IMAP4rev1] hi\r\n")?;
            let tag = peer.expect("LOGIN {4}")?;
            peer.send(plus)?;
            let user = peer.line()?;
            peer.send(plus)?;
            let password = peer.line()?;
            peer.note_login("LOGIN", b"", &user, &password);
            peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
            peer.hang()
        });
        for (backend, user, password) in
            [(&sasl, &b""[..], &b"\0anna\0secret"[..]), (&literals, b"anna {6}", b"secret")]
        {
            start(backend).logged_in("anna", "secret");
            let login = backend.logins().remove(0);
            assert_eq!((login.user.as_slice(), login.password.as_slice()), (user, password));
            backend.assert_no_faults();
        }
    }
    // Strict parsers want text behind the `+ ` of a literal, others nothing in SASL.
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let mut client = proxy.client();
    client.send("a LOGIN {4}\r\n");
    assert!(client.read_line().len() > "+ ".len());
    client.send("anna {6}\r\n");
    assert!(client.expect("+ ").len() > "+ ".len());
    client.send("secret\r\n");
    client.expect("a OK");
    let mut client = proxy.client();
    client.send("a AUTHENTICATE PLAIN\r\n");
    assert_eq!(client.read_line(), "+ ");
    client.send("AGFubmEAc2VjcmV0\r\n");
    client.expect("a OK");
}

/// Logins that failed together do not come back together: each waits a time of its own.
#[test]
fn b61_tries_at_a_backend_that_is_down_are_spread() {
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let backend = {
        let times = Arc::clone(&times);
        Backend::start(Opening::clear(), move |_| {
            times.lock().unwrap().push(Instant::now());
            Ok(())
        })
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let upstream = "upstream: { connect_tries: 3, skip_failed: 1ms }\n";
        places.head() + upstream + &shard(&backend)
    });
    let mut pauses = Vec::new();
    for _ in 0..10 {
        assert_unavailable(&mut proxy.client(), "down");
        let tried = std::mem::take(&mut *times.lock().unwrap());
        assert_eq!(tried.len(), 3);
        pauses.extend(tried.windows(2).map(|two| two[1] - two[0]));
    }
    pauses.sort_unstable();
    // Pauses of one length would differ by no more than what a slow machine adds.
    assert!(pauses[0] >= Duration::from_millis(100), "{pauses:?}");
    assert!(pauses[19].saturating_sub(pauses[0]) > Duration::from_millis(60), "{pauses:?}");
}

/// After an outage everybody connects at once: the kernel keeps them until they are taken.
#[test]
fn b61_a_herd_waits_in_the_backlog() {
    const HERD: usize = 400;
    let backend = Backend::ordinary();
    let mut proxy = Pointsman::start(&AUTHORITY, |places| {
        let limits = "limits: { exempt: [127.0.0.0/8] }\n";
        places.head_without_limits() + limits + &shard(&backend)
    });
    let address = proxy.places().clear;
    proxy.process().signal(Signal::STOP);
    let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(3));
    let herd: Result<Vec<TcpStream>, _> = (0..HERD).map(connect).collect();
    proxy.process().signal(Signal::CONT);
    for socket in herd.unwrap() {
        socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let mut greeting = [0; 4];
        std::io::Read::read_exact(&mut &socket, &mut greeting).unwrap();
        assert_eq!(&greeting, b"* OK");
    }
}

/// A backend whose logins hang looks sound to a check of its port: the login ends at its
/// deadline, and is no wrong password. Active checks of logins are a later part.
#[test]
fn b62_a_backend_that_greets_and_hangs_on_the_login_is_unavailable_in_time() {
    let backend = Backend::start(Opening::clear(), |peer| {
        peer.send(GREETING)?;
        peer.expect("AUTHENTICATE")?;
        peer.hang()
    });
    let proxy = start(&backend);
    let mut client = proxy.client();
    let watch = Stopwatch::start();
    assert_unavailable(&mut client, "hanging");
    let took = watch.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(backend.connections(), 1, "credentials go to a backend once");
    backend.wait_until_empty();
    let failed = [("reason", "timeout")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_backend_failures_total", &failed) > 0.5
    });
}

/// A panic is the end of its session alone: the others go on, it is counted, its place
/// is given back, and what it says, which may be a peer's words, is not logged.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can be asked to panic")]
fn b73_a_fault_in_one_session_ends_that_session_alone() {
    let backend = Backend::ordinary();
    let fault = [("POINTSMAN_FAULT_USER", "eve")];
    let proxy = Pointsman::start_with(&AUTHORITY, &fault, |places| {
        let limits = "limits: { sessions_per_user: 2, unauthenticated_per_address: 2 }\n";
        places.head_without_limits() + limits + &shard(&backend)
    });
    let mut held: Vec<Client> =
        (0..8).map(|number| proxy.logged_in(&format!("user{number}"), "secret")).collect();
    for _ in 0..10 {
        let mut client = proxy.client();
        client.send("a LOGIN eve hunter2\r\n");
        client.expect_end();
    }
    for client in &mut held {
        client.command_ok("SELECT INBOX");
    }
    proxy.logged_in("anna", "secret").logout();
    wait_until("only the sound sessions are left", || {
        (backend.open_connections() == held.len()).then_some(())
    });
    let ended = [("reason", "fault")];
    let metrics = proxy.wait_for_metrics("the faults are counted", |now| {
        now.sum("pointsman_sessions_closed_total", &ended) > 9.5
            && now.sum("pointsman_client_sessions", &[]) < 8.5
    });
    assert!(metrics.sum("pointsman_backend_sessions", &[]) < 8.5);
    assert!(metrics.sum("pointsman_held_sessions", &[]) < 0.5);
    wait_until("all ten are told", || {
        (proxy.log().matches("reason=fault").count() == 10).then_some(())
    });
    let log = proxy.log();
    assert!(log.contains("place="), "{log}");
    assert!(!log.contains("hunter2") && !log.contains("asked for by"), "{log}");
}
