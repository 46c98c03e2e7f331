//! Whole mails down and up: through four sessions at once, and alone.

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{self, Client, Door, WIDE};
use crate::error::{BenchError, Result};
use crate::mail::{self, LARGE, SMALL};
use crate::sample::{Samples, float};
use crate::work::Subject;

/// Sessions that move mails at the same time.
const CLIENTS: usize = 4;

/// Which way the mails go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Down,
    Up,
}

/// Downloads of large and of small mails.
pub(crate) async fn fetch(subject: &Subject<'_>) -> Result<Vec<Samples>> {
    let mails = subject.amounts.mails;
    let large = Errand { verb: "fetch 1 MiB", way: Way::Down, mail: LARGE, count: mails };
    let small = Errand { verb: "fetch 64 KiB", way: Way::Down, mail: SMALL, count: mails * 4 };
    let alone = Errand { verb: "fetch 64 KiB alone", count: subject.amounts.alone, ..small };
    Ok(vec![
        crowded(subject, large).await?,
        crowded(subject, small).await?,
        one_by_one(subject, alone).await?,
    ])
}

/// Uploads of large mails.
pub(crate) async fn append(subject: &Subject<'_>) -> Result<Vec<Samples>> {
    let mails = subject.amounts.mails;
    let large = Errand { verb: "append 1 MiB", way: Way::Up, mail: LARGE, count: mails };
    let count = subject.amounts.alone;
    let alone = Errand { verb: "append 64 KiB alone", way: Way::Up, mail: SMALL, count };
    Ok(vec![crowded(subject, large).await?, one_by_one(subject, alone).await?])
}

/// What is moved.
#[derive(Debug, Clone, Copy)]
struct Errand {
    verb: &'static str,
    way: Way,
    /// Sequence number and size in bytes.
    mail: (u32, usize),
    count: usize,
}

async fn crowded(subject: &Subject<'_>, errand: Errand) -> Result<Samples> {
    let mut clients = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        clients.push(sign_in(subject.door()?, number).await?);
    }
    let each = Errand { count: errand.count.div_ceil(CLIENTS), ..errand };
    let deadline = subject.deadline();
    let meter = subject.meter();
    let mut moving = JoinSet::new();
    for client in clients {
        moving.spawn(move_mails(client, each, deadline));
    }
    let mut mails = 0;
    while let Some(moved) = moving.join_next().await {
        mails += moved.map_err(|error| BenchError::Setup(error.to_string()))??;
    }
    let (elapsed, cpu) = meter.stop();
    let gigabytes = float(mails) * float(errand.mail.1) / 1e9;
    let mut samples = Samples::of(subject.named(errand.verb));
    if let Some(cpu) = cpu {
        samples.add("CPU per GB", "s", cpu.as_secs_f64() / gigabytes);
    }
    samples.add("throughput", "MB/s", gigabytes * 1e3 / elapsed.as_secs_f64());
    Ok(samples)
}

async fn sign_in(door: Door, number: usize) -> Result<Client> {
    let mut client = Client::sign_in(&door, &client::user(number), WIDE).await?;
    client.command("SELECT INBOX").await?;
    Ok(client)
}

/// Gives the number of mails moved.
async fn move_mails(mut client: Client, errand: Errand, deadline: Instant) -> Result<usize> {
    let mut moved = 0;
    while moved < errand.count && Instant::now() < deadline {
        move_mail(&mut client, errand).await?;
        moved += 1;
    }
    client.logout().await?;
    Ok(moved)
}

async fn move_mail(client: &mut Client, errand: Errand) -> Result<()> {
    match errand.way {
        Way::Down => client.fetch(errand.mail).await,
        Way::Up => client.append(mail::body(errand.mail.1)).await,
    }
}

/// One mail at a time, where every wait is the proxy's own.
async fn one_by_one(subject: &Subject<'_>, errand: Errand) -> Result<Samples> {
    let mut client = sign_in(subject.door()?, 0).await?;
    let deadline = subject.deadline();
    let mut latencies = Vec::with_capacity(errand.count);
    while latencies.len() < errand.count && Instant::now() < deadline {
        let started = Instant::now();
        move_mail(&mut client, errand).await?;
        latencies.push(started.elapsed());
    }
    client.logout().await?;
    let mut samples = Samples::of(subject.named(errand.verb));
    samples.add_latencies(latencies);
    Ok(samples)
}
