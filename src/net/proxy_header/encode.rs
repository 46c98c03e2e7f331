//! Writing a version 2 header, towards a backend.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::net::proxy_header::v2::{COMMAND_LOCAL, COMMAND_PROXY, SIGNATURE, TCP_IPV4, TCP_IPV6};
use crate::net::proxy_header::{Addresses, ProxyHeader, UNIQUE_ID_BYTES_MAX, tlv, v2};

/// Longest AUTHORITY sent: a host name has no more (RFC 1035 §2.3.4).
const AUTHORITY_BYTES_MAX: usize = 255;

/// Appends `header` to `out` as version 2.
///
/// Without addresses it is `LOCAL` and nothing else: the proxy speaks for itself, as in
/// a health check. Ends of different families are both sent as IPv6, the IPv4 one mapped
/// (`::ffff:a.b.c.d`). Sent are AUTHORITY (the client's SNI), SSL and `UNIQUE_ID` (the
/// session's id); an AUTHORITY above 255 bytes or a `UNIQUE_ID` above 128 is left out, and
/// so is `alpn`, which says nothing to an IMAP server.
pub fn encode_v2(header: &ProxyHeader, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    let Some(addresses) = &header.addresses else {
        out.extend_from_slice(&[COMMAND_LOCAL, v2::UNSPECIFIED, 0, 0]);
        return;
    };
    let mut body = Vec::with_capacity(128);
    let family = encode_addresses(addresses, &mut body);
    if let Some(authority) = &header.authority {
        encode_tlv(tlv::AUTHORITY, authority.as_bytes(), AUTHORITY_BYTES_MAX, &mut body);
    }
    if let Some(tls) = &header.tls {
        let [v1, v2, v3, v4] = tls.verify.to_be_bytes();
        let value = [tls.client_bits, v1, v2, v3, v4];
        encode_tlv(tlv::SSL, &value, value.len(), &mut body);
    }
    if let Some(id) = &header.unique_id {
        encode_tlv(tlv::UNIQUE_ID, id, UNIQUE_ID_BYTES_MAX, &mut body);
    }
    out.extend_from_slice(&[COMMAND_PROXY, family]);
    out.extend_from_slice(&length_bytes(body.len()));
    out.extend_from_slice(&body);
}

/// Both addresses, then both ports; returns family and protocol.
fn encode_addresses(addresses: &Addresses, out: &mut Vec<u8>) -> u8 {
    let Addresses { source, destination } = Addresses::new(addresses.source, addresses.destination);
    let family =
        if let (IpAddr::V4(source), IpAddr::V4(destination)) = (source.ip(), destination.ip()) {
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
            TCP_IPV4
        } else {
            out.extend_from_slice(&as_ipv6(source).octets());
            out.extend_from_slice(&as_ipv6(destination).octets());
            TCP_IPV6
        };
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    family
}

fn as_ipv6(address: SocketAddr) -> Ipv6Addr {
    match address.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Appends a TLV, unless its value is empty or above `bytes_max`.
fn encode_tlv(kind: u8, value: &[u8], bytes_max: usize, out: &mut Vec<u8>) {
    if value.is_empty() || value.len() > bytes_max {
        return;
    }
    out.push(kind);
    out.extend_from_slice(&length_bytes(value.len()));
    out.extend_from_slice(value);
}

/// A length that the bounds above keep far below 65,536.
fn length_bytes(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}
