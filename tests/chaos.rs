//! Three real servers over one storage under two hundred busy sessions, of which one is
//! killed, stopped, cut off or restarted: the sessions on the others lose nothing, no user is
//! on two servers at once, and who was there is back as soon as that is sure.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and real servers run on the real clock"
)]

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use support::client::Client;
use support::dovecot::{Dovecot, Settings};
use support::namespace::Namespace;
use support::pointsman::Pointsman;
use support::process::run;
use support::tls::Authority;
use support::{mail, wait_until};
use tempfile::TempDir;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// One scene at a time: each has hundreds of processes.
static STAGE: Mutex<()> = Mutex::new(());

const USERS: usize = 100;
const SESSIONS_PER_USER: usize = 2;
const PASSWORD: &str = "secret";
/// What a server's log writes in front of each line: seconds since 1970.
const CLOCK: &str = "log_timestamp = \"%s.%{usecs} \"\nservice imap {\n  process_min_avail = 0\n}";

/// How much later than a session's end its line may be stamped, in seconds: a process of its
/// own writes the log, and it has to get its turn on a busy machine.
const LOG_LAG: f64 = 0.2;

/// What one client did and saw.
#[derive(Default, Clone)]
struct Story {
    /// Mails that the server said it had taken.
    appended: usize,
    /// When its session was cut off, and when it had another.
    cuts: Vec<(Instant, Option<Instant>)>,
    /// The answers to logins that were refused.
    refused: Vec<String>,
}

struct Scene {
    servers: Vec<Dovecot>,
    proxy: Pointsman,
    users: Vec<String>,
    storage: TempDir,
    program: Program,
    stories: Arc<Mutex<HashMap<(String, usize), Story>>>,
    over: Arc<AtomicBool>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

/// A fence that kills all processes of the server that it is told of, when it may.
struct Program {
    folder: TempDir,
}

impl Program {
    fn new() -> Self {
        let program = Self { folder: support::temporary_folder("fence") };
        let at = program.folder.path().display().to_string();
        let text = format!(
            "#!/bin/sh\ncd '{at}' || exit 9\ntest -e go || exit 1\n\
             date +%s.%N > \"fenced-$POINTSMAN_BACKEND\"\n\
             group=$(cat \"$POINTSMAN_BACKEND\")\nkill -s KILL -- -\"$group\"\n\
             # One that is dead but not collected yet holds nothing.\n\
             while pgrep -r R,S,D,T -g \"$group\" >/dev/null; do sleep 0.05; done\n"
        );
        std::fs::write(program.path(), text).unwrap();
        std::fs::set_permissions(program.path(), PermissionsExt::from_mode(0o755)).unwrap();
        program
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("fence")
    }

    fn allow(&self) {
        std::fs::write(self.folder.path().join("go"), "").unwrap();
    }

