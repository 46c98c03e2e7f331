//! What is asked of name servers, and what they say.

use std::net::IpAddr;
use std::time::Duration;

use crate::metrics::DnsResult;

/// What is asked for (RFC 1035 section 3.2, RFC 3596, RFC 2782).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The hosts of a service.
    Srv,
}

/// One question to the name servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The whole name, with or without the last dot: nothing is appended to it.
    pub name: String,
    /// What of it.
    pub kind: RecordKind,
}

impl Question {
    /// For that kind of records of a whole name.
    pub fn new(name: &str, kind: RecordKind) -> Self {
        Self { name: name.to_owned(), kind }
    }
}

/// One target of SRV records (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The lower, the sooner it is tried.
    pub priority: u16,
    /// Among the same priority: the higher, the sooner.
    pub weight: u16,
    /// TCP port.
    pub port: u16,
    /// The whole name of the host; `.`: the service is not available.
    pub target: String,
}

/// A good answer: at least one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Of A and AAAA records, in the server's order.
    pub addresses: Vec<IpAddr>,
    /// Of SRV records.
    pub services: Vec<Service>,
    /// How long the answer holds, as the server says.
    pub lifetime: Duration,
}

/// Why there is no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such name, or nothing of that kind under it.
    #[error("there is nothing under this name")]
    Nothing,
    /// The servers refused, failed or could not be reached.
    #[error("the name servers failed: {0}")]
    Failed(String),
    /// No server answered.
    #[error("no name server answered in time")]
    Timeout,
}

impl Failure {
    /// The metric's `result`.
    pub const fn result(&self) -> DnsResult {
        match self {
            Self::Nothing => DnsResult::Empty,
            Self::Failed(_) => DnsResult::Failed,
            Self::Timeout => DnsResult::Timeout,
        }
    }

    /// Of two failures the one that says less about the name.
    pub(super) fn worse(self, other: Self) -> Self {
        let rank = |failure: &Self| match failure {
            Self::Nothing => 0,
            Self::Failed(_) => 1,
            Self::Timeout => 2,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}
