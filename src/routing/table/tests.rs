//! Tables made of configurations and files, and what they answer.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::super::name::canonical;
use super::super::query::{Pending, SourceFailure, SourceResult};
use super::super::sources::{LineFault, LineProblem};
use super::*;
use crate::config::{self, LookupGuard, OnFailure, Routing};
use crate::store::Snapshot;

fn shard(name: &str) -> ShardId {
    ShardId::new(name)
}

/// A configuration with the shards `north` and `south`, names without domain in `example.org`.
fn config(lookups: Vec<Lookup>) -> Config {
    let silence = config::Silence { keepalive: Duration::ZERO, user_timeout: Duration::ZERO };
    let seconds = Duration::from_secs(1);
    Config {
        source: config::Source::default(),
        listeners: Vec::new(),
        tls: config::Tls::default(),
        shards: ["north", "south"].map(config_shard).into(),
        routing: Routing {
            canonical: config::Canonical::Lowercase,
            default_domain: Some("example.org".to_owned()),
            lookups,
            routing_key: config::RoutingKey::User,
            sticky: seconds,
            on_route_change: crate::config::OnRouteChange::Join,
        },
        master: None,
        limits: config::Limits {
            exempt: Vec::new(),
            sessions_per_user: 100,
            sessions_per_user_address: 40,
            unauthenticated_per_address: 50,
            held_logins: 20_000,
            failed_login_delay: seconds,
            login_deadline: seconds,
            tls_handshake: seconds,
            proxy_header: seconds,
            idle: None,
            login_tries: 5,
            silence,
            syntax_errors: 10,
            on_unavailable: config::OnUnavailable::No,
        },
        dns: config::Dns::default(),
        upstream: config::Upstream {
            connect_timeout: seconds,
            connect_tries: 3,
            login_timeout: seconds,
            skip_failed: seconds,
            login_queue: 0,
            login_queue_wait: seconds,
            disconnect_spread: seconds,
            silence,
            relay_buffer_bytes: 65536,
        },
        admin: config::Admin { address: None, socket: None },
        store: config::Store { path: PathBuf::new() },
        shutdown: config::Shutdown { lame_duck: seconds, drain: seconds },
        log: config::Log {
            format: config::LogFormat::Text,
            level: "info".to_owned(),
            user: config::LogUser::Full,
        },
    }
}

fn config_shard(name: &str) -> config::Shard {
    config::Shard {
        name: shard(name),
        kind: config::ShardKind::Shared,
        capabilities: None,
        mechanisms: None,
        balance: config::Balance::Rendezvous,
        slow_start: Duration::ZERO,
        failover: config::Failover::Wait,
        backends: Vec::new(),
    }
}

/// Where tables are made for tests.
fn around() -> Surroundings {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    let metrics = Metrics::register().unwrap();
    Surroundings {
        runtime: RUNTIME.handle().clone(),
        resolver: Resolver::with_ask(Arc::clone(&metrics), |_| Box::pin(std::future::pending())),
        metrics,
        maps: Maps::default(),
        former: None,
    }
}

fn load(lookups: Vec<Lookup>) -> Result<Table, RoutingError> {
    let around = around();
    let _in_runtime = around.runtime.enter();
    Table::load(&config(lookups), &SlotTable::unassigned(), 7, &around)
}

/// The shard of a name as a client types it.
async fn shard_of(table: &Table, raw: &str) -> Result<String, LookupError> {
    let user = canonical(&config(Vec::new()).routing, raw.as_bytes()).unwrap();
    let route = table.route(&Query::of_user(&user), |_| ()).await;
    route.map(|route| route.shard.to_string())
}

struct UsersFile {
    directory: tempfile::TempDir,
}

impl UsersFile {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("users"), text).unwrap();
        Self { directory }
    }

    fn lookup(&self) -> Lookup {
        Lookup::Users { file: self.directory.path().join("users") }
    }
}

