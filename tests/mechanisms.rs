//! Mechanisms that the backend finishes: SCRAM, OAUTHBEARER and XOAUTH2, message by message.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::io::Result;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use support::backend::{Backend, Conversation, Opening, fault};
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman, check};
use support::tls::Authority;
use support::{PATIENCE, Stopwatch, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const FIRST: &str = "n,,n=anna,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTC,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTC,p=dHzbZapWIk4jUhN+Ute9ytag9zjf";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
const BEARER: &str = "n,a=anna,\x01host=mail.example\x01port=143\x01auth=Bearer token\x01\x01";
const XOAUTH2: &str = "user=anna\x01auth=Bearer token\x01\x01";
const TOKEN_ERROR: &str = r#"{"status":"invalid_token","scope":"mail"}"#;
const IN: &str = "{tag} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n";
const REFUSED: &str = "{tag} NO [AUTHENTICATIONFAILED] no such token\r\n";
const FAILED: &str = "NO [AUTHENTICATIONFAILED] Authentication failed.";
const ALL: &str = "SCRAM-SHA-256, SCRAM-SHA-1, OAUTHBEARER, XOAUTH2, PLAIN, LOGIN";
const HURRY: &str = "upstream: { connect_timeout: 2s, login_timeout: 3s, skip_failed: 50ms }\n";

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// The common head, with all mechanisms on the clear listener and these limits.
fn head(places: &Places, limits: &str) -> String {
    let clear = "allow_clear_login: true";
    let head = places.head_without_limits();
    let head = head.replace(clear, &format!("{clear}, mechanisms: [{ALL}]"));
    format!("{head}limits: {{ failed_login_delay: 1ms, {limits} }}\n{HURRY}")
}

fn shard(name: &str, backend: &Backend) -> String {
    format!(
        "  {name}: {{ kind: shared, backends: \
         [ {{ name: {name}1, address: \"{}\", tls: none }} ] }}\n",
        backend.address()
    )
}

fn start_with(backend: &Backend, limits: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| configuration(places, backend, limits))
}

fn configuration(places: &Places, backend: &Backend, limits: &str) -> String {
    let (head, shard) = (head(places, limits), shard("s", backend));
    format!("{head}shards:\n{shard}routing: {{ lookups: [ {{ shard: s }} ] }}\n")
}

fn start(backend: &Backend) -> Pointsman {
    start_with(backend, "login_tries: 100")
}

