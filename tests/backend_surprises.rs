//! Backends and name servers that do what nobody expects of them during a login.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and delays are real"
)]

mod support;

use std::process::Command;
use std::sync::LazyLock;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use support::Stopwatch;
use support::backend::{Backend, Opening};
use support::dnsmasq::SilentServer;
use support::ordinary::Ordinary;
use support::pointsman::Pointsman;
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const HURRY: &str = "upstream: { connect_timeout: 1s, login_timeout: 2s, skip_failed: 50ms }\n";

fn proxy(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}{HURRY}shards:\n  s: {{ kind: shared, backends: \
             [ {{ name: b, address: \"127.0.0.1:{}\", tls: none }} ] }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head(),
            backend.port()
        )
    })
}

/// Empty messages of a client are messages: answered once, and the connection goes on.
#[test]
fn b52_empty_responses_of_a_client_are_answered_once_and_reach_no_backend() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend);
    for (asked, continued) in [
        ("a AUTHENTICATE PLAIN =\r\n", ""),
        ("a AUTHENTICATE PLAIN\r\n", "\r\n"),
        ("a AUTHENTICATE PLAIN\r\n", "=\r\n"),
    ] {
        let mut client = proxy.client();
        client.send(asked);
        if !continued.is_empty() {
            client.expect("+");
            client.send(continued);
        }
        let status = client.read_response("a").status;
        assert!(status.starts_with("BAD") || status.starts_with("NO"), "{asked:?}: {status}");
        client.send("b NOOP\r\n");
        client.expect("b OK");
        client.login("anna", "secret");
        client.logout();
    }
    assert_eq!(backend.users(), ["anna", "anna", "anna"]);
}

/// PLAIN has one message: who asks for more after it gets nothing more.
#[test]
fn b52_a_backend_that_goes_on_asking_after_plain_gets_no_more_and_is_unavailable() {
    for challenge in ["+ \r\n", "+\r\n", "+ VXNlcm5hbWU6\r\n"] {
        let backend = Backend::start(Opening::clear(), move |peer| {
            peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
            peer.expect("AUTHENTICATE PLAIN AGFubmEAc2VjcmV0")?;
            peer.send(challenge)?;
            peer.hang()
        });
        let proxy = proxy(&backend);
        let mut client = proxy.client();
        let status = client.try_login("anna", "secret").status;
        assert!(status.starts_with("NO [UNAVAILABLE]"), "{challenge:?}: {status}");
        backend.wait_until_empty();
        let seen = backend.received_text(0);
        assert_eq!(seen.matches("AGFubmEAc2VjcmV0").count(), 1, "{challenge:?}: {seen:?}");
        client.command_ok("NOOP");
        backend.assert_no_faults();
    }
}

/// Only `* OK` is a greeting.
#[test]
fn b58_only_a_greeting_of_imap_brings_the_credentials_out() {
    let greetings: Vec<(&str, Vec<u8>)> = vec![
        ("bye", b"* BYE too busy\r\n".to_vec()),
        ("bad", b"* BAD what\r\n".to_vec()),
        ("preauth", b"* PREAUTH in\r\n".to_vec()),
        ("tagged", b"a OK hello\r\n".to_vec()),
        ("ssh", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()),
        ("http", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec()),
        ("smtp", b"220 mail.example.org ESMTP\r\n".to_vec()),
        ("pop", b"+OK POP3 ready\r\n".to_vec()),
        ("empty line", b"\r\n".to_vec()),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 4096]),
        ("a line of 1 MB", [b"* OK ".to_vec(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat()),
        ("a TLS record", b"\x16\x03\x03\0\x02\x02\x28\x15\x03\x03\0\x02\x02\x28".to_vec()),
    ];
    let number = Arc::new(AtomicUsize::new(0));
    let backend = {
        let (number, greetings) = (Arc::clone(&number), greetings.clone());
        Backend::start(Opening::clear(), move |peer| {
            peer.send(&greetings[number.load(Ordering::SeqCst)].1)?;
            // It would take whatever comes.
            Ordinary::new().serve(peer)
        })
    };
    let proxy = proxy(&backend);
    for (place, (name, _)) in greetings.iter().enumerate() {
        number.store(place, Ordering::SeqCst);
        let before = backend.connections();
        let mut client = proxy.client();
        let watch = Stopwatch::start();
        let status = client.try_login("anna", "secret").status;
        assert!(status.starts_with("NO [UNAVAILABLE]"), "{name}: {status}");
        assert!(watch.elapsed() < Duration::from_secs(5), "{name}: {:?}", watch.elapsed());
        assert!(backend.connections() > before, "{name}");
        client.command_ok("NOOP");
    }
    backend.wait_until_empty();
    for connection in 0..backend.connections() {
        let seen = backend.received_text(connection);
        assert!(!seen.contains("AUTHENTICATE") && !seen.contains("LOGIN"), "{seen:?}");
    }
}

/// A resolver of the system that never comes back, whatever it is asked. Each question
/// leaves a line in the file `ASKED_FILE`.
const DEAF_RESOLVER: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static void hang(const char *what) {
    FILE *file = fopen(getenv("ASKED_FILE"), "a");
    if (file) { fprintf(file, "%s\n", what); fclose(file); }
    for (;;) pause();
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    hang(node ? node : "no name");
    return EAI_AGAIN;
}
int getnameinfo(const struct sockaddr *address, socklen_t size, char *host, socklen_t host_size,
                char *service, socklen_t service_size, int flags) {
    hang("the name of an address");
    return EAI_AGAIN;
}
struct hostent *gethostbyaddr(const void *address, socklen_t size, int type) {
    hang("the name of an address");
    return 0;
}
"#;

/// Neither the name of a client nor that of another backend is waited for.
#[test]
fn b72_a_resolver_that_never_answers_holds_up_no_login() {
    let folder = support::temporary_folder("resolver");
    let (source, library) = (folder.path().join("deaf.c"), folder.path().join("deaf.so"));
    let asked = folder.path().join("asked");
    std::fs::write(&source, DEAF_RESOLVER).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(compiled.success());
    let backend = Backend::ordinary();
    let silent = SilentServer::start();
    let environment =
        [("LD_PRELOAD", library.to_str().unwrap()), ("ASKED_FILE", asked.to_str().unwrap())];
    let proxy = Pointsman::start_with(&AUTHORITY, &environment, |places| {
        let users = places.file("users");
        std::fs::write(&users, "anna here\nbert away\n").unwrap();
        format!(
            "{}{HURRY}dns: {{ servers: [\"{}\"] }}
shards:
  here: {{ kind: shared, backends: [ {{ name: h, address: \"localhost:{}\", tls: none }} ] }}
  away: {{ kind: shared, backends: [ {{ name: a, address: \"never.example:143\", tls: none }} ] }}
routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
            places.head(),
            silent.address(),
            backend.port(),
            users.display()
        )
    });
    for _ in 0..10 {
        let watch = Stopwatch::start();
        proxy.logged_in("anna", "secret").logout();
        let status = proxy.client().try_login("bert", "secret").status;
        assert!(status.starts_with("NO [UNAVAILABLE]"), "{status}");
        assert!(watch.elapsed() < Duration::from_secs(2), "{:?}", watch.elapsed());
    }
    assert_eq!(backend.users().len(), 10);
    silent.wait_for_question("never");
    // The system is asked for no name at all.
    assert_eq!(std::fs::read_to_string(asked).unwrap_or_default(), "");
}
