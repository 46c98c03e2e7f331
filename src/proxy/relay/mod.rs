//! Copies a session's bytes both ways after login, with the tracker looking on.
//!
//! One future for both directions and no task or channel besides: `Relay::run` polls
//! orders, then each lane, until neither moves. All state lies in the struct, so a
//! dropped future loses nothing (a later part carries live sessions to other backends
//! and to a new process).

mod deadlines;
mod lane;
mod observer;
mod parting;
mod side;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::metrics::{Direction, Metrics};
use crate::net::stream::Stream;
use crate::proxy::orders::{Border, CloseReason, Order, SessionCell};
use crate::proxy::reaper::{self, Leaving};
use crate::proxy::registry::{Live, UnseenEnd};
use crate::session::tracker::Tracker;
use crate::upstream::backends::Shard;

use lane::Lane;
use observer::{Observer, Output};
pub use parting::Parting;
use side::{Reading, Side, Writing};

/// How long the backend may take to close after the client has gone. Then the end of
/// the session there counts as unseen.
const UPSTREAM_LINGER: Duration = Duration::from_secs(10);
/// How long a client that got its last byte may take to close, so that nothing of it is
/// lost in a reset.
const CLIENT_LINGER: Duration = Duration::from_secs(2);
/// How long a client may stop reading while the backend's last bytes wait for it.
const CLIENT_STALL: Duration = Duration::from_secs(60);

/// How often a backend is looked at that is not read because the client does not read.
const STALL_LOOK: Duration = Duration::from_secs(2);

/// What a session needs to be relayed.
#[derive(Debug)]
pub struct Parts {
    /// The client's connection.
    pub client: Stream,
    /// The backend's connection.
    pub upstream: Stream,
    /// What the client sent behind its login.
    pub client_rest: Vec<u8>,
    /// What the backend sent behind its answer.
    pub upstream_rest: Vec<u8>,
    /// The proxy's answer to the login, sent before all else.
    pub greeting: Vec<u8>,
    /// The session's facts.
    pub tracker: Tracker,
    /// Its shard.
    pub shard: Arc<Shard>,
    /// Its row in the registry.
    pub live: Live,
    /// When the client is let go after its backend.
    pub parting: Parting,
    /// Gauges and totals.
    pub metrics: Arc<Metrics>,
    /// Bytes of a relay buffer.
    pub buffer_bytes: usize,
    /// Idle limit, where there is one.
    pub idle: Option<Duration>,
}

/// How a relayed session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: CloseReason,
    /// Bytes that went to the client.
    pub to_client_bytes: u64,
    /// Bytes that went to the backend.
    pub to_upstream_bytes: u64,
    /// Commands answered.
    pub commands: u64,
}

/// A relayed session.
#[derive(Debug)]
pub struct Relay {
    client: Side,
    upstream: Side,
    tracker: Tracker,
    observer: Observer,
    cell: Rc<SessionCell>,
    to_client: Lane,
    to_upstream: Lane,
    /// Why the session ends, once it does.
    reason: Option<CloseReason>,
    /// The session's row in the registry, until the backend has let go.
    live: Option<Live>,
    /// What is left of that row where the backend was given up before it let go.
    unseen: Option<UnseenEnd>,
    /// The system gave the backend's connection up: no end of it can be seen any more.
    upstream_lost: bool,
    parting: Parting,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the backend is looked at, should the client still not read.
    next_look: Option<Instant>,
    idle: Option<Duration>,
    last_bytes: Instant,
    buffer_bytes: usize,
    origin: Instant,
}

impl Relay {
    /// A session whose login was taken. Its gauges count from here. Boxed, since a future
    /// that owns it would keep room for it twice.
    pub fn new(parts: Parts, cell: Rc<SessionCell>) -> Box<Self> {
        let now = Instant::now();
        let mut relay = Box::new(Self {
            client: Side::new(parts.client),
            upstream: Side::new(parts.upstream),
            tracker: parts.tracker,
            observer: Observer::new(parts.shard, parts.metrics),
            cell,
            to_client: Lane::default(),
            to_upstream: Lane::default(),
            reason: None,
            live: Some(parts.live),
            unseen: None,
            upstream_lost: false,
            parting: parts.parting,
            timer: None,
            next_look: None,
            idle: parts.idle,
            last_bytes: now,
            buffer_bytes: parts.buffer_bytes,
            origin: now,
        });
        relay.to_client.insert(&parts.greeting);
        relay.to_client.preload(&parts.upstream_rest, relay.buffer_bytes);
        relay.to_upstream.preload(&parts.client_rest, relay.buffer_bytes);
        relay
    }

