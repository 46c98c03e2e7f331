//! The leg to the backend: encryption as configured or none, credentials step by step where
//! that is needed, PROXY headers, and which backend of a shard is tried.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use support::backend::{Backend, Conversation, Opening, fault};
use support::client::Client;
use support::dovecot::Settings;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::{Authority, Identity};
use support::{Stopwatch, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const HURRY: &str = "upstream: { connect_timeout: 1s, login_timeout: 2s, skip_failed: 100ms }\n";
const EVERYBODY: &str = "routing: { lookups: [ { shard: s } ] }\n";

/// Backends in one shard, each written `address, settings`.
fn shard(kind: &str, backends: &[(String, String)]) -> String {
    let list: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(number, (address, settings))| {
            format!("{{ name: b{number}, address: \"{address}\", {settings} }}")
        })
        .collect();
    format!("shards:\n  s: {{ kind: {kind}, backends: [ {} ] }}\n{EVERYBODY}", list.join(", "))
}

fn at_localhost(backend: &Backend) -> String {
    format!("localhost:{}", backend.port())
}

fn one(backend: &Backend, settings: &str) -> String {
    shard("shared", &[(at_localhost(backend), settings.to_owned())])
}

fn clear(backends: &[&Backend]) -> Vec<(String, String)> {
    backends.iter().map(|backend| (at_localhost(backend), "tls: none".to_owned())).collect()
}

fn start(shards: impl FnOnce(&Places) -> String) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| places.head() + HURRY + &shards(places))
}

fn ca(places: &Places) -> String {
    format!("ca: \"{}\"", places.ca.display())
}

fn try_login(proxy: &Pointsman) -> String {
    proxy.client().try_login("anna", "secret").status
}

fn assert_unavailable(proxy: &Pointsman) {
    let status = try_login(proxy);
    assert!(status.starts_with("NO [UNAVAILABLE]"), "{status}");
}

fn failures(proxy: &Pointsman, reason: &str) -> f64 {
    proxy.metrics().sum("pointsman_backend_failures_total", &[("reason", reason)])
}

/// Nothing of user or password came, in any spelling, on any connection.
fn assert_no_credentials(backend: &Backend) {
    for connection in 0..backend.connections() {
        let text = backend.received_text(connection);
        for word in ["AUTHENTICATE", "LOGIN", "anna", "secret", "AGFubmE"] {
            assert!(!text.contains(word), "{word} in {text:?}");
        }
    }
}

#[test]
fn implicit_tls_starttls_and_clear_text_reach_the_backend_with_alpn() {
    let identity = AUTHORITY.issue(&["localhost"]).server_config();
    let implicit = Ordinary::new().opening(Opening::implicit(Arc::clone(&identity))).start();
    let starttls = Ordinary::new().opening(Opening::starttls(Arc::clone(&identity))).start();
    let silent = Ordinary::new().opening(Opening::implicit(identity)).start();
    let clear = Backend::ordinary();
    for (backend, settings, alpn) in [
        (&implicit, "tls: implicit, CA", Some(&b"imap"[..])),
        (&starttls, "tls: starttls, CA", Some(b"imap")),
        (&silent, "tls: implicit, CA, alpn: none", None),
        (&clear, "tls: none", None),
    ] {
        let proxy = start(|places| one(backend, &settings.replace("CA", &ca(places))));
        let mut client = proxy.logged_in("anna", "secret");
        assert!(client.command_ok("SELECT INBOX").text().contains("EXISTS"));
        assert_eq!(backend.alpn(0).as_deref(), alpn, "{settings}");
        assert_eq!(backend.connections(), 1);
        assert!(backend.received_text(0).contains("SELECT INBOX"));
        backend.assert_no_faults();
    }
    // What was said before TLS: STARTTLS alone.
    let said = starttls.received_text(0);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].ends_with(" STARTTLS") && lines[1].ends_with(" CAPABILITY"), "{lines:?}");
}

