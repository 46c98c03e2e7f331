//! Shard by the form of the name.

use regex::RegexSet;

use crate::config::{Canonical, Pattern, compile_patterns};
use crate::names::{ShardId, UserName};

/// Patterns in their order, and their shards.
#[derive(Debug)]
pub(in super::super) struct Patterns {
    set: RegexSet,
    shards: Vec<ShardId>,
}

impl Patterns {
    /// Compiles them; the error says what is wrong with one, not with which.
    pub(in super::super) fn load(
        canonical: Canonical,
        patterns: &[(Pattern, ShardId)],
    ) -> Result<Self, String> {
        let set = compile_patterns(patterns.iter().map(|(pattern, _)| pattern), canonical)?;
        let shards = patterns.iter().map(|(_, shard)| shard.clone()).collect();
        Ok(Self { set, shards })
    }

    /// The shard of the first pattern that matches the canonical name.
    pub(in super::super) fn lookup(&self, user: &UserName) -> Option<&ShardId> {
        let first = self.set.matches(user.as_str()).iter().next()?;
        self.shards.get(first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(canonical: Canonical, patterns: &[(&str, &str)]) -> Patterns {
        let list: Vec<_> = patterns
            .iter()
            .map(|(pattern, shard)| (Pattern::new(*pattern), ShardId::new(*shard)))
            .collect();
        Patterns::load(canonical, &list).unwrap()
    }

    fn shard_of<'p>(patterns: &'p Patterns, user: &str) -> Option<&'p str> {
        patterns.lookup(&UserName::new(user)).map(ShardId::as_str)
    }

    #[test]
    fn the_first_pattern_that_matches_decides() {
        let patterns = load(
            Canonical::Lowercase,
            &[
                ("test-??@*", "testing"),
                ("*@*.Example.org", "branches"),
                ("/^[A-M].*@example\\.org$/", "north"),
                ("/@example\\.(org|com)$/", "south"),
                ("a+b.c@x.org", "exact"),
            ],
        );
        for (user, shard) in [
            ("test-01@example.org", Some("testing")),
            ("test-1@example.org", Some("south")),
            ("bob@sub.example.org", Some("branches")),
            ("bob@example.org", Some("north")),
            ("zoe@example.org", Some("south")),
            ("a+b.c@x.org", Some("exact")),
            ("aab.c@x.org", None),
            ("a+b.c@x.orgs", None),
            ("xa+b.c@x.org", None),
        ] {
            assert_eq!(shard_of(&patterns, user), shard, "{user}");
        }
        let exact = load(Canonical::Exact, &[("Bob@*", "north")]);
        assert_eq!(shard_of(&exact, "Bob@x.org"), Some("north"));
        assert_eq!(shard_of(&exact, "bob@x.org"), None);
    }

    /// What takes others' engines for ever.
    #[test]
    fn a_hostile_name_costs_no_more_than_its_length() {
        let patterns =
            load(Canonical::Lowercase, &[("/^(a+)+$/", "north"), ("/(x+x+)+y/", "south")]);
        for _ in 0..1000 {
            assert_eq!(shard_of(&patterns, &format!("{}!", "a".repeat(319))), None);
            assert_eq!(shard_of(&patterns, &"x".repeat(320)), None);
        }
    }

    /// As `*` and `?` have been read for ever, in the slow and obvious way.
    fn matches_glob(glob: &[char], name: &[char]) -> bool {
        match glob.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|skip| matches_glob(rest, &name[skip..])),
            Some(('?', rest)) => !name.is_empty() && matches_glob(rest, &name[1..]),
            Some((letter, rest)) => name.first() == Some(letter) && matches_glob(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_glob_matches_whole_names(glob in "[ab.+*?@\u{e9}]{1,8}", name in "[ab.+@\u{e9}]{0,8}") {
            let patterns = load(Canonical::Precis, &[(&glob, "north")]);
            let letters = |text: &str| text.chars().collect::<Vec<char>>();
            let expected = matches_glob(&letters(&glob), &letters(&name));
            prop_assert_eq!(shard_of(&patterns, &name).is_some(), expected);
        }
    }
}