/// What a backend does behind its greeting: the messages that it must get, decoded, and what it
/// says to each.
type Turns<'a> = &'a [(&'a str, String)];

/// Greets with these capabilities, leads one exchange and goes on as an ordinary server. `plus`
/// asks for a first message that did not come with the command.
fn exchange(peer: &mut Conversation, list: &str, plus: &str, turns: Turns<'_>) -> Result<()> {
    peer.send(format!("* OK [CAPABILITY IMAP4rev1 {list}] hi\r\n"))?;
    let line = String::from_utf8_lossy(&peer.line()?).into_owned();
    let mut words = line.split(' ');
    let tag = words.next().unwrap_or_default().to_owned();
    let mut first = words.nth(2).map(str::to_owned);
    if first.is_some() != list.contains("SASL-IR") {
        return Err(fault(format!("an initial response where it should not be: {line}")));
    }
    if first.is_none() {
        peer.send(plus)?;
    }
    for (expected, reply) in turns {
        let message = if let Some(message) = first.take() {
            message
        } else {
            String::from_utf8_lossy(&peer.line()?).into_owned()
        };
        let is_cancel = message == "*" && *expected == "*";
        if !is_cancel && STANDARD.decode(&message).ok().as_deref() != Some(expected.as_bytes()) {
            return Err(fault(format!("expected {expected:?}, got {message:?}")));
        }
        peer.send(reply.replace("{tag}", &tag))?;
    }
    if turns.last().is_some_and(|(_, reply)| reply.contains(" OK ")) {
        return Ordinary::new().serve(peer);
    }
    peer.hang()
}

fn challenge(text: &str) -> String {
    format!("+ {}\r\n", base64(text))
}

fn scram() -> Vec<(&'static str, String)> {
    vec![(FIRST, challenge(SERVER_FIRST)), (FINAL, challenge(SERVER_FINAL)), ("", IN.to_owned())]
}

/// A backend that leads each connection through the same turns.
fn leading(list: &'static str, turns: Vec<(&'static str, String)>) -> Backend {
    Backend::start(Opening::clear(), move |peer| exchange(peer, list, "+ \r\n", &turns))
}

/// Begins an exchange, with or without an initial response.
fn begin(client: &mut Client, mechanism: &str, first: &str, initial: bool) {
    if initial {
        client.send(format!("a AUTHENTICATE {mechanism} {}\r\n", base64(first)));
        return;
    }
    client.send(format!("a AUTHENTICATE {mechanism}\r\n"));
    assert_eq!(client.read_line(), "+ ");
    client.send(format!("{}\r\n", base64(first)));
}

fn expect_challenge(client: &mut Client, text: &str) {
    assert_eq!(client.read_line(), format!("+ {}", base64(text)));
}

fn counted(proxy: &Pointsman, mechanism: &str, result: &str) -> f64 {
    let labels = [("mechanism", mechanism), ("result", result)];
    proxy.metrics().sum("pointsman_logins_total", &labels)
}

fn assert_nobody_is_left(proxy: &Pointsman, backend: &Backend) {
    wait_until("the backend is left", || (backend.open_connections() == 0).then_some(()));
    wait_until("nobody is held", || {
        (proxy.metrics().sum("pointsman_held_sessions", &[]) < 0.5).then_some(())
    });
}

/// B-49, B-50: with and without an initial response on either side, and whatever the `+` of a
/// backend looks like; what is pipelined behind the last message keeps its place.
#[test]
fn b50_scram_is_passed_message_by_message_however_both_sides_begin() {
    for (mechanism, label) in [("SCRAM-SHA-256", "scram_sha_256"), ("SCRAM-SHA-1", "scram_sha_1")] {
        for (ir, plus) in [(" SASL-IR", ""), ("", "+ \r\n"), ("", "+\r\n")] {
            let list = format!("AUTH={mechanism}{ir}");
            let backend =
                Backend::start(Opening::clear(), move |peer| exchange(peer, &list, plus, &scram()));
            let proxy = start(&backend);
            for initial in [true, false] {
                let mut client = proxy.client();
                begin(&mut client, mechanism, FIRST, initial);
                expect_challenge(&mut client, SERVER_FIRST);
                client.send(format!("{}\r\n", base64(FINAL)));
                expect_challenge(&mut client, SERVER_FINAL);
                client.send("\r\nb NOOP\r\nc CHECK\r\n");
                client.expect("a OK [CAPABILITY IMAP4rev1 IDLE] in");
                client.expect("b OK");
                client.expect("c OK");
                client.logout();
            }
            backend.assert_no_faults();
            wait_until("it is counted", || {
                ((counted(&proxy, label, "ok") - 2.0).abs() < 0.5).then_some(())
            });
        }
    }
}

/// The token goes out once, as it came; the longest that the design takes too.
#[test]
fn oauth_tokens_reach_the_backend_in_one_message() {
    let long = format!("user=anna\x01auth=Bearer {}\x01\x01", "t".repeat(11_000));
    for (mechanism, message) in
        [("OAUTHBEARER", BEARER.to_owned()), ("XOAUTH2", XOAUTH2.to_owned()), ("XOAUTH2", long)]
    {
        for ir in [" SASL-IR", ""] {
            let list = format!("AUTH={mechanism}{ir}");
            // Longer than a command line: behind the `+` in any case.
            let list = if message.len() > 8_000 { list.replace(" SASL-IR", "") } else { list };
            let expected = message.clone();
            let backend = Backend::start(Opening::clear(), move |peer| {
                exchange(peer, &list, "+ \r\n", &[(&expected, IN.to_owned())])
            });
            let proxy = start(&backend);
            for initial in [true, false] {
                let mut client = proxy.client();
                begin(&mut client, mechanism, &message, initial);
                client.expect("a OK [CAPABILITY IMAP4rev1 IDLE] in");
                client.logout();
            }
            backend.assert_no_faults();
        }
    }
}

#[test]
fn what_is_listed_is_offered_and_channel_binding_never() {
    let backend = leading("AUTH=SCRAM-SHA-256", scram());
    let proxy = start(&backend);
    let mut client = Client::connect(proxy.places().clear).unwrap();
    let greeting = client.expect("* OK [CAPABILITY ");
    let offered = "AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-1 AUTH=OAUTHBEARER AUTH=XOAUTH2 AUTH=PLAIN \
                   AUTH=LOGIN]";
    assert!(greeting.contains(offered), "{greeting}");
    assert!(!greeting.contains("-PLUS"), "{greeting}");
    client.send("a AUTHENTICATE SCRAM-SHA-256-PLUS\r\n");
    client.expect("a NO [CANNOT]");
    for bound in ["p=tls-exporter,,n=anna,r=x", "p=tls-unique,a=anna,n=anna,r=x"] {
        begin(&mut client, "SCRAM-SHA-256", bound, true);
        client.expect("a BAD");
    }
    assert_eq!(backend.connections(), 0);
}

/// B-45: the next try is routed afresh, over a connection of its own.
#[test]
fn b45_after_a_failed_exchange_the_next_user_reaches_the_other_shard() {
    let north = leading(
        "SASL-IR AUTH=SCRAM-SHA-256",
        vec![(FIRST, challenge(SERVER_FIRST)), (FINAL, "{tag} NO wrong\r\n".to_owned())],
    );
    let south = Ordinary::new().start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        std::fs::write(places.file("users"), "anna north\nbert south\n").unwrap();
        let file = places.file("users");
        format!(
            "{}shards:\n{}{}routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
            head(places, "login_tries: 5"),
            shard("north", &north),
            shard("south", &south),
            file.display()
        )
    });
    let mut client = proxy.client();
    begin(&mut client, "SCRAM-SHA-256", FIRST, true);
    expect_challenge(&mut client, SERVER_FIRST);
    client.send(format!("{}\r\nb LOGIN bert secret\r\n", base64(FINAL)));
    client.expect(&format!("a {FAILED}"));
    client.expect("b OK");
    assert_eq!((north.connections(), south.logins().len()), (1, 1));
    wait_until("the first backend is left", || (north.open_connections() == 0).then_some(()));
    let mut stranger = proxy.client();
    begin(&mut stranger, "SCRAM-SHA-256", "n,,n=nobody,r=x", true);
    stranger.expect(&format!("a {FAILED}"));
    wait_until("it is counted", || {
        ((counted(&proxy, "scram_sha_256", "auth_failed") - 2.0).abs() < 0.5).then_some(())
    });
}

