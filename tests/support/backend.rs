//! A scripted IMAP server that writes down all that it is told.

use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;

use super::wait_until;
use super::wire::Wire;

/// How a backend's connections begin.
#[derive(Clone, Default)]
pub struct Opening {
    /// TLS from the first byte, or for [`Conversation::start_tls`].
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether TLS comes first.
    pub implicit_tls: bool,
    /// Whether a PROXY header (v1 or v2) comes before anything else.
    pub proxy_header: bool,
}

impl Opening {
    /// Clear text from the first byte.
    pub fn clear() -> Self {
        Self::default()
    }

    /// TLS from the first byte.
    pub fn implicit(tls: Arc<ServerConfig>) -> Self {
        Self { tls: Some(tls), implicit_tls: true, ..Self::default() }
    }

    /// Clear text, then STARTTLS.
    pub fn starttls(tls: Arc<ServerConfig>) -> Self {
        Self { tls: Some(tls), ..Self::default() }
    }

    /// The same with a PROXY header in front.
    #[must_use]
    pub fn with_proxy_header(mut self) -> Self {
        self.proxy_header = true;
        self
    }
}

/// A login that a backend was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Number of the connection, from 0.
    pub connection: usize,
    /// `LOGIN`, or the SASL mechanism.
    pub mechanism: String,
    /// The authorisation identity of SASL PLAIN; else empty.
    pub authzid: Vec<u8>,
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

/// One connection as the backend saw it.
#[derive(Clone)]
struct Record {
    seen: Arc<Mutex<Vec<u8>>>,
    proxy_header: Arc<Mutex<Vec<u8>>>,
    alpn: Arc<Mutex<Option<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    cutter: Weak<TcpStream>,
}

#[derive(Default)]
struct Book {
    records: Mutex<Vec<Record>>,
    logins: Mutex<Vec<Login>>,
    faults: Mutex<Vec<String>>,
    stopping: AtomicBool,
    /// What [`Backend::push`] sends to every connection in IDLE, in order.
    pushes: Mutex<Vec<Vec<u8>>>,
    idling: AtomicU32,
}

type Script = dyn Fn(&mut Conversation) -> Result<()> + Send + Sync;

/// A listening scripted server: a thread for each connection, all ended on drop.
pub struct Backend {
    address: SocketAddr,
    book: Arc<Book>,
    acceptor: Option<JoinHandle<()>>,
}

impl Backend {
    /// Listens on a free loopback port and runs the script on every connection. The
    /// end of the script closes the connection; an error that it returns is a fault,
    /// except that the peer went away.
    pub fn start(
        opening: Opening,
        script: impl Fn(&mut Conversation) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(super::free_port(), opening, script)
    }