    /// When it went about killing a server, in seconds since 1970.
    fn fenced_at(&self, backend: &str) -> Option<f64> {
        let file = self.folder.path().join(format!("fenced-{backend}"));
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    fn note_group(&self, backend: &str, group: u32) {
        std::fs::write(self.folder.path().join(backend), group.to_string()).unwrap();
    }
}

fn now_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

impl Scene {
    /// Three servers, the proxy and its busy users. The first server may be in a namespace.
    fn new(namespace: Option<&Namespace>) -> Self {
        let storage = support::temporary_folder("storage");
        let users: Vec<String> = (0..USERS).map(|number| format!("user{number}")).collect();
        let credentials: Vec<(&str, &str)> =
            users.iter().map(|user| (user.as_str(), PASSWORD)).collect();
        let settings = |listen: String| {
            Settings::new(&AUTHORITY, &credentials)
                .mail_folder(storage.path())
                .extra(&format!("{CLOCK}\n{listen}"))
        };
        let first = match namespace {
            None => settings(String::new()).start(),
            Some(namespace) => {
                let address = namespace.peer_address(0).ip();
                let settings = settings(format!("listen = 127.0.0.1, {address}"));
                namespace.inside(move || settings.start())
            }
        };
        let servers = vec![first, settings(String::new()).start(), settings(String::new()).start()];
        let program = Program::new();
        let host = namespace
            .map_or("127.0.0.1".to_owned(), |namespace| namespace.peer_address(0).ip().to_string());
        let mut hosts = vec![host];
        hosts.resize(3, "127.0.0.1".to_owned());
        let mut backends = String::new();
        for (number, (server, host)) in servers.iter().zip(&hosts).enumerate() {
            program.note_group(&format!("b{number}"), server.id());
            let port = server.imap().port();
            writeln!(
                backends,
                "      - {{ name: b{number}, address: \"{host}:{port}\", tls: none }}"
            )
            .unwrap();
        }
        let fence = program.path();
        let proxy = Pointsman::start(&AUTHORITY, |places| {
            format!(
                "{}limits: {{ exempt: [127.0.0.0/8], failed_login_delay: 100ms }}\n\
                 upstream: {{ connect_timeout: 1s, login_timeout: 5s }}\n\
                 shards:\n  s:\n    kind: shared\n    \
                 check: {{ mode: greeting, interval: 500ms, timeout: 1s, rise: 2, fall: 3 }}\n    \
                 slow_start: 0s\n    fence: {{ program: \"{}\", timeout: 10s }}\n    backends:\n\
                 {backends}routing: {{ lookups: [ {{ shard: s }} ], sticky: 0s }}\n",
                places.head_without_limits().replace("level: debug", "level: info"),
                fence.display()
            )
        });
        let mut scene = Self {
            servers,
            proxy,
            users,
            storage,
            program,
            stories: Arc::default(),
            over: Arc::default(),
            clients: Vec::new(),
        };
        scene.let_clients_in();
        scene
    }

    fn let_clients_in(&mut self) {
        for user in &self.users {
            for number in 0..SESSIONS_PER_USER {
                let key = (user.clone(), number);
                self.stories.lock().unwrap().insert(key.clone(), Story::default());
                let (stories, over) = (Arc::clone(&self.stories), Arc::clone(&self.over));
                let address = self.proxy.places().clear;
                self.clients.push(std::thread::spawn(move || {
                    Busy { address, key, stories, over }.live();
                }));
            }
        }
        let all = f64::from(u32::try_from(USERS * SESSIONS_PER_USER).unwrap());
        support_patience("all users are there", Duration::from_secs(60), || {
            self.sessions(None) > all - 0.5
        });
    }

    fn sessions(&self, backend: Option<&str>) -> f64 {
        let labels: Vec<(&str, &str)> = backend.map(|name| ("backend", name)).into_iter().collect();
        self.proxy.metrics().sum("pointsman_backend_sessions", &labels)
    }

    /// The users with a session on a server, as it says itself.
    fn users_on(&self, server: usize) -> HashSet<String> {
        self.servers[server].who().into_iter().collect()
    }

    fn story(&self, user: &str) -> Vec<Story> {
        let stories = self.stories.lock().unwrap();
        (0..SESSIONS_PER_USER).map(|number| stories[&(user.to_owned(), number)].clone()).collect()
    }

    /// Waits until all sessions of these users that were cut off are back.
    fn wait_until_back(&self, users: &HashSet<String>, within: Duration) {
        support_patience("the users are back", within, || {
            users
                .iter()
                .flat_map(|user| self.story(user))
                .all(|story| story.cuts.iter().all(|(_, back)| back.is_some()))
        });
    }

