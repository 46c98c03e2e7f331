//! One login attempt, as the client's connection sees it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::metrics::{Limit, LoginResult};
use crate::proxy::attempt::{self, Client, Failure, Success};
use crate::proxy::count;
use crate::proxy::dialogue::Dialogue;
use crate::proxy::front::Front;
use crate::proxy::link::Link;
use crate::proxy::orders::CloseReason;
use crate::session::prelogin::{Attempt, PreLogin};

/// Why a login attempt brought the client nowhere.
#[derive(Debug)]
pub(super) enum NotIn {
    /// It must be told.
    Refused(Failure),
    /// Its connection is over.
    Gone(CloseReason),
}

impl Front<'_> {
    /// The proxy makes the client wait from then on, in a login that was under way already.
    pub(in crate::proxy) fn hold(&mut self, now: Instant) {
        self.held_since = now;
        self.held = self.shared.held_logins.take(u32::MAX);
        self.permit.resume();
        self.place.cell.set_logged_in(true);
    }

    /// The client has the word again, and all the time that it had. Until it has answered it
    /// takes a place among those that are not logged in.
    pub(in crate::proxy) fn release(&mut self) {
        self.deadline += self.held_since.elapsed();
        self.held = None;
        self.permit.suspend();
        self.place.cell.set_logged_in(false);
    }

    pub(super) fn tell_failed(&self, failure: &Failure) {
        tracing::info!(
            session = %self.story.session,
            listener = self.story.listener,
            remote_address = %self.client.remote.ip().to_canonical(),
            reason = failure.reason,
            answer = failure.answer.reason(),
            user = failure.user.as_ref().map(|user| self.shared.telemetry.user(user)),
            "login failed"
        );
    }

    /// One attempt, counted unless it went well: then the caller does.
    pub(super) async fn log_in(
        &mut self,
        attempt: &Attempt,
        link: &mut Link,
        prelogin: &mut PreLogin,
    ) -> Result<Success, NotIn> {
        self.held_since = Instant::now();
        let result = self.hold_and_try(attempt, link, prelogin).await;
        let label = match &result {
            Ok(_) => None,
            // To leave behind the error to a token is to have failed.
            Err((failure, Some(_))) if failure.answer.is_auth_failed() => {
                self.tell_failed(failure);
                Some(count::result_of(&failure.answer))
            }
            Err((_, Some(_))) => Some(LoginResult::ClientGone),
            Err((failure, None)) => Some(count::result_of(&failure.answer)),
        };
        if let Some(label) = label {
            self.listener.metrics.login(count::mechanism_of(attempt.method), label);
        }
        self.story.login = Some(attempt.method.label());
        self.story.user = match &result {
            Ok(success) => Some(success.user.clone()),
            Err((failure, _)) => failure.user.clone(),
        };
        result.map_err(|(failure, gone)| gone.map_or(NotIn::Refused(failure), NotIn::Gone))
    }

    /// Also says why the client's connection is over, where it ended in an exchange.
    async fn hold_and_try(
        &mut self,
        attempt: &Attempt,
        link: &mut Link,
        prelogin: &mut PreLogin,
    ) -> Result<Success, (Failure, Option<CloseReason>)> {
        let Some(place) = self.shared.held_logins.take(self.config.limits.held_logins) else {
            self.shared.metrics.sessions.limit_hit(Limit::HeldLogins);
            return Err((Failure::too_many_held(), None));
        };
        self.held = Some(place);
        // A second descriptor, for the backend's side.
        if self.permit.upgrade().is_err() {
            self.shared.metrics.sessions.limit_hit(Limit::Sessions);
            return Err((Failure::over_limit(), None));
        }
        let held = self.shared.metrics.sessions.held();
        self.place.cell.set_logged_in(true);
        let result = self.attempt(attempt, link, prelogin).await;
        drop(held);
        self.held = None;
        if result.is_err() {
            self.permit.downgrade();
            self.place.cell.set_logged_in(false);
            self.place.cell.leave_backend();
        }
        result
    }

    async fn attempt(
        &mut self,
        attempt: &Attempt,
        link: &mut Link,
        prelogin: &mut PreLogin,
    ) -> Result<Success, (Failure, Option<CloseReason>)> {
        let (shared, config) = (self.shared, Arc::clone(&self.config));
        // The client may be asked meanwhile: the attempt has its own copy of what is known.
        let (addresses, forward) = (self.client.clone(), self.forward.clone());
        let (id, trace) = (prelogin.client_id().to_vec(), prelogin.trace().clone());
        let header_session = self.header_session.clone();
        self.attempts = self.attempts.saturating_add(1);
        let client = Client {
            attempt: self.attempts,
            addresses: &addresses,
            session: self.story.session,
            handle: self.place.handle(),
            reaper: self.reaper,
            id: &id,
            forward: &forward,
            trace: &trace,
            header_session: header_session.as_deref(),
        };
        let mut dialogue = Dialogue::new(self, link, prelogin);
        let proof = attempt.proof.as_ref();
        let work = attempt::log_in(shared, &config, &client, proof, &mut dialogue);
        let result = Box::pin(work).await;
        result.map_err(|failure| (failure, dialogue.closed()))
    }
}