fn line_faults(text: impl AsRef<[u8]>) -> (Vec<LineFault>, usize, String) {
    let file = UsersFile::new(text);
    let error = load(vec![file.lookup()]).unwrap_err();
    let said = error.to_string();
    match error {
        RoutingError::Users(UsersError::Lines { faults, more, .. }) => (faults, more, said),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_users_file_routes_every_spelling_of_its_users() {
    let file = UsersFile::new(
        "# who is where\n\nbob north\n  Eve@Other.NET.\tsouth   # moved\r\n\
         o'neil@example.org south #\n",
    );
    let table = load(vec![file.lookup()]).unwrap();
    assert_eq!(shard_of(&table, "BOB@example.org").await.as_deref(), Ok("north"));
    assert_eq!(shard_of(&table, "bob").await.as_deref(), Ok("north"));
    assert_eq!(shard_of(&table, "eve@other.net").await.as_deref(), Ok("south"));
    assert_eq!(shard_of(&table, "O'Neil").await.as_deref(), Ok("south"));
    assert_eq!(shard_of(&table, "nobody").await, Err(LookupError::NoRoute));
}

#[tokio::test]
async fn a_route_names_the_user_and_the_generation() {
    let table = load(vec![Lookup::Shard(shard("south"))]).unwrap();
    let user = UserName::new("bob@example.org");
    let route = table.route(&Query::of_user(&user), |_| ()).await.unwrap();
    let (user, routing_key) = (user.clone(), user);
    let source = LookupSource::Shard;
    let (shard, backend) = (shard("south"), None);
    let expected = Route {
        shard,
        backend,
        user,
        routing_key,
        login: None,
        connect_timeout: None,
        not_before: None,
        generation: 7,
        source,
    };
    assert_eq!(route, expected);
    assert_eq!(table.generation(), 7);
}

#[tokio::test]
async fn the_first_lookup_that_knows_the_user_decides() {
    let file = UsersFile::new("bob south\n");
    let domains = vec![("Example.org.".to_owned(), shard("north"))];
    let table =
        load(vec![file.lookup(), Lookup::Domains(domains.clone()), Lookup::Shard(shard("south"))])
            .unwrap();
    assert_eq!(shard_of(&table, "bob").await.as_deref(), Ok("south"));
    assert_eq!(shard_of(&table, "eve@EXAMPLE.ORG").await.as_deref(), Ok("north"));
    assert_eq!(shard_of(&table, "a@b@example.org").await.as_deref(), Ok("north"));
    assert_eq!(shard_of(&table, "eve@example.net").await.as_deref(), Ok("south"));
    let table = load(vec![Lookup::Domains(domains)]).unwrap();
    assert_eq!(shard_of(&table, "eve@sub.example.org").await, Err(LookupError::NoRoute));
}

#[tokio::test]
async fn hashed_users_follow_the_slot_table() {
    let shards = [shard("north"), shard("south")];
    let slots = SlotTable::planned(&Snapshot::default(), &shards).unwrap();
    let lookups = vec![Lookup::Hash { shards: shards.to_vec() }];
    let table = Table::load(&config(lookups), &slots, 1, &around()).unwrap();
    // Golden slots: 7275 is in the first half, 15753 in the second.
    assert_eq!(shard_of(&table, "bob@example.org").await.as_deref(), Ok("north"));
    assert_eq!(shard_of(&table, "user0001@mail.example.com").await.as_deref(), Ok("south"));
}

#[test]
fn a_hash_lookup_needs_its_slots_and_their_shards() {
    let lookup = Lookup::Hash { shards: vec![shard("north")] };
    assert!(matches!(load(vec![lookup.clone()]), Err(RoutingError::SlotsUnassigned)));
    let two = load(vec![lookup.clone(), lookup.clone()]);
    assert!(matches!(two, Err(RoutingError::TwoHashLookups)));
    let gone = [shard("north"), shard("gone")];
    let slots = SlotTable::planned(&Snapshot::default(), &gone).unwrap();
    let error = Table::load(&config(vec![lookup]), &slots, 1, &around()).unwrap_err();
    assert!(error.to_string().contains("\"gone\""), "{error}");
    assert_eq!(error.reason(), "shards_gone");
}

#[test]
fn unknown_shards_and_bad_domains_are_named() {
    for (lookup, said) in [
        (Lookup::Shard(shard("east")), "the shard lookup names"),
        (Lookup::Hash { shards: vec![shard("east")] }, "the hash lookup names"),
        (Lookup::Domains(vec![("x.org".into(), shard("east"))]), "the domains lookup names"),
    ] {
        let error = load(vec![lookup]).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("east"), "{error}");
    }
    let domains = |list: &[&str]| {
        let list = list.iter().map(|domain| ((*domain).to_owned(), shard("north"))).collect();
        load(vec![Lookup::Domains(list)]).unwrap_err()
    };
    let twice = domains(&["x.org", "y.org", "X.ORG."]);
    assert!(matches!(twice, RoutingError::DoubledDomain { domain } if domain == "X.ORG."));
    let bad = domains(&["*.org"]);
    assert!(matches!(bad, RoutingError::BadDomain { source: NameError::Forbidden('*'), .. }));
}

#[test]
fn every_wrong_line_of_a_users_file_is_named() {
    let (faults, more, said) = line_faults(
        b"bob north\neve east\nbob@EXAMPLE.org south\nalone\n# fine\na b c\nb*b north\n\xf6 north\n\
          user # north\n",
    );
    let bob = UserName::new("bob@example.org");
    let expected = [
        (2, 5, LineProblem::UnknownShard("east".to_owned())),
        (3, 1, LineProblem::Doubled { user: bob, line: 1 }),
        (4, 6, LineProblem::NoShard),
        (6, 5, LineProblem::MoreWords),
        (7, 1, LineProblem::Name(NameError::Forbidden('*'))),
        (8, 1, LineProblem::Name(NameError::NonAscii)),
        (9, 5, LineProblem::NoShard),
    ];
    let found = faults.into_iter().map(|fault| (fault.line, fault.column, fault.problem));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert_eq!(more, 0);
    let doubled = "users:3:1: the user bob@example.org is there twice\n  \
                   3 | bob@EXAMPLE.org south\n    \
                   | ^\n  \
                   expected each user once, in whatever spelling; the first is on line 1\n";
    assert!(said.contains(doubled), "{said}");
}

#[test]
fn at_most_twenty_wrong_lines_are_named() {
    let (faults, more, _) = line_faults("alone\n".repeat(20));
    assert_eq!((faults.len(), more), (20, 0));
    let (faults, more, said) = line_faults("alone\n".repeat(25));
    assert_eq!((faults.len(), more), (20, 5));
    assert!(said.ends_with("users: and 5 more lines are wrong"), "{said}");
}

#[tokio::test]
async fn a_long_line_is_one_fault_and_the_next_lines_count_on() {
    let long = "x".repeat(100_000);
    let (faults, _, _) = line_faults(format!("bob north\n{long}\neve east\n{long}"));
    let lines: Vec<u32> = faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [2, 3, 4]);
    assert_eq!(faults[0].problem, LineProblem::TooLong);
    // 1024 bytes are not too long, with or without the end of the line.
    let comment = "#".repeat(1024 - "bob north ".len());
    for end in ["\n", ""] {
        let file = UsersFile::new(format!("bob north {comment}{end}"));
        let table = load(vec![file.lookup()]).unwrap();
        assert_eq!(shard_of(&table, "bob").await.as_deref(), Ok("north"));
    }
}

