//! What the loader takes and refuses.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::names::{BackendId, ShardId};
use crate::sasl::Mechanism;

/// Line 1 to 8; tests append sections from line 9.
const GOOD: &str = "\
listeners:
  - { name: imap, address: \"127.0.0.1:143\", tls: none }
shards:
  north: { kind: shared, backends: [ { name: n1, address: \"h:1\", tls: none } ] }
  south: { kind: shared, backends: [ { name: s1, address: \"h:2\", tls: none } ] }
routing:
  lookups:
    - shard: north
";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(Path::new("/etc/pointsman/p.yaml"), text)
}

/// The faults of a text as `line:column message / expected`.
fn faults(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text);
    let show = |fault: &Fault| {
        let (line, column) = (fault.line.unwrap_or(0), fault.column.unwrap_or(0));
        let expected = fault.expected.as_deref().unwrap_or("-");
        format!("{line}:{column} {} / {expected}", fault.message)
    };
    errors.faults.iter().map(show).collect()
}

/// `GOOD` with one text in place of another.
fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

fn listener(keys: &str) -> String {
    changed("{ name: imap, address: \"127.0.0.1:143\", tls: none }", keys)
}

fn backend(keys: &str) -> String {
    changed("{ name: n1, address: \"h:1\", tls: none }", keys)
}

fn lookups(lines: &str) -> String {
    changed("    - shard: north\n", lines)
}

#[test]
fn a_fault_shows_file_line_column_snippet_and_what_is_expected() {
    let shown = parse(&lookups("    - shard: sud\n")).unwrap_err().to_string();
    let golden = "/etc/pointsman/p.yaml:8:14: unknown shard `sud`\n  \
                  8 |     - shard: sud\n    \
                  |              ^\n  \
                  expected a shard of this file: `north`, `south`";
    assert_eq!(shown, golden);
}

#[test]
fn all_faults_of_a_file_are_reported_in_file_order() {
    let text = "\
listeners:
  - { name: imap, address: nowhere, tls: maybe }
  - { name: imap, address: \"127.0.0.1:143\", tls: implicit }
shards:
  north: { kind: shared, backends: [ { name: n1, address: \"h:0\", tls: none, weight: 0 } ] }
routing:
  lookups: [ { shard: south } ]
limits: { idle: 34m, exempt: [10.0.0.0/33] }
log: { level: inof }
";
    let places: Vec<String> =
        faults(text).iter().map(|fault| fault.split_once(' ').unwrap().0.to_owned()).collect();
    let expected =
        ["2:28", "2:42", "2:42", "3:13", "3:50", "5:59", "5:85", "7:23", "8:17", "8:31", "9:15"];
    assert_eq!(places, expected);
}

#[test]
fn unknown_keys_are_refused_those_of_later_features_too() {
    let top = "one of `listeners`, `tls`, `check`, `shards`, `routing`, `master`, `limits`, `upstream`, \
               `dns`, `admin`, `store`, `shutdown`, `log`";
    let cases = [
        (format!("{GOOD}cluster: {{}}\n"), "9:1 unknown key `cluster`", top),
        (format!("{GOOD}store: {{ etcd: x }}\n"), "9:10 unknown key `etcd`", "one of `path`"),
        (
            format!("{GOOD}admin: {{ token: x }}\n"),
            "9:10 unknown key `token`",
            "one of `address`, `socket`",
        ),
        (
            lookups("    - nis: { url: x }\n"),
            "8:7 unknown key `nis`",
            "one of `users`, `domains`, `patterns`, `hash`, `shard`, `auth_http`, `ldap`, `redis`, `sql`, \
             `timeout`, `in_flight`, `on_failure`, `cache`, `breaker`",
        ),
    ];
    for (text, message, expected) in cases {
        assert_eq!(faults(&text), [format!("{message} / {expected}")]);
        assert_eq!(parse(&text).unwrap_err().reason(), "syntax");
    }
}

#[test]
fn the_admin_socket_lies_beside_the_store_unless_told_otherwise() {
    let socket = |more: &str| parse(&format!("{GOOD}{more}")).unwrap().admin.socket;
    let at = |path: &str| Some(Path::new(path).to_owned());
    assert_eq!(socket(""), at("/var/lib/pointsman/state/admin.sock"));
    assert_eq!(socket("store: { path: /srv/s }\n"), at("/srv/s/admin.sock"));
    assert_eq!(socket("admin: { socket: run/a.sock }\n"), at("/etc/pointsman/run/a.sock"));
    assert_eq!(socket("admin: { socket: none }\n"), None);
    let long = format!("{GOOD}admin: {{ socket: /{} }}\n", "x".repeat(98));
    assert_eq!(
        faults(&long)[0].split(" / ").last().unwrap(),
        "a path of at most 98 bytes, or `none`"
    );
}

#[test]
fn doubled_names_are_refused() {
    let twice = "{ name: a, address: \"[::1]:1\", tls: none }, { name: a, address: \"[::1]:1\", tls: none }";
    let text = changed(
        "\n  - { name: imap, address: \"127.0.0.1:143\", tls: none }",
        &format!(" [ {twice} ]"),
    );
    assert_eq!(
        faults(&text),
        [
            "1:66 listener `a` is there twice / each listener once; the first is on line 1",
            "1:78 address `[::1]:1` is there twice / each address once; the first is on line 1",
        ]
    );
    assert_eq!(
        faults(&changed("name: s1", "name: n1")),
        ["5:46 backend `n1` is there twice / each backend once; the first is on line 4"]
    );
    assert_eq!(
        faults(&changed("  south:", "  north:")),
        ["5:3 `north` is there twice / each key once"]
    );
    assert_eq!(
        faults(&format!("{GOOD}log:\n  user: full\n  user: none\n")),
        ["11:3 `user` is there twice / each key once"]
    );
}

#[test]
fn names_are_short_and_plain() {
    let message = "/ 1 to 64 of the characters A-Z a-z 0-9 . _ -";
    let found = faults(&changed("name: s1", "name: \"s 1\\n\""));
    assert_eq!(found, [format!("5:46 a backend cannot be named `s 1\\u{{a}}` {message}")]);
    let found = faults(&changed("  south:", "  \"\":"));
    assert_eq!(found, [format!("5:3 a shard cannot be named `` {message}")]);
}

#[test]
fn what_is_needed_and_absent_is_named() {
    assert_eq!(
        faults(""),
        [
            "1:1 `listeners` is missing / a list of listeners",
            "1:1 `shards` is missing / a map of shards by name",
            "1:1 `routing` is missing / `routing` with `lookups`",
        ]
    );
    assert_eq!(
        faults("listeners: []\nshards: {}\nrouting: { lookups: [] }\n"),
        [
            "1:12 no listeners / at least one listener",
            "2:9 no shards / at least one shard",
            "3:21 no lookups: no user has a shard / one of `users`, `domains`, `patterns`, `hash`, `shard`, `auth_http`, `ldap`, `redis` and `sql`",
        ]
    );
    assert_eq!(
        faults(&backend("{ weight: 1 }")),
        [
            "4:38 `name` is missing / a name for this backend",
            "4:38 `tls` is missing / `tls`: one of `implicit`, `starttls`, `none`",
            "4:38 `address` is missing / a host name or IP address and a port such as \
             \"imap1.example.org:993\" or \"[::1]:143\"; or `srv`",
        ]
    );
    assert_eq!(
        faults(&changed("[ { name: s1, address: \"h:2\", tls: none } ]", "[]")),
        ["5:36 shard `south` has no backends / at least one backend"]
    );
    assert_eq!(
        faults(&changed("kind: shared, ", "")),
        ["4:3 `kind` is missing / `kind`: one of `shared`, `primary`"]
    );
    assert_eq!(
        faults(&format!("{GOOD}tls: {{ certificates: [ {{ cert: a }} ] }}\n")),
        ["9:24 `key` is missing / `key`: a PEM file"]
    );
}

#[test]
fn tls_listeners_need_a_certificate() {
    let expected = "without any certificate / at least one entry in `tls.certificates`";
    for mode in ["implicit", "starttls"] {
        let text = listener(&format!("{{ name: a, address: \"[::]:993\", tls: {mode} }}"));
        assert_eq!(faults(&text), [format!("2:42 `tls: {mode}` {expected}")]);
    }
}

#[test]
fn the_proxy_protocol_and_trusted_networks_come_together() {
    let keys =
        |more: &str| listener(&format!("{{ name: a, address: \"[::]:1\", tls: none, {more} }}"));
    assert_eq!(
        faults(&keys("proxy_protocol: required")),
        ["2:62 `proxy_protocol: required` without `trusted` / `trusted`: the networks of the \
          balancers that send the header"]
    );
    assert_eq!(
        faults(&keys("trusted: [10.0.0.0/8]")),
        ["2:56 `trusted` without the PROXY protocol / `proxy_protocol: required`, or no `trusted`"]
    );
    assert_eq!(
        faults(&keys("trust_tls: true")),
        ["2:57 `trust_tls` without the PROXY protocol / `proxy_protocol: required`, or no \
          `trust_tls`"]
    );
    assert_eq!(
        faults(&keys("proxy_protocol: required, trusted: [10.0.0.1/8]")),
        ["2:82 `trusted` cannot be `10.0.0.1/8` / a network such as 10.0.0.0/8 or 2001:db8::/32, \
          with no bits set behind the prefix"]
    );
}

#[test]
fn a_backend_is_at_an_address_or_where_srv_records_say() {
    let found = |keys: &str| faults(&backend(&format!("{{ name: n1, {keys} }}")));
    let srv = "srv: _imaps._tcp.example.org";
    assert_eq!(
        found(&format!("address: \"h:1\", {srv}, tls: none")),
        ["4:71 `srv` beside `address` / one of the two"]
    );
    assert_eq!(
        found("srv: imaps.example.org, tls: none"),
        ["4:55 `srv` cannot be `imaps.example.org` / the name of SRV records such as \
          _imaps._tcp.example.org"]
    );
    for tls in ["implicit", "starttls"] {
        assert_eq!(
            found(&format!("{srv}, tls: {tls}")),
            [
                "4:55 `srv` with TLS, and nothing that the certificate must match / `verify_name` or \
              `pin_sha256`: DNS must not choose who is believed"
            ]
        );
    }
    let pin = format!("pin_sha256: {}", "ab".repeat(32));
    for keys in ["tls: none", "tls: implicit, verify_name: m.org", &format!("tls: starttls, {pin}")]
    {
        let config = parse(&backend(&format!("{{ name: n1, {srv}, {keys} }}"))).unwrap();
        let place = &config.shards[0].backends[0].place;
        assert_eq!(*place, BackendPlace::Service("_imaps._tcp.example.org".to_owned()), "{keys}");
    }
}

#[test]
fn name_servers_are_addresses_and_share_a_bounded_time() {
    let dns = |keys: &str| format!("{GOOD}dns: {{ {keys} }}\n");
    assert_eq!(parse(GOOD).unwrap().dns, Dns::default());
    let config = parse(&dns("servers: [192.0.2.53, \"[::1]:5353\"], timeout: 2s")).unwrap();
    let servers = ["192.0.2.53:53", "[::1]:5353"].map(|server| server.parse().unwrap()).to_vec();
    assert_eq!(config.dns, Dns { servers, timeout: Duration::from_secs(2) });
    let form = "an IP address, with a port if it is not 53, such as \"192.0.2.53\" or \
                \"[2001:db8::53]:5353\"";
    let count = "1 to 8, or no `servers`: those of /etc/resolv.conf";
    let nine = (1..=9).map(|last| format!("192.0.2.{last}")).collect::<Vec<_>>().join(", ");
    let cases = [
        ("servers: [ns.example]", format!("9:18 `servers` cannot be `ns.example` / {form}")),
        ("servers: []", format!("9:17 `servers` has 0 name servers / {count}")),
        (&format!("servers: [{nine}]"), format!("9:17 `servers` has 9 name servers / {count}")),
        (
            "servers: [\"::1\", \"[::1]:53\"]",
            "9:25 name server `[::1]:53` is there twice / each name server once; the first is on \
             line 9"
                .to_owned(),
        ),
        (
            "timeout: 2m",
            "9:17 `timeout` cannot be `2m` / a duration such as 500ms, 5s, 15m, 2h or 1d, from 100ms to 1m"
                .to_owned(),
        ),
        ("server: 192.0.2.53", "9:8 unknown key `server` / one of `servers`, `timeout`".to_owned()),
    ];
    for (keys, fault) in cases {
        assert_eq!(faults(&dns(keys)), [fault], "{keys}");
    }
}

/// B-60.
#[test]
fn a_backend_that_is_an_own_listener_is_refused() {
    let own = [
        ("127.0.0.1:143", "127.0.0.1:143"),
        ("127.0.0.1:143", "localhost:143"),
        ("[::]:143", "127.0.0.1:143"),
        ("[::]:143", "LocalHost.:143"),
        ("0.0.0.0:143", "[::1]:143"),
        ("192.0.2.1:143", "192.0.2.1:143"),
    ];
    let text = |listener: &str, backend: &str| {
        GOOD.replacen("127.0.0.1:143", listener, 1).replacen("h:1", backend, 1)
    };
    for (listener, backend) in own {
        let found = faults(&text(listener, backend));
        let expected = format!(
            "4:59 `address` `{backend}` is a listener of this proxy / another server: this would \
             be a loop"
        );
        assert_eq!(found, [expected]);
    }
    for (listener, backend) in
        [("127.0.0.1:143", "127.0.0.1:144"), ("192.0.2.1:143", "localhost:143")]
    {
        assert!(parse(&text(listener, backend)).is_ok(), "{listener} {backend}");
    }
}

/// B-39.
#[test]
fn master_users_need_a_separator_and_networks() {
    let networks = "networks: [10.0.0.0/8]";
    let good = parse(&format!("{GOOD}master: {{ {networks} }}\n")).unwrap().master.unwrap();
    assert_eq!((good.separator, good.networks.len()), ('*', 1));
    assert!(parse(GOOD).unwrap().master.is_none());
    let missing = "`networks`: where master users may sign in from";
    assert_eq!(
        faults(&format!("{GOOD}master: {{ separator: \"*\" }}\n")),
        [format!("9:9 `networks` is missing / {missing}")]
    );
    assert_eq!(
        faults(&format!("{GOOD}master: {{ networks: [] }}\n")),
        [format!("9:21 `master` without any network / {missing}")]
    );
    for wrong in ["", "**", "a", "@", "7", "+", ".", " "] {
        let found = faults(&format!("{GOOD}master: {{ separator: \"{wrong}\", {networks} }}\n"));
        let expected = format!(
            "9:22 `separator` cannot be `{wrong}` / exactly one of the characters *%/|!#$^~:;,"
        );
        assert_eq!(found, [expected]);
    }
}

/// B-54.
#[test]
fn b54_nothing_is_offered_that_a_shard_cannot_finish() {
    let with = |offered: &str, finished: &str| {
        GOOD.replace("tls: none }\nshards", &format!("tls: none{offered} }}\nshards"))
            .replace("south: { kind: shared,", &format!("south: {{ kind: shared,{finished}"))
    };
    let all = "[PLAIN, LOGIN, SCRAM-SHA-1, scram-sha-256, OAuthBearer, XOAUTH2]";
    let config = parse(&with(&format!(", mechanisms: {all}"), "")).unwrap();
    assert_eq!(config.listeners[0].mechanisms.len(), 6);
    assert_eq!(config.shards[1].mechanisms, None);
    let finished = " mechanisms: [PLAIN, OAUTHBEARER],";
    let config = parse(&with(", mechanisms: [OAUTHBEARER, LOGIN]", finished)).unwrap();
    let south = config.shards[1].mechanisms.as_deref().unwrap();
    assert_eq!(south, [Mechanism::Plain, Mechanism::OAuthBearer]);
    assert_eq!(
        faults(&with(", mechanisms: [PLAIN, SCRAM-SHA-256]", finished)),
        ["2:76 `SCRAM-SHA-256` is offered, and shard `south` cannot finish it / mechanisms of \
          every shard, or `SCRAM-SHA-256` in `shards.south.mechanisms`"]
    );
    assert_eq!(
        faults(&with("", " mechanisms: [OAUTHBEARER],")),
        ["2:5 `PLAIN` is offered, and shard `south` cannot finish it / mechanisms of every \
          shard, or `PLAIN` in `shards.south.mechanisms`"]
    );
}

#[test]
fn mechanisms_are_known_ones() {
    let keys = |list: &str| {
        listener(&format!("{{ name: a, address: \"[::]:1\", tls: none, mechanisms: {list} }}"))
    };
    let config = parse(&keys("[login, PLAIN]")).unwrap();
    assert_eq!(config.listeners[0].mechanisms, [Mechanism::Login, Mechanism::Plain]);
    assert_eq!(
        faults(&keys("[CRAM-MD5]")),
        ["2:59 `mechanisms` cannot be `CRAM-MD5` / one of `SCRAM-SHA-256`, `SCRAM-SHA-1`, \
          `OAUTHBEARER`, `XOAUTH2`, `PLAIN`, `LOGIN`"]
    );
    assert_eq!(
        faults(&keys("[PLAIN, plain]")),
        ["2:66 mechanism `plain` is there twice / each mechanism once; the first is on line 2"]
    );
}

#[test]
fn backend_values_out_of_their_form_are_refused() {
    let keys =
        |more: &str| backend(&format!("{{ name: a, address: \"h:1\", tls: implicit, {more} }}"));
    let pin = "the SHA-256 of a SubjectPublicKeyInfo: 64 hex digits (colons allowed) or 44 \
               characters of base64";
    let cases = [
        ("weight: 1001", "`weight` cannot be `1001`", "a whole number from 1 to 1000"),
        ("state: off", "`state` cannot be `off`", "one of `up`, `drain`, `standby`, `down`"),
        ("weight: -1", "`weight` cannot be `-1`", "a whole number from 1 to 1000"),
        ("forward: xclient", "`forward` cannot be `xclient`", "one of `id`, `proxy_v2`, `none`"),
        ("pipelining: on", "`pipelining` cannot be `on`", "one of `auto`, `off`"),
        ("alpn: h2", "`alpn` cannot be `h2`", "one of `imap`, `none`"),
        ("pin_sha256: abcd", "`pin_sha256` cannot be `abcd`", pin),
        ("verify_name: a b", "`verify_name` cannot be `a b`", "a host name or an IP address"),
        ("ca: \"\"", "`ca` cannot be ``", "a path; a relative one begins at this file's folder"),
    ];
    for (more, message, expected) in cases {
        let column = 80 + more.find(' ').unwrap() + 1;
        assert_eq!(faults(&keys(more)), [format!("4:{column} {message} / {expected}")]);
    }
    let address = backend("{ name: a, address: \"::1:143\", tls: implicit }");
    assert_eq!(faults(&address).len(), 1);
    let clear = backend("{ name: a, address: \"h:1\", tls: none, ca: x }");
    assert_eq!(
        faults(&clear),
        ["4:80 `ca` with `tls: none` verifies nothing / `tls: implicit` or `tls: starttls`"]
    );
}

#[test]
fn capabilities_are_atoms() {
    let keys = |list: &str| changed("kind: shared", &format!("kind: shared, capabilities: {list}"));
    let config = parse(&keys("[idle, AUTH=PLAIN]")).unwrap();
    let capabilities = config.shards[0].capabilities.as_deref().unwrap();
    assert_eq!(capabilities, ["IDLE", "AUTH=PLAIN"]);
    let expected = "/ a capability such as IDLE or AUTH=PLAIN, at most 128 bytes";
    assert_eq!(
        faults(&keys("[\"A B\"]")),
        [format!("4:41 `capabilities` cannot be `A B` {expected}")]
    );
    assert_eq!(
        faults(&keys("[IDLE, idle]")),
        ["4:47 capability `idle` is there twice / each capability once; the first is on line 4"]
    );
}

#[test]
fn a_lookup_in_memory_takes_no_bounds_of_one_over_the_network() {
    let beside = "/ it beside a lookup over the network only";
    assert_eq!(
        faults(&lookups("    - shard: north\n      timeout: 0s\n      cache: { miss: 2d }\n")),
        [
            format!("9:16 `timeout` means nothing to `shard`, which asks nobody {beside}"),
            "9:16 `timeout` cannot be `0s` / a duration such as 500ms, 5s, 15m, 2h or 1d, from 10ms \
             to 1m"
                .to_owned(),
            format!("10:14 `cache` means nothing to `shard`, which asks nobody {beside}"),
            "10:22 `miss` cannot be `2d` / a duration such as 500ms, 5s, 15m, 2h or 1d, from 0ms to \
             1h"
                .to_owned(),
        ]
    );
    for wrong in ["in_flight: 0", "on_failure: shrug", "breaker: { failures: 0 }"] {
        let text = lookups(&format!("    - {{ shard: north, {wrong} }}\n"));
        assert_eq!(faults(&text).len(), 2, "{wrong}");
    }
    // Nor a users file, also where it is a compiled map: its failures are always `unavailable`.
    let users = lookups("    - { users: { file: f }, on_failure: next }\n");
    assert_eq!(
        faults(&users),
        [format!("8:41 `on_failure` means nothing to `users`, which asks nobody {beside}")]
    );
}

#[test]
fn a_pattern_that_cannot_be_used_is_told_at_its_place() {
    let form = "/ `*` for any characters and `?` for one, or a regular expression between slashes";
    assert_eq!(
        faults(&lookups(
            "    - patterns:\n        \"*@x.org\": north\n        \"/(/\": north\n        \
             \"/(?=a)/\": west\n        \"/(a{999}){999}/\": north\n        \"\": north\n"
        )),
        [
            format!("10:9 the pattern `/(/` cannot be used: unclosed group {form}"),
            format!(
                "11:9 the pattern `/(?=a)/` cannot be used: look-around, including look-ahead and \
                 look-behind, is not supported {form}"
            ),
            "11:20 unknown shard `west` / a shard of this file: `north`, `south`".to_owned(),
            format!(
                "12:9 the pattern `/(a{{999}}){{999}}/` cannot be used: it takes too much memory \
                 {form}"
            ),
            format!("13:9 the pattern `` cannot be used: it is empty {form}"),
        ]
    );
    assert_eq!(
        faults(&lookups("    - patterns: {}\n")),
        ["8:17 `patterns` has 0 entries / `pattern: shard`, 1 to 1000 of them"]
    );
    let config = parse(&lookups("    - patterns: { \"b*\": south, \"/a/\": north }\n")).unwrap();
    let expected = [("b*", "south"), ("/a/", "north")]
        .map(|(pattern, shard)| (Pattern::new(pattern), ShardId::new(shard)));
    assert_eq!(config.routing.lookups, [Lookup::Patterns(expected.to_vec())]);
}

#[test]
fn lookups_name_known_shards_and_are_all_reached() {
    let unknown = "/ a shard of this file: `north`, `south`";
    assert_eq!(
        faults(&lookups("    - hash: { shards: [north, west] }\n")),
        [format!("8:31 unknown shard `west` {unknown}")]
    );
    assert_eq!(
        faults(&lookups("    - domains: { example.org: west }\n    - shard: north\n")),
        [format!("8:31 unknown shard `west` {unknown}")]
    );
    assert_eq!(
        faults(&lookups("    - shard: north\n    - users: { file: x }\n")),
        ["9:7 this lookup is never asked: `shard` on line 8 answers all / `shard` as the last \
          lookup"]
    );
    assert_eq!(
        faults(&lookups("    - hash: { shards: [north] }\n    - shard: south\n")),
        [
            "9:7 this lookup is never asked: `hash` on line 8 answers all / `hash` as the last lookup"
        ]
    );
    assert_eq!(
        faults(&lookups("    - hash: { shards: [north] }\n    - hash: { shards: [south] }\n")),
        ["9:7 a second `hash` lookup / one for all its shards; the first is on line 8"]
    );
    assert_eq!(
        faults(&lookups("    - hash: { shards: [north, north] }\n")),
        ["8:31 shard `north` is there twice / each shard once; the first is on line 8"]
    );
    assert_eq!(
        faults(&lookups("    - { shard: north, users: { file: x } }\n")),
        ["8:7 a lookup is exactly one thing; several are several list entries / one of `users`, \
          `domains`, `patterns`, `hash`, `shard`, `auth_http`, `ldap`, `redis` and `sql`"]
    );
    assert_eq!(
        faults(&lookups("    - domains: { A.org: north, a.ORG: south }\n    - shard: north\n")),
        ["8:32 domain `a.ORG` is there twice / each domain once; the first is on line 8"]
    );
}

#[test]
fn an_idle_limit_below_35_minutes_is_refused() {
    let text = |idle: &str| format!("{GOOD}limits: {{ idle: {idle} }}\n");
    assert_eq!(
        faults(&text("34m")),
        ["9:17 `idle` cannot be `34m` / a duration such as 500ms, 5s, 15m, 2h or 1d, from 35m to \
          30d"]
    );
    assert_eq!(parse(&text("35m")).unwrap().limits.idle, Some(Duration::from_secs(2100)));
    assert_eq!(parse(&text("none")).unwrap().limits.idle, None);
}

#[test]
fn a_login_timeout_holds_at_least_one_try() {
    assert_eq!(
        faults(&format!("{GOOD}upstream: {{ connect_timeout: 20s }}\n")),
        [
            "9:30 `login_timeout` is shorter than `connect_timeout` / time for at least one whole try"
        ]
    );
}

#[test]
fn what_is_no_yaml_of_the_right_kind_is_refused_with_its_place() {
    let cases = [
        ("[]".to_owned(), "1:1 this kind of value does not fit here / a map of keys"),
        ("listeners: 5".to_owned(), "1:12 this kind of value does not fit here / a list"),
        (
            format!("{GOOD}log: {{ level: {{}} }}"),
            "9:15 this kind of value does not fit here / one value",
        ),
        (format!("{GOOD}---\na: b\n"), "9:1 a second YAML document / one document a file"),
        (format!("{GOOD}log: *a\n"), "9:6 reference to unknown value / -"),
        (format!("{GOOD}log: {{ level: !x info }}\n"), "9:18 unsupported tag `!x` / -"),
        (format!("{GOOD}limits: {{ exempt: [~] }}\n"), "9:20 an empty value / one value"),
    ];
    for (text, fault) in cases {
        assert_eq!(faults(&text), [fault]);
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    assert!(parse(&format!("\u{feff}{GOOD}")).is_ok());
    for marks in ["\u{feff}", "\u{feff}\u{feff}"] {
        let found = faults(&format!("{marks}tept:\n  1\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("1:1 "), "{found:?}");
    }
}

#[test]
fn an_alias_is_blamed_where_its_value_is_written() {
    let text = format!("{GOOD}log: {{ level: info, user: &x all, format: *x }}\n");
    let found = faults(&text);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|fault| fault.starts_with("9:30 ")), "{found:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.yaml");
    let absent = Config::load(&path).unwrap_err();
    assert_eq!((absent.reason(), absent.faults.len()), ("unreadable", 1));
    assert!(absent.to_string().starts_with(&format!("{}: cannot be read: ", path.display())));

    std::fs::write(&path, b"listeners:\n  - \xc3\xa4\xff\n").unwrap();
    let binary = Config::load(&path).unwrap_err();
    let fault = &binary.faults[0];
    assert_eq!((fault.line, fault.column), (Some(2), Some(6)));
    assert_eq!(fault.message, "a byte that is not UTF-8");
}

#[test]
fn relative_paths_begin_at_the_files_folder() {
    let config = parse(&lookups("    - users: { file: maps/users }\n")).unwrap();
    let users = Lookup::Users { file: "/etc/pointsman/maps/users".into() };
    assert_eq!(config.routing.lookups, [users]);
    let config = parse(&format!("{GOOD}store: {{ path: /srv/state }}\n")).unwrap();
    assert_eq!(config.store.path, Path::new("/srv/state"));
}

#[test]
fn a_later_fault_finds_the_line_of_its_object() {
    let text = format!("{GOOD}tls:\n  certificates:\n    - {{ cert: a.pem, key: a.key }}\n");
    let config = parse(&text).unwrap();
    let fault = config.source.fault(&Object::CertificateKey(0), "does not match");
    let shown = "/etc/pointsman/p.yaml:11:27: does not match\n  \
                 11 |     - { cert: a.pem, key: a.key }\n     \
                 |                           ^";
    assert_eq!(fault.to_string(), shown);
    let place = |object: &Object| config.source.fault(object, "x").line;
    assert_eq!(place(&Object::Certificate(0)), Some(11));
    assert_eq!(place(&Object::Listener("imap".to_owned())), Some(2));
    assert_eq!(place(&Object::Backend(BackendId::new("s1"))), Some(5));
    assert_eq!(place(&Object::Shard(ShardId::new("north"))), Some(4));
    assert_eq!(place(&Object::StorePath), None);
    assert_eq!(Source::default().fault(&Object::StorePath, "x").line, None);
}

fn shipped(name: &str) -> (Config, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    (config, std::fs::read_to_string(&path).unwrap())
}

#[test]
fn the_defaults_in_the_example_are_the_defaults() {
    let (example, _) = shipped("example.yaml");
    let (minimal, _) = shipped("minimal.yaml");
    assert_eq!(example.limits, minimal.limits);
    assert_eq!(example.upstream, minimal.upstream);
    assert_eq!(example.store, minimal.store);
    assert_eq!(example.shutdown, minimal.shutdown);
    assert_eq!(example.log, minimal.log);
    assert_eq!(example.listeners[0], minimal.listeners[0]);
    let of_routing = |routing: &Routing| (routing.canonical, routing.routing_key, routing.sticky);
    assert_eq!(of_routing(&example.routing), of_routing(&minimal.routing));
    let of_backend = |backend: &Backend| (backend.forward, backend.pipelining, backend.alpn);
    let backends = [&example, &minimal].map(|config| of_backend(&config.shards[0].backends[0]));
    assert_eq!(backends[0], backends[1]);
    assert_eq!(minimal.shards[0].backends[0].weight, 1);
    let check = &minimal.shards[0].backends[0].check;
    assert_eq!(*check, HealthCheck::default());
    let of_example = example.shards[0].backends[1].check.clone();
    assert_eq!(HealthCheck { test_user: None, ..of_example }, *check);
    assert_eq!(example.shards[0].slow_start, minimal.shards[0].slow_start);
    let Failover::Fence { timeout, .. } = example.shards[0].failover else { panic!("no fence") };
    assert_eq!(timeout, Duration::from_secs(30));
    assert_eq!(minimal.shards[0].failover, Failover::Wait);
    assert_eq!(example.shards[0].balance, Balance::Rendezvous);
    assert_eq!(example.shards[1].balance, Balance::Ordered);
    let capacity = |backend: &Backend| (backend.sessions_max, backend.logins_max);
    assert_eq!(capacity(&example.shards[0].backends[0]), (None, Some(200)));
    assert_eq!(capacity(&minimal.shards[0].backends[0]), (None, Some(200)));
    let ahead = |backend: &Backend| (backend.warm_connections, backend.source_addresses.len());
    assert_eq!(ahead(&example.shards[0].backends[0]), (Some(4), 2));
    assert_eq!(ahead(&minimal.shards[0].backends[0]), (None, 0));
    assert_eq!(minimal.admin.address, None);
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = parse(GOOD).unwrap();
    let (limits, upstream) = (&config.limits, &config.upstream);
    let seconds = [
        (limits.failed_login_delay, 3),
        (limits.login_deadline, 60),
        (limits.tls_handshake, 10),
        (limits.proxy_header, 5),
        (upstream.connect_timeout, 5),
        (upstream.login_timeout, 15),
        (upstream.skip_failed, 10),
        (config.shutdown.lame_duck, 5),
        (config.shutdown.drain, 30),
        (config.routing.sticky, 900),
        (upstream.login_queue_wait, 10),
        (upstream.disconnect_spread, 2),
        (config.shards[0].slow_start, 60),
        (config.shards[0].backends[0].warm_age_max, 60),
        (config.shards[0].backends[0].check.interval, 5),
        (config.shards[0].backends[0].check.timeout, 3),
    ];
    for (time, default) in seconds {
        assert_eq!(time, Duration::from_secs(default));
    }
    let counts = [
        (limits.sessions_per_user, 100),
        (limits.sessions_per_user_address, 40),
        (limits.unauthenticated_per_address, 50),
        (limits.login_tries, 5),
        (limits.syntax_errors, 10),
        (upstream.connect_tries, 3),
        (upstream.login_queue, 1000),
        (config.shards[0].backends[0].logins_max.unwrap(), 200),
        (config.shards[0].backends[0].check.rise, 2),
        (config.shards[0].backends[0].check.fall, 3),
    ];
    assert!(counts.iter().all(|(count, default)| count == default), "{counts:?}");
    assert_eq!(upstream.relay_buffer_bytes, 65536);
    let silence = |keepalive, user_timeout| Silence {
        keepalive: Duration::from_secs(keepalive),
        user_timeout: Duration::from_secs(user_timeout),
    };
    assert_eq!(limits.silence, silence(300, 600));
    assert_eq!(upstream.silence, silence(60, 600));
    assert_eq!((limits.idle, limits.on_unavailable), (None, OnUnavailable::No));
    assert_eq!(config.listeners[0].mechanisms, [Mechanism::Plain]);
    assert_eq!((config.log.level.as_str(), config.log.user), ("info", LogUser::Full));
}

#[test]
fn a_primary_shard_has_one_order_and_bounds_may_be_taken_away() {
    let text =
        changed("{ kind: shared, backends", "{ kind: primary, balance: rendezvous, backends");
    let told = faults(&text);
    assert_eq!(
        told,
        ["4:36 `balance: rendezvous` with `kind: primary` / `ordered`, or `kind: shared`"]
    );
    let keys = "{ name: n1, address: \"h:1\", tls: none, logins_max: none, sessions_max: 7 }";
    let config = parse(&backend(keys)).unwrap();
    let found = &config.shards[0].backends[0];
    assert_eq!((found.sessions_max, found.logins_max), (Some(7), None));
    assert!(faults(&backend(&keys.replace('7', "0")))[0].contains("`sessions_max` cannot be `0`"));
}

#[test]
fn the_innermost_check_says_each_key() {
    let text = changed(
        "  north: { kind: shared, backends: [ { name: n1, address: \"h:1\", tls: none } ] }\n",
        "  north: { kind: shared, check: { rise: 4, fall: 5 }, backends: [\n    \
         { name: n1, address: \"h:1\", tls: none, check: { fall: 6 } } ] }\n",
    ) + "check: { mode: connect, rise: 7, interval: 9s }\n";
    let config = parse(&text).unwrap();
    let check = |shard: usize| config.shards[shard].backends[0].check.clone();
    assert_eq!((check(0).rise, check(0).fall), (4, 6));
    assert_eq!((check(1).rise, check(1).fall), (7, 3));
    for check in [check(0), check(1)] {
        assert_eq!((check.mode, check.interval), (CheckMode::Connect, Duration::from_secs(9)));
    }
}

#[test]
fn a_fault_that_the_outermost_check_brings_to_all_backends_is_told_once() {
    let told = faults(&format!("{GOOD}check: {{ mode: login, user: kim }}\n"));
    let expected = "`mode: login` without a test user / `user` and `password` of a mailbox made \
                    for it";
    assert_eq!(told, [format!("9:8 {expected}")]);
}

/// The keys that a place takes, as the loader itself lists them for an unknown one.
fn keys_of(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text);
    assert!(errors.faults[0].message.contains("`zzz`"), "{errors}");
    let expected = errors.faults[0].expected.clone().unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_is_in_the_example() {
    let (_, example) = shipped("example.yaml");
    let places = [
        ("listeners", "listeners: [ { zzz: 1 } ]"),
        ("tls", "tls: { zzz: 1 }"),
        ("tls", "tls: { certificates: [ { zzz: 1 } ] }"),
        ("check", "check: { zzz: 1 }"),
        ("shards", "shards: { a: { fence: { zzz: 1 } } }"),
        ("shards", "shards: { a: { zzz: 1 } }"),
        ("shards", "shards: { a: { backends: [ { zzz: 1 } ] } }"),
        ("routing", "routing: { zzz: 1 }"),
        ("routing", "routing: { lookups: [ { zzz: 1 } ] }"),
        ("routing", "routing: { lookups: [ { users: { zzz: 1 } } ] }"),
        ("routing", "routing: { lookups: [ { hash: { zzz: 1 } } ] }"),
        ("master", "master: { zzz: 1 }"),
        ("limits", "limits: { zzz: 1 }"),
        ("upstream", "upstream: { zzz: 1 }"),
        ("dns", "dns: { zzz: 1 }"),
        ("admin", "admin: { zzz: 1 }"),
        ("store", "store: { zzz: 1 }"),
        ("shutdown", "shutdown: { zzz: 1 }"),
        ("log", "log: { zzz: 1 }"),
    ];
    for section in keys_of("zzz: 1") {
        assert!(places.iter().any(|(covered, _)| *covered == section), "{section} is not covered");
    }
    for (section, text) in places {
        let begin = example.find(&format!("\n{section}:\n")).expect(section) + 1;
        let rest = &example[begin + section.len() + 1..];
        let end = rest.find("\n\n").unwrap_or(rest.len());
        for key in keys_of(text) {
            let words: Vec<&str> = rest[..end].split([' ', '\n', '{']).collect();
            assert!(words.contains(&format!("{key}:").as_str()), "{section}: {key}");
        }
    }
}

#[test]
fn the_key_of_routing_is_the_user_or_the_domain() {
    let key = |line: &str| lookups(&format!("    - shard: north\n{line}"));
    let taken = |line: &str| parse(&key(line)).unwrap().routing.routing_key;
    assert_eq!(taken(""), RoutingKey::User);
    assert_eq!(taken("  routing_key: user\n"), RoutingKey::User);
    assert_eq!(taken("  routing_key: domain\n"), RoutingKey::Domain);
    assert_eq!(
        faults(&key("  routing_key: shard\n")),
        ["9:16 `routing_key` cannot be `shard` / one of `user`, `domain`"]
    );
}

#[test]
fn deep_nesting_and_alias_bombs_are_refused() {
    let mut bomb = "x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
    for level in 1..12 {
        let former = vec![format!("*x{}", level - 1); 10].join(", ");
        writeln!(bomb, "x{level}: &x{level} [{former}]").unwrap();
    }
    let inside = format!("limits:\n  exempt: &e [{}]\n", "10.0.0.0/8, ".repeat(100_000))
        + &"  x: *e\n".repeat(100);
    let stairs =
        (0..2000).fold(String::new(), |stairs, level| stairs + &" ".repeat(level) + "a:\n");
    let deep = [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        stairs,
        format!("{GOOD}log: {}", "[".repeat(1000)),
        bomb,
        inside,
    ];
    for text in deep {
        assert!(parse(&text).is_err());
    }
}

#[test]
fn thousands_of_shards_load() {
    let mut text =
        "listeners: [ { name: a, address: \"[::1]:1\", tls: none } ]\nshards:\n".to_owned();
    let mut names = Vec::new();
    for number in 0..8000 {
        names.push(format!("shard-{number}"));
        write!(
            text,
            "  shard-{number}:\n    kind: shared\n    backends:\n      - {{ name: b{number}a, \
             address: \"b{number}a.mail.internal:993\", tls: implicit, weight: 3 }}\n      - {{ \
             name: b{number}b, address: \"b{number}b.mail.internal:143\", tls: starttls }}\n"
        )
        .unwrap();
    }
    writeln!(text, "routing: {{ lookups: [ {{ hash: {{ shards: [{}] }} }} ] }}", names.join(", "))
        .unwrap();
    assert!(text.len() > 1_000_000, "{}", text.len());
    let config = parse(&text).unwrap();
    assert_eq!(config.shards.len(), 8000);
    assert_eq!(config.shards[7999].name, ShardId::new("shard-7999"));
    assert_eq!(config.shards[7999].backends[1].place.port(), Some(143));

    let broken = parse(&text.replace("tls: starttls", "tls: perhaps")).unwrap_err();
    assert_eq!((broken.faults.len(), broken.left_out), (100, 7900));
    assert!(broken.to_string().ends_with("\nand 7900 more"));
}

#[test]
fn a_fault_late_in_a_very_long_line_is_shown() {
    let trusted = "10.0.0.0/8, ".repeat(20_000);
    let shown = faults_shown(&format!("{GOOD}limits: {{ exempt: [{trusted}nowhere] }}\n"));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains("p.yaml:9:240020: `exempt` cannot be `nowhere`"), "{shown}");
    assert_eq!(lines[1].find("nowhere"), lines[2].find('^'));
}

fn faults_shown(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn no_text_panics_the_loader(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_bytes_in_a_good_file_panic_the_loader(
        at in 0..GOOD.len(),
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
        cut in 0_usize..40,
    ) {
        let mut file = GOOD.as_bytes().to_vec();
        let end = file.len().min(at + cut);
        file.splice(at..end, bytes);
        if let Err(errors) = parse(&String::from_utf8_lossy(&file)) {
            prop_assert!(!errors.faults.is_empty());
            let shown = errors.to_string();
            prop_assert!(!shown.chars().any(|symbol| symbol != '\n' && is_hidden(symbol)));
        }
    }

    #[test]
    fn lines_of_known_words_never_panic_the_loader(
        words in proptest::collection::vec(
            prop_oneof![
                Just("listeners: "), Just("shards: "), Just("- "), Just("\n"), Just("\n  "),
                Just("routing: "), Just("lookups: "), Just("hash: "), Just("{ "), Just("} "),
                Just("[ "), Just("] "), Just(", "), Just("name: "), Just("a "), Just("~ "),
                Just("&a "), Just("*a "), Just("<<: "), Just("? "), Just("| "), Just("\"x\" "),
                Just("limits: "), Just("idle: "), Just("tls: "), Just("# "), Just("!!str "),
            ],
            0..60,
        )
    ) {
        let _ = parse(&words.concat());
    }
}
