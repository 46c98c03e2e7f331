//! Version 2, binary: a 12-byte signature, version and command, family and protocol,
//! length (16 bits, network order), addresses, TLVs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::proxy_header::{
    Addresses, Progress, ProxyHeader, ProxyHeaderError, V2_LENGTH_MAX, begins_with, malformed, tlv,
};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
pub(super) const FIXED_BYTES: usize = 16;

pub(super) const COMMAND_LOCAL: u8 = 0x20;
pub(super) const COMMAND_PROXY: u8 = 0x21;
pub(super) const UNSPECIFIED: u8 = 0x00;
pub(super) const TCP_IPV4: u8 = 0x11;
pub(super) const TCP_IPV6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;
const UNIX_ADDRESSES_BYTES: usize = 216;

pub(super) fn parse(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    match begins_with(bytes, SIGNATURE) {
        None => return Ok(Progress::Incomplete),
        Some(false) => return Err(ProxyHeaderError::Missing),
        Some(true) => {}
    }
    // Each byte is judged as soon as it is there: a wrong one waits for no other.
    let Some(&command) = bytes.get(12) else { return Ok(Progress::Incomplete) };
    if command != COMMAND_LOCAL && command != COMMAND_PROXY {
        return Err(malformed("version or command"));
    }
    let Some(&family) = bytes.get(13) else { return Ok(Progress::Incomplete) };
    let Some(length) = declared_length(bytes)? else { return Ok(Progress::Incomplete) };
    let consumed = FIXED_BYTES + length;
    let Some(whole) = bytes.get(..consumed) else { return Ok(Progress::Incomplete) };
    let header = if command == COMMAND_LOCAL {
        // The balancer speaks for itself (a health check): the rest is to be skipped.
        ProxyHeader::default()
    } else {
        parse_body(family, whole)?
    };
    Ok(Progress::Complete { header, consumed })
}

/// The length behind the fixed bytes, once it is there; an error above the bound.
pub(super) fn declared_length(bytes: &[u8]) -> Result<Option<usize>, ProxyHeaderError> {
    let Some(&[high, low]) = bytes.get(14..).and_then(|rest| rest.first_chunk::<2>()) else {
        return Ok(None);
    };
    let length = u16::from_be_bytes([high, low]);
    if length > V2_LENGTH_MAX {
        let bytes_max = FIXED_BYTES + usize::from(V2_LENGTH_MAX);
        return Err(ProxyHeaderError::TooLong { bytes_max });
    }
    Ok(Some(usize::from(length)))
}

fn parse_body(family: u8, whole: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let body = whole.get(FIXED_BYTES..).unwrap_or_default();
    let short = || malformed("length of the addresses");
    let (addresses, tlvs) = match family {
        TCP_IPV4 => {
            let (chunk, tlvs) = body.split_first_chunk::<12>().ok_or_else(short)?;
            (Some(ipv4_addresses(*chunk)), tlvs)
        }
        TCP_IPV6 => {
            let (chunk, tlvs) = body.split_first_chunk::<36>().ok_or_else(short)?;
            (Some(ipv6_addresses(chunk).ok_or_else(short)?), tlvs)
        }
        UNIX_STREAM => (None, body.get(UNIX_ADDRESSES_BYTES..).ok_or_else(short)?),
        // The format leaves open what follows here and asks to skip all of it.
        UNSPECIFIED => return Ok(ProxyHeader::default()),
        _ => return Err(malformed("family or protocol")),
    };
    let mut header = ProxyHeader { addresses, ..ProxyHeader::default() };
    tlv::parse_into(&mut header, tlvs, whole)?;
    Ok(header)
}

/// Two addresses, two ports.
fn ipv4_addresses(chunk: [u8; 12]) -> Addresses {
    let [s1, s2, s3, s4, d1, d2, d3, d4, sp1, sp2, dp1, dp2] = chunk;
    let end = |ip: [u8; 4], port| {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), u16::from_be_bytes(port))
    };
    Addresses::new(end([s1, s2, s3, s4], [sp1, sp2]), end([d1, d2, d3, d4], [dp1, dp2]))
}

fn ipv6_addresses(chunk: &[u8; 36]) -> Option<Addresses> {
    let (source, rest) = chunk.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let destination_port = rest.first_chunk::<2>()?;
    let end = |ip: &[u8; 16], port: &[u8; 2]| {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*ip)), u16::from_be_bytes(*port))
    };
    Some(Addresses::new(end(source, source_port), end(destination, destination_port)))
}
