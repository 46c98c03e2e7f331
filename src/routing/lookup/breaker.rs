//! The circuit breaker: a source that failed again and again is left alone for a while, then
//! asked once; the answer decides. No IO, no clock.

use tokio::time::Instant;

use crate::config::BreakerPolicy;

/// Whether a lookup may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may.
    Pass,
    /// It may, and decides whether others do.
    Probe,
    /// It may not.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All pass; so many failed in a row.
    Closed { failures: u32 },
    /// None passes before that moment.
    Open { until: Instant },
    /// One is out to see whether the source serves again.
    Probing,
}

/// A change that operators hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Lookups stop going out.
    Opened,
    /// Lookups go out again.
    Closed,
}

#[derive(Debug)]
pub(super) struct Breaker {
    policy: BreakerPolicy,
    state: State,
}

impl Breaker {
    pub(super) const fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: State::Closed { failures: 0 } }
    }

    /// Asks for one lookup. A [`Admission::Probe`] must be followed by its result.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Pass,
            State::Open { until } if now >= until => {
                self.state = State::Probing;
                Admission::Probe
            }
            State::Open { .. } | State::Probing => Admission::Refused,
        }
    }

    /// Whether a lookup that was let pass may still go out: it may have waited since.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// The source answered, whatever it said.
    pub(super) fn succeeded(&mut self) -> Option<Turn> {
        let was_closed = self.is_closed();
        self.state = State::Closed { failures: 0 };
        (!was_closed).then_some(Turn::Closed)
    }

    /// The source failed. Late failures of lookups that were under way when it opened change
    /// nothing.
    pub(super) fn failed(&mut self, admission: Admission, now: Instant) -> Option<Turn> {
        match (self.state, admission) {
            (State::Closed { failures }, _) if failures + 1 < self.policy.failures => {
                self.state = State::Closed { failures: failures + 1 };
                None
            }
            (State::Closed { .. }, _) => {
                self.state = State::Open { until: now + self.policy.open };
                Some(Turn::Opened)
            }
            (State::Probing, Admission::Probe) => {
                self.state = State::Open { until: now + self.policy.open };
                None
            }
            (State::Probing | State::Open { .. }, _) => None,
        }
    }

    /// The probe never went out: the next lookup is one.
    pub(super) fn probe_not_sent(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Open { until: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const OPEN: Duration = Duration::from_secs(5);

    fn breaker() -> Breaker {
        Breaker::new(BreakerPolicy { failures: 3, open: OPEN })
    }

    #[tokio::test]
    async fn it_opens_after_failures_in_a_row_and_a_probe_closes_it() {
        let mut breaker = breaker();
        let start = Instant::now();
        for turn in [None, None] {
            assert_eq!(breaker.failed(Admission::Pass, start), turn);
        }
        assert_eq!(breaker.succeeded(), None);
        for turn in [None, None, Some(Turn::Opened), None] {
            assert_eq!(breaker.failed(Admission::Pass, start), turn);
        }
        assert_eq!(breaker.admit(start + OPEN / 2), Admission::Refused);
        assert_eq!(breaker.admit(start + OPEN), Admission::Probe);
        assert_eq!(breaker.admit(start + OPEN * 9), Admission::Refused, "one probe at a time");
        assert_eq!(breaker.failed(Admission::Probe, start + OPEN), None);
        assert_eq!(breaker.admit(start + OPEN), Admission::Refused);
        assert_eq!(breaker.admit(start + OPEN * 2), Admission::Probe);
        assert_eq!(breaker.succeeded(), Some(Turn::Closed));
        assert_eq!(breaker.admit(start), Admission::Pass);
    }

    proptest! {
        /// Whatever happens in whatever order, time lets a probe out.
        #[test]
        fn it_never_stays_open_for_ever(steps in prop::collection::vec(0_u8..4, 0..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let start = runtime.block_on(async { Instant::now() });
            let mut breaker = breaker();
            let mut now = start;
            for step in steps {
                now += Duration::from_secs(1);
                let admission = breaker.admit(now);
                if admission == Admission::Refused {
                    continue;
                }
                let turn = match step {
                    0 => breaker.succeeded(),
                    1 if admission == Admission::Probe => {
                        breaker.probe_not_sent(now);
                        None
                    }
                    _ => breaker.failed(admission, now),
                };
                prop_assert!(turn != Some(Turn::Opened) || !breaker.is_closed());
            }
            prop_assert_ne!(breaker.admit(now + OPEN), Admission::Refused);
        }
    }
}
