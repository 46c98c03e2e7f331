//! A proxy's processes: what they cost, and how they are ended.

use std::fs;
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Linux gives times in `/proc/PID/stat` in units of 1/100 s on every architecture.
const TICK: Duration = Duration::from_millis(10);
/// How long a proxy may take to end after SIGINT.
const END_WAIT: Duration = Duration::from_secs(5);

/// A started proxy with all processes below it. Ends with the value.
pub(crate) struct Tree {
    root: Child,
}

/// CPU time used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTime {
    ticks: Duration,
    fine: Duration,
}

impl CpuTime {
    /// CPU time between two readings.
    ///
    /// The scheduler's count is in nanoseconds but forgets threads that ended; the ticks of
    /// `/proc/PID/stat` forget nothing but are coarse. Where they disagree by more than
    /// their grain, a thread has ended and the ticks are right.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let fine = self.fine.saturating_sub(earlier.fine);
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        if fine + 4 * TICK < ticks { ticks } else { fine }
    }
}

impl Tree {
    /// Takes over a started process.
    pub(crate) fn new(root: Child) -> Self {
        Self { root }
    }

    /// Whether the first process has ended already.
    pub(crate) fn ended(&mut self) -> bool {
        !matches!(self.root.try_wait(), Ok(None))
    }

    /// The process ids, the first process first.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let parents: Vec<(u32, u32)> = numbered("/proc")
            .into_iter()
            .filter_map(|id| Some((id, stat_field(id, 1)?.try_into().ok()?)))
            .collect();
        let mut ids = vec![self.root.id()];
        let mut next = 0;
        while let Some(parent) = ids.get(next).copied() {
            ids.extend(parents.iter().filter(|pair| pair.1 == parent).map(|pair| pair.0));
            next += 1;
        }
        ids
    }

    /// User and system time of all processes.
    pub(crate) fn cpu(&self) -> CpuTime {
        let mut time = CpuTime { ticks: Duration::ZERO, fine: Duration::ZERO };
        for id in self.ids() {
            // Fields 14 and 15 of proc(5); 0 here is the state, field 3.
            let ticks = stat_field(id, 11).unwrap_or(0) + stat_field(id, 12).unwrap_or(0);
            time.ticks += TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
            for thread in numbered(&format!("/proc/{id}/task")) {
                time.fine += scheduled(id, thread).unwrap_or_default();
            }
        }
        time
    }

    /// Proportional set size of all processes in bytes.
    pub(crate) fn pss_bytes(&self) -> u64 {
        self.ids().into_iter().filter_map(pss_bytes).sum()
    }

    /// Ends all processes, asking first.
    fn end(&mut self) {
        let ids = self.ids();
        if !self.ended() {
            signal(self.root.id(), Signal::INT);
            let steps = END_WAIT.as_millis() / TICK.as_millis();
            for _ in 0..steps {
                if self.ended() {
                    break;
                }
                std::thread::sleep(TICK);
            }
        }
        if !self.ended() {
            for id in ids {
                signal(id, Signal::KILL);
            }
            let _ = self.root.wait();
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.end();
    }
}

fn signal(id: u32, signal: Signal) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // A process that is gone already is what was wanted.
        let _ = kill_process(id, signal);
    }
}

fn numbered(dir: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A field of `/proc/PID/stat` counted from the state, which follows the name in brackets.
fn stat_field(id: u32, index: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(index)?.parse().ok()
}

fn scheduled(id: u32, thread: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{id}/task/{thread}/schedstat")).ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

fn pss_bytes(id: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
