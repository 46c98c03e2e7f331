//! SASL mechanisms: what is offered, and the messages of each.
//!
//! An exchange takes decoded client messages and gives the next challenge or the
//! credentials; each step consumes it, so that nothing of a failed one is left. Of the
//! mechanisms that a backend finishes only the first message is read, for the user's name.

pub mod echo;
pub mod login;
mod oauth;
pub mod opening;
pub mod plain;
mod scram;

use crate::names::Secret;
use crate::protocol::strings;

pub use oauth::INVALID_TOKEN;
pub use opening::Opening;

/// A SASL mechanism that clients can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 7677. Relayed.
    ScramSha256,
    /// RFC 5802. Relayed.
    ScramSha1,
    /// RFC 7628. Relayed.
    OAuthBearer,
    /// The forerunner of OAUTHBEARER. Relayed.
    XOAuth2,
    /// RFC 4616.
    Plain,
    /// The obsolete `LOGIN` mechanism, only where the operator lists it.
    Login,
}

impl Mechanism {
    /// All mechanisms, the best first.
    pub const ALL: [Self; 6] = [
        Self::ScramSha256,
        Self::ScramSha1,
        Self::OAuthBearer,
        Self::XOAuth2,
        Self::Plain,
        Self::Login,
    ];

    /// The registered name, as in `AUTH=` and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::XOAuth2 => "XOAUTH2",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }

    /// Whether the exchange is the backend's to finish: the proxy reads the user and passes
    /// the messages through. With the others it gives user and password to the backend.
    pub const fn is_relayed(self) -> bool {
        !matches!(self, Self::Plain | Self::Login)
    }

    /// Whether it is one of the SCRAM family, whose clients notice a channel binding that was
    /// kept from them (RFC 5802 section 6).
    pub const fn is_scram(self) -> bool {
        matches!(self, Self::ScramSha256 | Self::ScramSha1)
    }

    /// Whether it brings a bearer token, about which a server asks nothing but to tell an error
    /// (RFC 7628 section 3.2).
    pub const fn is_oauth(self) -> bool {
        matches!(self, Self::OAuthBearer | Self::XOAuth2)
    }

    /// The mechanism of that name, in any case.
    pub fn of(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Longest line of a client within an exchange, in bytes with its CRLF.
    pub const fn line_bytes_max(self) -> usize {
        match self {
            Self::OAuthBearer | Self::XOAuth2 => 16_384,
            Self::ScramSha256 | Self::ScramSha1 | Self::Plain | Self::Login => 8192,
        }
    }
}

/// What a client proved or claimed at the end of an exchange or with LOGIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The identity to act as, where the client named one, also when it is the same.
    pub authzid: Option<Vec<u8>>,
    /// The identity whose password this is, as typed. Never empty after SASL, without
    /// NUL, CR and LF.
    pub user: Vec<u8>,
    /// The password, without NUL, CR and LF; may be empty.
    pub password: Secret,
}

/// What a login attempt brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// User and password, given on to the backend.
    Credentials(Credentials),
    /// The first message of an exchange that the backend finishes.
    Opening(Opening),
}

impl Proof {
    /// The user as typed.
    pub fn user(&self) -> &[u8] {
        match self {
            Self::Credentials(credentials) => &credentials.user,
            Self::Opening(opening) => &opening.user,
        }
    }

    /// Whether it is a bearer token.
    pub fn is_token(&self) -> bool {
        matches!(self, Self::Opening(opening) if opening.mechanism.is_oauth())
    }

    /// The identity to act as, where one is named beside the user.
    pub fn authzid(&self) -> Option<&[u8]> {
        match self {
            Self::Credentials(credentials) => credentials.authzid.as_deref(),
            Self::Opening(opening) => opening.authzid.as_deref(),
        }
    }
}

/// An exchange under way.
#[derive(Debug)]
pub enum Exchange {
    /// One that the backend finishes, before it is passed on.
    Relayed(opening::Exchange),
    /// PLAIN, which waits for its one message.
    Plain,
    /// LOGIN, which waits for user or password.
    Login(login::Exchange),
}

/// What follows a client's message.
#[derive(Debug)]
pub enum Progress {
    /// The server's turn.
    Challenge {
        /// What the client gets, not yet in base64.
        text: &'static [u8],
        /// Where the exchange goes on.
        next: Exchange,
    },
    /// The exchange is over.
    Done(Mechanism, Credentials),
    /// The rest is between the client and the backend.
    Opened(Opening),
    /// The exchange is over, and nobody was named.
    Refused(Mechanism),
}

/// A message that the mechanism does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SaslError {
    /// The client's text is not base64.
    #[error("not base64")]
    NotBase64,
    /// The message breaks the mechanism's grammar.
    #[error("malformed {0:?} message")]
    Malformed(Mechanism),
    /// The message wants a channel binding, which no proxy that ends TLS can keep.
    #[error("channel binding is not offered")]
    ChannelBinding,
    /// The client gave up with `*`.
    #[error("cancelled by the client")]
    Cancelled,
}

