//! From a user name to a shard: canonical names, hashing, the slot table, lookups over the
//! network and the immutable routing table that every login asks.

pub mod hashing;
mod log2_table;
pub mod lookup;
pub mod maps;
pub mod name;
pub mod overrides;
pub mod query;
pub mod slots;
mod sources;
pub mod table;

pub use slots::{SlotError, SlotTable};
pub use sources::{LineFault, LineProblem, UsersError};
pub use table::{Former, LookupError, Route, RoutingError, Step, Surroundings, Table};
