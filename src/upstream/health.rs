//! Whether a backend serves, judged from checks and from the connections of logins. Pure.
//!
//! One result decides nothing: a backend that is up goes down after `fall` failures in a
//! row, one that is down comes up after `rise` good checks in a row. What logins see and
//! what checks see are counted apart, because a login's connection ends its say with the
//! greeting: many good ones must not cover that a check's login fails.

/// How many results in a row turn the judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hysteresis {
    /// Good checks until a backend that is down is up.
    pub rise: u32,
    /// Failures until a backend that is up is down.
    pub fall: u32,
}

/// The judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It serves, as far as is known.
    Up,
    /// It does not.
    Down,
}

/// What is known of one backend's health.
#[derive(Debug)]
pub struct Health {
    status: Status,
    /// Checks in a row that speak against `status`.
    checks: u32,
    /// Connections of logins in a row that failed.
    failures: u32,
}

impl Default for Health {
    /// A backend that nobody has tried is believed to serve.
    fn default() -> Self {
        Self { status: Status::Up, checks: 0, failures: 0 }
    }
}

impl Health {
    /// The judgement now.
    pub const fn status(&self) -> Status {
        self.status
    }

    /// A check ended; gives the judgement where it turned.
    pub fn on_check(&mut self, good: bool, hysteresis: Hysteresis) -> Option<Status> {
        let against = match self.status {
            Status::Up => !good,
            Status::Down => good,
        };
        if !against {
            self.checks = 0;
            return None;
        }
        self.checks = self.checks.saturating_add(1);
        match self.status {
            Status::Up if self.checks >= hysteresis.fall => Some(self.turn(Status::Down)),
            Status::Down if self.checks >= hysteresis.rise => Some(self.turn(Status::Up)),
            _ => None,
        }
    }

    /// A login's connection failed; gives the judgement where it turned.
    pub fn on_failure(&mut self, hysteresis: Hysteresis) -> Option<Status> {
        if self.status == Status::Down {
            // It must rise from the ground.
            self.checks = 0;
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        (self.failures >= hysteresis.fall).then(|| self.turn(Status::Down))
    }

    /// A login's connection went well. Of a backend that is down only checks tell that it
    /// is up.
    pub fn on_success(&mut self) {
        self.failures = 0;
    }

    fn turn(&mut self, status: Status) -> Status {
        *self = Self { status, checks: 0, failures: 0 };
        status
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO_OF_THREE: Hysteresis = Hysteresis { rise: 2, fall: 3 };

    #[test]
    fn a_backend_falls_after_fall_failures_in_a_row_and_rises_after_rise_good_checks() {
        let mut health = Health::default();
        for good in [false, false, true, false, false] {
            assert_eq!(health.on_check(good, TWO_OF_THREE), None);
        }
        assert_eq!(health.on_check(false, TWO_OF_THREE), Some(Status::Down));
        for good in [true, false, true] {
            assert_eq!(health.on_check(good, TWO_OF_THREE), None);
        }
        assert_eq!(health.on_check(true, TWO_OF_THREE), Some(Status::Up));
    }

    #[test]
    fn connections_of_logins_that_fail_make_it_fall_and_one_that_works_does_not_make_it_rise() {
        let mut health = Health::default();
        assert_eq!(health.on_failure(TWO_OF_THREE), None);
        health.on_success();
        assert_eq!(health.on_failure(TWO_OF_THREE), None);
        assert_eq!(health.on_failure(TWO_OF_THREE), None);
        assert_eq!(health.on_failure(TWO_OF_THREE), Some(Status::Down));
        health.on_success();
        assert_eq!(health.status(), Status::Down);
        assert_eq!(health.on_check(true, TWO_OF_THREE), None);
        assert_eq!(health.on_failure(TWO_OF_THREE), None, "it begins to rise anew");
        assert_eq!(health.on_check(true, TWO_OF_THREE), None);
        assert_eq!(health.on_check(true, TWO_OF_THREE), Some(Status::Up));
    }

    #[test]
    fn good_greetings_of_logins_do_not_cover_that_the_login_of_checks_fails() {
        let mut health = Health::default();
        let mut turned = None;
        for _ in 0..3 {
            health.on_success();
            turned = health.on_check(false, TWO_OF_THREE);
        }
        assert_eq!(turned, Some(Status::Down));
    }

    proptest! {
        /// A backend that fails every other time, or seldomer, never turns.
        #[test]
        fn one_that_flaps_faster_than_the_hysteresis_never_turns(
            rise in 2_u32..6, fall in 2_u32..6, runs in prop::collection::vec(1_u32..6, 1..60),
        ) {
            let hysteresis = Hysteresis { rise, fall };
            let mut health = Health::default();
            for (turn, run) in runs.into_iter().enumerate() {
                let good = turn % 2 == 1;
                let run = run.min(if good { 10 } else { fall - 1 });
                for _ in 0..run {
                    prop_assert_eq!(health.on_check(good, hysteresis), None);
                }
            }
        }

        /// Between two turns lie at least so many results as the hysteresis says.
        #[test]
        fn it_turns_at_most_once_in_so_many_results(
            rise in 1_u32..5, fall in 1_u32..5, results in prop::collection::vec(any::<bool>(), 1..200),
        ) {
            let hysteresis = Hysteresis { rise, fall };
            let mut health = Health::default();
            let mut since = 0;
            for good in results {
                since += 1;
                match health.on_check(good, hysteresis) {
                    Some(Status::Down) => { prop_assert!(since >= fall && !good); since = 0; }
                    Some(Status::Up) => { prop_assert!(since >= rise && good); since = 0; }
                    None => {}
                }
            }
        }
    }
}