#[test]
fn b11_the_certificate_must_carry_the_name_that_the_configuration_says() {
    let elsewhere = AUTHORITY.issue(&["imap.example.org"]);
    let backend = Ordinary::new().opening(Opening::implicit(elsewhere.server_config())).start();
    let proxy = start(|places| one(&backend, &format!("tls: implicit, {}", ca(places))));
    assert_unavailable(&proxy);
    let proxy = start(|places| {
        one(&backend, &format!("tls: implicit, {}, verify_name: imap.example.org", ca(places)))
    });
    assert!(try_login(&proxy).starts_with("OK"));
}

/// SHA-256 of the public key in an identity's certificate, in base64.
fn pin_of(identity: &Identity) -> String {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let der = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let hash = TLS13_AES_128_GCM_SHA256.tls13().unwrap().common.hash_provider;
    STANDARD.encode(hash.hash(certificate.public_key().raw).as_ref())
}

#[test]
fn b11_a_pin_is_enough_and_another_key_is_refused() {
    let stranger = Authority::new();
    let identity = stranger.issue(&["whoever.example"]);
    let backend = Ordinary::new().opening(Opening::implicit(identity.server_config())).start();
    let pinned =
        |pin: String| start(|_| one(&backend, &format!("tls: implicit, pin_sha256: \"{pin}\"")));
    assert!(try_login(&pinned(pin_of(&identity))).starts_with("OK"));
    let proxy = pinned(pin_of(&stranger.issue(&["whoever.example"])));
    assert_unavailable(&proxy);
    wait_until("it is counted", || (failures(&proxy, "untrusted") > 0.5).then_some(()));
    assert_eq!(backend.logins().len(), 1);
}

/// B-11: no certificate that fails is tried again, here or at the shard's next backend.
#[test]
fn b11_a_certificate_that_fails_is_unavailable_and_never_retried() {
    let expired = AUTHORITY.issue_with(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let early = AUTHORITY.issue_with(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(2999, 1, 1);
        params.not_after = rcgen::date_time_ymd(3000, 1, 1);
    });
    for (what, identity) in [
        ("wrong name", AUTHORITY.issue(&["imap.example.org"])),
        ("expired", expired),
        ("not yet valid", early),
        ("unknown authority", Authority::new().issue(&["localhost"])),
    ] {
        let good = AUTHORITY.issue(&["localhost"]).server_config();
        let second = Ordinary::new().opening(Opening::implicit(good)).start();
        let config = identity.server_config();
        for opening in [Opening::implicit(Arc::clone(&config)), Opening::starttls(config)] {
            let mode = if opening.implicit_tls { "implicit" } else { "starttls" };
            let backend = Ordinary::new().opening(opening).start();
            let proxy = start(|places| {
                let first = format!("tls: {mode}, {}", ca(places));
                let next = format!("tls: implicit, {}", ca(places));
                shard("primary", &[(at_localhost(&backend), first), (at_localhost(&second), next)])
            });
            assert_unavailable(&proxy);
            assert_eq!((backend.connections(), second.connections()), (1, 0), "{what}, {mode}");
            wait_until("it is counted", || (failures(&proxy, "untrusted") > 0.5).then_some(()));
            assert_no_credentials(&backend);
        }
    }
}

/// What a backend, or somebody on the path, does instead of STARTTLS.
type Trick = fn(&mut Conversation) -> std::io::Result<()>;

const OFFER: &str = "* OK [CAPABILITY IMAP4rev1 STARTTLS SASL-IR AUTH=PLAIN] hi\r\n";
const STRIPPED: &str = "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n";

/// B-05: a NO, a BAD, no TLS behind the OK.
const NO_TLS: [(&str, Trick); 5] = [
    ("no", |peer| {
        peer.send(OFFER)?;
        peer.answer("STARTTLS", "{tag} NO not now\r\n")?;
        peer.hang()
    }),
    ("bad, not listed", |peer| {
        peer.send(STRIPPED)?;
        peer.answer("STARTTLS", "{tag} BAD unknown command\r\n")?;
        peer.hang()
    }),
    ("ok and then clear text", |peer| {
        peer.send(OFFER)?;
        peer.answer("STARTTLS", "{tag} OK go\r\n")?;
        peer.exactly(5)?;
        peer.send("* OK no TLS here\r\n")?;
        peer.hang()
    }),
    ("another tag", |peer| {
        peer.send(OFFER)?;
        peer.answer("STARTTLS", "x1 OK go\r\n")?;
        peer.hang()
    }),
    ("close", |peer| {
        peer.send(OFFER)?;
        peer.expect("STARTTLS").map(drop)
    }),
];

