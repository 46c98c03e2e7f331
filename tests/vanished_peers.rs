//! A peer that vanishes without FIN or RST takes nothing with it: keepalive and
//! `TCP_USER_TIMEOUT` end its session. The links are real ones of the kernel, taken down.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and real sockets run on the real clock"
)]

mod support;

use std::sync::LazyLock;

use support::backend::{Backend, Opening};
use support::client::Client;
use support::namespace::Namespace;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const SHORT: &str = "keepalive: 1s, user_timeout: 2s";

/// A shard of one backend; one session per user. The timers of a leg are the defaults, of
/// minutes, unless told.
fn configuration(places: &Places, backend: &Backend, client: &str, upstream: &str) -> String {
    format!(
        "{}limits: {{ sessions_per_user: 1, {client} }}\nupstream: {{ {upstream} }}\n\
         shards:\n  s: {{ kind: primary, backends: \
         [ {{ name: b, address: \"{}\", tls: none }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        places.head_without_limits(),
        backend.address()
    )
}

fn wait_until_free(proxy: &Pointsman) {
    proxy.wait_for_metrics("no session is left", |metrics| {
        metrics.sum("pointsman_client_sessions", &[]) == 0.0
            && metrics.sum("pointsman_backend_sessions", &[]) == 0.0
    });
}

/// The client's link goes down in the middle of its session. `send` leaves it something that
/// the proxy tries to deliver in vain.
fn a_client_vanishes(send: bool) {
    let namespace = Namespace::new();
    let backend = Ordinary::new().start();
    let port = support::free_port();
    let address = namespace.proxy_address(port);
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let text = configuration(places, &backend, SHORT, "connect_tries: 1");
        text.replace(&places.clear.to_string(), &address.to_string())
    });
    let mut client = namespace.inside(|| Client::clear(address));
    client.login("anna", "secret");
    if send {
        let tag = client.send_command("IDLE");
        client.expect("+ ");
        assert!(!tag.is_empty());
    }
    let mut other = Client::clear(address);
    let refused = other.try_login("anna", "secret");
    assert!(refused.status.contains("[LIMIT]"), "{}", refused.status);
    drop(other);

    namespace.take_link_down();
    if send {
        backend.push("* 3 EXISTS\r\n");
    }
    backend.wait_until_empty();
    wait_until_free(&proxy);
    let mut other = Client::clear(address);
    other.login("anna", "secret");
    other.logout();
    drop(client);
}

#[test]
fn b64_a_client_that_vanishes_while_all_is_silent_frees_its_session() {
    a_client_vanishes(false);
}

#[test]
fn b64_a_client_that_vanishes_with_bytes_on_the_way_frees_its_session() {
    a_client_vanishes(true);
}

/// A backend inside a namespace, whose end must come from inside too: that wakes its acceptor.
struct Inside<'n> {
    namespace: &'n Namespace,
    backend: Option<Backend>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let backend = self.backend.take();
        self.namespace.inside(move || drop(backend));
    }
}

#[test]
fn b64_a_backend_that_vanishes_ends_the_sessions_on_it() {
    let namespace = Namespace::new();
    let address = namespace.peer_address(support::free_port());
    let start = || {
        let ordinary = Ordinary::new();
        Backend::start_on(address, Opening::clear(), move |peer| ordinary.converse(peer))
    };
    let inside = Inside { namespace: &namespace, backend: Some(namespace.inside(start)) };
    let backend = inside.backend.as_ref().unwrap();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        configuration(places, backend, "failed_login_delay: 100ms", SHORT)
    });
    let mut idle = proxy.logged_in("anna", "secret");
    let mut asking = proxy.logged_in("bert", "secret");

    namespace.take_link_down();
    asking.send_command("NOOP");
    idle.expect_end_of_session();
    asking.expect_end_of_session();
    wait_until_free(&proxy);

    // What vanished comes back, and so do its users.
    namespace.bring_link_up();
    proxy.logged_in("anna", "secret").logout();
    proxy.logged_in("bert", "secret").logout();
}
