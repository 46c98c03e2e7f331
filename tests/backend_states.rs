//! What the operator lets a backend do: who goes there, who stays, and what metrics say.

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "test code: a broken set-up must panic")]

mod support;

use std::sync::LazyLock;

use support::backend::Backend;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Shard `s`, of that kind, with the backends `b0`, `b1`, ... in these states.
fn configuration(places: &Places, kind: &str, backends: &[(&Backend, &str)]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(n, (backend, state))| {
            let port = backend.port();
            format!("{{ name: b{n}, address: \"127.0.0.1:{port}\", tls: none, state: {state} }}")
        })
        .collect();
    format!(
        "{}shards:\n  s: {{ kind: {kind}, backends: [ {} ] }}\nrouting: {{ lookups: [ {{ shard: s \
         }} ] }}\n",
        places.head(),
        backends.join(", ")
    )
}

fn start(kind: &str, backends: &[(&Backend, &str)]) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| configuration(places, kind, backends))
}

/// Reloads with the backends in these states, which must be taken.
fn reload(proxy: &Pointsman, kind: &str, backends: &[(&Backend, &str)]) {
    proxy.rewrite(|places| configuration(places, kind, backends));
    proxy.reload();
    let taken = proxy.metrics().sum("pointsman_config_last_reload_success", &[]);
    assert_eq!(taken, 1.0, "{}", proxy.log());
}

/// The states that the metrics show for a backend.
fn shown(proxy: &Pointsman, backend: &str) -> Vec<&'static str> {
    let metrics = proxy.metrics();
    let is = |state: &&str| {
        metrics.sum("pointsman_backend_state", &[("backend", backend), ("state", state)]) == 1.0
    };
    ["up", "drain", "standby", "down"].into_iter().filter(is).collect()
}

#[test]
fn new_users_go_only_to_backends_that_are_up() {
    let [up, drains, down] = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
    let proxy = start("shared", &[(&up, "up"), (&drains, "drain"), (&down, "down")]);
    for n in 0..40 {
        proxy.logged_in(&format!("user{n}"), "secret").logout();
    }
    assert_eq!(up.users().len(), 40);
    assert_eq!((drains.connections(), down.connections()), (0, 0));
    assert_eq!(shown(&proxy, "b0"), ["up"]);
    assert_eq!(shown(&proxy, "b1"), ["drain"]);
    assert_eq!(shown(&proxy, "b2"), ["down"]);
}

#[test]
fn a_draining_backend_keeps_its_sessions_and_their_users_join_them_but_it_is_not_remembered() {
    let (first, second) = (Backend::ordinary(), Backend::ordinary());
    let proxy = start("primary", &[(&first, "up"), (&second, "up")]);
    let mut kept = proxy.logged_in("anna", "secret");
    proxy.logged_in("carl", "secret").logout();
    proxy.wait_for_metrics("carl's session ended", |now| {
        now.sum("pointsman_backend_sessions", &[]) == 1.0
    });

    reload(&proxy, "primary", &[(&first, "drain"), (&second, "up")]);
    kept.command_ok("NOOP");
    let joined = proxy.logged_in("anna", "secret");
    assert_eq!(first.users(), ["anna", "carl", "anna"]);
    proxy.logged_in("carl", "secret").logout();
    assert_eq!(second.users(), ["carl"], "carl had no session left there");

    joined.logout();
    kept.logout();
    proxy.wait_for_metrics("nobody is there", |now| {
        now.sum("pointsman_backend_sessions", &[]) == 0.0
    });
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(second.users(), ["carl", "anna"]);
}

#[test]
fn a_standby_is_taken_when_no_other_serves_and_left_when_one_does() {
    let mut main = Backend::ordinary();
    let standby = Backend::ordinary();
    let port = main.port();
    let states = |main: u16| {
        let standby = standby.port();
        format!(
            "shards:\n  s: {{ kind: shared, backends: [ {{ name: b0, address: \
             \"127.0.0.1:{standby}\", tls: none, state: standby, weight: 1000 }}, {{ name: b1, \
             address: \"127.0.0.1:{main}\", tls: none }} ] }}\nrouting: {{ lookups: [ {{ shard: s \
             }} ] }}\nupstream: {{ skip_failed: 1s }}\n"
        )
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &states(port));
    proxy.logged_in("anna", "secret").logout();
    assert_eq!((main.users().len(), standby.connections()), (1, 0));

    main.stop();
    // The first login finds the failure, and is led on within its own tries.
    proxy.logged_in("anna", "secret").logout();
    proxy.logged_in("carl", "secret").logout();
    assert_eq!(standby.users(), ["anna", "carl"]);

    let back = support::ordinary::Ordinary::new().start_at(port);
    support::wait_until("users go back", || {
        proxy.logged_in("anna", "secret").logout();
        (!back.users().is_empty()).then_some(())
    });
}

#[test]
fn a_standby_that_is_alone_is_tried_again_as_soon_as_it_is_back() {
    let mut standby = Backend::ordinary();
    let port = standby.port();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        configuration(places, "shared", &[(&standby, "standby")])
            + "upstream: { skip_failed: 60s }\n"
    });
    standby.stop();
    let refused = proxy.client().try_login("anna", "secret").status;
    assert!(refused.starts_with("NO [UNAVAILABLE]"), "{refused}");

    let back = support::ordinary::Ordinary::new().start_at(port);
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(back.users(), ["anna"]);
}

#[test]
fn nothing_is_dialled_on_a_disabled_backend_not_even_for_users_with_sessions() {
    let (first, second) = (Backend::ordinary(), Backend::ordinary());
    let proxy = start("primary", &[(&first, "up"), (&second, "up")]);
    let mut kept = proxy.logged_in("anna", "secret");
    reload(&proxy, "primary", &[(&first, "down"), (&second, "up")]);
    // Her session goes on, so that she may not be anywhere else.
    let mut other = proxy.client();
    let told = other.try_login("anna", "secret").status;
    assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
    assert_eq!((first.connections(), second.connections()), (1, 0));
    kept.command_ok("NOOP");
    kept.logout();
    proxy.wait_for_metrics("she is gone", |now| now.sum("pointsman_backend_sessions", &[]) == 0.0);
    other.login("anna", "secret");
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

#[test]
fn a_shard_whose_backends_all_drain_takes_nobody_new_and_says_so() {
    let only = Backend::ordinary();
    let proxy = start("shared", &[(&only, "drain")]);
    let told = proxy.client().try_login("anna", "secret").status;
    assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
    proxy.wait_for_log("reason=no_candidate");
    assert_eq!(only.connections(), 0);
}
