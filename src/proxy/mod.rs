//! The data plane: accepts connections, drives each session, relays.

mod accept;
mod attempt;
mod connection;
mod count;
mod dialogue;
mod forward;
mod front;
mod identity;
mod link;
mod logins;
pub mod orders;
mod reaper;
mod referral;
pub mod registry;
pub mod relay;
pub mod shared;

mod story;
mod worker;

pub use accept::{Acceptor, BoundListener};
pub use logins::LoginsUnderWay;
pub use worker::{WorkerMessage, Workers};
