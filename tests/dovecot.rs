//! What only a real Dovecot can tell: it believes what the proxy says of the client, its
//! extensions work through the proxy, and its outages look like outages.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use support::client::Client;
use support::dovecot::{Dovecot, Settings};
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;
use support::{free_port, mail, temporary_folder, wait_until};

const PASSWORD: &str = "secret";

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// One backend in one shard of that name.
fn shard(name: &str, address: SocketAddr, settings: &str) -> String {
    let port = address.port();
    format!(
        "  {name}: {{ kind: primary, backends: \
         [ {{ name: {name}1, address: \"localhost:{port}\", {settings} }} ] }}\n"
    )
}

/// Shard `s` in clear text for everybody.
fn plain(places: &Places, dovecot: &Dovecot) -> String {
    format!(
        "{}shards:\n{}routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        places.head(),
        shard("s", dovecot.imap(), "tls: none")
    )
}

fn start(users: &[(&str, &str)]) -> (Dovecot, Pointsman) {
    let dovecot = Dovecot::start(&AUTHORITY, users);
    let proxy = Pointsman::start(&AUTHORITY, |places| plain(places, &dovecot));
    (dovecot, proxy)
}

fn words(list: &str) -> Vec<&str> {
    list.split_ascii_whitespace().collect()
}

/// The list in `[CAPABILITY ...]` of a tagged line.
fn listed(status: &str) -> &str {
    let (_, rest) = status.split_once("[CAPABILITY ").unwrap_or_else(|| panic!("{status}"));
    rest.split_once(']').unwrap().0
}

/// The list in the untagged answer to CAPABILITY.
fn asked(client: &mut Client) -> String {
    let text = client.command_ok("CAPABILITY").text();
    text.trim_end().strip_prefix("* CAPABILITY ").unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// B-31: Dovecot's log shows the client, not the proxy, over every kind of leg.
#[test]
fn the_client_stands_in_the_log_of_dovecot_whatever_the_leg_is() {
    let legs = [
        ("clear", "none", "id"),
        ("implicit", "implicit", "id"),
        ("starttls", "starttls", "id"),
        ("header", "none", "proxy_v2"),
    ];
    let users = legs.map(|(leg, _, _)| (leg, PASSWORD));
    let dovecot = Settings::new(&AUTHORITY, &users).haproxy().start();
    let front = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let mut text = places.head().replace(
            "tls:\n  cert",
            &format!(
                "  - {{ name: balanced, address: \"{front}\", tls: starttls, \
                 proxy_protocol: required, trusted: [127.0.0.0/8] }}\ntls:\n  cert"
            ),
        );
        text.push_str("shards:\n");
        let mut routes = String::new();
        for (leg, tls, forward) in legs {
            let address = match (tls, forward) {
                ("implicit", _) => dovecot.imaps(),
                (_, "proxy_v2") => dovecot.haproxy(),
                _ => dovecot.imap(),
            };
            let ca = format!(", ca: \"{}\"", places.ca.display());
            let ca = if tls == "none" { "" } else { &ca };
            let settings = format!("tls: {tls}, forward: {forward}{ca}");
            text.push_str(&shard(leg, address, &settings));
            writeln!(routes, "{leg} {leg}").unwrap();
        }
        let file = places.file("users");
        std::fs::write(&file, routes).unwrap();
        text + &format!(
            "routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
            file.display()
        )
    });

    let tls = AUTHORITY.client_config();
    for (number, (leg, _, forward)) in (1..).zip(legs) {
        let mut client = Client::connect(front).unwrap();
        client.send(format!("PROXY TCP4 192.0.2.{number} 198.51.100.1 40000 993\r\n"));
        client.expect("* OK");
        client.starttls("localhost", &tls);
        client.login(leg, PASSWORD);
        client.logout();
        let login = wait_until("Dovecot logs the login", || {
            let user = format!("Login: user=<{leg}>");
            dovecot.log().lines().find(|line| line.contains(&user)).map(str::to_owned)
        });
        assert!(login.contains(&format!("rip=192.0.2.{number}, lip=198.51.100.1,")), "{login}");
        let session = login.split_once("session=<").unwrap().1.split('>').next().unwrap();
        let ended = format!("user={leg}");
        if forward == "id" {
            let own = wait_until("the proxy logs the session's end", || {
                let log = proxy.log();
                let line = log.lines().find(|line| {
                    line.contains("session ended") && line.replace('"', "").contains(&ended)
                })?;
                Some(line.contains(session))
            });
            assert!(own, "another id than Dovecot's {session}:\n{}", proxy.log());
        }
    }
}

