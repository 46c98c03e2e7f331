//! Real mail programs work through the proxy on two Dovecots and one Cyrus, over implicit
//! TLS and STARTTLS. What each did is asked of the server itself, past the proxy.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod curl;
mod fetching;
mod imapfilter;
mod imaplib;
mod mbsync;
mod mutt;
mod offlineimap;
mod refusals;
mod relayed;
mod scripted;
mod service;
mod terminal;
