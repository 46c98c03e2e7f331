//! After login: who the session is cannot change, what the backend offers beyond that is
//! hidden, and what is seen of a session leaks nowhere.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::float_cmp,
    reason = "test code: a broken set-up must panic, and delays are real"
)]

mod support;

use std::collections::BTreeSet;
use std::io::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use support::backend::{Backend, Conversation, Opening, shard};
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;
use support::{Over, Stopwatch, http, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const REFUSED: &str = "BAD Command not available after login.";

/// What must never reach a backend once somebody is logged in.
const FORBIDDEN: [&str; 8] = [
    "LOGIN bert other",
    "AUTHENTICATE PLAIN AGJlcnQAb3RoZXI=",
    "AUTHENTICATE PLAIN",
    "STARTTLS",
    "COMPRESS DEFLATE",
    "UNAUTHENTICATE",
    "X-UNAUTHENTICATE",
    "PROXYAUTH bert",
];

fn proxy(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| places.head() + &shard(backend))
}

/// Takes the login and says it has these capabilities; what follows is the script's.
fn take_login(peer: &mut Conversation, capabilities: &str) -> Result<()> {
    peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN] hi\r\n")?;
    let answer = format!("{{tag}} OK [CAPABILITY {capabilities}] in\r\n");
    peer.answer("AUTHENTICATE PLAIN", &answer)?;
    peer.wire()?.set_timeout(Duration::from_secs(60))
}

fn mixed_case(text: &str) -> String {
    let swap = |(place, letter): (usize, char)| {
        if place % 2 == 0 { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() }
    };
    text.chars().enumerate().map(swap).collect()
}

#[test]
fn commands_that_change_identity_or_hide_it_are_refused_in_any_case_and_never_forwarded() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    let at_backend = backend.received(0).len();
    for command in FORBIDDEN {
        for spelling in [command.to_owned(), command.to_lowercase(), mixed_case(command)] {
            let told = client.command(&spelling);
            assert_eq!((told.status.as_str(), told.untagged.len()), (REFUSED, 0), "{spelling}");
        }
        let bare_line_end = format!("lf {command}\n");
        client.send(bare_line_end);
        assert_eq!(client.read_line(), format!("lf {REFUSED}"));
    }
    client.send("end NOOP\r\n");
    client.expect("end OK");
    assert_eq!(&backend.received(0)[at_backend..], b"end NOOP\r\n");
    assert_eq!(backend.logins().len(), 1);
    let refused =
        proxy.metrics().sum("pointsman_client_errors_total", &[("reason", "forbidden_command")]);
    assert_eq!(refused, 32.0);
}

#[test]
fn a_forbidden_command_is_refused_wherever_the_stream_is_cut() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    let at_backend = backend.received(0).len();
    let mut wanted = Vec::new();
    for command in FORBIDDEN {
        let stream = format!("k1 NOOP\r\nf1 {command}\r\nk2 NOOP\r\n");
        for cut in 1..stream.len() {
            client.send(&stream[..cut]);
            // Nothing tells when a part has been read alone.
            std::thread::sleep(Duration::from_micros(500));
            client.send(&stream[cut..]);
            let mut lines: Vec<String> = (0..3).map(|_| client.read_line()).collect();
            lines.sort();
            assert_eq!(
                lines,
                [
                    format!("f1 {REFUSED}"),
                    "k1 OK NOOP completed.".into(),
                    "k2 OK NOOP completed.".into()
                ],
                "{command} cut at {cut}"
            );
            wanted.extend_from_slice(b"k1 NOOP\r\nk2 NOOP\r\n");
        }
        client.send_byte_by_byte(&stream);
        (0..3).for_each(|_| drop(client.read_line()));
        wanted.extend_from_slice(b"k1 NOOP\r\nk2 NOOP\r\n");
    }
    assert!(backend.received(0)[at_backend..] == wanted, "the backend got other bytes");
}

