//! Lookups over the network against the real servers: what they answer leads to the shard,
//! what is broken is refused, and their troubles stay theirs.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod auth_http;
mod ldap;
mod moves;
mod redis;
mod sql;
mod troubles;

use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use tokio::runtime::Runtime;

use pointsman::config::Config;
use pointsman::metrics::Metrics;
use pointsman::names::UserName;
use pointsman::net::resolve::Resolver;
use pointsman::routing::maps::Maps;
use pointsman::routing::query::Query;
use pointsman::routing::{LookupError, Route, SlotTable, Surroundings, Table};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Names that mean something to one directory or another, if they are not escaped.
const NASTY: [&str; 20] = [
    "*",
    "bo*",
    "b?b",
    "'",
    "bob' OR '1'='1",
    "bob'; DROP TABLE users; --",
    "\" OR \"\"=\"",
    "bob\\",
    ")(",
    "*)(uid=*))(|(uid=*",
    "bob)(mail=*",
    "\\2a",
    "%",
    "%u",
    "bob%",
    "bob\r\nDEL mail:bob",
    "bob\0",
    "bob\r\nAuth-Status: OK",
    "$1",
    "b ob",
];

/// Shards without servers: `north` with a backend that has TLS, `south` with one that has not.
const SHARDS: &str = "\
listeners: [ { name: i, address: \"127.0.0.1:143\", tls: none } ]
shards:
  north: { kind: shared, backends: [
    { name: n1, address: \"n1.internal:993\", tls: implicit } ] }
  south: { kind: shared, backends: [ { name: s1, address: \"10.0.2.1:143\", tls: none } ] }
";

/// A routing table with one lookup, asked without a proxy around it. Nothing is cached.
struct Lookup {
    table: Table,
    runtime: Runtime,
}

impl Lookup {
    /// `lookup` is the entry of `routing.lookups` in YAML's flow style, without its braces.
    fn new(lookup: &str) -> Self {
        let text = format!(
            "{SHARDS}routing:\n  lookups:\n    - {{ {lookup}, timeout: 5s, \
             cache: {{ found: 0s, miss: 0s, stale: 0s }}, breaker: {{ failures: 1000 }} }}\n"
        );
        let config = Config::parse(Path::new("p.yaml"), &text).unwrap_or_else(|fault| {
            panic!("{fault}");
        });
        let runtime = Runtime::new().unwrap();
        let metrics = Metrics::register().unwrap();
        let resolver = runtime.block_on(Resolver::new(&config.dns, Arc::clone(&metrics)));
        let around = Surroundings {
            runtime: runtime.handle().clone(),
            metrics,
            maps: Maps::default(),
            resolver: resolver.unwrap(),
            former: None,
        };
        let table = {
            let _in_runtime = runtime.enter();
            Table::load(&config, &SlotTable::unassigned(), 1, &around).unwrap()
        };
        Self { table, runtime }
    }

    /// The whole answer about a user, whose name need not be one that clients can have.
    fn route(&self, user: &str) -> Result<Route, LookupError> {
        let user = UserName::new(user);
        self.runtime.block_on(self.table.route(&Query::of_user(&user), |_| ()))
    }

    /// The user's shard, or why there is none.
    fn ask(&self, user: &str) -> Result<String, &'static str> {
        let route = self.route(user).map_err(|error| error.reason())?;
        Ok(route.shard.to_string())
    }
}

/// What a map in YAML's flow style looks like with these keys.
fn flow(keys: &[(&str, &str)]) -> String {
    keys.iter().fold(String::new(), |mut text, (key, value)| {
        write!(text, "{key}: \"{}\", ", value.replace('\\', "\\\\").replace('"', "\\\"")).unwrap();
        text
    })
}
