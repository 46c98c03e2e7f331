//! A directory that hangs, dies or answers garbage, seen from the clients of a running proxy:
//! users whose place is known go on, others are told to come back, and nothing piles up.

use std::net::SocketAddr;
use std::time::Duration;

use super::support::backend::Backend;
use super::support::client::Client;
use super::support::databases::{self, DatabaseServer};
use super::support::pointsman::{Places, Pointsman};
use super::support::redis::Redis;
use super::support::slapd::{self, Slapd};
use super::support::valve::{Flow, Valve};
use super::support::{Stopwatch, wait_until};
use super::{AUTHORITY, flow};

const UNAVAILABLE: &str = "NO [UNAVAILABLE]";
pub const FAILED: &str = "NO [AUTHENTICATIONFAILED] Authentication failed.";

/// Users of a directory whose place no login has asked for.
const OTHERS: usize = 40;

/// Who is in the directories of these tests, and where.
pub fn users() -> Vec<(String, &'static str)> {
    let others = (0..OTHERS).map(|number| format!("u{number}"));
    let back = (0..3).map(|number| format!("b{number}"));
    let north = others.chain(back).chain(["bob".to_owned()]).map(|user| (user, "north"));
    north.chain([("eve".to_owned(), "south")]).collect()
}

/// A proxy with two shards of one backend each, behind one lookup that fails fast.
pub struct Site {
    pub proxy: Pointsman,
    pub north: Backend,
    pub south: Backend,
}

impl Site {
    pub fn start(lookup: &str) -> Self {
        Self::between([Backend::ordinary(), Backend::ordinary()], lookup)
    }

    pub fn between([north, south]: [Backend; 2], lookup: &str) -> Self {
        let shard = |name: &str, backend: &Backend| {
            let address = backend.address();
            format!(
                "  {name}: {{ kind: shared, backends: \
                 [ {{ name: {name}1, address: \"{address}\", tls: none }} ] }}\n"
            )
        };
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            format!(
                "{}shards:\n{}{}routing:\n  lookups:\n    - {{ {lookup}, timeout: 2s, \
                 breaker: {{ failures: 3, open: 200ms }} }}\n",
                places.head(),
                shard("north", &north),
                shard("south", &south),
            )
        });
        Self { proxy, north, south }
    }

    /// The text of the answer to a login, without its tag.
    pub fn try_login(&self, user: &str) -> String {
        let mut client = self.proxy.client();
        client.try_login(user, "password").status
    }

    fn assert_served(&self, user: &str, what: &str) {
        let answer = self.try_login(user);
        assert!(answer.starts_with("OK"), "{what}: {answer}");
    }

    fn assert_timed(&self, source: &str, result: &str) {
        let labels = [("source", source), ("result", result)];
        let count = self.proxy.metrics().sum("pointsman_lookup_seconds_count", &labels);
        assert!(count > 0.5, "{labels:?}");
    }

    /// Each of many is told within the lookup's timeout, and nothing of them stays.
    pub fn assert_others_are_put_off(&self, what: &str) {
        let before = descriptors(self.proxy.id());
        let watch = Stopwatch::start();
        std::thread::scope(|scope| {
            for number in 0..OTHERS {
                scope.spawn(move || {
                    let answer = self.try_login(&format!("u{number}"));
                    assert!(answer.starts_with(UNAVAILABLE), "{what}, u{number}: {answer}");
                });
            }
        });
        // Half a second each; they do not wait for one another.
        assert!(watch.elapsed() < Duration::from_secs(8), "{what}: {:?}", watch.elapsed());
        self.proxy.wait_for_metrics("no login is held", |now| {
            now.sum("pointsman_held_sessions", &[]) == 0.0
        });
        wait_until(&format!("{what}: the descriptors are given back"), || {
            (descriptors(self.proxy.id()) <= before + 10).then_some(())
        });
    }
}

fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Where a directory is put behind a valve: `lookup` makes the entry of the configuration
/// for its address. The directory has [`users`] and nobody else.
pub fn survive(source: &str, server: SocketAddr, lookup: impl Fn(SocketAddr) -> String) -> Site {
    let valve = Valve::before(server);
    let site = Site::start(&lookup(valve.address()));
    site.assert_served("bob", "at first");
    site.assert_served("eve", "at first");
    assert_eq!((site.north.connections(), site.south.connections()), (1, 1));
    site.assert_timed(source, "found");
    check_names(&site);
    site.assert_timed(source, "miss");
    site.assert_timed(source, "cached_miss");
    for (flow, back) in [(Flow::Silent, "b0"), (Flow::Garbage, "b1"), (Flow::Cut, "b2")] {
        valve.turn(flow);
        let what = format!("{flow:?}");
        site.assert_others_are_put_off(&what);
        site.assert_timed(source, "failed");
        site.assert_served("bob", &what);
        let connections = valve.accepted();
        valve.turn(Flow::Open);
        wait_until(&format!("{what}: the directory is asked again"), || {
            site.try_login(back).starts_with("OK").then_some(())
        });
        assert!(valve.accepted() - connections < 20, "{what}: a new connection for each lookup");
    }
    site
}

/// Names that mean something to directories are unknown users, or no names at all.
fn check_names(site: &Site) {
    for name in
        ["nobody", "nobody", "'", "bob' OR '1'='1", "*", ")(", "bob)(mail=*", "%", "%u", "b?b"]
    {
        assert_eq!(site.try_login(name), FAILED, "{name}");
    }
    let literals: [&[u8]; 2] = [b"bob\r\nDEL bob", b"bob\0"];
    for name in literals {
        let mut client: Client = site.proxy.client();
        client.send(format!("x LOGIN {{{}+}}\r\n", name.len()));
        client.send(name);
        client.send(b" password\r\n");
        let answer = client.read_line();
        let refused =
            answer.starts_with("x NO [AUTHENTICATIONFAILED]") || answer.starts_with("x BAD");
        assert!(refused, "{name:?}: {answer}");
    }
}