/// An empty message with the command (RFC 4959 section 3) and behind it: named by nobody, it
/// is refused without a backend, and the connection goes on.
#[test]
fn b52_an_empty_first_message_is_refused_whatever_the_mechanism() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2", "LOGIN"] {
        for (initial, line) in [(" =", None), ("", Some("")), ("", Some("="))] {
            let mut client = proxy.client();
            client.send(format!("a AUTHENTICATE {mechanism}{initial}\r\n"));
            if let Some(line) = line {
                client.expect("+ ");
                client.send(format!("{line}\r\n"));
            }
            expect_refusal(&mut client, mechanism);
            client.command_ok("NOOP");
            client.login("anna", "secret");
        }
    }
    assert_eq!(backend.users(), ["anna"; 15]);
}

/// Of a token without a user a client may first be told why (RFC 7628 section 3.2.2).
fn expect_refusal(client: &mut Client, mechanism: &str) {
    let line = client.read_line();
    let Some(reason) = line.strip_prefix("+ ") else {
        assert!(line.starts_with("a BAD "), "{mechanism}: {line}");
        return;
    };
    assert!(["OAUTHBEARER", "XOAUTH2"].contains(&mechanism), "{mechanism}: {line}");
    let reason = STANDARD.decode(reason).unwrap();
    let reason: serde_json::Value = serde_json::from_slice(&reason).unwrap();
    assert!(reason["status"].is_string(), "{mechanism}: {line}");
    client.send("\r\n");
    client.expect("a NO [AUTHENTICATIONFAILED] ");
}

/// An empty password is one, and the backend's to judge; `=` is none behind a prompt.
#[test]
fn b52_an_empty_password_of_sasl_login_is_judged_by_the_backend() {
    let backend = Ordinary::new()
        .verdict(|_, password| match password {
            b"" => "NO [AUTHENTICATIONFAILED] no".to_owned(),
            _ => "OK in".to_owned(),
        })
        .start();
    let proxy = start(&backend);
    let failed = format!("a {FAILED}");
    for (initial, line, answer) in
        [(true, "", failed.as_str()), (false, "", &failed), (true, "=", "a BAD ")]
    {
        let mut client = proxy.client();
        if initial {
            client.send(format!("a AUTHENTICATE LOGIN {}\r\n", base64("anna")));
        } else {
            client.send("a AUTHENTICATE LOGIN\r\n");
            expect_challenge(&mut client, "Username:");
            client.send(format!("{}\r\n", base64("anna")));
        }
        expect_challenge(&mut client, "Password:");
        client.send(format!("{line}\r\n"));
        client.expect(answer);
        client.command_ok("NOOP");
        client.login("anna", "secret");
    }
    let passwords: Vec<_> = backend.logins().into_iter().map(|login| login.password).collect();
    assert_eq!(passwords, [&b""[..], b"secret", b"", b"secret", b"secret"]);
}

