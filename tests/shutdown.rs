//! The end of the process: announced, spread over the drain time, without a response cut
//! in two, and never held up by anybody.

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

use std::io::Result;
use std::sync::mpsc;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use support::backend::{Backend, Conversation, Opening};
use support::client::{Client, is_refused};
use support::flood::raise_descriptor_limit;
use support::ordinary::Ordinary;
use support::pointsman::Pointsman;
use support::tls::Authority;
use support::{Stopwatch, large_mail, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const BYE: &str = "* BYE [UNAVAILABLE] The server is restarting";

/// A proxy with these times, e.g. `lame_duck: 100ms, drain: 2s`.
fn proxy(backend: &Backend, shutdown: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        let head = places.head().replace(
            "shutdown: { lame_duck: 100ms, drain: 2s }",
            &format!("shutdown: {{ {shutdown} }}"),
        );
        assert!(head.contains(shutdown));
        format!(
            "{head}shards:\n  s: {{ kind: shared, backends: \
             [ {{ name: b, address: \"127.0.0.1:{}\", tls: none }} ] }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            backend.port()
        )
    })
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn take_login(peer: &mut Conversation) -> Result<()> {
    peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN] hi\r\n")?;
    peer.answer("AUTHENTICATE PLAIN", "{tag} OK [CAPABILITY IMAP4rev1] in\r\n")?;
    peer.wire()?.set_timeout(Duration::from_secs(60))
}

#[test]
fn readiness_falls_at_once_and_the_listeners_follow_after_the_lame_duck() {
    let backend = Backend::ordinary();
    let mut proxy = proxy(&backend, "lame_duck: 5s, drain: 1s");
    let mut early = proxy.logged_in("anna", "secret");
    assert_eq!(proxy.probe("/readyz"), Some(200));
    let clock = Stopwatch::start();
    proxy.terminate();
    wait_until("readyz says 503", || (proxy.probe("/readyz") == Some(503)).then_some(()));
    assert!(clock.elapsed() < seconds(2.0), "{:?}", clock.elapsed());

    // As long as balancers may not have noticed, service goes on as ever.
    let mut late = proxy.logged_in("bert", "secret");
    let mut tls = Client::tls(proxy.places().imaps, &AUTHORITY.client_config());
    tls.login("carl", "secret");
    early.command_ok("NOOP");
    late.expect_silence(Duration::from_millis(200));
    assert_eq!(proxy.probe("/healthz"), Some(200));
    assert_eq!(proxy.probe("/readyz"), Some(503));
    early.command_ok("NOOP");

    let addresses = [proxy.places().imaps, proxy.places().imap, proxy.places().clear];
    wait_until("all listeners are closed", || {
        addresses.iter().all(|at| is_refused(*at)).then_some(())
    });
    assert!(clock.elapsed() > seconds(4.9), "{:?}", clock.elapsed());
    for client in [&mut early, &mut late, &mut tls] {
        client.expect(BYE);
        client.expect_end();
    }
    drop((early, late, tls));
    assert_eq!(proxy.wait_for_end(), 0);
    assert!(clock.elapsed() < seconds(9.0), "{:?}", clock.elapsed());
    backend.wait_until_empty();
}

#[test]
fn without_sessions_the_end_comes_right_after_the_lame_duck() {
    let backend = Backend::ordinary();
    let mut proxy = proxy(&backend, "lame_duck: 100ms, drain: 60s");
    proxy.logged_in("anna", "secret").logout();
    let clock = Stopwatch::start();
    proxy.terminate();
    assert_eq!(proxy.wait_for_end(), 0);
    assert!(clock.elapsed() < seconds(2.0), "{:?}", clock.elapsed());
}

