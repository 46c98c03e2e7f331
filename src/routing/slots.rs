//! The slot table: which shard each of the 16,384 slots belongs to.
//!
//! It is assigned once, in equal contiguous ranges over the shards of the `hash` lookup in file
//! order, and kept in the store. From then on the store's table holds: editing the list of
//! shards moves nobody, and a shard added to it has no slots until a move gives it some.

use std::collections::HashMap;
use std::sync::Arc;

use super::hashing::SLOTS;
use crate::config::{Lookup, Routing};
use crate::names::ShardId;
use crate::store::{Change, Compare, Outcome, Snapshot, StoreError, TopologyStore, Txn};

/// Keys `slots/00` to `slots/63`, 256 slots in each, so that one transaction can set them all.
const KEY_PREFIX: &str = "slots/";
const KEYS: usize = 64;
const SLOTS_PER_KEY: usize = 256;

/// First line of each value; the others are `number-of-slots shard`, in the slots' order.
const VALUE_FORMAT: &str = "v1";

/// Tries to write the first table before giving up on a store that gives no clear answer.
const WRITE_TRIES: u32 = 5;

/// Why there is no slot table to route by.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Slots belong to shards that are no longer configured.
    #[error(
        "{}; configure the shard again, or move its users to another shard first", list(.gone)
    )]
    ShardsGone {
        /// The shards and how many slots each has.
        gone: Vec<(ShardId, usize)>,
    },
    /// What the store has is not a table of 16,384 slots.
    #[error("the slot table in the store is damaged at key {key:?}; restore it from a backup")]
    Damaged {
        /// The first key that is missing or unreadable.
        key: String,
    },
    /// The `hash` lookup names no shard, or more than there are slots.
    #[error("the hash lookup names {shards} shards; 1 to {SLOTS} are possible")]
    ShardCount {
        /// Their number.
        shards: usize,
    },
    /// A shard's name would break the stored form.
    #[error("the shard name {0:?} has a line break")]
    ShardName(ShardId),
    /// The store did not say whether the first table was written, several times.
    #[error("the store did not confirm the slot table in {WRITE_TRIES} tries")]
    Unsettled,
}

impl SlotError {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Store(error) => error.reason(),
            Self::ShardsGone { .. } => "shards_gone",
            Self::Damaged { .. } => "slots_damaged",
            Self::ShardCount { .. } => "shard_count",
            Self::ShardName(_) => "shard_name",
            Self::Unsettled => "unsettled",
        }
    }
}

fn list(gone: &[(ShardId, usize)]) -> String {
    let of_each = |(shard, slots): &(ShardId, usize)| {
        format!("shard {:?} is not configured but has {slots} of {SLOTS} slots", shard.as_str())
    };
    gone.iter().map(of_each).collect::<Vec<_>>().join(", ")
}

/// The shards of the `hash` lookup, where there is one: what a first table is assigned over.
pub fn hash_shards(routing: &Routing) -> Option<&[ShardId]> {
    routing.lookups.iter().find_map(|lookup| match lookup {
        Lookup::Hash { shards } => Some(shards.as_slice()),
        _ => None,
    })
}

/// Slot to shard, at one revision of the store. Immutable; cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTable {
    /// Either none or [`SLOTS`].
    slots: Arc<[ShardId]>,
    revision: u64,
}

impl SlotTable {
    /// A table without slots, for configurations without a `hash` lookup.
    pub fn unassigned() -> Self {
        Self { slots: Arc::default(), revision: 0 }
    }

    /// The store's table, or, where it has none, the one that would be assigned over these
    /// shards (revision 0). Writes nothing: for checks, and for reloads that may be refused.
    pub fn planned(snapshot: &Snapshot, shards: &[ShardId]) -> Result<Self, SlotError> {
        if snapshot.view.range(KEY_PREFIX.to_owned()..).any(|(key, _)| key.starts_with(KEY_PREFIX))
        {
            Self::stored(snapshot)
        } else {
            Self::assigned(shards)
        }
    }

    /// The store's table; where it has none, one is assigned over these shards and written.
    pub async fn load_or_assign(
        store: &impl TopologyStore,
        shards: &[ShardId],
    ) -> Result<Self, SlotError> {
        for _ in 0..WRITE_TRIES {
            let planned = Self::planned(&store.snapshot().await?, shards)?;
            if planned.revision > 0 {
                return Ok(planned);
            }
            match store.txn(planned.first_write()).await? {
                Outcome::Committed(revision) => return Ok(Self { revision, ..planned }),
                // Somebody else was first, or nobody knows: what the store has now decides.
                Outcome::Conflict | Outcome::Unknown => {}
            }
        }
        Err(SlotError::Unsettled)
    }

    /// The shard of a slot; `None` only if the table is unassigned or there is no such slot.
    pub fn shard_of(&self, slot: u16) -> Option<&ShardId> {
        self.slots.get(usize::from(slot))
    }

    /// Whether the table has slots.
    pub fn is_assigned(&self) -> bool {
        !self.slots.is_empty()
    }

