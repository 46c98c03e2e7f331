//! `auth_http` beside nginx's own mail module: both ask the same server, and what they ask,
//! what they tell the client and what they give the backend is the same.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::support::backend::Backend;
use super::support::client::Client;
use super::support::nginx::Nginx;
use super::support::ordinary::Ordinary;
use super::support::pointsman::Pointsman;
use super::support::tls::Authority;
use super::support::valve::{Flow, Valve};
use super::support::{Stopwatch, free_port, wait_until};
use super::troubles::Site;
use super::{AUTHORITY, NASTY};

type Logins = Arc<Mutex<Vec<(String, String)>>>;

/// A server that answers by the user's name, and keeps what it was asked.
struct Script {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn start(answer: impl Fn(&str, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&requests);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let request = read_head(&socket);
                    let user = header(&request, "Auth-User").unwrap_or_default().to_owned();
                    let earlier = {
                        let mut kept = kept.lock().unwrap();
                        let of_user =
                            |request: &&String| header(request, "Auth-User") == Some(&user);
                        let earlier = kept.iter().filter(of_user).count();
                        kept.push(request);
                        earlier
                    };
                    // A client that left is no fault of this server.
                    let _ = socket.write_all(&answer(&user, earlier));
                });
            }
        });
        Self { address, requests }
    }

    fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

fn read_head(socket: impl Read) -> String {
    let mut head = String::new();
    let mut reader = BufReader::new(socket);
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
    head
}

fn header<'r>(request: &'r str, name: &str) -> Option<&'r str> {
    request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn http(headers: &str) -> Vec<u8> {
    format!("HTTP/1.0 200 OK\r\n{headers}\r\n\r\n").into_bytes()
}

/// A backend that keeps who signed in with what.
fn backend() -> (Backend, Logins) {
    let logins = Logins::default();
    let kept = Arc::clone(&logins);
    let backend = Ordinary::new().verdict(move |user, password| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        kept.lock().unwrap().push((text(user), text(password)));
        "OK Logged in.".to_owned()
    });
    (backend.start(), logins)
}