/// B-04: clear text behind the OK, kept and read as if it had come under TLS. Whoever adds it
/// lets all go on: the login must not come so far.
const INJECTED: [(&str, Trick); 3] = [
    ("a forged login behind the ok", |peer| {
        peer.send(OFFER)?;
        let tag = peer.expect("STARTTLS")?;
        peer.send(format!(
            "{tag} OK go\r\na1 OK [CAPABILITY IMAP4rev1] fake\r\n{tag} OK fake\r\n"
        ))?;
        peer.start_tls()?;
        Ordinary::new().serve(peer)
    }),
    ("capabilities behind the ok", |peer| {
        peer.send(OFFER)?;
        peer.answer("STARTTLS", "{tag} OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n")?;
        peer.start_tls()?;
        Ordinary::new().serve(peer)
    }),
    ("one byte behind the ok", |peer| {
        peer.send(OFFER)?;
        peer.answer("STARTTLS", "{tag} OK go\r\n*")?;
        peer.start_tls()?;
        Ordinary::new().serve(peer)
    }),
];

/// B-06: what the greeting does not list, or what it forbids, changes nothing.
const STRIPPED_LISTS: [(&str, Trick); 2] = [
    ("not listed", |peer| {
        peer.send(STRIPPED)?;
        peer.answer("STARTTLS", "{tag} BAD unknown command\r\n")?;
        peer.hang()
    }),
    ("not listed, and no login", |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] hi\r\n")?;
        peer.answer("STARTTLS", "{tag} NO not here\r\n")?;
        peer.hang()
    }),
];

/// B-07: a session that is logged in already has no STARTTLS.
const PREAUTH: [(&str, Trick); 3] = [
    ("preauth", |peer| {
        peer.send("* PREAUTH [CAPABILITY IMAP4rev1] in\r\n")?;
        peer.hang()
    }),
    ("preauth, no list", |peer| {
        peer.send("* PREAUTH in\r\n")?;
        peer.hang()
    }),
    ("preauth, and STARTTLS all the same", |peer| {
        peer.send("* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] in\r\n")?;
        peer.answer("STARTTLS", "{tag} OK go\r\n")?;
        peer.start_tls()?;
        Ordinary::new().serve(peer)
    }),
];

/// Where STARTTLS is asked for, none of these brings the credentials out in clear.
fn assert_not_talked_out_of_starttls(tricks: &'static [(&'static str, Trick)]) {
    let number = Arc::new(AtomicUsize::new(0));
    let backend = {
        let number = Arc::clone(&number);
        let identity = AUTHORITY.issue(&["localhost"]).server_config();
        Backend::start(Opening::starttls(identity), move |peer| {
            tricks[number.load(Ordering::SeqCst)].1(peer)
        })
    };
    let proxy = start(|places| one(&backend, &format!("tls: starttls, {}", ca(places))));
    for (place, (name, _)) in tricks.iter().enumerate() {
        number.store(place, Ordering::SeqCst);
        let mut client = proxy.client();
        let before = backend.connections();
        let status = client.try_login("anna", "secret").status;
        assert!(status.starts_with("NO [UNAVAILABLE]"), "{name}: {status}");
        assert!(backend.connections() > before, "{name}");
        client.command_ok("NOOP");
    }
    assert_no_credentials(&backend);
    backend.wait_until_empty();
    backend.assert_no_faults();
}

#[test]
fn b04_clear_text_behind_the_ok_to_starttls_is_never_read_as_an_answer() {
    assert_not_talked_out_of_starttls(&INJECTED);
}

#[test]
fn b05_without_tls_behind_starttls_no_credentials_go_out() {
    assert_not_talked_out_of_starttls(&NO_TLS);
}

#[test]
fn b06_a_stripped_capability_list_does_not_turn_tls_off() {
    assert_not_talked_out_of_starttls(&STRIPPED_LISTS);
}

