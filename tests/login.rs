//! A login reaches the right backend with exactly the bytes that the client gave, however
//! it was spelled, and nothing of a failed one is left.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::fmt::Write;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use support::backend::{Backend, Login};
use support::client::Client;
use support::dovecot::Dovecot;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// What is refused or taken: passwords that begin with `wrong` are refused.
fn verdict(_user: &[u8], password: &[u8]) -> String {
    if password.starts_with(b"wrong") {
        "NO [AUTHENTICATIONFAILED] No.".to_owned()
    } else {
        "OK Logged in.".to_owned()
    }
}

fn checking() -> Ordinary {
    Ordinary::new().verdict(verdict)
}

/// Shards `s0`, `s1` ... of one clear-text backend each, and users by a file.
fn shards(places: &Places, backends: &[&Backend], users: &[(&str, &str)]) -> String {
    let mut text = "shards:\n".to_owned();
    for (number, backend) in backends.iter().enumerate() {
        writeln!(
            text,
            "  s{number}: {{ kind: shared, backends: \
             [ {{ name: b{number}, address: \"{}\", tls: none }} ] }}",
            backend.address()
        )
        .unwrap();
    }
    let lines: Vec<String> =
        users.iter().map(|(user, shard)| [user, " ", shard, "\n"].concat()).collect();
    std::fs::write(places.file("users"), lines.concat()).unwrap();
    let file = places.file("users");
    writeln!(text, "routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}", file.display())
        .unwrap();
    text
}

/// One backend for everybody.
fn one_shard(backend: &Backend) -> String {
    format!(
        "shards:\n  s0: {{ kind: shared, backends: \
         [ {{ name: b0, address: \"{}\", tls: none }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s0 }} ] }}\n",
        backend.address()
    )
}

fn many_sessions(places: &Places) -> String {
    format!(
        "{}limits: {{ failed_login_delay: 50ms, exempt: [127.0.0.0/8], \
         sessions_per_user: 100000 }}\n",
        places.head_without_limits()
    )
}

/// All bytes but NUL, CR and LF.
fn all_bytes() -> Vec<u8> {
    (1..=255).filter(|byte| !b"\r\n".contains(byte)).collect()
}

fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in bytes {
        if b"\\\"".contains(byte) {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
    out
}

fn literal(bytes: &[u8], plus: &str) -> Vec<u8> {
    let mut out = format!("{{{}{plus}}}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out
}

/// A whole LOGIN, with CRLF.
fn login_command(tag: &str, user: &[u8], password: &[u8]) -> Vec<u8> {
    [tag.as_bytes(), b" LOGIN ", user, b" ", password, b"\r\n"].concat()
}

/// What may be sent before a `+` has to be waited for: the parts of a command behind
/// each synchronising literal's announcement.
fn parts(command: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut rest = command;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, behind) = rest.split_at(end + 1);
        parts.last_mut().unwrap().extend_from_slice(line);
        rest = behind;
        let digit_and_end = line.len() >= 4 && line[line.len() - 4].is_ascii_digit();
        if line.ends_with(b"}\r\n") && digit_and_end {
            parts.push(Vec::new());
        }
    }
    parts.last_mut().unwrap().extend_from_slice(rest);
    parts
}

/// Sends a command in two pieces cut at `cut`, waiting for each `+`. Where the cut is in
/// the first part a NOOP in the same packet tells when the first piece has been read.
fn send_cut(client: &mut Client, command: &[u8], cut: usize) {
    let mut from = 0;
    for (number, part) in parts(command).iter().enumerate() {
        if number > 0 {
            client.expect("+ ");
        }
        let here = cut.saturating_sub(from).min(part.len());
        from += part.len();
        if number == 0 && here > 0 {
            client.send([b"n NOOP\r\n", &part[..here]].concat());
            client.expect("n OK");
        } else if here > 0 {
            client.send(&part[..here]);
        }
        if here < part.len() {
            client.send(&part[here..]);
        }
    }
}

fn assert_all_logins(backend: &Backend, user: &[u8], password: &[u8], count: usize) {
    let logins = backend.logins();
    assert_eq!(logins.len(), count);
    for Login { user: got, password: secret, authzid, .. } in logins {
        assert_eq!((got.as_slice(), secret.as_slice()), (user, password));
        assert!(authzid.is_empty());
    }
    backend.assert_no_faults();
}

