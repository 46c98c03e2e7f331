//! Where clients come in: TLS in all its ways, PROXY headers, probes, and a crowd.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and a load is measured over real time"
)]

mod support;

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use support::backend::{Backend, shard};
use support::client::Client;
use support::pointsman::{Places, Pointsman};
use support::tls::{Authority, client_side};
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

fn start(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| places.head() + &shard(backend))
}

/// The head with another listener in front of the usual ones.
fn with_listener(places: &Places, listener: &str) -> String {
    places.head().replace("listeners:\n", &format!("listeners:\n  - {{ {listener} }}\n"))
}

fn tls_config(versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(AUTHORITY.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

#[test]
fn implicit_tls_and_starttls_speak_versions_1_2_and_1_3() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let config = tls_config(&[version], &["imap"]);
        let mut client = Client::tls(proxy.places().imaps, &config);
        assert_eq!(client.wire().alpn().as_deref(), Some(&b"imap"[..]));
        client.login("anna", "secret");
        client.logout();
        let mut client = Client::clear(proxy.places().imap);
        client.starttls("localhost", &config);
        client.login("bert", "secret");
        client.logout();
        wait_until("both are logged with their version", || {
            let wanted = format!("tls={name}");
            (proxy.log().matches(&wanted).count() == 2).then_some(())
        });
    }
    assert_eq!(backend.users(), ["anna", "bert", "anna", "bert"]);
}

#[test]
fn the_name_in_the_hello_chooses_the_certificate() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let pair = |name: &&str| {
            let (cert, key) = AUTHORITY.issue(&[name]).write(&places.folder, name);
            format!("    - {{ cert: \"{}\", key: \"{}\" }}\n", cert.display(), key.display())
        };
        let list: Vec<String> = ["mail.example.org", "imap.example.net"].iter().map(pair).collect();
        let list = list.concat();
        places.head().replace("admin:", &(list + "admin:")) + &shard(&backend)
    });
    let config = AUTHORITY.client_config();
    let shakes = |name: &str| {
        let mut client = Client::connect(proxy.places().imaps).unwrap();
        client.wire().start_tls_as_client(client_side(&config, name)).is_ok()
    };
    for name in ["mail.example.org", "MAIL.example.ORG", "imap.example.net", "localhost"] {
        assert!(shakes(name), "{name}");
        let mut client = Client::clear(proxy.places().imap);
        client.starttls(name, &config);
        client.command_ok("NOOP");
    }
    // Without a name, and with one that no certificate has, the first is shown.
    assert!(shakes("127.0.0.1"));
    assert!(!shakes("other.example.org"));
}

/// A client that asks for another protocol is refused, one that asks for none is not.
#[test]
fn b08_alpn_is_honoured_and_its_absence_accepted() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let versions = [&TLS12, &TLS13];
    for version in versions {
        for (alpn, taken) in [
            (&["imap"][..], true),
            (&[], true),
            (&["http/1.1", "imap"], true),
            (&["http/1.1"], false),
            (&["h2", "smtp"], false),
        ] {
            let mut client = Client::connect(proxy.places().imaps).unwrap();
            let side = client_side(&tls_config(&[version], alpn), "localhost");
            // In TLS 1.3 too the server's refusal comes in place of its hello.
            let shaken = client.wire().start_tls_as_client(side);
            assert_eq!(shaken.is_ok(), taken, "{alpn:?}: {shaken:?}");
            if taken {
                client.expect("* OK");
            }
        }
    }
    let errors = [("reason", "alpn")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_client_errors_total", &errors) > 3.5
    });
}

/// What a browser would say is noise, and soon over.
#[test]
fn b08_http_inside_tls_is_closed_after_the_error_budget() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let mut client = Client::tls(proxy.places().imaps, &tls_config(&[&TLS13], &[]));
    let request = "GET / HTTP/1.1\r\nHost: x\r\n".to_owned() + &"A: b\r\n".repeat(20) + "\r\n";
    client.send(request);
    let said = String::from_utf8(client.read_to_end()).unwrap();
    assert!(said.contains(" BAD ") && said.contains("* BYE "), "{said}");
    assert!(said.lines().count() <= 11, "{said}");
    assert_eq!(backend.connections(), 0);
}

