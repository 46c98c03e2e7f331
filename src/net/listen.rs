//! Listening sockets. Accepting is the proxy's: it owns permits and back-off.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listener;

/// Connections that wait for accept. The kernel cuts it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// Why a listener has no socket. Names the listener, its address and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has the port, or another listener of this configuration.
    #[error(
        "listener {listener}: {address} is taken by another process; \
         `ss -ltnp 'sport = :{port}'` shows which", port = address.port()
    )]
    InUse {
        /// The listener's name.
        listener: String,
        /// The address asked for.
        address: SocketAddr,
    },
    /// The process may not use this port.
    #[error(
        "listener {listener}: no permission for {address}; ports below 1024 need \
         CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE) or root"
    )]
    NotPermitted {
        /// The listener's name.
        listener: String,
        /// The address asked for.
        address: SocketAddr,
    },
    /// No interface of this machine has the address, or IPv6 is switched off.
    #[error(
        "listener {listener}: this machine has no address {address}; give one that \
         `ip address` shows, `[::]` for all, or `0.0.0.0` where IPv6 is switched off"
    )]
    NoSuchAddress {
        /// The listener's name.
        listener: String,
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else that the kernel said, such as no descriptors left.
    #[error("listener {listener}: cannot listen on {address}: {source}")]
    Io {
        /// The listener's name.
        listener: String,
        /// The address asked for.
        address: SocketAddr,
        /// The kernel's word.
        source: io::Error,
    },
}

impl BindError {
    /// The kind of failure, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "in_use",
            Self::NotPermitted { .. } => "not_permitted",
            Self::NoSuchAddress { .. } => "no_such_address",
            Self::Io { .. } => "io",
        }
    }
}

/// Opens the listener's socket: non-blocking, closed on exec, backlog [`BACKLOG`].
///
/// `SO_REUSEADDR` lets a restart take the port while old connections fade out;
/// `SO_REUSEPORT` is never set, so that a second proxy on the port is an error and no
/// silent sharing. `[::]` takes IPv4 as well.
pub fn bind(listener: &Listener) -> Result<TcpListener, BindError> {
    open(listener.address).map_err(|source| {
        let (name, address) = (listener.name.clone(), listener.address);
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { listener: name, address },
            io::ErrorKind::PermissionDenied => BindError::NotPermitted { listener: name, address },
            io::ErrorKind::AddrNotAvailable => BindError::NoSuchAddress { listener: name, address },
            _ if family_is_off(&source) => BindError::NoSuchAddress { listener: name, address },
            _ => BindError::Io { listener: name, address, source },
        }
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // The system's default may be "IPv6 only"; a fixed `[::1]` takes no IPv4 anyway.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn family_is_off(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::config::{ProxyProtocol, TlsMode};

    fn listener(address: SocketAddr) -> Listener {
        Listener {
            name: "imaps".into(),
            address,
            tls: TlsMode::Implicit,
            proxy_protocol: ProxyProtocol::None,
            trusted: Vec::new(),
            trust_tls: false,
            id_trusted: Vec::new(),
            mechanisms: Vec::new(),
            allow_clear_login: false,
            sessions_max: None,
        }
    }

    #[test]
    fn a_taken_port_is_an_error_that_says_what_to_do() {
        let first = bind(&listener("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(&listener(address)).unwrap_err();
        assert_eq!(error.reason(), "in_use");
        let text = error.to_string();
        assert!(text.contains("imaps") && text.contains(&address.to_string()), "{text}");
        assert!(text.contains(&format!("sport = :{}", address.port())), "{text}");
    }

    #[test]
    fn the_ipv6_wildcard_takes_ipv4_too() {
        let Ok(wildcard) = bind(&listener("[::]:0".parse().unwrap())) else {
            return; // A machine without IPv6.
        };
        let port = wildcard.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        TcpStream::connect(("::1", port)).unwrap();
    }

    #[test]
    fn a_foreign_address_is_named() {
        let error = bind(&listener("192.0.2.77:1143".parse().unwrap())).unwrap_err();
        assert_eq!(error.reason(), "no_such_address");
        assert!(error.to_string().contains("192.0.2.77:1143"));
    }

    #[test]
    fn accepting_from_an_empty_queue_does_not_block() {
        let socket = bind(&listener("127.0.0.1:0".parse().unwrap())).unwrap();
        assert_eq!(socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
