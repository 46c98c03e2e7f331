//! The filter file for fail2ban, run by the real `fail2ban-regex` on the log that the binary
//! wrote: every failed login is matched with its client's address, and nothing that a client
//! or a backend chose is taken for one.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use support::backend::Backend;
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::Pointsman;
use support::process::{self, output};
use support::tls::{Authority, client_side};
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Where nobody is: whoever finds it in the log was deceived.
const FORGED: &str = "203.0.113.66";

fn filter() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fail2ban/filter.d/pointsman.conf")
}

/// How often each address is matched in these lines.
fn matched(log: &str) -> BTreeMap<String, usize> {
    let folder = support::temporary_folder("fail2ban");
    let file = folder.path().join("log");
    std::fs::write(&file, log).unwrap();
    let mut command = Command::new("fail2ban-regex");
    let output = output(command.args(["-o", "ip"]).arg(&file).arg(filter()));
    // It says so by its exit code when nothing matched.
    let mut counts = BTreeMap::new();
    for address in String::from_utf8(output.stdout).unwrap().lines() {
        *counts.entry(address.to_owned()).or_insert(0) += 1;
    }
    counts
}

/// Names that look like log fields, or end the line, or drive a terminal.
fn hostile() -> Vec<Vec<u8>> {
    let text = format!(
        "2026-01-01T00:00:00.000000Z  INFO pointsman::proxy::front: login failed \
         session=0123456789abcdef listener=clear remote_address={FORGED} \
         reason=refused_by_backend answer=authentication_failed"
    );
    let json = format!(
        "{{\"time\":\"2026-01-01T00:00:00.000000Z\",\"level\":\"INFO\",\"target\":\
         \"pointsman::proxy::front\",\"message\":\"login failed\",\"session\":\
         \"0123456789abcdef\",\"listener\":\"clear\",\"remote_address\":\"{FORGED}\",\
         \"reason\":\"refused_by_backend\",\"answer\":\"authentication_failed\"}}"
    );
    let closing = format!("x\",\"remote_address\":\"{FORGED}\",\"answer\":\"authentication_failed");
    [
        "anna".to_owned(),
        format!("x rip={FORGED}"),
        format!("remote_address={FORGED}"),
        format!("x+remote_address={FORGED}+answer=authentication_failed"),
        format!("x\" remote_address={FORGED} answer=authentication_failed \""),
        format!("x\\\" remote_address={FORGED}"),
        format!("\u{1b}[2K\u{1b}[G{text}"),
        closing,
        json,
        text,
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect()
}

/// A client behind the balancer, from that address.
fn from(balanced: SocketAddr, address: &str) -> Client {
    let (family, to) = if address.contains(':') { (6, "2001:db8::1") } else { (4, "192.0.2.1") };
    let mut client = Client::connect(balanced).unwrap();
    client.send(format!("PROXY TCP{family} {address} {to} 1000 143\r\n"));
    client.expect("* OK");
    client
}

fn literal(bytes: &[u8]) -> Vec<u8> {
    [format!("{{{}+}}\r\n", bytes.len()).into_bytes(), bytes.to_vec()].concat()
}

struct Scene {
    proxy: Pointsman,
    backend: Backend,
    balanced: SocketAddr,
}

/// The backend's text is the password, so that it may be hostile too.
fn start(format: &str) -> Scene {
    let verdict = |_: &[u8], password: &[u8]| {
        let text = String::from_utf8_lossy(password).replace(['\r', '\n'], " ");
        format!("NO [AUTHENTICATIONFAILED] {text}")
    };
    let backend = Ordinary::new().verdict(verdict).start();
    let balanced = SocketAddr::from(([127, 0, 0, 1], support::free_port()));
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let listener = format!(
            "listeners:\n  - {{ name: balanced, address: \"{balanced}\", tls: none, \
             allow_clear_login: true, proxy_protocol: required, trusted: [127.0.0.0/8] }}\n"
        );
        let limits = "limits: { failed_login_delay: 0s, login_tries: 100 }\n";
        places
            .head_without_limits()
            .replace("listeners:\n", &listener)
            .replace("level: debug", &format!("level: trace, format: {format}"))
            + limits
            + &format!(
                "shards:\n  s: {{ kind: shared, backends: \
                 [ {{ name: b, address: \"{}\", tls: none }} ] }}\n\
                 routing: {{ lookups: [ {{ shard: s }} ] }}\n",
                backend.address()
            )
    });
    Scene { proxy, backend, balanced }
}

/// Everything that a client can choose, chosen badly; gives how often each address failed.
fn misbehave(scene: &Scene) -> BTreeMap<String, usize> {
    let mut failed = BTreeMap::new();
    for (number, name) in hostile().iter().enumerate() {
        let address = match number % 2 {
            0 => format!("198.51.100.{}", number + 1),
            _ => format!("2001:db8:7::{:x}", number + 1),
        };
        let mut client = from(scene.balanced, &address);
        // As user, then as password, which the backend gives back as its text.
        for (user, password) in [(&name[..], &b"wrong"[..]), (b"anna", name)] {
            let login = [b"a LOGIN ", &*literal(user), b" ", &*literal(password), b"\r\n"].concat();
            client.send(login);
            client.expect_eventually("a NO [AUTHENTICATIONFAILED]");
            *failed.entry(address.clone()).or_insert(0) += 1;
        }
        // As ID, mechanism and command.
        let fields = [b"i ID (\"name\" ", &*literal(name), b")\r\n"].concat();
        client.send(fields);
        client.expect_eventually("i ");
        let word: String =
            String::from_utf8_lossy(name).chars().filter(char::is_ascii_graphic).collect();
        client.send(format!("m AUTHENTICATE {word}\r\n"));
        client.read_line();
        client.send([name, &b"\r\n"[..]].concat());
        client.read_line();
    }
    failed
}

