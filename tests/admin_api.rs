//! The admin API itself: who may use it, what it takes, and that nothing of it is open to
//! networks.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use support::backend::Backend;
use support::http;
use support::ordinary::Ordinary;
use support::pointsman::{BINARY, Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Every call that changes something, with a body that would do.
const CHANGES: [(&str, &str); 6] = [
    ("backends/b/state", r#"{"state":"drain","force":true}"#),
    ("kick", r#"{"all":true,"force":true}"#),
    ("pin", r#"{"user":"anna","shard":"s"}"#),
    ("unpin", r#"{"user":"anna"}"#),
    ("block", r#"{"user":"anna"}"#),
    ("reload", "{}"),
];

fn configuration(places: &Places, backend: &Backend) -> String {
    let port = backend.port();
    format!(
        "{}shards:\n  s: {{ kind: shared, backends: [ {{ name: b, address: \"127.0.0.1:{port}\", \
         tls: none }} ] }}\nrouting: {{ lookups: [ {{ shard: s }} ] }}\n",
        places.head()
    )
}

fn start(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| configuration(places, backend))
}

fn status_of(proxy: &Pointsman, key: &str) -> Value {
    proxy.operate_json(&["status"])[key].clone()
}

/// Nothing was changed since the start.
fn assert_unchanged(proxy: &Pointsman) {
    let status = proxy.operate_json(&["status"]);
    assert_eq!((&status["pins"], &status["blocked"]), (&0.into(), &0.into()), "{status}");
    assert_eq!(status["generation"], 1, "{status}");
    assert_eq!(status["store_revision"], 0, "{status}");
}

/// B-91: the network address has no calls, a GET changes nothing, and no web page can send
/// what does.
#[test]
fn b91_only_a_post_of_json_over_the_socket_changes_anything() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let mut session = proxy.logged_in("anna", "secret");
    for (call, body) in CHANGES {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let path = format!("/api/v1/{call}");
            let status = http::send(proxy.places().admin, method, &path, body).unwrap().status;
            assert_eq!(status, 404, "{method} {call} over the network");
        }
        let length = body.len();
        for method in ["GET", "PUT", "DELETE", "HEAD"] {
            let answer = proxy.admin_request(format!(
                "{method} /api/v1/{call} HTTP/1.1\r\nHost: localhost\r\nContent-Type: \
                 application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            assert_eq!(answer.status, 405, "{method} {call}");
        }
        // What a form of a web page can send.
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let answer = proxy.admin_request(format!(
                "POST /api/v1/{call} HTTP/1.1\r\nHost: localhost\r\nContent-Type: \
                 {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            assert_eq!(answer.status, 415, "{kind} to {call}");
        }
    }
    assert_unchanged(&proxy);
    session.command_ok("NOOP");
    for (call, body) in CHANGES {
        let answer = proxy.admin_post(call, body);
        assert_eq!(answer.status, 200, "{call}: {}", answer.body);
    }
}

/// B-91: the file keeps others out, and so does the proxy where the file does not.
#[test]
fn b91_the_socket_serves_only_root_and_the_proxys_own_user() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let socket = proxy.socket();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Somebody opened it to all.
    std::fs::set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let program = proxy.places().file("pointsman");
    std::fs::copy(BINARY, &program).unwrap();
    for command in [&["status"][..], &["block", "anna"]] {
        let output = Command::new(&program)
            .args(command)
            .arg("--socket")
            .arg(&socket)
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("only root and the user that the proxy runs as"), "{said}");
        assert!(output.stdout.is_empty());
    }
    proxy.wait_for_log("an admin call was refused uid=65534");
    assert_unchanged(&proxy);
}

/// B-93: no user is named, and none can be told from a stranger, over the network.
#[test]
fn b93_nobody_learns_over_the_network_which_users_there_are() {
    let backend = Ordinary::new()
        .verdict(|user, _| if user == b"zora" { "OK in" } else { "NO no" }.to_owned())
        .start();
    let proxy = start(&backend);
    let _session = proxy.logged_in("zora", "secret");
    proxy.operate_ok(&["pin", "zora", "s"]);
    proxy.operate_ok(&["block", "vera"]);
    let admin = proxy.places().admin;
    let paths = [
        "/metrics",
        "/healthz",
        "/readyz",
        "/",
        "/api/v1/status",
        "/api/v1/sessions?user=zora",
        "/api/v1/route?user=zora",
        "/api/v1/pins",
        "/api/v1/blocked",
    ];
    for path in paths {
        let answer = http::fetch(admin, path).unwrap();
        assert!(!answer.body.contains("zora") && !answer.body.contains("vera"), "{path}");
        let known = ["/metrics", "/healthz", "/readyz"].contains(&path);
        assert_eq!(answer.status, if known { 200 } else { 404 }, "{path}");
    }
    let mut client = proxy.client();
    let told = ["vera", "stranger"].map(|user| client.try_login(user, "wrong").status);
    assert_eq!(told[0], told[1]);
}

#[test]
fn what_cannot_be_read_is_refused_in_json_with_a_reason() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let cases = [
        ("block", "", 400, "bad_request"),
        ("block", "[]", 400, "bad_request"),
        ("block", "{}", 400, "bad_request"),
        ("block", r#"{"user":7}"#, 400, "bad_request"),
        ("block", r#"{"user":"a","extra":1}"#, 400, "bad_request"),
        ("block", r#"{"user":""}"#, 400, "bad_name"),
        ("block", r#"{"user":"a b*c"}"#, 400, "bad_name"),
        ("block", r#"{"user":"a\u0000b"}"#, 400, "bad_name"),
        ("kick", "{}", 400, "bad_request"),
        ("kick", r#"{"user":"a","all":true}"#, 400, "bad_request"),
        ("kick", r#"{"backend":"b","block":true}"#, 400, "bad_request"),
        ("kick", r#"{"backend":"x"}"#, 404, "unknown_backend"),
        ("pin", r#"{"user":"a","shard":"x"}"#, 404, "unknown_shard"),
        ("backends/b/state", r#"{"state":"off"}"#, 400, "bad_request"),
        ("backends/b/state", r#"{"state":"up","fenced":true}"#, 400, "bad_request"),
        ("backends/b/state", r#"{"state":"up","end_within_seconds":1}"#, 400, "bad_request"),
        ("backends/b/state", r#"{"state":"down"}"#, 409, "needs_force"),
        ("backends/x/state", r#"{"state":"up"}"#, 404, "unknown_backend"),
        ("backends/..%2f..%2fx/state", r#"{"state":"up"}"#, 404, "unknown_backend"),
        ("nothing", "{}", 404, "not_found"),
    ];
    for (call, body, status, reason) in cases {
        let answer = proxy.admin_post(call, body);
        assert_eq!(answer.status, status, "{call} {body}: {}", answer.body);
        let refusal: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(refusal["reason"], reason, "{call} {body}: {refusal}");
        assert!(refusal["message"].as_str().unwrap().len() > 10, "{refusal}");
    }
    for query in ["from=x", "from=1", "max=many", "user=a&backend=b", "nonsense=1", "user=%00"] {
        let path = format!("GET /api/v1/sessions?{query} HTTP/1.1\r\nHost: l\r\n\r\n");
        assert_eq!(proxy.admin_request(path).status, 400, "{query}");
    }
    let large = format!(r#"{{"user":"{}"}}"#, "a".repeat(20_000));
    assert_eq!(proxy.admin_post("block", &large).status, 413);
    assert_unchanged(&proxy);
}

#[test]
fn each_change_leaves_one_line_that_says_who_what_and_the_result() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    proxy.operate_ok(&["status"]);
    proxy.operate_ok(&["block", "Anna"]);
    proxy.operate(&["drain", "b"]);
    proxy.operate(&["pin", "carl", "nowhere"]);
    proxy.operate_ok(&["reload"]);
    proxy.operate_ok(&["kick", "bert"]);
    proxy.wait_for_log("call=kick");
    let log = proxy.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("admin call")).collect();
    let expected = [
        ["call=block", "result=done", "user=anna"],
        ["call=drain", "result=needs_force", "backend=b"],
        ["call=pin", "result=unknown_shard", "user=carl"],
        ["call=reload", "result=done", ""],
        ["call=kick", "result=done", "user=bert"],
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, words) in lines.iter().zip(expected) {
        assert!(line.contains("pointsman::audit") && line.contains("uid=0"), "{line}");
        assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}");
    }
}

#[test]
fn a_change_is_carried_out_though_its_caller_went_away() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    // Many, because it takes some luck that the end is seen before the call is under way.
    for turn in 1..=50 {
        let body = format!(r#"{{"user":"anna{turn}"}}"#);
        let request = format!(
            "POST /api/v1/block HTTP/1.1\r\nHost: l\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = std::os::unix::net::UnixStream::connect(proxy.socket()).unwrap();
        std::io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
        drop(socket);
        proxy.wait_for_log(&format!("call=block result=done user=anna{turn}"));
    }
    assert_eq!(status_of(&proxy, "blocked"), 50);
}

#[test]
fn an_audited_name_is_hidden_where_the_log_hides_names() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        configuration(places, &backend).replace("log: { level: debug }", "log: { user: none }")
    });
    proxy.operate_ok(&["block", "zora"]);
    proxy.wait_for_log("admin call");
    assert!(!proxy.log().contains("zora"), "{}", proxy.log());
    assert_eq!(status_of(&proxy, "blocked"), 1);
}

#[test]
fn a_proxy_without_a_socket_says_so_to_its_operator() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        configuration(places, &backend).replace("admin: {", "admin: { socket: none,")
    });
    assert!(!proxy.socket().exists());
    let file = proxy.configuration_file().display().to_string();
    let (code, said) = support::pointsman::run_binary(&["status", "--config", &file]);
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("`admin.socket` is `none`"), "{said}");
    // A restart alone can change it.
    proxy.rewrite(|places| configuration(places, &backend));
    proxy.reload();
    proxy.wait_for_log("`admin.socket` changed");
}
