//! No metric value stands in the documents alone: each member of each closed set is driven
//! through the binary, and moves. A new member does not compile before it has its way here.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and servers run on the real clock"
)]

mod support;

use std::sync::LazyLock;
use std::time::Duration;

use pointsman::metrics::{
    CommandStatus, Direction, Limit, LoginMechanism, LoginResult, LookupResult, LookupSource,
    ReloadResult, Stage,
};
use support::backend::{Backend, Opening};
use support::client::Client;
use support::clock::MovedClock;
use support::ordinary::Ordinary;
use support::pointsman::{Metrics, Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const LIMIT_HITS: &str = "pointsman_limit_hits_total";
const LOGINS: &str = "pointsman_logins_total";

fn shard_behind(backend: &Backend, settings: &str) -> String {
    format!(
        "shards:\n  s: {{ kind: shared, backends: \
         [ {{ name: b, address: \"{}\", {settings} }} ] }}\n",
        backend.address()
    )
}

fn shard(backend: &Backend) -> String {
    shard_behind(backend, "tls: none") + "routing: { lookups: [ { shard: s } ] }\n"
}

fn limited(places: &Places, limits: &str) -> String {
    format!("{}limits: {{ {limits} }}\n", places.head_without_limits())
}

/// A proxy in front of one backend, what its clients did, and the clients that are still there.
struct Scene {
    backend: Backend,
    proxy: Pointsman,
    clients: Vec<Client>,
}

impl Scene {
    fn new(limits: &str) -> Self {
        Self::before(Backend::ordinary(), limits)
    }

    fn before(backend: Backend, limits: &str) -> Self {
        let proxy =
            Pointsman::start(&AUTHORITY, |places| limited(places, limits) + &shard(&backend));
        Self { backend, proxy, clients: Vec::new() }
    }

    /// Where the backend takes only so much.
    fn with_room(backend: Backend, room: &str, upstream: &str) -> Self {
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            let shard = shard_behind(&backend, &format!("tls: none, {room}"));
            places.head() + upstream + &shard + "routing: { lookups: [ { shard: s } ] }\n"
        });
        Self { backend, proxy, clients: Vec::new() }
    }

    /// With room for 44 descriptors of sessions.
    fn small(limits: &str) -> Self {
        let backend = Backend::ordinary();
        let proxy = Pointsman::start_limited(&AUTHORITY, 300, |places| {
            limited(places, limits) + &shard(&backend)
        });
        Self { backend, proxy, clients: Vec::new() }
    }

    fn connect(mut self, count: usize) -> Self {
        let clear = self.proxy.places().clear;
        self.clients.extend((0..count).map(|_| Client::connect(clear).unwrap()));
        self
    }

    fn log_in(mut self, user: &str) -> Self {
        self.clients.push(self.proxy.logged_in(user, "secret"));
        self
    }

    /// One login with LOGIN, whatever comes of it.
    fn try_login(mut self, user: &str, password: &str, answer: &str) -> Self {
        let mut client = self.proxy.client();
        let told = client.try_login(user, password).status;
        assert!(told.starts_with(answer), "{told}");
        self.clients.push(client);
        self
    }

    /// Bytes on a fresh connection, and the start of the line that they must bring.
    fn say(mut self, bytes: impl AsRef<[u8]>, answer: &str) -> Self {
        let mut client = self.proxy.client();
        let _ = client.wire().write(bytes.as_ref());
        client.expect(answer);
        self.clients.push(client);
        self
    }

    fn assert_moved(&self, family: &str, label: &str, value: &str) {
        self.proxy.wait_for_metrics(&format!("{family} {label}={value}"), |now| {
            now.sum(family, &[(label, value)]) > 0.0
        });
    }
}

/// Answers logins late.
fn slow() -> Backend {
    Ordinary::new().delay("AUTHENTICATE", Duration::from_secs(3)).start()
}

/// Passwords choose the backend's answer.
fn by_password() -> Backend {
    Ordinary::new().verdict(|_, password| String::from_utf8_lossy(password).into_owned()).start()
}

