//! A blocking connection, clear or TLS, read by lines and by counts.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// The longest line that a peer may send; more is a fault of the test's subject.
const LINE_BYTES_MAX: usize = 1 << 20;

enum Stream {
    Clear(Socket),
    Client(Box<StreamOwned<ClientConnection, Socket>>),
    Server(Box<StreamOwned<ServerConnection, Socket>>),
}

/// The one descriptor of a connection, so that dropping a [`Wire`] really closes it.
#[derive(Clone)]
struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        (&*self.0).read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// One end of a connection. Reads wait at most the timeout (10 s unless told).
pub struct Wire {
    socket: Socket,
    stream: Stream,
    unread: Vec<u8>,
    seen: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Wire {
    /// Takes a connected socket.
    pub fn new(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.set_write_timeout(Some(Duration::from_secs(30)))?;
        let socket = Socket(Arc::new(socket));
        let stream = Stream::Clear(socket.clone());
        Ok(Self { socket, stream, unread: Vec::new(), seen: None })
    }

    /// Copies every byte that is read from now on, after decryption, into `seen`.
    pub fn record_into(&mut self, seen: Arc<Mutex<Vec<u8>>>) {
        self.seen = Some(seen);
    }

    /// Bytes that were read from the socket and not yet asked for.
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// The socket, for its addresses and options.
    pub fn socket(&self) -> &TcpStream {
        &self.socket.0
    }

    /// A way to cut the connection from another thread while it lives.
    pub fn cutter(&self) -> Weak<TcpStream> {
        Arc::downgrade(&self.socket.0)
    }

    /// Sets the longest wait of a read.
    pub fn set_timeout(&mut self, longest: Duration) -> Result<()> {
        self.socket.0.set_read_timeout(Some(longest))
    }

    /// Starts TLS as the client and finishes the handshake.
    pub fn start_tls_as_client(&mut self, tls: ClientConnection) -> Result<()> {
        let mut stream = StreamOwned::new(tls, self.socket.clone());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        self.stream = Stream::Client(Box::new(stream));
        Ok(())
    }

    /// Starts TLS as the server and finishes the handshake. Unread clear bytes are
    /// a fault, as STARTTLS demands.
    pub fn start_tls_as_server(&mut self, tls: ServerConnection) -> Result<()> {
        if !self.unread.is_empty() {
            return Err(Error::new(ErrorKind::InvalidData, "clear bytes before the handshake"));
        }
        let mut stream = StreamOwned::new(tls, self.socket.clone());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        self.stream = Stream::Server(Box::new(stream));
        Ok(())
    }

    /// The ALPN protocol agreed on, if TLS is on and one was.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        match &self.stream {
            Stream::Clear(_) => None,
            Stream::Client(stream) => stream.conn.alpn_protocol().map(<[u8]>::to_vec),
            Stream::Server(stream) => stream.conn.alpn_protocol().map(<[u8]>::to_vec),
        }
    }

    /// Sends all bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.stream {
            Stream::Clear(stream) => stream.write_all(bytes),
            Stream::Client(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Stream::Server(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Reads a line with its end. `UnexpectedEof` when the peer closed before it.
    pub fn read_line(&mut self) -> Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.unread[searched..]) {
                return Ok(self.unread.drain(..=searched + at).collect());
            }
            searched = self.unread.len();
            if searched > LINE_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "a line without end"));
            }
            if self.fill()? == 0 {
                let held = String::from_utf8_lossy(&self.unread).into_owned();
                let why = format!("closed in the middle of a line, after {held:?}");
                return Err(Error::new(ErrorKind::UnexpectedEof, why));
            }
        }
    }

    /// Reads exactly so many bytes.
    pub fn read_exactly(&mut self, bytes: usize) -> Result<Vec<u8>> {
        while self.unread.len() < bytes {
            if self.fill()? == 0 {
                let why = format!("closed after {} of {bytes} bytes", self.unread.len());
                return Err(Error::new(ErrorKind::UnexpectedEof, why));
            }
        }
        Ok(self.unread.drain(..bytes).collect())
    }

    /// Reads until the peer closes, a reset counting as its end.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(0) => return Ok(std::mem::take(&mut self.unread)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Ok(std::mem::take(&mut self.unread));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a whole line is there within the time; nothing is taken.
    pub fn has_line_within(&mut self, longest: Duration) -> Result<bool> {
        if memchr::memchr(b'\n', &self.unread).is_some() {
            return Ok(true);
        }
        let usual = self.socket.0.read_timeout()?;
        self.socket.0.set_read_timeout(Some(longest))?;
        let read = self.fill();
        self.socket.0.set_read_timeout(usual)?;
        match read {
            Ok(0) => Err(Error::new(ErrorKind::UnexpectedEof, "closed while waiting for a line")),
            Ok(_) => Ok(memchr::memchr(b'\n', &self.unread).is_some()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends this side's sending: `close_notify` under TLS, then FIN.
    pub fn finish_writing(&mut self) -> Result<()> {
        match &mut self.stream {
            Stream::Clear(_) => {}
            Stream::Client(stream) => {
                stream.conn.send_close_notify();
                stream.flush()?;
            }
            Stream::Server(stream) => {
                stream.conn.send_close_notify();
                stream.flush()?;
            }
        }
        self.socket.0.shutdown(Shutdown::Write)
    }

    /// Closes with a reset instead of FIN.
    pub fn reset(self) -> Result<()> {
        socket2::SockRef::from(&*self.socket.0).set_linger(Some(Duration::ZERO))
    }

    /// Reads what is there; 0 at the end. A TLS peer that closes without `close_notify`
    /// is at its end too: the tests that care look at the bytes.
    fn fill(&mut self) -> Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let read = match &mut self.stream {
            Stream::Clear(stream) => stream.read(&mut chunk),
            Stream::Client(stream) => stream.read(&mut chunk),
            Stream::Server(stream) => stream.read(&mut chunk),
        };
        let count = match read {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            other => other?,
        };
        self.unread.extend_from_slice(&chunk[..count]);
        if let Some(seen) = &self.seen {
            seen.lock().unwrap().extend_from_slice(&chunk[..count]);
        }
        Ok(count)
    }
}
