//! Asking name servers through hickory, and reading the hosts file.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Dns;
use crate::net::resolve::question::{Failure, Question, RecordKind, Records, Service};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Name servers taken of `/etc/resolv.conf`, as in the C library.
const SYSTEM_SERVERS_MAX: usize = 3;

/// Domains taken of the `search` list of `/etc/resolv.conf`.
const SEARCH_MAX: usize = 8;

/// How long what the hosts file says holds: it tells no lifetimes.
pub(super) const HOSTS_LIFETIME: Duration = Duration::from_secs(30);

/// Questions in flight, each with a socket of its own, over all names.
const QUESTIONS_AT_ONCE: usize = 64;

/// A question under way.
pub type Asked = Pin<Box<dyn Future<Output = Result<Records, Failure>> + Send>>;

type Ask = dyn Fn(Question) -> Asked + Send + Sync;

/// What a client was made from: two with the same would ask the same servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    dns: Dns,
    /// What `/etc/resolv.conf` holds, where it is asked.
    resolv_conf: Option<Vec<u8>>,
}

/// Asks one set of name servers.
pub(super) struct Client {
    /// `None`: one for tests.
    settings: Option<Settings>,
    ask: Box<Ask>,
    /// Whole names end with these, in this order.
    search: Vec<Name>,
    /// Dots from which on a name is tried as it is first.
    dots_min: usize,
    hosts: Option<HostsFile>,
    places: Semaphore,
}

impl Settings {
    /// Those that the configuration and, where it names no servers, `/etc/resolv.conf` say
    /// now. Blocks on a file read.
    pub(super) fn read(dns: &Dns) -> Self {
        let resolv_conf = dns.servers.is_empty().then(|| {
            std::fs::read(RESOLV_CONF).unwrap_or_else(|error| {
                tracing::warn!(%error, "{RESOLV_CONF} cannot be read");
                Vec::new()
            })
        });
        Self { dns: dns.clone(), resolv_conf }
    }
}

/// Which servers are asked and how names are completed.
struct Plan {
    servers: Vec<SocketAddr>,
    search: Vec<Name>,
    dots_min: usize,
}

impl Plan {
    fn of(settings: &Settings) -> Self {
        match &settings.resolv_conf {
            Some(text) => Self::of_system(text),
            None => Self { servers: settings.dns.servers.clone(), search: Vec::new(), dots_min: 1 },
        }
    }

    /// As the C library reads it; without a server there, that of this machine is asked
    /// (resolv.conf(5)).
    fn of_system(text: &[u8]) -> Self {
        let (config, options) = parse_resolv_conf(text).unwrap_or_else(|error| {
            tracing::warn!(%error, "{RESOLV_CONF} names no server; that of this machine is asked");
            let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
            (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
        });
        let servers = config.name_servers().iter().take(SYSTEM_SERVERS_MAX).map(|server| {
            let port = server.connections.first().map_or(53, |connection| connection.port);
            SocketAddr::new(server.ip, port)
        });
        let domain = config.domain().filter(|_| config.search().is_empty());
        let search = config.search().iter().chain(domain).take(SEARCH_MAX).cloned();
        let search = search.filter(|domain| !domain.is_root()).collect();
        Self { servers: servers.collect(), search, dots_min: options.ndots }
    }
}

impl Client {
    /// One for these settings. Opens nothing.
    ///
    /// # Errors
    /// Where hickory refuses them.
    pub(super) fn new(settings: Settings) -> Result<Self, NetError> {
        let Plan { servers, search, dots_min } = Plan::of(&settings);
        let all = settings.dns.timeout;
        let each = all / u32::try_from(servers.len()).unwrap_or(u32::MAX).max(1);
        let resolvers: Result<Vec<_>, _> =
            servers.into_iter().map(|server| resolver(server, each)).collect();
        let resolvers = Arc::new(resolvers?);
        let ask = move |question| -> Asked {
            let resolvers = Arc::clone(&resolvers);
            Box::pin(async move { ask_in_turn(&resolvers, &question, each).await })
        };
        Ok(Self {
            settings: Some(settings),
            ask: Box::new(ask),
            search,
            dots_min,
            hosts: Some(HostsFile::new(HOSTS)),
            places: Semaphore::new(QUESTIONS_AT_ONCE),
        })
    }

    /// One with its own way of asking, without hosts file and search list.
    pub(super) fn with_ask(ask: impl Fn(Question) -> Asked + Send + Sync + 'static) -> Self {
        Self {
            settings: None,
            ask: Box::new(ask),
            search: Vec::new(),
            dots_min: 1,
            hosts: None,
            places: Semaphore::new(QUESTIONS_AT_ONCE),
        }
    }

    /// Whether it was made from these settings.
    pub(super) fn is_made_from(&self, settings: &Settings) -> bool {
        self.settings.as_ref().is_none_or(|own| own == settings)
    }

    /// Asks one question when its turn comes.
    pub(super) async fn ask(&self, question: Question) -> Result<Records, Failure> {
        // It is never closed.
        let _place = self.places.acquire().await;
        (self.ask)(question).await
    }