/// A login under way while another one comes.
fn two_logins_at_once(before: impl Fn(Backend) -> Scene) -> Scene {
    let mut scene = before(slow());
    let mut first = scene.proxy.client();
    let tag = first.send_command("LOGIN anna secret");
    scene
        .proxy
        .wait_for_metrics("one login is held", |now| now.sum("pointsman_held_sessions", &[]) > 0.5);
    scene = scene.try_login("bert", "secret", "NO [UNAVAILABLE] ");
    assert!(first.read_response(&tag).is_ok());
    scene.log_in("bert")
}

/// Commands of literals that are small each and too much together.
fn many_literals() -> Vec<u8> {
    let literal = [b" {8000+}\r\n".to_vec(), vec![b'v'; 8_000]].concat();
    [b"a ID (\"k\"".to_vec(), literal.repeat(9)].concat()
}

/// A session that says nothing for 36 minutes, of which the test waits for none.
fn idle_for_36_minutes() -> Scene {
    let backend = Backend::ordinary();
    let clock = MovedClock::new();
    let environment = clock.environment();
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let proxy = Pointsman::start_with(&AUTHORITY, &environment, |places| {
        limited(places, "idle: 35m") + &shard(&backend)
    });
    let mut idle = proxy.logged_in("anna", "secret");
    clock.move_by("+36m");
    // Others wake the workers, which then look at their clock.
    let mut clients: Vec<Client> =
        (0..4).map(|_| Client::connect(proxy.places().clear).unwrap()).collect();
    idle.expect("* BYE [UNAVAILABLE] Idle");
    clients.push(idle);
    Scene { backend, proxy, clients }
}

fn run_into(limit: Limit) -> Scene {
    match limit {
        Limit::Sessions => {
            let full = (0..22).fold(Scene::small("login_tries: 5"), |scene, number| {
                scene.log_in(&format!("user{number}"))
            });
            full.connect(1)
        }
        Limit::Unauthenticated => Scene::small("unauthenticated_per_address: 1000").connect(30),
        Limit::UnauthenticatedPerAddress => Scene::new("unauthenticated_per_address: 1").connect(2),
        Limit::SessionsPerListener => {
            let backend = Backend::ordinary();
            let proxy = Pointsman::start(&AUTHORITY, |places| {
                let one = "allow_clear_login: true, sessions_max: 1";
                places.head().replace("allow_clear_login: true", one) + &shard(&backend)
            });
            Scene { backend, proxy, clients: Vec::new() }.connect(2)
        }
        Limit::SessionsPerUser => {
            Scene::new("sessions_per_user: 1").log_in("a").try_login("a", "secret", "NO [LIMIT] ")
        }
        Limit::SessionsPerUserAddress => Scene::new("sessions_per_user_address: 1")
            .log_in("anna")
            .try_login("anna", "secret", "NO [LIMIT] "),
        Limit::HeldLogins => two_logins_at_once(|backend| Scene::before(backend, "held_logins: 1")),
        Limit::LoginQueue => two_logins_at_once(|backend| {
            Scene::with_room(backend, "logins_max: 1", "upstream: { login_queue: 0 }\n")
        }),
        Limit::BackendSessions => Scene::with_room(Backend::ordinary(), "sessions_max: 1", "")
            .log_in("anna")
            .try_login("bert", "secret", "NO [UNAVAILABLE] "),
        Limit::LoginTries => Scene::before(by_password(), "login_tries: 1, failed_login_delay: 0s")
            .try_login("anna", "NO wrong", "NO [AUTHENTICATIONFAILED] "),
        Limit::SyntaxErrors => Scene::new("syntax_errors: 1").say("a XYZZY\r\n", "a BAD"),
        Limit::LineBytes => Scene::new("login_tries: 5").say(vec![b'A'; 9_000], "* BYE"),
        Limit::LiteralBytes => Scene::new("login_tries: 5").say("a LOGIN a {9000}\r\n", "a BAD"),
        Limit::CommandBytes => Scene::new("login_tries: 5").say(many_literals(), "* BYE"),
        Limit::UserNameBytes => Scene::new("failed_login_delay: 0s").try_login(
            &"u".repeat(321),
            "secret",
            "NO [AUTHENTICATIONFAILED] ",
        ),
        Limit::LoginDeadline => Scene::new("login_deadline: 100ms").connect(1),
        Limit::Idle => idle_for_36_minutes(),
    }
}

