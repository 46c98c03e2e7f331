//! From the configuration of a directory to its client.

use std::sync::Arc;

use super::places::Places;
use crate::config::{Config, Directory};
use crate::routing::query::RemoteSource;

/// The source of a directory; `None` where this build has no such clients, which the
/// configuration's check has refused. Nothing is connected yet.
pub(in crate::routing) fn open(
    config: &Config,
    directory: &Directory,
) -> Option<Arc<dyn RemoteSource>> {
    let places = Places::of(config);
    match directory {
        #[cfg(feature = "auth_http")]
        Directory::AuthHttp(config) => {
            Some(Arc::new(super::auth_http::AuthHttp::new(config.clone(), places)))
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
