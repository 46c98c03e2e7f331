//! The proxies under test: their configuration files, and how they are started.
//!
//! Each gets two workers, one clear and one TLS listener, the same certificate and the
//! same backend. Everything that is not named here is the program's own default.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::backend::Backend;
use crate::client::{Client, Door, NARROW};
use crate::error::{BenchError, Context, Result};
use crate::process::Tree;
use crate::wire::{Identity, Security};

/// Worker processes or threads of each proxy.
pub(crate) const WORKERS: usize = 2;
/// How long a proxy may take to greet its first client.
const START_WAIT: Duration = Duration::from_secs(15);
const START_STEP: Duration = Duration::from_millis(20);

/// What can stand between the client and the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// This build.
    Pointsman,
    /// nginx's mail module.
    Nginx,
    /// `HAProxy` in TCP mode.
    Haproxy,
    /// Nothing: the floor for latencies.
    Direct,
}

impl Kind {
    /// The word in the report and for folders.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Pointsman => "pointsman",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Direct => "direct",
        }
    }
}

/// What all proxies share.
pub(crate) struct Site {
    /// Folder of the run; each proxy gets its own below.
    pub(crate) dir: PathBuf,
    /// The certificate.
    pub(crate) identity: Identity,
    /// The scripted server.
    pub(crate) backend: Backend,
    /// The program under test.
    pub(crate) pointsman: PathBuf,
    /// Sessions that a proxy must be able to hold.
    pub(crate) sessions: usize,
}

/// A proxy that serves.
pub(crate) struct Proxy {
    /// Which one.
    pub(crate) kind: Kind,
    /// Its processes; none without a proxy.
    pub(crate) tree: Option<Tree>,
    clear: SocketAddr,
    tls: SocketAddr,
}

/// The ports and files that a configuration names.
struct Slots<'a> {
    site: &'a Site,
    dir: PathBuf,
    clear: u16,
    tls: u16,
}

impl Site {
    /// Starts a proxy and waits until both its listeners greet.
    pub(crate) async fn start(&self, kind: Kind) -> Result<Proxy> {
        if kind == Kind::Direct {
            let (clear, tls) = (self.backend.clear, self.backend.tls);
            return Ok(Proxy { kind, tree: None, clear, tls });
        }
        let dir = self.dir.join(kind.label());
        fs::create_dir_all(&dir).context("make a proxy's folder")?;
        let (clear, tls) = free_ports()?;
        let slots = Slots { site: self, dir, clear, tls };
        let log = slots.dir.join("log");
        let tree = Tree::new(spawn(slots.command(kind)?, &log)?);
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut proxy = Proxy { kind, tree: Some(tree), clear: address(clear), tls: address(tls) };
        for security in [Security::Clear, Security::Tls] {
            let door = proxy.door(security, &self.identity)?;
            proxy.await_greeting(&door, &log).await?;
        }
        Ok(proxy)
    }
}

impl Proxy {
    /// How clients reach it. Every call has its own store of TLS tickets.
    pub(crate) fn door(&self, security: Security, identity: &Identity) -> Result<Door> {
        let address = if security == Security::Clear { self.clear } else { self.tls };
        Ok(Door { address, tls: identity.connector(security)? })
    }

    async fn await_greeting(&mut self, door: &Door, log: &Path) -> Result<()> {
        let tries = START_WAIT.as_millis() / START_STEP.as_millis();
        let mut last = None;
        for _ in 0..tries {
            match tokio::time::timeout(START_WAIT, Client::connect(door, NARROW)).await {
                Ok(Ok(client)) => return client.logout().await,
                Ok(Err(error)) => last = Some(error),
                Err(_) => break,
            }
            if self.tree.as_mut().is_none_or(Tree::ended) {
                break;
            }
            tokio::time::sleep(START_STEP).await;
        }
        let reason = last.map_or("no greeting".to_owned(), |error| error.to_string());
        let said = fs::read_to_string(log).unwrap_or_default();
        let said: Vec<&str> = said.lines().rev().take(5).collect();
        Err(BenchError::Setup(format!("{} does not serve: {reason}; {said:?}", self.kind.label())))
    }
}

