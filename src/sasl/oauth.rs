//! OAUTHBEARER (RFC 7628) and its forerunner XOAUTH2, as far as a relay must read them: the
//! user in the client's message. The token passes unread.

use super::is_credential;
use super::opening::{Fault, Named, parse_gs2};

/// What a client is told whose OAUTHBEARER message names no user: the error of RFC 7628
/// section 3.2.2, not yet in base64.
pub(super) const NO_USER: &[u8] = br#"{"status":"invalid_request"}"#;

/// What a client is told whose token the proxy itself refuses (RFC 7628 section 3.2.2, with the
/// word of RFC 6750 section 3.1), not yet in base64.
pub const INVALID_TOKEN: &[u8] = br#"{"status":"invalid_token"}"#;

/// `kvsep` (RFC 7628 section 3.1).
const SEPARATOR: u8 = 1;

/// `client-resp = gs2-header kvsep *kvpair kvsep` (RFC 7628 section 3.1). The user is the
/// header's identity. The pairs must hold one `auth` and no `user`, which is XOAUTH2's: a
/// server must not find another name than the proxy did.
pub(super) fn parse_bearer(message: &[u8]) -> Result<Named, Fault> {
    let (authzid, rest) = parse_gs2(message)?;
    let pairs = rest.strip_prefix(&[SEPARATOR]).ok_or(Fault::Malformed)?;
    let pairs = parse_pairs(pairs).ok_or(Fault::Malformed)?;
    let names_another = pairs.iter().any(|(key, _)| key.eq_ignore_ascii_case(b"user"));
    if value_of(&pairs, b"auth").is_none() || names_another {
        return Err(Fault::Malformed);
    }
    let user = authzid.ok_or(Fault::NoUser)?;
    Ok(Named { authzid: None, user })
}

/// `user=` name `^A` `auth=Bearer` token `^A^A`: these two and nothing else.
pub(super) fn parse_xoauth2(message: &[u8]) -> Result<Named, Fault> {
    let pairs = parse_pairs(message).ok_or(Fault::Malformed)?;
    let user = value_of(&pairs, b"user").ok_or(Fault::Malformed)?;
    let lawful = !user.is_empty() && is_credential(user);
    if pairs.len() != 2 || value_of(&pairs, b"auth").is_none() || !lawful {
        return Err(Fault::Malformed);
    }
    Ok(Named { authzid: None, user: user.to_vec() })
}

type Pair<'a> = (&'a [u8], &'a [u8]);

/// `*kvpair kvsep`, `kvpair = key "=" value kvsep`, `key = 1*ALPHA` (RFC 7628 section 3.1).
/// No key twice.
fn parse_pairs(text: &[u8]) -> Option<Vec<Pair<'_>>> {
    let text = text.strip_suffix(&[SEPARATOR])?;
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    if text.is_empty() {
        return Some(pairs);
    }
    for pair in text.strip_suffix(&[SEPARATOR])?.split(|byte| *byte == SEPARATOR) {
        let (key, value) = pair.split_at_checked(memchr::memchr(b'=', pair)?)?;
        let value = value.strip_prefix(b"=")?;
        let is_new = pairs.iter().all(|(known, _)| !known.eq_ignore_ascii_case(key));
        let lawful = !key.is_empty() && key.iter().all(u8::is_ascii_alphabetic);
        if !lawful || !is_new || memchr::memchr(0, value).is_some() {
            return None;
        }
        pairs.push((key, value));
    }
    Some(pairs)
}

fn value_of<'a>(pairs: &[Pair<'a>], key: &[u8]) -> Option<&'a [u8]> {
    pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(message: &[u8]) -> Result<Vec<u8>, Fault> {
        parse_bearer(message).map(|named| named.user)
    }

    /// The first is RFC 7628 section 4.1.
    #[test]
    fn oauthbearer_names_the_user_in_its_header() {
        let example = b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01\
                        auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01";
        assert_eq!(bearer(example), Ok(b"user@example.com".to_vec()));
        assert_eq!(bearer(b"n,a=a=2Cb,\x01auth=Bearer x\x01\x01"), Ok(b"a,b".to_vec()));
        assert_eq!(bearer(b"y,a=a,\x01auth=\x01\x01"), Ok(b"a".to_vec()));
        assert_eq!(bearer(b"n,,\x01auth=Bearer x\x01\x01"), Err(Fault::NoUser));
        assert_eq!(bearer(b"p=x,a=a,\x01auth=Bearer x\x01\x01"), Err(Fault::ChannelBinding));
        for odd in [
            &b""[..],
            b"\x01",
            b"n,a=a,\x01\x01",
            b"n,a=a,\x01auth=Bearer x\x01",
            b"n,a=a,auth=Bearer x\x01\x01",
            b"n,a=a,\x01auth=Bearer x\x01auth=Bearer y\x01\x01",
            b"n,a=a,\x01auth=Bearer x\x01user=b\x01\x01",
            b"n,a=a,\x01auth=Bearer x\x01\x01\x01",
            b"n,a=a,\x01auth=Bearer x\0\x01\x01",
            b"n,a=a,\x01Auth=Bearer x\x01auth=Bearer y\x01\x01",
            b"n,a=,\x01auth=Bearer x\x01\x01",
            b"n,a=a\r,\x01auth=Bearer x\x01\x01",
        ] {
            assert_eq!(bearer(odd), Err(Fault::Malformed), "{:?}", String::from_utf8_lossy(odd));
        }
    }

    #[test]
    fn xoauth2_has_a_user_and_a_token_and_nothing_else() {
        let user = |message: &[u8]| parse_xoauth2(message).map(|named| named.user);
        let good = b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckA\x01\x01";
        assert_eq!(user(good), Ok(b"someuser@example.com".to_vec()));
        assert_eq!(user(b"auth=Bearer x\x01user=a,=b\x01\x01"), Ok(b"a,=b".to_vec()));
        for odd in [
            &b""[..],
            b"\x01",
            b"user=a\x01\x01",
            b"auth=Bearer x\x01\x01",
            b"user=\x01auth=Bearer x\x01\x01",
            b"user=a\x01user=b\x01auth=Bearer x\x01\x01",
            b"user=a\x01auth=Bearer x\x01host=b\x01\x01",
            b"user=a\x01auth=Bearer x\x01",
            b"user=a\x01auth=Bearer x",
            b"user=a\n\x01auth=Bearer x\x01\x01",
            b"n,a=a,\x01auth=Bearer x\x01\x01",
        ] {
            assert_eq!(user(odd), Err(Fault::Malformed), "{:?}", String::from_utf8_lossy(odd));
        }
    }
}