/// B-53: the error goes to the client, whatever it answers to the backend, and the NO of the
/// backend ends it.
#[test]
fn b53_the_error_dialogue_of_a_token_is_carried_to_its_end() {
    for (mechanism, message) in [("OAUTHBEARER", BEARER), ("XOAUTH2", XOAUTH2)] {
        for said in ["", "\x01", "whatever"] {
            let list = format!("SASL-IR AUTH={mechanism}");
            let backend = Backend::start(Opening::clear(), move |peer| {
                let turns = [(message, challenge(TOKEN_ERROR)), (said, REFUSED.to_owned())];
                exchange(peer, &list, "", &turns)
            });
            let proxy = start(&backend);
            let mut client = proxy.client();
            begin(&mut client, mechanism, message, true);
            expect_challenge(&mut client, TOKEN_ERROR);
            client.send(format!("{}\r\n", base64(said)));
            client.expect(&format!("a {FAILED}"));
            client.command_ok("NOOP");
            backend.assert_no_faults();
            assert_nobody_is_left(&proxy, &backend);
        }
    }
}

/// B-53: the proxy itself leads the dialogue where no user is named.
#[test]
fn b53_a_token_without_a_user_gets_the_error_from_the_proxy() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let mut client = proxy.client();
    for (initial, said) in [(true, ""), (false, "AQ=="), (true, "YW55dGhpbmc=")] {
        begin(&mut client, "OAUTHBEARER", "n,,\x01auth=Bearer token\x01\x01", initial);
        expect_challenge(&mut client, r#"{"status":"invalid_request"}"#);
        client.send(format!("{said}\r\n"));
        client.expect(&format!("a {FAILED}"));
    }
    assert_eq!(backend.connections(), 0);
    wait_until("it is counted", || {
        ((counted(&proxy, "oauthbearer", "auth_failed") - 3.0).abs() < 0.5).then_some(())
    });
}

/// B-22: the cancel reaches the backend, whatever that says; it counts for nothing.
#[test]
fn b22_a_cancel_in_the_middle_is_passed_on_and_answered_bad() {
    let answers = ["{tag} BAD cancelled\r\n", "{tag} NO [AUTHENTICATIONFAILED] gone\r\n"];
    let turns = |answer: &str| vec![(FIRST, challenge(SERVER_FIRST)), ("*", answer.to_owned())];
    for answer in answers {
        let backend = leading("SASL-IR AUTH=SCRAM-SHA-256", turns(answer));
        let proxy = start_with(&backend, "login_tries: 2");
        let mut client = proxy.client();
        for _ in 0..12 {
            begin(&mut client, "SCRAM-SHA-256", FIRST, true);
            expect_challenge(&mut client, SERVER_FIRST);
            client.send("*\r\n");
            client.expect("a BAD");
        }
        backend.assert_no_faults();
        wait_until("it is counted", || {
            ((counted(&proxy, "scram_sha_256", "cancelled") - 12.0).abs() < 0.5).then_some(())
        });
        assert_nobody_is_left(&proxy, &backend);
    }
}

/// A client that breaks off is answered BAD, the backend told, and the connection goes on.
#[test]
fn b23_bad_base64_in_the_middle_ends_the_exchange_alone() {
    let backend_of = |first, asked| {
        let turns = vec![(first, challenge(asked)), ("*", "{tag} BAD cancelled\r\n".to_owned())];
        leading("SASL-IR AUTH=SCRAM-SHA-256 AUTH=OAUTHBEARER", turns)
    };
    let break_off = |backend: &Backend, client: &mut Client, (mechanism, first, asked)| {
        for line in ["!!!", "YWI", "YWI=\0", " ", "YWI= ", "="] {
            begin(client, mechanism, first, true);
            expect_challenge(client, asked);
            client.send(format!("{line}\r\n"));
            client.expect("a BAD");
        }
        backend.assert_no_faults();
    };
    // To this challenge any message would do, an empty one too: what is no base64 is none.
    let backend = backend_of(BEARER, TOKEN_ERROR);
    let proxy = start(&backend);
    break_off(&backend, &mut proxy.client(), ("OAUTHBEARER", BEARER, TOKEN_ERROR));
    assert_nobody_is_left(&proxy, &backend);
    let backend = backend_of(FIRST, SERVER_FIRST);
    let proxy = start(&backend);
    let mut client = proxy.client();
    break_off(&backend, &mut client, ("SCRAM-SHA-256", FIRST, SERVER_FIRST));
    assert_nobody_is_left(&proxy, &backend);
    // Too long: the connection ends, and the backend's with it.
    begin(&mut client, "SCRAM-SHA-256", FIRST, true);
    expect_challenge(&mut client, SERVER_FIRST);
    client.send("A".repeat(8_192));
    client.expect("* BYE Line too long.");
    client.expect_end();
    assert_nobody_is_left(&proxy, &backend);
}

