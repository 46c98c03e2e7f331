//! Compiled users maps: built, served, replaced while logins run, and Postfix' own.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::format_collect,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::backend::Backend;
use support::client::Client;
use support::flood::anonymous_kib;
use support::pointsman::{Places, Pointsman, check, run_binary};
use support::process::run;
use support::tls::Authority;
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Logins that must not be lost while maps are replaced.
const LOGINS: usize = 2000;

fn configuration(places: &Places, north: u16, south: u16, map: &str) -> String {
    let map = places.file(map).display().to_string();
    format!(
        "{}shards:\n\
         \x20 north: {{ kind: shared, backends: [ {{ name: n1, address: \"127.0.0.1:{north}\", tls: none }} ] }}\n\
         \x20 south: {{ kind: shared, backends: [ {{ name: s1, address: \"127.0.0.1:{south}\", tls: none }} ] }}\n\
         routing: {{ default_domain: example.org, sticky: 0s, lookups: [ {{ users: {{ file: \"{map}\" }} }} ] }}\n",
        places.head()
    )
}

/// Builds `users.map` of these lines, for the rules of the configurations here.
fn build(folder: &Path, lines: &str) -> (i32, String) {
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let rules = "listeners: [ { name: i, address: \"127.0.0.1:1\", tls: none } ]\n\
         shards:\n\
         \x20 north: { kind: shared, backends: [ { name: n1, address: \"127.0.0.1:2\", tls: none } ] }\n\
         \x20 south: { kind: shared, backends: [ { name: s1, address: \"127.0.0.1:3\", tls: none } ] }\n\
         \x20 west: { kind: shared, backends: [ { name: w1, address: \"127.0.0.1:4\", tls: none } ] }\n\
         routing: { default_domain: example.org, lookups: [ { shard: north } ] }\n";
    fs::write(file("rules.yaml"), rules).unwrap();
    fs::write(file("users"), lines).unwrap();
    let (input, output, rules) = (file("users"), file("users.map"), file("rules.yaml"));
    run_binary(&["users", "build", "--config", &rules, &input, &output])
}

fn build_well(folder: &Path, lines: &str) {
    let (code, said) = build(folder, lines);
    assert_eq!(code, 0, "{said}");
}

fn folder_of(proxy: &Pointsman) -> PathBuf {
    proxy.places().file("")
}

/// Where a user's login goes; none where it fails.
fn shard_of<'b>(proxy: &Pointsman, user: &str, shards: &[(&'b str, &Backend)]) -> Option<&'b str> {
    let before: Vec<usize> = shards.iter().map(|(_, backend)| backend.users().len()).collect();
    let mut client = Client::clear(proxy.places().clear);
    let answer = client.try_login(user, "secret");
    if !answer.is_ok() {
        return None;
    }
    client.logout();
    let moved =
        shards.iter().zip(before).find(|((_, backend), before)| backend.users().len() > *before);
    moved.map(|((name, _), _)| *name)
}

#[test]
fn a_new_map_is_taken_up_without_a_word_and_a_bad_one_is_not() {
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    let shards = [("north", &north), ("south", &south)];
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        build_well(&places.file(""), "bob north\neve south\nida west\n");
        configuration(places, north.port(), south.port(), "users.map")
    });
    assert_eq!(shard_of(&proxy, "BOB", &shards), Some("north"));
    assert_eq!(shard_of(&proxy, "eve@example.org", &shards), Some("south"));
    assert!(proxy.metrics().sum("pointsman_users_map_errors_total", &[]).abs() < 0.5);
    // A shard that the configuration does not have, and a user whom nobody knows.
    let mut client = proxy.client();
    let answer = client.try_login("ida", "secret");
    assert!(answer.status.starts_with("NO [UNAVAILABLE]"), "{}", answer.status);
    proxy.wait_for_log("it names the shard \\\"west\\\", which is not configured");
    let answer = client.try_login("nobody", "secret");
    assert!(answer.status.starts_with("NO [AUTHENTICATIONFAILED]"), "{}", answer.status);

    build_well(&folder_of(&proxy), "bob south\neve south\n");
    proxy.wait_for_log("a new users map is in use");
    assert_eq!(shard_of(&proxy, "bob", &shards), Some("south"));

    // One that somebody brought here, cut off: the former one serves, also over a reload.
    let map = proxy.places().file("users.map");
    let whole = fs::read(&map).unwrap();
    let bring = |bytes: &[u8]| {
        fs::write(proxy.places().file("brought"), bytes).unwrap();
        fs::rename(proxy.places().file("brought"), &map).unwrap();
    };
    bring(&whole[..whole.len() - 1]);
    proxy.wait_for_log("a users map is not taken up, the former one serves");
    assert_eq!(shard_of(&proxy, "bob", &shards), Some("south"));
    let refused = || proxy.metrics().sum("pointsman_users_map_errors_total", &[]);
    assert!((refused() - 1.0).abs() < 0.5, "{}", refused());
    // Another one with the same fault is told no more, and counted still.
    bring(&whole[..whole.len() - 1]);
    wait_until("it is counted too", || (refused() > 1.5).then_some(()));
    proxy.reload();
    proxy.wait_for_log("configuration refused");
    assert_eq!(shard_of(&proxy, "bob", &shards), Some("south"));
    fs::write(&map, &whole).unwrap();
    proxy.reload();
    assert_eq!(shard_of(&proxy, "bob", &shards), Some("south"));
    north.assert_no_faults();
    south.assert_no_faults();
}

