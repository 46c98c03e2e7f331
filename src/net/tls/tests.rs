//! Handshakes over loopback with certificates made for each test.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SignatureAlgorithm as KeyKind,
};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::resolver::CertificateTable;
use super::*;
use crate::config::{Backend, BackendPlace, Certificate, Forward, Pipelining, Tls, TlsMode};
use crate::names::BackendId;
use crate::net::Stream;

pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// A certificate authority and the files it wrote.
pub(super) struct Lab {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::named("Test authority")
    }

    fn named(authority: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, authority);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, pem).unwrap();
        Self { issuer: Issuer::new(params, key), ca, folder }
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn certificate(&self, file: &str, names: &[&str]) -> Certificate {
        self.certificate_with(file, names, &PKCS_ECDSA_P256_SHA256, |_| {})
    }

    fn certificate_with(
        &self,
        file: &str,
        names: &[&str],
        kind: &'static KeyKind,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate_for(kind).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Certificate {
            cert: self.write(&format!("{file}.pem"), &leaf.pem()),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    fn expired(&self, file: &str, name: &str) -> Certificate {
        self.certificate_with(file, &[name], &PKCS_ECDSA_P256_SHA256, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    fn backend(&self, host: &str) -> Backend {
        Backend {
            name: BackendId::new("n1"),
            place: BackendPlace::Host { host: host.into(), port: 993 },
            tls: TlsMode::Implicit,
            ca: Some(self.ca.clone()),
            verify_name: None,
            pin_sha256: None,
            weight: 1,
            state: crate::config::AdminState::Up,
            forward: Forward::Id,
            pipelining: Pipelining::Auto,
            alpn: true,
            proxyauth: false,
            sessions_max: None,
            logins_max: None,
            warm_connections: None,
            warm_age_max: std::time::Duration::from_secs(60),
            source_addresses: Vec::new(),
            check: crate::config::HealthCheck::default(),
        }
    }

    fn client(&self, host: &str) -> ClientTls {
        ClientTls::for_backend(&self.backend(host)).unwrap().unwrap()
    }

    /// A client of its own making, for what [`ClientTls`] never does.
    pub(super) fn raw_client(&self) -> ClientConfig {
        self.raw_client_of(rustls::ALL_VERSIONS)
    }

    /// [`Self::raw_client`] with these versions of the protocol alone.
    pub(super) fn raw_client_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).unwrap()).unwrap();
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

pub(super) fn server(certificates: Vec<Certificate>) -> ServerTls {
    ServerTls::load(&Tls { certificates }).unwrap()
}

fn pin_of(certificate: &Certificate) -> [u8; 32] {
    let leaf = CertificateDer::from_pem_file(&certificate.cert).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    aws_lc_sha256(leaf.public_key().raw)
}

fn aws_lc_sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    let suite = suite.tls13().unwrap();
    suite.common.hash_provider.hash(bytes).as_ref().try_into().unwrap()
}

pub(super) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

type Outcome = Result<Stream, HandshakeError>;

async fn handshake(client: &ClientTls, server: &ServerTls) -> (Outcome, Outcome) {
    let (dialled, accepted) = sockets().await;
    tokio::join!(client.connect(dialled), server.accept(accepted, DEADLINE))
}

async fn raw_handshake(
    client: ClientConfig,
    name: &str,
    server: &ServerTls,
) -> (std::io::Result<tokio_rustls::client::TlsStream<TcpStream>>, Outcome) {
    let (dialled, accepted) = sockets().await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    tokio::join!(connector.connect(name, dialled), server.accept(accepted, DEADLINE))
}

async fn untrusted_detail(client: &ClientTls, server: &ServerTls) -> String {
    let (outcome, _) = handshake(client, server).await;
    let error = outcome.unwrap_err();
    assert!(error.is_untrusted() && error.reason() == "untrusted", "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn both_ends_agree_on_imap_over_tls_13() {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("mail", &["mail.test"])]);
    let (ours, theirs) = handshake(&lab.client("mail.test"), &server).await;
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    for stream in [&ours, &theirs] {
        assert!(stream.is_tls());
        assert_eq!(stream.alpn(), Some(ALPN_IMAP));
        assert_eq!(stream.tls_version(), Some("TLSv1.3"));
        assert_eq!(stream.tls_cipher(), Some("TLS_AES_256_GCM_SHA384"));
    }
    assert_eq!(theirs.sni(), Some("mail.test"));
    assert_eq!(ours.peer_address().unwrap(), theirs.local_address().unwrap());

    // More than the send buffer holds, so that both sides must take turns.
    let mail: Vec<u8> = (0_u32..).map(|at| at.to_le_bytes()[0]).take(300_000).collect();
    let mut received = vec![0; mail.len()];
    let (sent, read) = tokio::join!(
        async {
            ours.write_all(&mail).await?;
            ours.shutdown().await
        },
        theirs.read_exact(&mut received)
    );
    sent.unwrap();
    read.unwrap();
    assert_eq!(received, mail);
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0, "close_notify reads as an end");
}