/// Others sign in meanwhile, each in the middle of the same exchange.
#[test]
fn b23_bad_base64_harms_none_of_a_hundred_logins_beside_it() {
    const LOGINS: usize = 100;
    let backend = Backend::start(Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256 AUTH=PLAIN] hi\r\n")?;
        let tag = peer.expect("AUTHENTICATE SCRAM-SHA-256 ")?;
        peer.send(challenge(SERVER_FIRST))?;
        if peer.line()? == b"*" {
            return peer.send(format!("{tag} BAD cancelled\r\n"));
        }
        peer.send(challenge(SERVER_FINAL))?;
        peer.line()?;
        peer.send(IN.replace("{tag}", &tag))?;
        Ordinary::new().serve(peer)
    });
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let limits = "exempt: [127.0.0.0/8], sessions_per_user: 500, syntax_errors: 1000";
        // So many at once may take their time.
        configuration(places, &backend, limits).replace(HURRY, "")
    });
    let (begun, all_begun) = mpsc::channel();
    let (gate, over) = (Mutex::new(()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let closed = gate.lock().unwrap();
        let login = |begun: mpsc::Sender<()>| {
            let mut client = proxy.client();
            begin(&mut client, "SCRAM-SHA-256", FIRST, true);
            expect_challenge(&mut client, SERVER_FIRST);
            begun.send(()).unwrap();
            drop(gate.lock());
            client.send(format!("{}\r\n", base64(FINAL)));
            expect_challenge(&mut client, SERVER_FINAL);
            client.send("\r\n");
            client.expect("a OK");
            client.logout();
        };
        let start = |begun| scope.spawn(move || login(begun));
        let logins: Vec<_> = (0..LOGINS).map(|_| start(begun.clone())).collect();
        for number in 0..LOGINS {
            all_begun.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{number} have begun"));
        }
        let mut spoiler = proxy.client();
        (0..20).for_each(|_| spoil(&mut spoiler));
        drop(closed);
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                spoil(&mut proxy.client());
            }
        });
        let failed = logins.into_iter().filter_map(|login| login.join().err()).count();
        over.store(true, Ordering::SeqCst);
        assert_eq!(failed, 0, "of {LOGINS} logins");
    });
    wait_until("all are counted", || {
        ((counted(&proxy, "scram_sha_256", "ok") - 100.0).abs() < 0.5).then_some(())
    });
    assert_nobody_is_left(&proxy, &backend);
}

/// Bad base64 with the command, behind it, and in the middle of an exchange.
fn spoil(client: &mut Client) {
    for (command, challenged) in
        [("PLAIN AGFubmE", 0), ("PLAIN", 1), ("SCRAM-SHA-256", 1), ("XOAUTH2 !!!", 0)]
    {
        client.send(format!("a AUTHENTICATE {command}\r\n"));
        for _ in 0..challenged {
            client.expect("+ ");
            client.send("AGFubmE\r\n");
        }
        client.expect("a BAD");
    }
    begin(client, "SCRAM-SHA-256", FIRST, true);
    expect_challenge(client, SERVER_FIRST);
    client.send("=\r\n");
    client.expect("a BAD");
}

/// B-40: who the user is stands in the first message alone.
#[test]
fn b40_no_later_message_says_who_the_user_is() {
    // Another opening in place of the proof: not passed on.
    let turns = vec![(FIRST, challenge(SERVER_FIRST)), ("*", "{tag} BAD cancelled\r\n".to_owned())];
    let backend = leading("SASL-IR AUTH=SCRAM-SHA-256", turns);
    let proxy = start(&backend);
    for second in ["n,,n=eve,r=x", "c=bixhPWV2ZSw=,r=x,p=eA==", "", "p=eA=="] {
        let mut client = proxy.client();
        begin(&mut client, "SCRAM-SHA-256", FIRST, true);
        expect_challenge(&mut client, SERVER_FIRST);
        client.send(format!("{}\r\n", base64(second)));
        client.expect("a BAD");
    }
    backend.assert_no_faults();
    // A token in answer to the error: a backend that took it would have another user.
    let other = "n,a=eve,\x01auth=Bearer other\x01\x01";
    let backend = leading(
        "SASL-IR AUTH=OAUTHBEARER",
        vec![(BEARER, challenge(TOKEN_ERROR)), (other, IN.to_owned())],
    );
    let proxy = start(&backend);
    let mut client = proxy.client();
    begin(&mut client, "OAUTHBEARER", BEARER, true);
    expect_challenge(&mut client, TOKEN_ERROR);
    client.send(format!("{}\r\n", base64(other)));
    client.expect("a NO [UNAVAILABLE]");
    wait_until("the backend is left", || (backend.open_connections() == 0).then_some(()));
    // Another identity to act as: refused without a backend; the same one passes.
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let mut client = proxy.client();
    begin(&mut client, "SCRAM-SHA-256", "n,a=eve,n=anna,r=x", true);
    client.expect(&format!("a {FAILED}"));
    assert_eq!(backend.connections(), 0);
}

