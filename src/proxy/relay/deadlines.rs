//! What a relayed session does when a time has passed.

use std::future::Future;
use std::task::Context;

use tokio::time::Instant;

use crate::metrics::Limit;
use crate::proxy::orders::{CloseReason, Order};
use crate::proxy::reaper;
use crate::proxy::relay::side::{Reading, Writing};
use crate::proxy::relay::{CLIENT_STALL, Relay, STALL_LOOK};

impl Relay {
    /// Gives up waiting where a deadline has passed, and arms the timer for the next.
    pub(super) fn poll_deadlines(&mut self, cx: &mut Context<'_>, order: Option<Order>) -> bool {
        let Some(next) = self.next_deadline(order) else {
            self.timer = None;
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        if timer.deadline() != next {
            timer.as_mut().reset(next);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.timer = None;
        self.pass_deadlines(Instant::now());
        true
    }

    fn next_deadline(&self, order: Option<Order>) -> Option<Instant> {
        let client = self.client.until.filter(|_| !self.client_done());
        let upstream = self.upstream_deadline();
        let order = order.filter(|_| self.reason.is_none()).map(|order| {
            if Instant::now() < order.bye_from { order.bye_from } else { order.until }
        });
        let idle = self.idle.filter(|_| self.reason.is_none()).map(|limit| self.last_bytes + limit);
        let parting = self.parting.at().filter(|_| self.client.writing == Writing::Open);
        [client, upstream, order, idle, parting, self.next_look].into_iter().flatten().min()
    }

    fn pass_deadlines(&mut self, now: Instant) {
        if self.idle.is_some_and(|limit| now >= self.last_bytes + limit) {
            self.observer.metrics().sessions.limit_hit(Limit::Idle);
            self.end(CloseReason::IdleLimit, Some("[UNAVAILABLE] Idle for too long."));
        }
        if self.parting.at().is_some() && self.client.writing == Writing::Open {
            self.let_client_go();
        }
        if self.client.until.is_some_and(|until| now >= until) {
            self.client_gone(CloseReason::BackendClosed);
        }
        if self.next_look.is_some_and(|at| now >= at) {
            self.look_at_upstream(now);
        }
        if self.upstream_deadline().is_some_and(|until| now >= until) {
            self.upstream_ended(false);
        }
    }

    /// A client that reads nothing hides its backend's end: the user would stay bound to a
    /// backend that has let go. What of it is still to be read is the client's. A FIN behind
    /// more than the socket takes is not here yet: only a reset overtakes what was sent.
    fn look_at_upstream(&mut self, now: Instant) {
        let hidden = !self.to_client.is_clear() && self.upstream.reading == Reading::Open;
        self.next_look = hidden.then(|| now + STALL_LOOK);
        if !hidden || self.live.is_none() {
            return;
        }
        // Behind that, for it takes the socket's error away.
        let Some(end) = self.upstream.stream.hang_up() else { return };
        if let Err(error) = &end {
            self.note_upstream_error(error);
        }
        self.let_backend_go(!self.upstream_lost && end.as_ref().err().is_none_or(reaper::is_end));
        self.client.discard();
        self.client.until.get_or_insert(now + CLIENT_STALL);
    }

    fn upstream_deadline(&self) -> Option<Instant> {
        let open = self.upstream.reading != Reading::Ended;
        self.upstream.until.filter(|_| open && self.waits_for_backend())
    }
}
