//! One leg of a session: a TCP stream, in clear or under TLS.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustls::{CipherSuite, CommonState, ProtocolVersion};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::net::sockets;
use crate::net::tls::session::{ClientSession, ServerSession};

/// A connection to a client or a backend.
///
/// An idle TLS leg keeps its box: the connection's state and the expanded keys of both
/// directions. Buffers are borrowed while data is under way, see
/// [`crate::net::tls::session::Session`]. The TLS variants are boxed so that a clear leg
/// costs a socket and no more.
pub enum Stream {
    /// No encryption.
    Plain(TcpStream),
    /// TLS with the proxy as server: a client's leg.
    ServerTls(Box<ServerSession>),
    /// TLS with the proxy as client: a backend's leg.
    ClientTls(Box<ClientSession>),
}

impl Stream {
    /// The other end, an IPv4 client of a dual-stack listener as IPv4.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr().map(crate::net::cidr::normalise_socket)
    }

    /// This end, in the same form.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr().map(crate::net::cidr::normalise_socket)
    }

    /// Whether this leg is encrypted.
    pub fn is_tls(&self) -> bool {
        self.state().is_some()
    }

    /// `TLSv1.2` or `TLSv1.3`; `None` in clear.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self.state()?.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => Some("unknown"),
        }
    }

    /// IANA's name of the cipher suite, e.g. `TLS_AES_128_GCM_SHA256`; `None` in clear.
    pub fn tls_cipher(&self) -> Option<&'static str> {
        match self.state()?.negotiated_cipher_suite()?.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some("TLS_AES_128_GCM_SHA256"),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some("TLS_AES_256_GCM_SHA384"),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some("TLS_CHACHA20_POLY1305_SHA256"),
            older => older.as_str().or(Some("unknown")),
        }
    }

    /// The protocol that ALPN agreed on, if both ends spoke of one.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.state()?.alpn_protocol()
    }

    /// The server name that the client asked for, lower case; `None` on other legs and
    /// where the client sent none. It is the client's word: fit for a log line, never
    /// for a metric label.
    pub fn sni(&self) -> Option<&str> {
        match self {
            Self::ServerTls(stream) => stream.sni(),
            Self::Plain(_) | Self::ClientTls(_) => None,
        }
    }

    /// Makes the coming close send RST; see [`sockets::reset_on_close`].
    pub fn reset_on_close(&self) -> io::Result<()> {
        sockets::reset_on_close(self.tcp())
    }

    /// The socket below, for options and readiness. Reading from or writing to it breaks
    /// a TLS leg.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::ServerTls(stream) => stream.tcp(),
            Self::ClientTls(stream) => stream.tcp(),
        }
    }

    /// The bare socket of a clear leg, to begin STARTTLS on; a TLS leg comes back whole.
    pub fn into_plain(self) -> Result<TcpStream, Self> {
        match self {
            Self::Plain(stream) => Ok(stream),
            tls => Err(tls),
        }
    }

    /// The socket below, for what comes after the conversation; a TLS leg is forgotten.
    pub fn into_tcp(self) -> TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::ServerTls(stream) => stream.into_tcp(),
            Self::ClientTls(stream) => stream.into_tcp(),
        }
    }

    /// How the other end's direction is over, whatever of it is still to be read; none where it
    /// is not, or the system cannot tell. An error is told here once and by no read after it.
    pub fn hang_up(&self) -> Option<io::Result<()>> {
        // HUP and ERR are told unasked.
        let mut sockets = [PollFd::new(self.tcp(), PollFlags::RDHUP)];
        let told = rustix::event::poll(&mut sockets, Some(&Timespec::default()));
        told.is_ok_and(|told| told > 0).then(|| match SockRef::from(self.tcp()).take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(error),
        })
    }

    /// Whether the other end has sent nothing that was not read, its end included. Looks at
    /// the socket alone: what TLS holds back is not counted.
    pub fn is_silent(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let looked = SockRef::from(self.tcp()).peek(&mut byte);
        matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same stream, its readiness told by the runtime of the caller from now on.
    ///
    /// # Errors
    /// Where the socket cannot be registered there.
    pub fn moved_here(self) -> io::Result<Self> {
        let move_tcp = |tcp: TcpStream| TcpStream::from_std(tcp.into_std()?);
        Ok(match self {
            Self::Plain(stream) => Self::Plain(move_tcp(stream)?),
            Self::ServerTls(stream) => Self::ServerTls(Box::new(stream.with_tcp(move_tcp)?)),
            Self::ClientTls(stream) => Self::ClientTls(Box::new(stream.with_tcp(move_tcp)?)),
        })
    }

    fn state(&self) -> Option<&CommonState> {
        match self {
            Self::Plain(_) => None,
            Self::ServerTls(stream) => Some(stream.state()),
            Self::ClientTls(stream) => Some(stream.state()),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Plain(_) => "Plain",
            Self::ServerTls(_) => "ServerTls",
            Self::ClientTls(_) => "ClientTls",
        };
        f.debug_struct(kind)
            .field("peer", &self.peer_address().ok())
            .field("tls", &self.tls_version())
            .finish()
    }
}

/// Calls the same method on whichever stream is inside.
macro_rules! delegate {
    ($stream:expr, $method:ident $(, $argument:expr)*) => {
        match $stream.get_mut() {
            Stream::Plain(inner) => Pin::new(inner).$method($($argument),*),
            Stream::ServerTls(inner) => Pin::new(inner.as_mut()).$method($($argument),*),
            Stream::ClientTls(inner) => Pin::new(inner.as_mut()).$method($($argument),*),
        }
    };
}

/// A TLS peer that closes without `close_notify`, as many do, reads as an error of kind
/// `UnexpectedEof`; behind login that is an end like any other.
impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, cx, into)
    }
}

/// Writing to a TLS leg encrypts at once and flushes as far as the socket takes it; a
/// final `flush` is needed before the session sleeps. `shutdown` sends `close_notify`.
impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write, cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored, cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::ServerTls(stream) => stream.is_write_vectored(),
            Self::ClientTls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clear_leg_costs_a_socket_and_a_tls_leg_a_box() {
        let tag_bytes = size_of::<usize>();
        assert!(size_of::<Stream>() <= size_of::<TcpStream>() + tag_bytes);
        assert!(size_of::<ServerSession>() <= 1280);
        assert!(size_of::<ClientSession>() <= 1280);
    }
}