/// B-54: a misfit is told as one, to the operator once for each backend and kind.
#[test]
fn b54_a_backend_that_cannot_finish_the_mechanism_is_a_fault_and_told_once() {
    for (list, text) in [
        ("SASL-IR AUTH=PLAIN", "does not list AUTH=SCRAM-SHA-256"),
        ("AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-256-PLUS", "lists a -PLUS mechanism"),
    ] {
        let backend = Ordinary::new().capability(&format!("IMAP4rev1 {list}")).start();
        let proxy = start(&backend);
        let mut client = proxy.client();
        for _ in 0..3 {
            begin(&mut client, "SCRAM-SHA-256", FIRST, true);
            client.expect("a NO [SERVERBUG]");
        }
        wait_until("the log tells all three", || {
            (proxy.log().matches("login failed").count() == 3).then_some(())
        });
        assert_eq!(proxy.log().matches(text).count(), 1, "{}", proxy.log());
        assert_eq!(backend.connections(), 3);
        let text = backend.received_text(0);
        assert!(!text.contains("AUTHENTICATE"), "{text}");
        wait_until("it is counted", || {
            ((counted(&proxy, "scram_sha_256", "server_bug") - 3.0).abs() < 0.5).then_some(())
        });
        // Others of the shard are not turned away for it.
        client.send("b LOGIN bert secret\r\n");
        let bert = client.read_line();
        assert!(!bert.contains("UNAVAILABLE"), "{bert}");
    }
}

/// B-54: a listener promises what every shard can finish, and nothing else.
#[test]
fn b54_what_one_shard_lacks_is_offered_by_no_listener() {
    let backend = Ordinary::new().capability("IMAP4rev1 SASL-IR AUTH=PLAIN").start();
    let configured = |places: &Places, offered: &str, of_south: &str| {
        let clear = "allow_clear_login: true";
        let head = places.head().replace(clear, &format!("{clear}, mechanisms: [{offered}]"));
        let south = shard("south", &backend).replace("shared,", &format!("shared, {of_south}"));
        format!(
            "{head}shards:\n{}{south}routing: {{ lookups: [ {{ shard: south }} ] }}\n",
            shard("north", &backend)
        )
    };
    let lacks = "mechanisms: [PLAIN],";
    let (code, text) = check(&AUTHORITY, |places| configured(places, "PLAIN, OAUTHBEARER", lacks));
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("`OAUTHBEARER` is offered, and shard `south` cannot"), "{text}");
    let (code, text) = check(&AUTHORITY, |places| configured(places, "PLAIN, OAUTHBEARER", ""));
    assert_eq!(code, 0, "{text}");
    for (offered, of_south, listed) in [("PLAIN", lacks, false), ("PLAIN, OAUTHBEARER", "", true)] {
        let proxy = Pointsman::start(&AUTHORITY, |places| configured(places, offered, of_south));
        let mut client = Client::connect(proxy.places().clear).unwrap();
        let greeting = client.expect("* OK [CAPABILITY ");
        assert_eq!(greeting.contains("AUTH=OAUTHBEARER"), listed, "{greeting}");
        let list = client.command_ok("CAPABILITY").text();
        assert_eq!(list.contains("AUTH=OAUTHBEARER"), listed, "{list}");
        assert!(list.contains("AUTH=PLAIN"), "{list}");
    }
}

/// What a backend does in the middle of an exchange, after its greeting and the client's first
/// message; the client has said its final one where the flag says so.
type Trouble = (&'static str, bool, fn(&mut Conversation, &str) -> Result<()>);

const TROUBLES: [Trouble; 9] = [
    ("close behind the first message", false, |_, _| Ok(())),
    ("reset behind the first message", false, |peer, _| peer.reset()),
    ("silence", false, |peer, _| peer.hang()),
    ("bye", false, |peer, _| peer.send("* BYE going down\r\n")),
    ("a challenge that is not base64", false, |peer, _| {
        peer.send("+ what do you mean\r\n")?;
        peer.hang()
    }),
    ("an OK without a proof", false, |peer, tag| {
        peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
        peer.hang()
    }),
    ("another tag", false, |peer, _| {
        peer.send("x1 OK [CAPABILITY IMAP4rev1] in\r\n")?;
        peer.hang()
    }),
    ("close behind a challenge", true, |peer, _| peer.send(challenge(SERVER_FIRST))),
    ("close behind the proof", true, |peer, _| {
        peer.send(challenge(SERVER_FIRST))?;
        peer.line().map(drop)
    }),
];

/// B-57, B-59: an outage in the middle is one, and nothing goes out a second time.
#[test]
fn b59_a_backend_that_breaks_off_is_unavailable_and_gets_no_message_twice() {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let backend = Backend::start(Opening::clear(), |peer| {
        let Some((_, _, trouble)) = TROUBLES.get(NUMBER.load(Ordering::SeqCst)) else {
            return exchange(peer, "SASL-IR AUTH=SCRAM-SHA-256", "", &scram());
        };
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256] hi\r\n")?;
        let tag = peer.expect("AUTHENTICATE SCRAM-SHA-256 ")?;
        trouble(peer, &tag)
    });
    let proxy = start(&backend);
    let mut client = proxy.client();
    for (number, (name, proves, _)) in TROUBLES.iter().enumerate() {
        NUMBER.store(number, Ordering::SeqCst);
        begin(&mut client, "SCRAM-SHA-256", FIRST, true);
        if *proves {
            expect_challenge(&mut client, SERVER_FIRST);
            client.send(format!("{}\r\n", base64(FINAL)));
        }
        let told = client.read_line();
        assert!(told.starts_with("a NO [UNAVAILABLE]"), "{name}: {told}");
        assert_eq!(backend.connections(), number + 1, "{name}");
        wait_until(name, || (backend.open_connections() == 0).then_some(()));
    }
    NUMBER.store(TROUBLES.len(), Ordering::SeqCst);
    begin(&mut client, "SCRAM-SHA-256", FIRST, true);
    expect_challenge(&mut client, SERVER_FIRST);
    client.send(format!("{}\r\n", base64(FINAL)));
    expect_challenge(&mut client, SERVER_FINAL);
    client.send("\r\n");
    client.expect("a OK");
}

