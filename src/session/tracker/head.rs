//! The head of a client's line: tag and command word.

use std::ops::Range;

use super::{ClientError, HEAD_BYTES_MAX};

/// What a line starts with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// More bytes are needed.
    Incomplete,
    /// A line without a second word: empty, DONE, a lone tag. The word's length.
    Lone(usize),
    /// A tag of that length, one blank, and the command word at that place.
    Command { tag_len: usize, word: Range<usize> },
}

/// Reads the head from the first bytes of a line, at most [`HEAD_BYTES_MAX`] of them.
///
/// RFC 9051 §9: `command = tag SP (command-any / ...) CRLF`.
pub(super) fn parse(line: &[u8]) -> Result<Head, ClientError> {
    if line.first() == Some(&b' ') {
        return Err(ClientError::Unreadable);
    }
    let Some(tag_len) = word_len(line)? else {
        return incomplete(line);
    };
    if line.get(tag_len) != Some(&b' ') {
        return Ok(Head::Lone(tag_len));
    }
    let from = tag_len.saturating_add(1);
    match line.get(from) {
        None => return incomplete(line),
        Some(b'\r' | b'\n') => return Ok(Head::Lone(tag_len)),
        Some(b' ') => return Err(ClientError::Unreadable),
        Some(_) => {}
    }
    match word_len(line.get(from..).unwrap_or_default())? {
        None => incomplete(line),
        Some(len) => Ok(Head::Command { tag_len, word: from..from.saturating_add(len) }),
    }
}

fn incomplete(line: &[u8]) -> Result<Head, ClientError> {
    if line.len() < HEAD_BYTES_MAX { Ok(Head::Incomplete) } else { Err(ClientError::Unreadable) }
}

/// The length of the word at the start, once the byte behind it is there.
fn word_len(text: &[u8]) -> Result<Option<usize>, ClientError> {
    let Some(end) = text.iter().position(|byte| *byte == b' ' || byte.is_ascii_control()) else {
        return Ok(None);
    };
    match text.get(end) {
        Some(b' ' | b'\r' | b'\n') => Ok(Some(end)),
        _ => Err(ClientError::Unreadable),
    }
}

/// Whether a server can answer with this tag.
///
/// RFC 9051 §9: `tag = 1*<any ASTRING-CHAR except "+">`.
pub(super) fn valid_tag(tag: &[u8]) -> bool {
    !tag.is_empty()
        && tag.iter().all(|byte| byte.is_ascii_graphic() && !b"(){%*\"\\+".contains(byte))
}

/// Whether the word is DONE, which ends an IDLE (RFC 9051 §6.3.13): no command, and no tag
/// of one, since servers answer a DONE that came too late with BAD and that word.
pub(super) fn is_done(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"DONE")
}

/// Whether the proxy answers this command itself: it would change who the session is, or
/// hide the conversation. A word such as `LOGIN(` counts too, since some servers end a
/// word there.
pub(super) fn forbidden(word: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 7] = [
        b"LOGIN",
        b"AUTHENTICATE",
        b"STARTTLS",
        b"COMPRESS",
        b"UNAUTHENTICATE",
        b"X-UNAUTHENTICATE",
        b"PROXYAUTH",
    ];
    let end = word
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric() && !b"-_.".contains(byte))
        .unwrap_or(word.len());
    let atom = word.get(..end).unwrap_or_default();
    FORBIDDEN.iter().any(|known| known.eq_ignore_ascii_case(atom))
}