#[test]
fn wrong_lines_are_told_with_their_place_and_no_map_is_made() {
    let folder = support::temporary_folder("users-map");
    let (code, said) = build(folder.path(), "bob north\neve sud\nBob@example.org south\n");
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("users:2:5: there is no shard \"sud\""), "{said}");
    assert!(said.contains("users:3:1: the user bob@example.org is there twice"), "{said}");
    assert!(!folder.path().join("users.map").exists());
}

#[test]
fn check_points_at_the_line_that_names_a_map_of_no_use() {
    let (code, said) = check(&AUTHORITY, |places| {
        build_well(&places.file(""), "bob north\n");
        configuration(places, 1, 2, "users.map").replace("default_domain: example.org, ", "")
    });
    assert_eq!(code, 64, "{said}");
    assert!(
        said.contains("was built with `canonical: lowercase` and `default_domain: example.org`")
    );
    assert!(said.contains("pointsman.yaml:17:"), "{said}");
    let (code, said) = check(&AUTHORITY, |places| {
        build_well(&places.file(""), "bob north\n");
        configuration(places, 1, 2, "users.map")
    });
    assert_eq!(code, 0, "{said}");
}

/// `postmap lmdb:` of Debian's Postfix, unpacked.
fn postmap(folder: &Path, name: &str, lines: &str) {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("postfix");
    assert!(
        unpacked.join("complete").exists(),
        "no Postfix in {0}; run: scripts/setup-packages test && scripts/unpack-postfix {0}",
        unpacked.display()
    );
    let own = folder.join("postfix");
    fs::create_dir_all(&own).unwrap();
    let libraries = unpacked.join("usr/lib/postfix");
    let main = format!(
        "compatibility_level = 3.6\nshlib_directory = {}\nmeta_directory = {own}\n\
         data_directory = {own}\nqueue_directory = {own}\nmail_owner = mail\nsetgid_group = games\n",
        libraries.display(),
        own = own.display()
    );
    fs::write(own.join("main.cf"), main).unwrap();
    let plugin = "lmdb\tpostfix-lmdb.so\tdict_lmdb_open\tmkmap_lmdb_open\n";
    fs::write(own.join("dynamicmaps.cf"), plugin).unwrap();
    fs::write(folder.join(name), lines).unwrap();
    let system = fs::read_dir(unpacked.join("usr/lib")).unwrap();
    let system =
        system.map(|entry| entry.unwrap().path()).find(|path| path.join("liblmdb.so.0").exists());
    let paths = format!("{}:{}", libraries.display(), system.unwrap().display());
    let map = format!("lmdb:{}", folder.join(name).display());
    run(Command::new(unpacked.join("usr/sbin/postmap"))
        .args(["-c", &own.to_string_lossy(), &map])
        .env("LD_LIBRARY_PATH", paths));
}

#[test]
fn a_map_of_postfix_is_read_and_followed_when_postmap_rewrites_it() {
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    let shards = [("north", &north), ("south", &south)];
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        postmap(&places.file(""), "mail", "Bob@Example.org north\neve@example.org south\n");
        configuration(places, north.port(), south.port(), "mail.lmdb")
    });
    assert_eq!(shard_of(&proxy, "bob", &shards), Some("north"));
    assert_eq!(shard_of(&proxy, "eve", &shards), Some("south"));
    assert_eq!(shard_of(&proxy, "nobody", &shards), None);
    let many: String =
        (0..5000).map(|number| format!("user{number}@example.org north\n")).collect();
    postmap(&folder_of(&proxy), "mail", &format!("bob@example.org south\n{many}"));
    wait_until("the new map is in use", || {
        (shard_of(&proxy, "bob", &shards) == Some("south")).then_some(())
    });
    assert_eq!(shard_of(&proxy, "user4999", &shards), Some("north"));
    assert_eq!(shard_of(&proxy, "eve", &shards), None);
    postmap(&folder_of(&proxy), "mail", "eve south\n");
    proxy.wait_for_log("the user is to be written");
    assert_eq!(shard_of(&proxy, "bob", &shards), Some("south"), "the former one serves");
}