    /// Relays until the session has ended on both sides. A backend's connection whose end
    /// was not seen is given back, to be watched.
    pub(super) async fn run(mut self: Box<Self>) -> (End, Option<Leaving>) {
        let end = std::future::poll_fn(|cx| self.poll_session(cx)).await;
        let unseen = self.unseen.take().filter(|_| !self.upstream_lost);
        let socket = self.upstream.stream.into_tcp();
        (end, unseen.map(|unseen| Leaving { socket, unseen }))
    }

    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let order = self.cell.watch(cx);
            let mut moved = self.poll_from_upstream(cx);
            moved |= self.poll_from_client(cx);
            moved |= self.speak();
            moved |= self.obey(order);
            moved |= self.poll_deadlines(cx, order);
            if let Some(end) = self.ended() {
                return Poll::Ready(end);
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Upstream to client: write what is queued, then read and scan more.
    fn poll_from_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = self.client.poll_shut(cx, &self.to_client);
        if moved {
            self.client.until = Some(Instant::now() + CLIENT_LINGER);
        }
        if self.to_client.has_unscanned() {
            self.scan_upstream();
        }
        if !self.to_client.is_clear() {
            let before = self.to_client.written;
            match self.to_client.poll_write(cx, &mut self.client.stream) {
                Poll::Pending => {
                    let stall = self.client.until.as_mut();
                    if let Some(until) = stall.filter(|_| self.to_client.written > before) {
                        *until = (*until).max(Instant::now() + CLIENT_STALL);
                    }
                    self.next_look.get_or_insert_with(|| Instant::now() + STALL_LOOK);
                    return moved;
                }
                Poll::Ready(Ok(())) => {
                    moved = true;
                    self.count_bytes();
                    self.wait_for_backend_anew();
                    // Before the backend's end is read, behind which nothing may be said.
                    if self.speak() {
                        return true;
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.client_gone(CloseReason::ClientReset);
                    return true;
                }
            }
        }
        if self.upstream.reading == Reading::Ended {
            return moved;
        }
        match self.to_client.poll_read(cx, &mut self.upstream.stream, self.buffer_bytes) {
            Poll::Pending => return moved,
            Poll::Ready(Ok(count)) if count > 0 => {
                if self.upstream.reading == Reading::Discarding {
                    self.to_client.clear();
                } else {
                    self.heard();
                    self.scan_upstream();
                }
            }
            Poll::Ready(Ok(_)) => self.upstream_ended(!self.upstream_lost),
            // A reset is an end as good as any: the backend has let go.
            Poll::Ready(Err(error)) => {
                self.note_upstream_error(&error);
                self.upstream_ended(reaper::is_end(&error));
            }
        }
        true
    }

    fn scan_upstream(&mut self) {
        let now = self.nanos();
        let Some(lent) = self.to_client.lend() else { return };
        let shard = Arc::clone(self.observer.shard());
        let mut out =
            Output { lane: &mut self.to_client, base: lent.base(), observer: &mut self.observer };
        let keeps = |atom: &[u8]| shard.filter.keeps(atom);
        self.tracker.server(lent.input(), now, &keeps, &mut out);
        let taken = lent.input().len();
        self.to_client.take_back(lent, taken);
        if self.observer.answer_lost {
            self.end(CloseReason::Opaque, None);
        }
    }

    /// Client to upstream: write what is queued, then scan or read more.
    fn poll_from_client(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = self.upstream.poll_shut(cx, &self.to_upstream);
        if !self.to_upstream.is_clear() {
            match self.to_upstream.poll_write(cx, &mut self.upstream.stream) {
                Poll::Pending => return moved,
                Poll::Ready(Ok(())) => {
                    moved = true;
                    self.count_bytes();
                }
                // Its reading half tells whether the backend has let go.
                Poll::Ready(Err(error)) => {
                    self.note_upstream_error(&error);
                    self.to_upstream.clear();
                    self.upstream.writing = Writing::Shut;
                    self.client.discard();
                }
            }
        }
        if self.to_upstream.has_unscanned() && self.client.reading == Reading::Open {
            return self.scan_client() || moved;
        }
        if self.client.reading == Reading::Ended {
            return moved;
        }
        match self.to_upstream.poll_read(cx, &mut self.client.stream, self.buffer_bytes) {
            Poll::Pending => return moved,
            Poll::Ready(Ok(0)) => self.client_ended(),
            Poll::Ready(Ok(_)) if self.client.reading == Reading::Discarding => {
                self.to_upstream.clear();
            }
            Poll::Ready(Ok(_)) => {
                self.heard();
                self.scan_client();
            }
            Poll::Ready(Err(_)) => self.client_gone(CloseReason::ClientReset),
        }
        true
    }

    /// Whether the scan took any bytes. A blocked client side takes none: a
    /// synchronising literal waits for the server's `+`.
    fn scan_client(&mut self) -> bool {
        let now = self.nanos();
        let Some(lent) = self.to_upstream.lend() else { return false };
        let mut out =
            Output { lane: &mut self.to_upstream, base: lent.base(), observer: &mut self.observer };
        let scanned = self.tracker.client(lent.input(), now, &mut out);
        let all = lent.input().len();
        self.to_upstream.take_back(lent, scanned.unwrap_or(all));
        if let Err(error) = scanned {
            self.observer.client_error(error.reason());
            self.end(CloseReason::ClientError, Some("[CLIENTBUG] That was no readable command."));
        }
        scanned.map_or(true, |taken| taken > 0)
    }

    /// Says what the proxy itself has to say, where that is allowed. Behind bytes that the
    /// client does not read it waits in the tracker, which then takes no more of the client.
    fn speak(&mut self) -> bool {
        let free = self.to_client.is_clear() && self.client.writing == Writing::Open;
        if !self.tracker.answers_wait() || !free {
            return false;
        }
        let mut answers = Vec::new();
        let any = self.tracker.take_answers(&mut answers);
        self.to_client.insert(&answers);
        any
    }

    /// Follows an order to end the session, when its time and border have come.
    fn obey(&mut self, order: Option<Order>) -> bool {
        let Some(order) = order else { return false };
        let now = Instant::now();
        if order.backend_is_gone && self.live.is_some() && now >= order.bye_from {
            self.end(order.reason, Some(order.bye));
            self.upstream_ended(true);
            return true;
        }
        if self.reason.is_some() {
            return false;
        }
        let at_border = match order.border {
            Border::Command => self.tracker.at_command_border(),
            Border::Response => self.tracker.at_response_border(),
        };
        // No border is known of an opaque session: it is closed without a word.
        let due = now >= order.bye_from && (at_border || self.tracker.opaque());
        if !due && now < order.until {
            return false;
        }
        self.end(order.reason, Some(order.bye));
        true
    }

    /// Ends the session from the proxy's side: BYE if the client stands at a response
    /// border, else without a word; then both sides are shut and waited for.
    fn end(&mut self, reason: CloseReason, bye: Option<&str>) {
        if self.reason.is_some() {
            return;
        }
        self.reason = Some(reason);
        match bye {
            Some(bye) if self.tracker.at_response_border() => {
                self.to_client.insert(format!("* BYE {bye}\r\n").as_bytes());
            }
            _ => self.to_client.clear(),
        }
        let now = Instant::now();
        self.client.discard();
        self.client.close_after_queued();
        self.client.until.get_or_insert(now + CLIENT_LINGER);
        // One of a half-closed client is long past where the client rested.
        self.upstream.until = None;
        self.release_upstream(now);
    }

    /// The backend gets no more bytes than are queued; its end is waited for.
    fn release_upstream(&mut self, now: Instant) {
        self.upstream.close_after_queued();
        self.upstream.until.get_or_insert(now + UPSTREAM_LINGER);
        if self.reason.is_some() {
            self.upstream.discard();
        }
    }

    /// The client will send no more. What the backend still has to say goes to it.
    fn client_ended(&mut self) {
        self.client.reading = Reading::Ended;
        self.upstream.close_after_queued();
        if self.reason.is_none() {
            self.upstream.until = Some(Instant::now() + UPSTREAM_LINGER);
        }
    }

    /// The client cannot be reached any more.
    fn client_gone(&mut self, reason: CloseReason) {
        if self.reason.is_none() {
            self.reason = Some(reason);
            self.upstream.until = None;
        }
        self.client.reading = Reading::Ended;
        self.client.writing = Writing::Shut;
        self.to_client.clear();
        // A command of which only a part arrived must not be completed by nobody; what
        // was passed on whole still goes.
        self.release_upstream(Instant::now());
    }

    fn upstream_ended(&mut self, seen: bool) {
        self.upstream.reading = Reading::Ended;
        self.let_backend_go(seen);
        if self.reason.is_none() {
            self.reason = Some(self.reason_of_upstream_end());
        }
        self.client.discard();
        self.let_client_go();
    }

    /// The backend has no part in the session any more: its user may be elsewhere at once.
    fn let_backend_go(&mut self, seen: bool) {
        self.upstream.writing = Writing::Shut;
        if let Some(live) = self.live.take()
            && !seen
        {
            self.unseen = Some(live.end_unseen());
        }
        self.to_upstream.clear();
    }

    /// Closes the client's side where it is time.
    fn let_client_go(&mut self) {
        let now = Instant::now();
        if self.parting.is_due(self.reason == Some(CloseReason::BackendClosed), now) {
            self.client.close_after_queued();
            self.client.until.get_or_insert(now + CLIENT_STALL);
        }
    }

    /// The system tells an error once; what it reads after that looks like an end. Broken
    /// TLS is no end either, but leaves a socket that can show one.
    fn note_upstream_error(&mut self, error: &io::Error) {
        let broken_tls = error.kind() == io::ErrorKind::InvalidData;
        self.upstream_lost |= !broken_tls && !reaper::is_end(error);
    }

    fn reason_of_upstream_end(&self) -> CloseReason {
        if self.observer.logged_out {
            CloseReason::Logout
        } else if self.client.reading == Reading::Ended {
            CloseReason::ClientClosed
        } else {
            CloseReason::BackendClosed
        }
    }

    fn client_done(&self) -> bool {
        self.client.reading == Reading::Ended && self.client.writing == Writing::Shut
    }

    fn ended(&mut self) -> Option<End> {
        if !self.client_done() || self.upstream.reading != Reading::Ended {
            return None;
        }
        // What went out of a piece that was cut off counts too.
        self.count_bytes();
        Some(End {
            reason: self.reason.unwrap_or(CloseReason::ClientClosed),
            to_client_bytes: self.to_client.written,
            to_upstream_bytes: self.to_upstream.written,
            commands: self.observer.commands,
        })
    }

    fn count_bytes(&mut self) {
        self.observer.relayed(Direction::ToClient, self.to_client.newly_written());
        self.observer.relayed(Direction::ToBackend, self.to_upstream.newly_written());
    }

    /// Bytes came: the session is not idle, and a side that still sends after the
    /// other's end is given more time.
    fn heard(&mut self) {
        self.last_bytes = Instant::now();
        if let Some(until) = &mut self.upstream.until {
            *until = self.last_bytes + UPSTREAM_LINGER;
        }
    }

    /// Whether it is the backend that is waited for. Of a client that sends no more and is slow
    /// to read, it is not: the backend is not read meanwhile.
    fn waits_for_backend(&self) -> bool {
        self.reason.is_some() || self.to_client.is_clear()
    }

    /// The client has read all: from now on the backend is waited for.
    fn wait_for_backend_anew(&mut self) {
        if self.reason.is_none()
            && let Some(until) = &mut self.upstream.until
        {
            *until = Instant::now() + UPSTREAM_LINGER;
        }
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
