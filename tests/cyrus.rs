//! What only a real Cyrus can tell: its legs, its literals and extensions, its outages.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::fmt::Write;
use std::sync::LazyLock;

use support::client::{Client, quoted};
use support::cyrus::Cyrus;
use support::mail;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;

const PASSWORD: &str = "secret";
const ANNA: (&str, &str) = ("anna", PASSWORD);

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Shard `s` in clear text for everybody.
fn plain(places: &Places, cyrus: &Cyrus) -> String {
    format!(
        "{}shards:\n  s: {{ kind: primary, backends: \
         [ {{ name: s1, address: \"{}\", tls: none }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        places.head(),
        cyrus.imap()
    )
}

fn start(users: &[(&str, &str)]) -> (Cyrus, Pointsman) {
    let cyrus = Cyrus::start(&AUTHORITY, users);
    let proxy = Pointsman::start(&AUTHORITY, |places| plain(places, &cyrus));
    (cyrus, proxy)
}

/// The names in a capability list, in order; the session's id in one of them is cut.
fn words(list: &str) -> Vec<&str> {
    let list = list.trim_end().trim_start_matches("* CAPABILITY");
    list.split_ascii_whitespace().map(|word| word.split("=<").next().unwrap()).collect()
}

fn listed(status: &str) -> &str {
    let (_, rest) = status.split_once("[CAPABILITY ").unwrap_or_else(|| panic!("{status}"));
    rest.split_once(']').unwrap().0
}

#[test]
fn cyrus_is_reached_in_clear_text_by_starttls_and_by_implicit_tls() {
    let users = ["none", "starttls", "implicit"];
    let cyrus = Cyrus::start(&AUTHORITY, &users.map(|user| (user, PASSWORD)));
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let mut text = places.head() + "shards:\n";
        for tls in users {
            let ca = format!(", ca: \"{}\"", places.ca.display());
            let (address, ca) = match tls {
                "none" => (cyrus.imap(), ""),
                "starttls" => (cyrus.imap(), ca.as_str()),
                _ => (cyrus.imaps(), ca.as_str()),
            };
            writeln!(
                text,
                "  {tls}: {{ kind: primary, backends: [ {{ name: {tls}1, \
                 address: \"localhost:{}\", tls: {tls}{ca} }} ] }}",
                address.port()
            )
            .unwrap();
        }
        let file = places.file("users");
        std::fs::write(&file, users.map(|user| format!("{user} {user}\n")).concat()).unwrap();
        text + &format!(
            "routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
            file.display()
        )
    });
    let tls = AUTHORITY.client_config();
    for user in users {
        let mut client = Client::tls(proxy.places().imaps, &tls);
        client.login(user, PASSWORD);
        client.append("INBOX", &mail(user));
        client.logout();
        let mut direct = Client::clear(cyrus.imap());
        direct.login(user, PASSWORD);
        direct.command_ok("SELECT INBOX");
        assert_eq!(direct.fetch_mail(1), mail(user));
    }
}