#[test]
fn literals_of_forbidden_commands_get_the_refusal_for_a_plus_or_are_swallowed_by_count() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    let at_backend = backend.received(0).len();

    client.send("s1 LOGIN {4}\r\n");
    client.expect(&format!("s1 {REFUSED}"));
    client.send("s2 authenticate {5}\r\n");
    client.expect(&format!("s2 {REFUSED}"));
    client.send("s3 LOGIN {4+}\r\nbert {5}\r\n");
    client.expect(&format!("s3 {REFUSED}"));
    client.send("k1 NOOP\r\n");
    client.expect("k1 OK");

    // Bodies that look like commands, and a forbidden one inside.
    let body = "x1 DELETE INBOX\r\nx2 LOGIN bert other\r\nx3 LOGOUT\r\n";
    let command =
        format!("n1 LOGIN {{{}+}}\r\n{body} ~{{{}+}}\r\n{body}\r\n", body.len(), body.len());
    client.send(&command);
    client.expect(&format!("n1 {REFUSED}"));
    client.send_byte_by_byte(&command);
    client.expect(&format!("n1 {REFUSED}"));
    client.send("n2 PROXYAUTH {0+}\r\n\r\nk2 NOOP\r\n");
    let mut lines = [client.read_line(), client.read_line()];
    lines.sort();
    assert_eq!(lines, ["k2 OK NOOP completed.".to_owned(), format!("n2 {REFUSED}")]);
    client.expect_silence(Duration::from_millis(100));
    assert_eq!(&backend.received(0)[at_backend..], b"k1 NOOP\r\nk2 NOOP\r\n");
}

/// The answer waits for the end of the response that is on its way, no longer.
#[test]
fn a_refusal_goes_out_between_responses_only() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::start(Opening::clear(), move |peer| {
        take_login(peer, "IMAP4rev1")?;
        let steps = wait.lock().unwrap();
        let tag = peer.expect("FETCH 1")?;
        for part in
            ["* 1 FE", "TCH (BODY[] {12}\r\n012\r\n", "* OK \r", "\n)\r\n", "* 2 EXISTS\r\n"]
        {
            peer.send(part)?;
            let _ = steps.recv();
        }
        peer.send(format!("{tag} OK done\r\n"))?;
        peer.answer("NOOP", "{tag} OK done\r\n")?;
        peer.hang()
    });
    let proxy = proxy(&backend);
    let mut client = proxy.logged_in("anna", "secret");
    client.send("c1 FETCH 1 BODY[]\r\n");
    assert_eq!(client.read_exactly(6), b"* 1 FE");
    client.send("f1 LOGIN bert other\r\nf2 STARTTLS\r\nc2 NOOP\r\n");
    client.expect_silence(Duration::from_millis(100));
    go.send(()).unwrap();
    assert_eq!(client.read_exactly(23), b"TCH (BODY[] {12}\r\n012\r\n");
    client.expect_silence(Duration::from_millis(100));
    go.send(()).unwrap();
    assert_eq!(client.read_exactly(6), b"* OK \r");
    client.expect_silence(Duration::from_millis(100));
    go.send(()).unwrap();
    // The literal ends with the line end behind "* OK ".
    assert_eq!(client.read_line(), "");
    assert_eq!(client.read_line(), ")");
    assert_eq!(client.read_line(), format!("f1 {REFUSED}"));
    assert_eq!(client.read_line(), format!("f2 {REFUSED}"));
    go.send(()).unwrap();
    assert_eq!(client.read_line(), "* 2 EXISTS");
    go.send(()).unwrap();
    client.expect("c1 OK");
    client.expect("c2 OK");
    drop(client);
    backend.wait_until_empty();
    backend.assert_no_faults();
}

/// Everything that servers and a scanner could read in two ways ends the session.
#[test]
fn an_unreadable_line_ends_the_session_with_a_bye_and_its_head_is_not_forwarded() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend);
    let no_blank = "x".repeat(97);
    let heads: [&[u8]; 8] = [
        b" a LOGIN bert other\r\n",
        b"\ta LOGIN bert other\r\n",
        b"a  LOGIN bert other\r\n",
        b"a\tLOGIN bert other\r\n",
        b"a \tLOGIN bert other\r\n",
        b"a\0 LOGIN bert other\r\n",
        b"a LOG\x01IN bert other\r\n",
        no_blank.as_bytes(),
    ];
    for (number, line) in heads.iter().enumerate() {
        let mut client = proxy.logged_in("anna", "secret");
        let at_backend = backend.received(number).len();
        client.send(b"k NOOP\r\n");
        client.expect("k OK");
        client.send(line);
        client.expect("* BYE ");
        client.expect_end();
        wait_until("the backend's connection is shut", || backend.has_ended(number).then_some(()));
        assert_eq!(&backend.received(number)[at_backend..], b"k NOOP\r\n", "{line:?}");
    }
    let tails: [&[u8]; 6] = [
        b"a\rb LOGIN bert other\r\n",
        b"a SELECT IN\rBOX\r\n",
        b"a SELECT IN\0BOX\r\n",
        b"a SELECT \"INBOX\r\nb LOGIN bert other\r\n",
        b"a APPEND INBOX {5}\nb LOGIN bert other\r\n",
        b"a APPEND INBOX {5+}\nhello\r\n",
    ];
    for line in tails {
        let number = backend.connections();
        let mut client = proxy.logged_in("anna", "secret");
        client.send(line);
        client.expect("* BYE ");
        client.expect_end();
        wait_until("the backend's connection is shut", || backend.has_ended(number).then_some(()));
        let seen = backend.received_text(number);
        assert!(!seen.contains("LOGIN bert"), "{line:?}: {seen:?}");
    }
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_sessions_closed_total", &[("reason", "client_error")]) >= 14.0
    });
    assert_eq!(backend.users().iter().filter(|user| *user != "anna").count(), 0);
}

