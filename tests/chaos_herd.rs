//! Five thousand sessions on three backends, of which one is killed and comes back, and one
//! falls silent: the sessions on the others lose nothing, nobody is on two backends at once,
//! and who was there is back at the pace that the others bear, as soon as that is sure.
//!
//! The backends are scripted and count themselves who is where. The proxy needs 10,000
//! descriptors and this process up to 15,000; where the machine gives fewer the herd is as
//! large as fits.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::format_collect,
    clippy::print_stdout,
    reason = "test code: a broken set-up must panic, and real sockets run on the real clock"
)]

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use support::pointsman::Pointsman;
use support::tls::Authority;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const HERD: usize = 5_000;
const BACKENDS: usize = 3;
/// Logins that a backend may have in flight, and what one takes: 500 a second at most.
const LOGINS_MAX: usize = 50;
const LOGIN_TIME: Duration = Duration::from_millis(100);
const LOGINS_PER_SECOND: usize = 500;
/// Clients that begin at once.
const BEGINNERS: usize = 300;
/// What a client waits that was refused, half of it to one and a half.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Descriptors of a session in this process: the client's, the backend's, and that of the
/// former backend, which held it and is not closed by a fence.
const DESCRIPTORS: u64 = 3;
/// A process's other descriptors.
const OTHERS: u64 = 600;
/// How long a step may take that needs the whole herd; a busy machine is slow.
const LONG: Duration = Duration::from_secs(60);

/// Who has a session where, as the backends see it.
#[derive(Default)]
struct Book {
    rows: Mutex<Rows>,
    overlaps: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Rows {
    /// Open sessions of a user by backend.
    by_user: HashMap<String, [usize; BACKENDS]>,
    /// Fences of each backend: what began before one is over.
    fences: [usize; BACKENDS],
}

/// A session at a backend, from the moment when its login is taken.
struct Stay {
    book: Arc<Book>,
    user: String,
    backend: usize,
    fences: usize,
}

impl Book {
    fn enter(self: &Arc<Self>, user: &str, backend: usize) -> Stay {
        let mut rows = self.rows.lock().unwrap();
        let places = rows.by_user.entry(user.to_owned()).or_default();
        places[backend] += 1;
        if places.iter().filter(|sessions| **sessions > 0).count() > 1 {
            self.overlaps.lock().unwrap().push(format!("{user}: {places:?}"));
        }
        let fences = rows.fences[backend];
        Stay { book: Arc::clone(self), user: user.to_owned(), backend, fences }
    }

    /// The backend is cut from its storage: its sessions are over, though their connections
    /// are as they were.
    fn fence(&self, backend: usize) {
        let mut rows = self.rows.lock().unwrap();
        rows.fences[backend] += 1;
        rows.by_user.values_mut().for_each(|places| places[backend] = 0);
    }

    fn users_on(&self, backend: usize) -> HashSet<String> {
        let rows = self.rows.lock().unwrap();
        let there = rows.by_user.iter().filter(|(_, places)| places[backend] > 0);
        there.map(|(user, _)| user.clone()).collect()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut rows = self.book.rows.lock().unwrap();
        if rows.fences[self.backend] == self.fences {
            rows.by_user.get_mut(&self.user).unwrap()[self.backend] -= 1;
        }
    }
}

/// What a backend counts of its logins.
#[derive(Default)]
struct Seen {
    in_flight: AtomicUsize,
    most: AtomicUsize,
    /// When each login came to its end.
    logins: Mutex<Vec<Instant>>,
}

/// A backend that can be killed, silenced and started again.
struct Backend {
    number: usize,
    address: SocketAddr,
    book: Arc<Book>,
    seen: Arc<Seen>,
    silent: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Backend {
    async fn start(number: usize, book: &Arc<Book>) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], support::free_port()));
        let (silent, _) = watch::channel(false);
        let (book, seen) = (Arc::clone(book), Arc::default());
        let mut made = Self { number, address, book, seen, silent, task: None };
        made.restart().await;
        made
    }

    /// Starts it, or starts it again: what it had is cut off.
    async fn restart(&mut self) {
        self.kill().await;
        self.silent.send_replace(false);
        let listener = TcpListener::bind(self.address).await.unwrap();
        let (book, seen) = (Arc::clone(&self.book), Arc::clone(&self.seen));
        let (number, silent) = (self.number, self.silent.subscribe());
        self.task = Some(tokio::spawn(async move {
            let mut sessions = JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let here = Here { number, book: Arc::clone(&book), seen: Arc::clone(&seen) };
                let silent = silent.clone();
                sessions.spawn(async move { here.converse(socket, silent).await });
                while sessions.try_join_next().is_some() {}
            }
        }));
    }

    /// Ends it with all its connections. Each session is over before its connection is.
    async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
    }

    /// From now on it neither answers nor closes.
    fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    /// Its logins from now on are counted anew.
    fn forget(&self) {
        self.seen.most.store(0, Ordering::SeqCst);
        self.seen.logins.lock().unwrap().clear();
    }

    /// Nothing came faster than it bears.
    fn assert_paced(&self) {
        let most = self.seen.most.load(Ordering::SeqCst);
        let busiest = busiest_second(&self.seen.logins.lock().unwrap());
        assert!(most <= LOGINS_MAX, "b{}: {most} logins in flight", self.number);
        // A login that ends late falls into the same second as the next one in its place.
        let allowed = LOGINS_PER_SECOND + 2 * LOGINS_MAX;
        assert!(busiest <= allowed, "b{}: {busiest} logins in one second", self.number);
    }
}

