//! Sessions against rustls' own buffered connections and against each other, with bytes
//! that come in every unfortunate way.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::{AlertDescription, ClientConnection, ServerConnection, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::tls::provider;
use crate::net::tls::tests::{DEADLINE, Lab, server, sockets};
use crate::net::{Stream, pool};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn name() -> ServerName<'static> {
    ServerName::try_from("mail.test").unwrap()
}

fn mail(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// rustls' buffered connection, its records cut as the test wants them.
struct Peer {
    tls: rustls::Connection,
    socket: TcpStream,
    /// Most bytes in one write to the socket.
    step: usize,
}

impl Peer {
    fn client(lab: &Lab, version: &'static SupportedProtocolVersion, socket: TcpStream) -> Self {
        let config = Arc::new(lab.raw_client_of(&[version]));
        let mut tls = ClientConnection::new(config, name()).unwrap();
        tls.set_buffer_limit(None);
        socket.set_nodelay(true).unwrap();
        Self { tls: tls.into(), socket, step: usize::MAX }
    }

    /// Sends what the connection has to send.
    async fn send(&mut self) {
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        self.send_raw(&records).await;
    }

    async fn send_raw(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(self.step) {
            self.socket.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// The records of some plaintext, not sent.
    fn records(&mut self, plain: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(plain).unwrap();
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        records
    }

    async fn say(&mut self, plain: &[u8]) {
        let records = self.records(plain);
        self.send_raw(&records).await;
    }

    /// Reads once and adds the plaintext to `heard`.
    async fn hear(&mut self, heard: &mut Vec<u8>) -> Result<(), RustlsError> {
        let mut bytes = [0; 4096];
        let count = self.socket.read(&mut bytes).await.unwrap();
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            let state = self.tls.process_new_packets()?;
            let at = heard.len();
            heard.resize(at + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut heard[at..]).unwrap();
        }
        Ok(())
    }

    async fn hear_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < bytes {
            self.hear(&mut heard).await.unwrap();
        }
        assert_eq!(heard.len(), bytes);
        heard
    }

    async fn shake_hands(&mut self) {
        let mut early = Vec::new();
        loop {
            self.send().await;
            if !self.tls.is_handshaking() {
                return;
            }
            self.hear(&mut early).await.unwrap();
        }
    }
}

fn session_of(stream: Stream) -> Box<ServerSession> {
    let Stream::ServerTls(session) = stream else { panic!("no TLS") };
    session
}

/// A server's session and its peer, who writes in such steps.
async fn pair(
    version: &'static SupportedProtocolVersion,
    step: usize,
) -> (Peer, Box<ServerSession>) {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("mail", &["mail.test"])]);
    let (dialled, accepted) = sockets().await;
    let mut peer = Peer { step, ..Peer::client(&lab, version, dialled) };
    let ((), session) = tokio::join!(peer.shake_hands(), server.accept(accepted, DEADLINE));
    (peer, session_of(session.unwrap()))
}

