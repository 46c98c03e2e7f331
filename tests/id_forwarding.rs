//! What is said of the client: its own ID is handed on, a proxy in front is believed only
//! where the operator says so, and a login that runs in a circle is stopped.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::fmt::Write;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use support::backend::Backend;
use support::client::Client;
use support::dovecot::Settings;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman, check};
use support::tls::Authority;
use support::{free_port, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Everybody on one backend; the clear listener has further keys.
fn one_backend(places: &Places, backend: SocketAddr, listener: &str) -> String {
    let head = places.head().replace(
        "tls: none, allow_clear_login: true",
        &format!("tls: none, allow_clear_login: true{listener}"),
    );
    format!(
        "{head}shards: {{ s: {{ kind: shared, backends: \
         [ {{ name: b, address: \"{backend}\", tls: none }} ] }} }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n"
    )
}

const TRUSTING: &str = ", id_trusted: [127.0.0.0/8]";

fn start(backend: &Backend, listener: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| one_backend(places, backend.address(), listener))
}

/// The value of a field in the ID that a backend received.
fn told(backend: &Backend, connection: usize, key: &str) -> Option<String> {
    let text = backend.received_text(connection);
    let line = text.lines().find(|line| line.contains(" ID ("))?.to_owned();
    let (_, rest) = line.split_once(&format!("\"{key}\" \""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[test]
fn b31_an_id_of_literals_before_a_login_in_one_write_is_read_whole() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, "");
    let mut client = proxy.client();
    client.send(
        "i ID (\"name\" {4+}\r\nmine \"x-originating-ip\" {11+}\r\n203.0.113.9 \"os\" NIL)\r\n\
         b LOGIN bob secret\r\n",
    );
    assert!(client.read_response("i").is_ok());
    assert!(client.read_response("b").is_ok());
    assert_eq!(told(&backend, 0, "name").as_deref(), Some("mine"));
    assert_eq!(told(&backend, 0, "x-originating-ip").as_deref(), Some("127.0.0.1"));
    let text = backend.received_text(0);
    assert!(!text.contains("203.0.113.9") && text.contains("\"os\" NIL"), "{text}");
    backend.assert_no_faults();
}

#[test]
fn b31_ids_within_the_limits_are_answered_any_number_of_times_and_others_refused() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, "");
    let mut client = proxy.client();
    let pairs = |count: usize| {
        let mut text = String::new();
        (0..count).for_each(|n| write!(text, " \"k{n}\" \"v\"").unwrap());
        format!("({})", text.trim_start())
    };
    let key = |bytes: usize| format!("(\"{}\" \"v\")", "k".repeat(bytes));
    let value = |bytes: usize| format!("(\"k\" \"{}\")", "v".repeat(bytes));
    for good in ["NIL".to_owned(), "()".to_owned(), pairs(30), key(30), value(1024)] {
        let response = client.command(&format!("ID {good}"));
        assert!(response.is_ok() && response.text().starts_with("* ID ("), "{good}");
    }
    for bad in [pairs(31), key(31), value(1025), "(\"k\")".to_owned(), "x".to_owned()] {
        let status = client.command(&format!("ID {bad}")).status;
        assert!(status.starts_with("BAD "), "{bad}: {status}");
    }
    // More than the budget of syntax errors: an ID never counts.
    for _ in 0..12 {
        assert!(client.command("ID (x)").status.starts_with("BAD "));
    }
    client.command_ok("ID (\"name\" \"last\")");
    client.login("bob", "secret");
    assert_eq!(told(&backend, 0, "name").as_deref(), Some("last"));
    let order = [
        "x-session-id",
        "x-originating-ip",
        "x-originating-port",
        "x-connected-ip",
        "x-connected-port",
        "x-proxy-ttl",
        "x-client-transport",
        "name",
    ];
    let text = backend.received_text(0);
    let places =
        order.map(|key| text.find(&format!("\"{key}\" ")).unwrap_or_else(|| panic!("{key}")));
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn b31_only_a_trusted_proxy_describes_its_client() {
    const ID: &str = "ID (\"X-Originating-IP\" \"192.0.2.7\" \"x-originating-port\" \"4711\" \
                      \"x-connected-ip\" \"2001:db8::1\" \"x-connected-port\" \"993\" \
                      \"x-session-id\" \"outer/1\" \"x-proxy-ttl\" \"4\" \
                      \"x-client-transport\" \"TLS\" \"x-connected-name\" \"mail.example\" \
                      \"x-forward-tenant\" \"seven\" \"x-odd\" \"y\" \"name\" \"mua\")";
    let backend = Backend::ordinary();
    let stranger = start(&backend, "");
    let mut client = stranger.client();
    client.command_ok(ID);
    client.login("bob", "secret");
    assert_eq!(told(&backend, 0, "x-originating-ip").as_deref(), Some("127.0.0.1"));
    assert_eq!(told(&backend, 0, "x-client-transport").as_deref(), Some("insecure"));
    assert_eq!(told(&backend, 0, "x-forward-tenant"), None);

    let proxy = start(&backend, TRUSTING);
    let mut client = proxy.client();
    client.command_ok(ID);
    // Only the first one counts.
    client.command_ok("ID (\"x-originating-ip\" \"192.0.2.8\" \"name\" \"mua\")");
    client.login("bob", "secret");
    let expected = [
        ("x-originating-ip", "192.0.2.7"),
        ("x-originating-port", "4711"),
        ("x-connected-ip", "2001:db8::1"),
        ("x-connected-port", "993"),
        ("x-session-id", "outer/1"),
        ("x-proxy-ttl", "3"),
        ("x-client-transport", "TLS"),
        ("x-connected-name", "mail.example"),
        ("x-forward-tenant", "seven"),
        ("name", "mua"),
    ];
    for (key, value) in expected {
        assert_eq!(told(&backend, 1, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(told(&backend, 1, "x-odd"), None);
    client.logout();
    let line = wait_until("the session's line", || {
        proxy.log().lines().find(|line| line.contains("session ended")).map(str::to_owned)
    });
    assert!(line.contains("192.0.2.7") && line.contains("outer/1"), "{line}");
}

#[test]
fn b31_the_described_client_is_the_one_that_limits_and_masters_go_by() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        one_backend(places, backend.address(), TRUSTING).replace(
            "failed_login_delay: 100ms",
            "failed_login_delay: 100ms, exempt: [127.0.0.0/8], sessions_per_user_address: 1, \
             unauthenticated_per_address: 2",
        ) + "master: { networks: [127.0.0.0/8, 192.0.2.9/32] }\n"
    });
    let from = |address: &str| {
        let mut client = proxy.client();
        let tag = client.send_command(&format!("ID (\"x-originating-ip\" \"{address}\")"));
        (client, tag)
    };
    let joined = |address: &str| {
        let (mut client, tag) = from(address);
        assert!(client.read_response(&tag).is_ok());
        client
    };
    let mut one = joined("192.0.2.7");
    one.login("bob", "secret");
    let mut second = joined("192.0.2.7");
    let status = second.try_login("bob", "secret").status;
    assert!(status.starts_with("NO [LIMIT] "), "{status}");
    joined("192.0.2.8").login("bob", "secret");
    // Two that are not logged in, and no third: `second` is one of them.
    let _third = joined("192.0.2.7");
    let (mut over, _) = from("192.0.2.7");
    over.expect("* BYE [LIMIT] ");
    over.expect_end();
    // The proxy's own network is no licence for those behind it.
    let status = joined("192.0.2.10").try_login("eve*admin", "secret").status;
    assert!(status.starts_with("NO [AUTHENTICATIONFAILED] "), "{status}");
    joined("192.0.2.9").login("eve*admin", "secret");
}