/// Anna stays Anna: her mailbox opens behind it, and Bert's server hears of nobody.
#[test]
fn b74_unauthenticate_and_a_login_for_another_shard_change_nothing() {
    let listing = |mails: usize| {
        let list = "IMAP4rev1 IDLE UNAUTHENTICATE";
        Ordinary::new().capability_after(list).mails(vec![support::mail("x"); mails]).start()
    };
    let [north, south] = [3, 1].map(listing);
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let users = places.file("users");
        std::fs::write(&users, "anna north\nbert south\n").unwrap();
        let shards = [("north", &north), ("south", &south)].map(|(name, backend)| {
            let address = backend.address();
            format!(
                "  {name}: {{ kind: shared, backends: \
                 [ {{ name: {name}1, address: \"{address}\", tls: none }} ] }}\n"
            )
        });
        format!(
            "{}shards:\n{}routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
            places.head(),
            shards.concat(),
            users.display()
        )
    });
    let lines = ["a UNAUTHENTICATE\r\n", "b LOGIN bert secret\r\n", "c SELECT INBOX\r\n"].concat();
    for number in 0..3 {
        let mut client = proxy.logged_in("anna", "secret");
        let at_north = north.received(number).len();
        match number {
            0 => lines.split_inclusive('\n').for_each(|line| client.send(line)),
            1 => client.send(&lines),
            _ => client.send_byte_by_byte(&lines),
        }
        // Two answers of the proxy, which may come before or behind the server's four lines.
        let mut said: Vec<String> = (0..6).map(|_| client.read_line()).collect();
        let mut own: Vec<String> = said.extract_if(.., |line| line.ends_with(REFUSED)).collect();
        own.sort();
        assert_eq!(own, [format!("a {REFUSED}"), format!("b {REFUSED}")]);
        assert!(said[1] == "* 3 EXISTS" && said[3].starts_with("c OK"), "{said:?}");
        assert_eq!(&north.received(number)[at_north..], b"c SELECT INBOX\r\n");
        assert_eq!(south.connections(), 0);
    }
    assert_eq!(north.users(), ["anna", "anna", "anna"]);
}

/// A server that refuses a pushed literal runs its body as commands.
#[test]
fn a_command_that_changes_identity_inside_a_literal_ends_the_session_where_the_backend_knows_it() {
    for (capabilities, ends) in [
        ("IMAP4rev1 UNAUTHENTICATE", true),
        ("IMAP4rev1 X-UNAUTHENTICATE", true),
        ("IMAP4rev1", false),
    ] {
        let backend = Ordinary::new().capability_after(capabilities).start();
        let proxy = proxy(&backend);
        for word in ["UNAUTHENTICATE", "x-unauthenticate", "COMPRESS deflate"] {
            let number = backend.connections();
            let mut client = proxy.logged_in("anna", "secret");
            let body = format!("hello\r\nb {word}\r\nmore\r\n");
            client.send(format!("a APPEND INBOX {{{}+}}\r\n{body}\r\n", body.len()));
            if ends {
                let rest = String::from_utf8(client.read_to_end()).unwrap();
                assert!(rest.is_empty() || rest.starts_with("* BYE "), "{rest}");
                backend.wait_until_empty();
                // The word may have gone, the end of its line never does.
                let seen = backend.received_text(number);
                assert!(!seen.contains(&format!("{word}\r")), "{seen}");
            } else {
                client.expect("a OK");
                assert!(backend.received_text(number).contains(&body));
            }
        }
    }
}