#[tokio::test]
async fn the_post_quantum_group_is_chosen_where_both_know_it() {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("mail", &["mail.test"])]);
    let (_, theirs) = handshake(&lab.client("mail.test"), &server).await;
    let Ok(Stream::ServerTls(theirs)) = theirs else { panic!("no TLS") };
    let group = theirs.state().negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn tls_12_is_still_served() {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("mail", &["mail.test"])]);
    let old = lab.raw_client_of(&[&rustls::version::TLS12]);
    let (ours, theirs) = raw_handshake(old, "mail.test", &server).await;
    ours.unwrap();
    assert_eq!(theirs.unwrap().tls_version(), Some("TLSv1.2"));
}

#[tokio::test]
async fn certificates_are_chosen_by_the_name_asked_for() {
    let lab = Lab::new();
    let server = server(vec![
        lab.certificate("default", &["mail.default.test"]),
        lab.certificate("other", &["imap.other.test", "IMAP2.Other.test"]),
        lab.certificate("wild", &["*.wild.test"]),
        lab.certificate("exact", &["exact.wild.test"]),
    ]);
    // Each handshake succeeds only with a certificate that carries the name.
    for name in ["mail.default.test", "imap.other.test", "imap2.other.test", "any.wild.test"] {
        let (ours, theirs) = handshake(&lab.client(name), &server).await;
        ours.unwrap_or_else(|error| panic!("{name}: {error}"));
        theirs.unwrap();
    }
    for name in ["unknown.test", "a.b.wild.test", "wild.test"] {
        let text = untrusted_detail(&lab.client(name), &server).await;
        assert!(text.contains(name) && text.contains("mail.default.test"), "{text}");
    }
    let names: Vec<&str> = server.certificates().iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["mail.default.test", "imap.other.test", "*.wild.test", "exact.wild.test"]);
}

#[test]
fn an_exact_name_goes_before_a_wildcard_and_the_client_decides_the_key_type() {
    const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    let lab = Lab::new();
    let load = |file, names: &[&str], kind| {
        let files = lab.certificate_with(file, names, kind, |_| {});
        certificates::load(&files, &provider()).unwrap()
    };
    let certificates = [
        load("rsa", &["mail.test", "*.mail.test"], &PKCS_RSA_SHA256),
        load("ecdsa", &["*.mail.test", "mail.test"], &PKCS_ECDSA_P256_SHA256),
        load("exact", &["a.mail.test"], &PKCS_ECDSA_P256_SHA256),
    ];
    let table = CertificateTable::new(&certificates);
    let chosen = |name, schemes: &[SignatureScheme]| {
        let chosen = table.choose(name, schemes).unwrap();
        certificates.iter().position(|known| Arc::ptr_eq(&known.key, &chosen)).unwrap()
    };
    for name in [None, Some("mail.test"), Some("b.mail.test"), Some("unknown.test")] {
        assert_eq!(chosen(name, RSA), 0, "{name:?}");
        assert_eq!(chosen(name, ECDSA), 1, "{name:?}");
        assert_eq!(chosen(name, &[RSA, ECDSA].concat()), 1, "the cheaper one, {name:?}");
    }
    assert_eq!(chosen(Some("a.mail.test"), ECDSA), 2);
}

