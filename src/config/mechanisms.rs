//! `mechanisms`, of listeners (what is offered) and of shards (what their backends finish).

use serde_saphyr::Location;

use crate::config::check::{Check, Names, Text};
use crate::config::shard::Shard;
use crate::sasl::Mechanism;

/// A mechanism that a listener offers, with the place that says so.
pub(super) type Offered = (Mechanism, Location);

/// Checks a list of mechanisms, each with its place; the case of names does not matter.
pub(super) fn check_list(texts: &[Text], check: &mut Check<'_>) -> Vec<Offered> {
    let mut names = Names::of("mechanism");
    let mut mechanisms = Vec::new();
    for text in texts {
        names.take_any(check, text.value.to_ascii_uppercase(), text);
        match Mechanism::of(text.value.as_bytes()) {
            Some(mechanism) => mechanisms.push((mechanism, text.defined)),
            None => check.refuse_value("mechanisms", text, one_of()),
        }
    }
    mechanisms
}

/// Nothing may be offered that a shard cannot finish: a user is known, and so his shard,
/// only after the client has chosen.
pub(super) fn check_finished(offered: &[Offered], shards: &[Shard], check: &mut Check<'_>) {
    for (mechanism, place) in offered {
        for shard in shards.iter().filter(|shard| !finishes(shard, *mechanism)) {
            let (mechanism, shard) = (mechanism.name(), &shard.name);
            let message = format!("`{mechanism}` is offered, and shard `{shard}` cannot finish it");
            let expected = format!(
                "mechanisms of every shard, or `{mechanism}` in `shards.{shard}.mechanisms`"
            );
            check.refuse(*place, message, expected);
        }
    }
}

/// Whatever brings user and password, the proxy gives them on in the form that the backend
/// takes.
fn finishes(shard: &Shard, mechanism: Mechanism) -> bool {
    shard.mechanisms.as_ref().is_none_or(|list| {
        list.contains(&mechanism)
            || !mechanism.is_relayed() && list.iter().any(|known| !known.is_relayed())
    })
}

fn one_of() -> String {
    let names = Mechanism::ALL.map(|mechanism| format!("`{}`", mechanism.name()));
    format!("one of {}", names.join(", "))
}
