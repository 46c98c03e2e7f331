//! A TLS stream that borrows its buffers: rustls' unbuffered connection over a socket.
//!
//! rustls keeps keys, sequence numbers and the protocol's state; bytes are held here, in
//! buffers of [`crate::net::pool`], and only while there are any.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, Error as RustlsError, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub use connection::Connection;
use incoming::Incoming;
use outgoing::Outgoing;

mod connection;
mod incoming;
mod outgoing;
#[cfg(test)]
mod tests;

/// Most plaintext that one write takes, in bytes: two full records, half a relay
/// buffer, so that a full one goes out in two steps.
pub const WRITE_BYTES_MAX: usize = 32_768;

/// Room that must be free before the library is asked: the largest record with its
/// header and tag (RFC 8446 §5.2, RFC 5246 §6.2.3), which it may hand out once only.
const RECORD_ROOM: usize = 16_384 + 2_048;

/// A TLS connection with the proxy as server.
pub type ServerSession = Session<UnbufferedServerConnection>;

/// A TLS connection with the proxy as client.
pub type ClientSession = Session<UnbufferedClientConnection>;

/// A socket under TLS.
///
/// It holds at most one buffer of received bytes and one of encrypted bytes that the
/// socket did not take; a sleeping session holds neither, but for the bytes of a record
/// that the peer began and did not end (18 KiB at most). All state is here, so that a
/// poll may be dropped at any point. Answers that TLS itself asks for while reading are
/// sent when the socket takes them at once, else with the next write or flush.
///
/// A connection that ends without `close_notify` reads as `UnexpectedEof`; a broken
/// protocol as `InvalidData` with a [`rustls::Error`] inside, again and again, and in
/// writes as well.
pub struct Session<C> {
    tcp: TcpStream,
    connection: C,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Why the connection is broken; told after the plaintext before it is delivered.
    failure: Option<Box<RustlsError>>,
    /// The peer said `close_notify`.
    peer_closed: bool,
    /// We said it.
    close_sent: bool,
    /// The server name that a client asked for.
    sni: Option<Box<str>>,
}

/// Why [`Session::pump`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pumped {
    /// All complete records are worked through.
    Dry,
    /// The queue of encrypted bytes must be sent first.
    Full,
}

/// What one step of the library came to.
#[derive(Debug)]
enum Step {
    Again,
    Plain,
    Dry,
    PeerClosed,
    Failed(RustlsError),
}

impl Step {
    /// Sorts the library's state; a record that it hands out is queued.
    fn of<D>(status: UnbufferedStatus<'_, '_, D>, outgoing: &mut Outgoing) -> Self {
        match status.state {
            Ok(ConnectionState::EncodeTlsData(mut record)) => {
                match record.encode(outgoing.space()) {
                    Ok(count) => {
                        outgoing.wrote(count);
                        Self::Again
                    }
                    Err(error) => Self::Failed(RustlsError::General(error.to_string())),
                }
            }
            // Queued in its place is as good as sent: the queue keeps the order.
            Ok(ConnectionState::TransmitTlsData(transmit)) => {
                transmit.done();
                Self::Again
            }
            Ok(ConnectionState::ReadTraffic(_)) => Self::Plain,
            Ok(ConnectionState::PeerClosed) => Self::PeerClosed,
            Ok(
                ConnectionState::WriteTraffic(_)
                | ConnectionState::BlockedHandshake
                | ConnectionState::Closed,
            ) => Self::Dry,
            Ok(_) => Self::Failed(RustlsError::General("early data was not offered".into())),
            Err(error) => Self::Failed(error),
        }
    }
}

impl<C: Connection> Session<C> {
    /// A connection that has not begun its handshake.
    pub(super) fn new(tcp: TcpStream, connection: C) -> Self {
        Self {
            tcp,
            connection,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            failure: None,
            peer_closed: false,
            close_sent: false,
            sni: None,
        }
    }

    /// Does the handshake. On an error the alert, if one is due, was offered to the
    /// socket.
    pub(super) async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    /// Remembers the server name that the client asked for.
    pub(super) fn remember_sni(&mut self, sni: Option<Box<str>>) {
        self.sni = sni;
    }

    /// What the handshake agreed on.
    pub fn state(&self) -> &CommonState {
        self.connection.state()
    }

