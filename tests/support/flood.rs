//! What a flood needs: many sockets from many addresses, memory readings, quantiles, and a
//! switch between the usual and the full size.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// The usual number, or the full one in `make soak` (`POINTSMAN_SOAK=1`).
pub fn scaled(usual: usize, full: usize) -> usize {
    if std::env::var_os("POINTSMAN_SOAK").is_some() { full } else { usual }
}

/// Lets this process open as many sockets as the machine allows.
pub fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// The source of connection number `number`: a new loopback address every `per_address`.
pub fn source(number: usize, per_address: usize) -> Ipv4Addr {
    let address = u32::try_from(number / per_address).unwrap();
    let [_, _, high, low] = address.to_be_bytes();
    Ipv4Addr::new(127, 9, high, low + 1)
}

/// Connects from that loopback address.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(20)).unwrap();
    socket.into()
}

/// Memory that a process alone uses, its share of shared pages included, in KiB.
pub fn pss_kib(process: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Memory that a process has filled itself, without pages of files, in KiB: other processes
/// of the same program that come and go do not change it, as they change [`pss_kib`].
pub fn anonymous_kib(process: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The value that the given share of all does not exceed.
pub fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let place = Duration::from_secs(u64::try_from(values.len()).unwrap()).mul_f64(share).as_secs();
    let place = usize::try_from(place).unwrap();
    values[place.min(values.len() - 1)]
}
