//! Backends are found by name: by the lifetime of the records, by SRV records, and by the
//! last good answer where the name server is silent. No login waits for one.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and delays are real"
)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::Signal;
use support::Stopwatch;
use support::backend::{Backend, Opening};
use support::dnsmasq::{Dnsmasq, SilentServer};
use support::ordinary::Ordinary;
use support::pointsman::{self, Places, Pointsman};
use support::tls::Authority;
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Longest time of what waits for no name server: a busy machine may take it.
const AT_ONCE: Duration = Duration::from_secs(7);

/// How long a silent name server is waited for where a login that waited would be seen.
const DNS_TIMEOUT: Duration = Duration::from_secs(8);

/// An ordinary backend at `127.0.0.LAST`.
fn backend_at(last: u8, port: u16) -> Backend {
    let ordinary = Ordinary::new();
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
    Backend::start_on(address, Opening::clear(), move |peer| ordinary.converse(peer))
}

/// A shard of one backend for everybody, found through that name server.
fn configuration(places: &Places, server: SocketAddr, backend: &str) -> String {
    let dns = format!("servers: [\"{server}\"], timeout: 2s");
    with_dns(places, &dns, backend)
}

/// The same with these keys of `dns`.
fn with_dns(places: &Places, dns: &str, backend: &str) -> String {
    format!(
        "{}dns: {{ {dns} }}\n\
         upstream: {{ connect_timeout: 1s, login_timeout: 3s, skip_failed: 0s }}\n\
         shards:\n  s: {{ kind: shared, backends: [ {{ name: b, {backend} }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        places.head()
    )
}

fn proxy(server: SocketAddr, backend: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| configuration(places, server, backend))
}

fn lookups(proxy: &Pointsman, result: &str) -> f64 {
    proxy.metrics().sum("pointsman_dns_lookups_total", &[("result", result)])
}

/// Logs in again and again until a login reaches that backend.
fn wait_for_login_at(proxy: &Pointsman, backend: &Backend) {
    let before = backend.users().len();
    wait_until(&format!("a login reaches {}", backend.address()), || {
        let mut client = proxy.client();
        if client.try_login("anna", "secret").is_ok() {
            client.logout();
        }
        (backend.users().len() > before).then_some(())
    });
}

#[test]
fn a_backend_is_found_by_name_and_followed_when_its_address_changes() {
    let first = backend_at(2, support::free_port());
    let second = backend_at(3, first.port());
    let mut server = Dnsmasq::start(&["--host-record=b.example.test,127.0.0.2"]);
    let address = format!("address: \"b.example.test:{}\", tls: none", first.port());
    let proxy = proxy(server.address(), &address);
    proxy.logged_in("anna", "secret").logout();
    assert_eq!((first.users().len(), second.users().len()), (1, 0));

    server.restart(&["--host-record=b.example.test,127.0.0.3"]);
    wait_for_login_at(&proxy, &second);
    let old = first.users().len();
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(first.users().len(), old);
}

#[test]
fn each_name_is_asked_for_when_its_own_lifetime_ends() {
    let backend = backend_at(2, support::free_port());
    let records = [
        "--host-record=long.example.test,127.0.0.2,3600",
        "--host-record=b.example.test,127.0.0.2",
    ];
    let server = Dnsmasq::start(&records);
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let port = backend.port();
        let long = format!("address: \"long.example.test:{port}\", tls: none }}, {{ name: c, ");
        let backends = format!("{long}address: \"b.example.test:{port}\", tls: none");
        configuration(places, server.address(), &backends)
    });
    wait_until("the short-lived name was asked for again and again", || {
        (server.asked("query[A] b.example.test") >= 8).then_some(())
    });
    for family in ["A", "AAAA"] {
        // A question may be repeated three times while it waits for its answer.
        let asked = server.asked(&format!("query[{family}] long.example.test"));
        assert!((1..=4).contains(&asked), "{family}: {asked}");
    }
    wait_until("lookups have ended", || (lookups(&proxy, "ok") >= 4.0).then_some(()));
}

