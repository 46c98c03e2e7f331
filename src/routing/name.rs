//! The canonical form of user names: one user, one name, however the client spells it.

use precis_profiles::UsernameCaseMapped;
use precis_profiles::precis_core::profile::PrecisFastInvocation;

use crate::config::{Canonical, Routing};
use crate::names::UserName;

/// Longest canonical name in bytes: 64 of local part, `@`, 255 of domain (RFC 5321 §4.5.3.1).
pub const NAME_BYTES_MAX: usize = 320;
/// How often the rules of RFC 8265 are applied to one name (RFC 8264 section 7 names three).
const PREPARE_ROUNDS_MAX: u32 = 3;

/// Why a name cannot be a user's. The client gets the same answer for all of them as for
/// a wrong password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left once blanks are stripped.
    #[error("the user name is empty")]
    Empty,
    /// The canonical form would be longer than [`NAME_BYTES_MAX`].
    #[error("the user name is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// A byte above 127 where only ASCII is taken: all of the name, or with
    /// [`Canonical::Precis`] its domain.
    #[error("the user name has characters outside ASCII")]
    NonAscii,
    /// Not UTF-8, or refused by RFC 8265.
    #[error("the user name is none by RFC 8265")]
    NotPrepared,
    /// A character that no name may have.
    #[error("the user name has the forbidden character {0:?}")]
    Forbidden(char),
    /// Nothing before the last `@`, or nothing behind it.
    #[error("the user name has an empty part beside its `@`")]
    EmptyPart,
}

impl NameError {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::NonAscii => "non_ascii",
            Self::NotPrepared => "not_prepared",
            Self::Forbidden(_) => "forbidden_character",
            Self::EmptyPart => "empty_part",
        }
    }
}

/// The canonical form of a name as a client sent it or a users file has it: blanks around
/// it stripped, ASCII letters lowered (with [`Canonical::Exact`] only the domain's, since
/// domains have no case), the default domain added where there is no `@`, dots at the
/// domain's end stripped. The canonical form of a canonical name is itself.
///
/// With [`Canonical::Precis`] letters outside ASCII are taken too and all of the name is
/// prepared by `UsernameCaseMapped` (RFC 8265 §3.3): width, case, normalisation, direction.
/// A domain is in ASCII; one outside it must be typed in its `xn--` form, so that it has one
/// spelling only.
///
/// It is for routing, limits and logs. The backend is given the name as the client sent it.
pub fn canonical(routing: &Routing, raw: &[u8]) -> Result<UserName, NameError> {
    let mut name = String::with_capacity(raw.len().min(NAME_BYTES_MAX));
    canonical_into(routing, raw, &mut name)?;
    Ok(UserName::new(name))
}

/// What is behind the last `@` of a canonical name.
pub(super) fn domain_of(user: &UserName) -> Option<&str> {
    user.as_str().rsplit_once('@').map(|(_, domain)| domain)
}

/// As [`canonical`], into a buffer that is cleared first, for loaders of many names. What is
/// in the buffer after an error is of no use.
pub(super) fn canonical_into(
    routing: &Routing,
    raw: &[u8],
    name: &mut String,
) -> Result<(), NameError> {
    name.clear();
    let stripped = raw.trim_ascii();
    if stripped.is_empty() {
        return Err(NameError::Empty);
    }
    // The trailing dots that are stripped below may exceed the limit; a bound on what is
    // looked at is all that matters here.
    if stripped.len() > 2 * NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    if routing.canonical == Canonical::Precis && !stripped.is_ascii() {
        prepare(stripped, name)?;
    } else {
        push_ascii(stripped, name)?;
    }
    if routing.canonical != Canonical::Exact {
        name.make_ascii_lowercase();
    }
    if !name.contains('@')
        && let Some(domain) = &routing.default_domain
    {
        name.push('@');
        name.push_str(domain.trim_start_matches('@'));
    }
    finish_domain(name)?;
    if name.len() > NAME_BYTES_MAX { Err(NameError::TooLong) } else { Ok(()) }
}

fn push_ascii(stripped: &[u8], name: &mut String) -> Result<(), NameError> {
    for &byte in stripped {
        if !byte.is_ascii() {
            return Err(NameError::NonAscii);
        }
        if !is_allowed(byte) {
            return Err(NameError::Forbidden(char::from(byte)));
        }
        name.push(char::from(byte));
    }
    Ok(())
}

