//! The admin HTTP listener: metrics for Prometheus, probes for supervisors and balancers.
//! And, on a Unix socket of its own, the API for all that changes the proxy.

mod api;
pub mod client;
mod readiness;
mod router;
mod server;
mod socket;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::readiness::{Readiness, Unready};
pub use self::server::{serve, serve_api};
pub use self::socket::{AdminSocket, SocketError};
use crate::metrics::Metrics;

/// What the admin listener shows. Clones share it.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// What `/metrics` prints.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` answers.
    pub readiness: Arc<Readiness>,
    /// Names of this host that a `Host` header may carry besides IP addresses and
    /// `localhost`, compared without case.
    pub host_names: Arc<[String]>,
}
