//! One session's states as plain data: no IO, no clock.

pub mod answer;
pub mod forwarded;
pub mod prelogin;
pub mod tracker;
