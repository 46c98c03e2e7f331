//! The configuration as checked, typed values. `load` makes one from a file or says
//! file, line, column and reason; later code trusts the types.

mod backend;
mod check;
mod directory;
mod dns;
mod fault;
mod fence;
mod guard;
mod health;
mod limits;
mod listener;
mod load;
mod log;
mod master;
mod mechanisms;
mod network;
mod patterns;
mod routing;
mod secret;
mod service;
mod shard;
mod silence;
mod source;
mod tls;
mod units;
mod upstream;

#[cfg(test)]
mod tests;

pub use self::backend::{AdminState, Backend, BackendPlace, Forward, Pipelining};
pub use self::directory::{
    AuthHttpLookup, Connections, Directory, Endpoint, HttpServer, LdapLookup, LdapScope,
    LegSecurity, NamePart, RECORD_FIELDS, RedisLookup, RedisValue, SqlDatabase, SqlLookup,
    SqlServer, Template,
};
pub use self::dns::Dns;
pub(crate) use self::fault::is_hidden;
pub use self::fault::{ConfigErrors, Fault};
pub use self::fence::Failover;
pub use self::guard::{BreakerPolicy, CachePolicy, LookupGuard, OnFailure};
pub use self::health::{CheckMode, HealthCheck, TestUser};
pub use self::limits::{Limits, OnUnavailable};
pub use self::listener::{Listener, ProxyProtocol, TlsMode};
pub use self::log::{Log, LogFormat, LogUser, UserField, UserKey};
pub use self::master::Master;
pub use self::network::Network;
pub use self::patterns::{Pattern, compile_patterns};
pub use self::routing::{Canonical, Lookup, OnRouteChange, RemoteLookup, Routing, RoutingKey};
pub use self::secret::SecretSource;
pub use self::service::{Admin, Shutdown, Store};
pub use self::shard::{Balance, Shard, ShardKind};
pub use self::silence::Silence;
pub use self::source::{Object, Source};
pub use self::tls::{Certificate, Tls};
pub use self::units::parse_duration;
pub use self::upstream::Upstream;

/// Everything one configuration file says, checked whole. Shared as `Arc<Config>`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect. At least one.
    pub listeners: Vec<Listener>,
    /// Certificates for `implicit` and `starttls` listeners.
    pub tls: Tls,
    /// The shards in file order (the order decides the first slot assignment). At least one.
    pub shards: Vec<Shard>,
    /// How a user's shard is found.
    pub routing: Routing,
    /// Who may sign in as somebody else; `None`: nobody.
    pub master: Option<Master>,
    /// Bounds on clients.
    pub limits: Limits,
    /// How the proxy reaches backends.
    pub upstream: Upstream,
    /// How the names of backends are looked up.
    pub dns: Dns,
    /// The HTTP listener for metrics and probes.
    pub admin: Admin,
    /// Where the embedded store lies.
    pub store: Store,
    /// What SIGTERM does.
    pub shutdown: Shutdown,
    /// What is logged, and how.
    pub log: Log,
    /// Which line of the file each object came from, for faults found later.
    pub source: Source,
}
