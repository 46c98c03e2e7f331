//! What the fuzz targets check. Each module has one `run`, which takes any bytes and
//! panics where a promise of the product does not hold; `targets/` has a thin program for
//! each. `scripts/fuzz` builds and runs them on the stable compiler.
//!
//! The models here are written apart from the product and are as plain as they can be:
//! they are slow, hold whole conversations in memory and share no code with what they judge.

#[path = "../../tests/oracle/mod.rs"]
mod oracle;

pub mod backend_login;
pub mod capability;
pub mod config;
pub mod conversation;
pub mod cuts;
pub mod framer;
pub mod grammar;
pub mod prelogin;
mod prelogin_model;
pub mod proxy_header;
pub mod sasl;
pub mod tracker;
pub mod users;