#[test]
fn every_spelling_of_login_cut_at_every_byte_reaches_the_backend_alike() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| many_sessions(places) + &one_shard(&backend));
    let (user, password) = (b"Anna.B+x", b"pass-1");
    let spelled =
        |bytes: &[u8]| [bytes.to_vec(), quoted(bytes), literal(bytes, ""), literal(bytes, "+")];
    let mut commands = Vec::new();
    for (number, name) in spelled(user).iter().enumerate() {
        for (other, secret) in spelled(password).iter().enumerate() {
            // Each kind with itself and with the next one.
            if other == number || other == (number + 1) % 4 {
                commands.push(login_command("a1", name, secret));
            }
        }
    }
    let mut sent = 0;
    for command in commands {
        for cut in 0..command.len() {
            let mut client = proxy.client();
            send_cut(&mut client, &command, cut);
            let line = client.read_line();
            assert!(line.starts_with("a1 OK"), "cut at {cut}: {line}");
            sent += 1;
        }
        let mut client = proxy.client();
        for (number, part) in parts(&command).iter().enumerate() {
            if number > 0 {
                client.expect("+ ");
            }
            client.send_byte_by_byte(part);
        }
        client.expect("a1 OK");
        sent += 1;
    }
    assert!(sent > 200);
    assert_all_logins(&backend, user, password, sent);
}

/// B-20, B-36: quoted, literal and base64 carry the same bytes, whatever the backend takes.
#[test]
fn all_byte_values_of_a_password_reach_every_kind_of_backend() {
    let with = |list: &str| Ordinary::new().capability(list).start();
    let initial = with("IMAP4rev1 SASL-IR ID AUTH=PLAIN");
    let waiting = with("IMAP4rev1 ID AUTH=PLAIN");
    let plus = with("IMAP4rev1 LITERAL+");
    let minus = with("IMAP4rev1 LITERAL-");
    let bare = with("IMAP4rev1");
    let backends = [&initial, &waiting, &plus, &minus, &bare];
    let users: Vec<_> = (0..5).map(|n| (format!("user{n}@example.org"), format!("s{n}"))).collect();
    let named: Vec<_> = users.iter().map(|(user, shard)| (user.as_str(), shard.as_str())).collect();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        many_sessions(places) + &shards(places, &backends, &named)
    });
    let password = all_bytes();
    for (number, backend) in backends.iter().enumerate() {
        // In the client's own spelling, though the route goes by the canonical form.
        let user = format!("User{number}@Example.ORG").into_bytes();
        for secret in [quoted(&password), literal(&password, ""), literal(&password, "+")] {
            let mut client = proxy.client();
            send_cut(&mut client, &login_command("a1", &quoted(&user), &secret), 20);
            client.expect("a1 OK");
            client.logout();
        }
        let message = STANDARD.encode([b"\0", user.as_slice(), b"\0", &password].concat());
        let mut client = proxy.client();
        client.send(format!("a1 AUTHENTICATE PLAIN {message}\r\n"));
        client.expect("a1 OK");
        let mut client = proxy.client();
        client.send("a1 authenticate plain\r\n");
        assert_eq!(client.read_line(), "+ ");
        client.send(format!("{message}\r\n"));
        client.expect("a1 OK");
        assert_all_logins(backend, &user, &password, 5);
    }
    let mechanism = |backend: &Backend| backend.logins()[0].mechanism.clone();
    assert_eq!(backends.map(mechanism), ["PLAIN", "PLAIN", "LOGIN", "LOGIN", "LOGIN"]);
    assert!(bare.received_text(0).contains(&format!("{{{}}}\r\n", password.len())));
    assert!(plus.received_text(0).contains(&format!("{{{}+}}\r\n", password.len())));
}