#[test]
fn a_users_file_that_cannot_be_read_is_named() {
    let lookup = |path: &Path| Lookup::Users { file: path.to_owned() };
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("absent"), directory.path().to_owned()] {
        let error = load(vec![lookup(&path)]).unwrap_err();
        assert!(matches!(error, RoutingError::Users(UsersError::Unreadable { .. })));
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn a_hundred_thousand_users_are_all_found() {
    let mut text = String::new();
    for number in 0..100_000 {
        let shard = if number % 3 == 0 { "south" } else { "north" };
        writeln!(text, "user{number}@example.org {shard}").unwrap();
    }
    let table = load(vec![UsersFile::new(text).lookup()]).unwrap();
    for number in (0..100_000).step_by(7) {
        let expected = if number % 3 == 0 { "south" } else { "north" };
        let found = shard_of(&table, &format!("USER{number}")).await;
        assert_eq!(found.as_deref(), Ok(expected));
    }
    assert_eq!(shard_of(&table, "user100000").await, Err(LookupError::NoRoute));
}

/// A directory that says the same of everybody; with the second it checks passwords.
#[derive(Debug)]
struct Says(SourceResult, bool);

impl RemoteSource for Says {
    fn label(&self) -> LookupSource {
        LookupSource::Domains
    }

    fn depends_on_password(&self) -> bool {
        self.1
    }

    fn lookup<'a>(&'a self, _: &'a Query<'a>) -> Pending<'a> {
        Box::pin(std::future::ready(self.0.clone()))
    }
}