/// B-74, B-75: in all three places where it occurs, and nowhere else; a mail that speaks of
/// it comes byte for byte.
#[test]
fn b76_what_may_not_be_offered_is_filtered_in_all_three_places_and_not_in_literals() {
    const FULL: &str = "IMAP4rev1 IDLE COMPRESS=DEFLATE STARTTLS UNAUTHENTICATE MOVE \
                        LOGIN-REFERRALS AUTH=PLAIN MAILBOX-REFERRALS AUTH=CRAM-MD5 LOGINDISABLED \
                        UIDPLUS";
    const KEPT: &str = "IMAP4rev1 IDLE MOVE UIDPLUS";
    let mail = format!(
        "* CAPABILITY {FULL}\r\nSubject: a\r\n\r\n* OK [CAPABILITY {FULL}] in\n\
         c1 OK [CAPABILITY {FULL}]\r\n)\r\nCOMPRESS=DEFLATE\r\n* CAPABILITY {FULL}"
    );
    for cut in [1, 7, 10_000] {
        let sent = mail.clone();
        let backend = Backend::start(Opening::clear(), move |peer| {
            take_login(peer, FULL)?;
            loop {
                let tag = peer.expect("")?;
                let text = format!(
                    "* CAPABILITY {FULL}\r\n\
                     * OK [CAPABILITY {FULL}] hello COMPRESS=DEFLATE\r\n\
                     * 1 FETCH (BODY[] {{{}}}\r\n{sent})\r\n\
                     * LIST () \"/\" \"CAPABILITY {FULL}\"\r\n\
                     {tag} OK [capability {FULL}] done\r\n",
                    sent.len(),
                );
                for part in text.as_bytes().chunks(cut) {
                    peer.send(part)?;
                }
            }
        });
        let proxy = proxy(&backend);
        let mut client = proxy.client();
        let told = client.login("anna", "secret");
        assert_eq!(told.status, format!("OK [CAPABILITY {KEPT}] in"));
        client.send("c1 CAPABILITY\r\n");
        assert_eq!(client.read_line(), format!("* CAPABILITY {KEPT}"));
        assert_eq!(client.read_line(), format!("* OK [CAPABILITY {KEPT}] hello COMPRESS=DEFLATE"));
        client.expect("* 1 FETCH (BODY[]");
        assert_eq!(client.read_exactly(mail.len()), mail.as_bytes());
        assert_eq!(client.read_line(), ")");
        assert_eq!(client.read_line(), format!("* LIST () \"/\" \"CAPABILITY {FULL}\""));
        assert_eq!(client.read_line(), format!("c1 OK [capability {KEPT}] done"));
        assert_eq!(proxy.metrics().sum("pointsman_opaque_sessions", &[]), 0.0);
        backend.assert_no_faults();
    }
}

#[test]
fn a_shards_own_capability_list_cuts_what_its_backends_offer() {
    let backend = Ordinary::new().capability_after("IMAP4rev1 IDLE MOVE CONDSTORE UIDPLUS").start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let routed = shard(&backend)
            .replace("kind: shared,", "kind: shared, capabilities: [IDLE, UIDPLUS, QRESYNC],");
        places.head() + &routed
    });
    let mut client = proxy.client();
    let told = client.login("anna", "secret").status;
    assert!(told.contains("IDLE UIDPLUS]"), "{told}");
    for hidden in ["MOVE", "CONDSTORE", "QRESYNC"] {
        assert!(!told.contains(hidden), "{told}");
    }
    let listed = client.command_ok("CAPABILITY").text();
    assert!(listed.contains("IDLE UIDPLUS\r\n") && !listed.contains("MOVE"), "{listed}");
}