#[test]
fn replacing_the_map_while_two_thousand_logins_run_loses_none() {
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    // Users 0 to 99 stay where they are; what is around them changes with every map.
    let users = |round: usize| -> String {
        let moving = (100..3000).map(|number| (number, number + round));
        let staying = (0..100).map(|number| (number, number));
        staying
            .chain(moving)
            .map(|(user, place)| format!("user{user} {}\n", ["north", "south"][place % 2]))
            .collect()
    };
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        build_well(&places.file(""), &users(0));
        let limits = "limits: { failed_login_delay: 100ms, exempt: [127.0.0.0/8] }";
        configuration(places, north.port(), south.port(), "users.map")
            .replace("limits: { failed_login_delay: 100ms }", limits)
    });
    let folder = folder_of(&proxy);
    let next = AtomicUsize::new(0);
    let enough = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let logins: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        // On a quick machine more, until maps were taken up among them.
                        if number >= LOGINS && enough.load(Ordering::Relaxed) {
                            break;
                        }
                        assert!(number < 50 * LOGINS, "no map is taken up");
                        let mut client = Client::clear(proxy.places().clear);
                        client.login(&format!("user{}", number % 100), "secret");
                        client.logout();
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let builder = scope.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                build_well(&folder, &users(round));
                let taken_up = proxy.log().matches("a new users map is in use").count();
                enough.store(taken_up >= 3, Ordering::Relaxed);
            }
        });
        let ended: Vec<_> = logins.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        builder.join().unwrap();
        assert!(ended.iter().all(Result::is_ok), "a login is lost");
    });
    let logins = made.into_inner();
    let parity = |backend: &Backend, odd: usize| {
        backend.users().iter().all(|user| user[4..].parse::<usize>().unwrap() % 2 == odd)
    };
    assert!(parity(&north, 0) && parity(&south, 1), "a login went to another shard");
    assert!(logins >= LOGINS);
    assert_eq!(north.users().len() + south.users().len(), logins);
}

/// What a proxy holds of a map is pages of its file, which the system may take back: neither
/// the map in use nor the one that takes its place is copied into memory.
#[test]
fn replacing_a_map_of_a_hundred_thousand_users_takes_no_copy_of_it_in_memory() {
    const REPLACEMENTS: usize = 5;
    let (north, south) = (Backend::ordinary(), Backend::ordinary());
    let shards = [("north", &north), ("south", &south)];
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        build_well(&places.file(""), "bob north\n");
        configuration(places, north.port(), south.port(), "users.map")
    });
    assert_eq!(shard_of(&proxy, "bob", &shards), Some("north"));
    let domain = format!("{}.example.org", "long-name-of-a-department".repeat(4));
    let before = anonymous_kib(proxy.id());
    let mut most = before;
    for round in 1..=REPLACEMENTS {
        let shard = ["north", "south"][round % 2];
        let others: String =
            (0..100_000).map(|number| format!("user{number:06}@{domain} {shard}\n")).collect();
        build_well(&folder_of(&proxy), &format!("bob {shard}\n{others}"));
        wait_until("the new map is in use", || {
            most = most.max(anonymous_kib(proxy.id()));
            (proxy.log().matches("a new users map is in use").count() == round).then_some(())
        });
        for user in ["bob", &format!("user{round:06}@{domain}")] {
            assert_eq!(shard_of(&proxy, user, &shards), Some(shard), "{user}");
        }
        most = most.max(anonymous_kib(proxy.id()));
    }
    let map_bytes = fs::metadata(proxy.places().file("users.map")).unwrap().len();
    let map_kib = usize::try_from(map_bytes / 1024).unwrap();
    let grown = most - before;
    assert!(map_kib > 8 * 1024, "a map of {map_kib} KiB");
    assert!(grown < map_kib / 3, "{before} KiB grew by {grown} KiB with a map of {map_kib} KiB");
}