impl Slots<'_> {
    fn command(&self, kind: Kind) -> Result<Command> {
        let path = self.dir.join("config");
        let (text, program) = match kind {
            Kind::Nginx => (self.nginx(), Path::new("nginx")),
            Kind::Haproxy => (self.haproxy(), Path::new("haproxy")),
            Kind::Pointsman | Kind::Direct => (self.pointsman(), self.site.pointsman.as_path()),
        };
        fs::write(&path, text).context("write a configuration")?;
        let mut command = on_two_cores(program);
        match kind {
            Kind::Nginx => command.arg("-p").arg(&self.dir).arg("-c").arg(&path),
            Kind::Haproxy => command.arg("-db").arg("-f").arg(&path),
            Kind::Pointsman | Kind::Direct => command.arg("serve").arg("--config").arg(&path),
        };
        Ok(command)
    }

    fn pointsman(&self) -> String {
        let Self { site, dir, clear, tls } = self;
        let dir = dir.display();
        format!(
            "listeners:
  - {{ name: imap, address: \"127.0.0.1:{clear}\", tls: none, allow_clear_login: true }}
  - {{ name: imaps, address: \"127.0.0.1:{tls}\", tls: implicit }}
tls:
  certificates:
    - {{ cert: {cert}, key: {key} }}
shards:
  only:
    kind: primary
    backends:
      - {{ name: scripted, address: \"{backend}\", tls: none }}
routing:
  canonical: lowercase
  lookups:
    - shard: only
limits: {{ exempt: [127.0.0.0/8] }}
store: {{ path: {dir}/state }}
log: {{ level: warn }}
",
            cert = site.identity.cert.display(),
            key = site.identity.key.display(),
            backend = site.backend.clear,
        )
    }

    /// nginx keeps arrays of all connections from its start; they are sized for the run and
    /// count as the empty process, not as the sessions'.
    fn nginx(&self) -> String {
        let Self { site, dir, clear, tls } = self;
        let dir = dir.display();
        format!(
            "daemon off;
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
user root;
worker_processes {WORKERS};
pid {dir}/pid;
error_log {dir}/error.log error;
events {{ worker_connections {connections}; }}
mail {{
    auth_http 127.0.0.1:{auth}/;
    imap_capabilities IMAP4rev1 SASL-IR LITERAL+ ID IDLE UIDPLUS;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    ssl_ecdh_curve X25519;
    server {{ listen 127.0.0.1:{clear}; protocol imap; }}
    server {{ listen 127.0.0.1:{tls} ssl; protocol imap; }}
}}
",
            connections = 2 * site.sessions + 512,
            auth = site.backend.auth.port(),
            cert = site.identity.cert.display(),
            key = site.identity.key.display(),
        )
    }

    fn haproxy(&self) -> String {
        let Self { site, clear, tls, .. } = self;
        format!(
            "global
    nbthread {WORKERS}
    maxconn {maxconn}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-curves X25519
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend imap
    bind 127.0.0.1:{clear}
    default_backend scripted
frontend imaps
    bind 127.0.0.1:{tls} ssl crt {pem}
    default_backend scripted
backend scripted
    server scripted {backend}
",
            maxconn = site.sessions + 256,
            pem = site.identity.joined.display(),
            backend = site.backend.clear,
        )
    }
}

/// On a larger machine every proxy is held to as many cores as it has workers.
fn on_two_cores(program: &Path) -> Command {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if cores <= WORKERS {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0,1"]).arg(program);
    command
}

fn spawn(mut command: Command, log: &Path) -> Result<std::process::Child> {
    let output = File::create(log).context("make a log file")?;
    let errors = output.try_clone().context("share a log file")?;
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    command.spawn().context(&format!("start {program}"))
}

/// Two ports that were free a moment ago.
fn free_ports() -> Result<(u16, u16)> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port");
    let (one, two) = (bind()?, bind()?);
    let port = |listener: &TcpListener| listener.local_addr().context("read a free port");
    Ok((port(&one)?.port(), port(&two)?.port()))
}
