//! One map, opened: a file that nobody changes any more.

use std::collections::HashMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::format::{self, META_KEY, Meta, Rules, Seal};
use crate::names::ShardId;
use crate::routing::name::canonical_into;
use crate::routing::sources::line::{FAULTS_MAX, shown};

/// LMDB's handle; read transactions may move between threads.
pub(super) type Environment = Env<WithoutTls>;

/// Shards that a map of Postfix names at most.
const SHARDS_MAX: usize = 65_535;

/// Bytes that may be missing at the end of a map of Postfix.
const GIVEN_BACK_BYTES_MAX: u64 = 16 << 20;

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// It cannot be read.
    #[error("the users map {file:?} cannot be read: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be copied to where nobody changes it.
    #[error("the users map {file:?} cannot be copied to {place:?}: {source}")]
    NotCopied {
        /// The file.
        file: PathBuf,
        /// Where its copy would be.
        place: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody wrote to it meanwhile.
    #[error("the users map {file:?} changes while it is read")]
    Changing {
        /// The file.
        file: PathBuf,
    },
    /// It is no map, or not all of one.
    #[error("the users map {file:?} is damaged: {detail}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Its names were made by other rules.
    #[error(
        "the users map {file:?} was built with {built}, the configuration has {wanted}: \
         build it with `pointsman users build --config`"
    )]
    OtherRules {
        /// The file.
        file: PathBuf,
        /// The map's rules.
        built: Box<Rules>,
        /// The configuration's.
        wanted: Box<Rules>,
    },
    /// Entries of a map that Postfix made are wrong: the first 20 of them.
    #[error("the users map {file:?} has {count} wrong entries: {}", entries.join("; "))]
    Entries {
        /// The file.
        file: PathBuf,
        /// What is wrong, each with its entry.
        entries: Vec<String>,
        /// How many there are in all.
        count: usize,
    },
}

impl MapError {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "users_unreadable",
            Self::NotCopied { .. } => "users_not_copied",
            Self::Changing { .. } => "users_changing",
            Self::Damaged { .. } => "users_damaged",
            Self::OtherRules { .. } => "users_other_rules",
            Self::Entries { .. } => "users_lines",
        }
    }

    /// The map.
    pub fn file(&self) -> &Path {
        match self {
            Self::Unreadable { file, .. }
            | Self::NotCopied { file, .. }
            | Self::Changing { file }
            | Self::Damaged { file, .. }
            | Self::OtherRules { file, .. }
            | Self::Entries { file, .. } => file,
        }
    }

    /// Whether the same file may be good a moment later.
    pub(super) const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::NotCopied { .. } | Self::Changing { .. })
    }
}

/// A map that is open. Lookups take no lock.
pub(super) struct Generation {
    environment: Environment,
    names: Database<Bytes, Bytes>,
    layout: Layout,
}

/// How names and shards are written.
enum Layout {
    /// By `pointsman users build`: the name, and the shard's number.
    Compiled(Vec<ShardId>),
    /// By Postfix: the name and the shard, both with or without a NUL.
    Postfix { nul: bool, shards: HashMap<Vec<u8>, ShardId> },
}

impl Generation {
    /// Opens a file that nobody changes. `file` is what it is called in messages. Reads all
    /// of it, so that damage is seen here, and lookups find it in memory. Blocks.
    pub(super) fn open(path: &Path, file: &Path, wanted: &Rules) -> Result<Self, MapError> {
        let unreadable = |source| MapError::Unreadable { file: file.to_owned(), source };
        let damaged =
            |detail: &str| MapError::Damaged { file: file.to_owned(), detail: detail.to_owned() };
        let seal = format::check_seal(path).map_err(unreadable)?;
        if seal == Seal::Broken {
            return Err(damaged("its bytes are not those that were written"));
        }
        let environment = open_read_only(path).map_err(|error| damaged(&error.to_string()))?;
        check_whole(&environment, path, seal).map_err(|detail| damaged(&detail))?;
        let failed = |error: heed::Error| damaged(&error.to_string());
        let txn = environment.read_txn().map_err(failed)?;
        let names = environment
            .open_database::<Bytes, Bytes>(&txn, None)
            .map_err(failed)?
            .ok_or_else(|| damaged("it has no table"))?;
        let meta = names.get(&txn, META_KEY).map_err(failed)?;
        let layout = match (seal, meta) {
            (Seal::Whole, Some(meta)) => {
                let meta = Meta::parse(meta)
                    .ok_or_else(|| damaged("it is of another version; build it with this one"))?;
                if meta.rules != *wanted {
                    return Err(MapError::OtherRules {
                        file: file.to_owned(),
                        built: Box::new(meta.rules),
                        wanted: Box::new(wanted.clone()),
                    });
                }
                Layout::Compiled(meta.shards)
            }
            (Seal::Absent, None) => {
                let mut scan = Scan::new(wanted);
                for row in names.iter(&txn).map_err(failed)? {
                    let (key, value) = row.map_err(failed)?;
                    scan.take(key, value);
                }
                scan.finish(file)?
            }
            _ => return Err(damaged("it is cut off")),
        };
        txn.commit().map_err(failed)?;
        Ok(Self { environment, names, layout })
    }

