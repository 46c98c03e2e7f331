//! Programs that cannot be run here, played by what is known of them: what each sends, byte
//! for byte and in its order, and what it must get. Each conversation is held twice, in the
//! client's own writes and with every byte in a packet of its own.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod desktops;
mod libraries;
mod outlook;
mod phones;
mod site;
mod webmail;
