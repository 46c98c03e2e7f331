//! What all workers share: the present snapshot of the configuration, and the tables
//! that outlive it.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use crate::admission::{AddressTable, DescriptorCap, Places};
use crate::config::Config;
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::net::tls::ServerTls;
use crate::proxy::logins::LoginsUnderWay;
use crate::proxy::registry::Registry;
use crate::proxy::worker::Workers;
use crate::routing::Table;
use crate::routing::overrides::Overrides;
use crate::telemetry::Telemetry;
use crate::upstream::backends::Upstreams;

/// One configuration, ready for use: swapped whole, never changed.
#[derive(Debug)]
pub struct Snapshot {
    /// Number of the snapshot: 1 at start, one more with each reload that was taken.
    pub generation: u64,
    /// The configuration itself.
    pub config: Arc<Config>,
    /// Where users live.
    pub table: Table,
    /// The backends.
    pub upstreams: Upstreams,
    /// The certificates; `None` where no listener speaks TLS.
    pub tls: Option<ServerTls>,
}

/// What every part of the data plane holds on to.
#[derive(Debug)]
pub struct Shared {
    /// The present snapshot. A connection takes it once when accepted; a login takes
    /// the routing of its own moment.
    pub snapshot: ArcSwap<Snapshot>,
    /// Pins and blocked users.
    pub overrides: Arc<Overrides>,
    /// Which backend each user is on.
    pub registry: Arc<Registry>,
    /// The logins on their way to a backend.
    pub logins: Arc<LoginsUnderWay>,
    /// Connections per address that are not logged in.
    pub addresses: Arc<AddressTable>,
    /// Logins under way.
    pub held_logins: Arc<Places>,
    /// Descriptors in use.
    pub descriptors: Arc<DescriptorCap>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// How much is logged, and how user names appear there.
    pub telemetry: Telemetry,
    /// The workers, once they run: for orders to sessions of others.
    pub workers: OnceLock<Arc<Workers>>,
    /// The count of what still runs.
    pub drain: Drain,
}
