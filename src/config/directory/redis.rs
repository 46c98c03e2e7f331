//! `redis`: a key of Redis, or of a server that speaks its protocol.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::endpoint::{Endpoint, LegSecurity, Scheme, check_url};
use super::template::Template;
use super::{Connections, check_built, check_ca};
use crate::config::check::{Check, Keyword, Text};
use crate::config::secret::{self, SecretSource};

const SCHEMES: &[Scheme] =
    &[("redis", LegSecurity::Clear, 6379), ("rediss", LegSecurity::Tls, 6379)];

/// A lookup of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisLookup {
    /// The server.
    pub server: Endpoint,
    /// The number of the database, by the URL's path. Default 0.
    pub database: u32,
    /// PEM file of the authorities that may sign its certificate; default: the system's.
    pub ca: Option<PathBuf>,
    /// Who signs in (an ACL user). Default: nobody, or the default user where there is a
    /// password.
    pub user: Option<String>,
    /// With what password.
    pub password: Option<SecretSource>,
    /// The key.
    pub key: Template,
    /// What is under it. Default: a string.
    pub value: RedisValue,
    /// Bounds of the connections.
    pub connections: Connections,
}

/// What is under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisValue {
    /// The shard.
    String,
    /// A hash of the fields that a row may have.
    Hash,
}

impl Keyword for RedisValue {
    const WORDS: &'static [(&'static str, Self)] =
        &[("string", Self::String), ("hash", Self::Hash)];
}

/// `redis` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRedis {
    url: Option<Text>,
    ca: Option<Text>,
    user: Option<Text>,
    password: Option<Text>,
    key: Option<Text>,
    value: Option<Text>,
    allow_clear: Option<Text>,
    connect_timeout: Option<Text>,
    connections: Option<Text>,
}

impl RawRedis {
    pub(in crate::config) fn check(
        raw: &Spanned<Self>,
        check: &mut Check<'_>,
    ) -> Option<RedisLookup> {
        check_built(cfg!(feature = "redis"), "redis", raw, check);
        let Spanned { value: raw, defined: place, .. } = raw;
        let (timeout, most) = (raw.connect_timeout.as_ref(), raw.connections.as_ref());
        let connections = Connections::check(timeout, most, check);
        let value = check.word("value", raw.value.as_ref(), RedisValue::String);
        let allow_clear = check.word("allow_clear", raw.allow_clear.as_ref(), false);
        let ca = check_ca(raw.ca.as_ref(), check);
        let password = raw.password.as_ref().and_then(|text| secret::take("password", text, check));
        let expected = "`key`: the key, such as \"mail:user:%u\"";
        let key = check.required("key", raw.key.as_ref(), *place, expected);
        let key = key.and_then(|key| Template::check("key", key, check));
        let expected = "`url`: where the server is, such as redis://localhost:6379";
        let url = check.required("url", raw.url.as_ref(), *place, expected)?;
        let (server, path) = check_url("url", url, SCHEMES, check)?;
        server.check_clear(url, allow_clear, check);
        let number = path.strip_prefix('/').unwrap_or_default();
        let database = if number.is_empty() { Some(0) } else { number.parse().ok() };
        if database.is_none() {
            check.refuse_value("url", url, "the number of the database as path, or no path");
        }
        let user = raw.user.as_ref().map(|user| user.value.clone());
        let database = database?;
        Some(RedisLookup { server, database, ca, user, password, key: key?, value, connections })
    }
}
