//! Where each configured object stands in the file, so that a fault that shows later
//! (a key that does not match its certificate) can name its line.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::config::Fault;
use crate::names::{BackendId, ShardId};

/// Something in the configuration that a later fault may be about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Object {
    /// A listener, by name.
    Listener(String),
    /// `cert` of the certificate of that index in `tls.certificates`.
    Certificate(usize),
    /// `key` of the certificate of that index.
    CertificateKey(usize),
    /// A shard.
    Shard(ShardId),
    /// A backend.
    Backend(BackendId),
    /// `ca` of a backend.
    BackendCa(BackendId),
    /// `ca` of a lookup, by the file that it names.
    LookupCa(PathBuf),
    /// `users.file` of the lookup of that index in `routing.lookups`.
    UsersFile(usize),
    /// The `hash` lookup.
    HashLookup,
    /// `log.format`.
    LogFormat,
    /// `admin.address`.
    AdminAddress,
    /// `admin.socket`.
    AdminSocket,
    /// `store.path`.
    StorePath,
    /// `routing.canonical`.
    Canonical,
    /// `routing.default_domain`.
    DefaultDomain,
}

/// The configuration file and the places of its objects. `default()` knows none: faults
/// then name no line.
#[derive(Debug, Clone, Default)]
pub struct Source {
    pub(super) file: PathBuf,
    pub(super) marks: HashMap<Object, Mark>,
}

/// A place in the file, drawn.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) snippet: String,
}

impl Source {
    /// The configuration file, as it was named.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A fault that points at an object's line.
    pub fn fault(&self, object: &Object, message: impl Into<String>) -> Fault {
        let fault = Fault::whole_file(&self.file, message);
        match self.marks.get(object) {
            Some(mark) => fault.drawn_at(mark.line, mark.column, mark.snippet.clone()),
            None => fault,
        }
    }
}