#[test]
fn random_server_names_leave_nothing_behind() {
    let lab = Lab::new();
    let files = lab.certificate("mail", &["mail.test", "*.mail.test"]);
    let loaded = [certificates::load(&files, &provider()).unwrap()];
    let table = CertificateTable::new(&loaded);
    let before = (format!("{table:?}").len(), Arc::strong_count(&loaded[0].key));
    for _ in 0..100_000 {
        let name = format!("{:x}.{:x}.test", fastrand::u64(..), fastrand::u64(..));
        let chosen = table.choose(Some(&name), &[SignatureScheme::ECDSA_NISTP256_SHA256]);
        assert!(Arc::ptr_eq(&chosen.unwrap(), &loaded[0].key));
    }
    assert_eq!(before, (format!("{table:?}").len(), Arc::strong_count(&loaded[0].key)));
}

#[tokio::test]
async fn alpn_without_imap_is_refused_and_no_alpn_is_served() {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("mail", &["mail.test"])]);

    let mut web = lab.raw_client();
    web.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (ours, theirs) = raw_handshake(web, "mail.test", &server).await;
    assert!(ours.unwrap_err().to_string().contains("NoApplicationProtocol"));
    assert_eq!(theirs.unwrap_err().reason(), "alpn");

    let mut both = lab.raw_client();
    both.alpn_protocols = vec![b"http/1.1".to_vec(), b"imap".to_vec()];
    let (_, theirs) = raw_handshake(both, "mail.test", &server).await;
    assert_eq!(theirs.unwrap().alpn(), Some(ALPN_IMAP));

    let without = Backend { alpn: false, ..lab.backend("mail.test") };
    let without = ClientTls::for_backend(&without).unwrap().unwrap();
    let (ours, theirs) = handshake(&without, &server).await;
    assert_eq!(ours.unwrap().alpn(), None);
    assert_eq!(theirs.unwrap().alpn(), None);
}

/// Remembers tickets and offers them to whatever name is asked for next.
#[derive(Debug, Default)]
struct CarelessMemory(Mutex<Vec<rustls::client::Tls13ClientSessionValue>>);

impl ClientSessionStore for CarelessMemory {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(
        &self,
        _: ServerName<'static>,
        ticket: rustls::client::Tls13ClientSessionValue,
    ) {
        self.0.lock().unwrap().push(ticket);
    }
    fn take_tls13_ticket(
        &self,
        _: &ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.lock().unwrap().pop()
    }
}

#[tokio::test]
async fn a_ticket_resumes_its_own_name_and_no_other() {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("a", &["a.test"]), lab.certificate("b", &["b.test"])]);
    let memory = Arc::new(CarelessMemory::default());
    let mut client = lab.raw_client();
    let store: Arc<dyn ClientSessionStore> = memory.clone();
    client.resumption = Resumption::store(store);
    let mut kinds = Vec::new();
    for name in ["a.test", "a.test", "b.test"] {
        let (ours, theirs) = raw_handshake(client.clone(), name, &server).await;
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        // Tickets come behind the handshake: read until the first byte of data.
        theirs.write_all(b"*").await.unwrap();
        theirs.flush().await.unwrap();
        ours.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(memory.0.lock().unwrap().len(), 1, "one ticket a handshake");
        let connection = ours.get_ref().1;
        kinds.push(connection.handshake_kind().unwrap());
        let (_, leaf) =
            X509Certificate::from_der(&connection.peer_certificates().unwrap()[0]).unwrap();
        let names = format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value);
        assert!(names.contains(name), "{names}");
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Full]);
}

#[tokio::test]
async fn untrusted_backends_are_told_apart_for_the_operator() {
    let lab = Lab::new();
    let expired = server(vec![lab.expired("old", "n1.test")]);
    let text = untrusted_detail(&lab.client("n1.test"), &expired).await;
    assert!(text.contains("expired"), "{text}");

    let named = server(vec![lab.certificate("n1", &["n1.test"])]);
    let text = untrusted_detail(&lab.client("n2.test"), &named).await;
    assert!(text.contains("n2.test") && text.contains("n1.test"), "{text}");

    let twin = Lab::new();
    let text = untrusted_detail(&twin.client("n1.test"), &named).await;
    assert!(text.contains("another authority of the same name"), "{text}");

    let stranger = Lab::named("Stranger");
    let text = untrusted_detail(&stranger.client("n1.test"), &named).await;
    assert!(text.contains("unknown issuer"), "{text}");

    let (_, theirs) = handshake(&stranger.client("n1.test"), &named).await;
    assert_eq!(theirs.unwrap_err().reason(), "refused", "the server sees the alert");
}

