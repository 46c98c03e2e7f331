//! SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677), as far as a relay must read them: the
//! user in the client's first message. Secrets and proofs pass unread.

use super::opening::{Fault, Named, decode_name, parse_gs2, split_comma};
use crate::protocol::strings;

/// `client-first-message = gs2-header client-first-message-bare`, and
/// `client-first-message-bare = username "," nonce ["," extensions]` (RFC 5802 section 7).
/// The reserved `m=` in front of the name asks for what nobody knows, and is refused.
pub(super) fn parse_first(message: &[u8]) -> Result<Named, Fault> {
    let (authzid, bare) = parse_gs2(message)?;
    let (name, rest) = split_comma(bare).ok_or(Fault::Malformed)?;
    let user = name.strip_prefix(b"n=").and_then(decode_name).ok_or(Fault::Malformed)?;
    let nonce = rest.split(|byte| *byte == b',').next().unwrap_or_default();
    let nonce = nonce.strip_prefix(b"r=").ok_or(Fault::Malformed)?;
    if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) {
        return Err(Fault::Malformed);
    }
    Ok(Named { authzid, user })
}

/// Whether a message is the client's final one behind that first one:
/// `client-final-message-without-proof = channel-binding "," nonce ["," extensions]` with
/// `channel-binding = "c=" base64` of the first message's header (RFC 5802 section 7).
pub(super) fn is_final_of(first: &[u8], message: &[u8]) -> bool {
    let Ok((_, bare)) = parse_gs2(first) else { return false };
    let header = first.strip_suffix(bare).unwrap_or_default();
    let binding = [b"c=", strings::encode_base64(header).as_bytes(), b","].concat();
    message.strip_prefix(binding.as_slice()).is_some_and(|rest| rest.starts_with(b"r="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(message: &[u8]) -> Result<Vec<u8>, Fault> {
        parse_first(message).map(|named| named.user)
    }

    #[test]
    fn the_first_message_names_the_user() {
        assert_eq!(user(b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"), Ok(b"user".to_vec()));
        assert_eq!(user(b"y,,n=a=2Cb=3D,r=x,ext=1"), Ok(b"a,b=".to_vec()));
        assert_eq!(user("n,,n=kätt,r=x".as_bytes()), Ok("kätt".as_bytes().to_vec()));
        let both = parse_first(b"n,a=eve,n=bob,r=x").unwrap();
        assert_eq!((both.authzid, both.user), (Some(b"eve".to_vec()), b"bob".to_vec()));
        assert_eq!(user(b"p=tls-exporter,,n=user,r=x"), Err(Fault::ChannelBinding));
        for odd in [
            &b""[..],
            b"n,,",
            b"n,,n=user",
            b"n,,n=user,",
            b"n,,n=user,r=",
            b"n,,n=user,r=a b",
            b"n,,n=,r=x",
            b"n,,n=us=er,r=x",
            b"n,,r=x,n=user",
            b"n,,m=ext,n=user,r=x",
            b"n,,n=us\0er,r=x",
            b"n,,a=user,r=x",
            b"n=user,r=x",
        ] {
            assert_eq!(user(odd), Err(Fault::Malformed), "{:?}", String::from_utf8_lossy(odd));
        }
    }

    /// RFC 7677 section 3.
    #[test]
    fn the_final_message_carries_the_header_of_the_first() {
        let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        assert!(is_final_of(first, b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvY,p=dHzbZapWIk4="));
        let named = b"n,a=user,n=user,r=x";
        assert!(is_final_of(named, b"c=bixhPXVzZXIs,r=xy,p=dHzb"));
        for odd in
            [&b"n,,n=other,r=x"[..], b"", b"c=biws", b"c=biws,", b"c=eSws,r=x", b"r=x,c=biws"]
        {
            assert!(!is_final_of(first, odd), "{:?}", String::from_utf8_lossy(odd));
        }
        assert!(!is_final_of(named, b"c=biws,r=x"));
    }
}
