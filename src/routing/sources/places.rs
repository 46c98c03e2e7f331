//! Where the shards are: from what a directory calls a place to a configured shard.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::config::{Backend, BackendPlace, Config, Routing, Shard, TlsMode};
use crate::names::{ShardId, UserName};
use crate::net::resolve::Addresses;
use crate::routing::name::{self, NameError};
use crate::routing::query::{FailureReason, SourceFailure};

/// Characters of a directory's word that a log line repeats.
const QUOTED_CHARS_MAX: usize = 64;

/// The shards and the addresses of their backends.
#[derive(Debug)]
pub(in crate::routing) struct Places {
    shards: HashSet<ShardId>,
    /// By the host as it is written.
    by_host: HashMap<String, Vec<Server>>,
    routing: Routing,
}

#[derive(Debug)]
struct Server {
    port: Option<u16>,
    addresses: Addresses,
    encrypted: bool,
    shard: ShardId,
}

impl Server {
    /// Whether that is one of its addresses just now.
    fn is_at(&self, address: IpAddr, port: Option<u16>) -> bool {
        let is_it =
            |at: &SocketAddr| at.ip() == address && port.is_none_or(|port| at.port() == port);
        self.addresses.current().iter().any(is_it)
    }
}

impl Places {
    /// Those of a configuration; `follow` looks up where a backend is.
    pub(in crate::routing) fn of(
        config: &Config,
        follow: &dyn Fn(&BackendPlace) -> Addresses,
    ) -> Self {
        let mut by_host: HashMap<String, Vec<Server>> = HashMap::new();
        for shard in &config.shards {
            for backend in &shard.backends {
                let host = plain_host(backend.place.name());
                by_host.entry(host).or_default().push(Server {
                    port: backend.place.port(),
                    addresses: follow(&backend.place),
                    encrypted: is_encrypted(backend),
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

    /// The shard with a backend at that host or address and, where one is told, port. `encrypted`:
    /// whether a leg in clear text is out of the question.
    pub(super) fn shard_at(
        &self,
        host: &str,
        port: Option<u16>,
        encrypted: bool,
    ) -> Result<ShardId, SourceFailure> {
        let shown = || match port {
            Some(port) => format!("{} port {port}", quoted(host)),
            None => quoted(host),
        };
        let servers = self.servers_at(host, port);
        let Some(first) = servers.first() else {
            let detail = format!("it names the host {}, which is no backend", shown());
            return Err(SourceFailure::new(FailureReason::UnknownBackend, detail));
        };
        if servers.iter().any(|server| server.shard != first.shard) {
            return Err(broken(format!("backends of several shards are at the host {}", shown())));
        }
        if encrypted && servers.iter().any(|server| !server.encrypted) {
            let detail = format!("it wants TLS to {}, whose backend has `tls: none`", shown());
            return Err(broken(detail));
        }
        Ok(first.shard.clone())
    }

    /// The servers of that host as it is written; where there is none and it is an address,
    /// those whose names lead there.
    fn servers_at(&self, host: &str, port: Option<u16>) -> Vec<&Server> {
        let host = plain_host(host);
        let written = self.by_host.get(&host).into_iter().flatten();
        let mut found: Vec<&Server> =
            written.filter(|server| port.is_none() || server.port == port).collect();
        if found.is_empty()
            && let Ok(address) = host.parse()
        {
            let all = self.by_host.values().flatten();
            found.extend(all.filter(|server| server.is_at(address, port)));
        }
        found
    }

    /// The canonical form of a name that a directory told.
    pub(super) fn user(&self, raw: &str) -> Result<UserName, NameError> {
        name::canonical(&self.routing, raw.as_bytes())
    }
}

/// Whether the [`Places`] of both configurations are the same, wherever names lead.
pub(in crate::routing) fn same_places(one: &Config, other: &Config) -> bool {
    let told = |config: &Config| -> Vec<(ShardId, Vec<(BackendPlace, bool)>)> {
        let of_shard = |shard: &Shard| {
            let backends = shard.backends.iter();
            let places = backends.map(|backend| (backend.place.clone(), is_encrypted(backend)));
            (shard.name.clone(), places.collect())
        };
        config.shards.iter().map(of_shard).collect()
    };
    told(one) == told(other)
}

fn is_encrypted(backend: &Backend) -> bool {
    backend.tls != TlsMode::None
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
