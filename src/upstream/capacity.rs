//! How much a backend is given at once: sessions, and logins in flight with a short queue
//! in front of them, so that a herd that comes back cannot fell it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Why a backend takes no further login now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// It has as many sessions as it may.
    Sessions,
    /// As many logins wait as may.
    Queue,
    /// The login has waited as long as it may.
    Waited,
}

impl Full {
    /// What the operator is told.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Sessions => "backend_sessions",
            Self::Queue | Self::Waited => "login_queue",
        }
    }
}

/// The sessions of one backend, over all generations of its configuration: those that are
/// live and those on their way there.
#[derive(Debug, Clone, Default)]
pub struct Seats(Arc<AtomicU32>);

/// A session's place at a backend, given back when dropped.
#[derive(Debug)]
#[must_use = "the place is given back as soon as this is dropped"]
pub struct Seat(Arc<AtomicU32>);

impl Seats {
    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a place, where there are fewer than `max` taken; `None`: as many as come.
    pub fn take(&self, max: Option<u32>) -> Option<Seat> {
        let max = max.unwrap_or(u32::MAX);
        let more = |taken: u32| (taken < max).then(|| taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Seat(Arc::clone(&self.0)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bounds on the logins in flight to one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateSettings {
    /// Most logins in flight; `None`: as many as come.
    pub logins_max: Option<u32>,
    /// Most logins that wait.
    pub queue_max: u32,
    /// Longest wait.
    pub wait: Duration,
}

/// Where logins to one backend wait their turn, the first that came first.
#[derive(Debug)]
pub struct Gate {
    settings: GateSettings,
    places: Option<Arc<Semaphore>>,
    waiting: AtomicU32,
}

/// Leave to log in; given back when dropped.
#[derive(Debug)]
#[must_use = "the next login goes as soon as this is dropped"]
pub struct Pass {
    _place: Option<OwnedSemaphorePermit>,
    /// Whether it had to be waited for.
    pub waited: bool,
}

impl Gate {
    /// A gate with those bounds.
    pub fn new(settings: GateSettings) -> Self {
        let places = |max: u32| Semaphore::new(usize::try_from(max).unwrap_or(usize::MAX));
        let places = settings.logins_max.map(|max| Arc::new(places(max)));
        Self { settings, places, waiting: AtomicU32::new(0) }
    }

    /// Its bounds. A gate with others is a new one: what passed this one does not count there.
    pub const fn settings(&self) -> GateSettings {
        self.settings
    }

    /// Logins that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for leave to log in.
    ///
    /// # Errors
    /// Where too many wait already, or for too long.
    pub async fn pass(&self) -> Result<Pass, Full> {
        let Some(places) = &self.places else { return Ok(Pass { _place: None, waited: false }) };
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Ok(Pass { _place: Some(place), waited: false });
        }
        let _queued = self.queue().ok_or(Full::Queue)?;
        let place = tokio::time::timeout(self.settings.wait, Arc::clone(places).acquire_owned());
        match place.await {
            Ok(Ok(place)) => Ok(Pass { _place: Some(place), waited: true }),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Full::Waited),
        }
    }

    fn queue(&self) -> Option<Queued<'_>> {
        let more = |waiting: u32| (waiting < self.settings.queue_max).then(|| waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Queued(&self.waiting))
    }
}

/// A place in the queue.
struct Queued<'g>(&'g AtomicU32);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(logins_max: u32, queue_max: u32) -> Gate {
        let wait = Duration::from_secs(10);
        Gate::new(GateSettings { logins_max: Some(logins_max), queue_max, wait })
    }

    #[test]
    fn a_seat_is_had_until_it_is_dropped_and_none_beyond_the_bound() {
        let seats = Seats::default();
        let first = seats.take(Some(1)).unwrap();
        assert!(seats.take(Some(1)).is_none());
        let second = seats.take(None).unwrap();
        assert_eq!(seats.taken(), 2);
        drop((first, second));
        assert_eq!(seats.taken(), 0);
        assert!(seats.take(Some(0)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn logins_pass_in_their_order_when_others_are_through() {
        let gate = Arc::new(gate(1, 2));
        let first = gate.pass().await.unwrap();
        assert!(!first.waited);
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..2)
            .map(|number| {
                let (gate, order) = (Arc::clone(&gate), Arc::clone(&order));
                tokio::spawn(async move {
                    let pass = gate.pass().await.unwrap();
                    order.lock().unwrap().push(number);
                    assert!(pass.waited);
                })
            })
            .collect();
        while gate.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.pass().await.unwrap_err(), Full::Queue);
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1]);
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_queue_lets() {
        let gate = gate(1, 5);
        let held = gate.pass().await.unwrap();
        let start = tokio::time::Instant::now();
        assert_eq!(gate.pass().await.unwrap_err(), Full::Waited);
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        assert_eq!(gate.waiting(), 0);
        drop(held);
        assert!(gate.pass().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_leaves_the_queue() {
        let gate = gate(1, 1);
        let held = gate.pass().await.unwrap();
        let short = tokio::time::timeout(Duration::from_secs(1), gate.pass()).await;
        assert!(short.is_err());
        assert_eq!(gate.waiting(), 0);
        drop(held);
        let open = Gate::new(GateSettings { logins_max: None, ..gate.settings() });
        let (one, two) = (open.pass().await, open.pass().await);
        assert!(one.is_ok() && two.is_ok());
    }
}
