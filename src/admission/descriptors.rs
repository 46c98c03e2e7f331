//! How many descriptors all sessions together may use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Descriptors kept back for listeners, files, the store, probes and connects in flight.
const RESERVED: u64 = 256;

/// Connections that are not logged in get at most this share of the cap, in percent, so that a
/// flood of them leaves room for those who log in.
const NOT_LOGGED_IN_PERCENT: u64 = 60;

/// The soft descriptor limit leaves nothing for sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open descriptors is {soft_limit}, but {RESERVED} are kept for the proxy \
     itself; raise it (LimitNOFILE= in the unit, or ulimit -n)"
)]
pub struct TooFewDescriptors {
    /// The limit found.
    pub soft_limit: u64,
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AtCap {
    /// All descriptors are in use: accepting pauses.
    #[error("all descriptors for sessions are in use")]
    All,
    /// Connections not logged in use their whole share: the one longest silent is to go.
    #[error("connections that are not logged in use all of their share of descriptors")]
    NotLoggedIn,
}

impl AtCap {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::All => "descriptors",
            Self::NotLoggedIn => "descriptors_not_logged_in",
        }
    }
}

/// The global count of descriptors that sessions use: 1 before login, 2 after.
#[derive(Debug)]
pub struct DescriptorCap {
    cap: u64,
    not_logged_in_cap: u64,
    used: AtomicU64,
    not_logged_in: AtomicU64,
}

impl DescriptorCap {
    /// A cap for a process with this soft limit of open descriptors (after it was raised to
    /// the hard one).
    pub fn new(soft_limit: u64) -> Result<Arc<Self>, TooFewDescriptors> {
        let cap = soft_limit.saturating_sub(RESERVED);
        if cap < 2 {
            return Err(TooFewDescriptors { soft_limit });
        }
        // Divided first: the limit may be u64::MAX ("unlimited").
        let share = cap / 100 * NOT_LOGGED_IN_PERCENT + cap % 100 * NOT_LOGGED_IN_PERCENT / 100;
        Ok(Arc::new(Self {
            cap,
            not_logged_in_cap: share.max(1),
            used: AtomicU64::new(0),
            not_logged_in: AtomicU64::new(0),
        }))
    }

    /// Descriptors that sessions may use.
    pub const fn cap(&self) -> u64 {
        self.cap
    }

    /// Descriptors that sessions use now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes the one descriptor of a connection that was accepted, or is about to be.
    pub fn acquire(self: &Arc<Self>) -> Result<DescriptorPermit, AtCap> {
        if !take(&self.not_logged_in, self.not_logged_in_cap) {
            return Err(AtCap::NotLoggedIn);
        }
        if !take(&self.used, self.cap) {
            give_back(&self.not_logged_in);
            return Err(AtCap::All);
        }
        Ok(DescriptorPermit { cap: Arc::clone(self), with_backend: false, suspended: false })
    }
}

/// Adds 1 unless the bound is reached.
fn take(count: &AtomicU64, max: u64) -> bool {
    let more = |now: u64| (now < max).then_some(now + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

fn give_back(count: &AtomicU64) {
    count.fetch_sub(1, Ordering::Relaxed);
}

/// One connection's descriptors; all are given back when it drops.
#[derive(Debug)]
#[must_use = "dropping the permit gives the descriptors back"]
pub struct DescriptorPermit {
    cap: Arc<DescriptorCap>,
    with_backend: bool,
    suspended: bool,
}

impl DescriptorPermit {
    /// Takes the second descriptor, before a backend is dialled. From now on the connection is
    /// not one of those not logged in. Nothing happens where it has two already.
    pub fn upgrade(&mut self) -> Result<(), AtCap> {
        if self.with_backend {
            return Ok(());
        }
        if !take(&self.cap.used, self.cap.cap) {
            return Err(AtCap::All);
        }
        give_back(&self.cap.not_logged_in);
        self.with_backend = true;
        Ok(())
    }

    /// While the client is asked something in its login the connection is not logged in, with
    /// both its descriptors: else clients that never answer would use up those of the others.
    pub fn suspend(&mut self) {
        if self.with_backend && !self.suspended {
            self.cap.not_logged_in.fetch_add(2, Ordering::Relaxed);
            self.suspended = true;
        }
    }

    /// The client has answered.
    pub fn resume(&mut self) {
        if std::mem::take(&mut self.suspended) {
            self.cap.not_logged_in.fetch_sub(2, Ordering::Relaxed);
        }
    }

    /// Gives the second descriptor back, after a failed login closed the backend's connection.
    /// The connection is not logged in again, even where that share is used up: it was
    /// admitted long ago, and [`DescriptorCap::acquire`] makes the room.
    pub fn downgrade(&mut self) {
        self.resume();
        if self.with_backend {
            self.cap.not_logged_in.fetch_add(1, Ordering::Relaxed);
            give_back(&self.cap.used);
            self.with_backend = false;
        }
    }
}

impl Drop for DescriptorPermit {
    fn drop(&mut self) {
        self.downgrade();
        give_back(&self.cap.not_logged_in);
        give_back(&self.cap.used);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn connections_not_logged_in_get_six_tenths() {
        let cap = DescriptorCap::new(256 + 10).unwrap();
        let mut permits: Vec<_> = (0..6).map(|_| cap.acquire().unwrap()).collect();
        assert_eq!(cap.acquire().unwrap_err(), AtCap::NotLoggedIn);
        permits[0].upgrade().unwrap();
        permits.push(cap.acquire().unwrap());
        assert_eq!(cap.used(), 8);
        permits[1].upgrade().unwrap();
        permits[2].upgrade().unwrap();
        assert_eq!(permits[3].upgrade(), Err(AtCap::All));
        assert_eq!(cap.acquire().unwrap_err(), AtCap::All);
        drop(permits);
        assert_eq!((cap.used(), cap.not_logged_in.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_limit_without_room_for_a_session_is_refused() {
        assert_eq!(DescriptorCap::new(257).unwrap_err(), TooFewDescriptors { soft_limit: 257 });
        assert_eq!(DescriptorCap::new(258).unwrap().cap(), 2);
        let unlimited = DescriptorCap::new(u64::MAX).unwrap();
        assert!(unlimited.not_logged_in_cap > unlimited.cap() / 2);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_permits_alive(
            steps in prop::collection::vec((0_u8..6, any::<prop::sample::Index>()), 0..80),
        ) {
            let cap = DescriptorCap::new(256 + 20).unwrap();
            let mut permits: Vec<DescriptorPermit> = Vec::new();
            for (step, which) in steps {
                if step == 0 || permits.is_empty() {
                    permits.extend(cap.acquire());
                } else {
                    let which = which.index(permits.len());
                    match step {
                        1 => { let _ = permits[which].upgrade(); }
                        2 => permits[which].downgrade(),
                        3 => permits[which].suspend(),
                        4 => permits[which].resume(),
                        _ => drop(permits.swap_remove(which)),
                    }
                }
                let two = permits.iter().filter(|permit| permit.with_backend).count();
                let one = permits.len() - two;
                let suspended = permits.iter().filter(|permit| permit.suspended).count();
                prop_assert_eq!(cap.used(), u64::try_from(one + 2 * two).unwrap());
                prop_assert_eq!(
                    cap.not_logged_in.load(Ordering::Relaxed),
                    u64::try_from(one + 2 * suspended).unwrap()
                );
                prop_assert!(cap.used() <= cap.cap());
            }
        }
    }
}