/// Reads once; `None` when nothing is there.
async fn read_now<C: Connection>(session: &mut Session<C>, into: &mut [u8]) -> Option<usize> {
    let mut into = ReadBuf::new(into);
    poll_fn(|cx| match Pin::new(&mut *session).poll_read(cx, &mut into) {
        Poll::Ready(outcome) => {
            outcome.unwrap();
            Poll::Ready(Some(into.filled().len()))
        }
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Reads until nothing is there, and says how much came.
async fn drain_now<C: Connection>(session: &mut Session<C>) -> usize {
    let mut sum = 0;
    while let Some(count) = read_now(session, &mut [0; 4096]).await {
        assert!(count > 0, "an end");
        sum += count;
    }
    sum
}

fn assert_asleep<C>(session: &Session<C>) {
    assert!(!session.incoming.is_borrowing() && !session.outgoing.is_borrowing());
}

#[tokio::test]
async fn records_that_come_byte_by_byte_are_read_by_small_readers() {
    for version in VERSIONS {
        let (mut peer, mut session) = pair(version, 1).await;
        assert_eq!(session.state().protocol_version(), Some(version.version));
        assert_eq!(session.sni(), Some("mail.test"));
        let sent = mail(20_000);
        let mut heard = Vec::new();
        tokio::join!(peer.say(&sent), async {
            let mut part = [0; 7];
            while heard.len() < sent.len() {
                let count = session.read(&mut part).await.unwrap();
                heard.extend_from_slice(&part[..count]);
            }
        });
        assert!(heard == sent);
        assert_eq!(drain_now(&mut session).await, 0);
        assert_asleep(&session);
    }
}

#[tokio::test]
async fn what_a_small_reader_leaves_is_kept_in_order() {
    for version in VERSIONS {
        let (mut peer, mut session) = pair(version, usize::MAX).await;
        let sent = mail(100_000);
        peer.say(&sent).await;
        let mut heard = Vec::new();
        for size in [1, 4096, 16_384, 100, 70_000].into_iter().cycle() {
            let mut part = vec![0; size];
            let count = session.read(&mut part).await.unwrap();
            heard.extend_from_slice(&part[..count]);
            if heard.len() >= sent.len() {
                break;
            }
            // A write in between works through whatever records are there.
            session.write_all(b"+ more\r\n").await.unwrap();
        }
        assert!(heard == sent);
    }
}

/// Both roles of ours against each other.
async fn our_pair(
    version: &'static SupportedProtocolVersion,
) -> (Box<ClientSession>, Box<ServerSession>) {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("mail", &["mail.test"])]);
    let (dialled, accepted) = sockets().await;
    for socket in [&dialled, &accepted] {
        SockRef::from(socket).set_send_buffer_size(4096).unwrap();
        socket.set_nodelay(true).unwrap();
    }
    let config = Arc::new(lab.raw_client_of(&[version]));
    let connection = UnbufferedClientConnection::new(config, name()).unwrap();
    let mut client = Box::new(ClientSession::new(dialled, connection));
    let (ours, theirs) = tokio::join!(client.handshake(), server.accept(accepted, DEADLINE));
    ours.unwrap();
    (client, session_of(theirs.unwrap()))
}

#[tokio::test]
async fn large_mails_go_both_ways_at_once_through_small_sockets() {
    for version in VERSIONS {
        let (client, server) = our_pair(version).await;
        let (up, down) = (mail(3_000_000), mail(2_000_001));
        let (mut from_client, mut to_server) = tokio::io::split(client);
        let (mut from_server, mut to_client) = tokio::io::split(server);
        let (mut at_server, mut at_client) = (vec![0; up.len()], vec![0; down.len()]);
        let (sent_up, sent_down, read_up, read_down) = tokio::join!(
            async {
                for part in up.chunks(50_001) {
                    to_server.write_all(part).await?;
                }
                to_server.flush().await
            },
            async {
                for part in down.chunks(333) {
                    to_client.write_all(part).await?;
                }
                to_client.flush().await
            },
            from_server.read_exact(&mut at_server),
            from_client.read_exact(&mut at_client),
        );
        sent_up.and(sent_down).unwrap();
        read_up.and(read_down).unwrap();
        assert!(at_server == up && at_client == down);
        assert_asleep(&from_server.unsplit(to_client));
        assert_asleep(&from_client.unsplit(to_server));
    }
}

#[tokio::test]
async fn a_sleeping_session_holds_no_buffer_even_inside_a_record() {
    for version in VERSIONS {
        let (mut peer, mut session) = pair(version, usize::MAX).await;
        assert_asleep(&session);
        let sent = mail(65_536);
        peer.say(&sent).await;
        session.write_all(&sent).await.unwrap();
        session.flush().await.unwrap();
        peer.hear_exactly(sent.len()).await;
        let mut sum = 0;
        while sum < sent.len() {
            sum += session.read(&mut [0; 4096]).await.unwrap();
        }
        assert_eq!(drain_now(&mut session).await, 0);
        assert_asleep(&session);

        let record = peer.records(b"a1 NOOP\r\n");
        peer.send_raw(&record[..12]).await;
        session.tcp().readable().await.unwrap();
        assert_eq!(drain_now(&mut session).await, 0);
        assert_asleep(&session);
        let kept = pool::kept();
        assert!(kept > 0, "the buffers are back in the pool");
        peer.send_raw(&record[12..]).await;
        let mut line = [0; 9];
        session.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"a1 NOOP\r\n");
        assert_asleep(&session);
        assert_eq!(pool::kept(), kept);
    }
}

