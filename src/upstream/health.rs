//! Whether a backend serves, judged from checks and from the connections of logins. Pure.
//!
//! One result decides nothing: a backend that is up goes down after `fall` failures in a
//! row, one that is down comes up after `rise` good checks in a row. What logins see and
//! what checks see are counted apart, because a login's connection ends its say with the
//! greeting: many good ones must not cover that a check's login fails.
//!
//! A backend that answers is no backend that is dead, however badly it answers: that it is
//! silent is said only after `fall` failures in a row without any answer.

/// How many results in a row turn the judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hysteresis {
    /// Good checks until a backend that is down is up.
    pub rise: u32,
    /// Failures until a backend that is up is down.
    pub fall: u32,
}

/// How a check, or a login's connection, went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Good,
    /// The backend answered, and not as it should.
    Faulty,
    /// It did not answer, or the connection was refused or lost.
    Silent,
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
    /// Checks in a row that had no answer, whatever `status` is.
    silent_checks: u32,
    /// Connections of logins in a row that had none.
    silent_failures: u32,
}

impl Default for Health {
    /// A backend that nobody has tried is believed to serve.
    fn default() -> Self {
        Self { status: Status::Up, checks: 0, failures: 0, silent_checks: 0, silent_failures: 0 }
    }
}

impl Health {
    /// The judgement now.
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Whether it is down and does not answer, so that it may well be dead.
    pub fn is_silent(&self, hysteresis: Hysteresis) -> bool {
        let silent = self.silent_checks.max(self.silent_failures);
        self.status == Status::Down && silent >= hysteresis.fall
    }

