//! Five thousand sessions whose backend is killed and comes back: it is not felled again,
//! and its users are back nearly as soon as it can take them.
//!
//! The proxy and this process need 10,000 descriptors each; where the machine gives fewer
//! the herd is as large as fits.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "test code: a broken set-up must panic, and real sockets run on the real clock"
)]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use support::pointsman::Pointsman;
use support::tls::Authority;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const HERD: usize = 5_000;
/// Logins that the backend may have in flight, and what one takes: 500 a second at most.
const LOGINS_MAX: usize = 50;
const LOGIN_TIME: Duration = Duration::from_millis(100);
const LOGINS_PER_SECOND: usize = 500;
/// What a client waits before it comes back, half of it to one and a half.
const RETRY_PAUSE: Duration = Duration::from_secs(3);
/// A process's other descriptors.
const OTHERS: u64 = 600;

/// What the backend sees.
#[derive(Default)]
struct Seen {
    in_flight: AtomicUsize,
    most: AtomicUsize,
    /// When each login came to its end.
    logins: Mutex<Vec<Instant>>,
}

impl Seen {
    async fn log_in(&self) {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        sleep(LOGIN_TIME).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.logins.lock().unwrap().push(Instant::now());
    }
}

/// Serves until the task that runs it is aborted, which cuts all its connections.
async fn serve(listener: TcpListener, seen: Arc<Seen>) {
    let mut sessions = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let seen = Arc::clone(&seen);
        sessions.spawn(async move { converse(socket, &seen).await });
        while sessions.try_join_next().is_some() {}
    }
}

async fn converse(socket: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut peer = BufStream::new(socket);
    peer.write_all(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n").await?;
    peer.flush().await?;
    let mut line = String::new();
    while peer.read_line(&mut line).await? > 0 {
        let (tag, command) = line.trim_end().split_once(' ').unwrap_or(("*", ""));
        if command.starts_with("AUTHENTICATE") {
            seen.log_in().await;
        }
        let answer = format!("{tag} OK [CAPABILITY IMAP4rev1] done\r\n");
        peer.write_all(answer.as_bytes()).await?;
        peer.flush().await?;
        line.clear();
    }
    Ok(())
}

/// One client that wants a session at all times: it comes back when it is cut off, and after
/// a pause when it is told to.
async fn graze(proxy: SocketAddr, number: usize, joined: Arc<Mutex<Vec<Instant>>>) {
    loop {
        if let Ok(Some(mut session)) = log_in(proxy, number).await {
            joined.lock().unwrap().push(Instant::now());
            let mut line = String::new();
            // Nothing comes before the end.
            let _ = session.read_line(&mut line).await;
        }
        sleep(RETRY_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
    }
}

/// A session; none where the login was refused.
async fn log_in(proxy: SocketAddr, number: usize) -> std::io::Result<Option<BufStream<TcpStream>>> {
    let mut peer = BufStream::new(TcpStream::connect(proxy).await?);
    let mut line = String::new();
    peer.read_line(&mut line).await?;
    let command = format!("a LOGIN user{number} secret\r\n");
    peer.write_all(command.as_bytes()).await?;
    peer.flush().await?;
    loop {
        line.clear();
        if peer.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if line.starts_with("a ") {
            assert!(!line.contains("AUTHENTICATIONFAILED"), "{line}");
            return Ok(line.starts_with("a OK").then_some(peer));
        }
    }
}

async fn wait_for(what: &str, count: usize, joined: &Mutex<Vec<Instant>>) {
    let enough = async {
        while joined.lock().unwrap().len() < count {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let came = timeout(Duration::from_secs(60), enough).await;
    assert!(came.is_ok(), "{what}: {} of {count}", joined.lock().unwrap().len());
}

/// The most logins that fell into any second.
fn busiest_second(logins: &[Instant]) -> usize {
    let mut first = 0;
    (0..logins.len())
        .map(|last| {
            while logins[last] - logins[first] > Duration::from_secs(1) {
                first += 1;
            }
            last - first + 1
        })
        .max()
        .unwrap_or(0)
}

fn configuration(places: &support::pointsman::Places, backend: SocketAddr) -> String {
    format!(
        "{}limits: {{ exempt: [127.0.0.0/8] }}\n\
         upstream: {{ login_queue: 5000, login_queue_wait: 20s }}\n\
         shards:\n  s:\n    kind: primary\n    check: {{ mode: greeting, interval: 500ms }}\n    \
         backends: [ {{ name: b, address: \"{backend}\", tls: none, logins_max: {LOGINS_MAX} }} ]\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        places.head_without_limits().replace("level: debug", "level: warn")
    )
}

#[test]
fn b61_a_herd_of_five_thousand_comes_back_at_the_pace_that_the_backend_bears() {
    support::flood::raise_descriptor_limit();
    let room = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(OTHERS) / 2;
    let herd = HERD.min(usize::try_from(room).unwrap());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], support::free_port()));
    let proxy = Pointsman::start(&AUTHORITY, |places| configuration(places, address));
    runtime.block_on(run(&proxy, address, herd));
    runtime.shutdown_background();
}

async fn run(proxy: &Pointsman, address: SocketAddr, herd: usize) {
    let joined = Arc::new(Mutex::new(Vec::new()));
    let listen = || async { TcpListener::bind(address).await.unwrap() };
    let backend = tokio::spawn(serve(listen().await, Arc::default()));
    let clear = proxy.places().clear;
    let mut clients = JoinSet::new();
    for number in 0..herd {
        clients.spawn(graze(clear, number, Arc::clone(&joined)));
        sleep(Duration::from_millis(2)).await;
    }
    wait_for("the herd is there", herd, &joined).await;

    backend.abort();
    assert!(backend.await.unwrap_err().is_cancelled());
    joined.lock().unwrap().clear();
    // It is gone for a while, and everybody asks for it.
    sleep(Duration::from_secs(3)).await;
    let seen = Arc::new(Seen::default());
    let back_at = Instant::now();
    let backend = tokio::spawn(serve(listen().await, Arc::clone(&seen)));
    let most = herd * 95 / 100;
    wait_for("95 of 100 are back", most, &joined).await;
    let took = back_at.elapsed();

    let ideal = LOGIN_TIME.mul_f64(share(herd, LOGINS_MAX));
    let in_flight = seen.most.load(Ordering::SeqCst);
    let busiest = busiest_second(&seen.logins.lock().unwrap());
    println!(
        "{herd} sessions: {most} back after {took:?}, ideal {ideal:?}; {in_flight} in flight, {busiest} in the busiest second"
    );
    assert!(in_flight <= LOGINS_MAX, "{in_flight} logins in flight");
    // A login that ends late falls into the same second as the next one in its place.
    assert!(busiest <= LOGINS_PER_SECOND + 2 * LOGINS_MAX, "{busiest} logins in one second");
    assert!(took < ideal * 2, "{took:?} where {ideal:?} is ideal");
    backend.abort();
    clients.shutdown().await;
}

fn share(whole: usize, part: usize) -> f64 {
    f64::from(u32::try_from(whole).unwrap()) / f64::from(u32::try_from(part).unwrap())
}