#[tokio::test]
async fn a_last_word_reads_as_an_end_and_a_cut_as_an_error() {
    for version in VERSIONS {
        let (mut peer, mut session) = pair(version, usize::MAX).await;
        let records = peer.records(b"bye");
        peer.tls.send_close_notify();
        peer.send_raw(&records).await;
        peer.send().await;
        let mut heard = Vec::new();
        session.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye");
        assert_eq!(session.read(&mut [0; 9]).await.unwrap(), 0, "again and again");
        session.write_all(b"* BYE\r\n").await.unwrap();
        session.shutdown().await.unwrap();
        assert_eq!(peer.hear_exactly(7).await, b"* BYE\r\n");
        assert!(session.write(b"x").await.is_err(), "not behind our own last word");
        let mut rest = Vec::new();
        while peer.socket.read_buf(&mut rest).await.unwrap() > 0 {}
        peer.tls.read_tls(&mut rest.as_slice()).unwrap();
        let state = peer.tls.process_new_packets().unwrap();
        assert!(state.peer_has_closed(), "close_notify came before the end");

        let (mut peer, mut session) = pair(version, usize::MAX).await;
        peer.say(b"bye").await;
        peer.socket.shutdown().await.unwrap();
        let mut heard = Vec::new();
        let error = session.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!((heard.as_slice(), error.kind()), (&b"bye"[..], ErrorKind::UnexpectedEof));
    }
}

#[tokio::test]
async fn keys_are_changed_in_both_directions_while_mail_flows() {
    let (mut peer, mut session) = pair(&rustls::version::TLS13, usize::MAX).await;
    for round in 0_u8..40 {
        peer.tls.refresh_traffic_keys().unwrap();
        peer.say(&[round; 1000]).await;
        let mut heard = [0; 1000];
        session.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [round; 1000]);
        // The answer to the request goes before these.
        let answer = vec![round; 20_000];
        session.write_all(&answer).await.unwrap();
        session.flush().await.unwrap();
        assert!(peer.hear_exactly(answer.len()).await == answer);
    }
}

#[tokio::test]
async fn a_backend_may_change_keys_and_send_tickets() {
    let lab = Lab::new();
    let files = lab.certificate("mail", &["mail.test"]);
    let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.send_tls13_tickets = 4;
    let (dialled, accepted) = sockets().await;
    let tls = ServerConnection::new(Arc::new(config)).unwrap();
    let mut peer = Peer { tls: tls.into(), socket: accepted, step: 5 };
    let config = Arc::new(lab.raw_client());
    let connection = UnbufferedClientConnection::new(config, name()).unwrap();
    let mut session = ClientSession::new(dialled, connection);
    let ((), outcome) = tokio::join!(peer.shake_hands(), session.handshake());
    outcome.unwrap();
    peer.tls.refresh_traffic_keys().unwrap();
    peer.say(b"* OK ready\r\n").await;
    let mut line = [0; 12];
    session.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"* OK ready\r\n");
    session.write_all(b"a1 NOOP\r\n").await.unwrap();
    assert_eq!(peer.hear_exactly(9).await, b"a1 NOOP\r\n");
    assert_eq!(session.sni(), None);
    assert_eq!(drain_now(&mut session).await, 0);
    assert_asleep(&session);
}

#[tokio::test]
async fn a_forged_record_ends_the_session_behind_the_good_ones() {
    for version in VERSIONS {
        let (mut peer, mut session) = pair(version, usize::MAX).await;
        let mut records = peer.records(b"good");
        let mut forged = peer.records(b"evil");
        *forged.last_mut().unwrap() ^= 1;
        records.extend_from_slice(&forged);
        peer.send_raw(&records).await;
        let mut heard = [0; 100];
        assert_eq!(session.read(&mut heard).await.unwrap(), 4);
        assert_eq!(&heard[..4], b"good");
        for _ in 0..2 {
            let error = session.read(&mut heard).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            let inner = error.get_ref().unwrap().downcast_ref::<RustlsError>();
            assert_eq!(inner, Some(&RustlsError::DecryptError));
        }
        assert_eq!(session.write(b"x").await.unwrap_err().kind(), ErrorKind::InvalidData);
        session.shutdown().await.unwrap();
        let told = peer.hear(&mut Vec::new()).await.unwrap_err();
        assert_eq!(told, RustlsError::AlertReceived(AlertDescription::BadRecordMac));
        assert_asleep(&session);
    }
}

