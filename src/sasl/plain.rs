//! PLAIN (RFC 4616): one message with identity, user and password.

use super::{Credentials, Mechanism, Progress, SaslError, is_credential};
use crate::names::Secret;
use crate::protocol::strings;

/// `message = [authzid] UTF8NUL authcid UTF8NUL passwd` (RFC 4616 §2): exactly two
/// NULs. Bytes are not checked to be UTF-8; an empty password is the backend's to refuse.
pub(super) fn step(message: &Secret) -> Result<Progress, SaslError> {
    const BAD: SaslError = SaslError::Malformed(Mechanism::Plain);
    let mut parts = message.expose().split(|byte| *byte == 0);
    let authzid = parts.next().ok_or(BAD)?;
    let user = parts.next().ok_or(BAD)?;
    let password = parts.next().ok_or(BAD)?;
    let lawful = is_credential(authzid) && is_credential(user) && is_credential(password);
    if parts.next().is_some() || user.is_empty() || !lawful {
        return Err(BAD);
    }
    let credentials = Credentials {
        authzid: (!authzid.is_empty()).then(|| authzid.to_vec()),
        user: user.to_vec(),
        password: Secret::new(password.to_vec()),
    };
    Ok(Progress::Done(Mechanism::Plain, credentials))
}

/// The message for a backend, not yet in base64.
pub fn message(credentials: &Credentials) -> Secret {
    let authzid = credentials.authzid.as_deref().unwrap_or_default();
    let password = credentials.password.expose();
    let room = authzid.len().saturating_add(credentials.user.len()).saturating_add(password.len());
    let mut text = Vec::with_capacity(room.saturating_add(2));
    text.extend_from_slice(authzid);
    text.push(0);
    text.extend_from_slice(&credentials.user);
    text.push(0);
    text.extend_from_slice(password);
    Secret::new(text)
}

/// The message for a backend in base64, as an initial response or a line.
pub fn message_base64(credentials: &Credentials) -> Secret {
    strings::encode_base64_secret(&message(credentials))
}

/// How long [`message_base64`] is.
pub fn message_base64_bytes(credentials: &Credentials) -> usize {
    let authzid = credentials.authzid.as_ref().map_or(0, Vec::len);
    let parts = [authzid, credentials.user.len(), credentials.password.expose().len(), 2];
    let plain = parts.into_iter().fold(0_usize, usize::saturating_add);
    plain.div_ceil(3).saturating_mul(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn credentials(message: &[u8]) -> Result<Credentials, SaslError> {
        match step(&Secret::new(message.to_vec()))? {
            Progress::Done(_, credentials) => Ok(credentials),
            other => panic!("{other:?} behind PLAIN"),
        }
    }

    /// B-21, B-40.
    #[test]
    fn a_message_has_exactly_two_nuls() {
        let plain = credentials(b"\0bob\0pw").unwrap();
        assert_eq!((plain.authzid, plain.user), (None, b"bob".to_vec()));
        assert_eq!(plain.password.expose(), b"pw");
        assert_eq!(credentials(b"eve\0bob\0pw").unwrap().authzid, Some(b"eve".to_vec()));
        for odd in [
            &b""[..],
            b"bob",
            b"bob\0pw",
            b"\0bob\0pw\0",
            b"\0\0pw",
            b"\0b\rb\0pw",
            b"\0bob\0p\nw",
            b"a\r\0bob\0pw",
        ] {
            assert_eq!(credentials(odd), Err(SaslError::Malformed(Mechanism::Plain)), "{odd:?}");
        }
    }

    fn part(least: usize) -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_filter("no credential", |b| !matches!(b, 0 | b'\r' | b'\n'));
        proptest::collection::vec(byte, least..40)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_understood(
            authzid in proptest::option::of(part(1)), user in part(1), password in part(0),
        ) {
            let sent = Credentials { authzid, user, password: Secret::new(password) };
            prop_assert_eq!(credentials(message(&sent).expose()), Ok(sent.clone()));
            let wire = message_base64(&sent);
            prop_assert_eq!(wire.expose().len(), message_base64_bytes(&sent));
            let decoded = super::super::decode_initial(wire.expose()).unwrap();
            prop_assert_eq!(decoded, message(&sent));
        }
    }
}
