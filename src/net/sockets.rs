//! Options of accepted and dialled sockets, and the process's descriptor limit.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};

use crate::config::Silence;

/// Longest pause between unanswered keepalive probes, both legs.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// Prepares the socket of a client or backend: no Nagle delay, keepalive, bounded
/// retransmission. Linux gives up a silent peer by `user_timeout`, not by a count of probes.
/// Fails only on a socket that is closed already or is not TCP.
pub fn tune<S: AsFd>(socket: &S, silence: Silence) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let interval = silence.keepalive.min(KEEPALIVE_INTERVAL);
    let keepalive = TcpKeepalive::new().with_time(silence.keepalive).with_interval(interval);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(silence.user_timeout))
}

/// Makes the coming close send RST and forget unsent bytes (`SO_LINGER` 0), for peers
/// that must not take what they have read for a whole conversation.
pub fn reset_on_close<S: AsFd>(socket: &S) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Raises the soft limit of open descriptors to the hard one and returns the limit that
/// now holds (`u64::MAX` for none). Where the kernel refuses, the old one stays.
pub fn raise_descriptor_limit() -> u64 {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A listener whose backlog is full, so that the kernel answers no SYN, with what fills it.
#[cfg(test)]
pub(crate) fn silent_listener(
    at: std::net::IpAddr,
) -> (std::net::TcpListener, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::new(at, 0).into()).unwrap();
    socket.listen(0).unwrap();
    let listener: std::net::TcpListener = socket.into();
    let address = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    let short = std::time::Duration::from_millis(300);
    while let Ok(filler) = std::net::TcpStream::connect_timeout(&address, short) {
        fillers.push(filler);
        assert!(fillers.len() < 64);
    }
    (listener, fillers)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_gets_its_options_and_probes_follow_no_slower_than_the_first_one_came() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for (keepalive, interval) in [(300, 60), (7, 7)] {
            let seconds = Duration::from_secs;
            let silence = Silence { keepalive: seconds(keepalive), user_timeout: seconds(601) };
            tune(&dialled, silence).unwrap();
            assert!(dialled.nodelay().unwrap());
            let socket = SockRef::from(&dialled);
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(keepalive));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), seconds(interval));
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(seconds(601)));
        }
    }

    #[test]
    fn the_soft_descriptor_limit_becomes_the_hard_one() {
        let limit = raise_descriptor_limit();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(limit, now.maximum.unwrap_or(u64::MAX));
    }

    #[test]
    fn a_reset_close_is_seen_as_a_reset() {
        use std::io::Read;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        reset_on_close(&accepted).unwrap();
        drop(accepted);
        let seen = dialled.read(&mut [0; 1]).unwrap_err();
        assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
    }
}