/// Nobody can ask the proxy which users there are: both refusals look alike, byte for byte.
#[test]
fn a_wrong_password_and_an_unknown_user_are_the_same_and_the_next_try_works() {
    let (_dovecot, proxy) = start(&[("anna", PASSWORD)]);
    let mut client = proxy.client();
    let wrong = client.try_login("anna", "wrong");
    assert_eq!(wrong.status, "NO [AUTHENTICATIONFAILED] Authentication failed.");
    assert_eq!(client.try_login("nobody", PASSWORD), wrong);
    assert_eq!(client.try_authenticate_plain("anna", "wrong"), wrong);
    client.login("anna", PASSWORD);
    client.command_ok("SELECT INBOX");
    client.logout();
}

/// B-57: an outage is no wrong password, and its end is seen at once.
#[test]
fn b57_a_killed_dovecot_is_unavailable_until_it_is_back() {
    let (mut dovecot, proxy) = start(&[("anna", PASSWORD)]);
    let mut open = proxy.logged_in("anna", PASSWORD);
    open.command_ok("SELECT INBOX");
    dovecot.kill();
    open.expect_end_of_session();

    let mut client = proxy.client();
    let status = client.try_login("anna", PASSWORD).status;
    assert!(status.starts_with("NO [UNAVAILABLE] "), "{status}");
    let status = client.try_login("anna", "wrong").status;
    assert!(status.starts_with("NO [UNAVAILABLE] "), "{status}");

    dovecot.restart();
    client.login("anna", PASSWORD);
    client.append("INBOX", &mail("back again"));
    client.command_ok("SELECT INBOX");
    assert_eq!(client.fetch_mail(1), mail("back again"));
}

/// A session that Dovecot ends in order hears its BYE and then the end.
#[test]
fn the_bye_of_a_dovecot_that_kicks_a_user_reaches_the_client() {
    let (dovecot, proxy) = start(&[("anna", PASSWORD)]);
    let mut client = proxy.logged_in("anna", PASSWORD);
    client.command_ok("SELECT INBOX");
    dovecot.doveadm(&["kick", "anna"]);
    let last = String::from_utf8(client.read_to_end()).unwrap();
    assert!(last.starts_with("* BYE ") && last.ends_with("\r\n"), "{last:?}");
    proxy.logged_in("anna", PASSWORD).logout();
}

/// A client that keeps a mailbox in step: changes, and what vanished, since a known state.
#[test]
fn a_session_with_enable_condstore_and_qresync_works() {
    let (_dovecot, proxy) = start(&[("anna", PASSWORD)]);
    let mut client = proxy.logged_in("anna", PASSWORD);
    let list = asked(&mut client);
    for needed in ["ENABLE", "CONDSTORE", "QRESYNC", "LITERAL+", "UIDPLUS", "MOVE"] {
        assert!(words(&list).contains(&needed), "{needed} is not in {list}");
    }
    let enabled = client.command_ok("ENABLE CONDSTORE QRESYNC").text();
    assert_eq!(words(&enabled)[..2], ["*", "ENABLED"]);
    assert!(enabled.contains("QRESYNC"), "{enabled}");
    let mails: Vec<_> = (1..=9).map(|number| mail(&format!("mail {number}"))).collect();
    client.append_all("INBOX", &mails);
    let selected = client.command_ok("SELECT INBOX (CONDSTORE)").text();
    let code = |name: &str| -> u64 {
        let (_, rest) = selected.split_once(&format!("[{name} ")).unwrap();
        rest.split(']').next().unwrap().parse().unwrap()
    };
    let (validity, modseq) = (code("UIDVALIDITY"), code("HIGHESTMODSEQ"));
    let mut other = proxy.logged_in("anna", PASSWORD);
    other.command_ok("SELECT INBOX");
    other.command_ok("STORE 2,4 +FLAGS.SILENT (\\Deleted)");
    other.command_ok("STORE 7 +FLAGS.SILENT (\\Flagged)");
    other.command_ok("EXPUNGE");

    client.command_ok("UNSELECT");
    let again = client.command_ok(&format!("SELECT INBOX (QRESYNC ({validity} {modseq} 1:9))"));
    let text = again.text();
    assert!(text.contains("* VANISHED (EARLIER) 2,4\r\n"), "{text}");
    assert!(text.contains("* 5 FETCH (UID 7 FLAGS (\\Flagged"), "{text}");
    let changed =
        client.command_ok(&format!("UID FETCH 1:* (FLAGS) (CHANGEDSINCE {modseq} VANISHED)"));
    assert!(changed.text().contains("UID 7"), "{}", changed.text());
    let stale = client.command(&format!("UID STORE 7 (UNCHANGEDSINCE {modseq}) +FLAGS (\\Seen)"));
    assert!(stale.status.contains("[MODIFIED 7]"), "{}", stale.status);
    let moved = client.command_ok("UID MOVE 9 Sent");
    assert!(moved.text().contains("* VANISHED 9\r\n"), "{}", moved.text());
}

