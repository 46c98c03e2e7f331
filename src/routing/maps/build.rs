//! `users build`: text or CSV in, a sorted map out, published in one step.

mod input;
mod publish;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{Database, EnvFlags, EnvOpenOptions, PutFlags};

pub use self::input::InputFormat;
use self::input::{Entry, Part};
use self::publish::Draft;
pub(super) use self::publish::published;
use super::format::{META_KEY, Meta, Rules};
use super::generation::Environment;
use crate::names::{ShardId, UserName};
use crate::routing::sources::UsersError;
use crate::routing::sources::line::{FAULTS_MAX, LineFault, LineProblem};

/// Names that one transaction of LMDB takes: it holds their pages in memory.
const NAMES_PER_TRANSACTION: u64 = 500_000;

/// LMDB's bytes for an entry beside name and shard: head, place in the page, padding.
const ENTRY_BYTES: u64 = 8 + 2 + 2 + 1;

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Order {
    /// A users file.
    pub input: PathBuf,
    /// How it is written.
    pub format: InputFormat,
    /// The map's name. A generation is written beside it, and the name points there.
    pub output: PathBuf,
    /// What makes names canonical.
    pub rules: Rules,
    /// The shards that users may have; none: any.
    pub shards: Option<Vec<ShardId>>,
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Names in the map.
    pub names: u64,
    /// Shards that they are on.
    pub shards: usize,
    /// Size of the file.
    pub bytes: u64,
}

/// Why no map was built. The one of that name, if there is one, is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The users file, or lines of it.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The map's name stands for something else.
    #[error("{output:?} is there and no users map; it is not overwritten")]
    NoMap {
        /// The name.
        output: PathBuf,
    },
    /// The map cannot be written.
    #[error("the users map {output:?} cannot be written: {detail}")]
    Unwritable {
        /// The map.
        output: PathBuf,
        /// What the system or LMDB said.
        detail: String,
    },
    /// More shards than a map can number.
    #[error("the users are on more than 65535 shards")]
    TooManyShards,
}

impl BuildError {
    /// Whether the users file is at fault (exit code 64), not the machine.
    pub const fn is_input(&self) -> bool {
        matches!(self, Self::Users(_) | Self::TooManyShards)
    }
}

/// Builds a map and publishes it. Blocks; takes about 45 bytes of memory a name.
pub fn build(order: &Order) -> Result<Built, BuildError> {
    publish::check_output(&order.output)?;
    let unreadable = |source| UsersError::Unreadable { file: order.input.clone(), source };
    let parts = input::read(order).map_err(unreadable)?;
    let faults = faults_of(&parts, order).map_err(unreadable)?;
    if let Some(faults) = faults {
        return Err(faults.into());
    }
    let unwritable =
        |detail: String| BuildError::Unwritable { output: order.output.clone(), detail };
    let meta = meta_of(&parts, order)?;
    let draft = Draft::new(&order.output).map_err(|error| unwritable(error.to_string()))?;
    write(draft.path(), &meta, &parts).map_err(|error| unwritable(error.to_string()))?;
    let bytes = draft.publish().map_err(|error| unwritable(error.to_string()))?;
    Ok(Built { names: meta.names, shards: meta.shards.len(), bytes })
}

/// All wrong lines, the doubled users among them, where there are any.
fn faults_of(parts: &[Part], order: &Order) -> io::Result<Option<UsersError>> {
    let mut count: usize = parts.iter().map(|part| part.fault_count).sum();
    let mut faults: Vec<LineFault> = parts.iter().flat_map(|part| part.faults.clone()).collect();
    let mut doubled = Vec::new();
    let mut last: Option<(&[u8], u32)> = None;
    for (part, entry) in Merged::of(parts) {
        let name = part.name(entry);
        match last {
            Some((former, line)) if former == name => {
                count += 1;
                // By line, the first ones only.
                doubled.push((part.line(entry), line, name));
                if doubled.len() >= 64 * FAULTS_MAX {
                    doubled.sort_unstable_by_key(|(line, ..)| *line);
                    doubled.truncate(FAULTS_MAX);
                }
            }
            _ => last = Some((name, part.line(entry))),
        }
    }
    if count == 0 {
        return Ok(None);
    }
    doubled.sort_unstable_by_key(|(line, ..)| *line);
    doubled.truncate(FAULTS_MAX);
    let texts = input::lines(&order.input, doubled.iter().map(|(line, ..)| *line))?;
    for ((line, first, name), text) in doubled.into_iter().zip(texts) {
        let user = UserName::new(String::from_utf8_lossy(name));
        let problem = LineProblem::Doubled { user, line: first };
        faults.push(LineFault::new(&text, line, 0, problem));
    }
    faults.sort_by_key(|fault| fault.line);
    faults.truncate(FAULTS_MAX);
    let more = count - faults.len();
    Ok(Some(UsersError::Lines { file: order.input.clone(), faults, more }))
}

