//! Small commands: one after the other, pipelined, and cut in two on their way.

use tokio::time::Instant;

use crate::client::{self, Client, NARROW};
use crate::error::Result;
use crate::imap_server::SPLIT_PAUSE;
use crate::mail;
use crate::sample::{Samples, float, micros};
use crate::work::Subject;

/// Commands in one write.
const BATCH: usize = 16;

/// Measures one round of all three.
pub(crate) async fn run(subject: &Subject<'_>) -> Result<Vec<Samples>> {
    let door = subject.door()?;
    let mut client = Client::sign_in(&door, &client::user(0), NARROW).await?;
    client.command("SELECT INBOX").await?;
    let measured = vec![
        sequential(subject, &mut client).await?,
        pipelined(subject, &mut client).await?,
        split(subject, &mut client).await?,
    ];
    client.logout().await?;
    Ok(measured)
}

fn queue(client: &mut Client, number: usize) -> u32 {
    if number.is_multiple_of(2) { client.queue("NOOP") } else { client.queue("FETCH 1 (FLAGS)") }
}

async fn sequential(subject: &Subject<'_>, client: &mut Client) -> Result<Samples> {
    let count = subject.amounts.commands;
    let mut latencies = Vec::with_capacity(count);
    let meter = subject.meter();
    for number in 0..count {
        let started = Instant::now();
        let tag = queue(client, number);
        client.flush().await?;
        client.finish(tag).await?;
        latencies.push(started.elapsed());
    }
    let (_, cpu) = meter.stop();
    let mut samples = Samples::of(subject.named("command"));
    if let Some(cpu) = cpu {
        samples.add("CPU per command", "µs", micros(cpu) / float(count));
    }
    samples.add_latencies(latencies);
    Ok(samples)
}

async fn pipelined(subject: &Subject<'_>, client: &mut Client) -> Result<Samples> {
    let batches = subject.amounts.commands * 6 / BATCH;
    let mut latencies = Vec::with_capacity(batches);
    let meter = subject.meter();
    for _ in 0..batches {
        let started = Instant::now();
        let tags: Vec<u32> = (0..BATCH).map(|number| queue(client, number)).collect();
        client.flush().await?;
        for tag in tags {
            client.finish(tag).await?;
        }
        latencies.push(started.elapsed());
    }
    let (_, cpu) = meter.stop();
    let mut samples = Samples::of(subject.named("16 pipelined commands"));
    if let Some(cpu) = cpu {
        samples.add("CPU per command", "µs", micros(cpu) / float(batches * BATCH));
    }
    samples.add_latencies(latencies);
    Ok(samples)
}

/// Two small writes before the other side answers are what Nagle's algorithm delays, on
/// either leg of a proxy that does not switch it off.
async fn split(subject: &Subject<'_>, client: &mut Client) -> Result<Samples> {
    let mut latencies = Vec::with_capacity(subject.amounts.split_commands);
    let deadline = subject.deadline();
    for _ in 0..subject.amounts.split_commands {
        let tag = client.queue(&format!("FETCH {} (FLAGS)", mail::SPLIT));
        let started = Instant::now();
        client.flush_in_two(SPLIT_PAUSE).await?;
        client.finish(tag).await?;
        latencies.push(started.elapsed());
        if Instant::now() >= deadline {
            break;
        }
    }
    let mut samples = Samples::of(subject.named("command cut in two"));
    samples.add_latencies(latencies);
    Ok(samples)
}