    /// The store's revision that last changed the table; 0 if it is not stored.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether every slot's shard is among those configured.
    pub fn check_shards(&self, configured: &[ShardId]) -> Result<(), SlotError> {
        let mut counts: HashMap<&ShardId, usize> = HashMap::new();
        for shard in self.slots.iter() {
            *counts.entry(shard).or_insert(0) += 1;
        }
        let unknown = counts.into_iter().filter(|(shard, _)| !configured.contains(shard));
        let mut gone: Vec<_> = unknown.map(|(shard, slots)| (shard.clone(), slots)).collect();
        gone.sort();
        if gone.is_empty() { Ok(()) } else { Err(SlotError::ShardsGone { gone }) }
    }

    /// Equal contiguous ranges in the given order.
    fn assigned(shards: &[ShardId]) -> Result<Self, SlotError> {
        if shards.is_empty() || shards.len() > usize::from(SLOTS) {
            return Err(SlotError::ShardCount { shards: shards.len() });
        }
        if let Some(odd) = shards.iter().find(|shard| shard.as_str().contains(['\n', '\r'])) {
            return Err(SlotError::ShardName(odd.clone()));
        }
        let slots = (0..usize::from(SLOTS))
            .filter_map(|slot| shards.get(slot * shards.len() / usize::from(SLOTS)).cloned())
            .collect();
        Ok(Self { slots, revision: 0 })
    }

    fn stored(snapshot: &Snapshot) -> Result<Self, SlotError> {
        let mut slots = Vec::with_capacity(usize::from(SLOTS));
        let mut revision = 0;
        let mut names = HashMap::new();
        for number in 0..KEYS {
            let key = key_of(number);
            let row = snapshot.view.get(&key);
            let decoded = row.and_then(|row| decode(&row.value, &mut names, &mut slots));
            if decoded.is_none() || slots.len() != (number + 1) * SLOTS_PER_KEY {
                return Err(SlotError::Damaged { key });
            }
            revision = revision.max(row.map_or(0, |row| row.modified));
        }
        Ok(Self { slots: slots.into(), revision })
    }

    /// Writes the whole table where there is none.
    fn first_write(&self) -> Txn {
        let mut txn = Txn::default();
        for (number, slots) in self.slots.chunks(SLOTS_PER_KEY).enumerate() {
            txn.compares.push(Compare { key: key_of(number), modified: 0 });
            txn.changes.push(Change::Put { key: key_of(number), value: encode(slots) });
        }
        txn
    }
}

fn key_of(number: usize) -> String {
    format!("{KEY_PREFIX}{number:02}")
}

fn encode(slots: &[ShardId]) -> Vec<u8> {
    let lines = slots.chunk_by(|one, next| one == next).filter_map(|same| {
        let shard = same.first()?;
        Some(format!("{} {shard}\n", same.len()))
    });
    std::iter::once(format!("{VALUE_FORMAT}\n")).chain(lines).collect::<String>().into_bytes()
}