#[test]
fn sasl_login_is_offered_and_taken_only_where_it_is_listed() {
    let backend = Backend::ordinary();
    let more = support::free_port();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let listener = format!(
            "listeners:\n  - {{ name: more, address: \"127.0.0.1:{more}\", tls: none, \
             allow_clear_login: true, mechanisms: [PLAIN, LOGIN] }}"
        );
        places.head().replace("listeners:", &listener) + &one_shard(&backend)
    });
    let mut client = proxy.client();
    assert!(!client.command_ok("CAPABILITY").text().contains("AUTH=LOGIN"));
    let refused = client.command("AUTHENTICATE LOGIN");
    assert!(refused.status.starts_with("NO [CANNOT]"), "{}", refused.status);
    assert_eq!(backend.connections(), 0);

    let mut client = Client::connect(([127, 0, 0, 1], more).into()).unwrap();
    let greeting = client.expect("* OK [CAPABILITY ");
    assert!(greeting.contains("AUTH=PLAIN AUTH=LOGIN"), "{greeting}");
    client.send("a AUTHENTICATE LOGIN\r\n");
    assert_eq!(client.read_line(), format!("+ {}", STANDARD.encode("Username:")));
    client.send(format!("{}\r\n", STANDARD.encode("anna")));
    client.expect("+ ");
    client.send(format!("{}\r\n", STANDARD.encode("secret")));
    client.expect("a OK");
    assert_all_logins(&backend, b"anna", b"secret", 1);
}

/// B-22: a cancel is no failure, however often.
#[test]
fn a_cancelled_exchange_is_bad_and_counts_for_nothing() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let mut client = proxy.client();
    for _ in 0..25 {
        client.send("a AUTHENTICATE PLAIN\r\n");
        client.expect("+ ");
        client.send("*\r\n");
        client.expect("a BAD");
    }
    assert_eq!(backend.connections(), 0);
    client.login("anna", "secret");
}

/// B-23: what follows bad base64 begins afresh.
#[test]
fn bad_base64_leaves_nothing_behind() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let mut client = proxy.client();
    for message in ["!!!", "AGFubmE", "AGFubmE=", "AGFubmEAcAB4"] {
        client.send("a AUTHENTICATE PLAIN\r\n");
        client.expect("+ ");
        client.send(format!("{message}\r\n"));
        client.expect("a BAD");
    }
    assert!(client.try_authenticate_plain("bert", "secret").is_ok());
    assert_all_logins(&backend, b"bert", b"secret", 1);
}

/// Each attempt is routed for itself; nothing of the failed one is left.
#[test]
fn b45_after_a_wrong_password_another_user_reaches_the_other_shard() {
    let (north, south) = (checking().start(), checking().start());
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        places.head() + &shards(places, &[&north, &south], &[("anna", "s0"), ("bert", "s1")])
    });
    let mut client = proxy.client();
    let refused = client.try_login("anna", "wrong");
    assert!(refused.status.starts_with("NO [AUTHENTICATIONFAILED]"), "{}", refused.status);
    north.wait_until_empty();
    client.login("bert", "right");
    assert!(client.command_ok("SELECT INBOX").text().contains("EXISTS"));
    assert!(south.received_text(0).ends_with("SELECT INBOX\r\n"));
    assert!(!south.received_text(0).contains("anna"));
    assert_eq!((north.users(), south.users()), (vec!["anna".to_owned()], vec!["bert".to_owned()]));
    let gauge = |shard| proxy.metrics().sum("pointsman_backend_sessions", &[("shard", shard)]);
    wait_until("one session is counted", || {
        ((gauge("s0"), gauge("s1")) == (0.0, 1.0)).then_some(())
    });
    // Nothing of Anna's try holds her to the backend or counts as a session of hers.
    client.logout();
    south.wait_until_empty();
    wait_until("no session is counted", || (gauge("s1") == 0.0).then_some(()));
}

/// The right password after a wrong one goes over a fresh connection.
#[test]
fn b45_a_second_try_at_the_same_backend_uses_a_fresh_connection() {
    let backend = checking().start();
    // A place that a failed one kept would be one too many.
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let limits = "limits: { failed_login_delay: 100ms, sessions_per_user: 1 }\n";
        places.head_without_limits() + limits + &one_shard(&backend)
    });
    let mut client = proxy.client();
    for _ in 0..3 {
        assert!(!client.try_login("anna", "wrong").is_ok());
    }
    client.login("anna", "right");
    let logins: Vec<_> = backend.logins().iter().map(|login| login.connection).collect();
    assert_eq!(logins, [0, 1, 2, 3]);
    wait_until("failed ones are closed", || (backend.open_connections() == 1).then_some(()));
}

