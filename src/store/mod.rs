//! The small, slowly changing state that outlives the process and, later, is shared by nodes:
//! keys and values under one revision counter. What keys mean is their owners' business.

mod embedded;
mod error;
#[cfg(test)]
pub(crate) mod simulated;
mod watch;

use std::collections::BTreeMap;
use std::future::Future;

pub use embedded::EmbeddedStore;
pub use error::StoreError;
pub use watch::{Event, Watch, WatchEnd};

/// Most changes in one transaction, and most compares (etcd's own bound).
pub const TXN_OPS_MAX: usize = 128;

/// Longest key in bytes (LMDB's own bound).
pub const KEY_BYTES_MAX: usize = 511;

/// Longest value in bytes; much shorter than etcd's bound for a whole transaction.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;

/// Everything in the store at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Revision of the last transaction, 0 for an empty store.
    pub revision: u64,
    /// Values by key.
    pub view: BTreeMap<String, Versioned>,
}

/// A value and the revision that last changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub value: Vec<u8>,
    /// Revision of the transaction that put them, at least 1.
    pub modified: u64,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// The revision that must have changed it last; 0: the key must be absent.
    pub modified: u64,
}

/// A change that a transaction makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a key, present or not.
    Put {
        /// The key, 1 to [`KEY_BYTES_MAX`] bytes.
        key: String,
        /// The bytes, at most [`VALUE_BYTES_MAX`].
        value: Vec<u8>,
    },
    /// Removes a key, present or not.
    Delete {
        /// The key.
        key: String,
    },
}

impl Change {
    /// The key changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Changes that are made all together if all conditions hold, else not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

impl Txn {
    /// Whether the transaction is within the bounds that every store keeps.
    fn check_bounds(&self) -> Result<(), StoreError> {
        if self.compares.len() > TXN_OPS_MAX || self.changes.len() > TXN_OPS_MAX {
            return Err(StoreError::TooManyChanges {
                changes: self.changes.len().max(self.compares.len()),
            });
        }
        let keys = self.compares.iter().map(|compare| compare.key.as_str());
        for key in keys.chain(self.changes.iter().map(Change::key)) {
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(StoreError::KeyLength { bytes: key.len() });
            }
        }
        for change in &self.changes {
            match change {
                Change::Put { key, value } if value.len() > VALUE_BYTES_MAX => {
                    let (key, bytes) = (key.clone(), value.len());
                    return Err(StoreError::ValueLength { key, bytes });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// How a transaction came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a transaction may have changed nothing, or nobody knows"]
pub enum Outcome {
    /// All changes are made and durable, under this revision.
    Committed(u64),
    /// A condition did not hold; nothing was changed.
    Conflict,
    /// It may have been made or not: read again, assume nothing.
    Unknown,
}

/// A store of topology: slots, pins, blocked users, backend states, and later moves.
pub trait TopologyStore: Send + Sync {
    /// Everything at one revision; sees each transaction that came out as committed before.
    fn snapshot(&self) -> impl Future<Output = Result<Snapshot, StoreError>> + Send;

    /// One key at the present revision; sees the same as a snapshot would.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Versioned>, StoreError>> + Send;

    /// Every transaction behind a revision, as that of a snapshot.
    fn watch(&self, after: u64) -> impl Future<Output = Result<Watch, StoreError>> + Send;

    /// Makes the changes if the conditions hold. After an error nothing was changed; where
    /// that is not known, the outcome is [`Outcome::Unknown`].
    fn txn(&self, txn: Txn) -> impl Future<Output = Result<Outcome, StoreError>> + Send;
}
