//! The PROXY protocol, versions 1 and 2 (the text `proxy-protocol.txt`): what a
//! balancer in front of the proxy says of the client, and what the proxy says of it to
//! a backend. Whether the sender is to be believed is the listener's question.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::net::cidr::normalise_socket;

mod encode;
mod read;
#[cfg(test)]
mod tests;
mod tlv;
mod v1;
mod v2;

pub use encode::encode_v2;
pub use read::read_proxy_header;

/// Longest version 1 header, CRLF included.
pub const V1_BYTES_MAX: usize = 107;

/// Longest version 2 header behind its 16 fixed bytes. Addresses and the usual TLVs are
/// below 600 bytes; a forwarded client certificate takes 1 to 3 KiB. The format would
/// allow 65,535, which a flood of connections could make the proxy hold for each.
pub const V2_LENGTH_MAX: u16 = 4096;

/// Longest `UNIQUE_ID` that the format allows.
pub const UNIQUE_ID_BYTES_MAX: usize = 128;

/// What a header says. An empty one (`LOCAL`, `UNKNOWN`, a family without IP addresses)
/// means that the socket's own addresses hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyHeader {
    /// The client's and the balancer's addresses.
    pub addresses: Option<Addresses>,
    /// What the balancer says of the client's TLS; believed only with `trust_tls`.
    pub tls: Option<ProxyTls>,
    /// The server name that the client asked for (SNI), without control characters.
    pub authority: Option<String>,
    /// The protocol that ALPN agreed on between client and balancer.
    pub alpn: Option<Vec<u8>>,
    /// The sender's id of the connection, opaque, at most [`UNIQUE_ID_BYTES_MAX`].
    pub unique_id: Option<Vec<u8>>,
}

/// The two ends of the connection between client and balancer, IPv4-mapped addresses
/// as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where the client is.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

impl Addresses {
    /// Both ends in their one form.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source: normalise_socket(source), destination: normalise_socket(destination) }
    }
}

/// The SSL TLV without its texts: names in it are never users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyTls {
    /// `PP2_CLIENT_*` bits: 1 TLS, 2 certificate on this connection, 4 in this session.
    pub client_bits: u8,
    /// 0 when the client's certificate was verified.
    pub verify: u32,
}

impl ProxyTls {
    /// The client is on TLS and showed no certificate.
    pub const WITHOUT_CERTIFICATE: Self = Self { client_bits: 1, verify: 1 };

    /// Whether the client is on TLS.
    pub const fn is_over_tls(self) -> bool {
        self.client_bits & 1 != 0
    }
}

/// How far a header has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Right so far, more is needed.
    Incomplete,
    /// A whole header; what lies behind `consumed` bytes is the client's.
    Complete {
        /// What it says.
        header: ProxyHeader,
        /// Its length in bytes.
        consumed: usize,
    },
}

/// Why there is no header. After any of these the connection is closed without a word.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The peer closed without one byte: a balancer's probe. Not a failure.
    #[error("the peer closed without sending anything")]
    Silent,
    /// The peer closed in the middle of the header.
    #[error("the peer closed inside its PROXY header")]
    Truncated,
    /// No whole header in time.
    #[error("no PROXY header within {waited:?}")]
    Timeout {
        /// The deadline that passed.
        waited: Duration,
    },
    /// The connection begins with something else.
    #[error("the connection does not begin with a PROXY header: does the sender have it on?")]
    Missing,
    /// Longer than allowed.
    #[error("PROXY header longer than {bytes_max} bytes")]
    TooLong {
        /// The bound that it passed.
        bytes_max: usize,
    },
    /// Against the format.
    #[error("malformed PROXY header: {what}")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// The checksum (CRC32C) is wrong.
    #[error("PROXY header with a wrong checksum")]
    Checksum,
    /// The connection failed.
    #[error("connection lost before the PROXY header: {0}")]
    Io(#[from] io::Error),
}

impl ProxyHeaderError {
    /// The kind of failure, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Truncated => "truncated",
            Self::Timeout { .. } => "timeout",
            Self::Missing => "missing",
            Self::TooLong { .. } => "too_long",
            Self::Malformed { .. } => "malformed",
            Self::Checksum => "checksum",
            Self::Io(_) => "io",
        }
    }

    /// Whether the peer never said a byte, so that nothing is counted or logged.
    pub const fn is_silent(&self) -> bool {
        matches!(self, Self::Silent)
    }
}

/// Parses the header at the start of `bytes`, of either version. The first byte that no
/// header can have there is an error at once: a missing header is never guessed around.
pub fn parse(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    match bytes.first() {
        None => Ok(Progress::Incomplete),
        Some(first) if v2::SIGNATURE.first() == Some(first) => v2::parse(bytes),
        Some(_) => v1::parse(bytes),
    }
}

/// Shorthand for a fault of form.
const fn malformed(what: &'static str) -> ProxyHeaderError {
    ProxyHeaderError::Malformed { what }
}

/// Whether `bytes` begin with `prefix` (`Some(true)`), may still do so (`None`), or do not.
fn begins_with(bytes: &[u8], prefix: &[u8]) -> Option<bool> {
    if bytes.starts_with(prefix) {
        Some(true)
    } else if prefix.starts_with(bytes) {
        None
    } else {
        Some(false)
    }
}
