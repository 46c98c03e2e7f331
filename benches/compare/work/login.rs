//! Connect, greeting, LOGIN, LOGOUT: as fast as a fixed number of clients can, and alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{self, Client, Door, NARROW};
use crate::error::{BenchError, Result};
use crate::sample::{Samples, float, micros};
use crate::wire::Security;
use crate::work::Subject;

/// Clients at work at the same time.
const CLIENTS: usize = 16;
/// Different users, so that no limit per user is met.
const USERS: usize = 5_000;

/// Measures one round of both.
pub(crate) async fn run(subject: &Subject<'_>) -> Result<Vec<Samples>> {
    Ok(vec![crowded(subject).await?, alone(subject).await?])
}

/// The logins that all clients share.
struct Work {
    next: AtomicUsize,
    end: usize,
    deadline: Instant,
}

/// What a client did.
#[derive(Default)]
struct Done {
    logins: usize,
    resumed: usize,
}

async fn crowded(subject: &Subject<'_>) -> Result<Samples> {
    let end = match subject.security {
        Security::Clear => subject.amounts.logins,
        Security::Tls | Security::TlsResumed => subject.amounts.logins / 3,
    };
    let work = Arc::new(Work { next: AtomicUsize::new(0), end, deadline: subject.deadline() });
    let meter = subject.meter();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        // A door of its own: a client resumes its own last session.
        clients.spawn(log_in_repeatedly(subject.door()?, Arc::clone(&work)));
    }
    let mut total = Done::default();
    while let Some(client) = clients.join_next().await {
        let done = client.map_err(|error| BenchError::Setup(error.to_string()))??;
        total.logins += done.logins;
        total.resumed += done.resumed;
    }
    let (elapsed, cpu) = meter.stop();

    let logins = float(total.logins);
    let mut samples = Samples::of(subject.named("login"));
    if let Some(cpu) = cpu {
        samples.add("CPU per login", "µs", micros(cpu) / logins);
    }
    samples.add("rate", "logins/s", logins / elapsed.as_secs_f64());
    if subject.security == Security::TlsResumed {
        samples.add("share resumed", "%", float(total.resumed) * 100.0 / logins);
    }
    Ok(samples)
}

async fn log_in_repeatedly(door: Door, work: Arc<Work>) -> Result<Done> {
    let mut done = Done::default();
    loop {
        let number = work.next.fetch_add(1, Ordering::Relaxed);
        if number >= work.end || Instant::now() >= work.deadline {
            return Ok(done);
        }
        done.resumed += usize::from(log_in_once(&door, number).await?);
        done.logins += 1;
    }
}

/// Gives whether the handshake was resumed.
async fn log_in_once(door: &Door, number: usize) -> Result<bool> {
    let client = Client::sign_in(door, &client::user(number % USERS), NARROW).await?;
    let resumed = client.resumed();
    client.logout().await?;
    Ok(resumed)
}

/// One login at a time, where every wait is the proxy's own.
async fn alone(subject: &Subject<'_>) -> Result<Samples> {
    let (door, deadline) = (subject.door()?, subject.deadline());
    let mut latencies = Vec::with_capacity(subject.amounts.alone);
    for number in 0..subject.amounts.alone {
        let started = Instant::now();
        log_in_once(&door, number).await?;
        latencies.push(started.elapsed());
        if Instant::now() >= deadline {
            break;
        }
    }
    let mut samples = Samples::of(subject.named("login alone"));
    samples.add_latencies(latencies);
    Ok(samples)
}
