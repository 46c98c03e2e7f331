//! What operators are told: the answers of the admin API, read again by the command line.

use serde::{Deserialize, Serialize};

/// The proxy as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// `running` or `draining`.
    pub phase: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Number of the configuration in force.
    pub generation: u64,
    /// The configuration file.
    pub configuration: String,
    /// Client connections, before and after login.
    pub connections: usize,
    /// Sessions on backends.
    pub sessions: u64,
    /// Users with sessions.
    pub users: usize,
    /// Users without sessions whose backend is remembered.
    pub remembered: usize,
    /// Users pinned to a shard.
    pub pins: usize,
    /// Blocked users.
    pub blocked: usize,
    /// Revision of the store that is in force.
    pub store_revision: u64,
    /// Where clients connect.
    pub listeners: Vec<ListenerReport>,
    /// The shards in file order.
    pub shards: Vec<ShardReport>,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerReport {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Its name.
    pub name: String,
    /// Its backends.
    pub backends: usize,
    /// Those that take new users now.
    pub usable: usize,
    /// Sessions on all of them.
    pub sessions: u64,
}

/// All backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backends {
    /// By shard, in file order; then those that left the configuration and are still used.
    pub backends: Vec<BackendReport>,
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendReport {
    /// Its name.
    pub name: String,
    /// Its shard.
    pub shard: String,
    /// Host and port, as configured.
    pub address: String,
    /// `up`, `drain`, `standby` or `down`.
    pub state: String,
    /// Who said so: `configuration` or `run-time`.
    pub state_from: String,
    /// Whether it is judged to serve, and its last connect did not fail a moment ago.
    pub reachable: bool,
    /// Whether it stands in the configuration in force.
    pub configured: bool,
    /// Sessions that it may have.
    pub sessions: u64,
    /// Logins on their way there.
    pub connecting: u64,
    /// Sessions whose end it was not seen to notice; their users are bound to it.
    pub unseen_ends: u64,
}

/// What became of a backend's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// The backend.
    pub backend: String,
    /// Its shard.
    pub shard: String,
    /// Its state from now on.
    pub state: String,
    /// Whether that is another than before.
    pub changed: bool,
    /// Sessions on it.
    pub sessions: u64,
    /// Over how many seconds these get their BYE; absent: they stay.
    pub end_within_seconds: Option<u64>,
    /// Whether the backend is held to be dead: its sessions are over, its users free.
    pub fenced: bool,
}

/// A page of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// The sessions.
    pub sessions: Vec<SessionReport>,
    /// What to ask for to get the next page; absent behind the last.
    pub next: Option<String>,
}

/// A session that is logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// Its id, as in the log.
    pub session: String,
    /// The user's canonical name.
    pub user: String,
    /// The shard that the user is placed on.
    pub shard: String,
    /// The backend.
    pub backend: String,
    /// The listener where it came in.
    pub listener: String,
    /// The client's address and port.
    pub client: String,
    /// Seconds since the client connected.
    pub seconds: u64,
}

/// What became of a kick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KickReport {
    /// Users whose sessions were told to end.
    pub users: usize,
    /// Sessions that were told to end.
    pub sessions: usize,
    /// Whether the user is blocked from now on.
    pub blocked: bool,
}

/// What became of a pin or a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserReport {
    /// The user's canonical name.
    pub user: String,
    /// The shard that the user is pinned to from now on.
    pub pinned: Option<String>,
    /// Whether the user is blocked from now on.
    pub blocked: bool,
    /// Whether that is another than before.
    pub changed: bool,
    /// The user's open sessions, which stay where they are.
    pub sessions: usize,
}

/// A page of pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// The pins, by user.
    pub pins: Vec<PinReport>,
    /// What to ask for to get the next page; absent behind the last.
    pub next: Option<String>,
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    /// The user's canonical name.
    pub user: String,
    /// The shard.
    pub shard: String,
    /// Whether the shard is configured; if not, the user cannot log in.
    pub configured: bool,
}

/// A page of blocked users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Their canonical names.
    pub users: Vec<String>,
    /// What to ask for to get the next page; absent behind the last.
    pub next: Option<String>,
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Number of the configuration in force.
    pub generation: u64,
}

/// Where a user's next login would go, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteReport {
    /// The user's canonical name.
    pub user: String,
    /// Whether the user is blocked: then nothing else matters.
    pub blocked: bool,
    /// The lookups that were asked, in their order; the last one decided.
    pub lookups: Vec<LookupReport>,
    /// The lookups' answer.
    pub route: Option<RouteAnswer>,
    /// The backends of the shard.
    pub candidates: Vec<CandidateReport>,
    /// Where the user is now, with sessions or remembered.
    pub present: Option<PresentReport>,
    /// Whether sessions keep the user on another shard than the route's.
    pub route_pending: bool,
    /// The backend that the login would be sent to.
    pub backend: Option<String>,
    /// Why there (`joins-sessions`, `remembered`, `first-candidate`), or why nowhere: the
    /// `reason` that the log of a failed login would have.
    pub reason: String,
}

/// A lookup that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupReport {
    /// Its kind.
    pub lookup: String,
    /// Its place in `routing.lookups`, from 1; absent for the pins, which come first.
    pub place: Option<usize>,
    /// What it said, as in the metrics: `found`, `cached_found`, `miss` and so on.
    pub result: String,
    /// How long that took.
    pub microseconds: u64,
}

/// What the lookups answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// The lookup that decided.
    pub lookup: String,
    /// The hash slot, where slots decided.
    pub slot: Option<u16>,
    /// The shard.
    pub shard: String,
    /// The only backend for new sessions, where the lookup named one.
    pub only_backend: Option<String>,
    /// The identity for sessions, limits, kick and logs.
    pub identity: String,
    /// What the choice among the backends goes by.
    pub routing_key: String,
    /// Generation of the configuration that answered.
    pub generation: u64,
}

/// A backend of the route's shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// Its name.
    pub backend: String,
    /// Its turn for this user, from 1; absent: no new session of the user goes there.
    pub turn: Option<usize>,
    /// `up`, `drain`, `standby` or `down`.
    pub state: String,
    /// As in [`BackendReport::reachable`].
    pub reachable: bool,
    /// Sessions that it may have.
    pub sessions: u64,
}

/// Where a user is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresentReport {
    /// The shard.
    pub shard: String,
    /// The backend.
    pub backend: String,
    /// Logins on their way there.
    pub connecting: u32,
    /// Sessions that the backend may have.
    pub sessions: u32,
    /// Sessions whose end the backend was not seen to notice.
    pub unseen_ends: u32,
    /// For how long still the backend is remembered without sessions.
    pub remembered_seconds: Option<u64>,
}

/// Why a call was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A word of a closed set.
    pub reason: String,
    /// What an operator should know.
    pub message: String,
}