/// B-24: a client that leaves in the middle frees its backend and its place.
#[test]
fn b24_a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    let backend = leading("SASL-IR AUTH=SCRAM-SHA-256", scram());
    let proxy = start_with(&backend, "sessions_per_user: 1");
    for _ in 0..50 {
        let mut client = proxy.client();
        begin(&mut client, "SCRAM-SHA-256", FIRST, true);
        expect_challenge(&mut client, SERVER_FIRST);
        drop(client);
        assert_nobody_is_left(&proxy, &backend);
    }
    wait_until("it is counted", || {
        ((counted(&proxy, "scram_sha_256", "client_gone") - 50.0).abs() < 0.5).then_some(())
    });
}

/// The client's own time within an exchange is bounded; the backend's is not counted to it.
#[test]
fn a_client_that_says_nothing_more_is_sent_away_at_its_deadline() {
    let backend = leading("SASL-IR AUTH=SCRAM-SHA-256", scram());
    let proxy = start_with(&backend, "login_deadline: 3s");
    let mut client = proxy.client();
    begin(&mut client, "SCRAM-SHA-256", FIRST, true);
    expect_challenge(&mut client, SERVER_FIRST);
    client.expect("* BYE [UNAVAILABLE] You did not log in in time.");
    client.expect_end();
    assert_nobody_is_left(&proxy, &backend);
}

/// B-32: exchanges begun and given up count for nothing, and win no time.
#[test]
fn b32_exchanges_given_up_do_not_move_the_deadline() {
    let turns = vec![(FIRST, challenge(SERVER_FIRST)), ("*", "{tag} BAD cancelled\r\n".to_owned())];
    let backend = leading("SASL-IR AUTH=SCRAM-SHA-256", turns);
    let proxy = start_with(&backend, "login_tries: 100, login_deadline: 1500ms");
    let mut client = proxy.client();
    let begun = Stopwatch::start();
    loop {
        assert!(begun.elapsed() < PATIENCE, "it goes on for ever");
        begin(&mut client, "SCRAM-SHA-256", FIRST, true);
        let line = client.read_line();
        if line.starts_with("* BYE") {
            break;
        }
        assert!(line.starts_with("+ "), "{line}");
        std::thread::sleep(Duration::from_millis(50));
        client.send("*\r\n");
        let line = client.read_line();
        if line.starts_with("* BYE") {
            break;
        }
        assert!(line.starts_with("a BAD"), "{line}");
    }
    assert_nobody_is_left(&proxy, &backend);
}

/// Nor do they where the client spends no time of its own on them.
#[test]
fn b32_exchanges_given_up_without_a_pause_end_at_the_deadline() {
    let turns = vec![(FIRST, challenge(SERVER_FIRST)), ("*", "{tag} BAD cancelled\r\n".to_owned())];
    let backend = Backend::start(Opening::clear(), move |peer| {
        peer.pause(Duration::from_millis(20));
        exchange(peer, "SASL-IR AUTH=SCRAM-SHA-256", "+ \r\n", &turns)
    });
    let proxy = start_with(&backend, "login_tries: 100, login_deadline: 1500ms");
    let mut client = proxy.client();
    let mut writer = client.wire().socket().try_clone().unwrap();
    let given_up = format!("a AUTHENTICATE SCRAM-SHA-256 {}\r\n*\r\n", base64(FIRST));
    let sending = std::thread::spawn(move || {
        // At 20 ms each a minute's worth.
        let _ = std::io::Write::write_all(&mut writer, given_up.repeat(3000).as_bytes());
    });
    let begun = Stopwatch::start();
    while !client.read_line().starts_with("* BYE [UNAVAILABLE]") {
        assert!(begun.elapsed() < PATIENCE, "it goes on for ever");
    }
    drop(client);
    sending.join().unwrap();
    assert_nobody_is_left(&proxy, &backend);
}

