//! Byte streams, clear or encrypted, and the TLS settings that every proxy is measured with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::{BenchError, Context, Result};

/// A connected stream of either kind.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// The name in the certificate.
const NAME: &str = "imap.bench.example";

/// What the report says about TLS; the client offers nothing else, so all servers agree on it.
pub(crate) const SETTINGS: &str = "TLS 1.3, TLS_AES_128_GCM_SHA256, X25519, ECDSA P-256 leaf";

/// How the client side of a measurement is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// No TLS.
    Clear,
    /// Implicit TLS with a full handshake.
    Tls,
    /// Implicit TLS, resumed with a ticket where the server gave one.
    TlsResumed,
}

impl Security {
    /// The word in the report.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Tls => "TLS",
            Self::TlsResumed => "TLS resumed",
        }
    }
}

/// The bench's certificate, in files for the proxies and in memory for its own ends.
pub(crate) struct Identity {
    /// PEM file of the certificate.
    pub(crate) cert: PathBuf,
    /// PEM file of the key.
    pub(crate) key: PathBuf,
    /// PEM file of both, as `HAProxy` wants them.
    pub(crate) joined: PathBuf,
    leaf: CertificateDer<'static>,
    secret: PrivateKeyDer<'static>,
}

impl Identity {
    /// Makes a P-256 key with a self-signed certificate and writes them to `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])
            .map_err(|error| BenchError::Setup(format!("no certificate: {error}")))?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let identity = Self {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            joined: dir.join("joined.pem"),
            leaf: made.cert.der().clone(),
            secret: PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()),
        };
        fs::write(&identity.cert, &cert).context("write the certificate")?;
        fs::write(&identity.key, &key).context("write the key")?;
        fs::write(&identity.joined, cert + &key).context("write the joined PEM")?;
        Ok(identity)
    }

    /// A client that knows this certificate. Each value has its own store of tickets.
    pub(crate) fn connector(&self, security: Security) -> Result<Option<TlsConnector>> {
        let resumption = match security {
            Security::Clear => return Ok(None),
            Security::Tls => Resumption::disabled(),
            Security::TlsResumed => Resumption::in_memory_sessions(8),
        };
        let mut roots = RootCertStore::empty();
        roots.add(self.leaf.clone())?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = resumption;
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }

    /// A server with this certificate, for the backend when it is measured directly.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf.clone()], self.secret.clone_key())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// The name that clients ask for and verify.
pub(crate) fn server_name() -> Result<ServerName<'static>> {
    ServerName::try_from(NAME).map_err(|error| BenchError::Setup(error.to_string()))
}

/// One suite and one group, so that a server's own order of preference changes nothing.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}
