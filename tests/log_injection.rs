//! Nothing that a peer writes can forge a log line, hide one or steer a terminal: names,
//! tags, IDs, server names in TLS, PROXY headers, and all that a backend says.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use rustls::ClientConfig;
use serde_json::Value;

use support::backend::{Backend, Opening};
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::{Authority, client_side};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// What a forger would write: ends of lines, of JSON strings, of fields; colours and
/// clearing of the screen; text that is shown backwards or not at all.
const HOSTILE: [&str; 7] = [
    "x\r\n2026-01-01T00:00:00.000000Z  INFO pointsman: forged user=admin",
    "x\n{\"level\":\"INFO\",\"message\":\"forged\"}",
    "x\",\"message\":\"forged\",\"y\":\"",
    "x rip=192.0.2.7 message=forged",
    "x\u{1b}[2J\u{1b}]0;forged\u{7}\u{9b}31m\u{8}\u{8}",
    "x\u{202e}degrof\u{202c}\u{2028}\u{2029}\u{feff}\u{85}",
    "x\r\u{b}\u{c}\0forged\\\\\\\"",
];
/// A name that may be a user's and still looks like two fields.
const NAME: &str = "rip=192.0.2.7'message=forged$&";

/// Whether a character acts instead of being seen.
fn is_hidden(symbol: char) -> bool {
    symbol.is_control()
        || matches!(symbol, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(symbol, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A proxy with backends that greet, refuse and end in hostile words.
struct Scene {
    proxy: Pointsman,
    behind: SocketAddr,
    _backends: Vec<Backend>,
}

/// How a backend of `wayN.test` puts the text before its peer, with the login's tag.
const WAYS: [&str; 6] = [
    "{tag} NO [AUTHENTICATIONFAILED] {text}\r\n",
    "* OK [ALERT] {text}\r\n{tag} NO [ALERT {text}] {text}\r\n",
    "* BYE {text}\r\n",
    "{text}\r\n",
    "{tag} BAD {text}\r\n",
    "* CAPABILITY IMAP4rev1 {text}\r\n{tag} OK [CAPABILITY {text}] {text}\r\n",
];

impl Scene {
    fn start(format: &str) -> Self {
        let mut backends: Vec<Backend> = WAYS.iter().map(|way| refusing(way)).collect();
        backends.push(Backend::start(Opening::clear(), |peer| {
            let text = HOSTILE[peer.number() % HOSTILE.len()];
            peer.send(format!("* BYE {text}\r\n"))
        }));
        // A certificate for names that an error message will tell.
        let identity = AUTHORITY.issue(&["forged\n\u{1b}[31mINFO.test", "\"},{\".test"]);
        let opening = Opening::implicit(identity.server_config());
        backends.push(Ordinary::new().opening(opening).start());
        let behind = SocketAddr::from(([127, 0, 0, 1], support::free_port()));
        let ports: Vec<u16> = backends.iter().map(Backend::port).collect();
        let proxy =
            Pointsman::start(&AUTHORITY, |places| configuration(places, format, behind, &ports));
        Self { proxy, behind, _backends: backends }
    }
}

fn refusing(way: &'static str) -> Backend {
    Backend::start(Opening::clear(), move |peer| {
        let text = HOSTILE[peer.number() % HOSTILE.len()];
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n")?;
        let tag = peer.expect("AUTHENTICATE PLAIN")?;
        peer.send(way.replace("{tag}", &tag).replace("{text}", text))?;
        // LOGOUT, or the end.
        peer.line().map(drop)
    })
}

fn configuration(places: &Places, format: &str, behind: SocketAddr, ports: &[u16]) -> String {
    use std::fmt::Write;
    let head = places
        .head()
        .replace("log: { level: debug }", &format!("log: {{ level: trace, format: {format} }}"))
        .replace("failed_login_delay: 100ms", "failed_login_delay: 1ms")
        .replace(
            "\ntls:\n",
            &format!(
                "\n  - {{ name: behind, address: \"{behind}\", tls: none, allow_clear_login: true, \
                 proxy_protocol: required, trusted: [127.0.0.0/8] }}\ntls:\n"
            ),
        );
    let (mut shards, mut domains) = (String::new(), String::new());
    for (number, port) in ports.iter().enumerate() {
        let tls = if number + 1 == ports.len() {
            format!("tls: implicit, ca: \"{}\"", places.ca.display())
        } else {
            "tls: none".to_owned()
        };
        writeln!(
            shards,
            "  s{number}: {{ kind: primary, backends: [ {{ name: b{number}, {tls}, \
             address: \"127.0.0.1:{port}\" }} ] }}"
        )
        .unwrap();
        write!(domains, "way{number}.test: s{number}, ").unwrap();
    }
    format!(
        "{head}upstream: {{ connect_tries: 1 }}\nshards:\n{shards}\
         routing: {{ lookups: [ {{ domains: {{ {domains} }} }} ] }}\n"
    )
}

/// Says something before login, of which no answer is expected, and leaves.
fn say(address: SocketAddr, bytes: &[u8]) {
    let mut client = Client::connect(address).unwrap();
    // It ends in one way or another; how is for other tests.
    let _ = client.wire().write(&[bytes, b"\r\nz LOGOUT\r\n"].concat());
    let _ = client.wire().read_to_end();
}

fn names_tags_and_ids(scene: &Scene, text: &str) {
    let address = scene.proxy.places().clear;
    let literal = |text: &str| format!("{{{}+}}\r\n{text}", text.len());
    let lines = [
        format!("a LOGIN {} pass", literal(text)),
        format!("a LOGIN \"{text}\" pass"),
        format!("a LOGIN {text} pass"),
        format!("{text} LOGIN kim pass"),
        format!("a {text}"),
        format!("a AUTHENTICATE {text}"),
        format!("a ID (\"name\" {} {} \"value\")", literal(text), literal(text)),
        text.to_owned(),
    ];
    for line in lines {
        say(address, line.as_bytes());
    }
}

/// A `ClientHello` whose server name was replaced by bytes that no honest client sends.
fn hello(config: &Arc<ClientConfig>, server_name: &[u8]) -> Vec<u8> {
    let placeholder = format!("{}.test", "n".repeat(server_name.len() - ".test".len()));
    let mut hello = Vec::new();
    client_side(config, &placeholder).write_tls(&mut hello).unwrap();
    let at = memchr::memmem::find(&hello, placeholder.as_bytes()).unwrap();
    hello[at..at + server_name.len()].copy_from_slice(server_name);
    hello
}

fn tls_and_proxy_headers(scene: &Scene, text: &str) {
    let mut config = (*AUTHORITY.client_config()).clone();
    say(scene.proxy.places().imaps, &hello(&Arc::new(config.clone()), text.as_bytes()));
    config.alpn_protocols = vec![text.as_bytes().to_vec()];
    say(scene.proxy.places().imaps, &hello(&Arc::new(config), b"mail.example.test"));
    say(scene.behind, format!("PROXY {text}\r\n").as_bytes());
    say(scene.behind, format!("PROXY TCP4 192.0.2.1 192.0.2.2 {text} 143\r\n").as_bytes());
    // Version 2 over TCP and IPv4, with the name in the TLV PP2_TYPE_AUTHORITY.
    let length = u16::try_from(text.len()).unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend((12 + 3 + length).to_be_bytes());
    header.extend([192, 0, 2, 1, 192, 0, 2, 2, 0, 99, 0, 143, 2]);
    header.extend(length.to_be_bytes());
    header.extend(text.as_bytes());
    header.extend(format!("a LOGIN {NAME} pass").as_bytes());
    say(scene.behind, &header);
}

/// Every hostile text by every way that one can come; gives how many logins failed by name.
fn attack(scene: &Scene) -> usize {
    let ways = WAYS.len() + 2;
    for text in HOSTILE {
        names_tags_and_ids(scene, text);
        tls_and_proxy_headers(scene, text);
        for way in 0..ways {
            let line = format!("a LOGIN \"{NAME}@way{way}.test\" pass");
            say(scene.proxy.places().clear, line.as_bytes());
        }
    }
    // The last way but two is a success, whatever its backend's words.
    HOSTILE.len() * (ways - 1)
}

fn log_after_attack(format: &str) -> (String, usize) {
    let mut scene = Scene::start(format);
    let failed = attack(&scene);
    scene.proxy.terminate();
    assert_eq!(scene.proxy.wait_for_end(), 0);
    let log = scene.proxy.log();
    let hidden: Vec<&str> = log.lines().filter(|line| line.chars().any(is_hidden)).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    (log, failed)
}

#[test]
fn b87_every_line_of_a_json_log_is_one_object_of_the_proxys_own_making() {
    let (log, failed) = log_after_attack("json");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let object = line.as_object().unwrap();
        assert_ne!(object["message"], "forged", "{line}");
        for name in ["time", "level", "target"] {
            assert!(object[name].is_string(), "{line}");
        }
    }
    let of_name = |line: &&Value| {
        line["message"] == "login failed"
            && line["user"].as_str().is_some_and(|user| user.starts_with(NAME))
    };
    assert!(lines.iter().filter(of_name).count() >= failed, "{log}");
}

/// The line without its quoted values, whose quotes and backslashes are escaped.
fn outside_of_quotes(line: &str) -> String {
    let (mut outside, mut quoted, mut escaped) = (String::new(), false, false);
    for symbol in line.chars() {
        match symbol {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            symbol => outside.push(symbol),
        }
    }
    assert!(!quoted, "{line}");
    outside
}

#[test]
fn b87_every_line_of_a_text_log_begins_with_its_time_and_level_and_keeps_values_apart() {
    let (log, failed) = log_after_attack("text");
    for line in log.lines() {
        let mut words = line.split_ascii_whitespace();
        let time = words.next().unwrap();
        assert!(time.len() == 27 && time.ends_with('Z'), "{line}");
        let level = words.next().unwrap();
        assert!(["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level), "{line}");
        // Outside of quotes there is no field of a peer's making.
        let outside = outside_of_quotes(line);
        assert!(!outside.contains("rip=") && !outside.contains("message="), "{line}");
    }
    let of_name =
        |line: &&str| line.contains("login failed") && line.contains(&format!(" user=\"{NAME}"));
    assert!(log.lines().filter(of_name).count() >= failed, "{log}");
}
