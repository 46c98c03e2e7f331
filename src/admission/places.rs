//! A bounded number of places.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts who is in; the bound comes with each request, so that a reload changes it.
#[derive(Debug, Default)]
pub struct Places {
    taken: AtomicU32,
}

impl Places {
    /// Nobody is in.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes a place, or `None` where `max` are taken.
    pub fn take(self: &Arc<Self>, max: u32) -> Option<PlacePermit> {
        let more = |now: u32| (now < max).then_some(now + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(PlacePermit { places: Arc::clone(self) })
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// One place; given back when dropped.
#[derive(Debug)]
#[must_use = "dropping the permit gives the place back"]
pub struct PlacePermit {
    places: Arc<Places>,
}

impl Drop for PlacePermit {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_in_than_the_bound_of_the_moment() {
        let places = Places::new();
        let first = places.take(2).unwrap();
        let second = places.take(2).unwrap();
        assert!(places.take(2).is_none());
        let third = places.take(3).unwrap();
        assert_eq!(places.taken(), 3);
        drop((first, second));
        // Lowered by a reload: who is in stays in.
        assert!(places.take(1).is_none());
        drop(third);
        assert!(places.take(1).is_some());
        assert_eq!(places.taken(), 0);
    }
}
