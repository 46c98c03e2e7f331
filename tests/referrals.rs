//! A backend's referral is followed by the proxy itself, to configured backends only, and
//! never reaches the client.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::fmt::Write;
use std::sync::LazyLock;

use support::backend::Backend;
use support::free_port;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A backend that answers every login with a referral to that port.
fn referring(url: String) -> Ordinary {
    Ordinary::new().verdict(move |_, _| format!("NO [REFERRAL {url}] Go there."))
}

fn url(port: u16) -> String {
    format!("imap://127.0.0.1:{port}/")
}

/// Shard `s` of these backends, `b0`, `b1` and so on, tried in this order.
fn in_order(places: &Places, backends: &[&Backend]) -> String {
    let mut list = String::new();
    for (number, backend) in backends.iter().enumerate() {
        let address = backend.address();
        write!(list, "{{ name: b{number}, address: \"{address}\", tls: none }}, ").unwrap();
    }
    format!(
        "{}shards: {{ s: {{ kind: primary, backends: [ {list} ] }} }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\n",
        places.head()
    )
}

fn start(backends: &[&Backend]) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| in_order(places, backends))
}

fn assert_lost(proxy: &Pointsman, why: &str) {
    let status = proxy.client().try_login("bob", "secret").status;
    assert!(status.starts_with("NO [UNAVAILABLE] "), "{status}");
    assert!(!status.to_ascii_lowercase().contains("imap://"), "{status}");
    proxy.wait_for_log(why);
    let now = proxy.metrics();
    let failures = now.sum("pointsman_backend_failures_total", &[("reason", "referral")]);
    assert!(failures >= 1.0, "{failures}");
}

#[test]
fn b55_a_referral_is_followed_to_a_configured_backend_and_the_client_hears_nothing_of_it() {
    let last = Backend::ordinary();
    let middle = referring(format!("imap://BOB;AUTH=*@127.0.0.1:{}", last.port())).start();
    let first = referring(url(middle.port())).start();
    let proxy = start(&[&first, &middle, &last]);
    let mut client = proxy.client();
    let response = client.login("Bob", "secret");
    assert_eq!(response.text() + &response.status, response.status, "nothing untagged");
    assert!(!response.status.contains("REFERRAL"));
    client.command_ok("NOOP");
    // Once to each, as typed, and the user's next session joins the first one.
    assert_eq!([first.users(), middle.users(), last.users()], [["Bob"], ["Bob"], ["Bob"]]);
    proxy.logged_in("bob", "secret");
    assert_eq!((first.users().len(), last.users().len()), (1, 2));
    // Each referral costs one of the proxies that a login may pass.
    for (backend, ttl) in [(&first, "4"), (&middle, "3"), (&last, "2")] {
        backend.wait_for_received(0, &format!("\"x-proxy-ttl\" \"{ttl}\""));
    }
}

#[test]
fn b55_a_referral_to_the_outside_is_not_followed() {
    let outside = Backend::ordinary();
    let first = referring(url(outside.port())).start();
    assert_lost(&start(&[&first]), "no configured backend");
    assert_eq!(outside.connections(), 0);
    let odd = referring("imaps://elsewhere/INBOX".to_owned()).start();
    assert_lost(&start(&[&odd]), "names no server");
}

#[test]
fn b55_referrals_that_lead_back_or_on_and_on_end() {
    let [a, b, c, d] = [free_port(), free_port(), free_port(), free_port()];
    let to_self = referring(url(a)).start_at(a);
    assert_lost(&start(&[&to_self]), "it leads back");
    assert_eq!(to_self.users().len(), 1);
    drop(to_self);

    let [first, second] = [referring(url(b)).start_at(a), referring(url(a)).start_at(b)];
    assert_lost(&start(&[&first, &second]), "it leads back");
    assert_eq!((first.users().len(), second.users().len()), (1, 1));
    drop((first, second));

    let chain = [
        referring(url(b)).start_at(a),
        referring(url(c)).start_at(b),
        referring(url(d)).start_at(c),
        Ordinary::new().start_at(d),
    ];
    let [one, two, three, four] = &chain;
    assert_lost(&start(&[one, two, three, four]), "too many referrals");
    assert_eq!(chain.each_ref().map(|backend| backend.users().len()), [1, 1, 1, 0]);
}

