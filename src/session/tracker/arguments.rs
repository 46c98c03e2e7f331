//! The arguments of the few commands that change a session's state, once complete.

use std::borrow::Cow;

use crate::protocol::command_kind::CommandKind;

use super::effect::{Effect, Selected};
use super::role::Role;

/// Longest spelling of a mailbox name that is kept, in bytes.
pub(super) const MAILBOX_BYTES_MAX: usize = 1024;

/// What a command will have done once the server says OK. `args` is all that follows the
/// command word up to the line end, literals included; `cut` says that some is missing.
pub(super) fn effect(role: Role, kind: CommandKind, args: &[u8], cut: bool) -> Effect {
    match role {
        Role::Plain | Role::Idle => Effect::Nothing,
        Role::Select => select(args, cut, kind == CommandKind::Examine),
        Role::Deselect => Effect::Deselect,
        Role::Enable => Effect::Enable(Vec::new()),
        Role::Notify => Effect::Notify(!first_is(args, b"NONE")),
        Role::Search => search(args, cut),
        Role::CancelUpdate => Effect::CancelUpdates(names(args)),
        Role::Remove => Effect::Remove(removed(args, cut)),
        Role::Uid => effect_of_uid(args, cut),
        Role::Unknown => Effect::Unknown,
    }
}

/// What a SELECT or EXAMINE will have done.
///
/// RFC 9051 §6.3.2, RFC 4466 §2.4: `select = "SELECT" SP mailbox [SP "(" ... ")"]`.
fn select(args: &[u8], cut: bool, read_only: bool) -> Effect {
    let selected = first(args).filter(|(raw, _)| !cut && raw.len() <= MAILBOX_BYTES_MAX);
    Effect::Select(selected.map(|(raw, rest)| {
        let condstore = contains(rest, b"CONDSTORE") || contains(rest, b"QRESYNC");
        Box::new(Selected { spelling: raw.into(), read_only, condstore })
    }))
}

fn effect_of_uid(args: &[u8], cut: bool) -> Effect {
    let (word, rest) = word(args);
    match Role::of_uid(word).1 {
        Role::Search => search(rest, cut),
        Role::Plain => Effect::Nothing,
        _ => Effect::Unknown,
    }
}

/// RFC 4466 §2.6.1: `search = "SEARCH" [SP "RETURN" SP "(" ... ")"] SP ...`.
fn search(args: &[u8], cut: bool) -> Effect {
    let (word, rest) = word(args);
    if !word.eq_ignore_ascii_case(b"RETURN") {
        return Effect::Nothing;
    }
    let Some(end) = memchr::memchr(b')', rest) else {
        return if cut { Effect::Unknown } else { Effect::Nothing };
    };
    let options = rest.get(..end).unwrap_or_default();
    let has = |option: &[u8]| {
        options
            .split(|byte| matches!(byte, b' ' | b'('))
            .any(|given| given.eq_ignore_ascii_case(option))
    };
    match (has(b"SAVE"), has(b"UPDATE")) {
        (false, false) => Effect::Nothing,
        (saved, updates) => Effect::Search { saved, updates },
    }
}

fn names(args: &[u8]) -> u8 {
    let count = args.split(u8::is_ascii_whitespace).filter(|name| !name.is_empty());
    u8::try_from(count.count()).unwrap_or(u8::MAX)
}

fn removed(args: &[u8], cut: bool) -> Option<Box<[u8]>> {
    let (raw, _) = first(args).filter(|_| !cut)?;
    Some(value(raw).into_owned().into())
}

/// The first argument as spelled, and what follows it.
pub(super) fn first(args: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = args.strip_prefix(b" ").unwrap_or(args);
    let len = match text.first()? {
        b'"' => quoted_len(text)?,
        b'{' => {
            let (head, bytes) = literal_head(text)?;
            head.checked_add(bytes)?
        }
        _ => word(text).0.len(),
    };
    if len == 0 { None } else { text.split_at_checked(len) }
}

/// What an argument means: the inside of a quoted string or literal.
pub(super) fn value(raw: &[u8]) -> Cow<'_, [u8]> {
    match raw.first() {
        Some(b'{') => {
            let head = literal_head(raw).map_or(0, |(head, _)| head);
            Cow::Borrowed(raw.get(head..).unwrap_or_default())
        }
        Some(b'"') => {
            let mut plain = Vec::with_capacity(raw.len());
            let mut escaped = false;
            for byte in raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default() {
                escaped = *byte == b'\\' && !escaped;
                if !escaped {
                    plain.push(*byte);
                }
            }
            Cow::Owned(plain)
        }
        _ => Cow::Borrowed(raw),
    }
}

fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut at = 1_usize;
    loop {
        match text.get(at)? {
            b'"' => return at.checked_add(1),
            b'\\' => at = at.checked_add(2)?,
            _ => at = at.checked_add(1)?,
        }
    }
}

/// Length of `{n}` with its CRLF, and n.
fn literal_head(text: &[u8]) -> Option<(usize, usize)> {
    let end = memchr::memchr(b'\n', text)?;
    let number = text.get(1..end)?.strip_suffix(b"}\r")?;
    let number = std::str::from_utf8(number.strip_suffix(b"+").unwrap_or(number)).ok()?;
    Some((end.checked_add(1)?, number.parse().ok()?))
}

/// The next word and what follows it.
pub(super) fn word(args: &[u8]) -> (&[u8], &[u8]) {
    let text = args.strip_prefix(b" ").unwrap_or(args);
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'(' | b')');
    let end = text.iter().position(ends).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or_default()
}

fn first_is(args: &[u8], known: &[u8]) -> bool {
    word(args).0.eq_ignore_ascii_case(known)
}

fn contains(text: &[u8], known: &[u8]) -> bool {
    text.windows(known.len()).any(|window| window.eq_ignore_ascii_case(known))
}