#[test]
fn b07_a_preauth_greeting_is_refused_where_starttls_is_asked_for() {
    assert_not_talked_out_of_starttls(&PREAUTH);
}

/// What was listed before TLS counts for nothing after it.
#[test]
fn b10_capabilities_from_before_starttls_are_forgotten() {
    let identity = AUTHORITY.issue(&["localhost"]).server_config();
    let backend = Backend::start(Opening::starttls(identity), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 STARTTLS SASL-IR ID LITERAL+ AUTH=PLAIN] hi\r\n")?;
        peer.answer("STARTTLS", "{tag} OK go\r\n")?;
        peer.start_tls()?;
        peer.answer("CAPABILITY", "* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n")?;
        let tag = peer.expect("LOGIN {4}")?;
        peer.send("+ \r\n")?;
        assert_eq!(peer.line()?, b"anna {6}");
        peer.send("+ \r\n")?;
        assert_eq!(peer.line()?, b"secret");
        peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
        peer.hang()
    });
    let proxy = start(|places| one(&backend, &format!("tls: starttls, {}", ca(places))));
    assert!(try_login(&proxy).starts_with("OK"));
    backend.assert_no_faults();

    // A list that is not given again is none: the one in clear text does not stand in for it.
    let identity = AUTHORITY.issue(&["localhost"]).server_config();
    let backend = Backend::start(Opening::starttls(identity), |peer| {
        peer.send(OFFER)?;
        peer.answer("STARTTLS", "{tag} OK go\r\n")?;
        peer.start_tls()?;
        peer.answer("CAPABILITY", "{tag} OK done\r\n")?;
        Ordinary::new().serve(peer)
    });
    let proxy = start(|places| one(&backend, &format!("tls: starttls, {}", ca(places))));
    assert_unavailable(&proxy);
    assert_no_credentials(&backend);
}

/// Fails the script when another line comes before the backend says more.
fn assert_waits(peer: &mut Conversation) -> std::io::Result<()> {
    if peer.wire()?.has_line_within(Duration::from_millis(250))? {
        return Err(fault(format!("too early: {:?}", peer.line()?)));
    }
    Ok(())
}

/// B-50 too: without SASL-IR, and with any kind of `+`.
#[test]
fn b49_without_sasl_ir_the_credentials_wait_for_the_continuation() {
    for plus in ["+\r\n", "+ \r\n", "+ go on\r\n"] {
        let backend = Backend::start(Opening::clear(), move |peer| {
            peer.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi\r\n")?;
            let tag = peer.expect("AUTHENTICATE PLAIN")?;
            if peer.wire()?.unread().is_empty() {
                assert_waits(peer)?;
            }
            peer.send(plus)?;
            let message = peer.line()?;
            if message != b"AGFubmEAc2VjcmV0" {
                return Err(fault(format!("{message:?}")));
            }
            peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
            peer.hang()
        });
        let proxy = start(|_| one(&backend, "tls: none"));
        assert!(try_login(&proxy).starts_with("OK"));
        assert!(backend.received_text(0).contains(" AUTHENTICATE PLAIN\r\n"));
        backend.assert_no_faults();
    }
}

/// The user's name waits for one `+`, the password for the next.
#[test]
fn login_with_literals_waits_for_each_continuation() {
    let backend = Backend::start(Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1] hi\r\n")?;
        let tag = peer.expect("LOGIN {4}")?;
        assert_waits(peer)?;
        peer.send("+ \r\n")?;
        let line = peer.line()?;
        assert_waits(peer)?;
        peer.send("+ \r\n")?;
        let password = peer.exactly(8)?;
        if line != b"anna {6}" || password != b"secret\r\n" {
            return Err(fault(format!("{line:?} {password:?}")));
        }
        peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
        peer.hang()
    });
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one(&backend, "tls: none"));
    assert!(try_login(&proxy).starts_with("OK"));
    backend.assert_no_faults();
}

/// A refusal before the credentials says nothing of them.
#[test]
fn a_mechanism_that_is_refused_unseen_is_no_wrong_password() {
    let backend = Backend::start(Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi\r\n")?;
        peer.answer("AUTHENTICATE PLAIN", "{tag} NO Mechanism is switched off.\r\n")?;
        peer.hang()
    });
    let proxy = start(|_| one(&backend, "tls: none"));
    assert_unavailable(&proxy);
    assert!(!backend.received_text(0).contains("AGFubmE"));
}