/// B-71 too: a herd that is told at once comes back at once.
#[test]
fn b61_sessions_in_idle_and_between_commands_get_their_bye_spread_over_the_drain() {
    const SESSIONS: usize = 40;
    let backend = Backend::ordinary();
    let mut proxy = proxy(&backend, "lame_duck: 0s, drain: 4s");
    let mut clients: Vec<Client> = (0..SESSIONS)
        .map(|number| {
            let mut client = proxy.logged_in(&format!("user{number}"), "secret");
            if number % 2 == 0 {
                client.send("i IDLE\r\n");
                client.expect("+ ");
            } else {
                client.command_ok("SELECT INBOX");
            }
            client
        })
        .collect();
    let clock = Stopwatch::start();
    proxy.terminate();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let waiting: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let clock = &clock;
                scope.spawn(move || {
                    client.expect(BYE);
                    let told = clock.elapsed();
                    client.expect_end();
                    told
                })
            })
            .collect();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    drop(clients);
    assert_eq!(proxy.wait_for_end(), 0);
    times.sort_unstable();
    let (first, middle, last) = (times[0], times[SESSIONS / 2], times[SESSIONS - 1]);
    assert!(last < seconds(4.5), "{last:?}");
    assert!(last - first > seconds(1.6), "{first:?} to {last:?}");
    assert!(middle - first > seconds(0.3) && last - middle > seconds(0.3), "{times:?}");
    // The end is the last session's, not the drain's.
    assert!(clock.elapsed() < last + seconds(1.5), "{:?} after {last:?}", clock.elapsed());
    backend.wait_until_empty();
}

/// B-82: inside a response there is no place for a BYE.
#[test]
fn b82_a_running_fetch_and_a_running_append_are_finished_before_the_bye() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::start(Opening::clear(), move |peer| {
        take_login(peer)?;
        if peer.number() == 1 {
            peer.answer("APPEND INBOX {20}", "+ go on\r\n")?;
            peer.exactly(22)?;
            peer.send("a1 OK stored\r\n")?;
            return peer.hang();
        }
        let tag = peer.expect("FETCH 1")?;
        peer.send("* 1 FETCH (BODY[] {10}\r\n01234")?;
        let _ = wait.lock().unwrap().recv();
        peer.send(format!("56789)\r\n* 2 EXISTS\r\n{tag} OK done\r\n"))?;
        peer.hang()
    });
    let mut proxy = proxy(&backend, "lame_duck: 0s, drain: 8s");
    let mut reading = proxy.logged_in("anna", "secret");
    reading.send("f1 FETCH 1 BODY[]\r\n");
    reading.expect("* 1 FETCH");
    assert_eq!(reading.read_exactly(5), b"01234");
    let mut writing = proxy.logged_in("bert", "secret");
    writing.send("a1 APPEND INBOX {20}\r\n");
    writing.expect("+ go on");
    writing.send("0123456789");

    let clock = Stopwatch::start();
    proxy.terminate();
    // By then every BYE that may go out has gone out.
    reading.expect_silence(seconds(6.6));
    go.send(()).unwrap();
    writing.send("0123456789\r\n");
    writing.expect("a1 OK stored");
    for line in ["56789)", "* 2 EXISTS", "f1 OK done", BYE] {
        reading.expect(line);
    }
    writing.expect(BYE);
    reading.expect_end();
    writing.expect_end();
    assert!(clock.elapsed() < seconds(8.0), "{:?}", clock.elapsed());
    drop((reading, writing));
    assert_eq!(proxy.wait_for_end(), 0);
    backend.assert_no_faults();
}

#[test]
fn b82_a_response_that_does_not_end_is_cut_at_the_end_of_the_drain_without_a_word_in_it() {
    let backend = Backend::start(Opening::clear(), |peer| {
        take_login(peer)?;
        peer.expect("FETCH 1")?;
        peer.send("* 1 FETCH (BODY[] {10}\r\n01234")?;
        peer.hang()
    });
    let mut proxy = proxy(&backend, "lame_duck: 0s, drain: 1s");
    let mut client = proxy.logged_in("anna", "secret");
    client.send("f1 FETCH 1 BODY[]\r\n");
    client.expect("* 1 FETCH");
    let clock = Stopwatch::start();
    proxy.terminate();
    assert_eq!(client.read_to_end(), b"01234");
    assert!(clock.elapsed() > seconds(0.9), "{:?}", clock.elapsed());
    drop(client);
    assert_eq!(proxy.wait_for_end(), 0);
    assert!(clock.elapsed() < seconds(4.0), "{:?}", clock.elapsed());
}

