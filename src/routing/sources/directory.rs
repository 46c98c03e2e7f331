//! From the configuration of a directory to its client.

use std::sync::Arc;

use super::places::Places;
use crate::config::{BackendPlace, Config, Directory};
use crate::net::resolve::Addresses;
use crate::routing::query::RemoteSource;

/// The source of a directory; `None` where this build has no such clients, which the
/// configuration's check has refused. Nothing is connected yet. `follow` looks up where a
/// server is.
pub(in crate::routing) fn open(
    config: &Config,
    directory: &Directory,
    follow: &dyn Fn(&BackendPlace) -> Addresses,
) -> Option<Arc<dyn RemoteSource>> {
    let places = Places::of(config, follow);
    match directory {
        #[cfg(feature = "auth_http")]
        Directory::AuthHttp(config) => {
            Some(Arc::new(super::auth_http::AuthHttp::new(config.clone(), places, follow)))
        }
        #[cfg(feature = "ldap")]
        Directory::Ldap(config) => Some(Arc::new(super::ldap::Ldap::new(config.clone(), places))),
        #[cfg(feature = "redis")]
        Directory::Redis(config) => {
            Some(Arc::new(super::redis::Redis::new(config.clone(), places)))
        }
        #[cfg(feature = "sql")]
        Directory::Sql(config) => Some(Arc::new(super::sql::Sql::new(config.clone(), places))),
        #[allow(unreachable_patterns, reason = "a build with all features has them all")]
        _ => None,
    }
}
