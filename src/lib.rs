//! Pointsman: an IMAP proxy and load balancer for mail clusters.
//!
//! The crate is a library with a thin binary, so that tests and benchmarks reach
//! every part. `ARCHITECTURE.md` shows how the parts fit; `tests/layers.rs` keeps
//! its table of who may name whom true.

pub mod admin;
pub mod admission;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod drain;
pub mod metrics;
pub mod names;
pub mod net;
pub mod protocol;
pub mod proxy;
pub mod routing;
pub mod sasl;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod upstream;