/// Sends STARTTLS and more in one write: refused loudly, and nothing of it is answered.
fn assert_refused_behind_starttls(proxy: &Pointsman, behind: &[u8]) {
    let mut client = Client::clear(proxy.places().imap);
    client.send([b"a STARTTLS\r\n", behind].concat());
    client.expect("a BAD");
    let rest = client.read_to_end();
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("b ") && !rest.contains(" OK"), "{rest}");
}

#[test]
fn b01_a_command_behind_starttls_is_never_run() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    for behind in [&b"b LOGIN anna secret\r\n"[..], b"b NOOP\r\n", b"\r\n", b"x"] {
        assert_refused_behind_starttls(&proxy, behind);
    }
    assert_eq!(backend.connections(), 0);
    let errors = [("reason", "starttls_injection")];
    proxy.wait_for_metrics("the injections are counted", |now| {
        now.sum("pointsman_sessions_closed_total", &errors) > 3.5
    });
    // An honest client is not disturbed, however its line is cut.
    let mut client = Client::clear(proxy.places().imap);
    client.send_byte_by_byte("a starttls\r\n");
    client.expect("a OK");
    let side = client_side(&AUTHORITY.client_config(), "localhost");
    client.wire().start_tls_as_client(side).unwrap();
    client.login("anna", "secret");
}

/// The first half in clear, the rest inside TLS: the parser begins afresh there.
#[test]
fn b02_a_command_does_not_go_on_across_the_handshake() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    for half in [&b"b LOGIN {4+}\r\nan"[..], b"b LOGIN {4}\r\n", b"b AUTHENTICATE PLAIN\r\n", b"b"]
    {
        assert_refused_behind_starttls(&proxy, half);
    }
    // STARTTLS itself as a literal's bytes is no STARTTLS.
    let mut client = Client::clear(proxy.places().imap);
    client.send("b LOGIN {12+}\r\na STARTTLS\r\n secret\r\nc NOOP\r\n");
    client.expect("b BAD");
    client.expect("c OK");
    assert_eq!(backend.connections(), 0);
}

#[test]
fn b03_a_hello_that_comes_too_early_is_refused_and_not_lost() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let mut hello = Vec::new();
    client_side(&AUTHORITY.client_config(), "localhost").write_tls(&mut hello).unwrap();
    assert_refused_behind_starttls(&proxy, &hello);
    assert_refused_behind_starttls(&proxy, &hello[..1]);
}

/// RFC 9051 section 6.2.1: nothing from before the handshake counts after it.
#[test]
fn b10_what_was_said_before_starttls_is_forgotten() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let mut client = Client::clear(proxy.places().imap);
    client.command_ok("CAPABILITY");
    client.command_ok("ID (\"name\" \"somebody on the path\")");
    client.starttls("localhost", &AUTHORITY.client_config());
    let response = client.login("anna", "secret");
    assert!(response.untagged.is_empty(), "{}", response.text());
    assert!(!backend.received_text(0).contains("somebody"));
    assert!(client.command("STARTTLS").status.starts_with("BAD"));
}

/// Nor what somebody on the way to a trusted proxy said in its place.
#[test]
fn b10_whom_a_trusted_proxy_described_before_starttls_is_forgotten() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let trusting = "tls: starttls, id_trusted: [127.0.0.0/8] }";
        places.head().replace("tls: starttls }", trusting) + &shard(&backend)
    });
    let mut client = Client::clear(proxy.places().imap);
    client.command_ok(
        "ID (\"x-originating-ip\" \"10.0.0.5\" \"x-session-id\" \"forged\" \
         \"x-forward-t\" \"planted\")",
    );
    client.starttls("localhost", &AUTHORITY.client_config());
    client.login("anna", "secret");
    let said = backend.received_text(0);
    for planted in ["10.0.0.5", "forged", "planted"] {
        assert!(!said.contains(planted), "{said}");
    }
    let own = client.local_address().ip();
    assert!(said.contains(&format!("\"x-originating-ip\" \"{own}\"")), "{said}");
    client.logout();
    // Behind it the proxy itself is believed.
    let mut client = Client::clear(proxy.places().imap);
    client.starttls("localhost", &AUTHORITY.client_config());
    client.command_ok("ID (\"x-originating-ip\" \"192.0.2.7\")");
    client.login("anna", "secret");
    assert!(backend.received_text(1).contains("192.0.2.7"));
}