/// A client that is asked for its proof and says nothing takes no place among the logins that
/// wait for the proxy.
#[test]
fn a_client_that_leaves_a_challenge_unanswered_holds_up_no_other_login() {
    let backend = Backend::start(Opening::clear(), |peer| {
        if peer.number() < 2 {
            exchange(peer, "SASL-IR AUTH=SCRAM-SHA-256", "+ \r\n", &scram())
        } else {
            Ordinary::new().converse(peer)
        }
    });
    let proxy = start_with(&backend, "login_tries: 5, held_logins: 1");
    let mut silent: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut silent {
        begin(client, "SCRAM-SHA-256", FIRST, true);
        expect_challenge(client, SERVER_FIRST);
    }
    proxy.client().login("bert", "secret");
    // It may still answer.
    for client in &mut silent {
        client.send(format!("{}\r\n", base64(FINAL)));
        expect_challenge(client, SERVER_FINAL);
        client.send("\r\n");
        client.expect("a OK");
    }
}

/// B-53: where it is the proxy that refuses, a client is told in the way of its mechanism too,
/// and no sooner than of a token that a backend refuses. Giving up then is a failed login.
#[test]
fn b53_a_token_of_an_unknown_user_gets_the_error_from_the_proxy() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        std::fs::write(places.file("users"), "anna s\n").unwrap();
        let file = places.file("users");
        let head = head(places, "login_tries: 3").replace("delay: 1ms", "delay: 300ms");
        let route = format!(
            "routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
            file.display()
        );
        format!("{head}shards:\n{}{route}", shard("s", &backend))
    });
    let unknown = BEARER.replace("anna", "nobody");
    let mut client = proxy.client();
    for (answer, end) in
        [("AQ==", format!("a {FAILED}")), ("*", "a BAD".into()), ("!", "a BAD".into())]
    {
        begin(&mut client, "OAUTHBEARER", &unknown, true);
        expect_challenge(&mut client, r#"{"status":"invalid_token"}"#);
        let begun = Stopwatch::start();
        client.send(format!("{answer}\r\n"));
        client.expect(&end);
        assert!(begun.elapsed() >= Duration::from_millis(290), "{answer}: {:?}", begun.elapsed());
    }
    client.expect("* BYE");
    assert_eq!(backend.connections(), 0);
    wait_until("it is counted", || {
        ((counted(&proxy, "oauthbearer", "auth_failed") - 3.0).abs() < 0.5).then_some(())
    });
}

/// B-53: what a backend says to a token is an error already: no number of tries is free.
#[test]
fn b53_giving_up_behind_the_error_is_a_failed_login() {
    let turns = vec![(BEARER, challenge(TOKEN_ERROR)), ("*", "{tag} BAD cancelled\r\n".to_owned())];
    let backend = leading("SASL-IR AUTH=OAUTHBEARER", turns);
    let proxy = start_with(&backend, "login_tries: 2");
    let mut client = proxy.client();
    for _ in 0..2 {
        begin(&mut client, "OAUTHBEARER", BEARER, true);
        expect_challenge(&mut client, TOKEN_ERROR);
        client.send("*\r\n");
        client.expect("a BAD");
    }
    client.expect("* BYE Too many failed logins.");
    wait_until("it is counted", || {
        ((counted(&proxy, "oauthbearer", "auth_failed") - 2.0).abs() < 0.5).then_some(())
    });
}

/// B-54: where no password is wanted none is asked for, by LOGIN neither.
#[test]
fn b54_a_listener_for_tokens_alone_takes_no_password() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let head = head(places, "login_tries: 2").replace(ALL, "OAUTHBEARER");
        let route = "routing: { lookups: [ { shard: s } ] }\n";
        format!("{head}shards:\n{}{route}", shard("s", &backend))
    });
    let mut client = Client::connect(proxy.places().clear).unwrap();
    let greeting = client.read_line();
    assert!(greeting.contains(" LOGINDISABLED ") && greeting.contains(" AUTH=OAUTHBEARER"));
    for _ in 0..3 {
        client.send("a LOGIN anna secret\r\nb LOGIN {4}\r\n");
        client.expect("a NO [CANNOT]");
        client.expect("b NO [CANNOT]");
    }
    client.command_ok("NOOP");
    assert_eq!(backend.connections(), 0);
    wait_until("it is counted", || {
        ((counted(&proxy, "login", "not_offered") - 6.0).abs() < 0.5).then_some(())
    });
}
