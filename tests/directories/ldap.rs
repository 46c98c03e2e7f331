//! `ldap` against `OpenLDAP`'s slapd.

use std::net::TcpListener;

use super::support::slapd::{ADMIN, PASSWORD, Slapd};
use super::support::valve::{Flow, Valve};
use super::support::{Stopwatch, free_port, temporary_folder};
use super::{AUTHORITY, Lookup, NASTY, flow};

const ATTRIBUTES: &str = "attributes: { shard: mailShard, host: host, port: mailPort, \
                          nologin: mailStatus }";

/// `urls` is a list in YAML; names are looked up as the administrator.
fn lookup(urls: &str, more: &str) -> Lookup {
    let keys = [
        ("bind_dn", ADMIN),
        ("bind_password", PASSWORD),
        ("base", "dc=example,dc=org"),
        ("filter", "(&(objectClass=mailUser)(uid=%u))"),
    ];
    Lookup::new(&format!("ldap: {{ urls: {urls}, {}{ATTRIBUTES}{more} }}", flow(&keys)))
}

fn slapd() -> Slapd {
    let long = "x".repeat(5000);
    let mut users: Vec<(&str, &[(&str, &str)])> = vec![
        ("bob", &[("mailShard", "north")]),
        ("eve", &[("host", "10.0.2.1"), ("mailPort", "143")]),
        ("shut", &[("mailShard", "north"), ("mailStatus", "y")]),
        ("null", &[]),
        ("odd", &[("mailShard", "nowhere")]),
        ("two", &[("mailShard", "north")]),
        ("two", &[("mailShard", "south")]),
        ("both", &[("mailShard", "north"), ("mailShard", "south")]),
        ("port", &[("host", "10.0.2.1"), ("mailPort", "x")]),
    ];
    let long = [("mailShard", long.as_str())];
    users.push(("long", &long));
    Slapd::start(&AUTHORITY, &users)
}

#[test]
fn an_entry_says_where_the_user_is() {
    let slapd = slapd();
    let lookup = lookup(&format!("[ \"ldap://{}\" ]", slapd.address()), "");
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()));
    assert_eq!(lookup.ask("eve"), Ok("south".to_owned()));
    let refused = [
        ("nobody", "no_route"),
        ("shut", "lookup_refused"),
        ("null", "lookup_broken_row"),
        ("odd", "lookup_unknown_shard"),
        ("two", "lookup_broken_row"),
        ("both", "lookup_broken_row"),
        ("port", "lookup_broken_row"),
        ("long", "lookup_too_large"),
    ];
    for (user, reason) in refused {
        assert_eq!(lookup.ask(user), Err(reason), "{user}");
    }
    for name in NASTY {
        // LDAP strips and squeezes blanks when it compares, so none of these is that user.
        assert_eq!(lookup.ask(name), Err("no_route"), "{name:?}");
    }
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()), "the connection is as good as new");
}

#[test]
fn names_with_signs_of_filters_are_found_under_themselves() {
    let signs = ["*", ")(", "bob)(mail=*", "*)(uid=*))(|(uid=*", "\\2a", "'", "%"];
    let users: Vec<(&str, &[(&str, &str)])> =
        signs.iter().map(|name| (*name, &[("mailShard", "south")][..])).collect();
    let slapd = Slapd::start(&AUTHORITY, &users);
    let lookup = lookup(&format!("[ \"ldap://{}\" ]", slapd.address()), "");
    for name in signs {
        assert_eq!(lookup.ask(name), Ok("south".to_owned()), "{name}");
    }
}

#[test]
fn tls_and_the_bind_are_used_and_their_faults_told() {
    let slapd = slapd();
    let folder = temporary_folder("ca");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, AUTHORITY.pem()).unwrap();
    let ca = format!(", ca: \"{}\"", ca.display());
    let clear = slapd.address();
    let port = clear.port();
    let ask = |urls: String, more: &str| lookup(&format!("[ {urls} ]"), more).ask("bob");
    let starttls = format!("{ca}, starttls: true");
    let by_name = format!("\"ldap://localhost:{port}\"");
    assert_eq!(ask(by_name.clone(), &starttls), Ok("north".to_owned()));
    assert_eq!(ask(format!("\"{}\"", slapd.tls_url()), &ca), Ok("north".to_owned()));
    let other_name = format!("\"ldap://{clear}\"");
    assert_eq!(ask(other_name, &starttls), Err("lookup_connect"), "another name");
    assert_eq!(ask(by_name, ", starttls: true"), Err("lookup_connect"), "unknown authority");
    let keys = [("bind_dn", ADMIN), ("bind_password", "wrong"), ("filter", "(uid=%u)")];
    let urls = format!("urls: [ \"ldap://{clear}\" ], ");
    let wrong = Lookup::new(&format!("ldap: {{ {urls}{}{ATTRIBUTES} }}", flow(&keys)));
    assert_eq!(wrong.ask("bob"), Err("lookup_connect"));
    let anonymous = [("base", "dc=example,dc=org"), ("filter", "(uid=%u)")];
    let anonymous = Lookup::new(&format!("ldap: {{ {urls}{}{ATTRIBUTES} }}", flow(&anonymous)));
    assert_eq!(anonymous.ask("bob"), Err("lookup_protocol"), "nobody may read the tree");
    let no_base = [("bind_dn", ADMIN), ("bind_password", PASSWORD), ("filter", "(uid=%u)")];
    let no_base = flow(&[&no_base[..], &[("base", "dc=nowhere")]].concat());
    let no_base = Lookup::new(&format!("ldap: {{ {urls}{no_base}{ATTRIBUTES} }}"));
    assert_eq!(no_base.ask("bob"), Err("lookup_protocol"), "no outage looks like no user");
    let broken = [("filter", "(uid=%u"), ("base", "dc=example,dc=org")];
    let broken = Lookup::new(&format!("ldap: {{ {urls}{}{ATTRIBUTES} }}", flow(&broken)));
    assert_eq!(broken.ask("bob"), Err("lookup_protocol"));
}

#[test]
fn the_next_server_is_asked_where_one_is_dead_or_hangs() {
    let slapd = slapd();
    let dead = free_port();
    let urls = format!("[ \"ldap://127.0.0.1:{dead}\", \"ldap://{}\" ]", slapd.address());
    assert_eq!(lookup(&urls, "").ask("bob"), Ok("north".to_owned()));

    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let hung_url = format!("ldap://{}", hung.local_addr().unwrap());
    let urls = format!("[ \"{hung_url}\", \"ldap://{}\" ]", slapd.address());
    let lookup_past_hung = lookup(&urls, ", connect_timeout: 2s");
    assert_eq!(lookup_past_hung.ask("bob"), Ok("north".to_owned()));
    let watch = Stopwatch::start();
    assert_eq!(lookup_past_hung.ask("eve"), Ok("south".to_owned()));
    assert!(watch.elapsed().as_millis() < 1_500, "the one that hung is not tried first again");

    // One that is cut while connections to it wait, and one that comes after it.
    let valve = Valve::before(slapd.address());
    let urls = format!("[ \"ldap://{}\", \"ldap://{}\" ]", valve.address(), slapd.address());
    let lookup = lookup(&urls, "");
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()));
    valve.turn(Flow::Cut);
    assert_eq!(lookup.ask("eve"), Ok("south".to_owned()));
}
