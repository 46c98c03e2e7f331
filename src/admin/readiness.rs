//! Whether the process should be given new clients.

use std::sync::atomic::{AtomicU8, Ordering};

/// Why new clients should go elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unready {
    /// The listeners are not open yet.
    Starting,
    /// The process is ending.
    Draining,
}

impl Unready {
    /// The reason as `/readyz` prints it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
        }
    }
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// The answer of `/readyz`: starting, then ready, then draining, never back.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Readiness {
    /// Not ready: the process is starting.
    pub const fn starting() -> Self {
        Self(AtomicU8::new(STARTING))
    }

    /// The listeners are open. Ignored once draining.
    pub fn set_ready(&self) {
        self.0.fetch_max(READY, Ordering::AcqRel);
    }

    /// The process is ending.
    pub fn set_draining(&self) {
        self.0.fetch_max(DRAINING, Ordering::AcqRel);
    }

    /// `None` when new clients may come.
    pub fn unready(&self) -> Option<Unready> {
        match self.0.load(Ordering::Acquire) {
            STARTING => Some(Unready::Starting),
            READY => None,
            _ => Some(Unready::Draining),
        }
    }
}
