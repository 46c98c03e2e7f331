//! The drain signal, and the count of what still runs. It knows nothing of what is drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// How far the end of the process has come. It only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Work goes on.
    Running,
    /// What runs may finish; nothing new begins.
    Draining,
    /// What still runs is to stop now.
    Ending,
}

/// The drain of one process. Clones share it.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    running: AtomicUsize,
    idle: Notify,
}

impl Drain {
    /// A drain in [`Phase::Running`] with nothing running.
    pub fn new() -> Self {
        let phase = watch::Sender::new(Phase::Running);
        let shared = Shared { phase, running: AtomicUsize::new(0), idle: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Moves on to that phase and wakes who waits for it. Going back is ignored.
    pub fn advance(&self, to: Phase) {
        self.shared.phase.send_if_modified(|phase| {
            let forward = to > *phase;
            if forward {
                *phase = to;
            }
            forward
        });
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    /// Waits until the phase is at least this one. Losing nothing when dropped.
    pub async fn reached(&self, at_least: Phase) {
        let mut phase = self.shared.phase.subscribe();
        // The sender lives in `self`, so the channel cannot close while this waits.
        let _ = phase.wait_for(|now| *now >= at_least).await;
    }

    /// Counts something as running until the guard is dropped.
    pub fn running(&self) -> Running {
        self.shared.running.fetch_add(1, Ordering::AcqRel);
        Running { shared: Arc::clone(&self.shared) }
    }

    /// How much runs now.
    pub fn running_count(&self) -> usize {
        self.shared.running.load(Ordering::Acquire)
    }

    /// Waits until nothing runs; at once when nothing does. Losing nothing when dropped.
    pub async fn wait_idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.shared.idle.notified());
            // Listening begins before the count is read, so the last end is not missed.
            idle.as_mut().enable();
            if self.running_count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// One thing that runs; it is over when this is dropped.
#[derive(Debug)]
#[must_use = "it counts as over as soon as this is dropped"]
pub struct Running {
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.shared.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    /// Whether a future is over when polled once.
    async fn is_over(future: impl Future<Output = ()>) -> bool {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn idle_is_reached_with_the_last_guard_and_not_before() {
        let drain = Drain::new();
        drain.wait_idle().await;
        let (first, second) = (drain.running(), drain.clone().running());
        assert_eq!(drain.running_count(), 2);
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.wait_idle().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!is_over(drain.wait_idle()).await);
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        assert!(is_over(drain.wait_idle()).await);
    }

    #[tokio::test]
    async fn a_phase_wakes_who_waits_for_it_or_for_an_earlier_one() {
        let drain = Drain::new();
        assert!(is_over(drain.reached(Phase::Running)).await);
        assert!(!is_over(drain.reached(Phase::Draining)).await);
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.reached(Phase::Draining).await }
        });
        tokio::task::yield_now().await;
        drain.advance(Phase::Ending);
        waiting.await.unwrap();
    }

    #[test]
    fn a_phase_never_goes_back() {
        let drain = Drain::new();
        drain.advance(Phase::Ending);
        drain.advance(Phase::Draining);
        assert_eq!(drain.phase(), Phase::Ending);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_end_is_missed_while_guards_end_on_other_threads() {
        for _ in 0..200 {
            let drain = Drain::new();
            for guard in [drain.running(), drain.running(), drain.running()] {
                tokio::spawn(async move { drop(guard) });
            }
            drain.wait_idle().await;
            assert_eq!(drain.running_count(), 0);
        }
    }
}