#[test]
fn b31_a_trusted_proxys_broken_field_is_refused_and_believed_in_no_part() {
    let backend = Backend::ordinary();
    let proxy = start(&backend, TRUSTING);
    for field in
        ["\"x-originating-ip\" \"192.0.2\"", "\"x-proxy-ttl\" \"0\"", "\"x-session-id\" \"\""]
    {
        let mut client = proxy.client();
        let id = format!("ID (\"x-connected-ip\" \"192.0.2.1\" {field})");
        let status = client.command(&id).status;
        assert!(status.starts_with("BAD "), "{field}: {status}");
    }
    proxy.wait_for_log("a trusted proxy's ID was refused");
    let mut client = proxy.client();
    client.command("ID (\"x-originating-ip\" \"here\" \"x-connected-ip\" \"192.0.2.1\")");
    client.login("bob", "secret");
    assert_eq!(told(&backend, 0, "x-connected-ip").as_deref(), Some("127.0.0.1"));
}

#[test]
fn b60_a_login_that_passed_too_many_proxies_is_a_loop_whoever_says_so() {
    let backend = Backend::ordinary();
    for listener in ["", TRUSTING] {
        let proxy = start(&backend, listener);
        let mut client = proxy.client();
        client.command_ok("ID (\"x-proxy-ttl\" \"1\")");
        let status = client.try_login("bob", "secret").status;
        assert!(status.starts_with("NO [SERVERBUG] "), "{status}");
        assert_eq!(backend.connections(), 0);
    }
    let proxy = start(&backend, "");
    let mut client = proxy.client();
    client.command_ok("ID (\"x-proxy-ttl\" \"2\")");
    client.login("bob", "secret");
    assert_eq!(told(&backend, 0, "x-proxy-ttl").as_deref(), Some("1"));
}

