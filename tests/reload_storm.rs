//! A thousand reloads under load, a tenth of them of broken files: no session is lost, and
//! every login is on the shard of the generation at its moment or with its user's sessions.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::backend::Backend;
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman};
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

const RELOADS: u64 = 1000;
/// Sessions that work without pause from before the first reload to after the last.
const STEADY: usize = 50;
/// Threads that log in and out without pause, each with a user of its own.
const COMERS: usize = 4;
/// Users with a session that stays while they log in again and again.
const JOINERS: usize = 2;

/// Where a user of the flipping kind lives in a generation: they change sides with each.
fn shard_of(user: usize, generation: u64) -> &'static str {
    let user = u64::try_from(user).unwrap();
    if (user + generation).is_multiple_of(2) { "NORTH" } else { "SOUTH" }
}

fn users_file(generation: u64) -> String {
    let mut lines = String::new();
    for user in 0..STEADY {
        lines += ["steady", &user.to_string(), " north\n"].concat().as_str();
    }
    for user in 0..COMERS {
        let shard = shard_of(user, generation).to_lowercase();
        lines += ["comer", &user.to_string(), " ", &shard, "\n"].concat().as_str();
    }
    for user in 0..JOINERS {
        let shard = shard_of(user, generation).to_lowercase();
        lines += ["joiner", &user.to_string(), " ", &shard, "\n"].concat().as_str();
    }
    lines
}

/// The files of the storm: what is in force and what is being read.
struct Storm<'a> {
    proxy: &'a Pointsman,
    /// The last generation that is known to be in force.
    confirmed: AtomicU64,
    /// The last generation whose file was written.
    begun: AtomicU64,
    over: AtomicBool,
    /// The configuration, which stays the same in all good rounds.
    good: String,
}

