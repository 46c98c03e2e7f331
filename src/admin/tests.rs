//! The admin listener, asked over real sockets.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::server::{CONNECTIONS_MAX, HEAD_TIME_MAX};
use super::*;

struct Running {
    address: SocketAddr,
    state: AdminState,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

fn start() -> Running {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let state = AdminState {
        metrics: Metrics::register().unwrap(),
        readiness: Arc::new(Readiness::starting()),
        host_names: Arc::new(["imap1.example.org".to_owned()]),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let served = tokio::spawn(serve(listener, state.clone(), shutdown));
    Running { address, state, stop, served }
}

/// Sends these bytes and returns all that comes until the server closes.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn status(address: SocketAddr, request: &str) -> u16 {
    let answer = ask(address, request).await;
    let code = answer.strip_prefix("HTTP/1.1 ").or_else(|| answer.strip_prefix("HTTP/1.0 "));
    code.and_then(|rest| rest.get(..3)).unwrap_or(&answer).parse().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_are_shown_as_text() {
    let running = start();
    running.state.metrics.sessions.client_error("no_shared_cipher");
    let answer = get(running.address, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"));
    let line = r#"pointsman_client_errors_total{reason="no_shared_cipher"} 1"#;
    assert!(body.lines().any(|l| l == line), "{body}");
}

#[tokio::test]
async fn readiness_follows_the_life_of_the_process_and_health_does_not() {
    let running = start();
    let readyz = || get(running.address, "/readyz");
    let answer = readyz().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("starting\n"), "{answer}");
    running.state.readiness.set_ready();
    assert!(readyz().await.starts_with("HTTP/1.1 200 "));
    running.state.readiness.set_draining();
    running.state.readiness.set_ready();
    let answer = readyz().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("draining\n"), "{answer}");
    assert!(get(running.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn other_paths_are_not_found_and_other_methods_not_allowed() {
    let running = start();
    let address = running.address;
    for path in ["/", "/metrics/", "/api/v1/sessions", "/%2e%2e/etc/passwd"] {
        assert!(get(address, path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request =
            format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(status(address, &request).await, 405, "{method}");
    }
}

#[tokio::test]
async fn a_host_header_of_somebody_else_is_refused() {
    let running = start();
    let address = running.address;
    let cases = [
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        ("GET /metrics HTTP/1.1\r\nHost: localhost.evil.example:9143\r\n\r\n", 403),
        ("GET /nowhere HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        ("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET /metrics HTTP/1.1\r\nHost: localhost:9143\r\n\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nHost: [::1]:9143\r\n\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nHost: Imap1.example.org:9143\r\n\r\n", 200),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
    ];
    for (request, expected) in cases {
        assert_eq!(status(address, request).await, expected, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_finishes_its_head_is_cut_off() {
    let running = start();
    let address = running.address;
    let began = Instant::now();
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: local").await;
    assert!(!answer.contains(" 200 "), "{answer}");
    assert!(began.elapsed() >= HEAD_TIME_MAX);
    assert!(began.elapsed() < HEAD_TIME_MAX * 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_bound_are_answered_at_once_and_the_next_waits_its_turn() {
    let running = start();
    let address = running.address;
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 1..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(get(address, "/healthz").await.contains(" 200 "));
    assert!(began.elapsed() < HEAD_TIME_MAX, "one place was free");
    silent.push(TcpStream::connect(address).await.unwrap());
    assert!(get(address, "/healthz").await.contains(" 200 "));
    assert!(began.elapsed() >= HEAD_TIME_MAX, "every place was taken until the first was cut off");
}

#[tokio::test]
async fn serving_ends_when_told_to_and_the_port_is_free_again() {
    let running = start();
    assert!(get(running.address, "/healthz").await.contains(" 200 "));
    running.stop.send(()).unwrap();
    running.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}