/// B-66: neither who does not read nor who does not close holds up the end.
#[test]
fn b66_clients_that_never_read_and_backends_that_never_close_do_not_hold_up_the_end() {
    let mail = large_mail(8 << 20);
    let ordinary = Ordinary::new().mails(vec![mail]);
    let backend = Backend::start(Opening::clear(), move |peer| ordinary.converse(peer));
    let mut proxy = proxy(&backend, "lame_duck: 0s, drain: 1s");
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = if number % 2 == 0 {
            proxy.client()
        } else {
            Client::tls(proxy.places().imaps, &AUTHORITY.client_config())
        };
        client.login(&format!("user{number}"), "secret");
        client.send("f1 FETCH 1 BODY[]\r\n");
        client.expect("* 1 FETCH");
        if number > 1 {
            client.send("f2 FETCH 1 BODY[]\r\n");
        }
        clients.push(client);
    }
    let mut half = proxy.logged_in("dora", "secret");
    half.send("x FETCH 1 (FLA");
    let clock = Stopwatch::start();
    proxy.terminate();
    assert_eq!(proxy.wait_for_end(), 0);
    assert!(clock.elapsed() < seconds(6.0), "{:?}", clock.elapsed());
    drop((clients, half));
    backend.wait_until_empty();
}

/// B-66: a backend that does not close is given up; its session is none that the end must cut.
#[test]
fn b66_a_backend_that_never_closes_is_given_up_before_all_is_cut() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::start(Opening::clear(), move |peer| {
        take_login(peer)?;
        let _ = wait.lock().unwrap().recv();
        Ok(())
    });
    let mut proxy = proxy(&backend, "lame_duck: 0s, drain: 1s");
    let mut client = proxy.logged_in("anna", "secret");
    proxy.terminate();
    client.expect(BYE);
    client.expect_end();
    drop(client);
    assert_eq!(proxy.wait_for_end(), 0);
    assert!(!proxy.log().contains("sessions cut"), "{}", proxy.log());
    drop(go);
}

/// Sessions in IDLE may last for days: the drain ends them all, spread over its time.
#[test]
fn b71_a_thousand_sessions_in_idle_are_gone_within_the_drain() {
    const SESSIONS: usize = 1_000;
    raise_descriptor_limit();
    let backend = Backend::start(Opening::clear(), |peer| {
        take_login(peer)?;
        peer.answer("IDLE", "+ idling\r\n")?;
        peer.hang()
    });
    let mut proxy = Pointsman::start(&AUTHORITY, |places| {
        let head = places.head().replace("lame_duck: 100ms, drain: 2s", "lame_duck: 0s, drain: 4s");
        let head = head.replace("level: debug", "level: warn");
        let limits = "limits: { failed_login_delay: 100ms";
        head.replace(limits, &format!("{limits}, exempt: [127.0.0.0/8]"))
            + &format!(
                "shards:\n  s: {{ kind: shared, backends: \
                 [ {{ name: b, address: \"127.0.0.1:{}\", tls: none }} ] }}\n\
                 routing: {{ lookups: [ {{ shard: s }} ] }}\n",
                backend.port()
            )
    });
    let mut clients: Vec<Client> = (0..SESSIONS)
        .map(|number| {
            let mut client = proxy.logged_in(&format!("user{number}"), "secret");
            client.send("i IDLE\r\n");
            client.expect("+ ");
            client
        })
        .collect();
    let clock = Stopwatch::start();
    proxy.terminate();
    wait_until("the first tenth is told", || {
        (backend.open_connections() < SESSIONS * 9 / 10).then_some(())
    });
    let first = clock.elapsed();
    backend.wait_until_empty();
    let last = clock.elapsed();
    assert!(last - first > seconds(1.5), "{first:?} to {last:?}");
    assert!(last < seconds(6.0), "{last:?}");
    for client in &mut clients {
        client.expect(BYE);
        client.expect_end();
    }
    drop(clients);
    assert_eq!(proxy.wait_for_end(), 0);
}

/// B-82 too: no border is known where the framing is lost, and none is in half a line.
#[test]
fn b83_in_idle_a_bye_comes_between_lines_and_never_where_no_border_is_known() {
    for (pushed, rest) in [("* 5 EXI", ""), ("what is this\r\n", ""), ("* 5 EXI", "STS\r\n")] {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let backend = Backend::start(Opening::clear(), move |peer| {
            take_login(peer)?;
            peer.answer("IDLE", "+ idling\r\n")?;
            peer.send(pushed)?;
            let _ = wait.lock().unwrap().recv();
            peer.send(rest)?;
            peer.hang()
        });
        let mut proxy = proxy(&backend, "lame_duck: 0s, drain: 2s");
        let mut client = proxy.logged_in("anna", "secret");
        client.send("i IDLE\r\n");
        client.expect("+ idling");
        assert_eq!(client.read_exactly(pushed.len()), pushed.as_bytes());
        proxy.terminate();
        wait_until("the listener is closed", || is_refused(proxy.places().clear).then_some(()));
        go.send(()).unwrap();
        let wanted = if rest.is_empty() { String::new() } else { format!("{rest}{BYE}") };
        let told = String::from_utf8(client.read_to_end()).unwrap();
        assert!(told.starts_with(&wanted), "{pushed:?}: {told:?}");
        assert_eq!(told.is_empty(), wanted.is_empty(), "{pushed:?}: {told:?}");
        drop(client);
        assert_eq!(proxy.wait_for_end(), 0);
    }
}

