//! TLS with clients: certificates by name, ALPN, tickets, the handshake under a deadline.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;

use crate::config::Tls;
use crate::net::stream::Stream;
use crate::net::tls::certificates::{self, CertificateInfo};
use crate::net::tls::handshake::{self, HandshakeError};
use crate::net::tls::resolver::CertificateTable;
use crate::net::tls::session::ServerSession;
use crate::net::tls::{ALPN_IMAP, TlsError, provider};

/// The proxy as TLS server, one value per configuration generation. Cloning is two
/// counts. A reload loads a new one; connections made with the old one go on.
///
/// Resumption is by one stateless ticket a handshake, encrypted with keys that this
/// value makes and rotates; a ticket is taken only with the server name it was given
/// for (RFC 6066 §3), so that it cannot go around the choice of certificate.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    table: Arc<CertificateTable>,
    certificates: Arc<[CertificateInfo]>,
}

impl ServerTls {
    /// Reads and checks all certificates and keys. The first is the default; the others
    /// are chosen by the DNS names in them, wildcards included; several certificates
    /// with one name are chosen by what the client can verify. Blocks on file reads.
    ///
    /// An expired certificate loads: see [`CertificateInfo::is_expired`].
    pub fn load(tls: &Tls) -> Result<Self, TlsError> {
        if tls.certificates.is_empty() {
            return Err(TlsError::NoCertificates);
        }
        let provider = provider();
        let mut loaded = Vec::with_capacity(tls.certificates.len());
        for files in &tls.certificates {
            loaded.push(certificates::load(files, &provider)?);
        }
        let table = Arc::new(CertificateTable::new(&loaded));
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<CertificateTable>::clone(&table);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN_IMAP.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Self {
            config: Arc::new(config),
            table,
            certificates: loaded.into_iter().map(|certificate| certificate.info).collect(),
        })
    }

    /// What is wrong with each certificate and key, where [`Self::load`] tells the first.
    pub fn faults(tls: &Tls) -> Vec<TlsError> {
        if tls.certificates.is_empty() {
            return vec![TlsError::NoCertificates];
        }
        let provider = provider();
        let load = |files| certificates::load(files, &provider).err();
        tls.certificates.iter().filter_map(load).collect()
    }

    /// The certificates in the configuration's order, for logs and the expiry metric.
    pub fn certificates(&self) -> &[CertificateInfo] {
        &self.certificates
    }

    /// Does the handshake with a client, at most for `deadline`.
    ///
    /// The first byte is looked at before: a peer that closes without a byte is
    /// [`HandshakeError::Silent`] (a balancer's probe, no failure), one that speaks
    /// something else is [`HandshakeError::NotTls`] and gets no alert. A client that
    /// sends ALPN without `imap` is refused, one without ALPN is served (RFC 7301 §3.2).
    /// On error, and when the future is dropped, the socket is closed.
    ///
    /// The session is in its box from the start, so that the future stays small.
    pub async fn accept(
        &self,
        stream: TcpStream,
        deadline: Duration,
    ) -> Result<Stream, HandshakeError> {
        tokio::time::timeout(deadline, self.accept_unbounded(stream))
            .await
            .unwrap_or(Err(HandshakeError::Timeout { waited: deadline }))
    }

    async fn accept_unbounded(&self, stream: TcpStream) -> Result<Stream, HandshakeError> {
        handshake::expect_tls(&stream).await?;
        let asked = Arc::new(AskedName { table: Arc::clone(&self.table), name: OnceLock::new() });
        let mut config = ServerConfig::clone(&self.config);
        config.cert_resolver = Arc::<AskedName>::clone(&asked);
        let connection = UnbufferedServerConnection::new(Arc::new(config))
            .map_err(HandshakeError::from_rustls)?;
        let mut session = Box::new(ServerSession::new(stream, connection));
        session.handshake().await.map_err(HandshakeError::from_io)?;
        session.remember_sni(asked.name.get().cloned());
        Ok(Stream::ServerTls(session))
    }
}

/// One handshake's view of the table. rustls tells the server name to nobody but the
/// resolver of certificates, so each handshake has one that writes it down.
#[derive(Debug)]
struct AskedName {
    table: Arc<CertificateTable>,
    name: OnceLock<Box<str>>,
}

impl ResolvesServerCert for AskedName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            self.name.get_or_init(|| name.into());
        }
        self.table.choose(hello.server_name(), hello.signature_schemes())
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls")
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}
