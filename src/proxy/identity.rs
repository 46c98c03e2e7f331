//! Who a login is for: the canonical name that routing, limits, metrics and kicks go by.

use std::net::IpAddr;

use crate::config::{Config, Master, Routing};
use crate::names::UserName;
use crate::net::cidr;
use crate::routing::name;
use crate::sasl::Proof;

/// Whom a login is for, and who signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The user whose mailboxes are opened.
    pub(super) user: UserName,
    /// The master user who signs in as the user, where it is one.
    pub(super) master: Option<UserName>,
    /// Whether the identity to act as must reach the backend, which only AUTHENTICATE PLAIN
    /// can do.
    pub(super) needs_authzid: bool,
}

/// The identity of a login from that address, or the reason why there is none; the client
/// gets the answer to a wrong password for all of them.
pub(super) fn of(config: &Config, source: IpAddr, proof: &Proof) -> Result<Identity, &'static str> {
    let routing = &config.routing;
    let master = config.master.as_ref();
    let identity = match proof.authzid() {
        None | Some([]) => of_name(routing, master, source, proof.user())?,
        Some(authzid) => of_pair(routing, master, source, (authzid, proof.user()))?,
    };
    match proof {
        Proof::Opening(_) if identity.needs_authzid => Err("master_login"),
        _ => Ok(identity),
    }
}

/// One name: a user's, or `user*master`.
fn of_name(
    routing: &Routing,
    master: Option<&Master>,
    source: IpAddr,
    typed: &[u8],
) -> Result<Identity, &'static str> {
    let Some((user, admin)) = master.and_then(|rule| split(typed, rule.separator)) else {
        let user = plain(routing, master, typed)?;
        return Ok(Identity { user, master: None, needs_authzid: false });
    };
    check_source(master, source)?;
    let user = plain(routing, master, user)?;
    let admin = plain(routing, master, admin)?;
    Ok(Identity { user, master: Some(admin), needs_authzid: false })
}

/// SASL's two identities: the one to act as, and the one whose password is given.
fn of_pair(
    routing: &Routing,
    master: Option<&Master>,
    source: IpAddr,
    (acts_as, signs_in): (&[u8], &[u8]),
) -> Result<Identity, &'static str> {
    let user = plain(routing, master, acts_as)?;
    let admin = plain(routing, master, signs_in)?;
    if user == admin {
        return Ok(Identity { user, master: None, needs_authzid: false });
    }
    check_source(master, source)?;
    Ok(Identity { user, master: Some(admin), needs_authzid: true })
}

fn check_source(master: Option<&Master>, source: IpAddr) -> Result<(), &'static str> {
    let allowed = master.is_some_and(|rule| cidr::any_contains(&rule.networks, source));
    if allowed { Ok(()) } else { Err("master_login") }
}

/// A name in which the separator means nothing any more, in no spelling of it.
fn plain(
    routing: &Routing,
    master: Option<&Master>,
    typed: &[u8],
) -> Result<UserName, &'static str> {
    let name = name::canonical(routing, typed).map_err(|error| error.reason())?;
    if master.is_some_and(|rule| name.as_str().contains(rule.separator)) {
        return Err("master_login");
    }
    Ok(name)
}