/// B-48: compression would blind the proxy: it is not listed anywhere, and refused.
#[test]
fn b75_compression_is_never_offered_and_the_rest_of_the_list_is_dovecots() {
    let compressing = "protocol imap {\n  mail_plugins = zlib imap_zlib\n}\n";
    let dovecot = Settings::new(&AUTHORITY, &[("anna", PASSWORD)]).extra(compressing).start();
    let proxy = Pointsman::start(&AUTHORITY, |places| plain(places, &dovecot));

    let mut direct = Client::clear(dovecot.imap());
    let there = listed(&direct.login("anna", PASSWORD).status).to_owned();
    assert!(words(&there).contains(&"COMPRESS=DEFLATE"), "{there}");
    let unwanted = |word: &str| {
        word.starts_with("COMPRESS") || word.starts_with("AUTH=") || word == "LOGIN-REFERRALS"
    };
    let wanted: Vec<_> = words(&there).into_iter().filter(|word| !unwanted(word)).collect();
    assert!(wanted.len() > 20, "{wanted:?}");

    let mut client = proxy.client();
    let login = client.login("anna", PASSWORD);
    assert_eq!(words(listed(&login.status)), wanted);
    assert_eq!(words(&asked(&mut client)), wanted);
    for command in ["COMPRESS DEFLATE", "STARTTLS", "LOGIN anna secret"] {
        let refused = client.command(command);
        assert!(refused.status.starts_with("BAD "), "{command}: {}", refused.status);
    }
    client.command_ok("SELECT INBOX");

    let mut careful = proxy.client();
    careful.command_ok("CAPABILITY");
    let login = careful.login("anna", PASSWORD);
    assert_eq!(words(login.text().trim_start_matches("* CAPABILITY")), wanted);
}

/// The rule of one backend a user, seen from the servers: two of them share a storage.
#[test]
fn all_sessions_of_a_user_are_on_one_of_the_dovecots_that_share_a_storage() {
    const USERS: [&str; 6] = ["u1", "u2", "u3", "u4", "u5", "u6"];
    let storage = temporary_folder("storage");
    let accounts = USERS.map(|user| (user, PASSWORD));
    let one = || Settings::new(&AUTHORITY, &accounts).mail_folder(storage.path()).start();
    let (first, second) = (one(), one());
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}shards:\n  s:\n    kind: shared\n    backends:\n      \
             - {{ name: first, address: \"{}\", tls: none }}\n      \
             - {{ name: second, address: \"{}\", tls: none }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head(),
            first.imap(),
            second.imap()
        )
    });
    let mut clients = Vec::new();
    for user in USERS {
        for _ in 0..3 {
            let mut client = proxy.logged_in(user, PASSWORD);
            client.command_ok("SELECT INBOX");
            clients.push(client);
        }
    }
    let (first, second) = (first.who(), second.who());
    assert_eq!(first.len() + second.len(), clients.len());
    for user in USERS {
        let on = [&first, &second].map(|list| list.iter().filter(|name| *name == user).count());
        assert!(on == [3, 0] || on == [0, 3], "{user}: {on:?}");
    }
    assert!(!first.is_empty() && !second.is_empty(), "six users on one of two servers");
}

/// Dovecot closes the connection over a longer message: nobody else may suffer from that.
#[test]
fn passwords_longer_than_dovecot_reads_are_refused_and_hurt_nobody() {
    let long = "p".repeat(6_042);
    let (dovecot, proxy) = start(&[("anna", &long), ("bert", PASSWORD)]);
    proxy.logged_in("anna", &long).logout();
    for bytes in [6_043, 6_200, 7_000, 8_000, 8_150] {
        let mut client = proxy.client();
        let password = "p".repeat(bytes);
        let failed = "NO [AUTHENTICATIONFAILED] Authentication failed.";
        assert_eq!(client.try_login("anna", &password).status, failed, "{bytes}");
        client.login("bert", PASSWORD);
        client.logout();
    }
    assert!(proxy.metrics().sum("pointsman_backend_failures_total", &[]) < 0.5);
    assert!(!dovecot.log().contains("too large"), "{}", dovecot.log());
}