/// Hands every connection to that port on, as a balancer does. Ends with the test.
fn forwarder(to: SocketAddr) -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    let address = listener.local_addr().unwrap();
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&count);
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let Ok(far) = TcpStream::connect(to) else { continue };
            let ends = [(&near, &far), (&far, &near)];
            for (from, into) in ends {
                let (mut from, mut into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut Read::by_ref(&mut from), &mut into);
                    let _ = into.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (address, count)
}

#[test]
fn b60_a_proxy_that_is_its_own_backend_gives_one_clear_error_and_no_storm() {
    use std::sync::atomic::Ordering;
    for forward in ["id", "proxy_v2"] {
        let inner = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (way, connections) = forwarder(inner);
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            let keys = match forward {
                "proxy_v2" => "proxy_protocol: required, trusted: [127.0.0.0/8], ",
                _ => "",
            };
            let listener = format!(
                "  - {{ name: inner, address: \"{inner}\", tls: none, {keys}\
                 allow_clear_login: true }}\ntls:\n  cert"
            );
            one_backend(places, way, "")
                .replace("tls:\n  cert", &listener)
                .replace("tls: none } ] }", &format!("tls: none, forward: {forward} }} ] }}"))
        });
        let status = proxy.client().try_login("bob", "secret").status;
        assert!(status.starts_with("NO [SERVERBUG] "), "{forward}: {status}");
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{forward}");
        proxy.wait_for_log("a login runs in a loop of proxies");
        let bugs = [("result", "server_bug")];
        proxy.wait_for_metrics("both sides count a fault of theirs", |now| {
            (now.sum("pointsman_logins_total", &bugs) - 2.0).abs() < 0.5
        });
    }
}

/// A proxy in front that gave up its first try may come with the same session again, while
/// the first one is still under way here.
#[test]
fn b60_another_try_of_the_proxy_in_front_is_no_loop() {
    let backend = Ordinary::new().delay("AUTHENTICATE", Duration::from_secs(2)).start();
    let proxy = start(&backend, TRUSTING);
    let described = "ID (\"x-session-id\" \"outer1\" \"x-originating-ip\" \"192.0.2.7\" \
                     \"x-proxy-ttl\" \"4\")";
    let mut tries: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    let tags: Vec<String> = tries
        .iter_mut()
        .map(|client| {
            client.command_ok(described);
            client.send_command("LOGIN bob secret")
        })
        .collect();
    for (client, tag) in tries.iter_mut().zip(&tags) {
        let answer = client.read_response(tag);
        assert!(answer.is_ok(), "{}", answer.status);
    }
    // One that passed a proxy more is one.
    let mut first = proxy.client();
    first.command_ok(described);
    let tag = first.send_command("LOGIN bob secret");
    wait_until("it is under way", || (backend.connections() == 3).then_some(()));
    let mut back = proxy.client();
    back.command_ok(&described.replace("\"4\"", "\"3\""));
    let told = back.try_login("bob", "secret").status;
    assert!(told.starts_with("NO [SERVERBUG] "), "{told}");
    assert!(first.read_response(&tag).is_ok());
}

/// Neither believes the other.
#[test]
fn b60_two_proxies_that_are_each_others_backends_end_it_after_few_rounds() {
    use std::sync::atomic::Ordering;
    let [a, b] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let (to_a, rounds_a) = forwarder(a);
    let (to_b, rounds_b) = forwarder(b);
    let run = |own: SocketAddr, other| {
        Pointsman::start(&AUTHORITY, |places| {
            let listener = format!(
                "  - {{ name: inner, address: \"{own}\", tls: none, allow_clear_login: true }}\n\
                 tls:\n  cert"
            );
            one_backend(places, other, "").replace("tls:\n  cert", &listener)
        })
    };
    let [first, second] = [run(a, to_b), run(b, to_a)];
    let status = first.client().try_login("bob", "secret").status;
    assert!(
        status.starts_with("NO [SERVERBUG] ") || status.starts_with("NO [UNAVAILABLE] "),
        "{status}"
    );
    let rounds = rounds_a.load(Ordering::SeqCst) + rounds_b.load(Ordering::SeqCst);
    assert!(rounds <= 5, "{rounds} connections for one login");
    wait_until("one of them tells of it", || {
        let told = first.log() + &second.log();
        told.contains("a login runs in a loop of proxies").then_some(())
    });
}