#[test]
fn every_limit_counts_what_it_refuses() {
    for &limit in Limit::ALL {
        let scene = run_into(limit);
        scene.assert_moved(LIMIT_HITS, "limit", limit.label());
    }
}

/// The client leaves while the backend thinks.
fn leave_early() -> Scene {
    let scene = Scene::before(slow(), "login_tries: 5");
    let mut client = scene.proxy.client();
    client.send("a LOGIN anna secret\r\n");
    scene.proxy.wait_for_metrics("the login is under way", |now| {
        now.sum("pointsman_held_sessions", &[]) > 0.5
    });
    drop(client);
    scene
}

fn without_a_mechanism() -> Backend {
    Ordinary::new().capability("IMAP4rev1 LOGINDISABLED AUTH=GSSAPI").start()
}

fn end_with(result: LoginResult) -> Scene {
    let answering = || Scene::before(by_password(), "failed_login_delay: 0s");
    match result {
        LoginResult::Ok => Scene::new("login_tries: 5").log_in("anna"),
        LoginResult::AuthFailed => answering().try_login("anna", "NO bad", "NO [AUTHENTICATION"),
        LoginResult::Refused => answering().try_login("anna", "NO [EXPIRED] x", "NO [EXPIRED]"),
        LoginResult::Unavailable => answering().try_login("anna", "BAD x", "NO [UNAVAILABLE]"),
        LoginResult::Limit => answering().try_login("anna", "NO [LIMIT] x", "NO [LIMIT]"),
        LoginResult::Privacy => {
            let scene = Scene::new("login_tries: 5");
            let mut client = Client::clear(scene.proxy.places().imap);
            assert!(client.try_login("anna", "secret").status.starts_with("NO [PRIVACY"));
            scene
        }
        LoginResult::Cancelled => {
            Scene::new("login_tries: 5").say("a AUTHENTICATE PLAIN\r\n*\r\n", "+ ")
        }
        LoginResult::Malformed => {
            Scene::new("login_tries: 5").say("a AUTHENTICATE PLAIN AAAA\r\n", "a BAD")
        }
        LoginResult::NotOffered => {
            Scene::new("login_tries: 5").say("a AUTHENTICATE GSSAPI\r\n", "a NO [CANNOT]")
        }
        LoginResult::ClientGone => leave_early(),
        LoginResult::ServerBug => Scene::before(without_a_mechanism(), "login_tries: 5").try_login(
            "anna",
            "secret",
            "NO [SERVERBUG]",
        ),
    }
}

#[test]
fn every_result_of_a_login_is_counted_as_itself() {
    for &result in LoginResult::ALL {
        let scene = end_with(result);
        scene.assert_moved(LOGINS, "result", result.label());
        let all = scene.proxy.metrics().sum(LOGINS, &[]);
        assert!((all - 1.0).abs() < 0.5, "{}: {all} logins", result.label());
    }
}

/// LOGIN and two mechanisms, offered by the clear listener.
fn offering_both() -> Scene {
    let backend = by_password();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let both = "allow_clear_login: true, mechanisms: [PLAIN, LOGIN]";
        places.head().replace("allow_clear_login: true", both) + &shard(&backend)
    });
    Scene { backend, proxy, clients: Vec::new() }
}

/// A mechanism that the clear listener of [`offering_both`] does not offer.
fn refused_here(name: &str) -> (String, Vec<&'static str>) {
    (format!("AUTHENTICATE {name}"), vec!["privacy", "not_offered"])
}