/// A backend that lists neither PLAIN nor LOGIN cannot be used: the operator's matter.
#[test]
fn a_backend_without_any_mechanism_is_a_server_bug() {
    let backend = Ordinary::new().capability("IMAP4rev1 LOGINDISABLED AUTH=GSSAPI").start();
    let proxy = start(|_| one(&backend, "tls: none"));
    let status = try_login(&proxy);
    assert!(status.starts_with("NO [SERVERBUG]"), "{status}");
    assert_no_credentials(&backend);
}

const AHEAD: &str = "* OK [CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN] hi\r\n";

#[test]
fn id_and_login_come_in_one_write_where_the_greeting_allows_it() {
    let backend = Backend::start(Opening::clear(), |peer| {
        peer.send(AHEAD)?;
        let id = peer.expect("ID (")?;
        // Both are here before anything is answered.
        let tag = peer.expect("AUTHENTICATE PLAIN AGFubmEAc2VjcmV0")?;
        peer.send(format!("* ID NIL\r\n{id} OK done\r\n{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
        peer.hang()
    });
    let proxy = start(|_| one(&backend, "tls: none"));
    assert!(try_login(&proxy).starts_with("OK"));
    backend.assert_no_faults();
}

/// B-51: step by step where it is configured, or where the greeting lists nothing
/// (Exchange drops what comes before its answer).
#[test]
fn b51_without_pipelining_each_command_waits_for_the_answer_before() {
    let script = |listed: bool| {
        move |peer: &mut Conversation| {
            if listed {
                peer.send(AHEAD)?;
            } else {
                peer.send("* OK The Microsoft Exchange IMAP4 service is ready.\r\n")?;
                let tag = peer.expect("CAPABILITY")?;
                assert_waits(peer)?;
                peer.send(format!(
                    "* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN SASL-IR ID LITERAL+\r\n{tag} OK\r\n"
                ))?;
            }
            let tag = peer.expect("ID (")?;
            assert_waits(peer)?;
            peer.send(format!("* ID NIL\r\n{tag} OK done\r\n"))?;
            let tag = peer.expect("AUTHENTICATE PLAIN AGFubmEAc2VjcmV0")?;
            peer.send(format!("{tag} OK [CAPABILITY IMAP4rev1] in\r\n"))?;
            peer.hang()
        }
    };
    for (listed, settings) in
        [(true, "tls: none, pipelining: off"), (false, "tls: none, pipelining: auto")]
    {
        let backend = Backend::start(Opening::clear(), script(listed));
        // Longer than the script's pauses together.
        let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &one(&backend, settings));
        let status = try_login(&proxy);
        assert!(status.starts_with("OK"), "{listed}: {status} {:?}", backend.faults());
        backend.assert_no_faults();
    }
}

/// The id of the only session in the log.
fn logged_session(proxy: &Pointsman) -> String {
    proxy.wait_for_log("session ended");
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("session ended")).unwrap();
    let start = line.find("session=").unwrap() + "session=".len();
    line[start..].chars().take(16).collect()
}

fn v4(address: SocketAddr) -> [u8; 4] {
    let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
    ip.octets()
}