/// B-13: half a handshake holds a place no longer than its deadline.
#[test]
fn b13_an_unfinished_handshake_ends_at_its_deadline() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}limits: {{ tls_handshake: 300ms, unauthenticated_per_address: 1 }}\n{}",
            places.head_without_limits(),
            shard(&backend)
        )
    });
    let mut hello = Vec::new();
    client_side(&AUTHORITY.client_config(), "localhost").write_tls(&mut hello).unwrap();
    for part in [&hello[..0], &hello[..3], &hello[..hello.len() / 2]] {
        let mut client = Client::connect(proxy.places().imaps).unwrap();
        client.send(part);
        client.read_to_end();
    }
    wait_until("the place is free", || {
        let mut client = Client::connect(proxy.places().clear).unwrap();
        client.read_line().starts_with("* OK").then_some(())
    });
}

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for `192.0.2.7:4711` to `198.51.100.1:143`.
fn v2_header(extra: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0, 143];
    let length = u16::try_from(addresses.len() + extra.len()).unwrap().to_be_bytes();
    [V2, b"\x21\x11", &length, &addresses, extra].concat()
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 143\r\n";

fn behind_balancer(backend: &Backend, trusted: &str, tls: &str) -> (Pointsman, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], support::free_port()));
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let listener = format!(
            "name: behind, address: \"{address}\", tls: {tls}, proxy_protocol: required, \
             trusted: [{trusted}]"
        );
        let limits = "limits: { proxy_header: 500ms, failed_login_delay: 1ms }\n";
        with_listener(places, &listener).replace("limits: { failed_login_delay: 100ms }\n", limits)
            + &shard(backend)
    });
    (proxy, address)
}

/// Version 1 and 2, whole or byte by byte, before clear text and before TLS.
#[test]
fn b15_a_proxy_header_from_a_trusted_network_is_believed() {
    let backend = Backend::ordinary();
    let clear = behind_balancer(&backend, "127.0.0.0/8", "none, allow_clear_login: true");
    let secured = behind_balancer(&backend, "127.0.0.0/8", "implicit");
    let noop = b"\x04\x00\x03abc";
    let headers = [V1.to_vec(), v2_header(b""), v2_header(noop)];
    for header in &headers {
        for by_byte in [false, true] {
            for (proxy, address) in [&clear, &secured] {
                let connection = backend.connections();
                let mut client = Client::connect(*address).unwrap();
                if by_byte {
                    client.send_byte_by_byte(header);
                } else {
                    client.send(header);
                }
                if proxy.places().admin == secured.0.places().admin {
                    let side = client_side(&AUTHORITY.client_config(), "localhost");
                    client.wire().start_tls_as_client(side).unwrap();
                }
                client.expect("* OK");
                client.login("anna", "secret");
                let text = backend.received_text(connection);
                for field in [
                    "\"x-originating-ip\" \"192.0.2.7\" \"x-originating-port\" \"4711\"",
                    "\"x-connected-ip\" \"198.51.100.1\" \"x-connected-port\" \"143\"",
                ] {
                    assert!(text.contains(field), "{text}");
                }
                client.logout();
            }
        }
    }
    clear.0.wait_for_log("remote_address=192.0.2.7");
    // Header and first command in one packet: nothing is lost between them.
    let mut client = Client::connect(clear.1).unwrap();
    client.send([V1, b"a LOGIN anna secret\r\n"].concat());
    client.expect("* OK");
    client.expect("a OK");
    // Health checks of the balancer itself: the socket's own address.
    for header in [&b"PROXY UNKNOWN\r\n"[..], &[V2, b"\x20\x00\x00\x00"].concat()] {
        let connection = backend.connections();
        let mut client = Client::connect(clear.1).unwrap();
        client.send(header);
        client.expect("* OK");
        client.login("anna", "secret");
        let text = backend.received_text(connection);
        assert!(text.contains("\"x-originating-ip\" \"127.0.0.1\""), "{text}");
    }
}

