//! A backend that is slow to notice the end of a session binds its user only until it has.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and real servers run on the real clock"
)]

mod support;

use std::io::Result;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use support::backend::{Backend, Conversation, Opening};
use support::ordinary::Ordinary;
use support::pointsman::Pointsman;
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const HELD: u8 = 0;
const CLOSED: u8 = 1;
const RESET: u8 = 2;

/// What a backend does with its first login.
type TakeLogin = fn(&mut Conversation) -> Result<()>;

/// Takes the first login and ends that connection only when told; serves nobody else.
fn reluctant(opening: Opening, take_login: TakeLogin, order: &Arc<AtomicU8>) -> Backend {
    let order = Arc::clone(order);
    Backend::start(opening, move |peer| {
        if peer.number() > 0 {
            return Ok(());
        }
        take_login(peer)?;
        while order.load(Ordering::SeqCst) == HELD {
            peer.pause(Duration::from_millis(5));
        }
        if order.load(Ordering::SeqCst) == RESET { peer.reset() } else { Ok(()) }
    })
}

fn take_login(peer: &mut Conversation) -> Result<()> {
    peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
    peer.answer("AUTHENTICATE PLAIN", "{tag} OK [CAPABILITY IMAP4rev1] in\r\n")
}

/// The credentials are read, and no word follows.
fn leave_login_open(peer: &mut Conversation) -> Result<()> {
    peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
    peer.line().map(drop)
}

/// Anna's session on the first backend of a primary shard ends; the backend does not close.
/// She may go nowhere else. Then it closes at last, and she may.
fn an_end_that_comes_late(opening: Opening, tls: &str, how: u8) {
    let begin = |proxy: &Pointsman| drop(proxy.logged_in("anna", "secret"));
    free_by_a_late_end(opening, tls, how, (take_login, begin));
}

/// The same where the login never came to its end: the backend may have taken it.
fn a_login_that_ends_late(opening: Opening, tls: &str, how: u8) {
    let begin = |proxy: &Pointsman| {
        let refused = proxy.client().try_login("anna", "secret");
        assert!(refused.status.starts_with("NO [UNAVAILABLE]"), "{}", refused.status);
    };
    free_by_a_late_end(opening, tls, how, (leave_login_open, begin));
}

fn free_by_a_late_end(
    opening: Opening,
    tls: &str,
    how: u8,
    (take_login, begin): (TakeLogin, impl Fn(&Pointsman)),
) {
    let order = Arc::new(AtomicU8::new(HELD));
    let first = reluctant(opening, take_login, &order);
    let second = Ordinary::new().start();
    let configuration = |places: &support::pointsman::Places| {
        format!(
            "{}upstream: {{ connect_tries: 2, connect_timeout: 1s, login_timeout: 2s }}\nshards:\n  s:\n    kind: primary\n    backends:\n      \
             - {{ name: one, address: \"localhost:{}\", {} }}\n      \
             - {{ name: two, address: \"127.0.0.1:{}\", tls: none }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head(),
            first.port(),
            tls.replace("CA", &places.ca.display().to_string()),
            second.port()
        )
    };
    let proxy = Pointsman::start(&AUTHORITY, configuration);
    begin(&proxy);
    proxy.wait_for_log("its end is waited for");
    // A reload changes nothing about it.
    proxy.rewrite(configuration);
    proxy.reload();
    let refused = proxy.client().try_login("anna", "secret");
    assert!(refused.status.starts_with("NO [UNAVAILABLE]"), "{}", refused.status);
    assert_eq!(second.connections(), 0, "anna may have a session on the first still");

    order.store(how, Ordering::SeqCst);
    proxy.wait_for_log("late end was seen");
    let mut client = proxy.client();
    client.login("anna", "secret");
    assert_eq!(second.users(), ["anna"]);
    client.logout();
}

#[test]
fn an_end_that_comes_late_frees_the_user() {
    an_end_that_comes_late(Opening::clear(), "tls: none", CLOSED);
}

#[test]
fn a_reset_that_comes_late_frees_the_user() {
    an_end_that_comes_late(Opening::clear(), "tls: none", RESET);
}

#[test]
fn a_late_end_under_tls_frees_the_user() {
    let tls = AUTHORITY.issue(&["localhost"]).server_config();
    an_end_that_comes_late(Opening::implicit(tls), "tls: implicit, ca: \"CA\"", CLOSED);
}

#[test]
fn a_login_without_an_answer_binds_the_user_until_its_connection_ends() {
    a_login_that_ends_late(Opening::clear(), "tls: none", CLOSED);
}

#[test]
fn a_login_without_an_answer_binds_the_user_until_its_connection_is_reset() {
    a_login_that_ends_late(Opening::clear(), "tls: none", RESET);
}

#[test]
fn a_login_without_an_answer_under_tls_binds_the_user_until_its_connection_ends() {
    let tls = AUTHORITY.issue(&["localhost"]).server_config();
    a_login_that_ends_late(Opening::implicit(tls), "tls: implicit, ca: \"CA\"", CLOSED);
}
