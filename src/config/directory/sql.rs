//! `sql`: one query of a database.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::endpoint::{Endpoint, LegSecurity, Scheme, check_url};
use super::template::NamePart;
use super::{Connections, check_built, check_ca};
use crate::config::check::{Check, Keyword, Text};
use crate::config::secret::{self, SecretSource};

/// Bytes of a query at most.
const QUERY_BYTES_MAX: usize = 16_384;

/// Parameters of a query at most.
const PARAMETERS_MAX: usize = 8;

const POSTGRES: &[Scheme] =
    &[("postgres", LegSecurity::Tls, 5432), ("postgresql", LegSecurity::Tls, 5432)];
const MARIADB: &[Scheme] =
    &[("mariadb", LegSecurity::Tls, 3306), ("mysql", LegSecurity::Tls, 3306)];

const URL_FORM: &str = "postgres://host:port/database, mariadb://host:port/database or \
                        sqlite:FILE, without user and password";

/// A lookup by one query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlLookup {
    /// What is asked.
    pub database: SqlDatabase,
    /// The query, with the database's own marks for parameters: `$1` or `?`.
    pub query: String,
    /// What its parameters are, in their order. Default: the user.
    pub parameters: Vec<NamePart>,
    /// Bounds of the connections.
    pub connections: Connections,
}

/// The databases that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlDatabase {
    /// `PostgreSQL` and what speaks its protocol.
    Postgres(SqlServer),
    /// `MariaDB`, `MySQL`.
    MariaDb(SqlServer),
    /// A file of `SQLite`, opened for reading.
    Sqlite(PathBuf),
}

/// A database on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlServer {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The database's name.
    pub database: String,
    /// Who signs in.
    pub user: String,
    /// With what password.
    pub password: Option<SecretSource>,
    /// PEM file of the authorities that may sign its certificate besides the public ones.
    pub ca: Option<PathBuf>,
}

impl Keyword for NamePart {
    const WORDS: &'static [(&'static str, Self)] =
        &[("user", Self::User), ("local", Self::Local), ("domain", Self::Domain)];
}

/// The words of `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Encrypted(bool);

impl Keyword for Encrypted {
    const WORDS: &'static [(&'static str, Self)] =
        &[("required", Self(true)), ("none", Self(false))];
}

/// `sql` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawSql {
    url: Option<Text>,
    tls: Option<Text>,
    ca: Option<Text>,
    user: Option<Text>,
    password: Option<Text>,
    query: Option<Text>,
    parameters: Option<Vec<Text>>,
    allow_clear: Option<Text>,
    connect_timeout: Option<Text>,
    connections: Option<Text>,
}

impl RawSql {
    pub(in crate::config) fn check(
        raw: &Spanned<Self>,
        check: &mut Check<'_>,
    ) -> Option<SqlLookup> {
        check_built(cfg!(feature = "sql"), "sql", raw, check);
        let Spanned { value: raw, defined: place, .. } = raw;
        let (timeout, most) = (raw.connect_timeout.as_ref(), raw.connections.as_ref());
        let connections = Connections::check(timeout, most, check);
        let parameters = raw.check_parameters(check);
        let expected = "`query`: a query for the user's shard";
        let query = check.required("query", raw.query.as_ref(), *place, expected);
        if let Some(text) = query
            && !(1..=QUERY_BYTES_MAX).contains(&text.value.len())
        {
            check.refuse_value("query", text, "a query of at most 16 KiB");
        }
        let database = raw.check_database(*place, check);
        Some(SqlLookup {
            database: database?,
            query: query?.value.clone(),
            parameters,
            connections,
        })
    }

    fn check_database(&self, place: Location, check: &mut Check<'_>) -> Option<SqlDatabase> {
        let url = check.required("url", self.url.as_ref(), place, URL_FORM)?;
        let scheme = url.value.split(':').next().unwrap_or_default();
        match scheme {
            "sqlite" => self.check_file(url, check).map(SqlDatabase::Sqlite),
            "postgres" | "postgresql" => {
                self.check_server(url, POSTGRES, place, check).map(SqlDatabase::Postgres)
            }
            "mariadb" | "mysql" => {
                self.check_server(url, MARIADB, place, check).map(SqlDatabase::MariaDb)
            }
            _ => {
                check.refuse_value("url", url, URL_FORM);
                None
            }
        }
    }

    /// Nobody signs in to a file.
    fn check_file(&self, url: &Text, check: &mut Check<'_>) -> Option<PathBuf> {
        let keys = [
            ("tls", &self.tls),
            ("ca", &self.ca),
            ("user", &self.user),
            ("password", &self.password),
            ("allow_clear", &self.allow_clear),
        ];
        for (key, text) in keys {
            if let Some(text) = text {
                let message = format!("`{key}` means nothing to a file");
                check.refuse(text.defined, message, "it with a server only");
            }
        }
        let file = url.value.strip_prefix("sqlite:").unwrap_or_default();
        let file = file.strip_prefix("//").unwrap_or(file);
        if file.is_empty() || file.starts_with(':') || file.contains('?') {
            check.refuse_value("url", url, "sqlite: and the path of a file");
            return None;
        }
        check.path_of("url", file, url)
    }

    fn check_server(
        &self,
        url: &Text,
        schemes: &[Scheme],
        place: Location,
        check: &mut Check<'_>,
    ) -> Option<SqlServer> {
        let allow_clear = check.word("allow_clear", self.allow_clear.as_ref(), false);
        let ca = check_ca(self.ca.as_ref(), check);
        let password =
            self.password.as_ref().and_then(|text| secret::take("password", text, check));
        let expected = "`user`: who signs in to the database";
        let user = check.required("user", self.user.as_ref(), place, expected);
        let (mut endpoint, path) = check_url("url", url, schemes, check)?;
        let encrypted = Encrypted(!endpoint.is_loopback());
        let Encrypted(encrypted) = check.word("tls", self.tls.as_ref(), encrypted);
        endpoint.security = if encrypted { LegSecurity::Tls } else { LegSecurity::Clear };
        endpoint.check_clear(url, allow_clear, check);
        let database = path.strip_prefix('/').unwrap_or_default().to_owned();
        if database.is_empty() || database.contains(['/', '?', '%']) {
            check.refuse_value("url", url, "the database's name as path, without / ? %");
        }
        let user = user?.value.clone();
        Some(SqlServer { endpoint, database, user, password, ca })
    }

    fn check_parameters(&self, check: &mut Check<'_>) -> Vec<NamePart> {
        let Some(texts) = &self.parameters else { return vec![NamePart::User] };
        let parts: Vec<NamePart> =
            texts.iter().map(|text| check.word("parameters", Some(text), NamePart::User)).collect();
        if let Some(text) = texts.get(PARAMETERS_MAX) {
            check.refuse_value("parameters", text, "at most 8 parameters");
        }
        parts
    }
}