fn remote(says: SourceResult, on_failure: OnFailure) -> Link {
    remote_by(Says(says, false), on_failure)
}

fn remote_by(says: Says, on_failure: OnFailure) -> Link {
    let guard = LookupGuard { on_failure, ..LookupGuard::default() };
    let around = around();
    let breakers = around.metrics.logins.breakers(LookupSource::Domains);
    let shards = [shard("north"), shard("south")].into();
    Link::Remote(Guarded::new(Arc::new(says), guard, shards, around.runtime, breakers))
}

fn down() -> SourceResult {
    Err(SourceFailure::new(FailureReason::Connect, "on purpose"))
}

/// What a chain of lookups makes of a user, and what each said.
async fn route(links: Vec<Link>) -> (Result<Route, LookupError>, Vec<LookupResult>) {
    let table = table_of(links);
    let mut steps = Vec::new();
    let user = UserName::new("bob");
    let route = table.route(&Query::of_user(&user), |step| steps.push(step.result)).await;
    (route, steps)
}

fn everybody_on(name: &str) -> Link {
    Link::Memory(Source::Shard(shard(name)))
}

#[tokio::test]
async fn a_failed_lookup_is_unavailable_unless_the_next_may_answer() {
    let (lookup, reason) = (LookupSource::Domains, FailureReason::Connect);
    let unavailable = LookupError::Unavailable { lookup, reason };
    let (refused, steps) =
        route(vec![remote(down(), OnFailure::Unavailable), everybody_on("south")]).await;
    assert_eq!((refused, steps), (Err(unavailable.clone()), vec![LookupResult::Failed]));
    let (next, steps) = route(vec![remote(down(), OnFailure::Next), everybody_on("south")]).await;
    assert_eq!(next.unwrap().shard, shard("south"));
    assert_eq!(steps, [LookupResult::Failed, LookupResult::Found]);
    // An outage does not look like an unknown user.
    let none = remote(Ok(None), OnFailure::Unavailable);
    let (nobody, steps) = route(vec![remote(down(), OnFailure::Next), none]).await;
    assert_eq!((nobody, steps.len()), (Err(unavailable), 2));
    let (nobody, _) = route(vec![remote(Ok(None), OnFailure::Next)]).await;
    assert_eq!(nobody, Err(LookupError::NoRoute));
}

/// The directory knows the user: another lookup's word would be wrong.
#[tokio::test]
async fn an_answer_that_cannot_be_used_is_passed_over_by_no_policy() {
    let gone = Ok(Some(Found::on(shard("gone"))));
    let (refused, _) = route(vec![remote(gone, OnFailure::Next), everybody_on("south")]).await;
    assert_eq!(refused.unwrap_err().reason(), "lookup_unknown_shard");
}

#[tokio::test]
async fn a_directory_may_name_another_user_a_key_and_a_backend() {
    let found = Found {
        backend: Some(BackendId::new("n1")),
        user: Some(UserName::new("robert")),
        ..Found::on(shard("north"))
    };
    let keyed = Found { routing_key: Some(UserName::new("family")), ..found.clone() };
    for (found, key) in [(found, "robert"), (keyed, "family")] {
        let (route, _) = route(vec![remote(Ok(Some(found)), OnFailure::Next)]).await;
        let route = route.unwrap();
        assert_eq!((route.user.as_str(), route.routing_key.as_str()), ("robert", key));
        assert_eq!(route.backend, Some(BackendId::new("n1")));
    }
}

