//! TLS on both legs: [`ServerTls`] ends it for clients, [`ClientTls`] begins it to
//! backends. TLS 1.2 and 1.3 by rustls over aws-lc-rs, X25519MLKEM768 preferred.
//!
//! What one connection may hold is said at [`session::Session`]: buffers while bytes are
//! under way, none when idle.
//! No session is stored on the server: a client's ticket carries it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

mod certificates;
mod client;
mod handshake;
mod pem;
mod pin;
mod resolver;
mod server;
pub mod session;
#[cfg(test)]
mod tests;
mod trust;

pub use certificates::CertificateInfo;
pub use client::{ClientTls, verifying};
pub use handshake::HandshakeError;
pub use server::ServerTls;
pub use trust::TrustStores;

/// The one protocol that is offered by ALPN (RFC 7301, IANA's name for IMAP).
pub const ALPN_IMAP: &[u8] = b"imap";

/// Why certificates, keys or authorities cannot be used. All of them are the
/// operator's to mend; each names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A TLS listener without a certificate.
    #[error("no certificate is configured: add one under `tls.certificates`")]
    NoCertificates,
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The file is larger than any certificate or key is.
    #[error("{path} is larger than {bytes_max} bytes: is it a PEM file?", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
    /// The file has no `CERTIFICATE` block.
    #[error("{path} holds no certificate (no `BEGIN CERTIFICATE` block)", path = path.display())]
    NoCertificateInFile {
        /// The file.
        path: PathBuf,
    },
    /// The file has no usable private key block.
    #[error(
        "{path} holds no private key that can be used (an unencrypted PKCS#8, PKCS#1 or SEC1 \
         `PRIVATE KEY` block; a key with a passphrase must be decrypted first)", path = path.display()
    )]
    NoKeyInFile {
        /// The file.
        path: PathBuf,
    },
    /// The PEM armour or base64 is broken.
    #[error("{path} is not valid PEM: {detail}", path = path.display())]
    BadPem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The certificate cannot be parsed or used.
    #[error("the certificate in {path} cannot be used: {detail}", path = path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The key is of a kind or size that TLS cannot use.
    #[error("the private key in {path} cannot be used: {detail}", path = path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Certificate and key belong to different pairs.
    #[error(
        "the key in {key} does not belong to the first certificate in {cert} \
         (the server's own certificate must come first in the chain)",
        key = key.display(), cert = cert.display()
    )]
    Mismatch {
        /// The chain's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The machine has no list of public authorities.
    #[error(
        "the system's list of certificate authorities is missing (looked for {looked_for}): \
         install the package `ca-certificates`, or give the backend a `ca` file or a `pin_sha256`"
    )]
    NoSystemStore {
        /// The files tried.
        looked_for: String,
    },
    /// The name to verify is neither a host name nor an IP address.
    #[error(
        "backend {backend}: `{name}` is no host name or IP address that a certificate can carry"
    )]
    BadName {
        /// The backend's name.
        backend: String,
        /// The name to verify.
        name: String,
    },
    /// The TLS library refused to start.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsError {
    /// The kind of failure, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificates => "no_certificates",
            Self::Unreadable { .. } => "unreadable",
            Self::TooLarge { .. } => "too_large",
            Self::NoCertificateInFile { .. } => "no_certificate_in_file",
            Self::NoKeyInFile { .. } => "no_key_in_file",
            Self::BadPem { .. } => "bad_pem",
            Self::BadCertificate { .. } => "bad_certificate",
            Self::BadKey { .. } => "bad_key",
            Self::Mismatch { .. } => "mismatch",
            Self::NoSystemStore { .. } => "no_system_store",
            Self::BadName { .. } => "bad_name",
            Self::Setup(_) => "setup",
        }
    }
}

/// The cryptography of every connection: aws-lc-rs, the post-quantum hybrid first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