#[test]
fn the_proxy_header_of_version_two_is_exact() {
    let identity = AUTHORITY.issue(&["localhost"]).server_config();
    let clear = Ordinary::new().opening(Opening::clear().with_proxy_header()).start();
    let secured = Ordinary::new().opening(Opening::starttls(identity).with_proxy_header()).start();
    for (backend, settings) in [(&clear, "tls: none"), (&secured, "tls: starttls, CA")] {
        let proxy = start(|places| {
            one(backend, &(settings.replace("CA", &ca(places)) + ", forward: proxy_v2"))
        });
        let mut client = Client::tls(proxy.places().imaps, &AUTHORITY.client_config());
        client.command_ok("ID (\"name\" \"tester\" \"x-originating-ip\" \"192.0.2.99\")");
        client.login("anna", "secret");
        let (peer, own) = (client.local_address(), proxy.places().imaps);
        client.logout();
        let session = logged_session(&proxy);
        let body = [
            &v4(peer)[..],
            &v4(own),
            &peer.port().to_be_bytes(),
            &own.port().to_be_bytes(),
            b"\x02\x00\x09localhost",
            b"\x20\x00\x05\x01\x00\x00\x00\x01",
            b"\x05\x00\x10",
            session.as_bytes(),
        ]
        .concat();
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let expected = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length, body.as_slice()].concat();
        assert_eq!(backend.proxy_header(0), expected);
        // The client's own ID goes along, without what only a proxy may say.
        let text = backend.received_text(0);
        assert!(text.contains("ID (\"name\" \"tester\")\r\n"), "{text}");
        backend.assert_no_faults();
    }
}

#[test]
fn dovecot_takes_the_clients_address_from_the_proxy_header() {
    let dovecot = Settings::new(&AUTHORITY, &[("anna", "secret")]).haproxy().start();
    let behind = support::free_port();
    let _proxy = Pointsman::start(&AUTHORITY, |places| {
        let listener = format!(
            "listeners:\n  - {{ name: behind, address: \"127.0.0.1:{behind}\", tls: none, \
             allow_clear_login: true, proxy_protocol: required, trusted: [127.0.0.0/8] }}"
        );
        let address = dovecot.haproxy().to_string();
        places.head().replace("listeners:", &listener)
            + &shard("shared", &[(address, "tls: none, forward: proxy_v2".to_owned())])
    });
    let mut client = Client::connect(([127, 0, 0, 1], behind).into()).unwrap();
    client.send("PROXY TCP6 2001:db8::7 2001:db8::1 4711 143\r\n");
    client.expect("* OK");
    client.login("anna", "secret");
    dovecot.wait_for_log("Login: user=<anna>");
    let log = dovecot.log();
    assert!(log.contains("rip=2001:db8::7"), "{log}");
    assert!(log.contains("lip=2001:db8::1"), "{log}");
}

#[test]
fn forward_none_tells_the_backend_nothing_of_the_client() {
    let backend = Backend::ordinary();
    let proxy = start(|_| one(&backend, "tls: none, forward: none"));
    proxy.logged_in("anna", "secret").command_ok("NOOP");
    assert!(!backend.received_text(0).contains("x-"), "{}", backend.received_text(0));
    assert!(!backend.received_text(0).contains(" ID "));
}

#[test]
fn the_first_backend_of_a_primary_shard_is_used_while_it_lives() {
    let (mut first, second) = (Backend::ordinary(), Backend::ordinary());
    let port = first.port();
    let proxy = start(|_| shard("primary", &clear(&[&first, &second])));
    for user in ["anna", "bert", "carl", "dora"] {
        proxy.logged_in(user, "secret").logout();
    }
    assert_eq!((first.connections(), second.connections()), (4, 0));
    first.stop();
    let watch = Stopwatch::start();
    for user in ["anna", "eve"] {
        proxy.logged_in(user, "secret").logout();
    }
    assert!(watch.elapsed() < Duration::from_secs(2));
    assert_eq!(second.users(), ["anna", "eve"]);
    wait_until("it is counted", || (failures(&proxy, "connect") > 0.5).then_some(()));
    // Back, and the skip is over: users without memory of the second go to the first.
    let back = Ordinary::new().start_at(port);
    let mut number = 0;
    wait_until("the first is used again", || {
        number += 1;
        proxy.logged_in(&format!("new{number}"), "secret").logout();
        (back.connections() > 0).then_some(())
    });
}

