//! Whether the backends of a shard list the same capabilities. What checks learn only
//! warns: what clients are offered does not change with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::names::{BackendId, ShardId};
use crate::protocol::capability::Capabilities;
use crate::upstream::backends::{Shard, Upstreams};
use crate::upstream::check::Learnt;

/// Capabilities that one warning names at most.
const SHOWN_MAX: usize = 12;
/// Bytes of one capability that are shown at most.
const SHOWN_BYTES_MAX: usize = 64;
/// They depend on the leg, which may well be another for each backend.
const OF_THE_LEG: [&str; 2] = ["STARTTLS", "LOGINDISABLED"];

/// What was told, by shard.
#[derive(Debug, Default)]
pub struct Comparison {
    told: HashMap<ShardId, String>,
}

/// The capabilities by backend.
type Lists<'a> = Vec<(&'a BackendId, BTreeSet<String>)>;

impl Comparison {
    /// Compares a shard's backends and tells a difference that was not told yet, once.
    pub fn compare(&mut self, upstreams: &Upstreams, shard: &Shard) {
        let Some((shard, backends)) =
            upstreams.shards().find(|(known, _)| known.name == shard.name)
        else {
            return;
        };
        let learnt: Vec<_> = backends
            .iter()
            .filter_map(|backend| Some((backend.name(), backend.learnt()?)))
            .collect();
        let lists = |of: fn(&Learnt) -> Option<&Capabilities>| -> Lists<'_> {
            learnt.iter().filter_map(|(name, learnt)| Some((*name, names(of(learnt)?)))).collect()
        };
        let before = differences(&lists(|learnt| learnt.before_login.as_ref()));
        let after = differences(&lists(|learnt| learnt.after_login.as_ref()));
        let all: BTreeMap<String, String> = before.into_iter().chain(after).collect();
        shard.metrics.set_capabilities_differ(!all.is_empty());
        let shown = show(&all);
        let told = self.told.entry(shard.name.clone()).or_default();
        if *told != shown && !shown.is_empty() {
            tracing::warn!(
                shard = %shard.name,
                differences = shown,
                "the backends of a shard list different capabilities"
            );
        }
        *told = shown;
    }
}

/// The names of a list in upper case, as far as they can be shown.
fn names(list: &Capabilities) -> BTreeSet<String> {
    let plain = |atom: &[u8]| -> String {
        let atom = atom.get(..SHOWN_BYTES_MAX).unwrap_or(atom);
        let shown = atom.iter().filter(|byte| byte.is_ascii_graphic());
        shown.map(|byte| char::from(byte.to_ascii_uppercase())).collect()
    };
    list.iter().map(plain).filter(|name| !OF_THE_LEG.contains(&name.as_str())).collect()
}

/// Each capability that some list and others do not, with those that do not.
fn differences(lists: &Lists<'_>) -> BTreeMap<String, String> {
    let all: BTreeSet<&String> = lists.iter().flat_map(|(_, list)| list).collect();
    let lacking = |name: &String| -> String {
        let without = lists.iter().filter(|(_, list)| !list.contains(name));
        without.map(|(backend, _)| backend.as_str()).collect::<Vec<_>>().join(" ")
    };
    all.into_iter()
        .map(|name| (name.clone(), lacking(name)))
        .filter(|(_, without)| !without.is_empty())
        .collect()
}

fn show(differences: &BTreeMap<String, String>) -> String {
    let shown = differences.iter().take(SHOWN_MAX);
    let mut parts: Vec<String> =
        shown.map(|(name, without)| format!("{name} (not on {without})")).collect();
    let more = differences.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_backend_lacks_is_named_with_it_and_the_leg_is_left_out() {
        let list = |text: &str| names(&Capabilities::parse(text.as_bytes()));
        let (n1, n2) = (BackendId::new("n1"), BackendId::new("n2"));
        let lists = vec![
            (&n1, list("IMAP4rev1 idle STARTTLS LOGINDISABLED MOVE")),
            (&n2, list("IMAP4REV1 IDLE")),
        ];
        let found = differences(&lists);
        assert_eq!(show(&found), "MOVE (not on n2)");
        assert!(differences(&lists[..1].to_vec()).is_empty());
    }

    #[test]
    fn a_warning_names_a_few_and_shows_no_control_characters() {
        let many: Vec<String> = (0..40).map(|number| format!("X{number:02}\x1b[1m")).collect();
        let (n1, n2) = (BackendId::new("n1"), BackendId::new("n2"));
        let lists = vec![
            (&n1, names(&Capabilities::parse(many.join(" ").as_bytes()))),
            (&n2, BTreeSet::new()),
        ];
        let shown = show(&differences(&lists));
        assert!(shown.ends_with("and 28 more"), "{shown}");
        assert!(shown.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{shown}");
    }
}