#[test]
fn a_silent_name_server_holds_up_no_login_and_the_last_answer_stays() {
    let backend = backend_at(2, support::free_port());
    let server = Dnsmasq::start(&["--host-record=b.example.test,127.0.0.2"]);
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let dns = format!("servers: [\"{}\"], timeout: {DNS_TIMEOUT:?}", server.address());
        let address = format!("address: \"b.example.test:{}\", tls: none", backend.port());
        with_dns(places, &dns, &address)
    });
    proxy.logged_in("anna", "secret").logout();

    server.process.signal(Signal::STOP);
    wait_until("a lookup times out", || (lookups(&proxy, "timeout") >= 1.0).then_some(()));
    for _ in 0..10 {
        let watch = Stopwatch::start();
        proxy.logged_in("anna", "secret").logout();
        assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());
    }
    // A reload asks again, and keeps the last answer of a name that it keeps.
    let watch = Stopwatch::start();
    proxy.reload();
    assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());
    proxy.logged_in("anna", "secret").logout();

    let before = lookups(&proxy, "ok");
    server.process.signal(Signal::CONT);
    wait_until("lookups succeed again", || (lookups(&proxy, "ok") > before).then_some(()));
    proxy.wait_for_log("resolves again");
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(backend.users().len(), 13);
}

/// dnsmasq knows that there is no such name under `example.test`; for others it has nobody
/// to ask and refuses.
#[test]
fn a_name_that_is_gone_or_refused_keeps_its_last_address() {
    for (name, result) in [("b.example.test", "empty"), ("b.foreign.test", "failed")] {
        let backend = backend_at(2, support::free_port());
        let mut server = Dnsmasq::start(&[&format!("--host-record={name},127.0.0.2")]);
        let address = format!("address: \"{name}:{}\", tls: none", backend.port());
        let proxy = proxy(server.address(), &address);
        proxy.logged_in("anna", "secret").logout();
        server.restart(&["--host-record=c.example.test,127.0.0.2"]);
        // While it was away its port was closed, which is a failure as well.
        let asked = server.asked(&format!("query[A] {name}"));
        wait_until("the new one was asked twice", || {
            (server.asked(&format!("query[A] {name}")) >= asked + 2).then_some(())
        });
        // One lookup asks more than once.
        let told = format!("the lookup has ended: {result}");
        wait_until(&told, || (lookups(&proxy, result) >= 1.0).then_some(()));
        proxy.logged_in("anna", "secret").logout();
        assert_eq!(backend.users().len(), 2);
    }
}

