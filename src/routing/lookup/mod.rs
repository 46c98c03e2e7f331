//! What every lookup over the network goes through: a bound on time and number, a cache, one
//! question at a time about each user, a circuit breaker, the policy for failures.

mod breaker;
mod cache;
mod flight;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use self::breaker::{Admission, Breaker, Turn};
use self::cache::{Cache, Hit, Kept};
use self::flight::{Landing, Ticket};
use super::query::{FailureReason, Found, Query, Question, RemoteSource, SourceFailure};
use crate::config::{LookupGuard, OnFailure};
use crate::metrics::{LookupResult, LookupSource, OpenBreakers, SessionGauge};
use crate::names::{ShardId, UserName};

/// Lookups that wait for a place, for each place: more at once are refused.
const WAITING_PER_PLACE: usize = 256;

/// Failures of one lookup are logged at most so often.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

/// A remote source with all that keeps its troubles from the logins. Cheap to clone: clones
/// share everything.
#[derive(Debug, Clone)]
pub struct Guarded {
    inner: Arc<Inner>,
}

/// What a guarded lookup came to.
pub(super) struct Said {
    /// As from the source itself.
    pub(super) answer: Result<Option<Arc<Found>>, SourceFailure>,
    /// Where the answer came from, for metrics.
    pub(super) result: LookupResult,
}

impl Said {
    /// The answer of a lookup in memory.
    pub(super) fn at_once(shard: Option<&ShardId>) -> Self {
        let result = if shard.is_some() { LookupResult::Found } else { LookupResult::Miss };
        Self { answer: Ok(shard.map(|shard| Arc::new(Found::on(shard.clone())))), result }
    }

    fn failed(failure: SourceFailure) -> Self {
        let refused = failure.reason == FailureReason::Refused;
        let result = if refused { LookupResult::Refused } else { LookupResult::Failed };
        Self { answer: Err(failure), result }
    }
}

impl Said {
    /// A lookup that was not asked, for want of a client.
    pub(super) fn needs_client() -> Self {
        let reason = FailureReason::NeedsClient;
        let failure = SourceFailure::new(reason, "it is asked for clients only");
        Self { answer: Err(failure), result: LookupResult::Failed }
    }
}

#[derive(Debug)]
struct Inner {
    source: Arc<dyn RemoteSource>,
    guard: LookupGuard,
    shards: Arc<[ShardId]>,
    runtime: Handle,
    breakers_open: OpenBreakers,
    /// Counts how often the source was made anew.
    epoch: u64,
    /// Lookups that may be under way at once.
    places: Arc<Semaphore>,
    /// Shared with the lookups that this one was made of, and that are made of it.
    state: Arc<Mutex<State>>,
}

/// All of it is changed for moments only, never across an await.
#[derive(Debug)]
struct State {
    cache: Cache,
    breaker: Breaker,
    /// Counts while the breaker is open.
    open: Option<SessionGauge>,
    /// Questions under way by user.
    flights: HashMap<UserName, Flight>,
    /// Lookups under way or waiting for a place.
    under_way: usize,
    logged: Option<Instant>,
    /// Failures since then that were not logged.
    unlogged: u64,
}

/// A question under way, to the source of that epoch.
#[derive(Debug)]
struct Flight {
    epoch: u64,
    landing: watch::Receiver<Option<Landing>>,
}

/// How a login gets its answer.
enum Way {
    Known(Said),
    /// From a question under way, and what to do without it.
    Flight(watch::Receiver<Option<Landing>>),
}

impl Guarded {
    /// Guards a source. Its questions run on `runtime`; answers that name none of `shards`
    /// are failures.
    pub fn new(
        source: Arc<dyn RemoteSource>,
        guard: LookupGuard,
        shards: Arc<[ShardId]>,
        runtime: Handle,
        breakers_open: OpenBreakers,
    ) -> Self {
        let state = State {
            cache: Cache::new(&guard.cache),
            breaker: Breaker::new(guard.breaker),
            open: None,
            flights: HashMap::new(),
            under_way: 0,
            logged: None,
            unlogged: 0,
        };
        let places = Arc::new(Semaphore::new(guard.in_flight));
        let state = Arc::new(Mutex::new(state));
        let epoch = 0;
        let inner = Inner { source, guard, shards, runtime, breakers_open, epoch, places, state };
        Self { inner: Arc::new(inner) }
    }