#[tokio::test]
async fn a_self_signed_authority_as_server_gets_advice() {
    let lab = Lab::new();
    let mut params = CertificateParams::new(vec!["n1.test".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let files = Certificate {
        cert: lab.write("self.pem", &params.self_signed(&key).unwrap().pem()),
        key: lab.write("self.key", &key.serialize_pem()),
    };
    let backend = Backend { ca: Some(files.cert.clone()), ..lab.backend("n1.test") };
    let client = ClientTls::for_backend(&backend).unwrap().unwrap();
    let text = untrusted_detail(&client, &server(vec![files])).await;
    assert!(text.contains("pin_sha256"), "{text}");
}

#[tokio::test]
async fn verify_name_may_be_another_name_or_an_address() {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("n1", &["n1.test", "192.0.2.1", "2001:db8::1"])]);
    for verify_name in ["n1.test", "192.0.2.1", "2001:db8::1"] {
        let backend = Backend { verify_name: Some(verify_name.into()), ..lab.backend("10.9.9.9") };
        let client = ClientTls::for_backend(&backend).unwrap().unwrap();
        let (ours, _) = handshake(&client, &server).await;
        ours.unwrap_or_else(|error| panic!("{verify_name}: {error}"));
    }
    let text = untrusted_detail(&lab.client("192.0.2.2"), &server).await;
    assert!(text.contains("192.0.2.2"), "{text}");
}

#[tokio::test]
async fn a_pinned_key_needs_no_authority_and_another_key_is_refused() {
    let lab = Lab::new();
    let files = lab.expired("n1", "whatever.test");
    let pin = pin_of(&files);
    let server = server(vec![files]);
    let pinned = |pin_sha256, ca| {
        let backend = Backend { pin_sha256: Some(pin_sha256), ca, ..lab.backend("n1.test") };
        ClientTls::for_backend(&backend).unwrap().unwrap()
    };
    let (ours, _) = handshake(&pinned(pin, None), &server).await;
    ours.unwrap();

    let text = untrusted_detail(&pinned([7; 32], None), &server).await;
    let shown = pin.map(|byte| format!("{byte:02x}")).concat();
    assert!(text.contains("pin_sha256") && text.contains(&shown), "{text}");

    let text = untrusted_detail(&pinned(pin, Some(lab.ca.clone())), &server).await;
    assert!(text.contains("expired"), "with `ca` both must agree: {text}");
}

#[tokio::test]
async fn a_copied_certificate_without_its_key_is_refused_even_when_pinned() {
    let lab = Lab::new();
    let files = lab.certificate("n1", &["n1.test"]);
    let backend = Backend { pin_sha256: Some(pin_of(&files)), ca: None, ..lab.backend("n1.test") };
    let client = ClientTls::for_backend(&backend).unwrap().unwrap();

    let other = lab.certificate("thief", &["n1.test"]);
    let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&other.key).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    let stolen = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(stolen));
    let thief = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (dialled, accepted) = sockets().await;
    let (ours, _) = tokio::join!(client.connect(dialled), thief.accept(accepted));
    let error = ours.unwrap_err();
    assert!(error.is_untrusted() && error.to_string().contains("bad signature"), "{error:?}");
}

