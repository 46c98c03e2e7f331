//! Why a backend could not be joined, and what that says of it.

use std::io;

use rustix::io::Errno;

use crate::net::tls::HandshakeError;
use crate::upstream::health::Outcome;
use crate::upstream::login::LoginError;

/// Why a backend could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Its name has no address (yet).
    #[error("no address is known for the backend's name")]
    NoAddress,
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// TCP said no, or the connection broke.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The backend closed the connection.
    #[error("the backend closed the connection")]
    Closed,
    /// The TLS handshake failed.
    #[error("TLS with the backend failed: {0}")]
    Tls(#[from] HandshakeError),
    /// The configuration has no TLS for a leg that needs it.
    #[error("the backend leg has no TLS settings")]
    NoTls,
    /// The backend sent a line that is too long.
    #[error("the backend sent a line of more than 8 KiB")]
    LineTooLong,
    /// The login itself failed.
    #[error(transparent)]
    Login(#[from] LoginError),
}

impl DialError {
    /// The metric's `reason`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoAddress => "resolve",
            Self::Timeout => "timeout",
            Self::Io(_) => "connect",
            Self::Closed => "closed",
            Self::Tls(error) if error.is_untrusted() => "untrusted",
            Self::Tls(_) | Self::NoTls => "tls",
            Self::LineTooLong => "protocol",
            Self::Login(error) => error.reason(),
        }
    }

    /// Whether it says that the backend is out of order, so that others are tried first
    /// for a while, as they also are after a certificate that failed. A refusal is an
    /// answer; a missing mechanism is a matter of configuration.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Login(error) => {
                !matches!(error, LoginError::Rejected(_)) && !error.is_about_mechanisms()
            }
            Self::NoTls => false,
            _ => !self.is_own(),
        }
    }

    /// Whether the proxy could not even ask, which says nothing of the backend: its name has no
    /// address, or this machine has no descriptor, port, source address or memory left for it.
    pub fn is_own(&self) -> bool {
        match self {
            Self::NoAddress => true,
            Self::Io(error) | Self::Tls(HandshakeError::Io(error)) => is_about_this_machine(error),
            _ => false,
        }
    }

    /// What it says of the backend, where it says something: whether that answered.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Timeout
            | Self::Io(_)
            | Self::Closed
            | Self::Tls(
                HandshakeError::Silent
                | HandshakeError::Closed
                | HandshakeError::Timeout { .. }
                | HandshakeError::Io(_),
            ) => Outcome::Silent,
            _ => Outcome::Faulty,
        }
    }

    /// Whether the connection's end was seen, so that the backend has nothing of it left.
    /// One that the system gave up because nobody answered is not such an end.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Closed | Self::Login(LoginError::Bye) => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ),
            _ => false,
        }
    }

    /// Whether the backend itself ended the login with its answer.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Login(LoginError::Rejected(_) | LoginError::Cancelled))
    }

    /// Whether another backend of the shard may be tried. A certificate that fails is
    /// an attack or a wrong configuration, not an outage: no.
    pub const fn another_try_helps(&self) -> bool {
        match self {
            Self::NoAddress | Self::Timeout | Self::Io(_) | Self::Closed | Self::LineTooLong => {
                true
            }
            Self::Tls(error) => !error.is_untrusted(),
            Self::Login(error) => !matches!(
                error,
                LoginError::Rejected(_) | LoginError::NotListed(_) | LoginError::ChannelBinding
            ),
            Self::NoTls => false,
        }
    }
}

/// Whether the proxy or its machine lacks something. `connect` says that it has no port left
/// with `EADDRNOTAVAIL`.
fn is_about_this_machine(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let addresses = [io::ErrorKind::AddrNotAvailable, io::ErrorKind::AddrInUse];
    addresses.contains(&error.kind())
        || lacks.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::response::Status;
    use crate::protocol::response_code::ResponseCode;
    use crate::upstream::login::Rejection;

    fn io(errno: Errno) -> DialError {
        DialError::Io(io::Error::from_raw_os_error(errno.raw_os_error()))
    }

    #[test]
    fn what_this_machine_lacks_judges_no_backend() {
        let lacks = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
            Errno::ADDRINUSE,
        ];
        let unlike = DialError::Io(io::Error::new(io::ErrorKind::AddrNotAvailable, "no family"));
        for error in lacks.map(io).into_iter().chain([DialError::NoAddress, unlike]) {
            assert!(error.is_own() && !error.is_outage(), "{error:?}");
        }
        for errno in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::CONNRESET, Errno::TIMEDOUT] {
            let error = io(errno);
            assert!(!error.is_own() && error.is_outage(), "{error:?}");
            assert_eq!(error.outcome(), Outcome::Silent);
        }
    }

    #[test]
    fn a_backend_that_answers_is_not_silent_whatever_it_says() {
        let rejection = Rejection {
            status: Status::No,
            code: ResponseCode::AuthenticationFailed,
            text: String::new(),
            untagged: Vec::new(),
            referral: None,
        };
        let answers = [
            DialError::Login(LoginError::Rejected(rejection)),
            DialError::Login(LoginError::NoMechanism),
            DialError::Login(LoginError::Bye),
            DialError::Login(LoginError::Greeting { what: "BYE" }),
            DialError::Login(LoginError::NoStartTls),
            DialError::Tls(HandshakeError::Untrusted { detail: "expired".into() }),
            DialError::Tls(HandshakeError::NotTls),
            DialError::LineTooLong,
        ];
        for error in answers {
            assert_eq!(error.outcome(), Outcome::Faulty, "{error:?}");
        }
        for error in [DialError::Timeout, DialError::Closed, HandshakeError::Closed.into()] {
            assert_eq!(error.outcome(), Outcome::Silent, "{error:?}");
        }
    }
}