/// What is refused, cancelled or not readable carries its mechanism too.
#[test]
fn every_way_to_sign_in_is_counted_as_itself_whatever_comes_of_it() {
    for &mechanism in LoginMechanism::ALL {
        let (command, others) = match mechanism {
            LoginMechanism::Login => ("LOGIN anna {4}\r\n".to_owned(), vec!["privacy"]),
            LoginMechanism::Plain => {
                ("AUTHENTICATE PLAIN".to_owned(), vec!["privacy", "cancelled", "malformed"])
            }
            LoginMechanism::SaslLogin => {
                ("AUTHENTICATE LOGIN".to_owned(), vec!["privacy", "cancelled", "malformed"])
            }
            LoginMechanism::ScramSha256 => refused_here("SCRAM-SHA-256"),
            LoginMechanism::ScramSha1 => refused_here("SCRAM-SHA-1"),
            LoginMechanism::OAuthBearer => refused_here("OAUTHBEARER"),
            LoginMechanism::XOAuth2 => refused_here("XOAUTH2"),
            LoginMechanism::Other => refused_here("XYZZY"),
        };
        let scene = offering_both();
        Client::clear(scene.proxy.places().imap).send(format!("a {command}\r\n"));
        if mechanism == LoginMechanism::Login {
            scene.assert_moved(LOGINS, "mechanism", mechanism.label());
        } else {
            let scene = scene.say(format!("a {command}\r\n*\r\n"), "");
            let scene = scene.say(format!("a {command}\r\n!\r\n"), "");
            for result in others {
                let labels = [("mechanism", mechanism.label()), ("result", result)];
                scene
                    .proxy
                    .wait_for_metrics(&format!("{labels:?}"), |now| now.sum(LOGINS, &labels) > 0.5);
            }
            let strays = scene.proxy.metrics().sum(LOGINS, &[])
                - scene.proxy.metrics().sum(LOGINS, &[("mechanism", mechanism.label())]);
            assert!(strays < 0.5, "{}: {strays}", mechanism.label());
        }
    }
}

fn routed_by(lookups: &str) -> Scene {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        std::fs::write(places.file("users"), "anna s\n").unwrap();
        let lookups = lookups.replace("USERS", &places.file("users").to_string_lossy());
        limited(places, "failed_login_delay: 0s")
            + &shard_behind(&backend, "tls: none")
            + &format!("routing: {{ lookups: [ {lookups} ] }}\n")
    });
    Scene { backend, proxy, clients: Vec::new() }
}

#[test]
fn every_lookup_and_what_it_said_is_timed_as_itself() {
    for &source in LookupSource::ALL {
        let users = "users: { file: 'USERS' }";
        let (lookups, user, result) = match source {
            LookupSource::Pins => (format!("{{ {users} }}"), "carl", LookupResult::Found),
            LookupSource::Users => (format!("{{ {users} }}"), "anna", LookupResult::Found),
            LookupSource::Domains => (
                format!("{{ {users} }}, {{ domains: {{ x.org: s }} }}"),
                "bert@x.org",
                LookupResult::Found,
            ),
            LookupSource::Patterns => (
                format!("{{ {users} }}, {{ patterns: {{ 'b*@x.org': s }} }}"),
                "bert@x.org",
                LookupResult::Found,
            ),
            LookupSource::Hash => (
                format!("{{ {users} }}, {{ hash: {{ shards: [s] }} }}"),
                "bert",
                LookupResult::Found,
            ),
            LookupSource::Shard => ("{ shard: s }".to_owned(), "bert", LookupResult::Found),
            LookupSource::None => (format!("{{ {users} }}"), "bert", LookupResult::Miss),
            // Asked in `tests/directories`, where their servers are.
            LookupSource::AuthHttp
            | LookupSource::Ldap
            | LookupSource::Redis
            | LookupSource::Sql => continue,
        };
        let found = result == LookupResult::Found;
        let answer = if found { "OK " } else { "NO [AUTHENTICATIONFAILED]" };
        let scene = routed_by(&lookups);
        scene.proxy.operate_ok(&["pin", "carl", "s"]);
        let scene = scene.try_login(user, "secret", answer);
        let labels = [("source", source.label()), ("result", result.label())];
        let now = scene.proxy.metrics();
        let count = |labels: &[(&str, &str)]| now.sum("pointsman_lookup_seconds_count", labels);
        assert!((count(&labels) - 1.0).abs() < 0.5, "{labels:?}");
        // Those before it were asked too.
        let first =
            matches!(source, LookupSource::Pins | LookupSource::Users | LookupSource::Shard);
        let asked = if first { 1.0 } else { 2.0 };
        assert!((count(&[]) - asked).abs() < 0.5, "{labels:?}: {asked} were asked");
    }
}

