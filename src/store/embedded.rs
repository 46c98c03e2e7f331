//! The store of a single node: LMDB in a directory of its own.

mod environment;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use heed::types::{Bytes, Str};
use heed::{Database, RoTxn, RwTxn};

use self::environment::{Environment, LockFile, store_error};
use super::watch::Feed;
use super::{Change, Event, Outcome, Snapshot, StoreError, TopologyStore, Txn, Versioned, Watch};

/// The format that this version reads and writes.
const FORMAT: &str = "1";

/// Names of the two LMDB databases, and keys of the first.
const META: &str = "meta";
const TOPOLOGY: &str = "topology";
const FORMAT_KEY: &str = "format";
const REVISION_KEY: &str = "revision";

/// LMDB in a directory. One process has it open at a time, once.
///
/// A transaction that came out as committed is on disk (fsync of the data, then of LMDB's
/// meta page) and survives a loss of power; one that did not leaves the store as it was. The
/// work is done on tokio's blocking threads, since a disk may take its time.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Closed in this order: the environment before its lock is given up.
    environment: Environment,
    tables: Tables,
    path: PathBuf,
    /// Held over each transaction and its telling, so that these come in order.
    feed: Mutex<Feed>,
    _lock: LockFile,
}

#[derive(Debug, Clone, Copy)]
struct Tables {
    meta: Database<Str, Bytes>,
    topology: Database<Str, Bytes>,
}

impl EmbeddedStore {
    /// Opens the store in a directory and makes it where there is none (mode 0700). Blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = LockFile::take(path)?;
        let environment = environment::open(path)?;
        let stored = Tables::find(&environment, path)?;
        let tables = match stored {
            Some(tables) => tables,
            None => Tables::make(&environment, path)?,
        };
        let feed = Mutex::new(Feed::new());
        let inner = Inner { environment, tables, path: path.to_owned(), feed, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is in the store of a directory, without changing anything in it; empty where
    /// there is none. Works while another process has it open, not in the process that has
    /// it open itself (that one asks its store). Blocks. LMDB makes its own lock file anew
    /// where that was lost, so this is to be called as the user that the proxy runs as.
    pub fn peek(path: &Path) -> Result<Snapshot, StoreError> {
        let Some(environment) = environment::open_read_only(path)? else {
            return Ok(Snapshot::default());
        };
        let Some(tables) = Tables::find(&environment, path)? else {
            return Ok(Snapshot::default());
        };
        let failed = |error| store_error(path, &error);
        let txn = environment.read_txn().map_err(failed)?;
        tables.snapshot(&txn, path)
    }
}

impl TopologyStore for EmbeddedStore {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let inner = Arc::clone(&self.inner);
        let read = tokio::task::spawn_blocking(move || inner.snapshot());
        read.await.unwrap_or_else(|stopped| Err(self.inner.stopped(&stopped)))
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let (inner, key) = (Arc::clone(&self.inner), key.to_owned());
        let read = tokio::task::spawn_blocking(move || inner.get(&key));
        read.await.unwrap_or_else(|stopped| Err(self.inner.stopped(&stopped)))
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        let inner = Arc::clone(&self.inner);
        let begin = tokio::task::spawn_blocking(move || {
            let told = inner.feed.lock().unwrap_or_else(PoisonError::into_inner).listen();
            Ok(Watch::new(told, after, inner.revision()?))
        });
        begin.await.unwrap_or_else(|stopped| Err(self.inner.stopped(&stopped)))
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check_bounds()?;
        let inner = Arc::clone(&self.inner);
        let write = tokio::task::spawn_blocking(move || inner.txn(&txn));
        // A thread that panicked or never ran leaves it open what became of the changes.
        write.await.unwrap_or(Ok(Outcome::Unknown))
    }
}

impl Inner {
    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let txn = self.environment.read_txn().map_err(|error| self.error(&error))?;
        self.tables.snapshot(&txn, &self.path)
    }

    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let txn = self.environment.read_txn().map_err(|error| self.error(&error))?;
        let row = self.tables.topology.get(&txn, key).map_err(|error| self.error(&error))?;
        row.map(|row| versioned(key, row, &self.path)).transpose()
    }

    fn revision(&self) -> Result<u64, StoreError> {
        let txn = self.environment.read_txn().map_err(|error| self.error(&error))?;
        self.tables.revision(&txn, &self.path)
    }

    fn txn(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = self.environment.write_txn().map_err(|error| self.error(&error))?;
        for compare in &txn.compares {
            let modified = self.tables.modified(&write, &compare.key, &self.path)?;
            if modified != compare.modified {
                return Ok(Outcome::Conflict);
            }
        }
        let previous = self.tables.revision(&write, &self.path)?;
        let revision = previous + 1;
        environment::make_room(&self.environment, room_bytes(&txn.changes))
            .map_err(|error| self.error(&error))?;
        self.tables
            .apply(&mut write, &txn.changes, revision)
            .map_err(|error| self.error(&error))?;
        if let Err(error) = write.commit() {
            // Whether the meta page reached the disk is not known after a failed fsync.
            tracing::error!(path = ?self.path, %error, "the store could not finish a commit");
            feed.unclear();
            return Ok(Outcome::Unknown);
        }
        feed.committed(Event { previous, revision, changes: txn.changes.clone() });
        Ok(Outcome::Committed(revision))
    }

    fn error(&self, error: &heed::Error) -> StoreError {
        store_error(&self.path, error)
    }

    fn stopped(&self, stopped: &tokio::task::JoinError) -> StoreError {
        StoreError::Failed { path: self.path.clone(), detail: stopped.to_string() }
    }
}