#[test]
fn a_client_that_is_not_logged_in_gets_a_bye_too() {
    let backend = Ordinary::new().delay("AUTHENTICATE", Duration::from_secs(1)).start();
    let mut proxy = proxy(&backend, "lame_duck: 2s, drain: 2s");
    let mut silent = proxy.client();
    let mut speaking = proxy.client();
    speaking.command_ok("NOOP");
    speaking.send("h LOG");
    let mut tls = Client::tls(proxy.places().imaps, &AUTHORITY.client_config());
    let mut starttls = Client::clear(proxy.places().imap);
    starttls.starttls("localhost", &AUTHORITY.client_config());
    let mut no_hello = Client::connect(proxy.places().imaps).unwrap();
    let clock = Stopwatch::start();
    proxy.terminate();
    let mut late = proxy.client();
    // Theirs too is spread over the drain.
    for client in [&mut silent, &mut speaking, &mut tls, &mut starttls, &mut late] {
        client.expect(BYE);
        client.expect_end();
    }
    assert!(clock.elapsed() < seconds(7.0), "{:?}", clock.elapsed());
    drop((silent, speaking, tls, starttls, late));
    // Without TLS nothing can be said to it.
    no_hello.expect_end();
    drop(no_hello);
    assert_eq!(proxy.wait_for_end(), 0);
    assert!(clock.elapsed() < seconds(7.0), "{:?}", clock.elapsed());
}

#[test]
fn a_login_on_its_way_is_answered_before_the_bye() {
    let backend = Ordinary::new().delay("AUTHENTICATE", Duration::from_millis(900)).start();
    let mut proxy = proxy(&backend, "lame_duck: 0s, drain: 3s");
    let mut client = proxy.client();
    client.send("l LOGIN anna secret\r\n");
    wait_until("the backend has the credentials", || {
        (backend.connections() == 1 && backend.received_text(0).contains("AUTHENTICATE"))
            .then_some(())
    });
    proxy.terminate();
    client.expect("l OK ");
    client.expect(BYE);
    client.expect_end();
    drop(client);
    assert_eq!(proxy.wait_for_end(), 0);
}

#[test]
fn a_second_signal_or_an_interrupt_ends_at_once() {
    let second = [Some(Signal::TERM), Some(Signal::INT), None];
    for (number, second) in second.into_iter().enumerate() {
        let backend = Backend::ordinary();
        let mut proxy = proxy(&backend, "lame_duck: 60s, drain: 60s");
        let mut client = proxy.logged_in("anna", "secret");
        client.send("i IDLE\r\n");
        client.expect("+ ");
        let clock;
        if let Some(second) = second {
            proxy.terminate();
            proxy.wait_for_log("a second signal ends at once");
            client.expect_silence(Duration::from_millis(200));
            clock = Stopwatch::start();
            proxy.process().signal(second);
        } else {
            clock = Stopwatch::start();
            proxy.process().signal(Signal::INT);
        }
        assert_eq!(proxy.wait_for_end(), 0, "case {number}");
        assert!(clock.elapsed() < seconds(5.0), "case {number}: {:?}", clock.elapsed());
        // The kernel closes what is left; nothing was said in the wrong place.
        client.expect_end();
        backend.wait_until_empty();
    }
}

#[test]
fn a_second_signal_ends_at_once_in_the_middle_of_the_drain_too() {
    let backend = Backend::ordinary();
    let mut proxy = proxy(&backend, "lame_duck: 0s, drain: 60s");
    let mut client = proxy.logged_in("anna", "secret");
    client.send("a APPEND INBOX {100}\r\n");
    client.expect("+ ");
    proxy.terminate();
    wait_until("the listener is closed", || is_refused(proxy.places().clear).then_some(()));
    client.expect_silence(Duration::from_millis(200));
    let clock = Stopwatch::start();
    proxy.terminate();
    assert_eq!(proxy.wait_for_end(), 0);
    assert!(clock.elapsed() < seconds(5.0), "{:?}", clock.elapsed());
}