fn meta_of(parts: &[Part], order: &Order) -> Result<Meta, BuildError> {
    let mut shards: Vec<ShardId> =
        parts.iter().flat_map(|part| part.shards.iter().cloned()).collect();
    shards.sort_unstable();
    shards.dedup();
    if u16::try_from(shards.len()).is_err() {
        return Err(BuildError::TooManyShards);
    }
    let names = parts.iter().map(|part| part.entries.len()).sum::<usize>();
    let names = u64::try_from(names).unwrap_or(u64::MAX);
    Ok(Meta { rules: order.rules.clone(), names, shards })
}

fn write(path: &Path, meta: &Meta, parts: &[Part]) -> heed::Result<()> {
    let environment = open_new(path, room_bytes(meta, parts))?;
    let numbers: BTreeMap<&ShardId, u16> = meta.shards.iter().zip(0_u16..).collect();
    let numbers: Vec<Vec<u16>> = parts
        .iter()
        .map(|part| part.shards.iter().map(|shard| numbers.get(shard).copied().unwrap_or(0)))
        .map(Iterator::collect)
        .collect();
    let mut txn = environment.write_txn()?;
    let names: Database<Bytes, Bytes> = environment.create_database(&mut txn, None)?;
    names.put(&mut txn, META_KEY, meta.encode().as_bytes())?;
    let mut written = 0;
    for (part, entry) in Merged::of(parts) {
        let number = numbers
            .get(part.place)
            .and_then(|numbers| numbers.get(usize::from(entry.shard)))
            .copied()
            .unwrap_or(0);
        names.put_with_flags(
            &mut txn,
            PutFlags::APPEND,
            part.name(entry),
            &number.to_le_bytes(),
        )?;
        written += 1;
        if written % NAMES_PER_TRANSACTION == 0 {
            txn.commit()?;
            txn = environment.write_txn()?;
        }
    }
    txn.commit()?;
    let pages = environment.info().last_page_number.saturating_add(1);
    let page_bytes = u64::from(environment.stat().page_size);
    let used = u64::try_from(pages).unwrap_or(u64::MAX).saturating_mul(page_bytes);
    let file = environment.try_clone_inner_file()?;
    if file.metadata()?.len() < used {
        // Pages that LMDB took and gave back: the file has them too.
        file.set_len(used)?;
    }
    Ok(())
}

/// More bytes than the map can take.
fn room_bytes(meta: &Meta, parts: &[Part]) -> usize {
    let names: usize = parts.iter().map(|part| part.arena.len()).sum();
    let names = u64::try_from(names).unwrap_or(u64::MAX);
    let entries = meta.names.saturating_mul(ENTRY_BYTES);
    let shards = u64::try_from(meta.encode().len()).unwrap_or(u64::MAX);
    let sum = names.saturating_add(entries).saturating_add(shards);
    let bytes = (sum + sum / 2 + (64 << 20)).next_multiple_of(1 << 20);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn open_new(path: &Path, room_bytes: usize) -> heed::Result<Environment> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(room_bytes);
    let flags = EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK | EnvFlags::NO_SYNC;
    // SAFETY: the file was made a moment ago under a name that nobody else uses, and only this
    // thread writes and reads it. Unlocked and unsynced transactions lose nothing: the file is
    // brought to the disk, read through for its seal, and given its name after that.
    #[allow(unsafe_code)]
    unsafe {
        options.flags(flags).open(path)
    }
}

/// The entries of all parts in the order of their names, of equal names by their lines.
struct Merged<'p> {
    heads: Vec<(&'p Part, std::slice::Iter<'p, Entry>)>,
}

impl<'p> Merged<'p> {
    fn of(parts: &'p [Part]) -> Self {
        Self { heads: parts.iter().map(|part| (part, part.entries.iter())).collect() }
    }
}

impl<'p> Iterator for Merged<'p> {
    type Item = (&'p Part, &'p Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let first = |(part, entries): &(&'p Part, std::slice::Iter<'p, Entry>)| {
            entries.as_slice().first().map(|entry| (*part, entry))
        };
        let (place, _) = self
            .heads
            .iter()
            .enumerate()
            .filter_map(|(place, head)| Some((place, first(head)?)))
            .min_by(|(_, (part, entry)), (_, (other, than))| {
                let by_name = part.name(entry).cmp(other.name(than));
                // Parts are in the order of their lines.
                by_name.then(Ordering::Less)
            })?;
        let (part, entries) = self.heads.get_mut(place)?;
        Some((*part, entries.next()?))
    }
}