    /// The same lookup by a source that knows other backends. The two share what they know of
    /// users and of the directory; an answer holds for the other one only where that could not
    /// have understood it otherwise.
    #[must_use]
    pub fn renewed(&self, source: Arc<dyn RemoteSource>, shards: Arc<[ShardId]>) -> Self {
        let former = &self.inner;
        let inner = Inner {
            source,
            guard: former.guard.clone(),
            shards,
            runtime: former.runtime.clone(),
            breakers_open: former.breakers_open.clone(),
            epoch: former.epoch + 1,
            places: Arc::clone(&former.places),
            state: Arc::clone(&former.state),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What kind of lookup it is.
    pub fn label(&self) -> LookupSource {
        self.inner.source.label()
    }

    /// Whether the next lookup is asked when this one fails.
    pub(super) fn is_optional(&self) -> bool {
        self.inner.guard.on_failure == OnFailure::Next
    }

    /// Whether it decides by the password too.
    pub(super) fn depends_on_password(&self) -> bool {
        self.inner.source.depends_on_password()
    }

    /// Whether it can be asked without a client and its password.
    pub(super) fn can_answer(&self, query: &Query<'_>) -> bool {
        query.client.is_some() || !self.depends_on_password()
    }

    /// The answer about a user: known, of a question that somebody asked already, or of a new
    /// one. Takes no longer than the lookup's timeout. Dropping it strands nobody who waits for
    /// the same answer.
    pub(super) async fn lookup(&self, query: &Query<'_>) -> Said {
        let way = if self.inner.source.depends_on_password() {
            self.inner.ask_alone(query)
        } else {
            self.inner.ask_together(query)
        };
        match way {
            Way::Known(said) => said,
            Way::Flight(landing) => self.inner.after(query.user, landed(landing).await),
        }
    }

    /// A backend did not know the user, or the password: the next lookup is a new question,
    /// unless this answer is new itself.
    pub(super) fn doubt(&self, user: &UserName) {
        self.inner.state().cache.doubt(user, Instant::now());
    }

    /// Every cached answer is asked anew; till then it serves only when the source does not.
    pub(super) fn doubt_all(&self) {
        self.inner.state().cache.doubt_all();
    }
}

/// What the question came to; a task that was lost counts as a failure.
async fn landed(mut landing: watch::Receiver<Option<Landing>>) -> Landing {
    let stopped = || SourceFailure::new(FailureReason::Stopped, "the lookup was given up");
    match landing.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone().unwrap_or_else(|| Err(stopped())),
        Err(_) => Err(stopped()),
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is cached of the user, as far as this source could have said it.
    fn recall(&self, state: &State, user: &UserName, now: Instant) -> Option<Hit> {
        let hit = state.cache.lookup(user, now)?;
        let holds = match &hit {
            Hit::Found(kept) | Hit::Stale(kept) => self.holds(kept),
            Hit::Missed => true,
        };
        holds.then_some(hit)
    }

    fn holds(&self, Kept { found, epoch }: &Kept) -> bool {
        let is_about_backends = found.by_host || found.backend.is_some();
        *epoch == self.epoch || (!is_about_backends && self.shards.contains(&found.shard))
    }

    /// One question at a time about each user; who asks meanwhile shares the answer.
    fn ask_together(self: &Arc<Self>, query: &Query<'_>) -> Way {
        let now = Instant::now();
        let mut state = self.state();
        match self.recall(&state, query.user, now) {
            Some(Hit::Found(kept)) => return known(Some(kept.found), LookupResult::CachedFound),
            Some(Hit::Missed) => return known(None, LookupResult::CachedMiss),
            Some(Hit::Stale(_)) | None => {}
        }
        let flight = state.flights.get(query.user).filter(|flight| flight.epoch == self.epoch);
        if let Some(flight) = flight {
            return Way::Flight(flight.landing.clone());
        }
        let landing = match self.start(&mut state, query, now) {
            Ok(landing) => landing,
            Err(failure) => {
                drop(state);
                return Way::Known(self.after(query.user, Err(failure)));
            }
        };
        let flight = Flight { epoch: self.epoch, landing: landing.clone() };
        state.flights.insert(query.user.clone(), flight);
        Way::Flight(landing)
    }

    /// A question of this login's own.
    fn ask_alone(self: &Arc<Self>, query: &Query<'_>) -> Way {
        let mut state = self.state();
        match self.start(&mut state, query, Instant::now()) {
            Ok(flight) => Way::Flight(flight),
            Err(failure) => {
                drop(state);
                Way::Known(Said::failed(failure))
            }
        }
    }

    /// Sends a question out, where the bounds and the breaker let it.
    fn start(
        self: &Arc<Self>,
        state: &mut State,
        query: &Query<'_>,
        now: Instant,
    ) -> Result<watch::Receiver<Option<Landing>>, SourceFailure> {
        if state.under_way >= self.guard.in_flight.saturating_mul(WAITING_PER_PLACE) {
            let failure = SourceFailure::new(FailureReason::Busy, "too many lookups wait");
            self.tell(state, &failure, None, now);
            return Err(failure);
        }
        let admission = state.breaker.admit(now);
        if admission == Admission::Refused {
            return Err(SourceFailure::new(
                FailureReason::BreakerOpen,
                "it failed too often and is not asked for a while",
            ));
        }
        state.under_way += 1;
        let (sender, receiver) = watch::channel(None);
        let question = Question::of(query, self.source.depends_on_password());
        let ticket = Ticket::new(Arc::clone(self), query.user.clone(), admission, sender);
        self.runtime.spawn(ticket.fly(question));
        Ok(receiver)
    }

    /// What a login makes of it: of a source that is down the former answer, if there is one.
    fn after(&self, user: &UserName, landing: Landing) -> Said {
        let failure = match landing {
            Ok(Some(found)) => {
                return Said { answer: Ok(Some(found)), result: LookupResult::Found };
            }
            Ok(None) => return Said { answer: Ok(None), result: LookupResult::Miss },
            Err(failure) => failure,
        };
        if !failure.reason.is_about_the_user()
            && let Some(Hit::Stale(kept) | Hit::Found(kept)) =
                self.recall(&self.state(), user, Instant::now())
        {
            return Said { answer: Ok(Some(kept.found)), result: LookupResult::Stale };
        }
        Said::failed(failure)
    }

    /// One line for many failures, and one for each turn of the breaker.
    fn tell(&self, state: &mut State, failure: &SourceFailure, turn: Option<Turn>, now: Instant) {
        let lookup = self.source.label().label();
        let reason = failure.reason.label();
        let detail = failure.detail.as_str();
        if failure.reason == FailureReason::Refused {
            // The source did its work; of the login there is a line anyway.
            tracing::info!(lookup, detail, "a lookup refused a login");
            return;
        }
        if turn == Some(Turn::Opened) {
            state.open = Some(self.breakers_open.enter());
            let (failures, open) = (self.guard.breaker.failures, self.guard.breaker.open);
            tracing::error!(
                lookup,
                reason,
                detail,
                failures,
                ?open,
                "a lookup failed too often and is not asked for a while; \
                 logins that need it are answered UNAVAILABLE or from what is cached"
            );
            return;
        }
        let is_due = state.logged.is_none_or(|logged| now - logged >= LOGGED_EVERY);
        if !is_due {
            state.unlogged += 1;
            return;
        }
        state.logged = Some(now);
        let unlogged = std::mem::take(&mut state.unlogged);
        tracing::warn!(lookup, reason, detail, unlogged, "a lookup failed");
    }
}

fn known(found: Option<Arc<Found>>, result: LookupResult) -> Way {
    Way::Known(Said { answer: Ok(found), result })
}