    /// The shard of a canonical name. Reads pages of the file, which may have to come from
    /// the disk. The error is LMDB's.
    pub(super) fn lookup(&self, name: &str) -> Result<Option<ShardId>, String> {
        let failed = |error: heed::Error| error.to_string();
        let txn = self.environment.read_txn().map_err(failed)?;
        match &self.layout {
            Layout::Compiled(shards) => {
                let value = self.names.get(&txn, name.as_bytes()).map_err(failed)?;
                let Some(value) = value else { return Ok(None) };
                let number = value.try_into().map(u16::from_le_bytes);
                let shard = number.ok().and_then(|number| shards.get(usize::from(number)));
                shard.cloned().map(Some).ok_or_else(|| "it has no such shard".to_owned())
            }
            Layout::Postfix { nul, shards } => {
                let mut key = name.as_bytes().to_vec();
                key.extend(nul.then_some(0));
                let value = self.names.get(&txn, &key).map_err(failed)?;
                Ok(value.and_then(|value| shards.get(without_nul(value))).cloned())
            }
        }
    }

    /// Names in the map.
    pub(super) fn len(&self) -> u64 {
        let counted = self.environment.read_txn().and_then(|txn| self.names.len(&txn));
        let meta = u64::from(matches!(self.layout, Layout::Compiled(_)));
        counted.unwrap_or_default().saturating_sub(meta)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").finish_non_exhaustive()
    }
}

/// The check of a map that Postfix made.
struct Scan {
    rules: crate::config::Routing,
    name: String,
    nul: bool,
    shards: HashMap<Vec<u8>, ShardId>,
    entries: Vec<String>,
    count: usize,
}

impl Scan {
    fn new(rules: &Rules) -> Self {
        Self {
            rules: rules.routing(),
            name: String::new(),
            nul: false,
            shards: HashMap::new(),
            entries: Vec::new(),
            count: 0,
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) {
        self.nul = key.ends_with(b"\0");
        let (key, value) = (without_nul(key), without_nul(value));
        let wrong = match canonical_into(&self.rules, key, &mut self.name) {
            Err(error) => Some(error.to_string()),
            Ok(()) if self.name.as_bytes() != key => {
                Some(format!("the user is to be written {:?}", self.name))
            }
            Ok(()) if self.shards.contains_key(value) => None,
            Ok(()) => self.new_shard(value).err(),
        };
        if let Some(wrong) = wrong {
            self.count += 1;
            if self.entries.len() < FAULTS_MAX {
                self.entries.push(format!("{:?}: {wrong}", shown(key)));
            }
        }
    }

    fn new_shard(&mut self, value: &[u8]) -> Result<(), String> {
        let named = std::str::from_utf8(value).ok().filter(|text| is_shard_name(text));
        let named = named.ok_or_else(|| format!("{:?} is no shard", shown(value)))?;
        if self.shards.len() == SHARDS_MAX {
            return Err("too many shards".to_owned());
        }
        self.shards.insert(value.to_vec(), ShardId::new(named));
        Ok(())
    }

    fn finish(self, file: &Path) -> Result<Layout, MapError> {
        let Self { nul, shards, entries, count, .. } = self;
        if count > 0 {
            return Err(MapError::Entries { file: file.to_owned(), entries, count });
        }
        Ok(Layout::Postfix { nul, shards })
    }
}

/// Whether a shard may be called so, as under `shards`.
pub(super) fn is_shard_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn without_nul(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"\0").unwrap_or(bytes)
}

fn open_read_only(path: &Path) -> heed::Result<Environment> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    let flags =
        EnvFlags::READ_ONLY | EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK | EnvFlags::NO_READ_AHEAD;
    // SAFETY: LMDB maps the file into memory and hands out slices of it; without its locks
    // they stay valid as long as nobody writes to the file. Nobody does:
    // - it is a copy of this process's own, without a name in the file system any more, or
    //   one that `users build` published: written once, under a name of its own, and removed
    //   but never changed by later builds. (An administrator who overwrites a file of such a
    //   name in place can break this; the manual says not to.)
    // - it was read through and agrees with its seal, or LMDB wrote it in whole transactions,
    //   and it has all its pages (`check_whole`);
    // - heed refuses to open a file that this process has open.
    #[allow(unsafe_code)]
    unsafe {
        options.flags(flags).open(path)
    }
}

/// Refuses a file that ends before its last page: touching what is missing would end the
/// process by a signal. A map of Postfix may end before pages that LMDB took and gave back;
/// its copy is lengthened, and the scan sees whether a page that is needed is missing.
fn check_whole(environment: &Environment, path: &Path, seal: Seal) -> Result<(), String> {
    let pages = environment.info().last_page_number.saturating_add(1);
    let page_bytes = u64::from(environment.stat().page_size);
    let needed = u64::try_from(pages).unwrap_or(u64::MAX).saturating_mul(page_bytes);
    let bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes >= needed {
        return Ok(());
    }
    let lengthen = || OpenOptions::new().write(true).open(path)?.set_len(needed);
    match seal {
        Seal::Absent if needed - bytes <= GIVEN_BACK_BYTES_MAX => {
            lengthen().map_err(|error| error.to_string())
        }
        _ => Err(format!("it has {bytes} of {needed} bytes")),
    }
}
