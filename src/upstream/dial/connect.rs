//! The TCP connection to a backend: which of its addresses, and from which of this machine's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::DialError;
use crate::upstream::backends::Backend;

/// Least time for one of a backend's addresses: a SYN may be lost once.
const ADDRESS_TIME_MIN: Duration = Duration::from_millis(1_200);

/// Tries the backend's addresses in turn, beginning with the one that served last. Each
/// gets its share of the time, so that a silent one does not use up that of the others;
/// after a failure the next dial begins with the next address.
pub(super) async fn connect(backend: &Backend, deadline: Instant) -> Result<TcpStream, DialError> {
    let mut failure = DialError::NoAddress;
    let addresses = backend.addresses_in_turn();
    for (tried, address) in addresses.iter().enumerate() {
        if tried > 0 && Instant::now() >= deadline {
            break;
        }
        let until = share_until(Instant::now(), deadline, addresses.len() - tried);
        let dialled = connect_to(backend, *address);
        match timeout_at(until, dialled).await {
            Ok(Ok(stream)) => {
                backend.begin_with(*address);
                return Ok(stream);
            }
            Ok(Err(error)) => failure = DialError::Io(error),
            Err(_) => failure = DialError::Timeout,
        }
        let next = addresses.get(tried + 1).or(addresses.first()).unwrap_or(address);
        backend.begin_with(*next);
    }
    Err(failure)
}

/// Connects from whatever address the system chooses, or from the configured ones in turn: the
/// next one too where the system has no port left on it.
async fn connect_to(backend: &Backend, to: SocketAddr) -> io::Result<TcpStream> {
    let sources = &backend.config.source_addresses;
    if sources.is_empty() {
        return TcpStream::connect(to).await;
    }
    let mut failure = io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        "none of `source_addresses` is of the address's family",
    );
    let first = backend.next_source();
    let in_turn = (0..sources.len()).filter_map(|next| sources.get((first + next) % sources.len()));
    for source in in_turn.filter(|source| source.is_ipv4() == to.is_ipv4()) {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Else the port would be chosen now, for all destinations. Where the system does not
        // know the option it is.
        let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        let connected = match socket.bind(SocketAddr::new(*source, 0)) {
            Ok(()) => socket.connect(to).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if is_about_source(&error) => failure = error,
            result => return result,
        }
    }
    Err(failure)
}

/// Whether another source address may help: no port was left on this one, or the machine does
/// not have it (any more).
fn is_about_source(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// Until when one address is waited for where `addresses` share the time up to the
/// deadline. Where they are many, the last ones are left to the next dial.
fn share_until(now: Instant, deadline: Instant, addresses: usize) -> Instant {
    let left = deadline.saturating_duration_since(now);
    let sharers = u32::try_from(addresses).unwrap_or(u32::MAX).max(1);
    now + (left / sharers).max(ADDRESS_TIME_MIN).min(left)
}

#[cfg(test)]
mod tests;
