//! Whether the backend that a login was placed on takes one more, now or a little later.

use tokio::time::Instant;

use crate::metrics::Limit;
use crate::names::BackendId;
use crate::proxy::attempt::{Attempt, Failure};
use crate::proxy::registry::{Redirect, Reservation};
use crate::session::answer::Answer;
use crate::upstream::backends::Backend;
use crate::upstream::capacity::{Full, Pass, Seat};

/// What a login holds of a backend's capacity.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The session's place.
    pub(super) seat: Seat,
    /// Leave to log in, until the backend has answered.
    pub(super) pass: Pass,
}

/// What came of asking for a place.
pub(super) enum Admission {
    /// The backend may be dialled.
    Admitted(Admitted),
    /// The user was placed elsewhere.
    Elsewhere,
}

impl Attempt<'_> {
    /// Takes a place at the backend, and waits for leave to log in there. A user whom nothing
    /// binds to it goes to the next one where it has no place, or failed meanwhile. The time
    /// in the queue does not count for the login's deadline.
    pub(super) async fn admit(
        &self,
        backend: &Backend,
        reservation: &mut Reservation,
        untried: &[BackendId],
        login_deadline: &mut Instant,
    ) -> Result<Admission, Failure> {
        if self.is_better_off(backend, untried) && move_on(reservation, untried) {
            return Ok(Admission::Elsewhere);
        }
        let asked = Instant::now();
        let admitted = match backend.take_seat() {
            Some(seat) => backend.gate().pass().await.map(|pass| Admitted { seat, pass }),
            None => Err(Full::Sessions),
        };
        *login_deadline += asked.elapsed();
        let full = match admitted {
            Ok(admitted) => {
                let late = admitted.pass.waited && backend.fails(Instant::now());
                if late && move_on(reservation, untried) {
                    return Ok(Admission::Elsewhere);
                }
                return Ok(Admission::Admitted(admitted));
            }
            Err(full) => full,
        };
        self.shared.metrics.sessions.limit_hit(match full {
            Full::Sessions => Limit::BackendSessions,
            Full::Queue | Full::Waited => Limit::LoginQueue,
        });
        if move_on(reservation, untried) {
            return Ok(Admission::Elsewhere);
        }
        Err(Failure::new(Answer::Unavailable, full.reason()))
    }
}

impl Attempt<'_> {
    /// Whether the backend is down and the next candidate is not: users whom only logins
    /// under way hold there need not wait for these to fail.
    fn is_better_off(&self, backend: &Backend, untried: &[BackendId]) -> bool {
        let next = untried.first().and_then(|next| self.snapshot.upstreams.backend(next));
        backend.is_down() && next.is_some_and(|next| !next.is_down())
    }
}

/// Places the user on the next candidate, where there is one and nothing binds the user.
fn move_on(reservation: &mut Reservation, untried: &[BackendId]) -> bool {
    let next = untried.first().map(|next| reservation.dial_failed(next));
    matches!(next, Some(Redirect::Placed | Redirect::Follow))
}
