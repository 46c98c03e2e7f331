//! Many sessions in IDLE: their memory, their idle cost, and how fast one wakes.

use tokio::task::JoinSet;

use crate::client::{self, Client, Door, NARROW};
use crate::error::{BenchError, Result};
use crate::mail::{self, SMALL};
use crate::process::Tree;
use crate::proxies::Proxy;
use crate::sample::{Samples, float, micros};
use crate::work::Subject;

/// Tasks that open the sessions, and later move their bytes.
const OPENERS: usize = 32;
/// Chooses the sessions to wake; the same for every proxy.
const SEED: u64 = 7;

/// What to measure with the sessions once they are there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Memory, fresh and after use.
    pub(crate) memory: bool,
    /// Wake-ups.
    pub(crate) wake_up: bool,
}

/// A session and the number of its user.
type Numbered = (usize, Client);

/// Measures a freshly started proxy.
pub(crate) async fn run(subject: &Subject<'_>, wanted: Wanted) -> Result<Vec<Samples>> {
    let memory = wanted.memory && subject.proxy.tree.is_some();
    let empty = pss(subject.proxy);
    let mut sessions = open(subject).await?;
    let mut measured = Vec::new();
    if memory {
        let mut samples = Samples::of(subject.named("idle session"));
        tokio::time::sleep(subject.amounts.settle).await;
        samples.add("PSS, fresh", "KiB", per_session(subject, empty));
        sessions = use_all(sessions).await?;
        let meter = subject.meter();
        tokio::time::sleep(subject.amounts.settle).await;
        if let (elapsed, Some(cpu)) = meter.stop() {
            samples.add("PSS, after 64 KiB each way", "KiB", per_session(subject, empty));
            let thousands = float(subject.amounts.sessions) / 1e3;
            let share = cpu.as_secs_f64() * 1e3 / elapsed.as_secs_f64() / thousands;
            samples.add("CPU per 1,000 sessions", "ms/s", share);
        }
        measured.push(samples);
    }
    if wanted.wake_up {
        measured.push(wake(subject, &mut sessions).await?);
    }
    Ok(measured)
}

fn pss(proxy: &Proxy) -> u64 {
    proxy.tree.as_ref().map(Tree::pss_bytes).unwrap_or_default()
}

/// KiB of each session above the empty process. With few sessions it may come out too small,
/// since they first fill what the process set aside at its start.
fn per_session(subject: &Subject<'_>, empty: u64) -> f64 {
    let grown = pss(subject.proxy).saturating_sub(empty);
    float(usize::try_from(grown / 1024).unwrap_or(usize::MAX)) / float(subject.amounts.sessions)
}

async fn open(subject: &Subject<'_>) -> Result<Vec<Numbered>> {
    let count = subject.amounts.sessions;
    let mut openers = JoinSet::new();
    for first in 0..OPENERS {
        openers.spawn(open_every(subject.door()?, first, count));
    }
    gather(openers, count).await
}

async fn open_every(door: Door, first: usize, count: usize) -> Result<Vec<Numbered>> {
    let mut sessions = Vec::new();
    for number in (first..count).step_by(OPENERS) {
        let mut client = Client::sign_in(&door, &client::user(number), NARROW).await?;
        client.command("SELECT INBOX").await?;
        client.idle().await?;
        sessions.push((number, client));
    }
    Ok(sessions)
}

/// Sends a mail each way through every session, then goes back to IDLE.
async fn use_all(sessions: Vec<Numbered>) -> Result<Vec<Numbered>> {
    let count = sessions.len();
    let mut users = JoinSet::new();
    let mut left = sessions.into_iter();
    while left.len() > 0 {
        users.spawn(use_each(left.by_ref().take(count.div_ceil(OPENERS)).collect()));
    }
    gather(users, count).await
}

async fn use_each(mut sessions: Vec<Numbered>) -> Result<Vec<Numbered>> {
    for (_, client) in &mut sessions {
        client.done().await?;
        client.fetch(SMALL).await?;
        client.append(mail::body(SMALL.1)).await?;
        client.idle().await?;
    }
    Ok(sessions)
}

/// The tasks' sessions in the order of their users.
async fn gather(mut tasks: JoinSet<Result<Vec<Numbered>>>, count: usize) -> Result<Vec<Numbered>> {
    let mut sessions = Vec::with_capacity(count);
    while let Some(task) = tasks.join_next().await {
        sessions.extend(task.map_err(|error| BenchError::Setup(error.to_string()))??);
    }
    sessions.sort_unstable_by_key(|session| session.0);
    Ok(sessions)
}

/// Wakes one session at a time: each event meets a sleeping proxy, nothing is batched.
async fn wake(subject: &Subject<'_>, sessions: &mut [Numbered]) -> Result<Samples> {
    let idlers = &subject.site.backend.idlers;
    let mut random = fastrand::Rng::with_seed(SEED);
    let count = subject.amounts.wakes;
    let mut latencies = Vec::with_capacity(count);
    let meter = subject.meter();
    for _ in 0..count {
        let chosen = random.usize(..sessions.len());
        let Some((number, client)) = sessions.get_mut(chosen) else { continue };
        idlers.wake(&client::user(*number))?;
        client.exists().await?;
        latencies.push(idlers.woken_at().map(|at| at.elapsed()).unwrap_or_default());
    }
    let (_, cpu) = meter.stop();
    let mut samples = Samples::of(subject.named("wake-up"));
    if let Some(cpu) = cpu {
        samples.add("CPU per wake-up", "µs", micros(cpu) / float(count));
    }
    samples.add_latencies(latencies);
    Ok(samples)
}
