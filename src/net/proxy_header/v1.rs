//! Version 1, a line of text:
//! `PROXY TCP4|TCP6 source destination source-port destination-port CRLF`, or
//! `PROXY UNKNOWN` and anything up to CRLF.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::proxy_header::{
    Addresses, Progress, ProxyHeader, ProxyHeaderError, V1_BYTES_MAX, begins_with, malformed,
};

const PREFIX: &[u8] = b"PROXY ";

pub(super) fn parse(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    match begins_with(bytes, PREFIX) {
        None => return Ok(Progress::Incomplete),
        Some(false) => return Err(ProxyHeaderError::Missing),
        Some(true) => {}
    }
    let head = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = memchr::memchr2(b'\r', b'\n', head) else {
        return if bytes.len() >= V1_BYTES_MAX {
            Err(ProxyHeaderError::TooLong { bytes_max: V1_BYTES_MAX })
        } else {
            Ok(Progress::Incomplete)
        };
    };
    let (line, rest) = head.split_at(end);
    match begins_with(rest, b"\r\n") {
        None if end + 1 < V1_BYTES_MAX => return Ok(Progress::Incomplete),
        None => return Err(ProxyHeaderError::TooLong { bytes_max: V1_BYTES_MAX }),
        Some(false) => return Err(malformed("line end")),
        Some(true) => {}
    }
    let said = line.get(PREFIX.len()..).unwrap_or_default();
    Ok(Progress::Complete { header: parse_line(said)?, consumed: end + 2 })
}

/// What stands between `PROXY ` and CRLF.
fn parse_line(said: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let unknown = said.strip_prefix(b"UNKNOWN");
    if unknown.is_some_and(|rest| matches!(rest.first(), None | Some(b' '))) {
        return Ok(ProxyHeader::default());
    }
    let text = std::str::from_utf8(said).map_err(|_| malformed("characters"))?;
    let mut words = text.split(' ');
    let mut next = || words.next().ok_or(malformed("number of fields"));
    let parse_ip = match next()? {
        "TCP4" => |word: &str| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |word: &str| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(malformed("protocol")),
    };
    let (source, destination) = (next()?, next()?);
    let (source_port, destination_port) = (next()?, next()?);
    if words.next().is_some() {
        return Err(malformed("number of fields"));
    }
    let end = |ip: &str, port: &str| -> Result<SocketAddr, ProxyHeaderError> {
        let ip = parse_ip(ip).ok_or(malformed("address"))?;
        let port = parse_port(port).ok_or(malformed("port"))?;
        Ok(SocketAddr::new(ip, port))
    };
    let addresses = Addresses::new(end(source, source_port)?, end(destination, destination_port)?);
    Ok(ProxyHeader { addresses: Some(addresses), ..ProxyHeader::default() })
}

/// Decimal, 0 to 65535, without sign or leading zero.
fn parse_port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = word == "0" || !word.starts_with('0');
    if plain && canonical { word.parse().ok() } else { None }
}