/// One connection's backend.
struct Here {
    number: usize,
    book: Arc<Book>,
    seen: Arc<Seen>,
}

impl Here {
    async fn converse(
        self,
        socket: TcpStream,
        mut silent: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let mut peer = BufStream::new(socket);
        // Behind the connection, so that it ends before.
        let mut stay = None;
        let mut line = String::new();
        let mut answer = "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n".to_owned();
        loop {
            // One that is silent has read what came and does nothing about it, not even at
            // the end of the connection.
            let _ = silent.wait_for(|silent| !*silent).await;
            peer.write_all(answer.as_bytes()).await?;
            peer.flush().await?;
            line.clear();
            if peer.read_line(&mut line).await? == 0 {
                let _ = silent.wait_for(|silent| !*silent).await;
                return Ok(());
            }
            let _ = silent.wait_for(|silent| !*silent).await;
            let (tag, command) = line.trim_end().split_once(' ').unwrap_or(("*", ""));
            if let Some(message) = command.strip_prefix("AUTHENTICATE PLAIN ") {
                stay = Some(self.book.enter(&user_of(message), self.number));
                self.log_in().await;
            }
            answer = format!("{tag} OK [CAPABILITY IMAP4rev1] done\r\n");
            if command == "LOGOUT" {
                drop(stay.take());
            }
        }
    }

    async fn log_in(&self) {
        let now = self.seen.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        // Given back also where the backend is killed meanwhile.
        let _in_flight = InFlight(&self.seen.in_flight);
        self.seen.most.fetch_max(now, Ordering::SeqCst);
        sleep(LOGIN_TIME).await;
        self.seen.logins.lock().unwrap().push(Instant::now());
    }
}

struct InFlight<'s>(&'s AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The user of a message of SASL PLAIN.
fn user_of(message: &str) -> String {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(message).unwrap();
    let user = decoded.split(|byte| *byte == 0).nth(1).unwrap();
    String::from_utf8(user.to_vec()).unwrap()
}

/// One client, as it sees itself.
#[derive(Default)]
struct Client {
    is_in: AtomicBool,
    /// How often its session was cut off.
    cuts: AtomicU32,
    /// The last round of NOOPs that was answered.
    answered: AtomicUsize,
}

/// All clients, and what they share.
struct Herd {
    proxy: SocketAddr,
    clients: BTreeMap<String, Client>,
    beginners: Semaphore,
    /// At each new number every session has to answer a NOOP.
    round: watch::Sender<usize>,
    /// Answers to logins that are neither OK nor [UNAVAILABLE].
    wrong: Mutex<Vec<String>>,
}

impl Herd {
    fn new(proxy: SocketAddr, count: usize) -> Arc<Self> {
        let clients = (0..count).map(|number| (format!("user{number}"), Client::default()));
        Arc::new(Self {
            proxy,
            clients: clients.collect(),
            beginners: Semaphore::new(BEGINNERS),
            round: watch::channel(0).0,
            wrong: Mutex::default(),
        })
    }