/// RFC 8265 section 3.3. Its rules may have to be applied more than once (RFC 8264
/// section 7); a name that does not come to rest has no canonical form.
fn prepare(raw: &[u8], name: &mut String) -> Result<(), NameError> {
    let enforce = |text: &str| {
        UsernameCaseMapped::enforce(text)
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| NameError::NotPrepared)
    };
    let mut prepared = enforce(std::str::from_utf8(raw).map_err(|_| NameError::NotPrepared)?)?;
    let mut rounds = 0;
    loop {
        let again = enforce(&prepared)?;
        if again == prepared {
            break;
        }
        rounds += 1;
        if rounds == PREPARE_ROUNDS_MAX {
            return Err(NameError::NotPrepared);
        }
        prepared = again;
    }
    // Wide forms became ASCII just now: a wide `*` must not slip through.
    if let Some(forbidden) = prepared.chars().find(|letter| !is_allowed_letter(*letter)) {
        return Err(NameError::Forbidden(forbidden));
    }
    name.push_str(&prepared);
    Ok(())
}

/// Letters outside ASCII were judged by RFC 8265.
fn is_allowed_letter(letter: char) -> bool {
    u8::try_from(letter).map_or(true, |byte| !byte.is_ascii() || is_allowed(byte))
}

/// Lowers the domain behind the last `@` and strips the dots at its end.
fn finish_domain(name: &mut String) -> Result<(), NameError> {
    let Some(at) = name.rfind('@') else {
        return Ok(());
    };
    while name.ends_with('.') {
        name.pop();
    }
    if at == 0 || at + 1 >= name.len() {
        return Err(NameError::EmptyPart);
    }
    if let Some(domain) = name.get_mut(at..) {
        if !domain.is_ascii() {
            return Err(NameError::NonAscii);
        }
        domain.make_ascii_lowercase();
    }
    Ok(())
}