/// A server that breaks the framing: its bytes flow on untouched, the gauge says so, and
/// the client's side is watched as before.
#[test]
fn an_opaque_session_flows_on_but_a_forbidden_command_closes_it() {
    let breaks: [&str; 3] = [
        "what is this\r\n",
        "nobody OK a tag that no command has\r\n",
        "* 1 FETCH (BODY[] {99999999999999999999}\r\n",
    ];
    for text in breaks {
        let backend = Backend::start(Opening::clear(), move |peer| {
            take_login(peer, "IMAP4rev1")?;
            peer.answer("NOOP", text)?;
            peer.answer("CAPABILITY", "* CAPABILITY COMPRESS=DEFLATE {5}\r\n{tag} OK x\r\n")?;
            peer.answer("SEARCH {5}", "")?;
            if peer.exactly(7)? != b"12345\r\n" {
                return Err(support::backend::fault("the literal came changed".to_owned()));
            }
            peer.send("z OK\r\n")?;
            peer.hang()
        });
        let proxy = proxy(&backend);
        let mut client = proxy.logged_in("anna", "secret");
        client.send("a NOOP\r\n");
        assert_eq!(client.read_line() + "\r\n", text);
        proxy.wait_for_metrics("the session is opaque", |now| {
            now.sum("pointsman_opaque_sessions", &[]) == 1.0
        });
        client.send("b CAPABILITY\r\n");
        assert_eq!(client.read_line(), "* CAPABILITY COMPRESS=DEFLATE {5}");
        client.expect("b OK x");
        client.send("c SEARCH {5}\r\n12345\r\n");
        client.expect("z OK");
        client.send("d LOGIN bert other\r\n");
        client.expect_end();
        backend.wait_until_empty();
        assert!(!backend.received_text(0).contains("LOGIN bert"));
        proxy.wait_for_metrics("no session is opaque", |now| {
            now.sum("pointsman_opaque_sessions", &[]) == 0.0
                && now.sum("pointsman_client_sessions", &[]) == 0.0
        });
        backend.assert_no_faults();
    }
}

fn series(proxy: &Pointsman) -> BTreeSet<String> {
    let all = proxy.metrics().all().keys().cloned().collect::<BTreeSet<_>>();
    all.into_iter().filter(|name| !name.starts_with("process_")).collect()
}

fn random_word() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(fastrand::usize(1..20)).collect()
}

/// B-84, B-89: what clients make up never becomes a label.
#[test]
fn random_commands_tags_users_and_mailboxes_add_no_series() {
    let verdict = |user: &[u8], _: &[u8]| {
        if user.starts_with(b"bad") {
            "NO [AUTHENTICATIONFAILED] no".to_owned()
        } else {
            "OK in".to_owned()
        }
    };
    let backend = Ordinary::new().verdict(verdict).start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}limits: {{ failed_login_delay: 1ms, login_tries: 100 }}\n{}",
            places.head_without_limits(),
            shard(&backend)
        )
    });
    let conversation = || {
        let mut client = proxy.client();
        client.try_login(&format!("bad{}", random_word()), &random_word());
        client.login(&format!("good{}", random_word()), &random_word());
        client.command(&format!("Q{}", random_word()));
        let mut names = Vec::new();
        for _ in 0..200 {
            let word = format!("Q{}", random_word());
            client.send(format!("{0} {word}\r\n{0} UID {word} x\r\n", random_word()));
            names.push(word);
        }
        for _ in 0..400 {
            let line = client.read_line();
            assert!(line.contains(" BAD Unknown command"), "{line}");
        }
        client.command_ok(&format!("SELECT {}", random_word()));
        client.logout();
        names
    };
    conversation();
    let before = proxy.wait_for_metrics("the session is over", |now| {
        now.sum("pointsman_client_sessions", &[]) == 0.0
    });
    let before_series = series(&proxy);
    let mut names = Vec::new();
    for _ in 0..20 {
        names.extend(conversation());
    }
    let after = series(&proxy);
    assert_eq!(after.difference(&before_series).collect::<Vec<_>>(), Vec::<&String>::new());
    let text = http::fetch(proxy.places().admin, "/metrics").unwrap().body;
    assert!(names.iter().all(|name| name.len() < 6 || !text.contains(name.as_str())));
    let other = [("command", "other"), ("status", "bad")];
    let counted = proxy.metrics().sum("pointsman_commands_total", &other)
        - before.sum("pointsman_commands_total", &other);
    assert_eq!(counted, 8_020.0);
}

/// B-90: whoever reads the metrics waits for nobody, and nobody for them.
#[test]
fn the_metrics_answer_quickly_while_sessions_work_and_logins_go_on() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}limits: {{ exempt: [127.0.0.0/8] }}\n{}",
            places.head_without_limits(),
            shard(&backend)
        )
    });
    let address = proxy.places().clear;
    let done = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let _over = Over(&done);
        for number in 0..6 {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let mut client = Client::clear(address);
                    client.login(&format!("user{number}"), "secret");
                    for _ in 0..50 {
                        client.command_ok("FETCH 1:2 BODY[]");
                    }
                    client.logout();
                }
            });
        }
        // A machine busy with other things may be slow for once, not every time.
        let slowest = || {
            (0..20).map(|_| {
                let start = Stopwatch::start();
                assert!(!proxy.metrics().all().is_empty());
                start.elapsed()
            })
        };
        (0..5).filter_map(|_| slowest().max()).collect::<Vec<Duration>>()
    });
    println!("slowest of 20 scrapes, five times: {rounds:?}");
    assert!(rounds.iter().min().unwrap() < &Duration::from_millis(100), "{rounds:?}");
    assert!(backend.logins().len() > 6);
}