/// `backend_up` says what this process believes: a failed connection speaks against a
/// backend until one succeeds, or until nobody has failed there for long.
#[test]
fn a_backend_is_shown_as_up_again_when_it_serves_or_when_nobody_failed_there_for_long() {
    let mut backend = Backend::ordinary();
    let port = backend.port();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let upstream = "upstream: { connect_tries: 1, skip_failed: 1s }\n";
        places.head() + upstream + &one(&backend, "tls: none")
    });
    let up = || proxy.metrics().sum("pointsman_backend_up", &[("backend", "b0")]) > 0.5;
    assert!(up());
    backend.stop();
    assert_unavailable(&proxy);
    assert!(!up());
    let back = Ordinary::new().start_at(port);
    proxy.logged_in("anna", "secret").logout();
    assert!(up());
    drop(back);
    assert_unavailable(&proxy);
    let watch = Stopwatch::start();
    assert!(!up());
    wait_until("nothing speaks against the backend any more", || up().then_some(()));
    assert!(watch.elapsed() > Duration::from_secs(3), "after six times skip_failed");
}

#[test]
fn a_silent_backend_costs_its_timeout_and_the_next_is_used() {
    let silent = Backend::start(Opening::clear(), Conversation::hang);
    let second = Backend::ordinary();
    let proxy = start(|_| shard("primary", &clear(&[&silent, &second])));
    let watch = Stopwatch::start();
    assert!(try_login(&proxy).starts_with("OK"));
    let took = watch.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!((silent.connections(), second.connections()), (1, 1));
    wait_until("it is counted", || (failures(&proxy, "timeout") > 0.5).then_some(()));
    silent.wait_until_empty();
}

/// A listener whose backlog is full drops what comes: the connect itself gets no answer.
#[test]
fn a_backend_that_answers_no_syn_costs_its_timeout_and_the_next_is_used() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], support::free_port())).into()).unwrap();
    socket.listen(0).unwrap();
    let full: TcpListener = socket.into();
    let address = full.local_addr().unwrap();
    let short = Duration::from_millis(300);
    let mut fillers = Vec::new();
    while let Ok(filler) = std::net::TcpStream::connect_timeout(&address, short) {
        fillers.push(filler);
        assert!(fillers.len() < 64);
    }
    let second = Backend::ordinary();
    let proxy = start(|_| {
        let full = (address.to_string(), "tls: none".to_owned());
        shard("primary", &[full, clear(&[&second]).remove(0)])
    });
    let watch = Stopwatch::start();
    assert!(try_login(&proxy).starts_with("OK"));
    assert!(watch.elapsed() < Duration::from_secs(5), "{:?}", watch.elapsed());
    wait_until("it is counted", || (failures(&proxy, "timeout") > 0.5).then_some(()));
}

/// Greeting troubles are tried elsewhere too, as nothing of the login was sent.
#[test]
fn b62_a_backend_that_greets_wrongly_is_passed_over() {
    for greeting in ["* BYE too busy\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "* PREAUTH hi\r\n", ""] {
        let broken = Backend::start(Opening::clear(), move |peer| peer.send(greeting));
        let second = Backend::ordinary();
        let proxy = start(|_| shard("primary", &clear(&[&broken, &second])));
        assert!(try_login(&proxy).starts_with("OK"), "{greeting:?}");
        assert_eq!(second.users(), ["anna"]);
        assert_no_credentials(&broken);
    }
}

#[test]
fn connect_tries_end_at_their_number_and_their_time() {
    let silent = || Backend::start(Opening::clear(), Conversation::hang);
    let backends = [silent(), silent(), silent(), silent()];
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let upstream = "upstream: { connect_timeout: 1s, login_timeout: 8s, connect_tries: 2 }\n";
        let list: Vec<&Backend> = backends.iter().collect();
        places.head() + upstream + &shard("primary", &clear(&list))
    });
    let watch = Stopwatch::start();
    assert_unavailable(&proxy);
    assert!(watch.elapsed() < Duration::from_secs(5));
    let tried: Vec<usize> = backends.iter().map(Backend::connections).collect();
    assert_eq!(tried, [1, 1, 0, 0]);
}

#[test]
fn a_user_of_a_shared_shard_is_always_on_one_backend_and_users_are_spread() {
    let backends = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
    let list: Vec<&Backend> = backends.iter().collect();
    let proxy = start(|_| shard("shared", &clear(&list)));
    let mut held = Vec::new();
    for user in 0..30 {
        for spelling in [format!("user{user}"), format!("USER{user}"), format!("User{user} ")] {
            let mut client = proxy.client();
            client.login(&spelling, "secret");
            held.push(client);
        }
    }
    let mut all = 0;
    for backend in &backends {
        let mut users: Vec<String> =
            backend.users().iter().map(|user| user.trim().to_lowercase()).collect();
        users.sort();
        let count = users.len();
        users.dedup();
        assert_eq!(count, users.len() * 3, "each user with all sessions: {users:?}");
        assert!(!users.is_empty());
        all += count;
    }
    assert_eq!(all, 90);
}