#[test]
fn every_stage_direction_status_and_reload_moves() {
    let scene = Scene::new("login_tries: 5");
    let mut client = Client::tls(scene.proxy.places().imaps, &AUTHORITY.client_config());
    client.login("anna", "secret");
    client.command_ok("NOOP");
    assert!(client.command("XYZZY").status.starts_with("BAD "));
    client.logout();
    for &stage in Stage::ALL {
        scene.assert_moved("pointsman_login_seconds_count", "stage", stage.label());
    }
    for &direction in Direction::ALL {
        scene.assert_moved("pointsman_bytes_total", "direction", direction.label());
    }
    for &result in ReloadResult::ALL {
        if result == ReloadResult::Refused {
            scene.proxy.rewrite(|_| "nonsense: 1\n".to_owned());
        }
        scene.proxy.reload();
        scene.assert_moved("pointsman_config_reloads_total", "result", result.label());
    }
    let refusing = Backend::start(Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
        peer.answer("AUTHENTICATE PLAIN", "{tag} OK [CAPABILITY IMAP4rev1] in\r\n")?;
        peer.answer("NOOP", "{tag} OK done\r\n")?;
        peer.answer("SELECT", "{tag} NO no such mailbox\r\n")?;
        peer.answer("XYZZY", "{tag} BAD what\r\n")?;
        peer.hang()
    });
    let scene = Scene::before(refusing, "login_tries: 5");
    let mut client = scene.proxy.logged_in("anna", "secret");
    for command in ["NOOP", "SELECT x", "XYZZY"] {
        client.command(command);
    }
    for &status in CommandStatus::ALL {
        scene.assert_moved("pointsman_commands_total", "status", status.label());
    }
    scene.backend.assert_no_faults();
}

fn seconds_of(now: &Metrics, stage: &str) -> f64 {
    now.sum("pointsman_login_seconds_sum", &[("stage", stage)])
}

/// The client's own time of a second try begins with the answer to the first.
#[test]
fn the_clients_time_is_without_the_logins_before_it() {
    let scene = Scene::before(by_password(), "failed_login_delay: 2s");
    let mut client = scene.proxy.client();
    for _ in 0..2 {
        assert!(client.try_login("anna", "NO wrong").status.starts_with("NO [AUTH"));
    }
    let spent = seconds_of(&scene.proxy.metrics(), "client");
    assert!(spent < 1.9, "{spent} s");
}

/// What went out before a session was cut off in the middle of a write is counted.
#[test]
fn bytes_of_a_write_that_was_cut_off_count() {
    const MAIL_BYTES: usize = 30_000_000;
    let backend = Ordinary::new().mails(vec![support::large_mail(MAIL_BYTES)]).start();
    let scene = Scene::before(backend, "login_tries: 5");
    let mut client = scene.proxy.logged_in("anna", "secret");
    client.command_ok("SELECT INBOX");
    client.send_command("FETCH 1 BODY[]");
    let read = client.read_exactly(1_000_000).len();
    let socket = client.wire().socket();
    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    scene.assert_moved("pointsman_sessions_closed_total", "reason", "client_reset");
    scene.proxy.wait_for_log("bytes_to_client=");
    let log = scene.proxy.log();
    let ended = log.lines().find(|line| line.contains("session ended")).unwrap();
    let (_, told) = ended.split_once("bytes_to_client=").unwrap();
    let told: f64 = told.split(' ').next().unwrap().parse().unwrap();
    let counted = scene
        .proxy
        .metrics()
        .sum("pointsman_bytes_total", &[("direction", Direction::ToClient.label())]);
    assert!((told - counted).abs() < 0.5, "{counted} counted, {told} told");
    assert!(counted >= f64::from(u32::try_from(read).unwrap()), "{counted}");
}

/// What the log says at the start is the cap, not the limit.
#[test]
fn the_cap_on_descriptors_is_told_at_the_start() {
    let scene = Scene::small("login_tries: 5");
    scene.proxy.wait_for_log("descriptors=44 ");
}
