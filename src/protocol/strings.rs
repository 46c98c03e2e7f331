//! Strings towards a peer: quoted, literal, base64, and cleaned text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::names::Secret;

/// Longest text that is taken over from a backend into an answer or a log, in bytes.
pub const CLEAN_TEXT_BYTES_MAX: usize = 200;

/// Text that should have been base64 (RFC 4648 §4, padded) was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not base64")]
pub struct NotBase64;

/// Whether these bytes may stand in a quoted string towards any server: printable
/// ASCII and blanks only, and not ending in `}`, since a careless parser could take
/// a line's end such as `"{5+}"` for a literal.
pub fn is_quotable(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, 0x20..=0x7e)) && bytes.last() != Some(&b'}')
}

/// Appends a quoted string (RFC 9051 §9 `quoted`); only `"` and `\` are escaped. The
/// bytes must be [`is_quotable`]; others belong in a literal.
pub fn encode_quoted(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().saturating_add(2));
    out.push(b'"');
    for byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// Appends the head of a literal of that size: `{n}` or, where `plus`, `{n+}`, with
/// CRLF. Behind the synchronising form the server's `+` must be awaited.
pub fn encode_literal_head(size_bytes: usize, plus: bool, out: &mut Vec<u8>) {
    let plus = if plus { "+" } else { "" };
    out.extend_from_slice(format!("{{{size_bytes}{plus}}}\r\n").as_bytes());
}

/// Appends a whole literal: head, then body. For the synchronising form this is right
/// only where the caller splits it again at the head's end to wait for `+`.
pub fn encode_literal(bytes: &[u8], plus: bool, out: &mut Vec<u8>) {
    encode_literal_head(bytes.len(), plus, out);
    out.extend_from_slice(bytes);
}

/// Appends an `nstring`: `NIL`, quoted where that is safe, else a non-synchronising
/// literal (at most 4096 bytes towards a server that lists LITERAL-, RFC 7888 §5).
pub fn encode_nstring(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        None => out.extend_from_slice(b"NIL"),
        Some(bytes) if is_quotable(bytes) => encode_quoted(bytes, out),
        Some(bytes) => encode_literal(bytes, true, out),
    }
}

/// Padded base64 of these bytes.
pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Padded base64 of a secret, itself a secret.
pub fn encode_base64_secret(secret: &Secret) -> Secret {
    // One allocation of the final size: nothing is left behind by growing.
    Secret::new(STANDARD.encode(secret.expose()).into_bytes())
}

/// The bytes behind padded base64; empty text gives empty bytes.
///
/// # Errors
/// [`NotBase64`] for a character outside the alphabet, wrong padding or length.
pub fn decode_base64(text: &[u8]) -> Result<Secret, NotBase64> {
    STANDARD.decode(text).map(Secret::new).map_err(|_| NotBase64)
}

/// Text from a peer made fit for an answer or a log line: valid UTF-8 without control
/// and text-direction characters, at most [`CLEAN_TEXT_BYTES_MAX`] bytes.
pub fn clean_text(bytes: &[u8]) -> String {
    // Each byte kept becomes at most three (U+FFFD), each dropped one is at most four;
    // looking at a bounded part is enough and keeps a long line cheap.
    let part = bytes.get(..CLEAN_TEXT_BYTES_MAX.saturating_mul(4)).unwrap_or(bytes);
    let mut text = String::new();
    for letter in String::from_utf8_lossy(part).chars() {
        if letter.is_control() || is_direction(letter) || letter == char::REPLACEMENT_CHARACTER {
            continue;
        }
        if text.len().saturating_add(letter.len_utf8()) > CLEAN_TEXT_BYTES_MAX {
            break;
        }
        text.push(letter);
    }
    text
}

/// Characters that turn the direction of text or break lines in a viewer.
const fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_text_is_quoted() {
        assert!(is_quotable(b"user name"));
        assert!(is_quotable(br#"a"b\c"#));
        for odd in [&b"a\r"[..], b"a\n", b"a\0", b"\xe9", b"abc{5+}", b"\x7f", b"\t"] {
            assert!(!is_quotable(odd), "{odd:?}");
        }
    }

    #[test]
    fn quoting_escapes_only_what_must_be() {
        let mut out = Vec::new();
        encode_quoted(br#"a"b\c"#, &mut out);
        assert_eq!(out, br#""a\"b\\c""#);
    }

    #[test]
    fn strings_take_the_safe_form() {
        let mut out = Vec::new();
        encode_nstring(None, &mut out);
        encode_nstring(Some(b"x"), &mut out);
        encode_nstring(Some(b"{5+}"), &mut out);
        assert_eq!(out, b"NIL\"x\"{4+}\r\n{5+}");
        out.clear();
        encode_literal(b"ab", false, &mut out);
        assert_eq!(out, b"{2}\r\nab");
    }

    #[test]
    fn base64_is_strict() {
        assert_eq!(decode_base64(b"").map(|s| s.expose().to_vec()), Ok(Vec::new()));
        assert_eq!(decode_base64(b"YWI=").map(|s| s.expose().to_vec()), Ok(b"ab".to_vec()));
        for odd in [&b"YWI"[..], b"YW I=", b"!!!!", b"=", b"YWI=\r"] {
            assert_eq!(decode_base64(odd), Err(NotBase64), "{odd:?}");
        }
        assert_eq!(encode_base64(b"Username:"), "VXNlcm5hbWU6");
    }

    #[test]
    fn cleaned_text_has_no_controls_and_a_bound() {
        assert_eq!(clean_text(b"a\r\n\x1b[31mb\0\xff"), "a[31mb");
        assert_eq!(clean_text("x\u{202e}y\u{85}z".as_bytes()), "xyz");
        assert_eq!(clean_text(&[b'a'; 5000]).len(), CLEAN_TEXT_BYTES_MAX);
        assert!(clean_text("é".repeat(300).as_bytes()).len() <= CLEAN_TEXT_BYTES_MAX);
    }
}