/// The characters a name may have: letters, digits and the signs that mail addresses use
/// (RFC 5322 §3.2.3) less those that mean something to what stands behind the proxy.
///
/// - `*`, `%` and `/`: separators of master users; a backend whose separator is set otherwise
///   than the proxy's would sign another user in than was routed (B-39). `%` also begins
///   Dovecot's variables, `*` and `%` are LIST's wildcards.
/// - `/` and `\`: paths (B-38).
/// - `"`, `(`, `)`, `{`, `}`, `<`, `>`, `,`, `;`, `:` and backquote: quoting, IMAP lists and
///   literals, LDAP filters, shells.
/// - Blanks and controls within a name, and what is not ASCII: other spellings of a user
///   who has a canonical name already, so that limits and kicks would miss them (B-41).
const fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'.' | b'-'
                | b'_'
                | b'+'
                | b'='
                | b'@'
                | b'\''
                | b'&'
                | b'#'
                | b'!'
                | b'~'
                | b'^'
                | b'$'
                | b'|'
        )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn routing(canonical: Canonical, default_domain: Option<&str>) -> Routing {
        Routing {
            canonical,
            default_domain: default_domain.map(str::to_owned),
            lookups: Vec::new(),
            routing_key: crate::config::RoutingKey::User,
            sticky: Duration::from_secs(900),
            on_route_change: crate::config::OnRouteChange::Join,
        }
    }

    fn lowered(raw: &str) -> Result<String, NameError> {
        canonical(&routing(Canonical::Lowercase, None), raw.as_bytes())
            .map(|name| name.as_str().to_owned())
    }

    #[test]
    fn every_spelling_of_a_user_is_one_name() {
        for spelling in
            ["bob@example.org", "BOB@Example.ORG", " bob@example.org\t", "Bob@example.org."]
        {
            assert_eq!(lowered(spelling).as_deref(), Ok("bob@example.org"), "{spelling:?}");
        }
    }

    #[test]
    fn a_name_without_domain_gets_the_default_one() {
        let routing = routing(Canonical::Lowercase, Some("Example.org."));
        let name = |raw: &str| canonical(&routing, raw.as_bytes()).unwrap();
        assert_eq!(name("Bob").as_str(), "bob@example.org");
        assert_eq!(name("bob@other.net").as_str(), "bob@other.net");
    }

    #[test]
    fn exact_names_keep_the_case_of_the_user_but_not_of_the_domain() {
        let name = canonical(&routing(Canonical::Exact, None), b"Bob@Example.ORG").unwrap();
        assert_eq!(name.as_str(), "Bob@example.org");
    }

    #[test]
    fn names_that_mean_something_else_to_a_backend_are_refused() {
        for raw in ["bob*admin", "bob%admin", "*admin", "%u", "../bob", "a\\b", "a)(b", "a{5}"] {
            assert!(matches!(lowered(raw), Err(NameError::Forbidden(_))), "{raw:?}");
        }
        for raw in ["a b", "a\0b", "a\r\nb", "a\x7fb", "a\"b", "a<b", "a,b", "a;b", "a:b", "a`b"] {
            assert!(matches!(lowered(raw), Err(NameError::Forbidden(_))), "{raw:?}");
        }
        assert_eq!(lowered("b\u{f6}b"), Err(NameError::NonAscii));
        assert_eq!(lowered("\u{ff42}ob"), Err(NameError::NonAscii));
        assert_eq!(lowered(" \t "), Err(NameError::Empty));
        assert_eq!(lowered(""), Err(NameError::Empty));
        assert_eq!(lowered("bob@"), Err(NameError::EmptyPart));
        assert_eq!(lowered("bob@."), Err(NameError::EmptyPart));
        assert_eq!(lowered("@example.org"), Err(NameError::EmptyPart));
    }

    fn prepared(raw: &str) -> Result<String, NameError> {
        canonical(&routing(Canonical::Precis, None), raw.as_bytes())
            .map(|name| name.as_str().to_owned())
    }

    #[test]
    fn rfc_8265_makes_one_name_of_every_spelling() {
        for spelling in [
            "b\u{f6}b@example.org",
            "B\u{d6}B@EXAMPLE.ORG.",
            " bo\u{308}b@example.org",
            "\u{ff42}\u{f6}\u{ff42}\u{ff20}example.org",
        ] {
            assert_eq!(prepared(spelling).as_deref(), Ok("b\u{f6}b@example.org"), "{spelling:?}");
        }
        assert_eq!(prepared("BOB@Example.ORG").as_deref(), Ok("bob@example.org"));
        assert_eq!(prepared("\u{ff22}ob").as_deref(), Ok("bob"));
    }

    #[test]
    fn what_rfc_8265_or_the_list_of_signs_refuses_is_no_name() {
        for raw in ["b\u{f6} b", "b\u{2028}b\u{f6}", "\u{1f600}", "\u{fb01}sh", "\u{5d0}1a"] {
            assert_eq!(prepared(raw), Err(NameError::NotPrepared), "{raw:?}");
        }
        assert_eq!(prepared("b\u{f6}b\u{ff0a}admin"), Err(NameError::Forbidden('*')));
        assert_eq!(prepared("b\u{f6}b%"), Err(NameError::Forbidden('%')));
        assert_eq!(prepared("bob@b\u{fc}cher.example"), Err(NameError::NonAscii));
        assert_eq!(
            canonical(&routing(Canonical::Precis, None), b"b\xf6b"),
            Err(NameError::NotPrepared)
        );
    }

    #[test]
    fn names_with_the_signs_of_mail_addresses_pass() {
        for raw in ["o'brien+lists@x.org", "a=b@x", "_x.y-z", "a@b@c", "q&a#1!~^$|"] {
            assert_eq!(lowered(raw).as_deref(), Ok(raw));
        }
    }

    #[test]
    fn the_longest_name_has_320_bytes() {
        assert!(lowered(&"a".repeat(320)).is_ok());
        assert_eq!(lowered(&"a".repeat(321)), Err(NameError::TooLong));
        assert_eq!(lowered(&"a".repeat(100_000)), Err(NameError::TooLong));
    }

    proptest! {
        #[test]
        fn a_canonical_name_is_its_own_canonical_form(
            raw in "[ -~]{0,40}(@[A-Za-z.]{0,20})?",
            exact in any::<bool>(),
            domain in prop::option::of("[A-Za-z]{1,9}(\\.[A-Za-z]{1,9}){0,2}\\.?"),
        ) {
            let kind = if exact { Canonical::Exact } else { Canonical::Lowercase };
            let routing = routing(kind, domain.as_deref());
            if let Ok(once) = canonical(&routing, raw.as_bytes()) {
                prop_assert_eq!(canonical(&routing, once.as_str().as_bytes()), Ok(once.clone()));
                prop_assert!(once.as_str().len() <= NAME_BYTES_MAX);
                prop_assert!(once.as_str().bytes().all(is_allowed));
            }
        }

        #[test]
        fn a_prepared_name_is_its_own_canonical_form(
            raw in "[a-zA-Z\u{c0}-\u{24f}\u{370}-\u{5ff}\u{900}-\u{97f}\u{ff00}-\u{ffef}@.]{1,12}",
        ) {
            if let Ok(once) = prepared(&raw) {
                prop_assert_eq!(prepared(&once), Ok(once.clone()));
                prop_assert!(once.chars().all(is_allowed_letter));
            }
        }

        #[test]
        fn any_bytes_give_a_name_or_an_error(raw in prop::collection::vec(any::<u8>(), 0..700)) {
            let routing = routing(Canonical::Lowercase, None);
            if let Ok(name) = canonical(&routing, &raw) {
                prop_assert!(!name.as_str().is_empty());
            }
        }
    }
}