fn proxy(script: SocketAddr, backend: &Backend, more: &str, around: &str) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}shards:\n  s: {{ kind: shared, backends: [ {{ name: s1, address: \"{}\", tls: none }} ] }}\n\
             routing:\n  lookups:\n    - {{ auth_http: {{ urls: [ \"http://{script}/auth?a=1\" ], \
             headers: {{ X-Key: s3cret }}{more} }}, {around} }}\n",
            places.head(),
            backend.address(),
        )
    })
}

/// What the client got: the tagged answer's text, or what came in its place.
fn outcome(client: &mut Client, user: &str, password: &str) -> String {
    let literal = |text: &str| format!("{{{}}}", text.len());
    client.send(format!("t LOGIN {}\r\n", literal(user)));
    client.expect("+");
    client.send(format!("{user} {}\r\n", literal(password)));
    client.expect("+");
    client.send(format!("{password}\r\n"));
    loop {
        let line = client.read_line();
        if line.starts_with("t ") || line.is_empty() || line.starts_with("* BAD") {
            return line.trim_end().to_owned();
        }
    }
}

/// User, password, what the server says (with the backend's place for `HERE`), and what the
/// backend must then have been given, if anything.
type Row = (&'static str, &'static str, &'static str, Option<(&'static str, &'static str)>);

const ROWS: [Row; 10] = [
    ("plain", "pw", "Auth-Status: OK\r\nHERE", Some(("plain", "pw"))),
    ("other", "pw", "Auth-Status: OK\r\nHERE\r\nAuth-User: other.old", Some(("other.old", "pw"))),
    (
        "both",
        "pw",
        "auth-status: OK\r\nAUTH-USER: vmail\r\nauth-pass: s:e c\r\nHERE",
        Some(("vmail", "s:e c")),
    ),
    ("o'dd+n", "a+b %20%\"\\", "Auth-Status: OK\r\nHERE", Some(("o'dd+n", "a+b %20%\"\\"))),
    ("more", "pw", "X-Any: thing\r\nAuth-Status: OK\r\nHERE\r\nAuth-Wait: 5", Some(("more", "pw"))),
    ("wrong", "pw", "Auth-Status: Invalid login or password", None),
    ("slow", "pw", "Auth-Status: Wrong, and slowly\r\nAuth-Wait: 1", None),
    ("lower", "pw", "Auth-Status: ok\r\nHERE", None),
    ("nowhere", "pw", "Auth-Status: OK", None),
    ("noport", "pw", "Auth-Status: OK\r\nAuth-Server: 127.0.0.1", None),
];

#[test]
fn answers_mean_what_they_mean_to_nginx() {
    let (backend, logins) = backend();
    let here = format!("Auth-Server: 127.0.0.1\r\nAuth-Port: {}", backend.port());
    let script = Script::start(move |user, _| {
        let row = ROWS.iter().find(|(name, ..)| *name == user);
        http(&row.unwrap().2.replace("HERE", &here))
    });
    let nginx = Nginx::start(script.address, "/auth?a=1");
    let words = ", pass_error_text: true";
    let proxy = proxy(script.address, &backend, words, "timeout: 5s");
    for (user, password, _, expected) in ROWS {
        let theirs = outcome(&mut Client::clear(nginx.address()), user, password);
        let their_requests = script.take_requests();
        let their_logins = std::mem::take(&mut *logins.lock().unwrap());
        let ours = outcome(&mut proxy.client(), user, password);
        let our_requests = script.take_requests();
        let our_logins = std::mem::take(&mut *logins.lock().unwrap());

        assert_eq!(our_requests, their_requests, "{user}");
        assert_eq!(our_logins, their_logins, "{user}");
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(user, password)| (user.to_string(), password.to_string()))
            .collect();
        assert_eq!(our_logins, expected, "{user}");
        assert_eq!(
            ours.starts_with("t OK"),
            theirs.starts_with("t OK"),
            "{user}: {ours} | {theirs}"
        );
        match theirs.strip_prefix("t NO ") {
            // The same words behind a code that clients understand.
            Some(words) => assert_eq!(ours, format!("t NO [AUTHENTICATIONFAILED] {words}")),
            None if !theirs.starts_with("t OK") => {
                // nginx gives up: "* BAD internal server error".
                assert!(ours.starts_with("t NO [UNAVAILABLE]"), "{user}: {ours} | {theirs}");
            }
            None => {}
        }
    }
    let request = {
        outcome(&mut proxy.client(), "o'dd+n", "% %");
        script.take_requests().remove(0)
    };
    assert!(request.starts_with("GET /auth?a=1 HTTP/1.0\r\nHost: 127.0.0.1\r\n"), "{request}");
    assert!(request.contains("Auth-User: o'dd+n\r\nAuth-Pass: %25%20%25\r\n"), "{request}");
}

#[test]
fn each_try_of_a_connection_has_its_number_as_with_nginx() {
    let (backend, _logins) = backend();
    let script = Script::start(|_, _| http("Auth-Status: no\r\nAuth-Wait: 1"));
    let nginx = Nginx::start(script.address, "/auth?a=1");
    let proxy = proxy(script.address, &backend, "", "timeout: 5s");
    for address in [nginx.address(), proxy.places().clear] {
        let mut client = Client::clear(address);
        for _ in 0..3 {
            assert!(outcome(&mut client, "bob", "pw").starts_with("t NO"));
        }
        let requests = script.take_requests();
        let numbers: Vec<_> =
            requests.iter().map(|request| header(request, "Auth-Login-Attempt").unwrap()).collect();
        assert_eq!(numbers, ["1", "2", "3"]);
    }
}

#[test]
fn waits_are_asked_again_and_refusals_are_delayed() {
    let (backend, logins) = backend();
    let here =
        format!("Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {}", backend.port());
    let script = Script::start(move |user, earlier| match user {
        "wait" if earlier < 2 => http("Auth-Status: WAIT\r\nAuth-Wait: 1"),
        "wait" => http(&here),
        "spin" => http("Auth-Status: WAIT"),
        "long" => http("Auth-Status: no\r\nAuth-Wait: 3600"),
        "later" => http("Auth-Status: [UNAVAILABLE] the database is down"),
        _ => http("Auth-Status: temporary\r\nAuth-Error-Code: 454 4.7.0"),
    });
    let proxy = proxy(script.address, &backend, ", wait_max: 1s", "timeout: 8s");
    let watch = Stopwatch::start();
    assert!(outcome(&mut proxy.client(), "wait", "pw").starts_with("t OK"));
    assert!(watch.elapsed() >= Duration::from_secs(2));
    let requests = script.take_requests();
    assert!(requests.len() == 3 && requests.iter().all(|one| *one == requests[0]), "{requests:?}");
    assert_eq!(logins.lock().unwrap().len(), 1);

    let watch = Stopwatch::start();
    let failed = "t NO [AUTHENTICATIONFAILED] Authentication failed.";
    assert_eq!(outcome(&mut proxy.client(), "long", "pw"), failed);
    let waited = watch.elapsed();
    assert!((1..5).contains(&waited.as_secs()), "as long as `wait_max`: {waited:?}");
    for user in ["spin", "later", "code"] {
        let answer = outcome(&mut proxy.client(), user, "pw");
        assert!(answer.starts_with("t NO [UNAVAILABLE]"), "{user}: {answer}");
    }
    for (result, count) in [("found", 1.0), ("refused", 1.0), ("failed", 3.0)] {
        let labels = [("source", "auth_http"), ("result", result)];
        let counted = proxy.metrics().sum("pointsman_lookup_seconds_count", &labels);
        assert!((counted - count).abs() < 0.5, "{labels:?}: {counted}");
    }
}

#[test]
fn answers_that_only_nginx_takes_are_refused_unless_the_operator_wants_them() {
    let (backend, _logins) = backend();
    let here = format!("Auth-Server: 127.0.0.1\r\nAuth-Port: {}", backend.port());
    let answers = HashMap::from([
        ("status", format!("HTTP/1.1 500 Oh\r\nAuth-Status: OK\r\n{here}\r\n\r\n")),
        ("silent", format!("HTTP/1.0 200 OK\r\n{here}\r\n\r\n")),
        ("bare", format!("Auth-Status: OK\r\n{here}\r\n\r\n")),
        ("garbage", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned()),
        ("nothing", String::new()),
        ("huge", format!("HTTP/1.0 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000))),
        (
            "unknown",
            "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 192.0.2.1\r\nAuth-Port: 1\r\n\r\n"
                .to_owned(),
        ),
    ]);
    let script = Script::start(move |user, _| answers[user].clone().into_bytes());
    let strict = proxy(script.address, &backend, "", "timeout: 5s, breaker: { failures: 1000 }");
    let lenient = ", nginx_compat: true";
    let lenient =
        proxy(script.address, &backend, lenient, "timeout: 5s, breaker: { failures: 1000 }");
    for user in ["status", "silent", "bare"] {
        let answer = outcome(&mut strict.client(), user, "pw");
        assert!(answer.starts_with("t NO [UNAVAILABLE]"), "{user}: {answer}");
        let answer = outcome(&mut lenient.client(), user, "pw");
        assert!(answer.starts_with("t OK"), "{user}: {answer}");
    }
    for user in ["garbage", "nothing", "huge", "unknown"] {
        for proxy in [&strict, &lenient] {
            let answer = outcome(&mut proxy.client(), user, "pw");
            assert!(answer.starts_with("t NO [UNAVAILABLE]"), "{user}: {answer}");
        }
    }
}

#[test]
fn names_add_no_header_and_the_next_server_is_asked() {
    let (backend, _logins) = backend();
    let here =
        format!("Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {}", backend.port());
    let script =
        Script::start(move |user, _| http(if user == "bob" { &here } else { "Auth-Status: no" }));
    let dead = free_port();
    let (address, clear) = (script.address, backend.address());
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}shards:\n  s: {{ kind: shared, backends: [ {{ name: s1, address: \"{clear}\", tls: none }} ] }}\n\
             routing:\n  canonical: exact\n  lookups:\n    - {{ auth_http: {{ urls: \
             [ \"http://127.0.0.1:{dead}/\", \"http://{address}/\" ] }}, timeout: 5s }}\n",
            places.head_without_limits() + "limits: { failed_login_delay: 0s, login_tries: 5 }\n",
        )
    });
    assert!(outcome(&mut proxy.client(), "bob", "pw").starts_with("t OK"));
    script.take_requests();
    for name in NASTY.iter().filter(|name| !name.contains(['\0', '\r', '\n'])) {
        let answer = outcome(&mut proxy.client(), name, "pw\twith %0D%0A");
        assert_eq!(answer, "t NO [AUTHENTICATIONFAILED] Authentication failed.", "{name}");
    }
    for request in script.take_requests() {
        assert_eq!(request.matches("Auth-").count(), 5, "{request}");
        assert_eq!(header(&request, "Auth-Pass"), Some("pw%09with%20%250D%250A"));
    }
}

#[test]
fn over_https_the_certificate_must_be_signed_and_carry_the_name() {
    let (backend, _logins) = backend();
    let here =
        format!("Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {}", backend.port());
    let script = Script::start(move |_, _| http(&here));
    let stranger = Authority::new();
    for (identity, good) in [
        (AUTHORITY.issue(&["localhost"]), true),
        (AUTHORITY.issue(&["elsewhere.example"]), false),
        (stranger.issue(&["localhost"]), false),
    ] {
        let nginx = Nginx::https(script.address, &identity);
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            format!(
                "{}shards:\n  s: {{ kind: shared, backends: \
                 [ {{ name: s1, address: \"{}\", tls: none }} ] }}\n\
                 routing:\n  lookups:\n    - {{ auth_http: {{ urls: \
                 [ \"https://localhost:{}/auth\" ], ca: \"{}\" }}, timeout: 5s }}\n",
                places.head(),
                backend.address(),
                nginx.address().port(),
                places.ca.display(),
            )
        });
        let answer = outcome(&mut proxy.client(), "bob", "pw");
        let asked = script.take_requests();
        if good {
            assert!(answer.starts_with("t OK"), "{answer}");
            assert_eq!(header(&asked[0], "Auth-User"), Some("bob"));
        } else {
            assert!(answer.starts_with("t NO [UNAVAILABLE]"), "{answer}");
            assert_eq!(asked, Vec::<String>::new(), "the password stays here");
        }
    }
}

#[test]
fn a_server_that_hangs_or_talks_nonsense_holds_nobody() {
    let here: Arc<OnceLock<String>> = Arc::default();
    let place = Arc::clone(&here);
    let script = Script::start(move |_, _| http(place.get().unwrap()));
    let valve = Valve::before(script.address);
    let site = Site::start(&format!("auth_http: {{ urls: [ \"http://{}/\" ] }}", valve.address()));
    let port = site.south.port();
    here.set(format!("Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {port}")).unwrap();
    assert!(site.try_login("bob").starts_with("OK"));
    for flow in [Flow::Silent, Flow::Garbage, Flow::Cut] {
        valve.turn(flow);
        site.assert_others_are_put_off(&format!("{flow:?}"));
        valve.turn(Flow::Open);
        wait_until(&format!("{flow:?}: the server is asked again"), || {
            site.try_login("bob").starts_with("OK").then_some(())
        });
    }
    assert_eq!(site.north.connections(), 0);
}

/// What the server says of a user may stand in no log that is told no names.
#[test]
fn words_that_repeat_the_credentials_are_withheld_from_the_log() {
    let (backend, _) = backend();
    let script = Script::start(|user, password| {
        http(&format!("Auth-Status: {user} is not {password}, temporarily\r\nAuth-Wait: 1"))
    });
    let proxy = proxy(script.address, &backend, "", "timeout: 5s");
    outcome(&mut proxy.client(), "verysecretname", "verysecretword");
    proxy.wait_for_log("login failed");
    let log = proxy.log();
    assert!(!log.contains("verysecretword"), "{log}");
}
