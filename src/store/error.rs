//! What can go wrong with a store.

use std::io;
use std::path::PathBuf;

use super::{KEY_BYTES_MAX, TXN_OPS_MAX, VALUE_BYTES_MAX};

/// Why the store cannot be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it cannot be made, read or written.
    #[error(
        "the store in {path:?} cannot be used: {source}; the directory must belong to the user \
         that the proxy runs as"
    )]
    NotWritable {
        /// Directory of the store.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open, or this one has.
    #[error("the store in {path:?} is in use by another running proxy")]
    Locked {
        /// Directory of the store.
        path: PathBuf,
    },
    /// What is there is not a whole store.
    #[error(
        "the store in {path:?} is damaged: {detail}; restore the directory from a backup (an \
         empty one would assign users to shards anew)"
    )]
    Corrupt {
        /// Directory of the store.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Written by another version.
    #[error("the store in {path:?} has format {found}, this version reads format {expected}")]
    WrongVersion {
        /// Directory of the store.
        path: PathBuf,
        /// The format found.
        found: String,
        /// The format that is understood.
        expected: &'static str,
    },
    /// The file system or the store's own bound is reached; nothing was changed.
    #[error("the store in {path:?} is full")]
    Full {
        /// Directory of the store.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("the store in {path:?} failed: {detail}")]
    Failed {
        /// Directory of the store.
        path: PathBuf,
        /// What the engine said.
        detail: String,
    },
    /// A transaction with too many changes or compares.
    #[error("a transaction of {changes} changes; at most {TXN_OPS_MAX} are taken")]
    TooManyChanges {
        /// Their number.
        changes: usize,
    },
    /// An empty key or one too long.
    #[error("a key of {bytes} bytes; 1 to {KEY_BYTES_MAX} are taken")]
    KeyLength {
        /// Its length.
        bytes: usize,
    },
    /// A value too long.
    #[error("a value of {bytes} bytes for the key {key:?}; at most {VALUE_BYTES_MAX} are taken")]
    ValueLength {
        /// Its key.
        key: String,
        /// Its length.
        bytes: usize,
    },
}

impl StoreError {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotWritable { .. } => "not_writable",
            Self::Locked { .. } => "locked",
            Self::Corrupt { .. } => "corrupt",
            Self::WrongVersion { .. } => "wrong_version",
            Self::Full { .. } => "full",
            Self::Failed { .. } => "failed",
            Self::TooManyChanges { .. } | Self::KeyLength { .. } | Self::ValueLength { .. } => {
                "out_of_bounds"
            }
        }
    }
}
