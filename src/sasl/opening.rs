//! The first message of an exchange that the backend finishes: it says who the user is,
//! and nothing that comes later may say otherwise.

use super::{Mechanism, Progress, SaslError, oauth, scram};
use crate::names::Secret;

/// A client's first message, read and not yet passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Its mechanism, one of those that are relayed.
    pub mechanism: Mechanism,
    /// The identity to act as, where the client named one beside the user.
    pub authzid: Option<Vec<u8>>,
    /// The user, its escapes undone. Never empty, without NUL, CR and LF.
    pub user: Vec<u8>,
    /// The whole message, as it came, base64 taken off.
    pub message: Secret,
}

/// Where an exchange stands that is not yet, or not at all, passed on.
#[derive(Debug)]
pub enum Exchange {
    /// The client's first message comes next.
    First(Mechanism),
    /// The client was told that its message names no user, and has to say something.
    Refused(Mechanism),
}

impl Exchange {
    /// Its mechanism.
    pub const fn mechanism(&self) -> Mechanism {
        match self {
            Self::First(mechanism) | Self::Refused(mechanism) => *mechanism,
        }
    }

    /// All of these mechanisms begin with the client: an empty challenge.
    pub(super) const fn open(self) -> Progress {
        Progress::Challenge { text: b"", next: super::Exchange::Relayed(self) }
    }

    pub(super) fn step(self, message: &Secret) -> Result<Progress, SaslError> {
        match self {
            Self::First(mechanism) => first(mechanism, message),
            // RFC 7628 section 3.2.3: whatever it says, the exchange has failed.
            Self::Refused(mechanism) => Ok(Progress::Refused(mechanism)),
        }
    }
}

fn first(mechanism: Mechanism, message: &Secret) -> Result<Progress, SaslError> {
    let named = match mechanism {
        Mechanism::ScramSha256 | Mechanism::ScramSha1 => scram::parse_first(message.expose()),
        Mechanism::OAuthBearer => oauth::parse_bearer(message.expose()),
        Mechanism::XOAuth2 => oauth::parse_xoauth2(message.expose()),
        Mechanism::Plain | Mechanism::Login => Err(Fault::Malformed),
    };
    match named {
        Ok(Named { authzid, user }) => {
            let message = message.clone();
            Ok(Progress::Opened(Opening { mechanism, authzid, user, message }))
        }
        Err(Fault::NoUser) => Ok(Progress::Challenge {
            text: oauth::NO_USER,
            next: super::Exchange::Relayed(Exchange::Refused(mechanism)),
        }),
        Err(Fault::ChannelBinding) => Err(SaslError::ChannelBinding),
        Err(Fault::Malformed) => Err(SaslError::Malformed(mechanism)),
    }
}

impl Opening {
    /// Whether this may be the client's message of that number, the first one after the
    /// opening being 1.
    ///
    /// A client-final message of SCRAM must carry the header of the opening; another opening
    /// in its place would name another user to a careless server.
    pub fn allows(&self, number: u32, message: &Secret) -> bool {
        !(self.mechanism.is_scram() && number == 1)
            || scram::is_final_of(self.message.expose(), message.expose())
    }

    /// Whether a backend may take the login after it was sent that many messages, the opening
    /// not counted. SCRAM needs the client's proof. With OAuth a challenge means that the token
    /// was refused (RFC 7628 section 3.2.3), so what the client says to it can never bring it
    /// in, as whoever.
    pub const fn may_succeed_after(&self, messages: u32) -> bool {
        if self.mechanism.is_scram() { messages > 0 } else { messages == 0 }
    }
}

/// Who a first message names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) authzid: Option<Vec<u8>>,
    pub(super) user: Vec<u8>,
}

/// Why a first message names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It breaks the grammar.
    Malformed,
    /// It wants a channel binding, which ends at the proxy.
    ChannelBinding,
    /// It is well formed and leaves the user to the token, which the proxy cannot read.
    NoUser,
}

