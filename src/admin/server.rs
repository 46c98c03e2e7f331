//! Accepting HTTP connections, each with a bound on time and all with a bound on number.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::router::router;
use super::socket::AdminSocket;
use super::{AdminState, api};
use crate::control::{Caller, Control};

/// Connections at the same time; further ones wait in the kernel's queue.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// From accept to the end of the request's head.
pub(super) const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// From accept to the last byte of the answer: no scraper may hold a place for longer.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// The same on the socket, where a reload may read files of millions of users.
const CALL_TIME_MAX: Duration = Duration::from_secs(600);
/// Bytes of a request's head, and of the read buffer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pause after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers HTTP/1 on `listener` until `shutdown` is ready, then ends once the connections
/// at hand are answered. One request a connection: scrapes are seconds apart, and no idle
/// connection can hold a place. Must run in a tokio runtime that drives IO and time, and
/// not in one that relays.
///
/// # Errors
/// When the listener cannot be used by the runtime; failing accepts are only logged.
pub async fn serve(
    listener: TcpListener,
    state: AdminState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let door =
        TcpDoor { listener: tokio::net::TcpListener::from_std(listener)?, router: router(state) };
    serve_at(&door, shutdown).await;
    Ok(())
}

/// Answers the admin API on a Unix socket, as [`serve`] does. Callers other than root and the
/// process's own user are refused, whatever the file's mode. The socket's file is removed at
/// the end.
///
/// # Errors
/// When the socket cannot be used by the runtime.
pub async fn serve_api(
    socket: AdminSocket,
    control: Arc<Control>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let AdminSocket { listener, file: _file } = socket;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let own_uid = rustix::process::geteuid().as_raw();
    serve_at(&UnixDoor { listener, control, own_uid }, shutdown).await;
    Ok(())
}

/// Where connections come in, and who answers on each.
trait Door {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// From accept to the last byte of the answer.
    const TIME_MAX: Duration;

    /// The next connection. Nothing is lost when this is dropped.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, axum::Router)>>;
}

struct TcpDoor {
    listener: tokio::net::TcpListener,
    router: axum::Router,
}

impl Door for TcpDoor {
    type Stream = TcpStream;
    const TIME_MAX: Duration = CONNECTION_TIME_MAX;

    async fn next(&self) -> io::Result<(TcpStream, axum::Router)> {
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, self.router.clone()))
    }
}

struct UnixDoor {
    listener: tokio::net::UnixListener,
    control: Arc<Control>,
    own_uid: u32,
}

impl Door for UnixDoor {
    type Stream = UnixStream;
    const TIME_MAX: Duration = CALL_TIME_MAX;

    async fn next(&self) -> io::Result<(UnixStream, axum::Router)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = stream.peer_cred()?;
        let caller = Caller { uid: peer.uid(), pid: peer.pid() };
        if caller.uid != 0 && caller.uid != self.own_uid {
            let Caller { uid, pid } = caller;
            tracing::warn!(target: "pointsman::audit", uid, pid, "an admin call was refused");
            return Ok((stream, api::closed()));
        }
        let api = api::Api { control: Arc::clone(&self.control), caller };
        Ok((stream, api::router(api)))
    }
}

async fn serve_at<D: Door>(door: &D, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, service, place) = tokio::select! {
            accepted = accept(door, &places) => accepted,
            () = &mut shutdown => break,
        };
        connections.spawn(async move {
            answer(stream, service, D::TIME_MAX).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

/// The next connection and its place. The place is taken first, so nothing is lost when
/// this is dropped.
async fn accept<D: Door>(
    door: &D,
    places: &Arc<Semaphore>,
) -> (D::Stream, axum::Router, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so a place always comes.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match door.next().await {
            Ok((stream, service)) => return (stream, service, place),
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: axum::Router,
    time_max: Duration,
) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        // A caller that has sent its whole call and hangs up, or ends its side only, has made
        // it: otherwise whether it is carried out would depend on when its end is seen.
        .half_close(true)
        .keep_alive(false);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    match timeout(time_max, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended early"),
        Err(_) => tracing::debug!("an admin connection took too long"),
    }
}