/// The value of a key in the ID that a backend got.
fn id_field(received: &str, key: &str) -> String {
    let (_, rest) = received.split_once(&format!("\"{key}\" \"")).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

fn json_log(places: &Places) -> String {
    places.head().replace("log: { level: debug }", "log: { format: json, level: trace }")
}

/// B-86: one line a session, findable at the backend, and no secret at any level.
#[test]
#[allow(clippy::too_many_lines, reason = "one story, told and then searched")]
fn each_session_ends_in_one_log_line_and_no_password_is_ever_logged() {
    let backend = Ordinary::new()
        .verdict(|_, password| {
            if password.starts_with(b"wrong") { "NO no".to_owned() } else { "OK in".to_owned() }
        })
        .start();
    let proxy = Pointsman::start(&AUTHORITY, |places| json_log(places) + &shard(&backend));
    let (right, wrong) = ("Zauberwort-77aA", "wrong-Geheimnis-88bB");
    let tls = AUTHORITY.client_config();
    let mut sessions = Vec::new();
    for number in 0..4 {
        let user = format!("user{number}");
        let mut client =
            if number % 2 == 0 { proxy.client() } else { Client::tls(proxy.places().imaps, &tls) };
        let told = client.try_login(&user, wrong);
        assert!(told.status.starts_with("NO [AUTHENTICATIONFAILED]"), "{}", told.status);
        let told = match number {
            0 => client.try_login(&user, right),
            1 => client.try_authenticate_plain(&user, right),
            2 => {
                client.send(format!("l LOGIN {{5+}}\r\n{user} {{{}}}\r\n", right.len()));
                client.expect("+");
                client.send(format!("{right}\r\n"));
                client.read_response("l")
            }
            _ => {
                client.send("l AUTHENTICATE PLAIN\r\n");
                client.expect("+");
                client.send(STANDARD.encode(format!("\0{user}\0{right}")) + "\r\n");
                client.read_response("l")
            }
        };
        assert!(told.is_ok(), "{}", told.status);
        // Afterwards, too, and in what is no command at all.
        client.command(&format!("LOGIN {user} {right}"));
        let connection = backend.connections() - 1;
        sessions.push((user, id_field(&backend.received_text(connection), "x-session-id")));
        client.logout();
    }
    let mut broken = proxy.client();
    broken.send(format!("x LOGIN anna {right} {right}\r\ny LOGIN \"anna {right}\r\n"));
    broken.expect("x BAD");
    broken.expect("y BAD");
    broken.logout();
    let lines: Arc<Vec<serde_json::Value>> = wait_until("all sessions are logged", || {
        let log = proxy.log();
        let whole: serde_json::Result<Vec<serde_json::Value>> =
            log.lines().map(serde_json::from_str).collect();
        let lines = whole.ok()?;
        let ends = lines.iter().filter(|line| line.to_string().contains("session ended")).count();
        (ends == 5).then(|| Arc::new(lines))
    });
    for (user, session) in &sessions {
        let ends: Vec<String> = lines
            .iter()
            .map(ToString::to_string)
            .filter(|line| line.contains("session ended") && line.contains(session.as_str()))
            .collect();
        assert_eq!(ends.len(), 1, "{session}: {ends:?}");
        for wanted in [user.as_str(), "\"logout\"", "\"127.0.0.1\"", "commands", "seconds"] {
            assert!(ends[0].contains(wanted), "{wanted} in {}", ends[0]);
        }
    }
    let log = proxy.log();
    for secret in [right, wrong] {
        for number in 0..4 {
            let whole = STANDARD.encode(format!("\0user{number}\0{secret}"));
            assert!(!log.contains(&whole), "a SASL message is in the log");
        }
        assert!(!log.contains(secret), "{secret} is in the log");
        for shift in 0..3 {
            // The password's base64 at each of the three places within a group.
            let encoded = STANDARD.encode(format!("{}{secret}", "\0".repeat(shift)));
            let inner = &encoded[4..encoded.len() - 4];
            assert!(!log.contains(inner), "{inner} is in the log");
        }
    }
    let metrics = http::fetch(proxy.places().admin, "/metrics").unwrap().body;
    assert!(!metrics.contains(right) && !metrics.contains("user0"));
}