    /// Lets a client have a session at all times: it comes back at once when it is cut off,
    /// and after a pause when it is told to.
    async fn graze(&self, user: &str) {
        let client = &self.clients[user];
        loop {
            let session = {
                let _begins = self.beginners.acquire().await.unwrap();
                self.log_in(user).await
            };
            if let Ok(Some(mut session)) = session {
                client.is_in.store(true, Ordering::SeqCst);
                // Whether by BYE or without a word.
                let _ = self.stay(&mut session, client).await;
                client.is_in.store(false, Ordering::SeqCst);
                client.cuts.fetch_add(1, Ordering::SeqCst);
            } else {
                sleep(RETRY_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            }
        }
    }

    /// A session; none where the login was refused.
    async fn log_in(&self, user: &str) -> std::io::Result<Option<BufStream<TcpStream>>> {
        let mut peer = BufStream::new(TcpStream::connect(self.proxy).await?);
        let mut line = String::new();
        peer.read_line(&mut line).await?;
        ask(&mut peer, &format!("a LOGIN {user} secret\r\n")).await?;
        loop {
            line.clear();
            if peer.read_line(&mut line).await? == 0 {
                return Ok(None);
            }
            let Some(answer) = line.strip_prefix("a ") else { continue };
            if answer.starts_with("OK") {
                return Ok(Some(peer));
            }
            if !answer.starts_with("NO [UNAVAILABLE]") {
                self.wrong.lock().unwrap().push(line);
            }
            return Ok(None);
        }
    }

    /// Answers rounds until the session ends. Nothing else comes before the end.
    async fn stay(
        &self,
        session: &mut BufStream<TcpStream>,
        client: &Client,
    ) -> std::io::Result<()> {
        let mut rounds = self.round.subscribe();
        // A new session has answered already.
        client.answered.store(*rounds.borrow_and_update(), Ordering::SeqCst);
        let mut line = String::new();
        loop {
            line.clear();
            let round = tokio::select! {
                _ = session.read_line(&mut line) => return Ok(()),
                _ = rounds.changed() => *rounds.borrow_and_update(),
            };
            ask(session, "n NOOP\r\n").await?;
            session.read_line(&mut line).await?;
            if !line.starts_with("n OK") {
                return Ok(());
            }
            client.answered.store(round, Ordering::SeqCst);
        }
    }

    /// Each of these sessions answers a NOOP, and none of them was ever cut off.
    async fn assert_untouched<'u>(&self, users: impl IntoIterator<Item = &'u String>) {
        let round = *self.round.borrow() + 1;
        self.round.send_replace(round);
        let clients: Vec<_> = users.into_iter().map(|user| (user, &self.clients[user])).collect();
        wait_for("each session answers a NOOP", || {
            let answered = |(_, client): &&(&String, &Client)| {
                client.answered.load(Ordering::SeqCst) >= round
                    || client.cuts.load(Ordering::SeqCst) > 0
            };
            clients.iter().filter(answered).count() == clients.len()
        })
        .await;
        for (user, client) in clients {
            assert_eq!(client.cuts.load(Ordering::SeqCst), 0, "{user} was cut off");
        }
    }

    /// How many of these users were cut off so often and have a session again.
    fn back(&self, users: &HashSet<String>, cuts: u32) -> usize {
        let is_back = |user: &&String| {
            let client = &self.clients[*user];
            client.cuts.load(Ordering::SeqCst) >= cuts && client.is_in.load(Ordering::SeqCst)
        };
        users.iter().filter(is_back).count()
    }

    fn users(&self) -> HashSet<String> {
        self.clients.keys().cloned().collect()
    }
}

async fn ask(peer: &mut BufStream<TcpStream>, command: &str) -> std::io::Result<()> {
    peer.write_all(command.as_bytes()).await?;
    peer.flush().await
}