/// The parts before and behind the first separator, which is ASCII.
fn split(typed: &[u8], separator: char) -> Option<(&[u8], &[u8])> {
    let at = typed.iter().position(|byte| char::from(*byte) == separator)?;
    Some((typed.get(..at)?, typed.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::names::Secret;
    use crate::sasl::{Credentials, Exchange, Mechanism, Progress};

    const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn config(more: &str) -> Config {
        let text = format!(
            "listeners: [ {{ name: i, address: \"127.0.0.1:143\", tls: none }} ]\n\
             shards: {{ s: {{ kind: shared, backends: \
             [ {{ name: b, address: \"h:1\", tls: none }} ] }} }}\n\
             routing: {{ canonical: precis, lookups: [ {{ shard: s }} ] }}\n{more}\n"
        );
        Config::parse(Path::new("p.yaml"), &text).unwrap()
    }

    fn with_masters() -> Config {
        config("master: { separator: \"*\", networks: [10.0.0.0/8] }")
    }

    fn who(
        config: &Config,
        source: IpAddr,
        authzid: Option<&str>,
        user: &str,
    ) -> Result<(String, Option<String>), &'static str> {
        let credentials = Credentials {
            authzid: authzid.map(|text| text.as_bytes().to_vec()),
            user: user.as_bytes().to_vec(),
            password: Secret::default(),
        };
        of(config, source, &Proof::Credentials(credentials)).map(|identity| {
            assert_eq!(identity.needs_authzid, authzid.is_some() && identity.master.is_some());
            let master = identity.master.map(|name| name.as_str().to_owned());
            (identity.user.as_str().to_owned(), master)
        })
    }

    /// B-39.
    #[test]
    fn a_masters_name_is_the_targets_where_the_source_is_allowed() {
        let with = with_masters();
        let bob = Ok(("bob".to_owned(), Some("admin".to_owned())));
        assert_eq!(who(&with, INSIDE, None, "Bob*ADMIN"), bob);
        assert_eq!(who(&with, OUTSIDE, None, "bob*admin"), Err("master_login"));
        assert_eq!(who(&config(""), INSIDE, None, "bob*admin"), Err("forbidden_character"));
        for odd in ["*admin", "bob*", "*", "bob*a*b", "bob**admin", " *admin", "bob%admin"] {
            assert!(who(&with, INSIDE, None, odd).is_err(), "{odd}");
        }
        for wide in ["bob\u{ff0a}admin", "bob*\u{ff0a}admin"] {
            assert!(who(&with, INSIDE, None, wide).is_err(), "{wide}");
        }
    }

    /// A separator that names may have is none any more once it separates, wide or not.
    #[test]
    fn a_separator_that_names_may_have_leaves_no_ordinary_name() {
        let with = config("master: { separator: \"#\", networks: [10.0.0.0/8] }");
        assert_eq!(who(&with, OUTSIDE, None, "bob#admin"), Err("master_login"));
        assert_eq!(who(&with, OUTSIDE, None, "bob\u{ff03}admin"), Err("master_login"));
        assert_eq!(who(&config(""), OUTSIDE, None, "bob#admin"), Ok(("bob#admin".into(), None)));
    }

    /// B-40.
    #[test]
    fn another_identity_is_a_master_login_and_the_same_one_is_not() {
        let with = with_masters();
        let bob = || Ok(("bob".to_owned(), None));
        assert_eq!(who(&with, OUTSIDE, Some("BOB"), "bob"), bob());
        assert_eq!(who(&with, OUTSIDE, Some(""), "bob"), bob());
        assert_eq!(who(&with, OUTSIDE, Some("bob"), "admin"), Err("master_login"));
        let master = Ok(("bob".to_owned(), Some("admin".to_owned())));
        assert_eq!(who(&with, INSIDE, Some("Bob"), "Admin"), master);
        assert_eq!(who(&config(""), INSIDE, Some("bob"), "admin"), Err("master_login"));
        assert!(who(&with, INSIDE, Some("bob*admin"), "admin").is_err());
        assert!(who(&with, INSIDE, Some("bob"), "eve*admin").is_err());
    }

    /// Of two identities only AUTHENTICATE PLAIN tells the backend.
    #[test]
    fn no_other_identity_signs_in_by_an_exchange() {
        let opened = |message: &[u8]| {
            let exchange = Exchange::new(Mechanism::ScramSha1);
            let step = exchange.step(&Secret::new(message.to_vec()));
            let Ok(Progress::Opened(opening)) = step else { panic!("{step:?}") };
            of(&with_masters(), INSIDE, &Proof::Opening(opening)).map(|who| who.user)
        };
        assert_eq!(opened(b"n,a=Bob,n=bob,r=x"), Ok(UserName::new("bob")));
        assert_eq!(opened(b"n,,n=bob*admin,r=x"), Ok(UserName::new("bob")));
        assert_eq!(opened(b"n,a=bob,n=admin,r=x"), Err("master_login"));
    }

    proptest! {
        #[test]
        fn a_master_login_comes_only_from_its_networks(user in "\\PC{1,9}", master in "\\PC{1,9}") {
            let with = with_masters();
            let typed = format!("{user}*{master}");
            prop_assert!(who(&with, OUTSIDE, None, &typed).is_err());
            if let Ok((target, admin)) = who(&with, INSIDE, None, &typed) {
                prop_assert!(admin.is_some() && !target.contains('*'));
            }
        }
    }
}
