//! SIGHUP: a new configuration is taken whole or not at all, and no session feels it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::float_cmp,
    clippy::unchecked_time_subtraction,
    clippy::format_collect,
    clippy::format_push_string,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::time::Duration;

use support::backend::Backend;
use support::client::{Client, is_refused};
use support::free_port;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Shards by name, one backend each, named like its shard with a `1`; users from the file.
fn routed(places: &Places, shards: &[(&str, &Backend)]) -> String {
    let shards: String = shards
        .iter()
        .map(|(name, backend)| {
            format!(
                "  {name}: {{ kind: shared, backends: \
                 [ {{ name: {name}1, address: \"127.0.0.1:{}\", tls: none }} ] }}\n",
                backend.port()
            )
        })
        .collect();
    let users = places.file("users").display().to_string();
    format!("shards:\n{shards}routing: {{ lookups: [ {{ users: {{ file: \"{users}\" }} }} ] }}\n")
}

fn write_users(places: &Places, users: &[(&str, &str)]) {
    let lines: String = users.iter().map(|(user, shard)| format!("{user} {shard}\n")).collect();
    std::fs::write(places.file("users"), lines).unwrap();
}

fn start(shards: &[(&str, &Backend)], users: &[(&str, &str)]) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        write_users(places, users);
        places.head() + &routed(places, shards)
    })
}

/// Reloads a configuration that must be taken.
fn reload(proxy: &Pointsman, configuration: impl FnOnce(&Places) -> String) {
    let before = proxy.metrics().sum("pointsman_config_generation", &[]);
    proxy.rewrite(configuration);
    proxy.reload();
    let now = proxy.metrics();
    assert_eq!(now.sum("pointsman_config_generation", &[]), before + 1.0, "{}", proxy.log());
    assert_eq!(now.sum("pointsman_config_last_reload_success", &[]), 1.0);
}

/// A session in IDLE that must outlive what follows.
fn idling(proxy: &Pointsman, user: &str) -> Client {
    let mut client = proxy.logged_in(user, "secret");
    client.send("i IDLE\r\n");
    client.expect("+ ");
    client
}

fn still_works(client: &mut Client, backend: &Backend) {
    backend.push("* 7 EXISTS\r\n");
    client.expect("* 7 EXISTS");
    client.send("DONE\r\n");
    client.expect("i OK");
    client.command_ok("FETCH 1 BODY[]");
}

#[test]
fn users_shards_certificates_and_listeners_follow_the_file_and_sessions_stay() {
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    let proxy = start(&[("north", &north)], &[("anna", "north"), ("carl", "north")]);
    let places = proxy.places();
    let mut anna = idling(&proxy, "anna");
    let mut through_starttls = Client::clear(places.imap);
    through_starttls.starttls("localhost", &AUTHORITY.client_config());
    through_starttls.login("carl", "secret");
    let refused = proxy.client().try_login("bert", "secret").status;
    assert!(refused.starts_with("NO [AUTHENTICATIONFAILED]"), "{refused}");

    // The same certificate file, now of another authority; one more name; one listener
    // less, one more.
    let renewed = Authority::new();
    renewed.issue(&["localhost", "127.0.0.1"]).write(&places.folder, "pointsman");
    let (cert, key) = renewed.issue(&["second.test"]).write(&places.folder, "second");
    let added = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    assert!(is_refused(added));
    assert!(Client::connect_tls(places.imaps, "localhost", &renewed.client_config()).is_err());
    write_users(places, &[("anna", "north"), ("bert", "south"), ("carl", "south")]);
    reload(&proxy, |places| {
        let head = places.head();
        let removed = head.lines().find(|line| line.contains("name: imap,")).unwrap().to_owned();
        let head = head
            .replace(
                &removed,
                &format!("  - {{ name: added, address: \"{added}\", tls: implicit }}"),
            )
            .replace(
                "admin:",
                &format!(
                    "    - {{ cert: \"{}\", key: \"{}\" }}\nadmin:",
                    cert.display(),
                    key.display()
                ),
            );
        head + &routed(places, &[("north", &north), ("south", &south)])
    });

    assert!(is_refused(places.imap), "a listener that the file no longer has");
    for (address, name) in
        [(places.imaps, "localhost"), (places.imaps, "second.test"), (added, "localhost")]
    {
        let mut client = Client::connect_tls(address, name, &renewed.client_config()).unwrap();
        client.expect("* OK");
        client.login("bert", "secret");
    }
    assert!(Client::connect_tls(places.imaps, "localhost", &AUTHORITY.client_config()).is_err());
    assert_eq!(south.users(), ["bert"; 3]);
    let mut second = proxy.logged_in("anna", "secret");
    second.command_ok("NOOP");
    assert_eq!(north.users(), ["anna", "carl", "anna"]);

    still_works(&mut anna, &north);
    through_starttls.command_ok("FETCH 1 BODY[]");
    anna.logout();
    through_starttls.logout();
    north.assert_no_faults();
    south.assert_no_faults();
}