#[tokio::test]
async fn the_key_is_the_user_or_his_domain_where_no_lookup_says_it() {
    use crate::config::RoutingKey;
    use crate::routing::overrides::{pin_key, pin_value};
    use crate::store::Change;

    let alias = Found { user: Some(UserName::new("rob@b@b.org")), ..Found::on(shard("north")) };
    let keyed = Found { routing_key: Some(UserName::new("family")), ..alias.clone() };
    let cases = [
        (Found::on(shard("north")), "kim@a.org", "kim@a.org", "a.org"),
        (Found::on(shard("north")), "kim", "kim", "kim"),
        (alias, "kim@a.org", "rob@b@b.org", "b.org"),
        (keyed, "kim@a.org", "family", "family"),
    ];
    for (found, user, by_user, by_domain) in cases {
        for (routing_key, key) in [(RoutingKey::User, by_user), (RoutingKey::Domain, by_domain)] {
            let links = vec![remote(Ok(Some(found.clone())), OnFailure::Next)];
            let table = Table { routing_key, ..table_of(links) };
            let user = UserName::new(user);
            let route = table.route(&Query::of_user(&user), |_| ()).await.unwrap();
            assert_eq!(route.routing_key.as_str(), key, "{routing_key:?} of {user}");
        }
    }
    // Who is pinned shares the place of his domain there.
    let (user, pins) = (UserName::new("kim@a.org"), Overrides::default());
    let (key, value) = (pin_key(&user), pin_value(&shard("south")));
    pins.apply(&Change::Put { key, value }).unwrap();
    let table = Table {
        shards: [shard("north"), shard("south")].into(),
        routing_key: RoutingKey::Domain,
        ..table_of(vec![everybody_on("north")]).with_pins(Arc::new(pins))
    };
    let route = table.route(&Query::of_user(&user), |_| ()).await.unwrap();
    assert_eq!((route.shard.as_str(), route.routing_key.as_str()), ("south", "a.org"));
}

#[tokio::test]
async fn a_table_takes_over_what_did_not_change() {
    let lookup = || Lookup::Shard(shard("north")); // Stands for the directory's configuration.
    let table = table_of(vec![remote(down(), OnFailure::Next)]);
    let former = table.former(Arc::new(config(vec![lookup()])));
    assert!(former.known(&config(vec![lookup()]), &lookup()).is_some());
    let other = Lookup::Shard(shard("south"));
    assert!(former.known(&config(vec![other.clone()]), &other).is_none());
    let mut names = config(vec![lookup()]);
    names.routing.default_domain = None;
    assert!(former.known(&names, &lookup()).is_none(), "other names, other answers");
    let mut shards = config(vec![lookup()]);
    assert!(former.has_same_places(&shards, &table.resolver));
    assert!(!former.has_same_places(&shards, &around().resolver), "other name servers");
    shards.shards.pop();
    assert!(former.known(&shards, &lookup()).is_some());
    assert!(!former.has_same_places(&shards, &table.resolver));
}

/// What a directory can mean by a place, and nothing else of the shards.
#[test]
fn places_are_the_shards_and_where_their_backends_are() {
    let parsed = |backend: &str| {
        let text = format!(
            "listeners: [ {{ name: i, address: \"127.0.0.1:143\", tls: none }} ]\n\
             shards: {{ s: {{ kind: shared, backends: [ {{ {backend} }} ] }} }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n"
        );
        Config::parse(Path::new("p.yaml"), &text).unwrap()
    };
    let was = parsed("name: a, address: \"a.internal:143\", tls: none");
    for (is, same) in [
        ("name: a, address: \"a.internal:143\", tls: none, weight: 7, state: drain", true),
        ("name: b, address: \"a.internal:143\", tls: none", true),
        ("name: a, address: \"a.internal:143\", tls: starttls", false),
        ("name: a, address: \"a.internal:144\", tls: none", false),
        ("name: a, address: \"b.internal:143\", tls: none", false),
    ] {
        assert_eq!(same_places(&was, &parsed(is)), same, "{is}");
    }
}

