//! Capability lists: what servers offer, what the proxy offers, what passes after login.

use std::sync::Arc;

/// A parsed capability list; names are kept as sent and compared in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<Box<[u8]>>);

impl Capabilities {
    /// Parses the atoms of a list, with or without the leading word `CAPABILITY`. The
    /// list comes from one bounded line, which bounds the number of atoms too.
    pub fn parse(list: &[u8]) -> Self {
        let mut atoms = atoms(list).peekable();
        if atoms.peek().is_some_and(|first| first.eq_ignore_ascii_case(b"CAPABILITY")) {
            atoms.next();
        }
        Self(atoms.map(Box::from).collect())
    }

    /// Whether the list has this capability, e.g. `SASL-IR` or `AUTH=PLAIN`.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|atom| atom.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The capabilities in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the capabilities with single blanks between them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (place, atom) in self.iter().enumerate() {
            if place > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(atom);
        }
    }
}

/// What the proxy offers before login. The greeting and the CAPABILITY answer are
/// encoded from the same value, so they cannot differ.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Whether STARTTLS can be asked for now.
    pub starttls: bool,
    /// Whether a login would be refused now (RFC 9051 §6.2.3).
    pub login_disabled: bool,
    /// Names of the SASL mechanisms that can be used now.
    pub mechanisms: &'a [&'static str],
}

impl Offer<'_> {
    /// Appends the list, from `IMAP4rev1` to the last `AUTH=`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"IMAP4rev1 SASL-IR LITERAL- ID");
        if self.starttls {
            out.extend_from_slice(b" STARTTLS");
        }
        if self.login_disabled {
            out.extend_from_slice(b" LOGINDISABLED");
        }
        for mechanism in self.mechanisms {
            out.extend_from_slice(b" AUTH=");
            out.extend_from_slice(mechanism.as_bytes());
        }
    }
}

/// Which of a backend's capabilities reach a client after login. Cheap to clone.
///
/// Dropped are those that the proxy must answer itself or that would lead a session
/// past it (`COMPRESS=...`, `UNAUTHENTICATE`, `X-UNAUTHENTICATE`, `LOGIN-REFERRALS`,
/// `MAILBOX-REFERRALS`) and those that mean nothing after login (`STARTTLS`,
/// `LOGINDISABLED`, `AUTH=...`); where an allow list is set, all that it does not name
/// but `IMAP4rev1` and `IMAP4rev2`.
#[derive(Debug, Clone, Default)]
pub struct CapabilityFilter {
    allow: Option<Arc<[String]>>,
}

impl CapabilityFilter {
    /// A filter with the operator's list of what may be offered; `None` allows all.
    pub fn new(allow: Option<&[String]>) -> Self {
        Self { allow: allow.map(Arc::from) }
    }

    /// Whether this atom of a list, e.g. `IDLE`, reaches the client.
    pub fn keeps(&self, atom: &[u8]) -> bool {
        if is_dropped(atom) {
            return false;
        }
        let Some(allow) = &self.allow else {
            return true;
        };
        is_revision(atom) || allow.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(atom))
    }

    /// The list (atoms only, without `* CAPABILITY`) with single blanks between what is kept.
    pub fn filter_list(&self, list: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(list.len());
        for atom in atoms(list).filter(|atom| self.keeps(atom)) {
            if !out.is_empty() {
                out.push(b' ');
            }
            out.extend_from_slice(atom);
        }
        out
    }
}

fn atoms(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).filter(|atom| !atom.is_empty())
}

fn is_revision(atom: &[u8]) -> bool {
    atom.eq_ignore_ascii_case(b"IMAP4rev1") || atom.eq_ignore_ascii_case(b"IMAP4rev2")
}

fn is_dropped(atom: &[u8]) -> bool {
    const WHOLE: [&str; 7] = [
        "COMPRESS",
        "LOGIN-REFERRALS",
        "LOGINDISABLED",
        "MAILBOX-REFERRALS",
        "STARTTLS",
        "UNAUTHENTICATE",
        "X-UNAUTHENTICATE",
    ];
    const STARTS: [&str; 2] = ["AUTH=", "COMPRESS="];
    WHOLE.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(atom))
        || STARTS.iter().any(|start| {
            atom.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        let list = Capabilities::parse(b"CAPABILITY IMAP4rev1 sasl-ir  AUTH=PLAIN\r\n");
        assert!(list.has("SASL-IR") && list.has("auth=plain") && list.has("IMAP4REV1"));
        assert!(!list.has("CAPABILITY") && !list.has("SASL"));
        assert_eq!(list.iter().count(), 3);
        let mut out = Vec::new();
        list.encode(&mut out);
        assert_eq!(Capabilities::parse(&out), list);
    }

    #[test]
    fn what_the_proxy_must_keep_to_itself_is_dropped() {
        let filter = CapabilityFilter::new(None);
        let list = b"IMAP4rev1 IDLE compress=deflate UNAUTHENTICATE X-UNAUTHENTICATE \
            LOGIN-REFERRALS MAILBOX-REFERRALS STARTTLS LOGINDISABLED auth=PLAIN MOVE";
        assert_eq!(filter.filter_list(list), b"IMAP4rev1 IDLE MOVE");
        assert!(filter.keeps(b"AUTHX"));
    }

    #[test]
    fn an_allow_list_keeps_what_it_names_and_the_revision() {
        let filter = CapabilityFilter::new(Some(&["IDLE".to_owned(), "STARTTLS".to_owned()]));
        let list = b"IMAP4rev1 IMAP4rev2 idle UIDPLUS STARTTLS";
        assert_eq!(filter.filter_list(list), b"IMAP4rev1 IMAP4rev2 idle");
    }

    #[test]
    fn an_offer_lists_only_what_can_be_done_now() {
        let mut out = Vec::new();
        Offer { starttls: true, login_disabled: true, mechanisms: &[] }.encode(&mut out);
        assert_eq!(out, b"IMAP4rev1 SASL-IR LITERAL- ID STARTTLS LOGINDISABLED");
        out.clear();
        Offer { starttls: false, login_disabled: false, mechanisms: &["PLAIN", "LOGIN"] }
            .encode(&mut out);
        assert_eq!(out, b"IMAP4rev1 SASL-IR LITERAL- ID AUTH=PLAIN AUTH=LOGIN");
    }
}
