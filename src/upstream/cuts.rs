//! Sessions that a backend cuts off: where they are many at once, their clients are let go
//! over some time, so that they do not all come back in one moment.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Sessions that may end within one [`WINDOW`] before the further ones are spread.
const FEW: u32 = 20;
/// How long ends count as one event.
const WINDOW: Duration = Duration::from_secs(1);

/// The sessions of one backend that it ended lately.
#[derive(Debug, Default)]
pub struct Cuts(Mutex<Option<Window>>);

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    ends: u32,
}

impl Cuts {
    /// Notes an end; gives how long the client should be kept from noticing, at most `spread`.
    pub fn note(&self, now: Instant, spread: Duration) -> Duration {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = window.filter(|known| now.saturating_duration_since(known.since) < WINDOW);
        let ends = known.map_or(0, |known| known.ends).saturating_add(1);
        *window = Some(Window { since: known.map_or(now, |known| known.since), ends });
        if ends <= FEW { Duration::ZERO } else { spread.mul_f64(fastrand::f64()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_ends_are_passed_on_at_once_and_a_herd_is_spread() {
        const SPREAD: Duration = Duration::from_secs(4);
        let cuts = Cuts::default();
        let note = || cuts.note(Instant::now(), SPREAD);
        assert!((0..FEW).all(|_| note().is_zero()));
        let delays: Vec<Duration> = (0..1000).map(|_| note()).collect();
        let mean = delays.iter().sum::<Duration>() / 1000;
        assert!(delays.iter().all(|delay| *delay <= SPREAD));
        assert!(mean > SPREAD.mul_f64(0.4) && mean < SPREAD.mul_f64(0.6), "{mean:?}");
        tokio::time::advance(WINDOW).await;
        assert!(note().is_zero());
    }
}