/// Commands behind a login reach the backend after it, in order, and no byte more.
#[test]
fn b43_what_is_pipelined_behind_a_login_is_forwarded_in_order() {
    let backend = checking().start();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    for greedy in ["a LOGIN anna right\r\n", "a LOGIN {4+}\r\nanna {5+}\r\nright\r\n"] {
        let connection = backend.connections();
        let behind = "b SELECT INBOX\r\nc NOOP\r\nd APPEND INBOX {9+}\r\nz LOGOUT!\r\ne NOOP\r\n";
        let mut client = proxy.client();
        client.send(format!("{greedy}{behind}"));
        client.expect("a OK");
        for tag in ["b OK", "c OK", "d OK", "e OK"] {
            client.expect_eventually(tag);
        }
        assert!(backend.received_text(connection).ends_with(behind));
    }
}

/// Behind a failed login they are answered by the proxy; none is lost or forwarded.
#[test]
fn b43_what_is_pipelined_behind_a_failed_login_is_answered_not_authenticated() {
    let backend = checking().start();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let mut client = proxy.client();
    client.send("a LOGIN anna wrong\r\nb SELECT INBOX\r\nc NOOP\r\nd IDLE\r\ne CAPABILITY\r\n");
    client.expect("a NO [AUTHENTICATIONFAILED]");
    client.expect("b BAD");
    client.expect("c OK");
    client.expect("d BAD");
    client.expect("* CAPABILITY ");
    client.expect("e OK");
    assert!(!backend.received_text(0).contains("SELECT"));
    client.login("anna", "right");
    // All is answered too where the client has no more to say.
    let mut client = proxy.client();
    client.send("a LOGIN anna wrong\r\nb NOOP\r\nc LOGOUT\r\n");
    client.wire().finish_writing().unwrap();
    client.expect("a NO [AUTHENTICATIONFAILED]");
    client.expect("b OK");
    client.expect("* BYE");
    client.expect("c OK");
    client.expect_end();
}

/// A second LOGIN behind the first is BAD after success, a new try after failure.
#[test]
fn b44_a_login_pipelined_behind_a_login_never_changes_who_the_session_is() {
    let (north, south) = (checking().start(), checking().start());
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        places.head() + &shards(places, &[&north, &south], &[("anna", "s0"), ("bert", "s1")])
    });
    let mut client = proxy.client();
    client.send("a LOGIN anna right\r\nb LOGIN bert right\r\nc STARTTLS\r\nd NOOP\r\n");
    client.expect("a OK");
    client.expect("b BAD");
    client.expect("c BAD");
    client.expect("d OK");
    assert_eq!(south.connections(), 0);
    assert!(!north.received_text(0).contains("bert"));

    let mut client = proxy.client();
    client.send("a LOGIN anna wrong\r\nb LOGIN bert right\r\nc SELECT INBOX\r\n");
    client.expect("a NO");
    client.expect("b OK");
    client.expect_eventually("c OK");
    assert_eq!(south.users(), ["bert"]);
}

fn list_of(line: &str) -> Vec<String> {
    let start = line.find("CAPABILITY ").unwrap() + "CAPABILITY ".len();
    let list = line[start..].split([']', '\r']).next().unwrap();
    list.split(' ').map(str::to_owned).collect()
}

/// Greeting and CAPABILITY agree; after STARTTLS the list is that of TLS.
#[test]
fn b10_the_greeting_and_capability_agree_before_and_after_starttls() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let tls = AUTHORITY.client_config();
    let places = proxy.places();

    let mut starttls = Client::connect(places.imap).unwrap();
    let greeted = list_of(&starttls.read_line());
    let has = |list: &[String], word: &str| list.iter().any(|atom| atom == word);
    assert_eq!(list_of(&starttls.command_ok("CAPABILITY").text()), greeted);
    assert!(has(&greeted, "STARTTLS") && has(&greeted, "LOGINDISABLED"));
    assert!(!greeted.iter().any(|atom| atom.starts_with("AUTH=")));
    starttls.starttls("localhost", &tls);
    let secured = list_of(&starttls.command_ok("CAPABILITY").text());
    assert!(!has(&secured, "STARTTLS") && !has(&secured, "LOGINDISABLED"));
    assert!(has(&secured, "AUTH=PLAIN") && has(&secured, "SASL-IR") && has(&secured, "ID"));
    assert!(has(&secured, "LITERAL-") && !has(&secured, "LITERAL+"));

    let mut implicit = Client::connect_tls(places.imaps, "localhost", &tls).unwrap();
    let greeted = list_of(&implicit.read_line());
    assert_eq!(greeted, secured);
    assert_eq!(list_of(&implicit.command_ok("CAPABILITY").text()), greeted);

    let mut clear = Client::connect(places.clear).unwrap();
    let greeted = list_of(&clear.read_line());
    assert_eq!(list_of(&clear.command_ok("CAPABILITY").text()), greeted);
    assert!(!has(&greeted, "STARTTLS") && !has(&greeted, "LOGINDISABLED"));
}

