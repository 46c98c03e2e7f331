//! Whether a backend's words repeat the secret that it was given, as servers do that quote
//! the command they did not like. Such words are for nobody's log.

use memchr::memmem;

use super::{Opening, Proof};
use crate::names::Secret;
use crate::protocol::strings;

/// Bytes of a password or token that are a repetition; a shorter one counts as a whole.
const PIECE_BYTES: usize = 8;
/// Characters of base64 that are one: those of more than eight bytes.
const BASE64_PIECE_BYTES: usize = 12;
/// Parts of a first message below this length are names and numbers.
const PART_BYTES_MIN: usize = 16;
/// A run of base64 characters that no word of a human language reaches. What passes later
/// in an exchange is not kept, so what looks like it counts.
const RUN_BYTES_MIN: usize = 24;

/// Whether the text holds a piece of the secret, as it is or within base64.
pub fn repeats(proof: &Proof, text: &str) -> bool {
    match proof {
        Proof::Credentials(credentials) => repeats_password(&credentials.password, text.as_bytes()),
        Proof::Opening(opening) => repeats_message(opening, text.as_bytes()),
    }
}

fn repeats_password(password: &Secret, text: &[u8]) -> bool {
    holds_piece_of(text, password.expose(), PIECE_BYTES)
        || (0..3).any(|before| {
            let encoded = encoded_behind(before, password);
            // What shares a group with other bytes is not of the password alone.
            let end = encoded.expose().len().saturating_sub(4);
            let start = if before == 0 { 0 } else { 4 };
            let own = encoded.expose().get(start..end).unwrap_or_default();
            holds_piece_of(text, own, BASE64_PIECE_BYTES)
        })
}

/// The password in base64 as it stands behind so many bytes of a message, modulo three.
fn encoded_behind(before: usize, password: &Secret) -> Secret {
    // One allocation of the final size: nothing is left behind by growing.
    let mut message = Vec::with_capacity(before.saturating_add(password.expose().len()));
    message.resize(before, 0);
    message.extend_from_slice(password.expose());
    strings::encode_base64_secret(&Secret::new(message))
}

/// Names may be repeated; tokens, nonces and whatever is encoded may not.
fn repeats_message(opening: &Opening, text: &[u8]) -> bool {
    let parts = opening.message.expose().split(|byte| matches!(byte, 1 | b',' | b' '));
    let mut secrets =
        parts.filter(|part| part.len() >= PART_BYTES_MIN && !part.ends_with(&opening.user));
    secrets.any(|secret| holds_piece_of(text, secret, PIECE_BYTES))
        || text.split(|byte| !is_base64(*byte)).any(|run| run.len() >= RUN_BYTES_MIN)
}

fn holds_piece_of(text: &[u8], secret: &[u8], piece_bytes: usize) -> bool {
    let length = secret.len().min(piece_bytes);
    length > 0 && text.windows(length).any(|piece| memmem::find(secret, piece).is_some())
}

/// Of either alphabet (RFC 4648 sections 4 and 5).
const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::{Credentials, Mechanism};

    fn credentials(password: &str) -> Proof {
        let password = Secret::new(password.as_bytes().to_vec());
        Proof::Credentials(Credentials { authzid: None, user: b"anna@a.test".to_vec(), password })
    }

    fn opening(message: &str) -> Proof {
        Proof::Opening(Opening {
            mechanism: Mechanism::OAuthBearer,
            authzid: None,
            user: b"anna@example.test".to_vec(),
            message: Secret::new(message.as_bytes().to_vec()),
        })
    }

    #[test]
    fn a_password_is_found_as_it_is_cut_and_in_the_base64_it_was_sent_in() {
        let proof = credentials("correct horse battery");
        for text in [
            "no such user: anna@a.test correct horse battery",
            "LOGIN anna@a.test \"correct ho",
            "Unknown command: AUTHENTICATE PLAIN AGFubmFAYS50ZXN0AGNvcnJlY3QgaG9yc2UgYmF0dGVyeQ==",
            "...cnJlY3QgaG9yc2Ug",
        ] {
            assert!(repeats(&proof, text), "{text}");
        }
        for text in ["", "Authentication failed.", "anna@a.test is disabled, call us"] {
            assert!(!repeats(&proof, text), "{text}");
        }
    }

    #[test]
    fn a_short_password_is_found_as_a_whole_and_an_empty_one_nowhere() {
        assert!(repeats(&credentials("12ab"), "wrong password 12ab"));
        assert!(!repeats(&credentials("12ab"), "wrong password 12a"));
        assert!(!repeats(&credentials(""), "Authentication failed."));
    }

    #[test]
    fn a_token_and_what_looks_like_a_message_are_found_and_a_name_is_not() {
        let message = "n,a=anna@example.test,\u{1}auth=Bearer short.token-1234567\u{1}\u{1}";
        let proof = opening(message);
        for text in [
            "token short.token-1234567 has expired",
            "bad: en-123456",
            "what is Yz1iaXdzLHI9ZnlrbytkMmxiYkZn?",
        ] {
            assert!(repeats(&proof, text), "{text}");
        }
        for text in ["anna@example.test is not the owner of that token", "Authentication failed."] {
            assert!(!repeats(&proof, text), "{text}");
        }
    }
}
