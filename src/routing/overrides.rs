//! What operators said of single users at run time: pins (a user's shard, whatever
//! the lookups say) and blocks. Kept in the store, and here in memory for the logins.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::names::{ShardId, UserName};
use crate::store::{Change, Snapshot};

/// Most pins, and most blocked users. Where whole groups live belongs in the lookups.
pub const OVERRIDES_MAX: usize = 100_000;

/// Keys `pins/USER`, and the value's first line; the second is the shard.
const PIN_PREFIX: &str = "pins/";
const PIN_FORMAT: &str = "v1";
/// Keys `blocked/USER`, and their value.
const BLOCK_PREFIX: &str = "blocked/";
const BLOCK_VALUE: &str = "v1\n";

/// The store's key of a user's pin.
pub fn pin_key(user: &UserName) -> String {
    format!("{PIN_PREFIX}{user}")
}

/// The store's value of a pin to that shard.
pub fn pin_value(shard: &ShardId) -> Vec<u8> {
    format!("{PIN_FORMAT}\n{shard}\n").into_bytes()
}

/// The store's key of a block.
pub fn block_key(user: &UserName) -> String {
    format!("{BLOCK_PREFIX}{user}")
}

/// The store's value of a block.
pub fn block_value() -> Vec<u8> {
    BLOCK_VALUE.as_bytes().to_vec()
}

/// Such a key in two: what all keys of its kind begin with, and the user.
pub fn split_key(key: &str) -> Option<(&str, &str)> {
    let of = |prefix: &'static str| key.strip_prefix(prefix).map(|user| (prefix, user));
    of(PIN_PREFIX).or_else(|| of(BLOCK_PREFIX))
}

/// A row of the store that says nothing that could be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store's row of the key {key:?} is damaged; restore the store from a backup")]
pub struct DamagedRow {
    /// Its key.
    pub key: String,
}

/// Pins and blocks as the store has them. Asked at each login, for no longer than two steps
/// down a tree.
#[derive(Debug, Default)]
pub struct Overrides(RwLock<Entries>);

#[derive(Debug, Default)]
struct Entries {
    pins: BTreeMap<UserName, ShardId>,
    blocked: BTreeSet<UserName>,
}

impl Overrides {
    /// The shard that a user is pinned to.
    pub fn pinned(&self, user: &UserName) -> Option<ShardId> {
        self.read().pins.get(user).cloned()
    }

    /// Whether a user may not log in.
    pub fn is_blocked(&self, user: &UserName) -> bool {
        self.read().blocked.contains(user)
    }

    /// How many users are pinned.
    pub fn pins(&self) -> usize {
        self.read().pins.len()
    }

    /// How many users are blocked.
    pub fn blocks(&self) -> usize {
        self.read().blocked.len()
    }

