//! What can go wrong in a benchmark run.

use std::io;

/// The result of everything here that talks to a socket, a file or a process.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// Why a measurement or its set-up failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A socket, file or process said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A peer answered something that the work did not expect.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// The bench could not be set up.
    #[error("{0}")]
    Setup(String),
    /// The certificate or the TLS settings do not work.
    #[error("TLS settings: {0}")]
    Tls(#[from] rustls::Error),
    /// A measurement did not end within its limit.
    #[error("no end within {0} s")]
    Timeout(u64),
}

/// Names what was tried when a system call fails.
pub(crate) trait Context<T> {
    /// Adds `what` to an error.
    fn context(self, what: &str) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &str) -> Result<T> {
        self.map_err(|source| BenchError::Io { what: what.to_owned(), source })
    }
}
