//! Backends: which there are, which to try first, how to reach one and log in there.
//! Knows nothing of clients.

pub mod backends;
pub mod capabilities;
pub mod capacity;
pub mod check;
pub mod choice;
mod conversation;
pub mod cuts;
pub mod dial;
pub mod health;
pub mod login;
pub mod warm;
