//! Opening LMDB: the one place of the store where Rust's guarantees need a proof.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use heed::{Env, EnvFlags, EnvOpenOptions, MdbError, WithoutTls};

use super::super::StoreError;
use super::corrupt;

/// LMDB's handle; read transactions may move between threads.
pub(super) type Environment = Env<WithoutTls>;

/// Bound on the store's size. Address space, not memory; some hundred times what it holds now.
const MAP_BYTES: usize = 256 * 1024 * 1024;

/// Databases in the environment.
const DATABASES: u32 = 2;

/// LMDB's file, and the shortest that can be whole: its two meta pages.
const DATA_FILE: &str = "data.mdb";
const DATA_BYTES_MIN: u64 = 2 * 4096;

const LOCK_FILE: &str = "pointsman.lock";

/// Keeps other processes, and other parts of this one, from opening the store for writing.
/// The system gives it up when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct LockFile {
    _file: File,
}

impl LockFile {
    /// Makes the directory where it is absent, and takes its lock.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let not_writable = |source| StoreError::NotWritable { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(not_writable)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(not_writable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(not_writable(source)),
        }
    }
}

/// Opens the environment for writing; to be called with the lock held.
pub(super) fn open(path: &Path) -> Result<Environment, StoreError> {
    check_data_file(path)?;
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP_BYTES).max_dbs(DATABASES);
    open_with(&options, path)
}

/// Opens the environment for reading, `None` where there is none.
pub(super) fn open_read_only(path: &Path) -> Result<Option<Environment>, StoreError> {
    if !check_data_file(path)? {
        return Ok(None);
    }
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.max_dbs(DATABASES);
    // SAFETY: READ_ONLY takes rights away; the flags that weaken locking or syncing, for which
    // this function is unsafe, are not set.
    #[allow(unsafe_code)]
    unsafe {
        options.flags(EnvFlags::READ_ONLY);
    }
    open_with(&options, path).map(Some)
}

fn open_with(options: &EnvOpenOptions<WithoutTls>, path: &Path) -> Result<Environment, StoreError> {
    // SAFETY: LMDB maps the file into memory and hands out slices of it. They stay valid as
    // long as nobody else changes or shortens the file, and as long as a process opens it once
    // (its locks are per process). So:
    // - the directory is the store's own, made with mode 0700; its only writers are LMDB
    //   itself, which never overwrites a page that a read transaction can see, and only in the
    //   process that holds the lock file;
    // - heed refuses to open a directory that this process has open already
    //   (`EnvAlreadyOpened`), under whichever path;
    // - a file shorter than its meta page says (a copy that was cut off) is refused below,
    //   before a page behind its end can be touched;
    // - every slice is copied before its transaction ends (`Tables::snapshot`).
    // LMDB has no checksums, so a disk that changes bits within pages goes unseen; and an
    // administrator who overwrites the file in place while the proxy runs can break this: the
    // proxy must be stopped before a restore.
    #[allow(unsafe_code)]
    let opened = unsafe { options.open(path) };
    let environment = opened.map_err(|error| store_error(path, &error))?;
    check_whole(&environment, path)?;
    Ok(environment)
}

/// Whether there is a data file. One that is too short to be one is damage: LMDB would take an
/// empty file for a new store, and every user would be assigned anew.
fn check_data_file(path: &Path) -> Result<bool, StoreError> {
    let file = path.join(DATA_FILE);
    match std::fs::metadata(&file) {
        Ok(metadata) if metadata.len() < DATA_BYTES_MIN => {
            let detail = format!("{DATA_FILE} has only {} bytes", metadata.len());
            Err(corrupt(path, &detail))
        }
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(StoreError::NotWritable { path: path.to_owned(), source }),
    }
}

/// Refuses a file that ends before its last page: touching what is missing would end the
/// process by a signal.
fn check_whole(environment: &Environment, path: &Path) -> Result<(), StoreError> {
    let pages = environment.info().last_page_number.saturating_add(1);
    let page_bytes = u64::from(environment.stat().page_size);
    let expected = u64::try_from(pages).unwrap_or(u64::MAX).saturating_mul(page_bytes);
    let found = environment.real_disk_size().map_err(|error| store_error(path, &error))?;
    if found < expected {
        let detail = format!("{DATA_FILE} has {found} bytes of {expected}");
        return Err(corrupt(path, &detail));
    }
    Ok(())
}

/// Lengthens the file (without using disk) by what the coming transaction can need.
///
/// LMDB counts pages that a transaction took and gave back but writes only those it kept, so
/// its last page may lie behind the file's end, and [`check_whole`] could not tell that from
/// a file cut off. To be called within the write transaction.
pub(super) fn make_room(environment: &Environment, bytes: usize) -> heed::Result<()> {
    let pages = environment.info().last_page_number.saturating_add(1);
    let page_bytes = u64::from(environment.stat().page_size);
    let used = u64::try_from(pages).unwrap_or(u64::MAX).saturating_mul(page_bytes);
    let wanted = used.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    if environment.real_disk_size()? < wanted {
        environment.try_clone_inner_file()?.set_len(wanted)?;
    }
    Ok(())
}

/// Makes the new files' names durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|source| StoreError::NotWritable { path: path.to_owned(), source })
}

/// What an error of LMDB means to the operator.
pub(super) fn store_error(path: &Path, error: &heed::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        heed::Error::EnvAlreadyOpened => StoreError::Locked { path },
        heed::Error::Mdb(MdbError::MapFull) => StoreError::Full { path },
        heed::Error::Mdb(MdbError::VersionMismatch) => StoreError::WrongVersion {
            path,
            found: "of another LMDB".to_owned(),
            expected: super::FORMAT,
        },
        heed::Error::Mdb(
            MdbError::Invalid
            | MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Incompatible
            | MdbError::Panic,
        )
        | heed::Error::Decoding(_) => StoreError::Corrupt { path, detail: error.to_string() },
        heed::Error::Io(source) => io_error(path, source),
        _ => StoreError::Failed { path, detail: error.to_string() },
    }
}

fn io_error(path: std::path::PathBuf, source: &io::Error) -> StoreError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full { path },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound => {
            // io::Error cannot be cloned; its number says the same.
            let number = source.raw_os_error();
            let source = number.map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
            StoreError::NotWritable { path, source }
        }
        _ => StoreError::Failed { path, detail: source.to_string() },
    }
}