    /// The same on a given port, for a server that comes back after its death.
    pub fn start_at(
        port: u16,
        opening: Opening,
        script: impl Fn(&mut Conversation) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, port).into(), opening, script)
    }

    /// The same on a given address.
    pub fn start_on(
        address: SocketAddr,
        opening: Opening,
        script: impl Fn(&mut Conversation) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        // A listener that was closed may live on for a moment in a child that another
        // test is just starting.
        let listener =
            wait_until(&format!("{address} is free"), || TcpListener::bind(address).ok());
        let address = listener.local_addr().unwrap();
        let book = Arc::new(Book::default());
        let script: Arc<Script> = Arc::new(script);
        let acceptor = {
            let book = Arc::clone(&book);
            std::thread::spawn(move || accept_all(&listener, &book, &opening, &script))
        };
        Self { address, book, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port alone.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections came so far.
    pub fn connections(&self) -> usize {
        self.book.records.lock().unwrap().len()
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        let records = self.book.records.lock().unwrap();
        records.iter().filter(|record| !record.ended.load(Ordering::SeqCst)).count()
    }

    /// All bytes that a connection received so far, after decryption, without the
    /// PROXY header.
    pub fn received(&self, connection: usize) -> Vec<u8> {
        let Record { seen, .. } = self.record(connection);
        seen.lock().unwrap().clone()
    }

    /// The same as text, for messages and searches.
    pub fn received_text(&self, connection: usize) -> String {
        String::from_utf8_lossy(&self.received(connection)).into_owned()
    }

    /// The PROXY header of a connection, whole.
    pub fn proxy_header(&self, connection: usize) -> Vec<u8> {
        self.record(connection).proxy_header.lock().unwrap().clone()
    }

    /// The ALPN protocol agreed on with a connection.
    pub fn alpn(&self, connection: usize) -> Option<Vec<u8>> {
        self.record(connection).alpn.lock().unwrap().clone()
    }

    /// Whether a connection has ended.
    pub fn has_ended(&self, connection: usize) -> bool {
        self.record(connection).ended.load(Ordering::SeqCst)
    }

    /// All logins so far, in order of arrival.
    pub fn logins(&self) -> Vec<Login> {
        self.book.logins.lock().unwrap().clone()
    }

    /// The users of all logins so far.
    pub fn users(&self) -> Vec<String> {
        let text = |login: Login| String::from_utf8_lossy(&login.user).into_owned();
        self.logins().into_iter().map(text).collect()
    }

    /// What went against the script so far.
    pub fn faults(&self) -> Vec<String> {
        self.book.faults.lock().unwrap().clone()
    }

    /// Fails the test when anything went against the script.
    pub fn assert_no_faults(&self) {
        assert_eq!(self.faults(), Vec::<String>::new());
    }

    /// Sends these bytes to every connection that is or comes to be in IDLE.
    pub fn push(&self, bytes: impl Into<Vec<u8>>) {
        self.book.pushes.lock().unwrap().push(bytes.into());
    }

    /// How many connections are in IDLE.
    pub fn idling(&self) -> u32 {
        self.book.idling.load(Ordering::SeqCst)
    }

    /// Waits until so many connections came.
    pub fn wait_for_connections(&self, count: usize) {
        let what = format!("{count} connections at the backend");
        wait_until(&what, || (self.connections() >= count).then_some(()));
    }

    /// Waits until a connection has received the text.
    pub fn wait_for_received(&self, connection: usize, text: &str) {
        self.wait_for_connections(connection + 1);
        wait_until(&format!("{text:?} at the backend"), || {
            self.received_text(connection).contains(text).then_some(())
        });
    }

    /// Waits until no connection is open.
    pub fn wait_until_empty(&self) {
        wait_until("the backend has no connection", || {
            (self.open_connections() == 0).then_some(())
        });
    }

    /// Cuts all open connections, as a crash of the server's session processes does;
    /// new ones are still taken.
    pub fn cut_connections(&self) {
        for record in self.book.records.lock().unwrap().iter() {
            if let Some(socket) = record.cutter.upgrade() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// Resets all open connections at once, whatever waits to be sent on them, as the end of a
    /// process does that had not read all.
    pub fn reset_connections(&self) {
        for record in self.book.records.lock().unwrap().iter() {
            if let Some(socket) = record.cutter.upgrade() {
                rustix::net::connect_unspec(&*socket).unwrap();
            }
        }
    }

    /// Stops listening, cuts all connections, and waits until new ones are refused.
    pub fn stop(&mut self) {
        self.end();
        wait_until("the stopped backend refuses", || {
            TcpStream::connect(self.address).is_err().then_some(())
        });
    }

    fn end(&mut self) {
        self.book.stopping.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
            let _ = acceptor.join();
        }
        self.cut_connections();
    }

    fn record(&self, connection: usize) -> Record {
        let (found, there) = {
            let records = self.book.records.lock().unwrap();
            (records.get(connection).cloned(), records.len())
        };
        // Not under the lock: the end of the backend needs it while this unwinds.
        found.unwrap_or_else(|| panic!("connection {connection} of {there}"))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.end();
    }
}

fn accept_all(listener: &TcpListener, book: &Arc<Book>, opening: &Opening, script: &Arc<Script>) {
    for socket in listener.incoming() {
        if book.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(wire) = socket.and_then(Wire::new) else { continue };
        let record = Record {
            seen: Arc::default(),
            proxy_header: Arc::default(),
            alpn: Arc::default(),
            ended: Arc::default(),
            cutter: wire.cutter(),
        };
        let number = {
            let mut records = book.records.lock().unwrap();
            records.push(record.clone());
            records.len() - 1
        };
        let mut conversation = Conversation {
            wire: Some(wire),
            record,
            book: Arc::clone(book),
            number,
            tls: opening.tls.clone(),
            pushes_sent: 0,
        };
        let (opening, script) = (opening.clone(), Arc::clone(script));
        std::thread::spawn(move || {
            let result = conversation.open(&opening).and_then(|()| script(&mut conversation));
            conversation.finish(result);
        });
    }
}

/// A backend's side of one connection.
pub struct Conversation {
    wire: Option<Wire>,
    record: Record,
    book: Arc<Book>,
    number: usize,
    tls: Option<Arc<ServerConfig>>,
    pushes_sent: usize,
}

impl Conversation {
    /// The connection's number at its backend, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.wire()?.write(bytes.as_ref())
    }

    /// Reads a line without its end.
    pub fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = self.wire()?.read_line()?;
        while line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            line.pop();
        }
        Ok(line)
    }

    /// Reads a line that must be a tag and then these words (in any case) or more; gives
    /// the tag. Another line is a fault and ends the conversation.
    pub fn expect(&mut self, words: &str) -> Result<String> {
        let line = String::from_utf8_lossy(&self.line()?).into_owned();
        let (tag, rest) = line.split_once(' ').unwrap_or((&line, ""));
        if rest.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words)) {
            return Ok(tag.to_owned());
        }
        Err(fault(format!("connection {}: expected {words:?}, got {line:?}", self.number)))
    }

    /// Expects a command and answers it; `{tag}` in the answer is the command's tag.
    pub fn answer(&mut self, words: &str, answer: &str) -> Result<()> {
        let tag = self.expect(words)?;
        self.send(answer.replace("{tag}", &tag))
    }

    /// Reads exactly so many bytes.
    pub fn exactly(&mut self, bytes: usize) -> Result<Vec<u8>> {
        self.wire()?.read_exactly(bytes)
    }

    /// Shakes hands as a TLS server.
    pub fn start_tls(&mut self) -> Result<()> {
        let config = self.tls.clone().ok_or_else(|| fault("no certificate given".to_owned()))?;
        let wire = self.wire()?;
        wire.start_tls_as_server(super::tls::server_side(&config))?;
        let alpn = wire.alpn();
        *self.record.alpn.lock().unwrap() = alpn;
        Ok(())
    }

    /// Does nothing for that long; part of the script, so that delays can be measured.
    #[allow(clippy::unused_self, reason = "reads as a step of the script")]
    pub fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Reads and answers nothing until the peer closes or the backend stops.
    pub fn hang(&mut self) -> Result<()> {
        let wire = self.wire()?;
        wire.set_timeout(Duration::from_secs(3_600))?;
        wire.read_to_end().map(drop)
    }

    /// Closes with FIN now.
    pub fn close(&mut self) {
        self.wire = None;
    }

    /// Closes with RST now.
    pub fn reset(&mut self) -> Result<()> {
        self.wire.take().map_or(Ok(()), Wire::reset)
    }

    /// The connection itself, for what has no method here.
    pub fn wire(&mut self) -> Result<&mut Wire> {
        self.wire
            .as_mut()
            .ok_or_else(|| Error::new(ErrorKind::NotConnected, "closed by the script"))
    }

    /// Writes a login down.
    pub fn note_login(&self, mechanism: &str, authzid: &[u8], user: &[u8], password: &[u8]) {
        self.book.logins.lock().unwrap().push(Login {
            connection: self.number,
            mechanism: mechanism.to_owned(),
            authzid: authzid.to_vec(),
            user: user.to_vec(),
            password: password.to_vec(),
        });
    }

    /// Stays in IDLE until the peer's next line, which is given (`DONE`); sends what
    /// [`Backend::push`] brings meanwhile.
    pub fn idle(&mut self) -> Result<Vec<u8>> {
        self.book.idling.fetch_add(1, Ordering::SeqCst);
        let result = self.idle_until_line();
        self.book.idling.fetch_sub(1, Ordering::SeqCst);
        result.and_then(|()| self.line())
    }

    fn idle_until_line(&mut self) -> Result<()> {
        loop {
            let waiting = {
                let pushes = self.book.pushes.lock().unwrap();
                pushes.get(self.pushes_sent..).unwrap_or_default().to_vec()
            };
            self.pushes_sent += waiting.len();
            for bytes in waiting {
                self.send(bytes)?;
            }
            if self.wire()?.has_line_within(Duration::from_millis(20))? {
                return Ok(());
            }
        }
    }

    fn open(&mut self, opening: &Opening) -> Result<()> {
        if opening.proxy_header {
            let header = self.read_proxy_header()?;
            *self.record.proxy_header.lock().unwrap() = header;
        }
        if opening.implicit_tls {
            self.start_tls_keeping_reads(opening)?;
        }
        let seen = Arc::clone(&self.record.seen);
        let wire = self.wire()?;
        // What came in one packet with the PROXY header was read before recording began.
        seen.lock().unwrap().extend_from_slice(wire.unread());
        wire.record_into(seen);
        Ok(())
    }

    /// A TLS hello must not have been read along with the PROXY header.
    fn start_tls_keeping_reads(&mut self, opening: &Opening) -> Result<()> {
        if opening.proxy_header && !self.wire()?.unread().is_empty() {
            return Err(fault("PROXY header and ClientHello in one packet".to_owned()));
        }
        self.start_tls()
    }

    fn read_proxy_header(&mut self) -> Result<Vec<u8>> {
        const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
        let wire = self.wire()?;
        let mut header = wire.read_exactly(12)?;
        if header == V2_SIGNATURE {
            header.extend(wire.read_exactly(4)?);
            let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
            header.extend(wire.read_exactly(length)?);
        } else if header.starts_with(b"PROXY ") {
            header.extend(wire.read_line()?);
        } else {
            return Err(fault(format!("no PROXY header: {header:?}")));
        }
        Ok(header)
    }

    fn finish(mut self, result: Result<()>) {
        // First the fault: who has seen the end of the connection finds it here.
        if let Err(error) = result
            && error.kind() == ErrorKind::Other
        {
            self.book.faults.lock().unwrap().push(error.to_string());
        }
        self.wire = None;
        self.record.ended.store(true, Ordering::SeqCst);
    }
}

/// A fault of the peer against the script, as opposed to an end of the connection.
pub fn fault(what: String) -> Error {
    Error::other(what)
}

/// The one backend `b` of the one shard `s`, in clear text, for everybody.
pub fn shard(backend: &Backend) -> String {
    format!(
        "shards:\n  s: {{ kind: shared, backends: \
         [ {{ name: b, address: \"{}\", tls: none }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        backend.address()
    )
}
