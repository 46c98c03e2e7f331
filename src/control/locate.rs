//! All faults of what a configuration names, each pointed back at a line: of the file
//! itself where it is text that an operator writes, else of the configuration.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::{
    Backend, Config, ConfigErrors, Failover, Fault, Lookup, Object, Shard, TlsMode,
};
use crate::control::ApplyError;
use crate::names::BackendId;
use crate::net::tls::{ServerTls, TlsError, verifying};
use crate::routing::maps::Maps;
use crate::routing::{RoutingError, SlotError, SlotTable, Table, UsersError};
use crate::upstream::backends::Upstreams;

/// Whether any listener speaks TLS.
pub(super) fn wants_tls(config: &Config) -> bool {
    config.listeners.iter().any(|listener| listener.tls != TlsMode::None)
}

/// Opens every file that a configuration names and tells all that is wrong with them.
/// `slots` is what the store made of the `hash` lookup, `maps` what of users maps is open.
/// Blocks.
pub(super) fn faults(
    config: &Config,
    slots: &Result<SlotTable, SlotError>,
    maps: &Maps,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    if wants_tls(config) {
        faults.extend(ServerTls::faults(&config.tls).iter().map(|error| tls(config, error)));
    }
    let table = match slots {
        Ok(slots) => slots.clone(),
        Err(error) => {
            faults.push(at(config, &Object::HashLookup, error));
            SlotTable::unassigned()
        }
    };
    for error in Table::faults(config, &table, maps) {
        // Without slots it says only what was said already.
        if !matches!(error, RoutingError::SlotsUnassigned) {
            faults.extend(routing(config, &error));
        }
    }
    faults.extend(Upstreams::faults(config).iter().map(|error| tls(config, error)));
    faults.extend(passwords(config));
    faults.extend(programs(config));
    faults.extend(authorities(config));
    faults
}

/// Files of authorities of directories that cannot be used, each once. A lookup reads its
/// file when it connects: without this the first logins would find out.
pub(super) fn authorities(config: &Config) -> Vec<Fault> {
    let mut seen = HashSet::new();
    let files = config.routing.lookups.iter().filter_map(|lookup| match lookup {
        Lookup::Remote(remote) => remote.directory.ca(),
        _ => None,
    });
    let unusable = |file: &Path| {
        let error = verifying(Some(file)).err()?;
        Some(at(config, &Object::LookupCa(file.to_owned()), &error))
    };
    files.filter(|file| seen.insert(*file)).filter_map(unusable).collect()
}

/// Programs that cannot be run.
pub(super) fn programs(config: &Config) -> Vec<Fault> {
    let fault = |shard: &Shard| {
        let Failover::Fence { program, .. } = &shard.failover else { return None };
        let runs =
            |metadata: Metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        let why = match std::fs::metadata(program).map(runs) {
            Ok(true) => return None,
            Ok(false) => "it is no program".to_owned(),
            Err(error) => error.to_string(),
        };
        let message = format!("the fence {} cannot be run: {why}", program.display());
        Some(at(config, &Object::Shard(shard.name.clone()), &message))
    };
    config.shards.iter().filter_map(fault).collect()
}

/// Passwords of test users that cannot be read.
pub(super) fn passwords(config: &Config) -> Vec<Fault> {
    let backends = config.shards.iter().flat_map(|shard| &shard.backends);
    let unreadable = |backend: &Backend| {
        let password = &backend.check.test_user.as_ref()?.password;
        let error = password.load().err()?;
        let file = password.file()?.display();
        let object = Object::Backend(backend.name.clone());
        Some(at(config, &object, &format!("the password in {file} cannot be read: {error}")))
    };
    backends.filter_map(unreadable).collect()
}

/// The faults as one error, where there are any.
pub(super) fn refusal(faults: Vec<Fault>) -> Result<(), ApplyError> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(ApplyError::Config(ConfigErrors::invalid(faults, 0)))
}

/// A setting that only a restart can change, at its line.
pub(super) fn needs_restart(config: &Config, key: &str, object: &Object) -> ApplyError {
    let message = format!("`{key}` changed, which a reload cannot do");
    let fault = config.source.fault(object, message);
    let fault = fault.expecting("the former value, or a restart of the proxy");
    ApplyError::Config(ConfigErrors::invalid(vec![fault], 0))
}

/// A fault of a certificate, key or authority, at the line that names the file.
fn tls(config: &Config, error: &TlsError) -> Fault {
    let object = match error {
        TlsError::Mismatch { key, .. } => object_of_path(config, key),
        TlsError::BadName { backend, .. } => {
            Some(Object::Backend(BackendId::new(backend.as_str())))
        }
        TlsError::Unreadable { path, .. }
        | TlsError::TooLarge { path, .. }
        | TlsError::NoCertificateInFile { path }
        | TlsError::NoKeyInFile { path }
        | TlsError::BadPem { path, .. }
        | TlsError::BadCertificate { path, .. }
        | TlsError::BadKey { path, .. } => object_of_path(config, path),
        TlsError::NoCertificates | TlsError::NoSystemStore { .. } | TlsError::Setup(_) => None,
    };
    match object {
        Some(object) => at(config, &object, error),
        None => Fault::whole_file(config.source.file(), error.to_string()),
    }
}

/// Faults of a lookup: of a users file, its own lines.
fn routing(config: &Config, error: &RoutingError) -> Vec<Fault> {
    match error {
        RoutingError::Users(lines @ UsersError::Lines { .. }) => lines.faults(),
        RoutingError::Users(UsersError::Unreadable { file, .. }) => {
            vec![at(config, &users_file(config, file), error)]
        }
        RoutingError::Map(map) => vec![at(config, &users_file(config, map.file()), error)],
        RoutingError::Slots(_) => vec![at(config, &Object::HashLookup, error)],
        _ => vec![Fault::whole_file(config.source.file(), error.to_string())],
    }
}

/// The `users` lookup that names a file.
fn users_file(config: &Config, file: &Path) -> Object {
    let names_it =
        |lookup: &Lookup| matches!(lookup, Lookup::Users { file: named } if named == file);
    let place = config.routing.lookups.iter().position(names_it);
    Object::UsersFile(place.unwrap_or(usize::MAX))
}

fn at(config: &Config, object: &Object, error: &dyn Display) -> Fault {
    config.source.fault(object, error.to_string())
}

/// What in the configuration names that file.
fn object_of_path(config: &Config, path: &Path) -> Option<Object> {
    let certificates = config.tls.certificates.iter().enumerate();
    let certificate = certificates.flat_map(|(place, pair)| {
        [
            (pair.cert.as_path(), Object::Certificate(place)),
            (pair.key.as_path(), Object::CertificateKey(place)),
        ]
    });
    let backends = config.shards.iter().flat_map(|shard| &shard.backends);
    let authority = backends.filter_map(|backend| {
        Some((backend.ca.as_deref()?, Object::BackendCa(backend.name.clone())))
    });
    let mut named = certificate.chain(authority);
    named.find_map(|(file, object)| (file == path).then_some(object))
}