    /// The whole names that a host name may stand for, in the order of trying.
    pub(super) fn candidates(&self, host: &str) -> Vec<String> {
        let whole = if host.ends_with('.') { host.to_owned() } else { format!("{host}.") };
        let local = host.eq_ignore_ascii_case("localhost");
        if self.search.is_empty() || host.ends_with('.') || local {
            return vec![whole];
        }
        let mut candidates: Vec<String> =
            self.search.iter().map(|domain| format!("{whole}{}", ended(domain))).collect();
        let dots = host.bytes().filter(|byte| *byte == b'.').count();
        let place = if dots >= self.dots_min { 0 } else { candidates.len() };
        candidates.insert(place, whole);
        candidates
    }

    /// What the hosts file says of a name; `None` where it does not have it.
    pub(super) async fn hosts(&self, host: &str) -> Option<Vec<IpAddr>> {
        self.hosts.as_ref()?.addresses(host).await
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A name in text with its last dot.
fn ended(name: &Name) -> String {
    let text = name.to_ascii();
    if text.ends_with('.') { text } else { text + "." }
}

/// Asks one server. Its cache keeps nothing: when a name is asked for again is decided by
/// its follower, by the lifetime that the server told. The order among servers and the hosts
/// file are this module's, too.
fn resolver(server: SocketAddr, each: Duration) -> Result<TokioResolver, NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let runtime = TokioRuntimeProvider::default();
    let mut builder = TokioResolver::builder_with_config(config, runtime);
    let options = builder.options_mut();
    options.timeout = each;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.num_concurrent_reqs = 1;
    options.max_active_requests = QUESTIONS_AT_ONCE;
    builder.build()
}

/// Asks one server after the other, until one answers. That there is nothing is an answer.
async fn ask_in_turn(
    resolvers: &[TokioResolver],
    question: &Question,
    each: Duration,
) -> Result<Records, Failure> {
    let kind = match question.kind {
        RecordKind::A => RecordType::A,
        RecordKind::Aaaa => RecordType::AAAA,
        RecordKind::Srv => RecordType::SRV,
    };
    let mut name = Name::from_ascii(&question.name).map_err(|error| failed(&error))?;
    name.set_fqdn(true);
    let mut failure = Failure::Nothing;
    for resolver in resolvers {
        let this = match timeout(each, resolver.lookup(name.clone(), kind)).await {
            Ok(Ok(lookup)) => return records(&lookup, question.kind),
            Ok(Err(error)) if error.is_no_records_found() => return Err(Failure::Nothing),
            Ok(Err(NetError::Timeout)) | Err(_) => Failure::Timeout,
            Ok(Err(error)) => failed(&error),
        };
        failure = this.worse(failure);
    }
    Err(failure)
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

/// The records of the wanted kind; those of aliases on the way count for the lifetime.
fn records(lookup: &Lookup, kind: RecordKind) -> Result<Records, Failure> {
    let mut records = Records {
        addresses: Vec::new(),
        services: Vec::new(),
        lifetime: Duration::from_secs(u64::from(u32::MAX)),
    };
    for record in lookup.answers() {
        let lifetime = Duration::from_secs(u64::from(record.ttl));
        records.lifetime = records.lifetime.min(lifetime);
        match (&record.data, kind) {
            (RData::A(address), RecordKind::A) => records.addresses.push(address.0.into()),
            (RData::AAAA(address), RecordKind::Aaaa) => records.addresses.push(address.0.into()),
            (RData::SRV(service), RecordKind::Srv) => records.services.push(Service {
                priority: service.priority,
                weight: service.weight,
                port: service.port,
                target: ended(&service.target.to_lowercase()),
            }),
            _ => {}
        }
    }
    let nothing = records.addresses.is_empty() && records.services.is_empty();
    if nothing { Err(Failure::Nothing) } else { Ok(records) }
}

/// The hosts file, read again when it has changed.
struct HostsFile {
    path: PathBuf,
    known: Arc<Mutex<KnownHosts>>,
}

#[derive(Default)]
struct KnownHosts {
    /// The time of the last change and the size in bytes when it was read.
    mark: Option<(SystemTime, u64)>,
    hosts: Arc<Hosts>,
}

impl HostsFile {
    fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), known: Arc::default() }
    }

    async fn addresses(&self, host: &str) -> Option<Vec<IpAddr>> {
        let mut name = Name::from_ascii(host.to_ascii_lowercase()).ok()?;
        name.set_fqdn(true);
        let (path, known) = (self.path.clone(), Arc::clone(&self.known));
        let hosts = tokio::task::spawn_blocking(move || read_again(&path, &known)).await.ok()?;
        let mut addresses = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let found = hosts.lookup_static_host(&Query::query(name.clone(), kind));
            let records = found.iter().flat_map(Lookup::answers);
            addresses.extend(records.filter_map(|record| record.data.ip_addr()));
        }
        (!addresses.is_empty()).then_some(addresses)
    }
}

/// One that is not there is empty; one that cannot be read now is as it was.
fn read_again(path: &Path, known: &Mutex<KnownHosts>) -> Arc<Hosts> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let read = || -> io::Result<Option<KnownHosts>> {
        let about = std::fs::metadata(path)?;
        let mark = Some((about.modified()?, about.len()));
        if mark == known.mark {
            return Ok(None);
        }
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(std::fs::File::open(path)?)?;
        Ok(Some(KnownHosts { mark, hosts: Arc::new(hosts) }))
    };
    match read() {
        Ok(Some(fresh)) => *known = fresh,
        Ok(None) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => *known = KnownHosts::default(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the hosts file cannot be read");
        }
    }
    Arc::clone(&known.hosts)
}

#[cfg(test)]
mod tests;