impl Storm<'_> {
    fn reload(&self, round: u64) {
        let users = self.proxy.places().file("users");
        let former = self.confirmed.load(Ordering::SeqCst);
        if round % 10 == 9 {
            self.break_something(usize::try_from(round / 10).unwrap());
            self.proxy.reload();
            assert!(generation(self.proxy) == former, "a broken file was taken");
            self.proxy.rewrite(|_| self.good.clone());
            return;
        }
        let next = former + 1;
        self.begun.store(next, Ordering::SeqCst);
        std::fs::write(users, users_file(next)).unwrap();
        self.proxy.reload();
        assert!(generation(self.proxy) == next, "a good file was refused: {}", self.proxy.log());
        self.confirmed.store(next, Ordering::SeqCst);
    }

    /// Breaks each file in each way in turn: the users file, the configuration's form and
    /// values, and the files that it names.
    fn break_something(&self, pick: usize) {
        let users = self.proxy.places().file("users");
        let certificate = self.proxy.places().certificate.display().to_string();
        let broken_users = ["comer0 nowhere\n", "comer0\n", "comer0 north\ncomer0 south\n"];
        let broken_values = [
            ("shards:", "shards: ["),
            ("kind: shared", "kind: shared, kind: shared"),
            ("kind: shared", "colour: blue"),
            ("kind: shared", "kind: scattered"),
            ("lookups:", "lookup:"),
            (certificate.as_str(), "/nowhere/certificate.pem"),
            (certificate.as_str(), "pointsman.key"),
            ("log: { level: warn }", "log: { level: warn, format: json }"),
        ];
        let ways = broken_users.len() + broken_values.len() + 2;
        let pick = pick % ways;
        if let Some(text) = broken_users.get(pick) {
            std::fs::write(users, text).unwrap();
        } else if let Some((from, to)) = broken_values.get(pick - broken_users.len()) {
            assert!(self.good.contains(from), "{from}");
            self.proxy.rewrite(|_| self.good.replacen(from, to, 1));
        } else if pick == ways - 1 {
            std::fs::remove_file(users).unwrap();
        } else {
            self.proxy.rewrite(|_| self.good[..self.good.len() / 2].to_owned());
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

fn generation(proxy: &Pointsman) -> u64 {
    let value = proxy.metrics().sum("pointsman_config_generation", &[]);
    (0..=RELOADS + 1)
        .find(|number| {
            let number = f64::from(u32::try_from(*number).unwrap());
            (number - value).abs() < 0.5
        })
        .unwrap()
}

/// The shard that a login's answer names.
fn side_of(answer: &str) -> &'static str {
    match (answer.contains("XNORTH"), answer.contains("XSOUTH")) {
        (true, false) => "NORTH",
        (false, true) => "SOUTH",
        _ => panic!("no side in {answer:?}"),
    }
}

/// Logs in and out until the storm is over. Gives the logins, and how many of them had
/// only one shard to be right.
fn come_and_go(storm: &Storm<'_>, user: usize) -> (u64, u64) {
    let (mut logins, mut decided) = (0, 0);
    while !storm.is_over() {
        let before = storm.confirmed.load(Ordering::SeqCst);
        let mut client = storm.proxy.client();
        let answer = client.login(&["comer", &user.to_string()].concat(), "secret");
        let after = storm.begun.load(Ordering::SeqCst);
        let right: BTreeSet<_> =
            (before..=after).map(|generation| shard_of(user, generation)).collect();
        let side = side_of(&answer.status);
        assert!(right.contains(side), "generations {before} to {after}: {side}");
        client.logout();
        logins += 1;
        decided += u64::from(right.len() == 1);
    }
    (logins, decided)
}

/// Keeps one session and logs in beside it: always where the first one is.
fn join(storm: &Storm<'_>, user: usize) -> u64 {
    let name = ["joiner", &user.to_string()].concat();
    let mut logins = 0;
    while !storm.is_over() {
        let mut first = storm.proxy.client();
        let home = side_of(&first.login(&name, "secret").status);
        for _ in 0..20 {
            let mut second = storm.proxy.client();
            let answer = second.login(&name, "secret").status;
            assert_eq!(side_of(&answer), home);
            second.logout();
            logins += 1;
        }
        first.command_ok("NOOP");
        first.logout();
    }
    logins
}

/// Works in some sessions, turn by turn, until the storm is over.
fn work(storm: &Storm<'_>, sessions: &mut [Client]) -> u64 {
    let mut commands = 0;
    while !storm.is_over() {
        for session in &mut *sessions {
            session.command_ok("NOOP");
            commands += 1;
        }
    }
    commands
}

fn configuration(places: &Places, north: &Backend, south: &Backend) -> String {
    std::fs::write(places.file("users"), users_file(1)).unwrap();
    format!(
        "{head}shards:
  north: {{ kind: shared, backends: [ {{ name: n1, address: \"{n}\", tls: none }} ] }}
  south: {{ kind: shared, backends: [ {{ name: s1, address: \"{s}\", tls: none }} ] }}
routing: {{ lookups: [ {{ users: {{ file: \"{users}\" }} }} ] }}
",
        head = places.head().replace("level: debug", "level: warn"),
        n = north.address(),
        s = south.address(),
        users = places.file("users").display(),
    )
}

#[test]
fn b69_a_thousand_reloads_lose_no_session_and_mislead_no_login() {
    let north = Ordinary::new().capability_after("IMAP4rev1 XNORTH").start();
    let south = Ordinary::new().capability_after("IMAP4rev1 XSOUTH").start();
    let proxy = Pointsman::start(&AUTHORITY, |places| configuration(places, &north, &south));
    let storm = Storm {
        proxy: &proxy,
        confirmed: AtomicU64::new(1),
        begun: AtomicU64::new(1),
        over: AtomicBool::new(false),
        good: std::fs::read_to_string(proxy.configuration_file()).unwrap(),
    };
    let mut steady: Vec<Client> = (0..STEADY)
        .map(|user| proxy.logged_in(&["steady", &user.to_string()].concat(), "secret"))
        .collect();
    let half = steady.split_at_mut(STEADY / 2);
    let storm = &storm;
    let (comers, joined, commands) = std::thread::scope(|scope| {
        let comers: Vec<_> =
            (0..COMERS).map(|user| scope.spawn(move || come_and_go(storm, user))).collect();
        let joiners: Vec<_> =
            (0..JOINERS).map(|user| scope.spawn(move || join(storm, user))).collect();
        let workers = [half.0, half.1].map(|sessions| scope.spawn(move || work(storm, sessions)));
        for round in 0..RELOADS {
            storm.reload(round);
            // Long enough for a few logins under one generation.
            std::thread::sleep(Duration::from_millis(4));
        }
        storm.over.store(true, Ordering::SeqCst);
        let comers: Vec<(u64, u64)> = comers.into_iter().map(|t| t.join().unwrap()).collect();
        let joined: u64 = joiners.into_iter().map(|t| t.join().unwrap()).sum();
        let commands: u64 = workers.into_iter().map(|t| t.join().unwrap()).sum();
        (comers, joined, commands)
    });
    let metrics = proxy.metrics();
    let reloads = |result| metrics.sum("pointsman_config_reloads_total", &[("result", result)]);
    assert!((reloads("applied") - 900.0).abs() < 0.5, "{}", reloads("applied"));
    assert!((reloads("refused") - 100.0).abs() < 0.5, "{}", reloads("refused"));
    let decided: u64 = comers.iter().map(|(_, decided)| decided).sum();
    let logins: u64 = comers.iter().map(|(logins, _)| logins).sum();
    println!("{logins} logins, {decided} of one shard; {joined} joined; {commands} commands");
    assert!(decided > 500 && joined > 100 && commands > 5_000);
    for mut session in steady {
        session.command_ok("NOOP");
        session.logout();
    }
    north.assert_no_faults();
    south.assert_no_faults();
}