async fn wait_for(what: &str, so: impl Fn() -> bool) {
    let waited = timeout(LONG, async {
        while !so() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited {LONG:?} in vain: {what}");
}

/// The most logins that fell into any second.
fn busiest_second(logins: &[Instant]) -> usize {
    let mut first = 0;
    (0..logins.len())
        .map(|last| {
            while logins[last] - logins[first] > Duration::from_secs(1) {
                first += 1;
            }
            last - first + 1
        })
        .max()
        .unwrap_or(0)
}

/// A fence that succeeds from the moment on when it may.
struct Fence(tempfile::TempDir);

impl Fence {
    fn new() -> Self {
        let fence = Self(support::temporary_folder("fence"));
        let text = format!("#!/bin/sh\nexec test -e '{}'\n", fence.0.path().join("go").display());
        std::fs::write(fence.program(), text).unwrap();
        std::fs::set_permissions(fence.program(), PermissionsExt::from_mode(0o755)).unwrap();
        fence
    }

    fn program(&self) -> PathBuf {
        self.0.path().join("fence")
    }

    fn allow(&self) {
        std::fs::write(self.0.path().join("go"), "").unwrap();
    }
}

fn configuration(
    places: &support::pointsman::Places,
    backends: &[Backend],
    fence: &Fence,
) -> String {
    let list: String = backends
        .iter()
        .map(|Backend { number, address, .. }| {
            format!(
                "      - {{ name: b{number}, address: \"{address}\", tls: none, \
                 logins_max: {LOGINS_MAX} }}\n"
            )
        })
        .collect();
    format!(
        "{}limits: {{ exempt: [127.0.0.0/8] }}\n\
         upstream: {{ connect_timeout: 4s, login_timeout: 20s, login_queue: 5000, \
         login_queue_wait: 30s }}\n\
         shards:\n  s:\n    kind: shared\n    slow_start: 0s\n    \
         check: {{ mode: greeting, interval: 500ms, timeout: 3s, rise: 2, fall: 2 }}\n    \
         fence: {{ program: \"{}\", timeout: 10s }}\n    backends:\n{list}\
         routing: {{ lookups: [ {{ shard: s }} ], sticky: 0s }}\n",
        places.head_without_limits().replace("level: debug", "level: warn"),
        fence.program().display()
    )
}

struct Scene {
    proxy: Pointsman,
    book: Arc<Book>,
    backends: Vec<Backend>,
    fence: Fence,
    herd: Arc<Herd>,
}

impl Scene {
    async fn new(count: usize) -> Self {
        let book = Arc::new(Book::default());
        let mut backends = Vec::new();
        for number in 0..BACKENDS {
            backends.push(Backend::start(number, &book).await);
        }
        let fence = Fence::new();
        let proxy = Pointsman::start(&AUTHORITY, |places| configuration(places, &backends, &fence));
        let herd = Herd::new(proxy.places().clear, count);
        Self { proxy, book, backends, fence, herd }
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.proxy.metrics().sum(name, labels)
    }

    fn is_up(&self, backend: &str) -> bool {
        self.metric("pointsman_backend_up", &[("backend", backend)]) > 0.5
    }

    fn fences(&self, result: &str) -> f64 {
        let labels = [("backend", "b1"), ("result", result)];
        self.metric("pointsman_backend_fences_total", &labels)
    }

    /// Logs users in once more, beside what they have. All of them are told so.
    async fn assert_told(&self, users: impl Iterator<Item = String>, answer: &'static str) {
        let mut logins = JoinSet::new();
        for user in users {
            let herd = Arc::clone(&self.herd);
            logins.spawn(async move {
                let came_in = herd.log_in(&user).await.unwrap().is_some();
                (user, came_in)
            });
        }
        assert!(!logins.is_empty());
        while let Some(login) = logins.join_next().await {
            let (user, came_in) = login.unwrap();
            // Whatever is neither is among the wrong answers.
            assert_eq!(came_in, answer == "OK", "{user}");
        }
    }

    fn assert_nothing_wrong(&self) {
        assert_eq!(*self.book.overlaps.lock().unwrap(), Vec::<String>::new());
        assert_eq!(*self.herd.wrong.lock().unwrap(), Vec::<String>::new());
    }

    /// One is killed: its users are on the others, at their pace. Then it is there again.
    async fn one_is_killed(&mut self) -> HashSet<String> {
        let struck = self.book.users_on(0);
        assert!(struck.len() > self.herd.clients.len() / 5, "{}", struck.len());
        self.backends.iter().for_each(Backend::forget);
        let begun = Instant::now();
        self.backends[0].kill().await;
        wait_for("the users of the killed one are back", || {
            self.herd.back(&struck, 1) == struck.len()
        })
        .await;
        println!("{} users of the killed one were back after {:?}", struck.len(), begun.elapsed());
        self.backends[1..].iter().for_each(Backend::assert_paced);
        let others: HashSet<String> = self.herd.users().difference(&struck).cloned().collect();
        self.herd.assert_untouched(&others).await;
        self.assert_nothing_wrong();
        assert!(self.book.users_on(0).is_empty());
        self.backends[0].restart().await;
        wait_for("the killed one is up", || self.is_up("b0")).await;
        others
    }

    /// One falls silent: its users wait for the fence, new ones do not, and nobody else notices.
    async fn one_falls_silent(&mut self, untouched: &HashSet<String>) {
        let struck = self.book.users_on(1);
        assert!(struck.len() > self.herd.clients.len() / 5, "{}", struck.len());
        self.backends[1].fall_silent();
        wait_for("the silent one is down", || !self.is_up("b1")).await;
        wait_for("the fence has refused twice", || self.fences("failed") > 1.5).await;
        self.assert_told(struck.iter().take(40).cloned(), "NO [UNAVAILABLE]").await;
        self.assert_told((0..40).map(|number| format!("new{number}")), "OK").await;
        let others: Vec<&String> = untouched.difference(&struck).collect();
        assert!(!others.is_empty());
        self.herd.assert_untouched(others.iter().copied()).await;
        assert_eq!(self.book.users_on(1), struck, "nobody has left, nobody came");
        self.assert_nothing_wrong();

        let cuts = |user: &String| self.herd.clients[user].cuts.load(Ordering::SeqCst);
        let before: HashMap<&String, u32> = struck.iter().map(|user| (user, cuts(user))).collect();
        assert_eq!(self.herd.back(&struck, 0), struck.len(), "their sessions stand still");
        self.backends.iter().for_each(Backend::forget);
        let begun = Instant::now();
        // The backend's sessions are over, and only then the fence says so.
        self.book.fence(1);
        self.fence.allow();
        wait_for("the users of the silent one are back", || {
            let is_in = |user: &str| self.herd.clients[user].is_in.load(Ordering::SeqCst);
            before.iter().all(|(user, before)| cuts(user) > *before && is_in(user))
        })
        .await;
        println!("{} users of the silent one were back after {:?}", struck.len(), begun.elapsed());
        self.backends.iter().for_each(Backend::assert_paced);
        self.herd.assert_untouched(others).await;
        self.assert_nothing_wrong();
        assert!(self.book.users_on(1).is_empty());
    }

    /// What was silent is started again, and takes users as before.
    async fn it_is_restarted(&mut self) {
        self.backends[1].restart().await;
        wait_for("the silent one is up", || self.is_up("b1")).await;
        self.assert_told((100..200).map(|number| format!("new{number}")), "OK").await;
        assert!(self.backends[1].seen.logins.lock().unwrap().len() > 5);
        self.assert_nothing_wrong();
    }
}

#[test]
fn whatever_happens_to_a_backend_its_users_find_their_shard_and_the_others_lose_nothing() {
    support::flood::raise_descriptor_limit();
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = most.saturating_sub(OTHERS) / DESCRIPTORS;
    let count = HERD.min(usize::try_from(room).unwrap());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let begun = Instant::now();
        let mut scene = Scene::new(count).await;
        let mut clients = JoinSet::new();
        for user in scene.herd.users() {
            let herd = Arc::clone(&scene.herd);
            clients.spawn(async move { herd.graze(&user).await });
        }
        let all = scene.herd.users();
        wait_for("the herd is there", || scene.herd.back(&all, 0) == count).await;
        println!("{count} sessions after {:?}", begun.elapsed());
        scene.herd.assert_untouched(&all).await;

        let untouched = scene.one_is_killed().await;
        scene.one_falls_silent(&untouched).await;
        scene.it_is_restarted().await;
        println!("all of it took {:?}", begun.elapsed());
        clients.shutdown().await;
    });
    runtime.shutdown_background();
}
