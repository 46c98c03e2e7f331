//! Where the shards are: from what a directory calls a place to a configured shard.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::config::{Config, Routing, TlsMode};
use crate::names::{ShardId, UserName};
use crate::routing::name::{self, NameError};
use crate::routing::query::{FailureReason, SourceFailure};

/// Characters of a directory's word that a log line repeats.
const QUOTED_CHARS_MAX: usize = 64;

/// The shards and the addresses of their backends.
#[derive(Debug)]
pub(in crate::routing) struct Places {
    shards: HashSet<ShardId>,
    by_host: HashMap<String, Vec<Server>>,
    routing: Routing,
}

#[derive(Debug)]
struct Server {
    port: Option<u16>,
    encrypted: bool,
    shard: ShardId,
}

impl Places {
    /// Those of a configuration.
    pub(in crate::routing) fn of(config: &Config) -> Self {
        let mut by_host: HashMap<String, Vec<Server>> = HashMap::new();
        for shard in &config.shards {
            for backend in &shard.backends {
                let host = plain_host(backend.place.name());
                by_host.entry(host).or_default().push(Server {
                    port: backend.place.port(),
                    encrypted: backend.tls != TlsMode::None,
                    shard: shard.name.clone(),
                });
            }
        }
        let shards = config.shards.iter().map(|shard| shard.name.clone()).collect();
        Self { shards, by_host, routing: config.routing.clone() }
    }

    /// The shard of that name.
    pub(super) fn shard(&self, name: &str) -> Result<ShardId, SourceFailure> {
        self.shards.get(name).cloned().ok_or_else(|| {
            let detail = format!("it names the shard {}, which is not configured", quoted(name));
            SourceFailure::new(FailureReason::UnknownShard, detail)
        })
    }

    /// The shard with a backend at that host and, where one is told, port. `encrypted`:
    /// whether a leg in clear text is out of the question.
    pub(super) fn shard_at(
        &self,
        host: &str,
        port: Option<u16>,
        encrypted: bool,
    ) -> Result<ShardId, SourceFailure> {
        let servers = self.by_host.get(&plain_host(host)).map(Vec::as_slice).unwrap_or_default();
        let shown = || match port {
            Some(port) => format!("{} port {port}", quoted(host)),
            None => quoted(host),
        };
        let mut there = servers.iter().filter(|server| port.is_none() || server.port == port);
        let Some(first) = there.next() else {
            let detail = format!("it names the host {}, which is no backend", shown());
            return Err(SourceFailure::new(FailureReason::UnknownBackend, detail));
        };
        let mut all = there.clone().chain([first]);
        if there.any(|server| server.shard != first.shard) {
            return Err(broken(format!("backends of several shards are at the host {}", shown())));
        }
        if encrypted && all.any(|server| !server.encrypted) {
            let detail = format!("it wants TLS to {}, whose backend has `tls: none`", shown());
            return Err(broken(detail));
        }
        Ok(first.shard.clone())
    }

    /// The canonical form of a name that a directory told.
    pub(super) fn user(&self, raw: &str) -> Result<UserName, NameError> {
        name::canonical(&self.routing, raw.as_bytes())
    }
}

/// A failure of the answer.
pub(super) fn broken(detail: impl Into<String>) -> SourceFailure {
    SourceFailure::new(FailureReason::BrokenRow, detail)
}

/// A word of a directory for a log line: without anything that acts on a terminal, and cut.
pub(super) fn quoted(word: &str) -> String {
    let rest = if word.chars().nth(QUOTED_CHARS_MAX).is_some() { "..." } else { "" };
    let shown: String = word.chars().take(QUOTED_CHARS_MAX).collect();
    format!("{shown:?}{rest}")
}

/// One spelling of a host: addresses in their short form, names in lower case.
fn plain_host(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase(),
    }
}
