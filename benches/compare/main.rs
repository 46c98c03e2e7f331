//! Pointsman beside nginx mail and `HAProxy` on one machine: CPU, memory and latency of the
//! same work against the same scripted backend. Run by `scripts/bench`; how to read the
//! figures stands in `docs/benchmarks.md`.

mod backend;
mod client;
mod error;
mod imap_server;
mod machine;
mod mail;
mod process;
mod proxies;
mod report;
mod sample;
mod wire;
mod work;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::error::{BenchError, Context, Result};
use crate::machine::Machine;
use crate::proxies::{Kind, Site};
use crate::report::Report;
use crate::sample::Samples;
use crate::wire::{Identity, Security};
use crate::work::{Amounts, Subject, commands, idle, login, transfer};

/// Longest that one measurement may take; a proxy that hangs fails it and the run goes on.
const MEASUREMENT_SECONDS_MAX: u64 = 120;

/// Compares the cost of IMAP proxies on this machine.
#[derive(Parser)]
#[command(name = "scripts/bench", args_override_self = true)]
struct Options {
    /// Small amounts and two rounds: a first look in under two minutes.
    #[arg(long)]
    quick: bool,
    /// Only these works.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Work>,
    /// Only these proxies. Default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    proxies: Vec<Kind>,
    /// Rounds; each drives every proxy once. Default: 5, or 2 with --quick.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Sessions in IDLE, at most 9000. Default: 2000, or 800 with --quick.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=9000))]
    sessions: Option<u16>,
    /// Exit with 1 when a promised figure is missed.
    #[arg(long)]
    check: bool,
    /// The program under test.
    #[arg(long, default_value = "target/release/pointsman")]
    pointsman: PathBuf,
    /// Where the result is written as JSON.
    #[arg(long, default_value = "target/bench/result.json")]
    out: PathBuf,
    /// Passed by `cargo bench`, without a meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A workload by its name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Connect, LOGIN, LOGOUT.
    Login,
    /// Small commands.
    Commands,
    /// Mails down.
    Fetch,
    /// Mails up.
    Append,
    /// Memory of sessions in IDLE.
    Idle,
    /// From the backend's EXISTS to the client.
    WakeUp,
}

impl Options {
    fn wants(&self, work: Work) -> bool {
        self.only.is_empty() || self.only.contains(&work)
    }

    fn kinds(&self) -> &[Kind] {
        if self.proxies.is_empty() { Kind::value_variants() } else { &self.proxies }
    }

    fn rounds(&self) -> u16 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// Memory repeats well; its rounds are long and there are fewer.
    fn idle_rounds(&self) -> u16 {
        self.rounds().div_ceil(2)
    }

    fn amounts(&self) -> Amounts {
        let sessions = self.sessions.map(usize::from);
        let settle = Duration::from_millis(2_500);
        if self.quick {
            Amounts {
                logins: 1_500,
                commands: 3_000,
                split_commands: 100,
                mails: 192,
                alone: 50,
                sessions: sessions.unwrap_or(800),
                wakes: 1_500,
                longest: Duration::from_secs(1),
                settle,
            }
        } else {
            Amounts {
                logins: 6_000,
                commands: 10_000,
                split_commands: 300,
                mails: 1_024,
                alone: 200,
                sessions: sessions.unwrap_or(2_000),
                wakes: 5_000,
                longest: Duration::from_secs(4),
                settle: 2 * settle,
            }
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.context("make a runtime").and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                outcome = run(&options) => outcome,
                // The proxies end with the run that is dropped here.
                stopped = stop_asked() => stopped,
            }
        })
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn stop_asked() -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Err(BenchError::Setup("stopped".to_owned()))
}

async fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let mut machine = Machine::look();
    let mut report = Report::default();
    let dir = tempfile::tempdir().context("make a folder for the run")?;
    let identity = Identity::create(dir.path())?;
    let site = Site {
        backend: Backend::start(&identity)?,
        identity,
        dir: dir.path().to_owned(),
        pointsman: options.pointsman.clone(),
        sessions: options.amounts().sessions,
    };
    active_rounds(options, &site, &mut report).await;
    idle_rounds(options, &site, &mut report).await;
    machine.finish();
    report.derive();
    eprintln!("bench: measured for {} s", started.elapsed().as_secs());

    if let Some(parent) = options.out.parent() {
        std::fs::create_dir_all(parent).context("make the result's folder")?;
    }
    std::fs::write(&options.out, report.json(&machine)).context("write the result")?;
    let table = report.table(&machine);
    std::io::stdout().write_all(table.as_bytes()).context("print the table")?;
    let missed = options.check && report.bars().iter().any(|bar| !bar.kept);
    Ok(if missed || !report.complete() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The works that need no fresh process: all proxies stay up and take turns.
async fn active_rounds(options: &Options, site: &Site, report: &mut Report) {
    const WORKS: [Work; 4] = [Work::Login, Work::Commands, Work::Fetch, Work::Append];
    const SECURITIES: [Security; 3] = [Security::Clear, Security::Tls, Security::TlsResumed];
    let works: Vec<Work> = WORKS.into_iter().filter(|work| options.wants(*work)).collect();
    if works.is_empty() {
        return;
    }
    let mut up = Vec::new();
    for kind in options.kinds() {
        match site.start(*kind).await {
            Ok(proxy) => up.push(proxy),
            Err(error) => report.fail(error.to_string()),
        }
    }
    for round in 1..=options.rounds() {
        eprintln!("bench: round {round} of {}", options.rounds());
        for work in &works {
            for security in SECURITIES {
                if security == Security::TlsResumed && *work != Work::Login {
                    continue;
                }
                for proxy in &up {
                    let subject = Subject { site, proxy, security, amounts: options.amounts() };
                    let measured = within_limit(active(*work, &subject)).await;
                    record(report, &subject, measured);
                }
            }
        }
    }
}

async fn active(work: Work, subject: &Subject<'_>) -> Result<Vec<Samples>> {
    match work {
        Work::Login => login::run(subject).await,
        Work::Commands => commands::run(subject).await,
        Work::Fetch => transfer::fetch(subject).await,
        Work::Append => transfer::append(subject).await,
        Work::Idle | Work::WakeUp => Ok(Vec::new()),
    }
}

/// Memory is measured on a process that has done nothing else.
async fn idle_rounds(options: &Options, site: &Site, report: &mut Report) {
    let wanted =
        idle::Wanted { memory: options.wants(Work::Idle), wake_up: options.wants(Work::WakeUp) };
    if !wanted.memory && !wanted.wake_up {
        return;
    }
    let amounts = options.amounts();
    for round in 1..=options.idle_rounds() {
        eprintln!("bench: idle round {round} of {}", options.idle_rounds());
        for security in [Security::Clear, Security::Tls] {
            for kind in options.kinds() {
                let proxy = match site.start(*kind).await {
                    Ok(proxy) => proxy,
                    Err(error) => {
                        report.fail(error.to_string());
                        continue;
                    }
                };
                let subject = Subject { site, proxy: &proxy, security, amounts };
                let measured = within_limit(idle::run(&subject, wanted)).await;
                record(report, &subject, measured);
            }
        }
    }
}

async fn within_limit<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = Duration::from_secs(MEASUREMENT_SECONDS_MAX);
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(BenchError::Timeout(MEASUREMENT_SECONDS_MAX)))
}

fn record(report: &mut Report, subject: &Subject<'_>, measured: Result<Vec<Samples>>) {
    let kind = subject.proxy.kind;
    match measured {
        Ok(all) => all.into_iter().for_each(|samples| report.add(kind, samples)),
        Err(error) => {
            report.fail(format!("{} over {}: {error}", kind.label(), subject.security.label()));
        }
    }
}