/// `gs2-header = gs2-cbind-flag "," [authzid] ","` (RFC 5802 section 7): the authorisation
/// identity and what follows.
pub(super) fn parse_gs2(message: &[u8]) -> Result<(Option<Vec<u8>>, &[u8]), Fault> {
    let (flag, rest) = split_comma(message).ok_or(Fault::Malformed)?;
    match flag {
        b"n" | b"y" => {}
        [b'p', b'=', ..] => return Err(Fault::ChannelBinding),
        _ => return Err(Fault::Malformed),
    }
    let (authzid, rest) = split_comma(rest).ok_or(Fault::Malformed)?;
    if authzid.is_empty() {
        return Ok((None, rest));
    }
    let name = authzid.strip_prefix(b"a=").ok_or(Fault::Malformed)?;
    Ok((Some(decode_name(name).ok_or(Fault::Malformed)?), rest))
}

/// Splits at the first comma, which belongs to neither part.
pub(super) fn split_comma(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b',', text)?;
    let (head, rest) = text.split_at_checked(at)?;
    Some((head, rest.strip_prefix(b",")?))
}

/// `saslname` (RFC 5802 section 7): `=2C` is a comma and `=3D` an equals sign, any other `=`
/// a fault; not empty, without NUL, CR and LF.
pub(super) fn decode_name(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !super::is_credential(text) {
        return None;
    }
    let mut parts = text.split(|byte| *byte == b'=');
    let mut name = parts.next()?.to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        name.push(match code {
            [b'2', b'C' | b'c'] => b',',
            [b'3', b'D' | b'd'] => b'=',
            _ => return None,
        });
        name.extend_from_slice(rest);
    }
    memchr::memchr(b',', text).is_none().then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(name: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for byte in name {
            match byte {
                b',' => out.extend_from_slice(b"=2C"),
                b'=' => out.extend_from_slice(b"=3D"),
                other => out.push(*other),
            }
        }
        out
    }

    #[test]
    fn only_the_two_escapes_stand_in_a_name() {
        assert_eq!(decode_name(b"a=2Cb=3Dc=2c").as_deref(), Some(&b"a,b=c,"[..]));
        for odd in [&b""[..], b"a=", b"a=2", b"a=2D", b"a==3D", b"a,b", b"a\0", b"a\r", b"\n"] {
            assert_eq!(decode_name(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_header_has_a_flag_and_perhaps_an_identity() {
        assert_eq!(parse_gs2(b"n,,rest"), Ok((None, &b"rest"[..])));
        assert_eq!(parse_gs2(b"y,a=a=2Cb,"), Ok((Some(b"a,b".to_vec()), &b""[..])));
        assert_eq!(parse_gs2(b"p=tls-unique,,n=a"), Err(Fault::ChannelBinding));
        for odd in [&b""[..], b"n", b"n,", b"N,,", b"n,b,", b"n,a=,", b"p,,", b"n,a==,", b" n,,"] {
            assert_eq!(parse_gs2(odd), Err(Fault::Malformed), "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_name_is_understood(
            name in "[^\0\r\n]{1,40}", more in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let name = name.into_bytes();
            prop_assert_eq!(decode_name(&encoded(&name)), Some(name.clone()));
            let message = [b"n,a=", encoded(&name).as_slice(), b",", &more].concat();
            prop_assert_eq!(parse_gs2(&message), Ok((Some(name), &more[..])));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            for mechanism in Mechanism::ALL.into_iter().filter(|known| known.is_relayed()) {
                let message = Secret::new(bytes.clone());
                if let Ok(Progress::Opened(opening)) = first(mechanism, &message) {
                    prop_assert!(super::super::is_credential(&opening.user));
                    prop_assert!(!opening.user.is_empty());
                    opening.allows(1, &message);
                }
            }
        }
    }
}