#[test]
fn b55_a_referral_sends_nobody_as_another_user() {
    let second = Backend::ordinary();
    let first = referring(format!("imap://eve@127.0.0.1:{}/", second.port())).start();
    assert_lost(&start(&[&first, &second]), "names another user");
    assert_eq!(second.connections(), 0);
}

/// One user, one backend: the session that is there stays the only place.
#[test]
fn b55_a_referral_does_not_put_a_user_on_two_backends() {
    let second = Backend::ordinary();
    let away = url(second.port());
    let first = Ordinary::new()
        .verdict(move |_, password| match password {
            b"secret" => "OK Logged in.".to_owned(),
            _ => format!("NO [REFERRAL {away}] Go there."),
        })
        .start();
    let proxy = start(&[&first, &second]);
    let mut there = proxy.logged_in("bob", "secret");
    let status = proxy.client().try_login("bob", "away").status;
    assert!(status.starts_with("NO [UNAVAILABLE] "), "{status}");
    proxy.wait_for_log("the user has sessions elsewhere");
    assert_eq!(second.connections(), 0);
    there.command_ok("NOOP");
    there.logout();
    first.wait_until_empty();
    // Without a session the user is free to go.
    support::wait_until("the user is free", || {
        proxy.client().try_login("bob", "away").is_ok().then_some(())
    });
    assert!(second.users().iter().all(|user| user == "bob"));
}

#[test]
fn b55_a_referral_brings_nobody_new_to_a_backend_that_drains() {
    let second = Backend::ordinary();
    let first = referring(url(second.port())).start();
    let proxy = start(&[&first, &second]);
    let kept = proxy.logged_in("bob", "secret");
    proxy.operate_ok(&["drain", "b1"]);
    // Whoever has sessions there joins them, and is not sent.
    proxy.logged_in("bob", "secret").logout();
    assert_eq!((first.users().len(), second.users().len()), (1, 2));
    kept.logout();
    proxy.wait_for_metrics("his sessions have ended", |now| {
        now.sum("pointsman_backend_sessions", &[]) < 0.5
    });
    assert_lost(&proxy, "the server takes nobody new");
    assert_eq!((first.users().len(), second.users().len()), (2, 2));
    proxy.operate_ok(&["resume", "b1"]);
    proxy.logged_in("bob", "secret").logout();
}

/// Shards `north`, whose backend refers everybody to `south`, and `west`; all belong to `north`.
fn start_over_shards(on_route_change: &str, [north, south, west]: [&Backend; 3]) -> Pointsman {
    let shard = |name: &str, backend: &Backend| {
        let address = backend.address();
        format!(
            "  {name}: {{ kind: primary, backends: [ {{ name: {name}1, address: \"{address}\", \
             tls: none }} ] }}\n"
        )
    };
    let shards = shard("north", north) + &shard("south", south) + &shard("west", west);
    Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}shards:\n{shards}routing: {{ on_route_change: {on_route_change}, lookups: [ {{ \
             shard: north }} ] }}\n",
            places.head()
        )
    })
}

/// Else his connections would end each other again and again.
#[test]
fn a_user_who_was_referred_to_another_shard_is_where_his_route_leads() {
    for on_route_change in ["end", "join"] {
        let (south, west) = (Backend::ordinary(), Backend::ordinary());
        let north = referring(url(south.port())).start();
        let proxy = start_over_shards(on_route_change, [&north, &south, &west]);
        let mut sessions: Vec<_> = (0..3).map(|_| proxy.logged_in("kim", "secret")).collect();
        for session in &mut sessions {
            session.command_ok("NOOP");
        }
        assert_eq!((north.users().len(), south.users().len()), (1, 3));
        assert!(proxy.metrics().sum("pointsman_route_pending_sessions", &[]) < 0.5);
        assert_eq!(proxy.operate_json(&["route", "kim"])["route_pending"], false);

        proxy.operate_ok(&["pin", "kim", "west"]);
        assert_eq!(proxy.operate_json(&["route", "kim"])["route_pending"], true);
        if on_route_change == "join" {
            proxy.logged_in("kim", "secret").command_ok("NOOP");
            assert_eq!((south.users().len(), west.users().len()), (4, 0));
            continue;
        }
        let mut moved = proxy.logged_in("kim", "secret");
        for session in &mut sessions {
            session.expect_eventually("* BYE [UNAVAILABLE]");
        }
        moved.command_ok("NOOP");
        assert_eq!((south.users().len(), west.users().len()), (3, 1));
    }
}
