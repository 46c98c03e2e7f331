//! A scripted IMAP server that answers from memory, and nginx's `auth_http` beside it.
//!
//! It runs on a thread of its own in the load generator's process, so that the moment at
//! which it wakes a session and the moment at which the client hears of it are on one clock.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::error::{BenchError, Context, Result};
use crate::imap_server::Session;
use crate::wire::Identity;

/// Wait after a failed accept, which is always a shortage of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Longest request that the `auth_http` responder reads.
const REQUEST_BYTES_MAX: usize = 4096;

/// The running backend.
pub(crate) struct Backend {
    /// Its clear-text port, where the proxies connect.
    pub(crate) clear: SocketAddr,
    /// Its TLS port, for measuring without a proxy.
    pub(crate) tls: SocketAddr,
    /// Its `auth_http` responder.
    pub(crate) auth: SocketAddr,
    /// The sessions that can be woken.
    pub(crate) idlers: Arc<Idlers>,
}

/// Sessions in IDLE by user name, and when the last of them was woken.
#[derive(Default)]
pub(crate) struct Idlers {
    sessions: Mutex<HashMap<String, mpsc::UnboundedSender<()>>>,
    woken_at: Mutex<Option<Instant>>,
}

impl Idlers {
    /// Makes the backend send `user` an untagged EXISTS.
    pub(crate) fn wake(&self, user: &str) -> Result<()> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions
            .get(user)
            .and_then(|session| session.send(()).ok())
            .ok_or_else(|| BenchError::Protocol(format!("{user} is not in IDLE at the backend")))
    }

    /// When the backend wrote the last EXISTS.
    pub(crate) fn woken_at(&self) -> Option<Instant> {
        *self.woken_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an EXISTS is being written now.
    pub(crate) fn stamp(&self) {
        *self.woken_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Enters a session; the receiver hears of every wake.
    pub(crate) fn enter(&self, user: &str) -> mpsc::UnboundedReceiver<()> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(user.to_owned(), sender);
        receiver
    }
}

impl Backend {
    /// Binds free loopback ports and serves them on a new thread until the process ends.
    pub(crate) fn start(identity: &Identity) -> Result<Self> {
        let (clear, clear_at) = bind()?;
        let (tls, tls_at) = bind()?;
        let (auth, auth_at) = bind()?;
        let acceptor = identity.acceptor()?;
        let idlers = Arc::new(Idlers::default());
        let shared = Arc::clone(&idlers);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("make the backend's runtime")?;
        let serve = move || {
            runtime.block_on(async move {
                let served = tokio::try_join!(
                    serve_imap(clear, None, &shared),
                    serve_imap(tls, Some(acceptor), &shared),
                    serve_auth(auth, clear_at),
                );
                if let Err(error) = served {
                    eprintln!("bench: the backend stopped: {error}");
                }
            });
        };
        std::thread::Builder::new()
            .name("backend".to_owned())
            .spawn(serve)
            .context("start the backend's thread")?;
        Ok(Self { clear: clear_at, tls: tls_at, auth: auth_at, idlers })
    }
}

fn bind() -> Result<(std::net::TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind")?;
    listener.set_nonblocking(true).context("set non-blocking")?;
    let address = listener.local_addr().context("read the bound address")?;
    Ok((listener, address))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                eprintln!("bench: the backend cannot accept: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn serve_imap(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    idlers: &Arc<Idlers>,
) -> Result<()> {
    let listener = TcpListener::from_std(listener).context("listen")?;
    loop {
        let stream = accept(&listener).await;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let idlers = Arc::clone(idlers);
        let tls = tls.clone();
        tokio::spawn(async move {
            // A peer that goes away ends its own session only.
            match tls {
                None => Session::new(Box::new(stream), idlers).run().await.ok(),
                Some(tls) => match tls.accept(stream).await {
                    Ok(secured) => Session::new(Box::new(secured), idlers).run().await.ok(),
                    Err(_) => None,
                },
            }
        });
    }
}

/// Sends every user to the one backend, as nginx's mail module asks over HTTP/1.0.
async fn serve_auth(listener: std::net::TcpListener, backend: SocketAddr) -> Result<()> {
    let listener = TcpListener::from_std(listener).context("listen")?;
    let answer = format!(
        "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\n\r\n",
        backend.ip(),
        backend.port()
    );
    let answer: Arc<str> = answer.into();
    loop {
        let stream = accept(&listener).await;
        let answer = Arc::clone(&answer);
        tokio::spawn(async move { answer_auth(stream, &answer).await.ok() });
    }
}

async fn answer_auth(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(REQUEST_BYTES_MAX);
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