/// Closed without a byte, and counted.
#[test]
fn b15_a_proxy_header_that_is_missing_wrong_or_late_ends_the_connection() {
    let backend = Backend::ordinary();
    let (proxy, address) =
        behind_balancer(&backend, "127.0.0.0/8", "none, allow_clear_login: true");
    let mut short = v2_header(b"");
    short[15] = 4;
    let wrong: [Vec<u8>; 10] = [
        b"a LOGIN anna secret\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 2001:db8::1 4711 143\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.777 198.51.100.1 4711 143\r\n".to_vec(),
        [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
        short,
        // More TLVs than anybody has: refused by its length alone, before they are read.
        [V2, b"\x21\x11\xff\xff"].concat(),
        v2_header(&b"\x04\x00\x01x".repeat(15_000)),
        // Half a header, then nothing: closed at the deadline.
        V1[..20].to_vec(),
    ];
    for header in &wrong {
        let mut client = Client::connect(address).unwrap();
        // The proxy may have closed before all of it went out.
        let _ = client.wire().write(header);
        client.expect_end();
    }
    proxy.wait_for_metrics("all headers are counted", |now| {
        now.sum("pointsman_client_errors_total", &[]) > 9.5
    });
    assert_eq!(backend.connections(), 0);
}

#[test]
fn b15_a_proxy_header_from_a_network_that_is_not_trusted_is_refused() {
    let backend = Backend::ordinary();
    let (proxy, address) =
        behind_balancer(&backend, "10.0.0.0/8, \"2001:db8::/32\"", "none, allow_clear_login: true");
    for header in [V1.to_vec(), v2_header(b""), b"a LOGIN anna secret\r\n".to_vec()] {
        let mut client = Client::connect(address).unwrap();
        client.send(&header);
        client.expect_end();
    }
    assert_eq!(backend.connections(), 0);
    let errors = [("reason", "proxy_untrusted")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_client_errors_total", &errors) > 2.5
    });
    // Where no header is asked for, one is only a bad command: it is never looked for.
    let mut client = Client::clear(proxy.places().clear);
    client.send(V1);
    client.expect("PROXY BAD");
}

#[test]
fn ipv6_listeners_take_clients_and_the_unspecified_one_takes_both_kinds() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("this machine has no IPv6: nothing to prove");
        return;
    }
    let backend = Backend::ordinary();
    let (own, all) = (support::free_port(), support::free_port());
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let own =
            format!("name: own, address: \"[::1]:{own}\", tls: none, allow_clear_login: true");
        let all = format!(
            "  - {{ name: all, address: \"[::]:{all}\", tls: none, allow_clear_login: true }}\n"
        );
        with_listener(places, &own).replace("tls:\n", &(all + "tls:\n")) + &shard(&backend)
    });
    for (address, seen) in [
        (SocketAddr::from((Ipv6Addr::LOCALHOST, own)), "::1"),
        (SocketAddr::from((Ipv6Addr::LOCALHOST, all)), "::1"),
        (SocketAddr::from(([127, 0, 0, 1], all)), "127.0.0.1"),
    ] {
        let connection = backend.connections();
        let mut client = Client::clear(address);
        client.login("anna", "secret");
        let text = backend.received_text(connection);
        assert!(text.contains(&format!("\"x-originating-ip\" \"{seen}\"")), "{text}");
        client.logout();
    }
    proxy.wait_for_log("remote_address=::1");
}

#[test]
fn silent_probes_are_neither_logged_nor_counted_as_failures() {
    let backend = Backend::ordinary();
    let (proxy, behind) = behind_balancer(&backend, "127.0.0.0/8", "none");
    let places = proxy.places();
    let mut probes = 0.0;
    for address in [places.clear, places.imap, places.imaps, behind] {
        for _ in 0..3 {
            // Away at once, by FIN and by RST.
            drop(TcpStream::connect(address).unwrap());
            Client::connect(address).unwrap();
            let client = TcpStream::connect(address).unwrap();
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            probes += 3.0;
        }
    }
    for address in [places.clear, places.imap] {
        // Away when greeted.
        drop(Client::clear(address));
        let client = Client::clear(address);
        reset(client);
        probes += 2.0;
    }
    // A handshake and no word is a probe too.
    drop(Client::tls(places.imaps, &AUTHORITY.client_config()));
    probes += 1.0;
    proxy.wait_for_metrics("all probes are over", |now| {
        now.sum("pointsman_sessions_closed_total", &[]) > probes - 0.5
    });
    let metrics = proxy.metrics();
    let silent = metrics.sum("pointsman_sessions_closed_total", &[("reason", "silent")]);
    assert!((silent - probes).abs() < 0.5, "{silent} of {probes}: {}", proxy.log());
    assert!(metrics.sum("pointsman_client_errors_total", &[]) < 0.5);
    assert!(metrics.sum("pointsman_logins_total", &[]) < 0.5);
    assert!(!proxy.log().contains("session"), "{}", proxy.log());
    assert_eq!(backend.connections(), 0);
}