#[test]
fn redis_may_hang_or_die() {
    let mut redis = Redis::start(&AUTHORITY);
    for (user, shard) in users() {
        redis.set(&format!("mail:{user}"), shard.as_bytes());
    }
    let site = survive("redis", redis.address(), |address| {
        let url = format!("redis://{address}");
        format!("redis: {{ {} }}", flow(&[("url", &url), ("key", "mail:%u")]))
    });
    redis.process.kill();
    site.assert_served("bob", "dead");
    site.assert_others_are_put_off("dead");
}

#[test]
fn an_ldap_tree_may_hang_or_die() {
    let users = users();
    let rows: Vec<[(&str, &str); 1]> =
        users.iter().map(|(_, shard)| [("mailShard", *shard)]).collect();
    let entries: Vec<(&str, &[(&str, &str)])> =
        users.iter().zip(&rows).map(|((user, _), row)| (user.as_str(), &row[..])).collect();
    let mut slapd = Slapd::start(&AUTHORITY, &entries);
    let site = survive("ldap", slapd.address(), |address| {
        let keys = [
            ("bind_dn", slapd::ADMIN),
            ("bind_password", slapd::PASSWORD),
            ("base", "dc=example,dc=org"),
            ("filter", "(uid=%u)"),
        ];
        let keys = flow(&keys);
        format!(
            "ldap: {{ urls: [ \"ldap://{address}\" ], {keys}attributes: {{ shard: mailShard }} }}"
        )
    });
    slapd.process.kill();
    site.assert_served("bob", "dead");
    site.assert_others_are_put_off("dead");
}

#[test]
fn a_database_may_hang_or_die() {
    let mut server = DatabaseServer::postgres(&AUTHORITY);
    let rows: Vec<String> =
        users().iter().map(|(user, shard)| format!("('{user}', '{shard}')")).collect();
    let rows = rows.join(", ");
    server.sql(&format!(
        "CREATE TABLE users (name text, shard text); INSERT INTO users VALUES {rows}"
    ));
    let site = survive("sql", server.address(), |address| {
        let keys = [
            ("url", format!("postgres://{address}/mail")),
            ("user", "postgres".to_owned()),
            ("password", databases::PASSWORD.to_owned()),
            ("query", "SELECT shard FROM users WHERE name = $1".to_owned()),
        ];
        let keys: Vec<(&str, &str)> =
            keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
        format!("sql: {{ {} }}", flow(&keys))
    });
    server.process.kill();
    site.assert_served("bob", "dead");
    site.assert_others_are_put_off("dead");
}

/// The operator of a cluster whose directory is down may have to change something else.
#[test]
fn a_reload_while_the_directory_is_down_keeps_the_users_whose_place_is_known() {
    let mut redis = Redis::start(&AUTHORITY);
    for (user, shard) in [("bob", "north"), ("eve", "south")] {
        redis.set_hash(&format!("mail:{user}"), &[("shard", shard)]);
    }
    let backends = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
    let [north, south, east] = backends.each_ref().map(Backend::address);
    redis.set_hash("mail:host", &[("host", "127.0.0.1"), ("port", &north.port().to_string())]);
    let url = redis.url();
    let configuration = |places: &Places, shards: &[(&str, SocketAddr)], settings: &str| {
        let shard = |(name, address): &(&str, SocketAddr)| {
            format!(
                "  {name}: {{ kind: shared, backends: \
                 [ {{ name: {name}1, address: \"{address}\", tls: none{settings} }} ] }}\n"
            )
        };
        let shards: String = shards.iter().map(shard).collect();
        format!(
            "{}shards:\n{shards}routing:\n  sticky: 0s\n  lookups:\n    - {{ redis: {{ url: \
             \"{url}\", key: \"mail:%u\", value: hash }} }}\n",
            places.head(),
        )
    };
    let both = [("north", north), ("south", south)];
    let proxy = Pointsman::start(&AUTHORITY, |places| configuration(places, &both, ""));
    let answer = |user: &str| proxy.client().try_login(user, "password").status;
    let _open = proxy.logged_in("bob", "password");
    for user in ["eve", "host"] {
        assert!(answer(user).starts_with("OK"), "{user}");
    }
    redis.process.kill();
    let reload = |shards: &[(&str, SocketAddr)], settings: &str| {
        proxy.rewrite(|places| configuration(places, shards, settings));
        proxy.reload();
        let taken = proxy.metrics().sum("pointsman_config_last_reload_success", &[]);
        assert!(taken > 0.5, "{}", proxy.log());
    };
    for settings in ["", ", weight: 7"] {
        reload(&both, settings);
        for user in ["bob", "eve", "host"] {
            assert!(answer(user).starts_with("OK"), "{user} with {settings:?}: {}", answer(user));
        }
    }
    // A host may belong to another shard now; a shard that is told by its name does not.
    reload(&[("north", north), ("south", south), ("east", east)], "");
    for (user, start) in [("bob", "OK"), ("eve", "OK"), ("host", UNAVAILABLE)] {
        let answer = answer(user);
        assert!(answer.starts_with(start), "{user}: {answer}");
    }
    reload(&[("north", north), ("east", east)], "");
    for (user, start) in [("bob", "OK"), ("eve", UNAVAILABLE)] {
        let answer = answer(user);
        assert!(answer.starts_with(start), "{user}: {answer}");
    }
}