    /// A check ended; gives the judgement where it turned.
    pub fn on_check(&mut self, outcome: Outcome, hysteresis: Hysteresis) -> Option<Status> {
        match outcome {
            Outcome::Silent => self.silent_checks = self.silent_checks.saturating_add(1),
            Outcome::Good | Outcome::Faulty => self.answered(),
        }
        let good = outcome == Outcome::Good;
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

    /// A login's connection failed, with an answer or without; gives the judgement where it
    /// turned.
    pub fn on_failure(&mut self, answered: bool, hysteresis: Hysteresis) -> Option<Status> {
        if answered {
            self.answered();
        } else {
            self.silent_failures = self.silent_failures.saturating_add(1);
        }
        if self.status == Status::Down {
            // It must rise from the ground.
            self.checks = 0;
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        (self.failures >= hysteresis.fall).then(|| self.turn(Status::Down))
    }

    /// A login's connection went well. Of a backend that is down only checks tell that it
    /// is up, and where these have no answer behind the greeting it hangs all the same.
    pub fn on_success(&mut self) {
        self.failures = 0;
        self.silent_failures = 0;
    }

    /// Nobody will ask for a while: what is judged stays, and what comes then begins new rows.
    pub fn forget_rows(&mut self) {
        self.answered();
        self.turn(self.status);
    }

    fn answered(&mut self) {
        self.silent_checks = 0;
        self.silent_failures = 0;
    }

    fn turn(&mut self, status: Status) -> Status {
        *self = Self { status, checks: 0, failures: 0, ..*self };
        status
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO_OF_THREE: Hysteresis = Hysteresis { rise: 2, fall: 3 };

    fn outcome(good: bool) -> Outcome {
        if good { Outcome::Good } else { Outcome::Silent }
    }

    fn check(health: &mut Health, good: bool) -> Option<Status> {
        health.on_check(outcome(good), TWO_OF_THREE)
    }

    #[test]
    fn a_backend_falls_after_fall_failures_in_a_row_and_rises_after_rise_good_checks() {
        let mut health = Health::default();
        for good in [false, false, true, false, false] {
            assert_eq!(check(&mut health, good), None);
        }
        assert_eq!(check(&mut health, false), Some(Status::Down));
        for good in [true, false, true] {
            assert_eq!(check(&mut health, good), None);
        }
        assert_eq!(check(&mut health, true), Some(Status::Up));
    }

    #[test]
    fn connections_of_logins_that_fail_make_it_fall_and_one_that_works_does_not_make_it_rise() {
        let mut health = Health::default();
        assert_eq!(health.on_failure(false, TWO_OF_THREE), None);
        health.on_success();
        assert_eq!(health.on_failure(false, TWO_OF_THREE), None);
        assert_eq!(health.on_failure(false, TWO_OF_THREE), None);
        assert_eq!(health.on_failure(false, TWO_OF_THREE), Some(Status::Down));
        health.on_success();
        assert_eq!(health.status(), Status::Down);
        assert_eq!(check(&mut health, true), None);
        assert_eq!(health.on_failure(false, TWO_OF_THREE), None, "it begins to rise anew");
        assert_eq!(check(&mut health, true), None);
        assert_eq!(check(&mut health, true), Some(Status::Up));
    }

    #[test]
    fn good_greetings_of_logins_do_not_cover_that_the_login_of_checks_fails() {
        let mut health = Health::default();
        let mut turned = None;
        for _ in 0..3 {
            health.on_success();
            turned = check(&mut health, false);
        }
        assert_eq!(turned, Some(Status::Down));
    }

    fn after(outcomes: &[Outcome]) -> Health {
        let mut health = Health::default();
        for outcome in outcomes {
            health.on_check(*outcome, TWO_OF_THREE);
        }
        health
    }

    #[test]
    fn one_that_answers_falls_and_is_not_silent_until_it_has_been_for_a_whole_row() {
        use Outcome::{Faulty, Good, Silent};
        for (outcomes, silent) in [
            (&[Silent, Silent, Silent][..], true),
            (&[Faulty, Faulty, Faulty], false),
            (&[Silent, Silent, Faulty], false),
            (&[Faulty, Silent, Silent], false),
            (&[Faulty, Silent, Silent, Silent], true),
            (&[Faulty, Faulty, Faulty, Silent, Silent], false),
            (&[Faulty, Faulty, Faulty, Silent, Silent, Silent], true),
            (&[Silent, Silent, Silent, Faulty], false),
            (&[Silent, Silent, Silent, Good, Silent, Silent], false),
            (&[Silent, Silent, Silent, Good, Silent, Silent, Silent], true),
        ] {
            let health = after(outcomes);
            assert_eq!(health.status(), Status::Down, "{outcomes:?}");
            assert_eq!(health.is_silent(TWO_OF_THREE), silent, "{outcomes:?}");
        }
        assert!(!after(&[Silent, Silent]).is_silent(TWO_OF_THREE), "it is not down");
        let back = after(&[Silent, Silent, Silent, Good, Good]);
        assert!(back.status() == Status::Up && !back.is_silent(TWO_OF_THREE));
    }

    #[test]
    fn logins_count_for_silence_too_and_any_wrong_answer_ends_it() {
        let silence = |health: &Health| health.is_silent(TWO_OF_THREE);
        let mut health = Health::default();
        for _ in 0..3 {
            health.on_failure(false, TWO_OF_THREE);
        }
        assert!(silence(&health));
        health.on_success();
        assert!(!silence(&health), "it greets");
        let mut health = after(&[Outcome::Silent; 3]);
        health.on_success();
        assert!(silence(&health), "it greets, and hangs behind the greeting");
        health.on_failure(true, TWO_OF_THREE);
        assert!(!silence(&health));
    }

    #[test]
    fn a_pause_ends_all_rows_and_leaves_the_judgement() {
        let mut up = after(&[Outcome::Silent; 2]);
        up.on_failure(false, TWO_OF_THREE);
        up.forget_rows();
        assert_eq!(check(&mut up, false), None);
        assert_eq!(up.on_failure(false, TWO_OF_THREE), None);
        assert_eq!(up.status(), Status::Up);

        let mut down = after(&[Outcome::Silent, Outcome::Silent, Outcome::Silent, Outcome::Good]);
        down.forget_rows();
        assert_eq!(down.status(), Status::Down);
        assert_eq!(check(&mut down, true), None, "it rises from the ground");
        let mut down = after(&[Outcome::Silent; 3]);
        assert!(down.is_silent(TWO_OF_THREE));
        down.forget_rows();
        for _ in 0..2 {
            assert_eq!(check(&mut down, false), None);
            assert!(!down.is_silent(TWO_OF_THREE), "it may be back");
        }
        assert_eq!(check(&mut down, false), None);
        assert!(down.is_silent(TWO_OF_THREE));
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
                    prop_assert_eq!(health.on_check(outcome(good), hysteresis), None);
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
                match health.on_check(outcome(good), hysteresis) {
                    Some(Status::Down) => { prop_assert!(since >= fall && !good); since = 0; }
                    Some(Status::Up) => { prop_assert!(since >= rise && good); since = 0; }
                    None => {}
                }
            }
        }
    }
}