/// Invariant 1: who has a session is joined there, whatever the new file says.
#[test]
fn a_user_with_a_session_joins_the_same_backend_after_a_reload() {
    let (old, new, other) = (Backend::ordinary(), Backend::ordinary(), Backend::ordinary());
    let at = |backend: &Backend, name: &str| {
        format!("{{ name: {name}, address: \"{}\", tls: none }}", at_localhost(backend))
    };
    let two_shards = |order: String, everybody: &str| {
        format!(
            "shards:\n  s: {{ kind: primary, backends: [ {order} ] }}\n  \
             t: {{ kind: primary, backends: [ {} ] }}\n\
             routing: {{ sticky: 0s, lookups: [ {{ shard: {everybody} }} ] }}\n",
            at(&other, "other")
        )
    };
    let start_of_file = |places: &Places| places.head() + HURRY;
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        start_of_file(places)
            + &two_shards(format!("{}, {}", at(&old, "old"), at(&new, "new")), "s")
    });
    let mut held = proxy.logged_in("anna", "secret");
    assert_eq!(old.users(), ["anna"]);
    let generation = |proxy: &Pointsman| proxy.metrics().sum("pointsman_config_generation", &[]);

    // The order changes; then the route; then the backend is gone from the file, twice.
    let files = [
        two_shards(format!("{}, {}", at(&new, "new"), at(&old, "old")), "s"),
        two_shards(format!("{}, {}", at(&new, "new"), at(&old, "old")), "t"),
        two_shards(at(&new, "new"), "s"),
        two_shards(at(&new, "new"), "t"),
    ];
    for (number, file) in files.iter().enumerate() {
        let before = generation(&proxy);
        proxy.rewrite(|places| start_of_file(places) + file);
        proxy.reload();
        assert!(generation(&proxy) > before, "{}", proxy.log());
        let mut client = proxy.client();
        let status = client.try_login("anna", "secret").status;
        assert!(status.starts_with("OK"), "file {number}: {status}");
        assert_eq!(old.users().len(), number + 2, "file {number}");
        client.logout();
        // Somebody without sessions goes by the file.
        proxy.logged_in(&format!("new{number}"), "secret").logout();
    }
    assert_eq!(new.users(), ["new0", "new2"]);
    assert_eq!(other.users(), ["new1", "new3"]);
    held.command_ok("NOOP");
    held.logout();
    old.wait_until_empty();
    // With the last session gone the file decides.
    wait_until("anna goes by the file", || {
        proxy.logged_in("anna", "secret").logout();
        other.users().contains(&"anna".to_owned()).then_some(())
    });
}

/// A user with a session is not taken elsewhere when the backend stops answering.
#[test]
fn a_user_with_a_session_never_goes_to_another_backend_of_the_shard() {
    let refuse = Arc::new(AtomicUsize::new(0));
    let first = {
        let refuse = Arc::clone(&refuse);
        Backend::start(Opening::clear(), move |peer| {
            if refuse.load(Ordering::SeqCst) == 1 {
                return peer.reset();
            }
            Ordinary::new().converse(peer)
        })
    };
    let second = Backend::ordinary();
    let proxy = start(|_| shard("primary", &clear(&[&first, &second])));
    let mut held = proxy.logged_in("anna", "secret");
    refuse.store(1, Ordering::SeqCst);
    assert_unavailable(&proxy);
    assert_eq!(second.connections(), 0);
    // Others are free to.
    proxy.logged_in("bert", "secret").logout();
    assert_eq!(second.users(), ["bert"]);
    held.command_ok("NOOP");
    refuse.store(0, Ordering::SeqCst);
    assert!(try_login(&proxy).starts_with("OK"));
    assert_eq!(second.users(), ["bert"]);
}
