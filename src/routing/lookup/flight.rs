//! One question on its way: it ends in time, and its end is always noted.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::breaker::Admission;
use super::cache::Kept;
use super::{Inner, State, Turn};
use crate::names::UserName;
use crate::routing::query::{FailureReason, Found, Question, SourceFailure, SourceResult};

/// Characters of an unknown shard's name that are logged at most.
const SHOWN_CHARS_MAX: usize = 80;

/// How a question ended, for all who wait for it.
pub(super) type Landing = Result<Option<Arc<Found>>, SourceFailure>;

/// The right to ask once. Dropped without an answer (a panic, the runtime's end) it counts as
/// a failure, and those who wait are told.
#[derive(Debug)]
pub(super) struct Ticket {
    inner: Arc<Inner>,
    user: UserName,
    admission: Admission,
    sender: watch::Sender<Option<Landing>>,
    landed: bool,
}

impl Ticket {
    pub(super) fn new(
        inner: Arc<Inner>,
        user: UserName,
        admission: Admission,
        sender: watch::Sender<Option<Landing>>,
    ) -> Self {
        Self { inner, user, admission, sender, landed: false }
    }

    /// Waits for a place, asks, and notes the answer.
    pub(super) async fn fly(mut self, question: Question) {
        // A question of one login's own is not worth asking once that login is gone.
        let is_alone = self.inner.source.depends_on_password();
        let result = tokio::select! {
            result = self.ask(&question) => result,
            () = self.sender.closed(), if is_alone => {
                Err(SourceFailure::new(FailureReason::Abandoned, "the client left"))
            }
        };
        self.land(result);
    }

    async fn ask(&self, question: &Question) -> SourceResult {
        let inner = &self.inner;
        let deadline = Instant::now() + inner.guard.timeout;
        let place = timeout_at(deadline, inner.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(SourceFailure::new(FailureReason::Busy, "no place became free in time"));
        };
        if self.admission == Admission::Pass && !inner.state().breaker.is_closed() {
            return Err(SourceFailure::new(
                FailureReason::BreakerOpen,
                "it failed too often while this lookup waited",
            ));
        }
        let query = question.query();
        let found = timeout_at(deadline, inner.source.lookup(&query)).await.map_err(|_| {
            let waited = inner.guard.timeout;
            SourceFailure::new(FailureReason::Timeout, format!("no answer within {waited:?}"))
        })??;
        match &found {
            Some(found) if !inner.shards.contains(&found.shard) => {
                let shard: String = found.shard.as_str().chars().take(SHOWN_CHARS_MAX).collect();
                let detail = format!("it names the shard {shard:?}, which is not configured");
                Err(SourceFailure::new(FailureReason::UnknownShard, detail))
            }
            _ => Ok(found),
        }
    }

    fn land(&mut self, result: SourceResult) {
        self.landed = true;
        let landing = result.map(|found| found.map(Arc::new));
        let is_alone = self.inner.source.depends_on_password();
        let now = Instant::now();
        let mut state = self.inner.state();
        state.under_way = state.under_way.saturating_sub(1);
        if !is_alone {
            let epoch = self.inner.epoch;
            if state.flights.get(&self.user).is_some_and(|flight| flight.epoch == epoch) {
                state.flights.remove(&self.user);
            }
            match &landing {
                Ok(found) => {
                    let kept = found.clone().map(|found| Kept { found, epoch });
                    state.cache.keep(&self.user, kept, now);
                }
                Err(failure) if failure.reason.is_about_the_user() => {
                    state.cache.forget(&self.user);
                }
                Err(_) => {}
            }
        }
        self.judge(&mut state, &landing, now);
        drop(state);
        self.sender.send_replace(Some(landing));
    }

    /// What the end says of the source.
    fn judge(&self, state: &mut State, landing: &Landing, now: Instant) {
        let Err(failure) = landing else {
            self.serves(state);
            return;
        };
        let turn = match failure.reason {
            // It never went out, or nobody waited for its end.
            FailureReason::Busy
            | FailureReason::BreakerOpen
            | FailureReason::Abandoned
            | FailureReason::NeedsClient => {
                if self.admission == Admission::Probe {
                    state.breaker.probe_not_sent(now);
                }
                None
            }
            reason if reason.is_about_the_user() => {
                self.serves(state);
                None
            }
            _ => state.breaker.failed(self.admission, now),
        };
        if failure.reason != FailureReason::Abandoned {
            self.inner.tell(state, failure, turn, now);
        }
    }

    fn serves(&self, state: &mut State) {
        if state.breaker.succeeded() == Some(Turn::Closed) {
            state.open = None;
            let lookup = self.inner.source.label().label();
            tracing::info!(lookup, "a lookup answers again");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.landed {
            let stopped = "it ended without an answer";
            self.land(Err(SourceFailure::new(FailureReason::Stopped, stopped)));
        }
    }
}