/// B-76 too: the backend's list, filtered, in the code; untagged too for clients that asked.
#[test]
fn b48_a_login_is_answered_with_the_backends_list_filtered() {
    let listed = "IMAP4rev1 IDLE COMPRESS=DEFLATE UNAUTHENTICATE LOGIN-REFERRALS \
                  MAILBOX-REFERRALS STARTTLS LOGINDISABLED AUTH=PLAIN UIDPLUS MOVE";
    let speaking = Ordinary::new().capability_after(listed).start();
    let silent = Ordinary::new().capability_after(listed).silent_after_login().start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        places.head() + &shards(places, &[&speaking, &silent], &[("anna", "s0"), ("bert", "s1")])
    });
    for user in ["anna", "bert"] {
        let mut client = proxy.client();
        let response = client.login(user, "secret");
        assert!(response.untagged.is_empty(), "{}", response.text());
        assert_eq!(list_of(&response.status), ["IMAP4rev1", "IDLE", "UIDPLUS", "MOVE"]);
        assert_eq!(
            list_of(&client.command_ok("CAPABILITY").text()),
            ["IMAP4rev1", "IDLE", "UIDPLUS", "MOVE"]
        );

        let mut client = proxy.client();
        client.command_ok("CAPABILITY");
        let response = client.login(user, "secret");
        assert_eq!(response.untagged, [b"* CAPABILITY IMAP4rev1 IDLE UIDPLUS MOVE\r\n"]);
        assert_eq!(list_of(&response.status), ["IMAP4rev1", "IDLE", "UIDPLUS", "MOVE"]);
    }
}

/// Untagged lines between the credentials and their answer are the client's.
#[test]
fn b46_untagged_lines_around_the_login_reach_the_client_in_order() {
    let backend = Backend::start(support::backend::Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
        let tag = peer.expect("AUTHENTICATE PLAIN ")?;
        peer.send(format!(
            "* OK [ALERT] Mind the gap\r\n* 3 EXISTS\r\n\
             {tag} OK [CAPABILITY IMAP4rev1] in\r\n* 4 EXISTS\r\n"
        ))?;
        peer.answer("NOOP", "{tag} OK done\r\n")
    });
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let mut client = proxy.client();
    client.send("a LOGIN anna secret\r\nb NOOP\r\n");
    assert_eq!(client.read_line(), "* OK [ALERT] Mind the gap");
    assert_eq!(client.read_line(), "* 3 EXISTS");
    assert_eq!(client.read_line(), "a OK [CAPABILITY IMAP4rev1] in");
    assert_eq!(client.read_line(), "* 4 EXISTS");
    client.expect("b OK");
    backend.assert_no_faults();
}

