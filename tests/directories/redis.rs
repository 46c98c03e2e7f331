//! `redis` against Debian's Redis.

use super::support::redis::Redis;
use super::{AUTHORITY, Lookup, NASTY, flow};

fn lookup(url: &str, more: &str) -> Lookup {
    Lookup::new(&format!("redis: {{ {}{more} }}", flow(&[("url", url), ("key", "mail:%u")])))
}

#[test]
fn a_string_is_the_shard() {
    let redis = Redis::start(&AUTHORITY);
    redis.set("mail:bob", b"north");
    redis.set("mail:eve", b"nowhere");
    redis.set("mail:empty", b"");
    redis.set("mail:bytes", b"nor\xffth");
    redis.set("mail:long", &[b'n'; 5000]);
    redis.set_hash("mail:hash", &[("shard", "north")]);
    let lookup = lookup(&redis.url(), "");
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()));
    assert_eq!(lookup.ask("nobody"), Err("no_route"));
    assert_eq!(lookup.ask("eve"), Err("lookup_unknown_shard"));
    assert_eq!(lookup.ask("empty"), Err("lookup_unknown_shard"));
    assert_eq!(lookup.ask("bytes"), Err("lookup_broken_row"));
    assert_eq!(lookup.ask("long"), Err("lookup_too_large"));
    assert_eq!(lookup.ask("hash"), Err("lookup_broken_row"));
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()), "the connection is as good as new");
}

#[test]
fn a_hash_has_the_fields_of_a_row() {
    let redis = Redis::start(&AUTHORITY);
    redis.set_hash("mail:bob", &[("host", "n1.internal"), ("port", "993"), ("user", "robert")]);
    redis.set_hash("mail:two", &[("shard", "south"), ("host", "n1.internal")]);
    redis.set_hash("mail:pass", &[("shard", "south"), ("nopassword", "y")]);
    redis.set_hash("mail:shut", &[("shard", "south"), ("nologin", "y")]);
    redis.set_hash("mail:other", &[("colour", "red")]);
    redis.set_hash("mail:long", &[("shard", "south"), ("reason", &"x".repeat(100_000))]);
    redis.set("mail:string", b"north");
    let lookup = lookup(&redis.url(), "value: hash");
    let route = lookup.route("bob").unwrap();
    assert_eq!((route.shard.as_str(), route.user.as_str()), ("north", "robert"));
    assert_eq!(lookup.ask("nobody"), Err("no_route"));
    assert_eq!(lookup.ask("two"), Err("lookup_broken_row"));
    assert_eq!(lookup.ask("pass"), Err("lookup_broken_row"));
    assert_eq!(lookup.ask("shut"), Err("lookup_refused"));
    assert_eq!(lookup.ask("other"), Err("lookup_broken_row"));
    assert_eq!(lookup.ask("long"), Err("lookup_too_large"));
    assert_eq!(lookup.ask("string"), Err("lookup_broken_row"));
}

#[test]
fn names_are_data_and_never_commands() {
    let redis = Redis::start(&AUTHORITY);
    redis.set("mail:bob", b"north");
    let lookup = lookup(&redis.url(), "");
    for name in NASTY {
        assert_eq!(lookup.ask(name), Err("no_route"), "{name:?}");
    }
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()));
    // And one that is there under such a name is found.
    for name in NASTY {
        redis.set(&format!("mail:{name}"), b"south");
        assert_eq!(lookup.ask(name), Ok("south".to_owned()), "{name:?}");
    }
}

#[test]
fn passwords_and_tls_are_used_and_their_faults_told() {
    let redis = Redis::with_password(&AUTHORITY, Some("s3cret"));
    redis.set("mail:bob", b"north");
    let folder = super::support::temporary_folder("secret");
    let (ca, secret) = (folder.path().join("ca.pem"), folder.path().join("password"));
    std::fs::write(&ca, AUTHORITY.pem()).unwrap();
    std::fs::write(&secret, "s3cret\n").unwrap();
    let with_ca = format!("ca: \"{}\"", ca.display());
    let password = format!("password: \"file:{}\"", secret.display());
    let ask = |url: &str, more: &str| lookup(url, more).ask("bob");
    assert_eq!(ask(&redis.url(), &password), Ok("north".to_owned()));
    assert_eq!(ask(&redis.tls_url(), &format!("{with_ca}, {password}")), Ok("north".to_owned()));
    assert_eq!(ask(&redis.url(), ""), Err("lookup_protocol"));
    assert_eq!(ask(&redis.url(), "password: wrong"), Err("lookup_protocol"));
    assert_eq!(ask(&redis.url(), "password: \"file:/nonexistent\""), Err("lookup_connect"));
    assert_eq!(ask(&redis.tls_url(), &password), Err("lookup_connect"), "an unknown authority");
}

#[test]
fn a_server_that_was_restarted_is_asked_over_a_new_connection() {
    let mut redis = Redis::start(&AUTHORITY);
    redis.set("mail:bob", b"north");
    let lookup = lookup(&redis.url(), "");
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()));
    redis.command(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()));
    redis.process.stop();
    assert_eq!(lookup.ask("bob"), Err("lookup_connect"));
}
