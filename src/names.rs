//! The names that every part of the proxy uses, as types that cannot be mixed up.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps a name that its maker has checked already.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// The canonical name of a user: what routing, limits, kicks and logs go by.
    /// Made only by `routing`; never what the client typed.
    UserName
}
name_type! {
    /// A shard: the backends that hold the same users.
    ShardId
}
name_type! {
    /// One configured IMAP server. Unique over all shards.
    BackendId
}

/// The id of one session, from accept to close: 16 characters of `[0-9a-z]`, random.
/// It is logged, shown to the client in `[UNAVAILABLE]` answers and sent upstream
/// as `x-session-id` (Dovecot takes at most 64 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// An id from 128 random bits; 80 of them are used.
    pub fn from_bits(bits: u128) -> Self {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut text = [b'0'; 16];
        let mut left = bits;
        for place in &mut text {
            let digit = usize::try_from(left % 32).unwrap_or(0);
            *place = ALPHABET.get(digit).copied().unwrap_or(b'0');
            left /= 32;
        }
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("")
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bytes that must not be seen: a password, a token, a SASL message that holds one.
/// It has no `Debug` that shows them and no `Display`; it is wiped when dropped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; the caller's copy should be gone after this.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves, for encoding towards the backend and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret(..)");
    }

    #[test]
    fn session_ids_are_sixteen_plain_characters() {
        let id = SessionId::from_bits(u128::MAX);
        assert_eq!(id.as_str(), "zzzzzzzzzzzzzzzz");
        assert_ne!(SessionId::from_bits(1), SessionId::from_bits(2));
    }
}