    /// How many users are pinned to each shard.
    pub fn pins_by_shard(&self) -> BTreeMap<ShardId, usize> {
        let mut counts = BTreeMap::new();
        for shard in self.read().pins.values() {
            *counts.entry(shard.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Up to `max` pins behind a user, in the order of the names.
    pub fn pins_after(&self, user: Option<&UserName>, max: usize) -> Vec<(UserName, ShardId)> {
        let entries = self.read();
        let rows = entries.pins.range((behind(user), Bound::Unbounded)).take(max);
        rows.map(|(user, shard)| (user.clone(), shard.clone())).collect()
    }

    /// Up to `max` blocked users behind a user, in the order of the names.
    pub fn blocked_after(&self, user: Option<&UserName>, max: usize) -> Vec<UserName> {
        let entries = self.read();
        entries.blocked.range((behind(user), Bound::Unbounded)).take(max).cloned().collect()
    }

    /// Takes all that a snapshot has in place of what was known.
    ///
    /// # Errors
    /// The first row that cannot be read; then nothing changes.
    pub fn replace(&self, snapshot: &Snapshot) -> Result<(), DamagedRow> {
        let mut fresh = Entries::default();
        for (key, row) in &snapshot.view {
            fresh.put(key, &row.value)?;
        }
        *self.write() = fresh;
        Ok(())
    }

    /// Follows one change of the store; one of other keys means nothing here.
    ///
    /// # Errors
    /// A row that cannot be read; it changes nothing.
    pub fn apply(&self, change: &Change) -> Result<(), DamagedRow> {
        let mut entries = self.write();
        match change {
            Change::Put { key, value } => entries.put(key, value),
            Change::Delete { key } => {
                entries.delete(key);
                Ok(())
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn behind(user: Option<&UserName>) -> Bound<UserName> {
    user.map_or(Bound::Unbounded, |user| Bound::Excluded(user.clone()))
}

impl Entries {
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), DamagedRow> {
        let damaged = || DamagedRow { key: key.to_owned() };
        if let Some(user) = key.strip_prefix(PIN_PREFIX) {
            let shard = decode_pin(value).ok_or_else(damaged)?;
            self.pins.insert(UserName::new(user), shard);
        } else if let Some(user) = key.strip_prefix(BLOCK_PREFIX) {
            if value != BLOCK_VALUE.as_bytes() {
                return Err(damaged());
            }
            self.blocked.insert(UserName::new(user));
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        if let Some(user) = key.strip_prefix(PIN_PREFIX) {
            self.pins.remove(user);
        } else if let Some(user) = key.strip_prefix(BLOCK_PREFIX) {
            self.blocked.remove(user);
        }
    }
}

fn decode_pin(value: &[u8]) -> Option<ShardId> {
    let mut lines = std::str::from_utf8(value).ok()?.lines();
    let (format, shard, rest) = (lines.next()?, lines.next()?, lines.next());
    let whole = format == PIN_FORMAT && !shard.is_empty() && rest.is_none();
    whole.then(|| ShardId::new(shard))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Versioned;

    fn put(key: String, value: Vec<u8>) -> Change {
        Change::Put { key, value }
    }

    #[test]
    fn pins_and_blocks_follow_the_store_and_other_keys_mean_nothing() {
        let overrides = Overrides::default();
        let (anna, bob) = (UserName::new("anna"), UserName::new("bob"));
        overrides.apply(&put(pin_key(&anna), pin_value(&ShardId::new("north")))).unwrap();
        overrides.apply(&put(block_key(&bob), block_value())).unwrap();
        overrides.apply(&put("slots/00".into(), b"v9".to_vec())).unwrap();
        assert_eq!(overrides.pinned(&anna), Some(ShardId::new("north")));
        assert_eq!(overrides.pinned(&bob), None);
        assert!(overrides.is_blocked(&bob) && !overrides.is_blocked(&anna));
        overrides.apply(&Change::Delete { key: pin_key(&anna) }).unwrap();
        overrides.apply(&Change::Delete { key: block_key(&bob) }).unwrap();
        assert_eq!((overrides.pins(), overrides.blocks()), (0, 0));
    }

    #[test]
    fn a_snapshot_takes_the_place_of_all_that_was_known_or_changes_nothing() {
        let overrides = Overrides::default();
        let user = |number: u32| UserName::new(format!("user{number}"));
        for number in 0..9 {
            overrides.apply(&put(block_key(&user(number)), block_value())).unwrap();
        }
        let mut snapshot = Snapshot::default();
        let row = |value| Versioned { value, modified: 1 };
        snapshot.view.insert(pin_key(&user(3)), row(pin_value(&ShardId::new("s"))));
        snapshot.view.insert(block_key(&user(1)), row(b"?".to_vec()));
        let damaged = overrides.replace(&snapshot).unwrap_err();
        assert_eq!(damaged.key, "blocked/user1");
        assert_eq!(overrides.blocks(), 9);
        snapshot.view.remove("blocked/user1");
        overrides.replace(&snapshot).unwrap();
        assert_eq!((overrides.pins(), overrides.blocks()), (1, 0));
    }

    #[test]
    fn a_damaged_pin_is_no_pin() {
        for value in ["", "v1", "v1\n", "v1\n\n", "v2\nnorth\n", "v1\nnorth\nx\n"] {
            assert_eq!(decode_pin(value.as_bytes()), None, "{value:?}");
        }
    }

    #[test]
    fn pages_begin_behind_the_last_one() {
        let overrides = Overrides::default();
        for name in ["c", "a", "b"] {
            let user = UserName::new(name);
            overrides.apply(&put(pin_key(&user), pin_value(&ShardId::new("s")))).unwrap();
        }
        let page = overrides.pins_after(None, 2);
        let names: Vec<&str> = page.iter().map(|(user, _)| user.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let rest = overrides.pins_after(Some(&UserName::new("b")), 2);
        assert_eq!(rest.len(), 1);
        assert_eq!(overrides.pins_by_shard(), BTreeMap::from([(ShardId::new("s"), 3)]));
    }
}