#[tokio::test]
async fn a_stuck_writer_keeps_one_buffer_and_the_order() {
    let (mut client, mut server) = our_pair(&rustls::version::TLS13).await;
    let sent = mail(500_000);
    let mut taken = 0;
    while let Poll::Ready(count) =
        poll_fn(|cx| Poll::Ready(Pin::new(&mut server).poll_write(cx, &sent[taken..]))).await
    {
        let count = count.unwrap();
        assert!((1..=WRITE_BYTES_MAX).contains(&count));
        taken += count;
    }
    assert!(taken < sent.len() && server.outgoing.is_borrowing());
    // Reading goes on meanwhile, and a dropped write took nothing.
    client.write_all(b"a1 NOOP\r\n").await.unwrap();
    let mut line = [0; 9];
    server.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"a1 NOOP\r\n");
    let mut heard = vec![0; sent.len()];
    let (written, read) = tokio::join!(
        async {
            server.write_all(&sent[taken..]).await?;
            server.flush().await
        },
        client.read_exact(&mut heard)
    );
    written.unwrap();
    read.unwrap();
    assert!(heard == sent);
    assert_asleep(&server);
}

/// `openssl s_client`, of the machine that has it.
struct Openssl {
    child: std::process::Child,
    /// What it printed so far, both streams as they come.
    printed: std::sync::mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Openssl {
    fn start(address: std::net::SocketAddr, version: &str) -> Option<Self> {
        let mut child = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string(), "-servername", "mail.test"])
            .arg(version)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .ok()?;
        let (sender, printed) = std::sync::mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    let _ = sender.send(bytes[..count].to_vec());
                }
            });
        }
        Some(Self { child, printed, seen: Vec::new() })
    }

    fn type_in(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// Waits until it prints this, and forgets what was printed up to there.
    fn expect(&mut self, text: &str) {
        loop {
            let found = self.seen.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                self.seen.drain(..at + text.len());
                return;
            }
            let more = self.printed.recv_timeout(DEADLINE).unwrap_or_else(|error| {
                panic!("{error} for {text}: {}", String::from_utf8_lossy(&self.seen))
            });
            self.seen.extend(more);
        }
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes one line from `s_client` and answers it with a mail and a last line.
async fn answer(session: &mut ServerSession, line: &str) {
    let mut heard = vec![0; line.len()];
    session.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, line.as_bytes());
    session.write_all(&[b'.'; 16_000].repeat(5)).await.unwrap();
    session.write_all(format!("answer to {line}").as_bytes()).await.unwrap();
    session.flush().await.unwrap();
}

#[tokio::test]
async fn openssl_understands_every_word_and_changes_keys() {
    const LINES: [&str; 2] = ["one\n", "two\n"];
    // `K` asks for an update of our keys as well, `k` does not; TLS 1.2 has neither.
    const UPDATES: &[&str] = &["K\n", "k\n", "K\n"];
    for (version, updates) in [("-tls1_2", &[][..]), ("-tls1_3", UPDATES)] {
        let lab = Lab::new();
        let server = server(vec![lab.certificate("mail", &["mail.test"])]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let Some(mut openssl) = Openssl::start(listener.local_addr().unwrap(), version) else {
            eprintln!("openssl is not installed: nothing was tested");
            return;
        };
        let typing = tokio::task::spawn_blocking(move || {
            for line in LINES {
                openssl.type_in(line);
                openssl.expect(&format!("answer to {line}"));
                for command in updates {
                    openssl.type_in(command);
                    openssl.expect("KEYUPDATE");
                }
            }
            openssl.type_in("Q\n");
            openssl.child.wait().unwrap();
        });
        let (socket, _) = listener.accept().await.unwrap();
        let mut session = session_of(server.accept(socket, DEADLINE).await.unwrap());
        for line in LINES {
            answer(&mut session, line).await;
        }
        assert_eq!(session.read(&mut [0; 1]).await.unwrap(), 0, "its close_notify");
        session.shutdown().await.unwrap();
        typing.await.unwrap();
    }
}
