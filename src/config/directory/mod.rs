//! The lookups of `routing.lookups` that ask a directory over the network: where it is, how
//! it is asked, with what secrets.

mod auth_http;
mod endpoint;
mod ldap;
mod redis;
mod sql;
mod template;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_saphyr::Spanned;

use crate::config::check::{Check, Text};
use crate::config::source::Object;

pub use self::auth_http::AuthHttpLookup;
pub use self::endpoint::{Endpoint, HttpServer, LegSecurity};
pub use self::ldap::{LdapLookup, LdapScope};
pub use self::redis::{RedisLookup, RedisValue};
pub use self::sql::{SqlDatabase, SqlLookup, SqlServer};
pub use self::template::{NamePart, Template};

pub(super) use self::auth_http::RawAuthHttp;
pub(super) use self::ldap::RawLdap;
pub(super) use self::redis::RawRedis;
pub(super) use self::sql::RawSql;

const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_millis(10);
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// The fields that a row of a directory may have, as Dovecot calls them where it has them.
/// Those that give away a password or sign in without one are known so that they can be
/// refused.
pub const RECORD_FIELDS: [&str; 29] = [
    "shard",
    "host",
    "hostip",
    "port",
    "ssl",
    "starttls",
    "user",
    "destuser",
    "routing_key",
    "proxy",
    "proxy_maybe",
    "proxy_always",
    "proxy_refresh",
    "proxy_timeout",
    "delay_until",
    "nologin",
    "reason",
    "nodelay",
    "protocol",
    "password",
    "pass",
    "nopassword",
    "master",
    "master_user",
    "proxy_master",
    "proxy_mech",
    "proxy_noauth",
    "proxy_not_trusted",
    "source_ip",
];

/// Connections to one directory at most.
const CONNECTIONS_MAX: u32 = 1000;
const CONNECTIONS_DEFAULT: u32 = 8;

/// The kinds of directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// nginx's protocol over HTTP.
    AuthHttp(AuthHttpLookup),
    /// A search in an LDAP tree.
    Ldap(LdapLookup),
    /// A key of Redis.
    Redis(RedisLookup),
    /// A query of `PostgreSQL`, `MariaDB` or `SQLite`.
    Sql(SqlLookup),
}

impl Directory {
    /// The PEM file of the authorities that may sign its certificate, where one is named.
    pub fn ca(&self) -> Option<&Path> {
        match self {
            Self::AuthHttp(lookup) => lookup.ca.as_deref(),
            Self::Ldap(lookup) => lookup.ca.as_deref(),
            Self::Redis(lookup) => lookup.ca.as_deref(),
            Self::Sql(SqlLookup { database, .. }) => match database {
                SqlDatabase::Postgres(server) | SqlDatabase::MariaDb(server) => {
                    server.ca.as_deref()
                }
                SqlDatabase::Sqlite(_) => None,
            },
        }
    }
}

/// What bounds the connections to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Longest wait for a new one, with TLS and signing in, per server. Default 1 s.
    pub timeout: Duration,
    /// How many there may be. Default 8.
    pub most: usize,
}

impl Connections {
    fn check(timeout: Option<&Text>, most: Option<&Text>, check: &mut Check<'_>) -> Self {
        let timeout = check_timeout(timeout, check);
        let most = check.number("connections", most, 1..=CONNECTIONS_MAX, CONNECTIONS_DEFAULT);
        Self { timeout, most: usize::try_from(most).unwrap_or(1) }
    }
}

fn check_timeout(text: Option<&Text>, check: &mut Check<'_>) -> Duration {
    let range = CONNECT_TIMEOUT_MIN..=CONNECT_TIMEOUT_MAX;
    check.duration("connect_timeout", text, range, CONNECT_TIMEOUT_DEFAULT)
}

/// The file of authorities, whose line is remembered for what is found in it later.
fn check_ca(text: Option<&Text>, check: &mut Check<'_>) -> Option<PathBuf> {
    let text = text?;
    let file = check.path("ca", text)?;
    check.remember(Object::LookupCa(file.clone()), text.defined);
    Some(file)
}

/// A kind of lookup that this build may have been made without.
fn check_built(there: bool, kind: &str, raw: &Spanned<impl Sized>, check: &mut Check<'_>) {
    if !there {
        let message = format!("this build has no `{kind}` lookups");
        check.refuse(raw.defined, message, format!("a build with the cargo feature `{kind}`"));
    }
}