#[test]
fn broken_files_are_named() {
    let lab = Lab::new();
    let good = lab.certificate("good", &["good.test"]);
    let other = lab.certificate("other", &["other.test"]);
    let empty = lab.write("empty.pem", "");
    let torn = lab.write("torn.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let junk =
        lab.write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let locked = lab.write(
        "locked.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let bad_key =
        lab.write("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let missing = lab.folder.path().join("missing.pem");
    let faults: [(&PathBuf, &PathBuf, &str, &PathBuf); 8] = [
        (&good.cert, &other.key, "mismatch", &other.key),
        (&good.cert, &other.key, "mismatch", &good.cert),
        (&missing, &good.key, "unreadable", &missing),
        (&empty, &good.key, "no_certificate_in_file", &empty),
        (&torn, &good.key, "bad_pem", &torn),
        (&junk, &good.key, "bad_certificate", &junk),
        (&good.cert, &locked, "no_key_in_file", &locked),
        (&good.cert, &bad_key, "bad_key", &bad_key),
    ];
    for (cert, key, reason, named) in faults {
        let files = Certificate { cert: cert.clone(), key: key.clone() };
        let error = ServerTls::load(&Tls { certificates: vec![files] }).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(named.to_str().unwrap()), "{error}");
    }
    let none = ServerTls::load(&Tls::default()).unwrap_err();
    assert_eq!(none.reason(), "no_certificates");
}

#[test]
fn an_expired_certificate_loads_and_shows_its_date() {
    let lab = Lab::new();
    let files = lab.expired("old", "old.test");
    let server = server(vec![files.clone()]);
    let [info] = server.certificates() else { panic!("one certificate") };
    assert_eq!(info.not_after, 1_609_459_200, "2021-01-01");
    assert_eq!((info.name.as_str(), &info.path), ("old.test", &files.cert));
    assert!(info.is_expired(1_700_000_000) && !info.is_expired(1_600_000_000));
}

#[test]
fn a_backend_in_clear_has_no_tls_and_a_bad_name_is_an_error() {
    let lab = Lab::new();
    let clear = Backend { tls: TlsMode::None, ..lab.backend("n1.test") };
    assert!(ClientTls::for_backend(&clear).unwrap().is_none());
    let odd = ClientTls::for_backend(&lab.backend("no name")).unwrap_err();
    assert_eq!(odd.reason(), "bad_name");
    let lost = Backend { ca: Some("/nonexistent/ca.pem".into()), ..lab.backend("n1.test") };
    let lost = ClientTls::for_backend(&lost).unwrap_err();
    assert!(lost.to_string().contains("/nonexistent/ca.pem"), "{lost}");
}

#[test]
fn an_authority_file_is_read_once_for_all_backends() {
    let lab = Lab::new();
    let mut stores = TrustStores::default();
    let first = stores.file(&lab.ca).unwrap();
    std::fs::remove_file(&lab.ca).unwrap();
    assert!(Arc::ptr_eq(&first, &stores.file(&lab.ca).unwrap()));
}

/// What a server says of a peer that sends `bytes` and then closes or waits.
async fn accept_from(bytes: &[u8], close: bool) -> HandshakeError {
    let lab = Lab::new();
    let server = server(vec![lab.certificate("mail", &["mail.test"])]);
    let (mut dialled, accepted) = sockets().await;
    dialled.write_all(bytes).await.unwrap();
    if close {
        dialled.shutdown().await.unwrap();
    }
    server.accept(accepted, DEADLINE).await.unwrap_err()
}

#[tokio::test]
async fn a_probe_that_sends_nothing_is_no_failure() {
    let error = accept_from(b"", true).await;
    assert!(error.is_silent() && error.reason() == "silent");
}

#[tokio::test]
async fn clear_text_on_a_tls_port_is_told_apart_from_a_broken_handshake() {
    assert_eq!(accept_from(b"a1 CAPABILITY\r\n", false).await.reason(), "not_tls");
    assert_eq!(accept_from(b"\x16\x03\x01\x02\x00\x01", true).await.reason(), "closed");
    assert_eq!(accept_from(b"\x16\x03\x01\x00\x04\x09\0\0\0", false).await.reason(), "protocol");
}

#[tokio::test(start_paused = true)]
async fn half_a_handshake_ends_at_the_deadline() {
    let began = tokio::time::Instant::now();
    let error = accept_from(b"\x16\x03\x01\x02\x00\x01", false).await;
    assert_eq!(error.reason(), "timeout");
    assert_eq!(began.elapsed(), DEADLINE);
}

#[tokio::test]
async fn a_backend_in_clear_text_is_named_as_such() {
    let lab = Lab::new();
    let (dialled, mut accepted) = sockets().await;
    accepted.write_all(b"* OK Dovecot ready.\r\n").await.unwrap();
    let error = lab.client("n1.test").connect(dialled).await.unwrap_err();
    assert_eq!(error.reason(), "not_tls");
}

#[tokio::test]
async fn a_clear_leg_gives_its_socket_back_for_starttls() {
    let (dialled, mut accepted) = sockets().await;
    let mut stream = Stream::from(dialled);
    assert!(!stream.is_tls() && stream.tls_version().is_none() && stream.sni().is_none());
    stream.write_all(b"a1 STARTTLS\r\n").await.unwrap();
    let mut line = [0; 13];
    accepted.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"a1 STARTTLS\r\n");
    assert!(stream.into_plain().is_ok());
}