/// Line ends cannot be in a name; the tries are no logins, and no line is forged.
fn try_line_ends(scene: &Scene) {
    for end in ["\r\n", "\n", "\r", "\0"] {
        let mut client = from(scene.balanced, "198.51.100.200");
        let name =
            format!("x{end}2026-01-01T00:00:00.000000Z  INFO pointsman::proxy::front: {FORGED}");
        client.send([b"a LOGIN ", &*literal(name.as_bytes()), b" secret\r\n"].concat());
        client.expect("a BAD");
    }
}

/// A name in the hello that is an address; then logins over TLS from the real one.
fn hello_with_an_address(scene: &Scene) {
    let config = AUTHORITY.client_config();
    let mut client = Client::connect(scene.proxy.places().imaps).unwrap();
    let _ = client
        .wire()
        .start_tls_as_client(client_side(&config, "remote-address.203.0.113.66.example"));
}

#[test]
fn b88_fail2ban_matches_every_failed_login_with_its_address_and_nothing_forged() {
    for format in ["text", "json"] {
        let scene = start(format);
        let mut expected = misbehave(&scene);
        try_line_ends(&scene);
        hello_with_an_address(&scene);
        // A client on the listener without a balancer, by its own address.
        let mut direct = scene.proxy.client();
        assert!(!direct.try_authenticate_plain("anna", "wrong").is_ok());
        expected.insert("127.0.0.1".to_owned(), 1);
        drop(direct);
        scene.proxy.wait_for_metrics("all sessions are told", |now| {
            now.sum("pointsman_client_sessions", &[]) < 0.5
        });
        let failed: usize = expected.values().sum();
        let log = wait_until("all failed logins are told", || {
            let log = scene.proxy.log();
            let told = log.lines().filter(|line| {
                line.contains("login failed") && line.contains("authentication_failed")
            });
            (told.count() >= failed).then_some(log)
        });
        assert!(log.contains(FORGED), "nothing hostile was logged");
        assert_eq!(matched(&log), expected, "{format}: {log}");
        // The same behind what journal and syslog put in front of each line.
        let lines = log.lines().map(|line| "mx1 pointsman[77]: ".to_owned() + line + "\n");
        let journal: String = lines.collect();
        assert_eq!(matched(&journal), expected, "{format} from the journal");
        scene.backend.assert_no_faults();
    }
}

/// What is no wrong password bans nobody.
#[test]
fn outages_limits_and_clear_text_are_no_failures() {
    let backend = Ordinary::new()
        .verdict(|_, password| String::from_utf8_lossy(password).into_owned())
        .start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        places.head()
            + &format!(
                "shards:\n  s: {{ kind: shared, backends: \
                 [ {{ name: b, address: \"{}\", tls: none }} ] }}\n\
                 routing: {{ lookups: [ {{ shard: s }} ] }}\n",
                backend.address()
            )
    });
    let mut client = proxy.client();
    for answer in ["NO [UNAVAILABLE] x", "NO [LIMIT] x", "BAD x", "NO [EXPIRED] x"] {
        assert!(client.try_login("anna", answer).status.starts_with("NO ["));
    }
    let mut client = Client::clear(proxy.places().imap);
    assert!(client.try_login("anna", "secret").status.starts_with("NO [PRIVACYREQUIRED]"));
    proxy.wait_for_log("answer=backend_no");
    assert_eq!(matched(&proxy.log()), BTreeMap::new(), "{}", proxy.log());
    // The same client with a wrong password is one.
    assert!(proxy.client().try_login("anna", "NO wrong").status.starts_with("NO [AUTH"));
    proxy.wait_for_log("answer=authentication_failed");
    let once = BTreeMap::from([("127.0.0.1".to_owned(), 1)]);
    assert_eq!(matched(&proxy.log()), once, "{}", proxy.log());
}

/// The example of a jail names a filter that is there, and fail2ban can read both.
#[test]
fn the_example_jail_is_readable() {
    let folder = support::temporary_folder("jail");
    process::run(Command::new("cp").args(["-r", "/etc/fail2ban"]).arg(folder.path()));
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fail2ban");
    let place = folder.path().join("fail2ban");
    for part in ["filter.d/pointsman.conf", "jail.d/pointsman.conf"] {
        std::fs::copy(own.join(part), place.join(part)).unwrap();
    }
    // Debian's own jail wants a log of sshd that is not here.
    let _ = std::fs::remove_file(place.join("jail.d/defaults-debian.conf"));
    let mut dump = Command::new("fail2ban-client");
    let said = process::run(dump.arg("-c").arg(&place).arg("-d"));
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("'add', 'pointsman'"), "{said}");
}