impl SaslError {
    /// The metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotBase64 => "not_base64",
            Self::Malformed(_) => "malformed",
            Self::ChannelBinding => "channel_binding",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Exchange {
    /// An exchange that has not begun.
    pub const fn new(mechanism: Mechanism) -> Self {
        match mechanism {
            Mechanism::Plain => Self::Plain,
            Mechanism::Login => Self::Login(login::Exchange::User),
            Mechanism::ScramSha256
            | Mechanism::ScramSha1
            | Mechanism::OAuthBearer
            | Mechanism::XOAuth2 => Self::Relayed(opening::Exchange::First(mechanism)),
        }
    }

    /// Its mechanism.
    pub const fn mechanism(&self) -> Mechanism {
        match self {
            Self::Plain => Mechanism::Plain,
            Self::Login(_) => Mechanism::Login,
            Self::Relayed(exchange) => exchange.mechanism(),
        }
    }

    /// The server's first words when the client sent no initial response.
    pub fn open(self) -> Progress {
        match self {
            Self::Plain => Progress::Challenge { text: b"", next: Self::Plain },
            Self::Login(exchange) => exchange.open(),
            Self::Relayed(exchange) => exchange.open(),
        }
    }

    /// Takes the client's next message, base64 already taken off.
    ///
    /// # Errors
    /// [`SaslError::Malformed`]; the exchange is over then.
    pub fn step(self, message: &Secret) -> Result<Progress, SaslError> {
        match self {
            Self::Plain => plain::step(message),
            Self::Login(exchange) => exchange.step(message),
            Self::Relayed(exchange) => exchange.step(message),
        }
    }
}

/// Decodes an initial response (RFC 4959 §3): base64, or `=` for an empty one.
///
/// # Errors
/// [`SaslError::NotBase64`].
pub fn decode_initial(text: &[u8]) -> Result<Secret, SaslError> {
    if text == b"=" {
        return Ok(Secret::default());
    }
    strings::decode_base64(text).map_err(|_| SaslError::NotBase64)
}

/// Decodes a client's line within an exchange, without its CRLF: base64, may be empty.
///
/// # Errors
/// [`SaslError::Cancelled`] for `*`, else [`SaslError::NotBase64`].
pub fn decode_line(line: &[u8]) -> Result<Secret, SaslError> {
    if line == b"*" {
        return Err(SaslError::Cancelled);
    }
    strings::decode_base64(line).map_err(|_| SaslError::NotBase64)
}

/// No NUL, CR or LF: what LOGIN towards a backend could not carry safely either.
fn is_credential(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanisms_are_known_by_their_names_in_any_case() {
        for mechanism in Mechanism::ALL {
            assert_eq!(Mechanism::of(mechanism.name().to_lowercase().as_bytes()), Some(mechanism));
            assert_eq!(Exchange::new(mechanism).mechanism(), mechanism);
        }
        assert_eq!(Mechanism::of(b"CRAM-MD5"), None);
        assert_eq!(Mechanism::of(b""), None);
    }

    fn step(exchange: Exchange, message: &[u8]) -> Result<Progress, SaslError> {
        exchange.step(&Secret::new(message.to_vec()))
    }

    #[test]
    fn of_a_relayed_exchange_the_first_message_is_read_and_kept_whole() {
        let first: &[u8] = b"n,,n=a=2Cb,r=nonce";
        let exchange = Exchange::new(Mechanism::ScramSha256);
        let Progress::Challenge { text: b"", next } = exchange.open() else { panic!("no prompt") };
        let Ok(Progress::Opened(opening)) = step(next, first) else { panic!("not opened") };
        assert_eq!((opening.user.as_slice(), opening.authzid.as_deref()), (&b"a,b"[..], None));
        assert_eq!(opening.message.expose(), first);
        let bound = step(Exchange::new(Mechanism::ScramSha1), b"p=tls-unique,,n=a,r=x");
        assert!(matches!(bound, Err(SaslError::ChannelBinding)));
    }

    /// B-53: the error dialogue is carried to its end, whatever the client says to it.
    #[test]
    fn a_token_without_a_user_gets_the_error_and_then_no() {
        for said in [&b""[..], b"\x01", b"n,a=eve,\x01auth=Bearer x\x01\x01"] {
            let exchange = Exchange::new(Mechanism::OAuthBearer);
            let answer = step(exchange, b"n,,\x01auth=Bearer x\x01\x01");
            let Ok(Progress::Challenge { text, next }) = answer else { panic!("{answer:?}") };
            assert_eq!(text, br#"{"status":"invalid_request"}"#);
            let refused = step(next, said);
            assert!(matches!(refused, Ok(Progress::Refused(Mechanism::OAuthBearer))));
        }
    }

    /// B-22, B-52.
    #[test]
    fn empty_messages_and_cancelling_are_told_apart() {
        assert_eq!(decode_initial(b"="), Ok(Secret::default()));
        assert_eq!(decode_line(b""), Ok(Secret::default()));
        assert_eq!(decode_line(b"*"), Err(SaslError::Cancelled));
        assert_eq!(decode_line(b"="), Err(SaslError::NotBase64));
        assert_eq!(decode_initial(b"*"), Err(SaslError::NotBase64));
    }
}