/// Cyrus answers a bare NO; the client is told what it is, for an unknown user too.
#[test]
fn a_wrong_password_and_an_unknown_user_are_the_same_and_the_next_try_works() {
    let (_cyrus, proxy) = start(&[ANNA]);
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
fn a_killed_cyrus_is_unavailable_until_it_is_back() {
    let (mut cyrus, proxy) = start(&[ANNA]);
    let mut open = proxy.logged_in("anna", PASSWORD);
    open.command_ok("SELECT INBOX");
    cyrus.kill();
    open.expect_end_of_session();
    let mut client = proxy.client();
    for password in [PASSWORD, "wrong"] {
        let status = client.try_login("anna", password).status;
        assert!(status.starts_with("NO [UNAVAILABLE] "), "{status}");
    }
    cyrus.restart();
    client.login("anna", PASSWORD);
    client.append("INBOX", &mail("back again"));
    client.command_ok("SELECT INBOX");
    assert_eq!(client.fetch_mail(1), mail("back again"));
}

/// B-48: the list that Cyrus gives, less what would lead past the proxy.
#[test]
fn the_capabilities_of_cyrus_are_filtered_wherever_they_stand() {
    let (cyrus, proxy) = start(&[ANNA]);
    let mut direct = Client::clear(cyrus.imap());
    direct.login("anna", PASSWORD);
    let there = direct.command_ok("CAPABILITY").text();
    // Cyrus lists LOGINDISABLED even behind a login.
    let dropped = ["COMPRESS=DEFLATE", "LOGINDISABLED", "MAILBOX-REFERRALS", "STARTTLS"];
    assert!(there.contains("COMPRESS=DEFLATE"), "{there}");
    let kept = |word: &&str| !dropped.contains(word) && !word.starts_with("AUTH=");
    let wanted: Vec<_> = words(&there).into_iter().filter(kept).collect();
    assert!(wanted.len() > 30 && wanted.contains(&"LITERAL+"), "{wanted:?}");

    let mut client = proxy.client();
    let login = client.login("anna", PASSWORD);
    let in_code = words(listed(&login.status)).into_iter().filter(|word| wanted.contains(word));
    assert!(in_code.count() > 30, "{}", login.status);
    for word in words(listed(&login.status)) {
        assert!(!dropped.contains(&word) && !word.starts_with("AUTH="), "{word}");
    }
    assert_eq!(words(&client.command_ok("CAPABILITY").text()), wanted);
    for command in ["COMPRESS DEFLATE", "STARTTLS", "UNAUTHENTICATE", "LOGIN anna secret"] {
        let refused = client.command(command);
        assert!(refused.status.starts_with("BAD "), "{command}: {}", refused.status);
    }
    client.command_ok("SELECT INBOX");
}

#[test]
fn id_is_answered_by_the_proxy_before_login_and_by_cyrus_after_it() {
    let (cyrus, proxy) = start(&[ANNA]);
    let mut client = proxy.client();
    let before = client.command_ok("ID (\"name\" \"test\")").text();
    assert!(before.starts_with("* ID ") && !before.contains("Cyrus"), "{before}");
    client.login("anna", PASSWORD);
    let after = client.command_ok("ID (\"name\" \"test\")").text();
    assert!(after.starts_with("* ID (") && after.contains("Cyrus"), "{after}");
    let mut direct = Client::clear(cyrus.imap());
    direct.login("anna", PASSWORD);
    let there = direct.command_ok("ID (\"name\" \"test\")").text();
    let vendor = |text: &str| text.split_once("\"vendor\"").map(|(_, rest)| rest[..20].to_owned());
    assert_eq!(vendor(&after), vendor(&there));
}

/// Literals of every kind, several in one command, empty ones and of the size of lines.
#[test]
fn literals_of_every_kind_pass_to_cyrus_and_back() {
    let (_cyrus, proxy) = start(&[ANNA]);
    let mut client = proxy.logged_in("anna", PASSWORD);

    let name = "Box +3 = #2: a1 OK done";
    let tag = client.send_command(&format!("CREATE {{{}}}", name.len()));
    client.expect("+ ");
    client.send(format!("{name}\r\n"));
    let response = client.read_response(&tag);
    assert!(response.is_ok(), "{}", response.status);
    client.command_ok(&format!("SUBSCRIBE {{{}+}}\r\n{name}", name.len()));
    let listed = client.command_ok(&format!("LIST \"\" {}", quoted(name))).text();
    assert!(listed.contains(name), "{listed}");

    // Two literals, of which the second needs to be asked for.
    let text = mail("by two literals");
    let tag =
        client.send_command(&format!("APPEND {{{}+}}\r\n{name} {{{}}}", name.len(), text.len()));
    client.expect("+ ");
    client.send(&text);
    client.send("\r\n");
    let response = client.read_response(&tag);
    assert!(response.is_ok(), "{}", response.status);
    // Several mails in one command, one of them as literal8 (RFC 3516).
    let (one, two) = (mail("one"), mail("two"));
    client.send(format!("multi APPEND {} {{{}+}}\r\n", quoted(name), one.len()));
    client.send(&one);
    client.send(format!(" (\\Seen) ~{{{}+}}\r\n", two.len()));
    client.send(&two);
    client.send("\r\n");
    let response = client.read_response("multi");
    assert!(response.is_ok(), "{}", response.status);
    client.command_ok(&format!("SELECT {}", quoted(name)));
    for (number, text) in [(1, &text), (2, &one), (3, &two)] {
        assert_eq!(client.fetch_mail(number), *text);
        let binary = client.command_ok(&format!("FETCH {number} BINARY.PEEK[]"));
        assert!(binary.text().contains("~{") || binary.literal().is_some(), "{}", binary.text());
    }

    // The server's literal holds what looks like answers, in an untagged line of its own.
    let note = "x\r\nt9 OK done\r\n* BYE {4}\r\n";
    let set = format!("SETMETADATA \"\" (/private/comment {{{}+}}\r\n{note})", note.len());
    client.command_ok(&set);
    let metadata = client.command_ok("GETMETADATA \"\" /private/comment");
    assert_eq!(metadata.literal(), Some(note.as_bytes()), "{}", metadata.text());

    // A refused literal puts both sides back to lines.
    let tag = client.send_command("APPEND nowhere {5}");
    let refused = client.read_line();
    assert!(refused.starts_with(&format!("{tag} NO ")), "{refused}");
    client.command_ok("NOOP");
    client.logout();
}

#[test]
fn a_session_with_enable_condstore_and_qresync_works() {
    let (_cyrus, proxy) = start(&[ANNA]);
    let mut client = proxy.logged_in("anna", PASSWORD);
    let enabled = client.command_ok("ENABLE CONDSTORE QRESYNC").text();
    assert!(enabled.starts_with("* ENABLED ") && enabled.contains("QRESYNC"), "{enabled}");
    let mails: Vec<_> = (1..=5).map(|number| mail(&format!("mail {number}"))).collect();
    client.append_all("INBOX", &mails);
    let selected = client.command_ok("SELECT INBOX").text();
    let code = |name: &str| -> u64 {
        let (_, rest) = selected.split_once(&format!("[{name} ")).unwrap();
        rest.split(']').next().unwrap().parse().unwrap()
    };
    let (validity, modseq) = (code("UIDVALIDITY"), code("HIGHESTMODSEQ"));
    let mut other = proxy.logged_in("anna", PASSWORD);
    other.command_ok("SELECT INBOX");
    other.command_ok("STORE 2,4 +FLAGS.SILENT (\\Deleted)");
    other.command_ok("EXPUNGE");
    client.command_ok("UNSELECT");
    let again = client.command_ok(&format!("SELECT INBOX (QRESYNC ({validity} {modseq} 1:5))"));
    assert!(again.text().contains("* VANISHED (EARLIER) 2,4\r\n"), "{}", again.text());
    let moved = client.command(&format!("UID COPY 5 {}", quoted("no such box")));
    assert!(moved.status.starts_with("NO [TRYCREATE]"), "{}", moved.status);
}
