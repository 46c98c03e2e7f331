//! imap-codec as a second opinion on LOGIN, AUTHENTICATE and ID.
//!
//! What the strict grammar takes, imap-codec takes with the same values, and the other way
//! round, but for [`Difference`]s, which are meant.

#![allow(unreachable_pub, reason = "the fuzz targets use it from another package")]

use imap_codec::CommandCodec;
use imap_codec::decode::Decoder as _;
use imap_codec::imap_types::command::CommandBody;
use pointsman::protocol::command::{
    self, Body, ID_KEY_BYTES_MAX, ID_PAIRS_MAX, ID_VALUE_BYTES_MAX, IdPair, TAG_BYTES_MAX,
};
use pointsman::sasl;

/// What a command says, with its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    tag: Vec<u8>,
    said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Login { user: Vec<u8>, password: Vec<u8> },
    Authenticate { mechanism: Vec<u8>, initial: Option<Vec<u8>> },
    Id(Option<Vec<IdPair>>),
}

/// Where the two differ on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Quoted strings with bytes above 127 are taken: clients send them, although the
    /// grammar has them in literals only.
    EightBitInQuotes,
    /// No CR or LF in a user name or password, not even in a literal (B-21): LOGIN
    /// towards a backend could not carry it safely.
    LineEndInCredential,
    /// A blank and nothing behind the mechanism: an empty initial response is `=`
    /// (RFC 4959 §3).
    BlankInitialResponse,
    /// Longest tag that is echoed.
    TagTooLong,
    /// The limits of RFC 2971 §3.3, which imap-codec does not know.
    IdTooLarge,
}

/// Reads a whole command both ways.
///
/// # Errors
/// A text that shows both readings where they differ and should not.
pub(crate) fn compare(wire: &[u8]) -> Result<Option<Difference>, String> {
    let (ours, theirs) = (ours(wire), theirs(wire));
    if ours == theirs {
        return Ok(None);
    }
    let difference = match (&ours, &theirs) {
        (Some(ours), None) => eight_bit(wire, ours),
        (None, Some(theirs)) => refused(wire, theirs),
        _ => None,
    };
    match difference {
        Some(difference) => Ok(Some(difference)),
        None => Err(format!("{}:\n ours {ours:?}\n theirs {theirs:?}", wire.escape_ascii())),
    }
}

/// The reading of the product; nothing for other commands and for what is refused.
pub(crate) fn ours(wire: &[u8]) -> Option<Reading> {
    let command = command::parse(wire).ok()?;
    let said = match command.body {
        Body::Login { user, password } => {
            Said::Login { user, password: password.expose().to_vec() }
        }
        Body::Authenticate { mechanism, initial } => {
            let initial = match initial {
                Some(text) => Some(sasl::decode_initial(text.expose()).ok()?.expose().to_vec()),
                None => None,
            };
            Said::Authenticate { mechanism: mechanism.to_ascii_uppercase(), initial }
        }
        Body::Id(fields) => Said::Id(fields),
        _ => return None,
    };
    Some(Reading { tag: command.tag.as_bytes().to_vec(), said })
}

/// The reading of imap-codec.
pub(crate) fn theirs(wire: &[u8]) -> Option<Reading> {
    let (rest, command) = CommandCodec::default().decode(wire).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let said = match command.body {
        CommandBody::Login { username, password } => Said::Login {
            user: username.as_ref().to_vec(),
            password: password.declassify().as_ref().to_vec(),
        },
        CommandBody::Authenticate { mechanism, initial_response } => Said::Authenticate {
            mechanism: mechanism.as_ref().to_ascii_uppercase().into_bytes(),
            initial: initial_response.map(|text| text.declassify().to_vec()),
        },
        CommandBody::Id { parameters } => Said::Id(parameters.map(|pairs| {
            let bytes = |text: &dyn AsRef<[u8]>| text.as_ref().to_vec();
            pairs
                .iter()
                .map(|(key, text)| (bytes(key), text.0.as_ref().map(|t| bytes(t))))
                .collect()
        })),
        _ => return None,
    };
    Some(Reading { tag: command.tag.inner().as_bytes().to_vec(), said })
}

/// With plain letters for the bytes above 127 both must read the same.
fn eight_bit(wire: &[u8], ours: &Reading) -> Option<Difference> {
    let plain = |bytes: &[u8]| -> Vec<u8> {
        bytes.iter().map(|byte| if byte.is_ascii() { *byte } else { b'x' }).collect()
    };
    let said = match &ours.said {
        Said::Login { user, password } => {
            Said::Login { user: plain(user), password: plain(password) }
        }
        Said::Id(Some(pairs)) => {
            let pair = |(key, text): &IdPair| (plain(key), text.as_deref().map(plain));
            Said::Id(Some(pairs.iter().map(pair).collect()))
        }
        other => other.clone(),
    };
    let same = theirs(&plain(wire)) == Some(Reading { tag: ours.tag.clone(), said });
    (same && !wire.is_ascii()).then_some(Difference::EightBitInQuotes)
}

/// Why the product refuses what imap-codec reads.
fn refused(wire: &[u8], theirs: &Reading) -> Option<Difference> {
    let line_end = |text: &[u8]| text.iter().any(|byte| b"\r\n".contains(byte));
    match &theirs.said {
        _ if theirs.tag.len() > TAG_BYTES_MAX => Some(Difference::TagTooLong),
        Said::Login { user, password } if line_end(user) || line_end(password) => {
            Some(Difference::LineEndInCredential)
        }
        Said::Authenticate { initial: Some(text), .. } if text.is_empty() => {
            wire.ends_with(b" \r\n").then_some(Difference::BlankInitialResponse)
        }
        Said::Id(Some(pairs)) => {
            let large = |(key, text): &IdPair| {
                key.len() > ID_KEY_BYTES_MAX
                    || text.as_ref().is_some_and(|text| text.len() > ID_VALUE_BYTES_MAX)
            };
            let too_large = pairs.len() > ID_PAIRS_MAX || pairs.iter().any(large);
            too_large.then_some(Difference::IdTooLarge)
        }
        _ => None,
    }
}