    /// The server name that the client asked for, lower case.
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// The socket below, for what comes after TLS.
    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// The same connection over what `change` makes of its socket.
    ///
    /// # Errors
    /// Those of `change`; the connection is gone then.
    pub fn with_tcp(
        self,
        change: impl FnOnce(TcpStream) -> io::Result<TcpStream>,
    ) -> io::Result<Self> {
        Ok(Self { tcp: change(self.tcp)?, ..self })
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let pumped = self.pump(None);
            if self.failure.is_some() {
                self.outgoing.try_drain(&self.tcp);
            }
            let pumped = pumped?;
            ready!(self.outgoing.poll_drain(cx, &mut self.tcp))?;
            match pumped {
                Pumped::Full => {}
                Pumped::Dry if !self.connection.state().is_handshaking() => {
                    self.incoming.rest();
                    return Poll::Ready(Ok(()));
                }
                Pumped::Dry => {
                    if ready!(self.poll_fill(cx))? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    /// Reads from the socket; before it sleeps the buffer goes back.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.incoming.poll_fill(cx, &mut self.tcp) {
            Poll::Pending => {
                self.incoming.park();
                Poll::Pending
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::OutOfMemory => {
                let error = RustlsError::from(InvalidMessage::HandshakePayloadTooLarge);
                Poll::Ready(Err(self.fail(error)))
            }
            filled @ Poll::Ready(_) => filled,
        }
    }

    /// Works through all complete records: plaintext goes to the reader and what it has
    /// no room for is kept; answers are queued.
    fn pump(&mut self, mut into: Option<&mut ReadBuf<'_>>) -> io::Result<Pumped> {
        if let Some(failure) = &self.failure {
            return Err(broken(failure));
        }
        loop {
            if self.outgoing.room() < RECORD_ROOM {
                return Ok(Pumped::Full);
            }
            match self.step() {
                Step::Again => {}
                Step::Plain => self.take_plain(into.as_deref_mut())?,
                Step::Dry => return Ok(Pumped::Dry),
                Step::PeerClosed => {
                    self.peer_closed = true;
                    self.incoming.discard_all();
                }
                Step::Failed(error) => {
                    self.queue_alerts();
                    return Err(self.fail(error));
                }
            }
        }
    }

    fn step(&mut self) -> Step {
        let status = self.connection.process(self.incoming.records_mut());
        let discard = status.discard;
        let step = Step::of(status, &mut self.outgoing);
        self.incoming.discard(discard);
        step
    }

    /// Takes the plaintext of the record that was just decrypted. The library hands it
    /// out before it looks at any record, so it is shown none, and the buffer is free to
    /// take what the reader has no room for.
    fn take_plain(&mut self, mut into: Option<&mut ReadBuf<'_>>) -> io::Result<()> {
        let status = self.connection.process(&mut []);
        let Ok(ConnectionState::ReadTraffic(mut traffic)) = status.state else {
            return Ok(());
        };
        while let Some(record) = traffic.next_record() {
            let mut plain = record.map_err(|error| broken(&error))?.payload;
            if let Some(into) = into.as_deref_mut()
                && !self.incoming.has_plain()
            {
                let (now, later) = plain.split_at(plain.len().min(into.remaining()));
                into.put_slice(now);
                plain = later;
            }
            if !plain.is_empty() && self.incoming.keep(plain).is_none() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    /// Queues what the library has to say about an error it just reported. It hands that
    /// out before it looks at any record; it must not look at the bad one twice.
    fn queue_alerts(&mut self) {
        while self.connection.state().wants_write() && self.outgoing.room() >= RECORD_ROOM {
            if !matches!(self.step(), Step::Again) {
                return;
            }
        }
    }

    fn fail(&mut self, error: RustlsError) -> io::Error {
        self.incoming.discard_all();
        let told = broken(&error);
        self.failure = Some(Box::new(error));
        told
    }

    /// Lets `say` encrypt into the queue, which must be empty but for a few answers.
    fn encrypt(
        &mut self,
        say: impl FnOnce(&mut WriteTraffic<'_, C::Data>, &mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.pump(None)?;
        let status = self.connection.process(self.incoming.records_mut());
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let count = say(&mut traffic, self.outgoing.space())?;
        self.outgoing.wrote(count);
        Ok(())
    }

    /// Reads once and decrypts, without a look at what was kept before.
    fn poll_decrypt(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        loop {
            // First what is there: records wait when the queue of answers was full.
            let pumped = self.pump(Some(into));
            self.outgoing.try_drain(&self.tcp);
            if into.filled().len() > before {
                // An error behind these bytes is told by the next read.
                return Poll::Ready(Ok(()));
            }
            let pumped = pumped?;
            if self.peer_closed {
                return Poll::Ready(Ok(()));
            }
            match pumped {
                Pumped::Full => ready!(self.outgoing.poll_drain(cx, &mut self.tcp))?,
                Pumped::Dry => {
                    if ready!(self.poll_fill(cx))? == 0 {
                        return Poll::Ready(Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the peer closed without a TLS close_notify",
                        )));
                    }
                }
            }
        }
    }
}

impl<C: Connection> AsyncRead for Session<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let session = self.get_mut();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if session.incoming.has_plain() {
            session.incoming.deliver(into);
            session.incoming.rest();
            return Poll::Ready(Ok(()));
        }
        let polled = session.poll_decrypt(cx, into);
        session.incoming.rest();
        polled
    }
}

impl<C: Connection> AsyncWrite for Session<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let session = self.get_mut();
        ready!(session.outgoing.poll_drain(cx, &mut session.tcp))?;
        if session.close_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = bytes.get(..bytes.len().min(WRITE_BYTES_MAX)).unwrap_or_default();
        if taken.is_empty() {
            return Poll::Ready(Ok(0));
        }
        session
            .encrypt(|traffic, space| traffic.encrypt(taken, space).map_err(io::Error::other))?;
        match session.outgoing.poll_drain(cx, &mut session.tcp) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = self.get_mut();
        session.outgoing.poll_drain(cx, &mut session.tcp)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = self.get_mut();
        ready!(session.outgoing.poll_drain(cx, &mut session.tcp))?;
        if !session.close_sent {
            session.close_sent = true;
            // A broken connection has said its alert and has no more to say.
            let _ = session.encrypt(|traffic, space| {
                traffic.queue_close_notify(space).map_err(io::Error::other)
            });
            ready!(session.outgoing.poll_drain(cx, &mut session.tcp))?;
        }
        match ready!(Pin::new(&mut session.tcp).poll_shutdown(cx)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}

/// rustls' error as the stream reports it.
fn broken(error: &RustlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.clone())
}