impl Tables {
    /// The tables of a store that was made before, if it is whole and of this format.
    fn find(environment: &Environment, path: &Path) -> Result<Option<Self>, StoreError> {
        let failed = |error| store_error(path, &error);
        let txn = environment.read_txn().map_err(failed)?;
        let meta = environment.open_database(&txn, Some(META)).map_err(failed)?;
        let topology = environment.open_database(&txn, Some(TOPOLOGY)).map_err(failed)?;
        let tables = match (meta, topology) {
            (Some(meta), Some(topology)) => Self { meta, topology },
            (None, None) => return Ok(None),
            _ => return Err(corrupt(path, "one of its two tables is missing")),
        };
        let found = tables.meta.get(&txn, FORMAT_KEY).map_err(failed)?;
        if found != Some(FORMAT.as_bytes()) {
            return Err(StoreError::WrongVersion {
                path: path.to_owned(),
                found: found.map_or("none".into(), |found| found.escape_ascii().to_string()),
                expected: FORMAT,
            });
        }
        tables.revision(&txn, path)?;
        txn.commit().map_err(failed)?; // Keeps the tables open for later transactions.
        Ok(Some(tables))
    }

    /// The tables of a new store.
    fn make(environment: &Environment, path: &Path) -> Result<Self, StoreError> {
        let failed = |error| store_error(path, &error);
        let mut txn = environment.write_txn().map_err(failed)?;
        environment::make_room(environment, room_bytes(&[])).map_err(failed)?;
        let meta = environment.create_database(&mut txn, Some(META)).map_err(failed)?;
        let topology = environment.create_database(&mut txn, Some(TOPOLOGY)).map_err(failed)?;
        let tables = Self { meta, topology };
        tables.meta.put(&mut txn, FORMAT_KEY, FORMAT.as_bytes()).map_err(failed)?;
        tables.meta.put(&mut txn, REVISION_KEY, &0_u64.to_be_bytes()).map_err(failed)?;
        txn.commit().map_err(failed)?;
        environment::sync_directory(path)?;
        Ok(tables)
    }

    fn revision(&self, txn: &RoTxn<'_>, path: &Path) -> Result<u64, StoreError> {
        let found = self.meta.get(txn, REVISION_KEY).map_err(|error| store_error(path, &error))?;
        found
            .and_then(|bytes| bytes.try_into().ok().map(u64::from_be_bytes))
            .ok_or_else(|| corrupt(path, "it has no revision"))
    }

    /// The revision that last changed a key, 0 where there is none.
    fn modified(&self, txn: &RoTxn<'_>, key: &str, path: &Path) -> Result<u64, StoreError> {
        match self.topology.get(txn, key).map_err(|error| store_error(path, &error))? {
            Some(row) => Ok(versioned(key, row, path)?.modified),
            None => Ok(0),
        }
    }

    fn snapshot(&self, txn: &RoTxn<'_>, path: &Path) -> Result<Snapshot, StoreError> {
        let failed = |error| store_error(path, &error);
        let mut snapshot = Snapshot { revision: self.revision(txn, path)?, ..Snapshot::default() };
        for row in self.topology.iter(txn).map_err(failed)? {
            let (key, row) = row.map_err(failed)?;
            snapshot.view.insert(key.to_owned(), versioned(key, row, path)?);
        }
        Ok(snapshot)
    }

    fn apply(&self, txn: &mut RwTxn<'_>, changes: &[Change], revision: u64) -> heed::Result<()> {
        for change in changes {
            match change {
                Change::Put { key, value } => {
                    let mut row = revision.to_be_bytes().to_vec();
                    row.extend_from_slice(value);
                    self.topology.put(txn, key, &row)?;
                }
                Change::Delete { key } => {
                    self.topology.delete(txn, key)?;
                }
            }
        }
        self.meta.put(txn, REVISION_KEY, &revision.to_be_bytes())
    }
}

/// More bytes than changes can add to the file: for each the pages on its way down the tree,
/// split, and its value, and what the free list may take.
fn room_bytes(changes: &[Change]) -> usize {
    const FOR_ALL: usize = 1 << 20;
    const FOR_EACH: usize = 64 << 10;
    let values = changes.iter().map(|change| match change {
        Change::Put { value, .. } => FOR_EACH + 2 * value.len(),
        Change::Delete { .. } => FOR_EACH,
    });
    FOR_ALL + values.sum::<usize>()
}

/// A row: the revision, big-endian, then the value.
fn versioned(key: &str, row: &[u8], path: &Path) -> Result<Versioned, StoreError> {
    let (modified, value) = row
        .split_first_chunk()
        .ok_or_else(|| corrupt(path, &format!("the row of {key:?} is cut off")))?;
    Ok(Versioned { value: value.to_vec(), modified: u64::from_be_bytes(*modified) })
}

fn corrupt(path: &Path, detail: &str) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), detail: detail.to_owned() }
}