#[test]
fn a_start_with_a_silent_name_server_serves_the_backends_that_are_addresses() {
    let backend = backend_at(2, support::free_port());
    let silent = SilentServer::start();
    let write = |places: &Places, server: SocketAddr| {
        let users = places.file("users");
        std::fs::write(&users, "anna here\nbert away\n").unwrap();
        format!(
            "{}dns: {{ servers: [\"{server}\"], timeout: {DNS_TIMEOUT:?} }}\nshards:
  here: {{ kind: shared, backends: [ {{ name: h, address: \"{}\", tls: none }} ] }}
  away: {{ kind: shared, backends: [ {{ name: a, address: \"b.example.test:{}\", tls: none }} ] }}
routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
            places.head(),
            backend.address(),
            backend.port(),
            users.display()
        )
    };
    let watch = Stopwatch::start();
    let proxy = Pointsman::start(&AUTHORITY, |places| write(places, silent.address()));
    // Names may take 5 s of the start.
    assert!(watch.elapsed() < Duration::from_secs(5) + AT_ONCE * 2, "{:?}", watch.elapsed());
    silent.wait_for_question("example");
    let watch = Stopwatch::start();
    proxy.logged_in("anna", "secret").logout();
    let status = proxy.client().try_login("bert", "secret").status;
    assert!(status.starts_with("NO [UNAVAILABLE]"), "{status}");
    assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());

    // Other name servers are asked from the reload on.
    let server = Dnsmasq::start(&["--host-record=b.example.test,127.0.0.2"]);
    proxy.rewrite(|places| write(places, server.address()));
    proxy.reload();
    proxy.logged_in("bert", "secret").logout();
}

#[test]
fn the_next_name_server_is_asked_where_the_first_is_silent() {
    let backend = backend_at(2, support::free_port());
    let silent = SilentServer::start();
    let server = Dnsmasq::start(&["--host-record=b.example.test,127.0.0.2"]);
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let both = format!("{}\", \"{}", silent.address(), server.address());
        let address = format!("address: \"b.example.test:{}\", tls: none", backend.port());
        configuration(places, silent.address(), &address).replacen(
            &silent.address().to_string(),
            &both,
            1,
        )
    });
    silent.wait_for_question("example");
    wait_for_login_at(&proxy, &backend);
}

/// An answer of 2 KiB does not fit a datagram.
#[test]
fn a_long_answer_is_fetched_over_tcp() {
    let records: Vec<String> =
        (1..=120).map(|last| format!("--host-record=b.example.test,127.0.1.{last}")).collect();
    let ordinary = Ordinary::new();
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, support::free_port()));
    let backend =
        Backend::start_on(everywhere, Opening::clear(), move |peer| ordinary.converse(peer));
    let server = Dnsmasq::start(&records);
    let address = format!("address: \"b.example.test:{}\", tls: none", backend.port());
    let proxy = proxy(server.address(), &address);
    wait_for_login_at(&proxy, &backend);
    assert!(lookups(&proxy, "ok") >= 1.0);
}

#[test]
fn srv_records_say_hosts_and_ports_in_their_order() {
    let first = backend_at(2, support::free_port());
    let second = backend_at(3, support::free_port());
    let third = backend_at(4, support::free_port());
    let records = |services: &[(&str, &Backend, u8, u8)]| {
        let mut records: Vec<String> = Vec::new();
        for (host, backend, priority, weight) in services {
            let (address, port) = (backend.address().ip(), backend.port());
            records.push(format!("--host-record={host}.example.test,{address}"));
            let service = "--srv-host=_imap._tcp.example.test";
            records.push(format!("{service},{host}.example.test,{port},{priority},{weight}"));
        }
        records
    };
    let all = [("one", &first, 20, 9), ("three", &third, 10, 1), ("two", &second, 10, 5)];
    let mut server = Dnsmasq::start(&records(&all));
    let proxy = proxy(server.address(), "srv: _imap._tcp.example.test, tls: none");
    proxy.logged_in("anna", "secret").logout();
    assert_eq!((first.users().len(), second.users().len(), third.users().len()), (0, 1, 0));
    let backends = proxy.operate_ok(&["backends"]);
    assert!(backends.contains("_imap._tcp.example.test"), "{backends}");

    drop(second);
    proxy.logged_in("anna", "secret").logout();
    assert_eq!((first.users().len(), third.users().len()), (0, 1));

    // The root as target: the service is switched off.
    server.restart(&["--srv-host=_imap._tcp.example.test"]);
    proxy.wait_for_log("the service is not available");
    let status = proxy.client().try_login("anna", "secret").status;
    assert!(status.starts_with("NO [UNAVAILABLE]"), "{status}");
    server.restart(&records(&[("one", &first, 20, 9)]));
    wait_for_login_at(&proxy, &first);
}

/// The records say that the service is not there, which is no word of the server itself.
#[test]
fn a_backend_that_has_lost_its_addresses_is_neither_down_nor_fenced() {
    let backend = backend_at(2, support::free_port());
    let host = "--host-record=one.example.test,127.0.0.2".to_owned();
    let service = "--srv-host=_imap._tcp.example.test";
    let mut server =
        Dnsmasq::start(&[host, format!("{service},one.example.test,{}", backend.port())]);
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let settings = "kind: shared, fence: { program: /bin/true }, \
                        check: { mode: greeting, interval: 100ms, fall: 2 },";
        configuration(places, server.address(), "srv: _imap._tcp.example.test, tls: none")
            .replace("kind: shared,", settings)
    });
    let mut anna = proxy.logged_in("anna", "secret");
    server.restart(&[service]);
    let unasked = [("backend", "b"), ("result", "resolve")];
    proxy.wait_for_metrics("checks had nowhere to go", |now| {
        now.sum("pointsman_backend_checks_total", &unasked) > 5.5
    });
    let status = proxy.client().try_login("anna", "secret").status;
    assert!(status.starts_with("NO [UNAVAILABLE]"), "{status}");
    let now = proxy.metrics();
    assert!(now.sum("pointsman_backend_up", &[("backend", "b")]) > 0.5);
    assert_eq!(now.count("pointsman_backend_fences_total", &[("backend", "b")]), 0);
    anna.command_ok("NOOP");
    anna.logout();
}

#[test]
fn with_srv_the_certificate_must_match_what_the_operator_says() {
    let ordinary = Ordinary::new();
    let port = support::free_port();
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port));
    let opening = Opening::implicit(AUTHORITY.issue(&["mail.example.test"]).server_config());
    let backend = Backend::start_on(address, opening, move |peer| ordinary.converse(peer));
    let server = Dnsmasq::start(&[
        format!("--srv-host=_imaps._tcp.example.test,other.example.test,{port},0,0"),
        "--host-record=other.example.test,127.0.0.2".to_owned(),
    ]);
    let keys = |places: &Places, name: &str| {
        let ca = places.ca.display();
        let srv = "srv: _imaps._tcp.example.test, tls: implicit";
        let keys = format!("{srv}, ca: \"{ca}\", verify_name: {name}");
        configuration(places, server.address(), &keys)
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| keys(places, "mail.example.test"));
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(backend.users(), ["anna"]);
    // The name that DNS told is of no use.
    proxy.rewrite(|places| keys(places, "other.example.test"));
    proxy.reload();
    let status = proxy.client().try_login("anna", "secret").status;
    assert!(status.starts_with("NO [UNAVAILABLE]"), "{status}");
    assert_eq!(backend.users(), ["anna"]);
}

#[test]
fn a_broken_dns_section_is_refused_with_its_line_and_changes_nothing() {
    let backend = backend_at(2, support::free_port());
    let server = Dnsmasq::start(&["--host-record=b.example.test,127.0.0.2"]);
    let address = format!("address: \"b.example.test:{}\", tls: none", backend.port());
    let broken = |places: &Places| {
        let good = configuration(places, server.address(), &address);
        let (before, _) = good.split_once("dns:").unwrap();
        let line = before.lines().count() + 2;
        let text = good.replacen("dns: { servers: [\"", "dns:\n  servers: [\"name:", 1);
        (line, text.replacen(", timeout: 2s }", "\n  timeout: 2s", 1))
    };
    let mut line = 0;
    let (code, output) = pointsman::check(&AUTHORITY, |places| {
        let (at, text) = broken(places);
        line = at;
        text
    });
    assert_eq!(code, 64, "{output}");
    assert!(output.contains(&format!("pointsman.yaml:{line}:13: `servers` cannot be")), "{output}");

    let proxy = proxy(server.address(), &address);
    proxy.rewrite(|places| broken(places).1);
    proxy.reload();
    let refused = [("result", "refused")];
    assert!(proxy.metrics().sum("pointsman_config_reloads_total", &refused) > 0.0);
    proxy.wait_for_log(&format!("pointsman.yaml:{line}:13"));
    proxy.logged_in("anna", "secret").logout();
}

#[test]
fn localhost_is_known_without_any_name_server() {
    let backend = Backend::ordinary();
    let silent = SilentServer::start();
    let address = format!("address: \"localhost:{}\", tls: none", backend.port());
    let proxy = proxy(silent.address(), &address);
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(backend.users(), ["anna"]);
    assert!(!silent.was_asked());
}

#[test]
fn warm_connections_to_an_address_that_is_gone_are_given_up() {
    let first = backend_at(2, support::free_port());
    let second = backend_at(3, first.port());
    let mut server = Dnsmasq::start(&["--host-record=b.example.test,127.0.0.2"]);
    let port = first.port();
    let backend = format!(
        "address: \"b.example.test:{port}\", tls: none, warm_connections: 2, warm_age_max: 30m"
    );
    let proxy = proxy(server.address(), &backend);
    wait_until("two are ready", || (first.open_connections() == 2).then_some(()));
    server.restart(&["--host-record=b.example.test,127.0.0.3"]);
    first.wait_until_empty();
    wait_for_login_at(&proxy, &second);
    assert_eq!(first.users().len(), 0);
}

/// nginx's servers name backends by address; here they may have names.
#[test]
fn an_http_server_and_the_backend_that_it_means_are_found_by_name() {
    let backend = backend_at(2, support::free_port());
    let auth = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 4), support::free_port())).unwrap();
    let auth_port = auth.local_addr().unwrap().port();
    let answer = format!(
        "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.2\r\nAuth-Port: {}\r\n\r\n",
        backend.port()
    );
    std::thread::spawn(move || {
        for socket in auth.incoming() {
            let mut socket = socket.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            socket.write_all(answer.as_bytes()).unwrap();
        }
    });
    let server = Dnsmasq::start(&[
        "--host-record=b.example.test,127.0.0.2",
        "--host-record=auth.example.test,127.0.0.4",
    ]);
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}dns: {{ servers: [\"{}\"], timeout: {DNS_TIMEOUT:?} }}\n\
             shards:\n  other: {{ kind: shared, backends: [ {{ name: o, address: \"127.0.0.9:9\", tls: none }} ] }}\n  \
             s: {{ kind: shared, backends: [ {{ name: b, address: \"b.example.test:{}\", tls: none }} ] }}\n\
             routing: {{ lookups: [ {{ auth_http: {{ urls: [\"http://auth.example.test:{auth_port}/\"], \
             allow_clear: true }}, timeout: 6s }} ] }}\n",
            places.head(),
            server.address(),
            backend.port(),
        )
    });
    proxy.logged_in("anna", "secret").logout();
    server.process.signal(Signal::STOP);
    wait_until("a lookup times out", || (lookups(&proxy, "timeout") >= 1.0).then_some(()));
    let watch = Stopwatch::start();
    proxy.logged_in("anna", "secret").logout();
    assert!(watch.elapsed() < AT_ONCE, "{:?}", watch.elapsed());
    assert_eq!(backend.users(), ["anna", "anna"]);
}