fn table_of(links: Vec<Link>) -> Table {
    let resolver = around().resolver;
    let (shards, routing_key) = (Arc::from([]), config::RoutingKey::User);
    Table { pins: Arc::default(), links, shards, resolver, routing_key, generation: 1 }
}

#[tokio::test]
async fn a_pin_goes_before_all_lookups_and_one_to_a_shard_that_is_gone_is_an_outage() {
    use crate::routing::overrides::{pin_key, pin_value};
    use crate::store::Change;

    let pins = Arc::new(Overrides::default());
    let shard = Source::Shard(ShardId::new("north"));
    let resolver = around().resolver;
    let table = Table {
        resolver,
        pins: Arc::clone(&pins),
        links: vec![Link::Memory(shard)],
        shards: Arc::from([ShardId::new("north"), ShardId::new("south")]),
        routing_key: config::RoutingKey::User,
        generation: 1,
    };
    let anna = UserName::new("anna");
    let ask = async || {
        let mut steps = Vec::new();
        let query = Query::of_user(&anna);
        let route = table.route(&query, |step| steps.push((step.place, step.source))).await;
        (route.map(|route| route.shard.to_string()), steps)
    };
    assert_eq!(ask().await, (Ok("north".to_owned()), vec![(Some(0), LookupSource::Shard)]));
    let pin =
        |shard: &str| Change::Put { key: pin_key(&anna), value: pin_value(&ShardId::new(shard)) };
    pins.apply(&pin("south")).unwrap();
    assert_eq!(ask().await, (Ok("south".to_owned()), vec![(None, LookupSource::Pins)]));
    pins.apply(&pin("west")).unwrap();
    let (lookup, reason) = (LookupSource::Pins, FailureReason::UnknownShard);
    assert_eq!(ask().await.0, Err(LookupError::Unavailable { lookup, reason }));
}

/// Else a pin of an alias would part its sessions from those of the mailbox's other names, and
/// a pin of anybody would let him in whose password was not checked.
#[tokio::test]
async fn a_pin_decides_the_shard_and_nothing_else_of_what_a_directory_says() {
    use crate::routing::overrides::{pin_key, pin_value};
    use crate::store::Change;

    let found = Found {
        backend: Some(BackendId::new("n1")),
        user: Some(UserName::new("robert")),
        routing_key: Some(UserName::new("family")),
        ..Found::on(shard("north"))
    };
    let refused = || Err(SourceFailure::new(FailureReason::Refused, "wrong password"));
    let route_of = async |says: Says, pinned: &[&str]| {
        let pins = Overrides::default();
        for user in pinned {
            let (key, value) = (pin_key(&UserName::new(*user)), pin_value(&shard("south")));
            pins.apply(&Change::Put { key, value }).unwrap();
        }
        let table = Table {
            shards: [shard("north"), shard("south")].into(),
            ..table_of(vec![remote_by(says, OnFailure::Unavailable)]).with_pins(Arc::new(pins))
        };
        let user = UserName::new("bob");
        table.route(&Query::of_user(&user), |_| ()).await
    };
    for pinned in [&["bob"], &["robert"]] {
        let route = route_of(Says(Ok(Some(found.clone())), false), pinned).await.unwrap();
        assert_eq!((route.shard, route.backend), (shard("south"), None), "{pinned:?}");
        assert_eq!((route.user.as_str(), route.routing_key.as_str()), ("robert", "family"));
        assert_eq!(route.source, LookupSource::Pins);
    }
    let unknown = route_of(Says(Ok(None), false), &["bob"]).await.unwrap();
    assert_eq!((unknown.shard, unknown.user.as_str()), (shard("south"), "bob"));
    let told = route_of(Says(refused(), false), &["bob"]).await.unwrap_err();
    assert!(matches!(told, LookupError::Refused { .. }), "{told:?}");
    let told = route_of(Says(down(), false), &["bob"]).await.unwrap_err();
    assert!(matches!(told, LookupError::Unavailable { .. }), "it may be another's mailbox");
    let told = route_of(Says(Ok(None), true), &["bob"]).await.unwrap_err();
    assert!(!matches!(told, LookupError::Refused { .. }), "{told:?}");
}
