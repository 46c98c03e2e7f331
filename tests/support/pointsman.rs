//! The proxy itself, as a user starts it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::Signal;
use tempfile::TempDir;

use super::client::Client;
use super::http;
use super::process::{Process, output};
use super::tls::Authority;
use super::wait_until;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_pointsman");

/// Addresses and files that a configuration for one test may name.
pub struct Places {
    /// A folder for this test.
    pub folder: PathBuf,
    /// Implicit TLS.
    pub imaps: SocketAddr,
    /// STARTTLS.
    pub imap: SocketAddr,
    /// Clear text, logins taken.
    pub clear: SocketAddr,
    /// Metrics and probes.
    pub admin: SocketAddr,
    /// A certificate for `localhost` and `127.0.0.1`, and its key.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The certificate of the test's authority, for backends.
    pub ca: PathBuf,
}

impl Places {
    fn new(folder: &Path, authority: &Authority) -> Self {
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let (certificate, key) =
            authority.issue(&["localhost", "127.0.0.1"]).write(folder, "pointsman");
        let ca = folder.join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        Self {
            folder: folder.to_owned(),
            imaps: local(),
            imap: local(),
            clear: local(),
            admin: local(),
            certificate,
            key,
            ca,
        }
    }

    /// The path of a file in the test's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The sections that most tests have in common: three listeners, certificate, admin,
    /// store, debug log, quick answers to failed logins and a quick shutdown; backends are
    /// not checked where no shard or backend says so, since scripted ones count connections.
    /// What remains to be written is `shards` and `routing`.
    pub fn head(&self) -> String {
        format!("{}limits: {{ failed_login_delay: 100ms }}\n", self.head_without_limits())
    }

