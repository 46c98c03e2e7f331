//! Capability lists: what is dropped never passes, what is allowed is kept in order.

use pointsman::protocol::capability::{Capabilities, CapabilityFilter};

use crate::cuts::first;

const NEVER: [&str; 7] = [
    "COMPRESS",
    "LOGIN-REFERRALS",
    "LOGINDISABLED",
    "MAILBOX-REFERRALS",
    "STARTTLS",
    "UNAUTHENTICATE",
    "X-UNAUTHENTICATE",
];

/// First byte: whether there is an allow list; then a server's list.
pub fn run(data: &[u8]) {
    let (choice, list) = first(data);
    let allow = (choice % 2 == 1).then(|| ["IDLE", "MOVE", "STARTTLS"].map(str::to_owned));
    let filter = CapabilityFilter::new(allow.as_ref().map(<[String; 3]>::as_slice));
    let out = filter.filter_list(list);
    let words: Vec<&[u8]> =
        list.split(|byte| b" \r\n".contains(byte)).filter(|word| !word.is_empty()).collect();
    let expected: Vec<&[u8]> =
        words.iter().copied().filter(|word| passes(word, allow.is_some())).collect();
    assert_eq!(out, expected.join(&b' '), "{list:?}");
    assert_eq!(filter.filter_list(&out), out, "filtering twice changes more");

    let parsed = Capabilities::parse(list);
    let leading = words.first().is_some_and(|word| word.eq_ignore_ascii_case(b"CAPABILITY"));
    assert_eq!(parsed.iter().collect::<Vec<_>>(), words[usize::from(leading)..]);
    for word in &words[usize::from(leading)..] {
        assert!(std::str::from_utf8(word).map_or(true, |word| parsed.has(word)));
    }
    let mut encoded = b"CAPABILITY ".to_vec();
    parsed.encode(&mut encoded);
    assert_eq!(Capabilities::parse(&encoded), parsed);
}

fn passes(word: &[u8], allow: bool) -> bool {
    let upper = word.to_ascii_uppercase();
    let never = NEVER.iter().any(|name| name.as_bytes() == upper)
        || upper.starts_with(b"AUTH=")
        || upper.starts_with(b"COMPRESS=");
    let listed = [&b"IMAP4REV1"[..], b"IMAP4REV2", b"IDLE", b"MOVE"].contains(&&upper[..]);
    !never && (!allow || listed)
}
