//! What a routing lookup can be answered from.

#![cfg_attr(
    not(all(feature = "auth_http", feature = "ldap", feature = "redis", feature = "sql")),
    allow(dead_code, unused_variables, reason = "shared by lookups of which some are left out")
)]

#[cfg(feature = "auth_http")]
mod auth_http;
mod compiled;
mod directory;
mod domains;
#[cfg(feature = "ldap")]
mod ldap;
pub(super) mod line;
mod patterns;
mod places;
mod pool;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod secrets;
mod servers;
#[cfg(feature = "sql")]
mod sql;
mod user_index;
mod users;

use std::sync::Arc;

use super::hashing;
use super::slots::SlotTable;
use crate::metrics::LookupSource;
use crate::names::{ShardId, UserName};

pub(super) use compiled::CompiledUsers;
pub(super) use directory::open;
pub(super) use domains::{DomainFault, Domains};
pub use line::{LineFault, LineProblem};
pub(super) use patterns::Patterns;
pub(super) use places::same_places;
pub(super) use users::Users;
pub use users::UsersError;

/// One configured lookup, loaded.
#[derive(Debug)]
pub(super) enum Source {
    /// The users file.
    Users(Users),
    /// The domain list.
    Domains(Domains),
    /// The list of patterns.
    Patterns(Patterns),
    /// The slot table.
    Hash(SlotTable),
    /// One shard for everybody.
    Shard(ShardId),
}

impl Source {
    /// The shard of a user, `None` where this source does not know the user.
    pub(super) fn lookup(&self, user: &UserName) -> Option<&ShardId> {
        match self {
            Self::Users(users) => users.lookup(user),
            Self::Domains(domains) => domains.lookup(user),
            Self::Patterns(patterns) => patterns.lookup(user),
            Self::Hash(slots) => slots.shard_of(hashing::slot(user)),
            Self::Shard(shard) => Some(shard),
        }
    }

    /// What kind of lookup it is.
    pub(super) const fn label(&self) -> LookupSource {
        match self {
            Self::Users(_) => LookupSource::Users,
            Self::Domains(_) => LookupSource::Domains,
            Self::Patterns(_) => LookupSource::Patterns,
            Self::Hash(_) => LookupSource::Hash,
            Self::Shard(_) => LookupSource::Shard,
        }
    }
}

/// The configured shards, shared by the sources that hold a number for each.
pub(super) type Shards = Arc<[ShardId]>;