    /// The same without `limits`, for tests that set their own.
    pub fn head_without_limits(&self) -> String {
        format!(
            "\
listeners:
  - {{ name: imaps, address: \"{imaps}\", tls: implicit }}
  - {{ name: imap, address: \"{imap}\", tls: starttls }}
  - {{ name: clear, address: \"{clear}\", tls: none, allow_clear_login: true }}
tls:
  certificates:
    - {{ cert: \"{certificate}\", key: \"{key}\" }}
admin: {{ address: \"{admin}\" }}
store: {{ path: \"{store}\" }}
shutdown: {{ lame_duck: 100ms, drain: 2s }}
log: {{ level: debug }}
check: {{ mode: none }}
",
            imaps = self.imaps,
            imap = self.imap,
            clear = self.clear,
            certificate = self.certificate.display(),
            key = self.key.display(),
            admin = self.admin,
            store = self.file("state").display(),
        )
    }
}

/// Metric series and their values, `name{label="value",...}` as printed.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text format.
    pub fn parse(text: &str) -> Self {
        let series = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(series).collect())
    }

    /// The sum of all series of that name which carry all those labels; 0 without any.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|(_, value)| value).sum()
    }

    /// How many series of that name carry all those labels.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.matching(name, labels).count()
    }

    /// All series.
    pub fn all(&self) -> &BTreeMap<String, f64> {
        &self.0
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = (&str, f64)> {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        self.0.iter().filter_map(move |(series, value)| {
            let (own, rest) = series.split_once('{').unwrap_or((series, ""));
            let all = own == name && wanted.iter().all(|pair| has_label(rest, pair));
            all.then_some((series.as_str(), *value))
        })
    }
}

/// `rest` is what follows `{`; a pair must stand at its start or behind a comma.
fn has_label(rest: &str, pair: &str) -> bool {
    rest.starts_with(pair) || rest.contains(&format!(",{pair}"))
}

/// A running proxy; ended when dropped.
pub struct Pointsman {
    process: Process,
    folder: TempDir,
    places: Places,
}

impl Pointsman {
    /// Starts it with the configuration that the closure writes, and waits until it is ready.
    pub fn start(authority: &Authority, configuration: impl FnOnce(&Places) -> String) -> Self {
        Self::start_with(authority, &[], configuration)
    }

    /// The same with environment variables.
    pub fn start_with(
        authority: &Authority,
        environment: &[(&str, &str)],
        configuration: impl FnOnce(&Places) -> String,
    ) -> Self {
        let mut command = Command::new(BINARY);
        command.envs(environment.iter().copied());
        Self::run(authority, command, configuration)
    }

    /// The same with at most so many descriptors.
    pub fn start_limited(
        authority: &Authority,
        descriptors: u32,
        configuration: impl FnOnce(&Places) -> String,
    ) -> Self {
        let mut command = Command::new("sh");
        let script = "ulimit -n \"$1\"; shift; exec \"$0\" \"$@\"";
        command.args(["-c", script, BINARY, &descriptors.to_string()]);
        Self::run(authority, command, configuration)
    }

    /// The same with at most so many descriptors at first; it may raise the limit itself.
    pub fn start_with_soft_limit(
        authority: &Authority,
        descriptors: u32,
        configuration: impl FnOnce(&Places) -> String,
    ) -> Self {
        let mut command = Command::new("sh");
        let script = "ulimit -S -n \"$1\"; shift; exec \"$0\" \"$@\"";
        command.args(["-c", script, BINARY, &descriptors.to_string()]);
        Self::run(authority, command, configuration)
    }

    fn run(
        authority: &Authority,
        mut command: Command,
        configuration: impl FnOnce(&Places) -> String,
    ) -> Self {
        let folder = super::temporary_folder("proxy");
        let places = Places::new(folder.path(), authority);
        let file = folder.path().join("pointsman.yaml");
        std::fs::write(&file, configuration(&places)).unwrap();
        let process = Process::start(
            "pointsman",
            command.arg("serve").arg("--config").arg(&file),
            &folder.path().join("log"),
        );
        let mut proxy = Self { process, folder, places };
        proxy.wait_until_ready();
        proxy
    }

    /// Addresses and files.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The configuration file.
    pub fn configuration_file(&self) -> PathBuf {
        self.folder.path().join("pointsman.yaml")
    }

    /// The process, for signals and its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// All log lines so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until the log holds the text.
    pub fn wait_for_log(&self, text: &str) {
        self.process.wait_for_log(text);
    }

    /// A client on the clear listener, its greeting read.
    pub fn client(&self) -> Client {
        Client::clear(self.places.clear)
    }

    /// A logged-in client on the clear listener.
    pub fn logged_in(&self, user: &str, password: &str) -> Client {
        let mut client = self.client();
        client.login(user, password);
        client
    }

    /// The status of a probe, `/healthz` or `/readyz`; `None` when nobody answers.
    pub fn probe(&self, path: &str) -> Option<u16> {
        http::fetch(self.places.admin, path).ok().map(|answer| answer.status)
    }

    /// All metrics now.
    pub fn metrics(&self) -> Metrics {
        let answer = http::fetch(self.places.admin, "/metrics").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        Metrics::parse(&answer.body)
    }

    /// Waits until the metrics are so.
    pub fn wait_for_metrics(&self, what: &str, so: impl Fn(&Metrics) -> bool) -> Metrics {
        wait_until(what, || Some(self.metrics()).filter(&so))
    }

    /// Writes a new configuration; nothing reads it before [`Self::reload`].
    pub fn rewrite(&self, configuration: impl FnOnce(&Places) -> String) {
        std::fs::write(self.configuration_file(), configuration(&self.places)).unwrap();
    }

    /// SIGHUP, then waits until the reload is counted, whatever its result.
    pub fn reload(&self) {
        const RELOADS: &str = "pointsman_config_reloads_total";
        let before = self.metrics().sum(RELOADS, &[]);
        self.process.signal(Signal::HUP);
        self.wait_for_metrics("the reload is counted", |now| now.sum(RELOADS, &[]) > before);
    }

    /// SIGTERM: the drain begins.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for the end and gives the exit code, or minus the signal's number.
    pub fn wait_for_end(&mut self) -> i32 {
        self.process.wait_for_end()
    }

    /// Ends it, if it still runs, and starts it again with the same files and addresses.
    pub fn restart(&mut self) {
        self.process.stop();
        let mut command = Command::new(BINARY);
        command.arg("serve").arg("--config").arg(self.configuration_file());
        self.process = Process::start("pointsman", &mut command, &self.folder.path().join("log"));
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let admin = self.places.admin;
        wait_until("the proxy is ready", || {
            if let Some(status) = self.process.ended() {
                panic!("the proxy ended with {status}:\n{}", self.process.log());
            }
            http::fetch(admin, "/readyz").ok().filter(|answer| answer.status == 200)
        });
    }
}

/// `pointsman check` on a configuration; gives exit code and both outputs together.
pub fn check(
    authority: &Authority,
    configuration: impl FnOnce(&Places) -> String,
) -> (i32, String) {
    run_to_end("check", authority, configuration)
}

/// `check`, or `serve` where it must refuse to start, on a configuration.
pub fn run_to_end(
    command: &str,
    authority: &Authority,
    configuration: impl FnOnce(&Places) -> String,
) -> (i32, String) {
    let folder = super::temporary_folder("check");
    let places = Places::new(folder.path(), authority);
    let file = folder.path().join("pointsman.yaml");
    std::fs::write(&file, configuration(&places)).unwrap();
    let file = file.to_string_lossy();
    match command {
        // One that started after all is ended, with 124.
        "serve" => run_program("timeout", &["20", BINARY, "serve", "--config", &file]),
        "serve with 256 descriptors" => {
            let script = "ulimit -n 256; exec timeout 20 \"$0\" serve --config \"$1\"";
            run_program("sh", &["-c", script, BINARY, &file])
        }
        other => run_binary(&[other, &file]),
    }
}

/// Runs the binary to its end; gives exit code and both outputs together.
pub fn run_binary(arguments: &[&str]) -> (i32, String) {
    run_program(BINARY, arguments)
}

fn run_program(program: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(program);
    let Output { status, stdout, stderr } = output(command.args(arguments));
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code().unwrap_or(-1), text)
}
