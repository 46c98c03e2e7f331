//! TLS with backends: verified by authority and name, by a pinned key, or by both.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{
    Resumption, UnbufferedClientConnection, VerifierBuilderError, WebPkiServerVerifier,
};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use crate::config::{Backend, TlsMode};
use crate::net::stream::Stream;
use crate::net::tls::handshake::HandshakeError;
use crate::net::tls::pin::PinVerifier;
use crate::net::tls::session::ClientSession;
use crate::net::tls::trust::TrustStores;
use crate::net::tls::{ALPN_IMAP, TlsError, provider};

/// Sessions remembered for resumption. There is one server name, and rustls counts
/// eight tickets to it.
const REMEMBERED_SESSIONS: usize = 8;

/// The proxy as TLS client of one backend. Cloning is a count and a short name.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl ClientTls {
    /// What a backend's configuration asks for, `None` for `tls: none`. Blocks on file
    /// reads. For many backends use [`Self::for_backend_with`].
    pub fn for_backend(backend: &Backend) -> Result<Option<Self>, TlsError> {
        Self::for_backend_with(backend, &mut TrustStores::default())
    }

    /// [`Self::for_backend`] with authorities shared between the backends of a load.
    ///
    /// Trust is by the backend's `ca` file; else by `pin_sha256` alone; else by the
    /// system's authorities. With both `ca` and `pin_sha256` both must agree. The name
    /// that the certificate must carry, and that is sent as SNI unless it is an IP
    /// address, is `verify_name`, else the host, or the domain of SRV records.
    pub fn for_backend_with(
        backend: &Backend,
        stores: &mut TrustStores,
    ) -> Result<Option<Self>, TlsError> {
        match backend.tls {
            TlsMode::None => return Ok(None),
            TlsMode::Implicit | TlsMode::Starttls => {}
        }
        let own_name = backend.place.certificate_name();
        let name = backend.verify_name.as_deref().unwrap_or(own_name);
        let server_name = server_name(name).ok_or_else(|| TlsError::BadName {
            backend: backend.name.to_string(),
            name: name.to_owned(),
        })?;
        let provider = provider();
        let verifier = verifier(backend, stores, &provider)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        if backend.alpn {
            config.alpn_protocols = vec![ALPN_IMAP.to_vec()];
        }
        config.resumption = Resumption::in_memory_sessions(REMEMBERED_SESSIONS);
        Ok(Some(Self { config: Arc::new(config), server_name }))
    }

    /// TLS with a server that is no backend, whose certificate must carry `host`. Blocks on
    /// file reads.
    pub fn for_host(host: &str, ca: Option<&Path>) -> Result<Self, TlsError> {
        let server_name = server_name(host)
            .ok_or_else(|| TlsError::BadName { backend: host.to_owned(), name: host.to_owned() })?;
        Ok(Self { config: verifying(ca)?, server_name })
    }

    /// Does the handshake on a connected socket: right away for implicit TLS, after the
    /// backend's OK for STARTTLS. Without a deadline of its own: the dial has one over
    /// all its steps. On error, and when the future is dropped, the socket is closed.
    pub async fn connect(&self, stream: TcpStream) -> Result<Stream, HandshakeError> {
        let name = self.server_name.clone();
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.config), name)
            .map_err(HandshakeError::from_rustls)?;
        let mut session = Box::new(ClientSession::new(stream, connection));
        session.handshake().await.map_err(HandshakeError::from_io)?;
        Ok(Stream::ClientTls(session))
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// What a client of a directory needs that does the handshake itself: trust by the
/// authorities in the file, else by the system's; no ALPN. Blocks on file reads.
pub fn verifying(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut stores = TrustStores::default();
    let roots = match ca {
        Some(file) => stores.file(file)?,
        None => stores.system()?,
    };
    let provider = provider();
    let verifier = by_authority(roots, &provider)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A host name, or an IP address with or without brackets.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.trim_end_matches('.').to_owned()).ok()
}

fn verifier(
    backend: &Backend,
    stores: &mut TrustStores,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let Some(pin_sha256) = backend.pin_sha256 else {
        let roots = match &backend.ca {
            Some(file) => stores.file(file)?,
            None => stores.system()?,
        };
        return Ok(by_authority(roots, provider)?);
    };
    let authorities = match &backend.ca {
        Some(file) => Some(by_authority(stores.file(file)?, provider)?),
        None => None,
    };
    Ok(Arc::new(PinVerifier { pin_sha256, authorities, provider: Arc::clone(provider) }))
}

fn by_authority(
    roots: Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|error: VerifierBuilderError| rustls::Error::General(error.to_string()).into())
}