/// The place of a login is decided once; whoever comes after the reload goes the new way.
#[test]
fn b70_a_login_under_way_while_its_route_changes_lands_once_and_the_next_goes_the_new_way() {
    let slow = Ordinary::new().delay("AUTHENTICATE", Duration::from_millis(800)).start();
    let south = Backend::ordinary();
    let proxy = start(&[("north", &slow), ("south", &south)], &[("anna", "north")]);
    let mut client = proxy.client();
    let tag = client.send_command("LOGIN anna secret");
    slow.wait_for_received(0, "AUTHENTICATE");
    write_users(proxy.places(), &[("anna", "south")]);
    proxy.reload();
    assert!(client.read_response(&tag).is_ok());
    client.command_ok("NOOP");
    let mut second = proxy.logged_in("anna", "secret");
    assert_eq!((slow.users().len(), south.users().len()), (2, 0), "one place for the user");
    second.command_ok("NOOP");
    second.logout();
    client.logout();
    proxy.wait_for_metrics("no session is left", |now| {
        now.sum("pointsman_client_sessions", &[]) == 0.0
    });
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(south.users(), ["anna"]);
}

/// Until the user's last session has ended, there is one place for the user.
#[test]
fn b70_a_user_with_open_sessions_joins_them_after_the_route_changed() {
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    let shards = [("north", &north), ("south", &south)];
    let proxy = start(&shards, &[("anna", "north"), ("bert", "north")]);
    let mut first = idling(&proxy, "anna");
    proxy.logged_in("bert", "secret").logout();
    write_users(proxy.places(), &[("anna", "south"), ("bert", "south")]);
    proxy.reload();

    let mut second = proxy.logged_in("anna", "secret");
    assert_eq!((north.users().len(), south.users().len()), (3, 0));
    let pending = |count: f64| {
        proxy.wait_for_metrics("the gauge of pending routes", |now| {
            now.sum("pointsman_route_pending_sessions", &[]) == count
        });
    };
    pending(1.0);
    second.command_ok("NOOP");
    // Nobody else is held back, nor is one who was there a moment ago.
    proxy.logged_in("bert", "secret").logout();
    assert_eq!(south.users(), ["bert"]);

    still_works(&mut first, &north);
    first.logout();
    pending(1.0);
    proxy.logged_in("anna", "secret").logout();
    assert_eq!((north.users().len(), south.users().len()), (4, 1), "still joins the second");
    second.logout();
    pending(0.0);
    proxy.wait_for_metrics("no session is left", |now| {
        now.sum("pointsman_client_sessions", &[]) == 0.0
    });
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(south.users(), ["bert", "anna"], "the new route holds");
}

#[test]
fn a_session_outlives_the_removal_of_its_backend_and_its_user_still_joins_it() {
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    let proxy = start(&[("north", &north)], &[("anna", "north"), ("bert", "north")]);
    let mut anna = idling(&proxy, "anna");
    write_users(proxy.places(), &[("anna", "south"), ("bert", "south")]);
    // Twice, so that the backend is not even in the former configuration any more.
    for _ in 0..2 {
        reload(&proxy, |places| places.head() + &routed(places, &[("south", &south)]));
    }
    let mut second = proxy.logged_in("anna", "secret");
    second.command_ok("NOOP");
    assert_eq!((north.users().len(), south.users().len()), (2, 0));
    proxy.logged_in("bert", "secret").logout();
    assert_eq!(south.users(), ["bert"]);
    still_works(&mut anna, &north);
    anna.logout();
    second.logout();
    proxy.wait_for_metrics("no session is left", |now| {
        now.sum("pointsman_client_sessions", &[]) == 0.0
    });
    proxy.logged_in("anna", "secret").logout();
    assert_eq!(south.users(), ["bert", "anna"]);
    north.wait_until_empty();
}

/// A change that a bad file would bring if only a part of it were taken.
struct Lure<'a> {
    shards: [(&'a str, &'a Backend); 2],
    listener: SocketAddr,
}

impl Lure<'_> {
    /// A good file but for what the caller breaks: another listener, other routes.
    fn text(&self, places: &Places) -> String {
        let listener = format!(
            "listeners:\n  - {{ name: lure, address: \"{}\", tls: none, allow_clear_login: true }}\n",
            self.listener
        );
        places.head().replace("listeners:\n", &listener) + &routed(places, &self.shards)
    }
}

