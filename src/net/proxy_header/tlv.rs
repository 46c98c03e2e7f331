//! Type, length, value: what follows the addresses of version 2.

use crate::net::proxy_header::{
    ProxyHeader, ProxyHeaderError, ProxyTls, UNIQUE_ID_BYTES_MAX, malformed,
};

const ALPN: u8 = 0x01;
pub(super) const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
pub(super) const UNIQUE_ID: u8 = 0x05;
pub(super) const SSL: u8 = 0x20;

/// Type and 16-bit length.
pub(super) const HEAD_BYTES: usize = 3;

/// Reads `tlvs`, the end of `whole`, into `header`. Unknown types are skipped, as the
/// format asks; of a doubled one the first counts.
pub(super) fn parse_into(
    header: &mut ProxyHeader,
    tlvs: &[u8],
    whole: &[u8],
) -> Result<(), ProxyHeaderError> {
    let mut rest = tlvs;
    while let Some(Tlv { kind, value, behind }) = split_first(rest)? {
        match kind {
            ALPN => keep_first(&mut header.alpn, value.to_vec()),
            AUTHORITY if !value.is_empty() => {
                keep_first(&mut header.authority, parse_authority(value)?);
            }
            CRC32C => check(value, whole, whole.len() - rest.len())?,
            UNIQUE_ID if value.len() > UNIQUE_ID_BYTES_MAX => {
                return Err(malformed("length of UNIQUE_ID"));
            }
            UNIQUE_ID => keep_first(&mut header.unique_id, value.to_vec()),
            SSL => keep_first(&mut header.tls, parse_ssl(value)?),
            _ => {}
        }
        rest = behind;
    }
    Ok(())
}

struct Tlv<'b> {
    kind: u8,
    value: &'b [u8],
    behind: &'b [u8],
}

/// The first TLV and what follows it; `None` at the end.
fn split_first(bytes: &[u8]) -> Result<Option<Tlv<'_>>, ProxyHeaderError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let truncated = || malformed("length of a TLV");
    let (&[kind, high, low], rest) =
        bytes.split_first_chunk::<HEAD_BYTES>().ok_or_else(truncated)?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (value, behind) = rest.split_at_checked(length).ok_or_else(truncated)?;
    Ok(Some(Tlv { kind, value, behind }))
}

fn keep_first<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}

/// A host name in UTF-8. It will stand in log lines, so it must not break them.
fn parse_authority(value: &[u8]) -> Result<String, ProxyHeaderError> {
    let text = std::str::from_utf8(value).map_err(|_| malformed("AUTHORITY"))?;
    if text.chars().any(char::is_control) {
        return Err(malformed("AUTHORITY"));
    }
    Ok(text.to_owned())
}

/// `client` (8 bits), `verify` (32 bits), then TLVs of texts that are walked, not kept.
fn parse_ssl(value: &[u8]) -> Result<ProxyTls, ProxyHeaderError> {
    let (&[client_bits, v1, v2, v3, v4], mut texts) =
        value.split_first_chunk::<5>().ok_or(malformed("length of SSL"))?;
    while let Some(text) = split_first(texts)? {
        texts = text.behind;
    }
    Ok(ProxyTls { client_bits, verify: u32::from_be_bytes([v1, v2, v3, v4]) })
}

/// Checks the sum over the whole header, with the four bytes of the sum itself as zero.
fn check(value: &[u8], whole: &[u8], tlv_at: usize) -> Result<(), ProxyHeaderError> {
    let said = <[u8; 4]>::try_from(value).map_err(|_| malformed("length of CRC32C"))?;
    let value_at = tlv_at + HEAD_BYTES;
    let before = whole.get(..value_at).unwrap_or_default();
    let behind = whole.get(value_at + said.len()..).unwrap_or_default();
    let sum = crc32c(before.iter().chain(&[0; 4]).chain(behind));
    if sum == u32::from_be_bytes(said) { Ok(()) } else { Err(ProxyHeaderError::Checksum) }
}

/// CRC-32C (Castagnoli, RFC 9260 appendix A), bit by bit: it runs over 4 KiB at most,
/// and only where the sender asks.
pub(super) fn crc32c<'b>(bytes: impl Iterator<Item = &'b u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1))
        })
    })
}