    /// Ends the play: nobody lost a mail, nobody else was cut off, nobody was in two places.
    fn finish(mut self, struck: &HashSet<String>, deaths: &[(usize, f64)]) {
        self.over.store(true, Ordering::SeqCst);
        for client in std::mem::take(&mut self.clients) {
            client.join().unwrap();
        }
        for user in &self.users {
            let stories = self.story(user);
            if !struck.contains(user) {
                assert!(stories.iter().all(|story| story.cuts.is_empty()), "{user} was cut off");
            }
            let said: usize = stories.iter().map(|story| story.appended).sum();
            let kept = mails_of(self.storage.path(), user);
            assert!(kept >= said, "{user}: {kept} mails of {said}");
            // A mail whose answer was lost with its server may have been taken.
            let unsure: usize = stories.iter().map(|story| story.cuts.len()).sum();
            assert!(kept <= said + unsure, "{user}: {kept} mails of {said}");
            let wrong = stories.iter().flat_map(|story| &story.refused);
            for answer in wrong {
                assert!(answer.starts_with("NO [UNAVAILABLE]"), "{user}: {answer}");
            }
        }
        let stays: Vec<Vec<Stay>> = self
            .servers
            .iter()
            .enumerate()
            .map(|(number, server)| {
                let died = deaths.iter().filter(|(at, _)| *at == number).map(|(_, when)| *when);
                stays(&server.log(), &died.collect::<Vec<_>>())
            })
            .collect();
        let seen: usize = stays.iter().map(Vec::len).sum();
        assert!(seen >= USERS * SESSIONS_PER_USER, "the logs know {seen} sessions");
        assert_eq!(overlaps(&stays), Vec::<String>::new());
    }
}

/// Waits for something that takes longer than most.
fn support_patience(what: &str, within: Duration, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < within, "waited {within:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Files in a user's INBOX.
fn mails_of(storage: &Path, user: &str) -> usize {
    let count = |folder: &str| {
        std::fs::read_dir(storage.join(user).join(folder)).map_or(0, Iterator::count)
    };
    count("cur") + count("new")
}

/// One client that always has something to do.
struct Busy {
    address: std::net::SocketAddr,
    key: (String, usize),
    stories: Arc<Mutex<HashMap<(String, usize), Story>>>,
    over: Arc<AtomicBool>,
}

impl Busy {
    fn live(&self) {
        while !self.over.load(Ordering::SeqCst) {
            let Some(mut session) = self.log_in() else {
                std::thread::sleep(Duration::from_millis(100 + fastrand::u64(0..200)));
                continue;
            };
            self.tell(|story| {
                if let Some((_, back)) = story.cuts.last_mut() {
                    back.get_or_insert(Instant::now());
                }
            });
            if self.work(&mut session).is_none() {
                self.tell(|story| story.cuts.push((Instant::now(), None)));
            }
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Story)) {
        what(self.stories.lock().unwrap().get_mut(&self.key).unwrap());
    }

    fn log_in(&self) -> Option<Client> {
        let mut client = Client::connect(self.address).ok()?;
        client.wire().read_line().ok()?;
        client.wire().write(format!("a LOGIN {} {PASSWORD}\r\n", self.key.0).as_bytes()).ok()?;
        client.wire().set_timeout(Duration::from_secs(30)).ok()?;
        let answer = read_tagged(&mut client, "a")?;
        if answer.starts_with("OK") {
            return Some(client);
        }
        self.tell(|story| story.refused.push(answer));
        None
    }

    /// Works until the end of the play; none where the session is cut off.
    fn work(&self, session: &mut Client) -> Option<()> {
        ask(session, "SELECT INBOX")?;
        while !self.over.load(Ordering::SeqCst) {
            let mail = mail("chaos");
            let head = format!("b APPEND INBOX {{{}+}}\r\n", mail.len());
            let bytes = [head.as_bytes(), &mail, b"\r\n"].concat();
            session.wire().write(&bytes).ok()?;
            assert!(read_tagged(session, "b")?.starts_with("OK"));
            self.tell(|story| story.appended += 1);
            for _ in 0..4 {
                ask(session, "NOOP")?;
                std::thread::sleep(Duration::from_millis(100 + fastrand::u64(0..200)));
            }
        }
        ask(session, "LOGOUT")
    }
}

fn ask(session: &mut Client, command: &str) -> Option<()> {
    session.wire().write(format!("c {command}\r\n").as_bytes()).ok()?;
    let answer = read_tagged(session, "c")?;
    assert!(answer.starts_with("OK"), "{command}: {answer}");
    Some(())
}

/// The tagged answer without its tag; none at the connection's end.
fn read_tagged(session: &mut Client, tag: &str) -> Option<String> {
    loop {
        let line = session.wire().read_line().ok()?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let Some(answer) = line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
            return Some(answer.to_owned());
        }
    }
}

/// A session as its server's log tells it, in seconds since 1970.
#[derive(Debug, Clone)]
struct Stay {
    user: String,
    from: f64,
    to: f64,
}

/// The sessions in a server's log. One without an end lasted until the server's next death.
fn stays(log: &str, deaths: &[f64]) -> Vec<Stay> {
    let mut open: BTreeMap<String, (String, f64)> = BTreeMap::new();
    let mut found = Vec::new();
    for line in log.lines() {
        let Some((when, text)) = line.split_once(' ') else { continue };
        let Ok(when) = when.parse::<f64>() else { continue };
        if let Some(rest) = text.split_once("Login: user=<").map(|(_, rest)| rest) {
            let user = rest.split('>').next().unwrap().to_owned();
            let session = between(rest, "session=<").unwrap();
            open.insert(session, (user, when));
        } else if text.starts_with("imap(") && text.contains("Disconnected: ")
            || text.contains("Connection closed")
        {
            let session = text.split("><").nth(1).and_then(|rest| rest.split('>').next());
            if let Some((user, from)) = session.and_then(|session| open.remove(session)) {
                found.push(Stay { user, from, to: when - LOG_LAG });
            }
        }
    }
    for (user, from) in open.into_values() {
        let to = deaths.iter().copied().filter(|death| *death >= from).fold(f64::MAX, f64::min);
        found.push(Stay { user, from, to });
    }
    found
}

fn between(text: &str, start: &str) -> Option<String> {
    let (_, rest) = text.split_once(start)?;
    rest.split('>').next().map(str::to_owned)
}

/// Users who were on two servers at once. The log has a login when the session is handed
/// to its process, and an end when that is through.
fn overlaps(servers: &[Vec<Stay>]) -> Vec<String> {
    let mut by_user: BTreeMap<&str, Vec<(usize, &Stay)>> = BTreeMap::new();
    for (number, stays) in servers.iter().enumerate() {
        for stay in stays {
            by_user.entry(&stay.user).or_default().push((number, stay));
        }
    }
    let mut found = Vec::new();
    for (user, stays) in by_user {
        for (at, (server, stay)) in stays.iter().enumerate() {
            for (other_server, other) in &stays[at + 1..] {
                if server != other_server && stay.from < other.to && other.from < stay.to {
                    found.push(format!("{user}: b{server} {stay:?}, b{other_server} {other:?}"));
                }
            }
        }
    }
    found
}

#[test]
fn users_of_a_server_that_is_killed_are_back_within_five_seconds() {
    let _one = STAGE.lock();
    let mut scene = Scene::new(None);
    let struck = scene.users_on(0);
    assert!(struck.len() > 10 && struck.len() < USERS, "{}", struck.len());
    // Their ends are not in the log: they came after this.
    let died = now_seconds();
    scene.servers[0].kill();
    let start = Instant::now();
    support_patience("the killed sessions were cut off", Duration::from_secs(10), || {
        struck.iter().all(|user| scene.story(user).iter().all(|story| !story.cuts.is_empty()))
    });
    assert_back_soon(&scene, &struck, start);
    // It comes back, and so may users.
    scene.servers[0].restart();
    scene.proxy.wait_for_metrics("the killed server is up again", |now| {
        now.sum("pointsman_backend_up", &[("backend", "b0")]) > 0.5
    });
    scene.finish(&struck, &[(0, died)]);
}

#[test]
fn a_server_that_is_killed_and_at_once_started_again_cuts_off_its_own_users_only() {
    let _one = STAGE.lock();
    let mut scene = Scene::new(None);
    let struck = scene.users_on(0);
    // Their ends are not in the log: they came after this.
    let ended = now_seconds();
    scene.servers[0].restart();
    support_patience("the sessions were cut off", Duration::from_secs(10), || {
        struck.iter().all(|user| scene.story(user).iter().all(|story| !story.cuts.is_empty()))
    });
    scene.wait_until_back(&struck, Duration::from_secs(20));
    scene.finish(&struck, &[(0, ended)]);
}

/// All of them come back, each within five seconds of his cut, which came after `start`.
fn assert_back_soon(scene: &Scene, struck: &HashSet<String>, start: Instant) {
    scene.wait_until_back(struck, Duration::from_secs(20));
    for story in struck.iter().flat_map(|user| scene.story(user)) {
        let (cut, back) = story.cuts[0];
        let away = back.unwrap() - cut.min(start);
        assert!(away < Duration::from_secs(5), "away for {away:?}");
    }
}

/// A new login of a user whose sessions are on the server that was struck.
fn assert_unavailable(scene: &Scene, users: &HashSet<String>) {
    for user in users.iter().take(3) {
        let told = scene.proxy.client().try_login(user, PASSWORD).status;
        assert!(told.starts_with("NO [UNAVAILABLE]"), "{user}: {told}");
    }
}

/// As service managers stop it: the master is told, which leaves the sessions to themselves,
/// then each of them, which says BYE. Their ends are in the log before their connections end.
#[test]
fn users_of_a_server_that_is_restarted_in_order_are_back_within_five_seconds() {
    let _one = STAGE.lock();
    let mut scene = Scene::new(None);
    let struck = scene.users_on(0);
    assert!(struck.len() > 10 && struck.len() < USERS, "{}", struck.len());
    scene.servers[0].process().signal(Signal::TERM);
    assert_eq!(scene.servers[0].process().wait_for_end(), 0);
    // Their sessions go on, so that they may be nowhere else.
    assert_unavailable(&scene, &struck);
    let start = Instant::now();
    end_sessions(&scene.servers[0]);
    support_patience("the sessions were cut off", Duration::from_secs(10), || {
        struck.iter().all(|user| scene.story(user).iter().all(|story| !story.cuts.is_empty()))
    });
    assert_back_soon(&scene, &struck, start);
    wait_until("each session's end is in the log", || {
        let log = scene.servers[0].log();
        let told = log.matches("Disconnected: Server shutting down").count();
        (told == struck.len() * SESSIONS_PER_USER).then_some(())
    });
    // It comes back, and so may users.
    scene.servers[0].restart();
    scene.proxy.wait_for_metrics("the server is up again", |now| {
        now.sum("pointsman_backend_up", &[("backend", "b0")]) > 0.5
    });
    scene.finish(&struck, &[]);
}

/// Tells all session processes of a server whose master is gone to end, and waits for it.
fn end_sessions(server: &Dovecot) {
    let group = server.id().to_string();
    run(Command::new("pkill").args(["-TERM", "-g", &group, "imap"]));
    support_patience("the session processes have ended", Duration::from_secs(20), || {
        // One that is dead but not collected yet holds nothing.
        let left = Command::new("pgrep").args(["-r", "R,S,D,T", "-g", &group, "imap"]).output();
        left.unwrap().stdout.is_empty()
    });
}

/// The server stands still with all its sessions. Nobody of its users gets in anywhere until
/// the fence has killed it.
fn stands_still(scene: &Scene, struck: &HashSet<String>) {
    assert!(struck.len() > 10 && struck.len() < USERS, "{}", struck.len());
    scene.proxy.wait_for_metrics("the server is down", |now| {
        now.sum("pointsman_backend_up", &[("backend", "b0")]) < 0.5
    });
    assert_unavailable(scene, struck);
    let fences = |result| {
        let labels = [("backend", "b0"), ("result", result)];
        scene.proxy.metrics().sum("pointsman_backend_fences_total", &labels)
    };
    wait_until("the fence has refused", || (fences("failed") > 0.5).then_some(()));
    assert_unavailable(scene, struck);
    scene.program.allow();
    wait_until("the fence has succeeded", || (fences("ok") > 0.5).then_some(()));
    support_patience("the users were cut off", Duration::from_secs(10), || {
        struck.iter().all(|user| scene.story(user).iter().all(|story| !story.cuts.is_empty()))
    });
    scene.wait_until_back(struck, Duration::from_secs(20));
}

#[test]
fn users_of_a_server_that_is_stopped_wait_for_the_fence() {
    let _one = STAGE.lock();
    let mut scene = Scene::new(None);
    let struck = scene.users_on(0);
    scene.servers[0].process().signal_group(Signal::STOP);
    stands_still(&scene, &struck);
    let fenced = scene.program.fenced_at("b0").unwrap();
    scene.finish(&struck, &[(0, fenced)]);
}

#[test]
fn users_of_a_server_that_is_cut_off_wait_for_the_fence() {
    let _one = STAGE.lock();
    let namespace = Namespace::new();
    let scene = Scene::new(Some(&namespace));
    let struck = scene.users_on(0);
    namespace.take_link_down();
    stands_still(&scene, &struck);
    let fenced = scene.program.fenced_at("b0").unwrap();
    scene.finish(&struck, &[(0, fenced)]);
}