/// B-76: a list in the code of an untagged line before the login's answer is filtered like
/// every other; of a refused login nothing reaches the client but alerts, and none of a
/// wrong password.
#[test]
fn b76_no_list_passes_unfiltered_before_the_answer_and_nothing_of_a_refused_login() {
    let backend = Backend::start(support::backend::Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
        let line = String::from_utf8_lossy(&peer.line()?).into_owned();
        let tag = line.split(' ').next().unwrap_or_default();
        let verdict = match &line {
            line if line.ends_with("AHdyb25nAHNlY3JldA==") => "NO [AUTHENTICATIONFAILED] no",
            line if line.ends_with("AGJsb2NrZWQAc2VjcmV0") => "NO [CONTACTADMIN] Ask us.",
            _ => "OK in",
        };
        peer.send(format!(
            "* OK [CAPABILITY IMAP4rev1 IDLE COMPRESS=DEFLATE UNAUTHENTICATE] list\r\n\
             * NO [ALERT] Look here\r\n* OK no such user\r\n* 4 EXISTS\r\n\
             {tag} {verdict}\r\n"
        ))?;
        peer.hang()
    });
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let mut client = proxy.client();
    client.send("a LOGIN wrong secret\r\n");
    assert_eq!(client.read_line(), "a NO [AUTHENTICATIONFAILED] Authentication failed.");
    client.send("b LOGIN blocked secret\r\n");
    assert_eq!(client.read_line(), "* NO [ALERT] Look here");
    assert_eq!(client.read_line(), "b NO [CONTACTADMIN] Ask us.");
    client.send("c LOGIN anna secret\r\n");
    assert_eq!(client.read_line(), "* NO [ALERT] Look here");
    assert_eq!(client.read_line(), "* OK no such user");
    assert_eq!(client.read_line(), "* 4 EXISTS");
    assert_eq!(client.read_line(), "c OK [CAPABILITY IMAP4rev1 IDLE] in");
    backend.assert_no_faults();
}

/// The id of the session with that user, from the line at its end.
fn logged_session(proxy: &Pointsman) -> String {
    proxy.wait_for_log("session ended");
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("session ended")).unwrap();
    let start = line.find("session=").unwrap_or_else(|| panic!("{line}")) + "session=".len();
    line[start..].trim_start_matches('"').chars().take(16).collect()
}

/// B-31: the client's ID goes along without what only a proxy may say.
#[test]
fn the_id_is_kept_and_forwarded_with_the_proxys_fields() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let tls = AUTHORITY.client_config();
    let mut client = Client::tls(proxy.places().imaps, &tls);
    let answer = client.command_ok(
        "ID (\"name\" \"Mail \\\"er\\\"\" \"X-Originating-IP\" \"203.0.113.9\" \
         \"x-session-id\" \"forged\" \"os\" NIL \"version\" {3+}\r\n1.0)",
    );
    assert!(answer.text().starts_with("* ID "), "{}", answer.text());
    client.login("anna", "secret");
    let address = client.local_address();
    client.logout();
    let session = logged_session(&proxy);
    let received = backend.received_text(0);
    let sent = received.lines().next().unwrap();
    let fields = sent.split_once(" ID ").unwrap().1;
    let expected = format!(
        "(\"x-session-id\" \"{session}\" \"x-originating-ip\" \"127.0.0.1\" \
         \"x-originating-port\" \"{port}\" \"x-connected-ip\" \"127.0.0.1\" \
         \"x-connected-port\" \"{own}\" \"x-proxy-ttl\" \"4\" \"x-client-transport\" \"TLS\" \
         \"x-connected-name\" \"localhost\" \
         \"name\" \"Mail \\\"er\\\"\" \"os\" NIL \"version\" \"1.0\")",
        port = address.port(),
        own = proxy.places().imaps.port(),
    );
    assert_eq!(fields, expected);
}

/// The ID's fields are those that a real Dovecot believes.
#[test]
fn dovecot_takes_the_session_id_and_the_address_from_the_proxy() {
    let dovecot = Dovecot::start(&AUTHORITY, &[("anna", "anna-secret")]);
    let behind = support::free_port();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let listener = format!(
            "listeners:\n  - {{ name: behind, address: \"127.0.0.1:{behind}\", tls: none, \
             allow_clear_login: true, proxy_protocol: required, trusted: [127.0.0.0/8] }}"
        );
        places.head().replace("listeners:", &listener)
            + &format!(
                "shards:\n  s0: {{ kind: shared, backends: [ {{ name: b0, \
                 address: \"localhost:{}\", tls: implicit, ca: \"{}\" }} ] }}\n\
                 routing: {{ lookups: [ {{ shard: s0 }} ] }}\n",
                dovecot.imaps().port(),
                places.ca.display()
            )
    });
    let mut client = Client::connect(([127, 0, 0, 1], behind).into()).unwrap();
    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 4711 143\r\n");
    client.expect("* OK");
    client.command_ok("ID (\"name\" \"tester\" \"x-originating-ip\" \"203.0.113.9\")");
    client.login("anna", "anna-secret");
    client.logout();
    let session = logged_session(&proxy);
    dovecot.wait_for_log(&format!("session=<{session}>"));
    let log = dovecot.log();
    let line = log.lines().find(|line| line.contains("Login: user=<anna>")).unwrap();
    assert!(line.contains("rip=192.0.2.7"), "{line}");
    assert!(line.contains("lip=198.51.100.1"), "{line}");
    assert!(line.contains(&format!("session=<{session}>")), "{line}");
    assert!(!log.contains("203.0.113.9"));
    assert!(log.contains("name=tester"), "{log}");
}