#[test]
fn b60_a_backend_that_is_an_own_listener_is_a_fault_of_the_configuration() {
    let (code, told) = check(&AUTHORITY, |places| one_backend(places, places.clear, ""));
    assert_eq!(code, 64, "{told}");
    assert!(told.contains("is a listener of this proxy"), "{told}");
}

/// Client, proxy, proxy, Dovecot: the last one logs the first one, and so does the session's
/// name; the client's own ID arrives behind a PROXY header too.
#[test]
fn b31_dovecot_behind_two_proxies_logs_the_client_its_session_and_its_id() {
    let dovecot = Settings::new(&AUTHORITY, &[("anna", "secret"), ("bert", "secret")])
        .haproxy()
        .extra("login_log_format_elements = user=<%u> rip=%r rport=%a lip=%l session=<%{session}>")
        .start();
    let front = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    for (user, forward) in [("anna", "id"), ("bert", "proxy_v2")] {
        let address = if forward == "id" { dovecot.imap() } else { dovecot.haproxy() };
        let inner = Pointsman::start(&AUTHORITY, |places| {
            one_backend(places, address, TRUSTING)
                .replace("tls: none } ] }", &format!("tls: none, forward: {forward} }} ] }}"))
        });
        let outer = Pointsman::start(&AUTHORITY, |places| {
            one_backend(places, inner.places().clear, "").replace(
                "tls:\n  cert",
                &format!(
                    "  - {{ name: balanced, address: \"{front}\", tls: none, \
                     allow_clear_login: true, proxy_protocol: required, \
                     trusted: [127.0.0.0/8] }}\ntls:\n  cert"
                ),
            )
        });
        let mut client = Client::connect(front).unwrap();
        client.send("PROXY TCP4 192.0.2.7 198.51.100.1 40007 143\r\n");
        client.expect("* OK");
        client.command_ok(&format!("ID (\"name\" \"mua-{user}\")"));
        client.login(user, "secret");
        let login = wait_until("Dovecot logs the login", || {
            let wanted = format!("user=<{user}>");
            dovecot.log().lines().find(|line| line.contains(&wanted)).map(str::to_owned)
        });
        assert!(login.contains("rip=192.0.2.7"), "{forward}: {login}");
        assert!(login.contains("lip=198.51.100.1"), "{forward}: {login}");
        dovecot.wait_for_log(&format!("name=mua-{user}"));
        client.logout();
        let ended = wait_until("the inner proxy tells of the session", || {
            inner.log().lines().find(|line| line.contains("session ended")).map(str::to_owned)
        });
        assert!(ended.contains("192.0.2.7"), "{ended}");
        if forward == "id" {
            // All three speak of one session.
            let (_, session) = login.split_once("session=<").unwrap();
            let session = session.split_once('>').unwrap().0;
            assert!(ended.contains(session), "{session} is not in {ended}");
            outer.wait_for_log(session);
        }
    }
}

/// A real Dovecot in front, as a proxy: what it says of its client is understood.
#[test]
fn b31_a_dovecot_proxy_in_front_is_understood() {
    let backend = Ordinary::new().start();
    let proxy = start(&backend, TRUSTING);
    let port = proxy.places().clear.port();
    // The rest of a line of Dovecot's passwd file: empty fields, then the extra ones.
    let password = format!("secret::::::proxy=y host=127.0.0.1 port={port}");
    let front = Settings::new(&AUTHORITY, &[("anna", &password)]).haproxy().start();
    let mut client = Client::connect(front.haproxy()).unwrap();
    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 40007 143\r\n");
    client.expect("* OK");
    let response = client.try_login("anna", "secret");
    assert!(response.is_ok(), "{}\n{}\n{}", response.status, front.log(), proxy.log());
    assert_eq!(told(&backend, 0, "x-originating-ip").as_deref(), Some("192.0.2.7"));
    assert_eq!(told(&backend, 0, "x-originating-port").as_deref(), Some("40007"));
    assert_eq!(told(&backend, 0, "x-connected-ip").as_deref(), Some("198.51.100.1"));
    assert_eq!(told(&backend, 0, "x-proxy-ttl").as_deref(), Some("3"));
    let session = told(&backend, 0, "x-session-id").unwrap();
    client.logout();
    front.wait_for_log(&session);
    proxy.wait_for_log(&session);
}
