//! Why a handshake failed, told apart for metrics, logs and retries.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error as RustlsError, InvalidMessage};
use tokio::net::TcpStream;

/// First byte of every TLS handshake record (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// A handshake that did not lead to a session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer went away without one byte: a balancer's probe. Not a failure.
    #[error("the peer closed without sending anything")]
    Silent,
    /// The peer went away in the middle.
    #[error("the peer closed during the TLS handshake")]
    Closed,
    /// Not finished in time.
    #[error("no TLS session within {waited:?}")]
    Timeout {
        /// The deadline that passed.
        waited: Duration,
    },
    /// The peer's bytes are not TLS.
    #[error("the peer does not speak TLS: is the port one for clear text or STARTTLS?")]
    NotTls,
    /// ALPN named protocols and `imap` was not among them.
    #[error("the peer asked for another protocol than imap (ALPN)")]
    Alpn,
    /// No version, cipher suite, group or signature scheme in common.
    #[error("no TLS parameters in common: {detail}")]
    Incompatible {
        /// What was missing.
        detail: String,
    },
    /// The peer refused with an alert.
    #[error("the peer refused with the TLS alert {alert}")]
    Refused {
        /// The alert's name.
        alert: String,
    },
    /// The backend's certificate is not to be trusted. Another try cannot help.
    #[error("the certificate is not trusted: {detail}")]
    Untrusted {
        /// Expired, wrong name (with the presented names), unknown issuer or wrong pin.
        detail: String,
    },
    /// The peer broke the protocol.
    #[error("TLS protocol error: {0}")]
    Protocol(RustlsError),
    /// The connection failed.
    #[error("connection lost during the TLS handshake: {0}")]
    Io(io::Error),
}

impl HandshakeError {
    /// The kind of failure, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Closed => "closed",
            Self::Timeout { .. } => "timeout",
            Self::NotTls => "not_tls",
            Self::Alpn => "alpn",
            Self::Incompatible { .. } => "incompatible",
            Self::Refused { .. } => "refused",
            Self::Untrusted { .. } => "untrusted",
            Self::Protocol(_) => "protocol",
            Self::Io(_) => "io",
        }
    }

    /// Whether the peer never said a byte, so that nothing is counted or logged.
    pub const fn is_silent(&self) -> bool {
        matches!(self, Self::Silent)
    }

    /// Whether the backend failed verification: never retried, never blamed on the user.
    pub const fn is_untrusted(&self) -> bool {
        matches!(self, Self::Untrusted { .. })
    }

    /// Sorts what a session reports; rustls' own errors come wrapped.
    pub(super) fn from_io(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>());
        match inner {
            Some(inner) => Self::from_rustls(inner.clone()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }

    pub(super) fn from_rustls(error: RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(error) => {
                Self::Untrusted { detail: untrusted_detail(&error) }
            }
            RustlsError::NoCertificatesPresented => {
                Self::Untrusted { detail: "the peer sent no certificate".into() }
            }
            RustlsError::NoApplicationProtocol
            | RustlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            RustlsError::PeerIncompatible(what) => {
                Self::Incompatible { detail: format!("{what:?}") }
            }
            RustlsError::AlertReceived(alert) => Self::Refused { alert: format!("{alert:?}") },
            RustlsError::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            other => Self::Protocol(other),
        }
    }
}

/// Waits for the peer's first byte, leaves it in the socket, and says whether it can
/// begin a handshake.
pub(super) async fn expect_tls(stream: &TcpStream) -> Result<(), HandshakeError> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => Err(HandshakeError::Silent),
        Ok(_) if first == [HANDSHAKE_RECORD] => Ok(()),
        Ok(_) => Err(HandshakeError::NotTls),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(HandshakeError::Silent),
        Err(error) => Err(HandshakeError::Io(error)),
    }
}

fn untrusted_detail(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "unknown issuer: no authority in the backend's `ca` file \
             (or the system's list) signed it, or the backend does not send the intermediate \
             certificates"
                .into()
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "it is a certificate authority's own certificate, as self-signed ones often are: \
             use `pin_sha256` for it, or one that is marked as a server's"
                .into()
        }
        CertificateError::BadSignature => "bad signature: another authority of the same name \
             signed it, or the backend does not hold the certificate's key"
            .into(),
        // The library prints the inner one for programmers; its own text is for people.
        CertificateError::Other(other) => other.to_string(),
        other => other.to_string(),
    }
}