/// B-69: refused whole, with the place of the fault.
#[test]
#[allow(clippy::too_many_lines, reason = "one table of faults and the one loop over it")]
fn b69_a_refused_file_changes_nothing_and_is_told_with_its_place() {
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    let proxy = start(&[("north", &north)], &[("anna", "north"), ("bert", "north")]);
    let places = proxy.places();
    let mut anna = idling(&proxy, "anna");
    let occupied = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    let lure = Lure {
        shards: [("north", &north), ("south", &south)],
        listener: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
    };
    let (_, other_key) = AUTHORITY.issue(&["localhost"]).write(&places.folder, "other");
    let moved = [("anna", "south"), ("bert", "south")];
    let file = proxy.configuration_file().display().to_string();
    let users_file = places.file("users").display().to_string();
    let good = lure.text(places);
    let key = places.key.display().to_string();
    let certificate = places.certificate.display().to_string();
    let line_of = |text: &str, what: &str| {
        let place = text.lines().position(|line| line.contains(what)).unwrap() + 1;
        let column = text.lines().nth(place - 1).unwrap().find(what).unwrap() + 1;
        (place, column)
    };
    // What is written, what the users file says, what the log must name.
    let mut cases: Vec<(&str, String, String, String)> = Vec::new();
    let moved_text: String =
        moved.iter().map(|(user, shard)| format!("{user} {shard}\n")).collect();
    let mut case = |what: &'static str, text: String, place: String| {
        cases.push((what, text, moved_text.clone(), place));
    };

    let text = good.replace("routing: {", "routing: {{");
    case("syntax", text.clone(), format!("{file}:{}:", line_of(&text, "routing").0));
    let text = good.replace("admin:", "colour: red\nadmin:");
    let (line, column) = line_of(&text, "colour");
    case("unknown key", text, format!("{file}:{line}:{column}: "));
    let text = good.replace("kind: shared", "kind: round");
    let (line, column) = line_of(&text, "round");
    case("unknown word", text, format!("{file}:{line}:{column}: "));
    let text = good.replace(&certificate, "/nowhere/at/all.pem");
    let (line, _) = line_of(&text, "/nowhere");
    case("no certificate", text, format!("{file}:{line}:"));
    let text = good.replace(&key, &other_key.display().to_string());
    let (line, _) = line_of(&text, "other.key");
    case("another's key", text, format!("{file}:{line}:"));
    let occupied_address = occupied.local_addr().unwrap().to_string();
    let text = good.replace(&places.imap.to_string(), &occupied_address);
    case("port taken", text, format!("listener imap: {occupied_address} is taken"));
    let text = good.replace(&places.file("state").display().to_string(), "/tmp/elsewhere");
    case("another store", text, "store.path".to_owned());
    case("empty", String::new(), file.clone());
    cases.push((
        "unknown shard in the users file",
        good.clone(),
        "anna south\nbert west\n".to_owned(),
        format!("{users_file}:2:"),
    ));
    cases.push((
        "a user twice",
        good.clone(),
        "anna south\nbert south\nANNA north\n".to_owned(),
        format!("{users_file}:3:"),
    ));

    let certificate_before = expiry(&proxy);
    for (number, (what, text, users, place)) in cases.iter().enumerate() {
        std::fs::write(places.file("users"), users).unwrap();
        let before = proxy.metrics();
        let logged = proxy.log().len();
        proxy.rewrite(|_| text.clone());
        proxy.reload();
        let now = proxy.metrics();
        let refused = |metrics: &support::pointsman::Metrics| {
            metrics.sum("pointsman_config_reloads_total", &[("result", "refused")])
        };
        assert_eq!(refused(&now), refused(&before) + 1.0, "{what}");
        assert_eq!(now.sum("pointsman_config_generation", &[]), 1.0, "{what}");
        assert_eq!(now.sum("pointsman_config_last_reload_success", &[]), 0.0, "{what}");
        assert_eq!(now.count("pointsman_backend_up", &[]), 1, "{what}: no other backend is known");
        let log = support::wait_until(what, || {
            let log = proxy.log();
            log[logged..].contains("configuration refused").then(|| log[logged..].to_owned())
        });
        assert!(log.contains(place.as_str()), "{what}: {place:?} in {log}");
        assert!(is_refused(lure.listener), "{what}: no listener was added");
        proxy.logged_in("bert", "secret").logout();
        let wanted = (2 + number, 0);
        assert_eq!((north.users().len(), south.users().len()), wanted, "{what}: routes as before");
        Client::tls(places.imaps, &AUTHORITY.client_config()).logout();
        Client::clear(places.imap).logout();
    }
    assert_eq!(expiry(&proxy), certificate_before);
    still_works(&mut anna, &north);

    // What was only refused for its faults is taken without them.
    write_users(places, &moved);
    reload(&proxy, |_| good);
    proxy.logged_in("bert", "secret").logout();
    Client::clear(lure.listener).logout();
    assert_eq!(south.users(), ["bert"]);
    anna.logout();
}

fn expiry(proxy: &Pointsman) -> f64 {
    proxy.metrics().sum("pointsman_certificate_expiry_timestamp_seconds", &[])
}

/// An address is free again when its removal has been reported.
#[test]
fn a_listener_can_be_taken_out_and_put_back_at_once_many_times() {
    let north = Backend::ordinary();
    let proxy = start(&[("north", &north)], &[("anna", "north")]);
    let shards = [("north", &north)];
    for _ in 0..40 {
        reload(&proxy, |places| {
            let head = places.head();
            let clear = head.lines().find(|line| line.contains("name: imap,")).unwrap().to_owned();
            head.replace(&format!("{clear}\n"), "") + &routed(places, &shards)
        });
        assert!(is_refused(proxy.places().imap));
        reload(&proxy, |places| places.head() + &routed(places, &shards));
        Client::clear(proxy.places().imap).logout();
    }
}