fn reset(mut client: Client) {
    let socket = client.wire().socket();
    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Processor time that a process has used, in seconds.
fn cpu_seconds(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn limit_descriptors(id: u32, soft: u64) {
    let pid = Pid::from_raw(i32::try_from(id).unwrap());
    let hard =
        prlimit(pid, Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(20_000) });
    hard.unwrap();
}

/// B-67: no descriptors left in the system's eyes: accepting pauses, and goes on after.
#[test]
fn b67_accept_backs_off_without_descriptors_and_recovers() {
    let backend = Backend::ordinary();
    let mut proxy = start(&backend);
    let mut held = proxy.logged_in("anna", "secret");
    let id = proxy.process().id();
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    limit_descriptors(id, u64::try_from(open).unwrap());
    let mut waiting: Vec<Client> =
        (0..10).map(|_| Client::connect(proxy.places().clear).unwrap()).collect();
    proxy.wait_for_log("accepting pauses");
    let before = cpu_seconds(id);
    held.expect_silence(Duration::from_secs(1));
    let used = cpu_seconds(id) - before;
    assert!(used < 0.2, "{used} s of processor time in 1 s");
    held.command_ok("SELECT INBOX");
    limit_descriptors(id, 20_000);
    for client in &mut waiting {
        client.expect("* OK");
    }
    waiting[9].login("bert", "secret");
    held.command_ok("NOOP");
}

/// B-67: a crowd of silent connections takes at most its share: the one silent longest
/// makes room, and logins go on.
#[test]
fn b67_a_crowd_of_silent_connections_leaves_room_for_logins() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start_limited(&AUTHORITY, 300, |places| {
        format!(
            "{}limits: {{ unauthenticated_per_address: 100000 }}\n{}",
            places.head_without_limits(),
            shard(&backend)
        )
    });
    let mut held = proxy.logged_in("anna", "secret");
    let mut crowd: Vec<Client> = Vec::new();
    for number in 0..80 {
        let mut client = Client::connect(proxy.places().clear).unwrap();
        let line = client.read_line();
        assert!(line.starts_with("* OK"), "{number}: {line}");
        crowd.push(client);
    }
    crowd[0].expect("* BYE [LIMIT]");
    crowd[0].expect_end();
    let mut late = proxy.logged_in("bert", "secret");
    late.command_ok("SELECT INBOX");
    held.command_ok("SELECT INBOX");
    let hits = [("limit", "unauthenticated")];
    proxy.wait_for_metrics("it is counted", |now| {
        now.sum("pointsman_limit_hits_total", &hits) > 10.0
    });
}

/// At the cap of all descriptors new connections wait in the kernel until one is free.
#[test]
fn at_the_cap_accepting_pauses_until_a_session_ends() {
    let backend = Backend::ordinary();
    let mut proxy = Pointsman::start_limited(&AUTHORITY, 300, |places| {
        format!(
            "{}limits: {{ failed_login_delay: 1ms }}\n{}",
            places.head_without_limits(),
            shard(&backend)
        )
    });
    // 44 descriptors: two for each session.
    let mut held: Vec<Client> =
        (0..22).map(|number| proxy.logged_in(&format!("user{number}"), "secret")).collect();
    let mut waiting: Vec<Client> =
        (0..10).map(|_| Client::connect(proxy.places().clear).unwrap()).collect();
    let hits = [("limit", "sessions")];
    proxy.wait_for_metrics("the cap is reached", |now| {
        now.sum("pointsman_limit_hits_total", &hits) > 0.5
    });
    let id = proxy.process().id();
    let before = cpu_seconds(id);
    waiting[9].expect_silence(Duration::from_secs(1));
    let used = cpu_seconds(id) - before;
    assert!(used < 0.2, "{used} s of processor time in 1 s");
    held[21].command_ok("SELECT INBOX");
    for client in held.drain(..10) {
        client.logout();
    }
    for client in &mut waiting {
        client.expect("* OK");
    }
    waiting[9].login("bert", "secret");
}