/// Adds one value's slots; each shard's name is made once for the whole table.
fn decode(
    value: &[u8],
    names: &mut HashMap<String, ShardId>,
    slots: &mut Vec<ShardId>,
) -> Option<()> {
    let mut lines = std::str::from_utf8(value).ok()?.lines();
    if lines.next() != Some(VALUE_FORMAT) {
        return None;
    }
    for line in lines {
        let (count, shard) = line.split_once(' ')?;
        let count = count.parse().ok().filter(|count| (1..=SLOTS_PER_KEY).contains(count))?;
        let name = names.entry(shard.to_owned()).or_insert_with(|| ShardId::new(shard)).clone();
        slots.extend(std::iter::repeat_n(name, count));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::EmbeddedStore;
    use crate::store::simulated::{Fault, SimulatedStore};

    fn shards(names: &[&str]) -> Vec<ShardId> {
        names.iter().map(|name| ShardId::new(*name)).collect()
    }

    fn count(table: &SlotTable, shard: &str) -> usize {
        table.slots.iter().filter(|of| of.as_str() == shard).count()
    }

    #[tokio::test]
    async fn the_first_table_is_equal_ranges_in_file_order() {
        let store = SimulatedStore::default();
        let table = SlotTable::load_or_assign(&store, &shards(&["b", "a", "c"])).await.unwrap();
        assert_eq!(
            (count(&table, "b"), count(&table, "a"), count(&table, "c")),
            (5462, 5461, 5461)
        );
        assert_eq!(table.shard_of(0).unwrap().as_str(), "b");
        assert_eq!(table.shard_of(5461).unwrap().as_str(), "b");
        assert_eq!(table.shard_of(5462).unwrap().as_str(), "a");
        assert_eq!(table.shard_of(16_383).unwrap().as_str(), "c");
        assert_eq!(table.shard_of(16_384), None);
        assert_eq!(table.revision(), 1);
    }

    #[tokio::test]
    async fn editing_the_list_of_shards_moves_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let first = {
            let store = EmbeddedStore::open(directory.path()).unwrap();
            SlotTable::load_or_assign(&store, &shards(&["a", "b"])).await.unwrap()
        };
        let store = EmbeddedStore::open(directory.path()).unwrap();
        for edited in [&["b", "a"][..], &["a", "b", "c"], &["c"]] {
            let again = SlotTable::load_or_assign(&store, &shards(edited)).await.unwrap();
            assert_eq!(again, first, "{edited:?}");
        }
    }

    #[tokio::test]
    async fn a_slot_whose_shard_is_gone_names_it_and_counts() {
        let store = SimulatedStore::default();
        let table = SlotTable::load_or_assign(&store, &shards(&["a", "b"])).await.unwrap();
        table.check_shards(&shards(&["c", "b", "a"])).unwrap();
        let error = table.check_shards(&shards(&["a", "c"])).unwrap_err().to_string();
        assert!(error.contains("\"b\" is not configured but has 8192 of 16384 slots"), "{error}");
    }

    #[tokio::test]
    async fn planning_writes_nothing_and_says_what_would_be_assigned() {
        let store = SimulatedStore::default();
        let planned =
            SlotTable::planned(&store.snapshot().await.unwrap(), &shards(&["a", "b"])).unwrap();
        assert_eq!(planned.revision(), 0);
        assert_eq!(store.snapshot().await.unwrap(), Snapshot::default());
        let table = SlotTable::load_or_assign(&store, &shards(&["a", "b"])).await.unwrap();
        assert_eq!(table.slots, planned.slots);
    }

    #[tokio::test]
    async fn an_unclear_answer_is_cleared_up_by_reading_again() {
        for faults in [
            vec![Fault::AnswerLost],
            vec![Fault::RequestLost],
            vec![Fault::RequestLost, Fault::RequestLost, Fault::AnswerLost],
        ] {
            let store = SimulatedStore::default();
            store.suffer(faults);
            let table = SlotTable::load_or_assign(&store, &shards(&["a", "b"])).await.unwrap();
            assert_eq!(table.revision(), 1);
            let stored =
                SlotTable::planned(&store.snapshot().await.unwrap(), &shards(&["x"])).unwrap();
            assert_eq!(stored, table);
        }
        let store = SimulatedStore::default();
        store.suffer(vec![Fault::RequestLost; 5]);
        let error = SlotTable::load_or_assign(&store, &shards(&["a"])).await.unwrap_err();
        assert!(matches!(error, SlotError::Unsettled));
    }

    #[tokio::test]
    async fn whoever_assigns_first_decides() {
        let other = SlotTable::assigned(&shards(&["b", "a"])).unwrap();
        let store = SimulatedStore::default();
        store.suffer([Fault::Overtaken(other.first_write().changes)]);
        let table = SlotTable::load_or_assign(&store, &shards(&["a", "b"])).await.unwrap();
        assert_eq!(table.slots, other.slots);
    }

    #[tokio::test]
    async fn a_damaged_table_is_refused_and_never_assigned_anew() {
        let store = SimulatedStore::default();
        let _table = SlotTable::load_or_assign(&store, &shards(&["a", "b"])).await.unwrap();
        let whole = store.snapshot().await.unwrap();
        for value in [None, Some(""), Some("v1\n255 a\n"), Some("v1\n257 a\n"), Some("v2\n256 a\n")]
        {
            let mut damaged = whole.clone();
            match value {
                None => drop(damaged.view.remove("slots/17")),
                Some(value) => {
                    damaged.view.get_mut("slots/17").unwrap().value = value.into();
                }
            }
            let error = SlotTable::planned(&damaged, &shards(&["a", "b"])).unwrap_err();
            assert!(matches!(error, SlotError::Damaged { key } if key == "slots/17"), "{value:?}");
        }
    }

    #[test]
    fn there_must_be_a_shard_to_assign() {
        let nothing = SlotTable::planned(&Snapshot::default(), &[]).unwrap_err();
        assert!(matches!(nothing, SlotError::ShardCount { shards: 0 }));
        let broken = SlotTable::planned(&Snapshot::default(), &shards(&["a\nb"])).unwrap_err();
        assert!(matches!(broken, SlotError::ShardName(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn ranges_are_equal_and_survive_the_store(number in 1_usize..300) {
            let names: Vec<ShardId> =
                (0..number).map(|at| ShardId::new(format!("shard {at}"))).collect();
            let table = SlotTable::assigned(&names).unwrap();
            for name in &names {
                let share = count(&table, name.as_str());
                let even = usize::from(SLOTS) / number;
                prop_assert!(share == even || share == even + 1);
            }
            let mut snapshot = Snapshot { revision: 1, ..Snapshot::default() };
            for change in table.first_write().changes {
                if let Change::Put { key, value } = change {
                    snapshot.view.insert(key, crate::store::Versioned { value, modified: 1 });
                }
            }
            let stored = SlotTable::planned(&snapshot, &[]).unwrap();
            prop_assert_eq!(stored.slots, table.slots);
        }
    }
}