/// No client text can end the command line at the backend.
#[test]
fn b34_line_ends_and_nul_in_credentials_never_reach_a_backend() {
    let backend = Ordinary::new().capability("IMAP4rev1").start();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let hostile: [&[u8]; 5] =
        [b"x\r\nb LOGOUT", b"x\" \"y\r\nb LOGOUT", b"x\nb LOGOUT", b"x\rb", b"x\0y"];
    for evil in hostile {
        for command in [
            login_command("a", &literal(evil, "+"), b"secret"),
            login_command("a", b"anna", &literal(evil, "+")),
            login_command("a", b"anna", &literal(evil, "")),
        ] {
            let mut client = proxy.client();
            send_cut(&mut client, &command, 0);
            client.expect("a BAD");
            client.send("b NOOP\r\n");
            client.expect("b OK");
        }
        let mut client = proxy.client();
        let message = STANDARD.encode([b"\0anna\0", evil].concat());
        client.send(format!("a AUTHENTICATE PLAIN {message}\r\n"));
        client.expect("a BAD");
    }
    // Inside quotes the line ends with the command: two bad lines, no login.
    let mut client = proxy.client();
    client.send("a LOGIN \"x\r\nb LOGOUT\" \"y\"\r\nc NOOP\r\n");
    client.expect("a BAD");
    let next = client.read_line();
    assert!(next.starts_with("b BAD") || next.starts_with("* B"), "{next}");
    assert_eq!(backend.connections(), 0);
    assert!(!proxy.log().contains("panic"));
}

/// A quoted argument that ends like a literal's announcement is text.
#[test]
fn b35_a_quoted_password_that_looks_like_a_literal_is_taken_as_text() {
    let plain = Backend::ordinary();
    let plus = Ordinary::new().capability("IMAP4rev1 LITERAL+").start();
    let bare = Ordinary::new().capability("IMAP4rev1").start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let users = [("u0", "s0"), ("u1", "s1"), ("u2", "s2")];
        places.head() + &shards(places, &[&plain, &plus, &bare], &users)
    });
    for (user, backend) in [("u0", &plain), ("u1", &plus), ("u2", &bare)] {
        for (number, password) in ["{5+}", "abc{5+}", "abc{5}", "~{5+}"].iter().enumerate() {
            let mut client = proxy.client();
            client.send(format!("a LOGIN {user} \"{password}\"\r\n"));
            client.expect("a OK");
            assert_eq!(backend.logins()[number].password, password.as_bytes());
            // The backend's own reader may be fooled: towards it nothing like that is quoted.
            let received = backend.received_text(number);
            assert!(!received.contains(&format!("\"{password}\"")), "{received}");
            client.logout();
        }
        backend.assert_no_faults();
    }
}

/// B-40: an identity that differs from the user is a master login, which nobody may do.
#[test]
fn another_authorisation_identity_is_refused_without_a_backend() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one_shard(&backend));
    let mut client = proxy.client();
    let message = STANDARD.encode("bert\0anna\0secret");
    let refused = client.command(&format!("AUTHENTICATE PLAIN {message}"));
    assert!(refused.status.starts_with("NO [AUTHENTICATIONFAILED]"), "{}", refused.status);
    for separator in ["bert*anna", "*anna", "bert*"] {
        assert!(!client.try_login(separator, "secret").is_ok(), "{separator}");
    }
    assert_eq!(backend.connections(), 0);
    let mut client = proxy.client();
    let message = STANDARD.encode("Anna\0anna\0secret");
    assert!(client.command(&format!("AUTHENTICATE PLAIN {message}")).is_ok());
}
