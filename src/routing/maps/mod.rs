//! Compiled users maps: tens of millions of names on disk, replaced while the proxy runs.
//!
//! What is looked up in is a file that nobody changes any more. `users build` publishes each
//! generation under a name of its own and points the map's name at it; such a file is opened
//! where it lies. Any other map (one that was copied here, or one of Postfix, which rewrites
//! its maps in place) is copied into the proxy's own folder first, and the copy's name removed
//! as soon as it is open.

mod build;
mod format;
mod generation;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

pub use self::build::{BuildError, Built, InputFormat, Order, build};
pub use self::format::Rules;
pub(super) use self::format::is_lmdb;
use self::generation::Generation;
pub use self::generation::MapError;
use crate::metrics::Metrics;
use crate::names::ShardId;

/// How often maps are looked at for a new generation.
pub const WATCHED_EVERY: Duration = Duration::from_secs(1);

/// The folder of copies, in the store's.
const COPIES_FOLDER: &str = "users";

/// The maps of this process, by path: none is opened twice. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Maps {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Where copies are made; without it every map is opened where it lies.
    copies: Option<PathBuf>,
    next_copy: AtomicU64,
    /// Where it is counted that a new generation was not taken up.
    metrics: Option<Arc<Metrics>>,
    files: Mutex<Vec<Weak<MapFile>>>,
}

/// A map by its name: the present generation, and what becomes of newer ones.
#[derive(Debug)]
pub struct MapFile {
    path: PathBuf,
    rules: Rules,
    current: ArcSwap<Generation>,
    seen: Mutex<Seen>,
}

/// What of a map's file is known.
#[derive(Debug)]
struct Seen {
    taken: Identity,
    /// One that will not do however often it is tried.
    refused: Option<Identity>,
    /// The last fault that the operator was told.
    told: Option<String>,
}

/// Tells one state of a file from any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Maps {
    /// Maps whose copies lie in a folder of the store. What an earlier process left there is
    /// removed. Without a store every map is opened where it lies: for a look, not for long.
    pub fn new(store: &Path, metrics: Arc<Metrics>) -> Self {
        let copies = store.join(COPIES_FOLDER);
        if let Ok(left) = fs::read_dir(&copies) {
            for entry in left.flatten() {
                // One that cannot be removed only takes room.
                let _ = fs::remove_file(entry.path());
            }
        }
        let inner = Inner { copies: Some(copies), metrics: Some(metrics), ..Inner::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The map of that name, in its newest generation. Blocks: it is read through.
    ///
    /// # Errors
    /// When the newest generation cannot be used, also where an older one serves.
    pub fn open(&self, path: &Path, rules: &Rules) -> Result<Arc<MapFile>, MapError> {
        let mut files = lock(&self.inner.files);
        files.retain(|file| file.strong_count() > 0);
        let known = files.iter().filter_map(Weak::upgrade);
        let same = |file: &Arc<MapFile>| file.path == path && file.rules == *rules;
        if let Some(file) = { known }.find(same) {
            drop(files);
            self.refresh(&file)?;
            return Ok(file);
        }
        let (taken, generation) = self.take(path, rules)?;
        let file = Arc::new(MapFile {
            path: path.to_owned(),
            rules: rules.clone(),
            current: ArcSwap::from_pointee(generation),
            seen: Mutex::new(Seen { taken, refused: None, told: None }),
        });
        files.push(Arc::downgrade(&file));
        Ok(file)
    }

    /// Takes up new generations as they appear, as long as the process runs.
    pub async fn watch_forever(self) {
        loop {
            tokio::time::sleep(WATCHED_EVERY).await;
            let maps = self.clone();
            // The lock is held while a new map is read through, by a reload. A panic of one
            // round, logged where it happens, does not end the next.
            let _ = tokio::task::spawn_blocking(move || {
                let files: Vec<_> =
                    lock(&maps.inner.files).iter().filter_map(Weak::upgrade).collect();
                for file in &files {
                    maps.look_at(file);
                }
            })
            .await;
        }
    }

    /// One look at a map's file. Faults are told once each, and counted: one of the file once
    /// for each state of it, one that may pass when it begins.
    fn look_at(&self, file: &MapFile) {
        let identity = Identity::of(&file.path).ok();
        if identity.is_some() && identity == lock(&file.seen).refused {
            return;
        }
        let Err(error) = self.refresh(file) else { return };
        let mut seen = lock(&file.seen);
        let text = error.to_string();
        let is_news = seen.told.as_ref() != Some(&text);
        // One that cannot pass was not seen in this state before, though its words may be the same.
        if is_news || !error.may_pass() {
            self.inner.metrics.iter().for_each(|metrics| metrics.config.users_map_refused());
        }
        if is_news {
            tracing::error!(%error, "a users map is not taken up, the former one serves");
            seen.told = Some(text);
        }
        if !error.may_pass() {
            seen.refused = identity;
        }
    }

    /// Takes up the newest generation, if it is another one.
    fn refresh(&self, file: &MapFile) -> Result<(), MapError> {
        // Held throughout: one at a time.
        let mut seen = lock(&file.seen);
        let unreadable = |source| MapError::Unreadable { file: file.path.clone(), source };
        if Identity::of(&file.path).map_err(unreadable)? == seen.taken {
            return Ok(());
        }
        let (taken, generation) = self.take(&file.path, &file.rules)?;
        let names = generation.len();
        file.current.store(Arc::new(generation));
        *seen = Seen { taken, refused: None, told: None };
        tracing::info!(file = ?file.path, names, "a new users map is in use");
        Ok(())
    }

    /// Opens the newest generation.
    fn take(&self, path: &Path, rules: &Rules) -> Result<(Identity, Generation), MapError> {
        let unreadable = |source| MapError::Unreadable { file: path.to_owned(), source };
        let identity = Identity::of(path).map_err(unreadable)?;
        let published = build::published(path).map_err(unreadable)?;
        let generation = match (published, &self.inner.copies) {
            (Some(target), _) => Generation::open(&target, path, rules)?,
            (None, None) => Generation::open(path, path, rules)?,
            (None, Some(folder)) => {
                let copy = self.copy(path, folder)?;
                if Identity::of(path).map_err(unreadable)? != identity {
                    return Err(MapError::Changing { file: path.to_owned() });
                }
                Generation::open(&copy.0, path, rules)?
            }
        };
        Ok((identity, generation))
    }

    fn copy(&self, path: &Path, folder: &Path) -> Result<Copied, MapError> {
        let number = self.inner.next_copy.fetch_add(1, Ordering::Relaxed);
        let place = folder.join(format!("{}-{number}", std::process::id()));
        let failed =
            |source| MapError::NotCopied { file: path.to_owned(), place: place.clone(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let copied = Copied(place.clone());
        fs::copy(path, &place).map_err(failed)?;
        Ok(copied)
    }
}

/// A copy's name, which goes when the copy is open or of no use.
struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        // What remains is removed at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

impl MapFile {
    /// The shard of a canonical name. May read from the disk, and so block.
    ///
    /// # Errors
    /// What LMDB says of a file that is damaged in a way that was not seen when it was opened.
    pub fn lookup(&self, name: &str) -> Result<Option<ShardId>, String> {
        self.current.load().lookup(name)
    }

    /// Names in the present generation.
    pub fn len(&self) -> u64 {
        self.current.load().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
