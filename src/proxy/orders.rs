//! What the control plane may ask of a session, and the cell through which it asks.
//!
//! A worker owns one cell per session; an order is put into it and the session's task
//! woken. No channel per session: a sleeping session costs a few words.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::names::SessionId;
use crate::session::prelogin;

/// Why a client connection ended: the log's and the metric's `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Connected and left without a word, as balancers' probes do. Not logged.
    Silent,
    /// The PROXY header was missing, broken, late or from an address that is not trusted.
    ProxyHeader,
    /// The TLS handshake failed or took too long.
    Tls,
    /// Over a limit of the configuration.
    Limit,
    /// Silent for longest when connections that are not logged in filled their share.
    Crowded,
    /// Not logged in by the deadline.
    LoginDeadline,
    /// Too many failed logins.
    LoginTries,
    /// Too many lines that are no commands.
    SyntaxErrors,
    /// Bytes were sent behind STARTTLS.
    StarttlsInjection,
    /// A literal over the bound was on its way before login.
    LiteralTooBig,
    /// A line or command before login was over its bound.
    TooLong,
    /// The client logged out.
    Logout,
    /// The client closed the connection.
    ClientClosed,
    /// The client's connection was reset.
    ClientReset,
    /// The client's bytes could not be followed any further.
    ClientError,
    /// The client got its BYE because a login could not be tried.
    Unavailable,
    /// The backend closed the connection.
    BackendClosed,
    /// The backend broke the framing while the client waited for the proxy's own answer.
    Opaque,
    /// Idle for longer than the operator allows.
    IdleLimit,
    /// The proxy shuts down.
    Drain,
    /// The operator ended the user's sessions.
    Kicked,
    /// The operator empties the backend.
    BackendDrain,
    /// The operator says that the backend is dead.
    Fenced,
    /// The user's route names another shard.
    RouteChanged,
    /// A fault of the proxy itself.
    Fault,
}

impl CloseReason {
    /// The metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
            Self::Limit => "limit",
            Self::Crowded => "crowded",
            Self::LoginDeadline => "login_deadline",
            Self::LoginTries => "login_tries",
            Self::SyntaxErrors => "syntax_errors",
            Self::StarttlsInjection => "starttls_injection",
            Self::LiteralTooBig => "literal_too_big",
            Self::TooLong => "too_long",
            Self::Logout => "logout",
            Self::ClientClosed => "client_closed",
            Self::ClientReset => "client_reset",
            Self::ClientError => "client_error",
            Self::Unavailable => "unavailable",
            Self::BackendClosed => "backend_closed",
            Self::Opaque => "opaque",
            Self::IdleLimit => "idle_limit",
            Self::Drain => "drain",
            Self::Kicked => "kicked",
            Self::BackendDrain => "backend_drain",
            Self::Fenced => "fenced",
            Self::RouteChanged => "route_changed",
            Self::Fault => "fault",
        }
    }
}

impl From<prelogin::CloseReason> for CloseReason {
    fn from(reason: prelogin::CloseReason) -> Self {
        match reason {
            prelogin::CloseReason::Logout => Self::Logout,
            prelogin::CloseReason::StartTlsInjection => Self::StarttlsInjection,
            prelogin::CloseReason::SyntaxErrors => Self::SyntaxErrors,
            prelogin::CloseReason::LoginTries => Self::LoginTries,
            prelogin::CloseReason::LiteralTooBig => Self::LiteralTooBig,
            prelogin::CloseReason::TooLong => Self::TooLong,
            prelogin::CloseReason::Unavailable => Self::Unavailable,
        }
    }
}

/// Where a BYE may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Border {
    /// Between two commands or in IDLE: the client waits for nothing.
    Command,
    /// Between two responses.
    Response,
}

/// End the session: BYE from `bye_from` on at the next such border, at `until` at the
/// next response border or else without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Why.
    pub reason: CloseReason,
    /// The text behind `* BYE `.
    pub bye: &'static str,
    /// Where the BYE may go out before `until`.
    pub border: Border,
    /// Not before.
    pub bye_from: Instant,
    /// Not after.
    pub until: Instant,
    /// Whether the backend's connection is given up at once, its session there being known
    /// to be over; else its end is waited for.
    pub backend_is_gone: bool,
}

/// An order for several sessions, each at a moment of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub reason: CloseReason,
    /// The text behind `* BYE `.
    pub bye: &'static str,
    /// Where the BYE may go out within `grace`.
    pub border: Border,
    /// Over how long the sessions' turns are spread.
    pub spread: Duration,
    /// How long a session may take from its turn on to reach such a border.
    pub grace: Duration,
    /// As in [`Order::backend_is_gone`].
    pub backend_is_gone: bool,
}

impl Ending {
    /// One session's order.
    pub(super) fn order(&self, now: Instant) -> Order {
        let bye_from = now + self.spread.mul_f64(fastrand::f64());
        Order {
            reason: self.reason,
            bye: self.bye,
            border: self.border,
            bye_from,
            until: bye_from + self.grace,
            backend_is_gone: self.backend_is_gone,
        }
    }
}

/// What is known of a session besides its user and backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFacts {
    /// Its id, as in the log.
    pub session: SessionId,
    /// The listener where it came in.
    pub listener: String,
    /// The client's address.
    pub remote: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
}

/// A session as its worker sees it.
#[derive(Debug)]
pub struct SessionCell {
    /// Its id.
    pub(super) session: SessionId,
    /// Which of the sessions that had its key it is.
    pub(super) turn: u32,
    listener: Arc<str>,
    remote: Cell<SocketAddr>,
    since: Instant,
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
    logged_in: Cell<bool>,
    last_heard: Cell<Instant>,
}

impl SessionCell {
    /// A session that begins now.
    pub fn new(session: SessionId, turn: u32, from: (Arc<str>, SocketAddr), now: Instant) -> Self {
        let (listener, remote) = from;
        Self {
            session,
            turn,
            listener,
            remote: Cell::new(remote),
            since: now,
            order: Cell::new(None),
            waker: RefCell::new(None),
            logged_in: Cell::new(false),
            last_heard: Cell::new(now),
        }
    }

    /// What is known of it.
    pub fn facts(&self) -> SessionFacts {
        SessionFacts {
            session: self.session,
            listener: self.listener.as_ref().to_owned(),
            remote: self.remote.get(),
            since: self.since,
        }
    }

    /// The client is there, as the proxy in front says.
    pub fn set_remote(&self, remote: SocketAddr) {
        self.remote.set(remote);
    }

    /// Gives the session its part of an order for several. One that comes again and again, as
    /// those do that empty a backend or move a user, leaves a session its turn that ends no
    /// later anyway, or whose backend is dead; another one it brings forward.
    pub(super) fn end(&self, ending: &Ending, now: Instant) {
        let order = ending.order(now);
        let again = matches!(ending.reason, CloseReason::BackendDrain | CloseReason::RouteChanged);
        let Some(known) = self.order.get().filter(|_| again) else { return self.order(order) };
        if known.backend_is_gone || known.until <= now + ending.spread + ending.grace {
            return;
        }
        // Whom something else ends does not get off where the backend's order is withdrawn.
        let kept = matches!(ending.reason, CloseReason::BackendDrain).then_some(known);
        let Order { reason, bye, .. } = kept.unwrap_or(order);
        self.order(Order { reason, bye, ..order });
    }

    /// Takes back an order to empty the backend, unless its time has come.
    pub(super) fn withdraw(&self, now: Instant) {
        let drains = |order: &Order| order.reason == CloseReason::BackendDrain;
        // Nobody is woken: who looks when its time comes finds that there is none.
        if self.order.get().filter(drains).is_some_and(|order| now < order.bye_from) {
            self.order.set(None);
        }
    }

    /// A login that came to nothing: an order to empty the backend is nothing to it any more.
    pub(super) fn leave_backend(&self) {
        if self.order.get().is_some_and(|order| order.reason == CloseReason::BackendDrain) {
            self.order.set(None);
        }
    }

    /// Gives the session an order and wakes it. A later order replaces an earlier one.
    pub fn order(&self, order: Order) {
        self.order.set(Some(order));
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The session's present order; `cx` is woken when another comes.
    pub fn watch(&self, cx: &Context<'_>) -> Option<Order> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.order.get()
    }

    /// Waits for an order.
    pub async fn ordered(&self) -> Order {
        std::future::poll_fn(|cx| self.watch(cx).map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Waits for an order whose time has come.
    pub async fn due(&self) -> Order {
        loop {
            let order = self.ordered().await;
            let another = std::future::poll_fn(|cx| match self.watch(cx) {
                Some(present) if present == order => Poll::Pending,
                _ => Poll::Ready(()),
            });
            if timeout_at(order.bye_from, another).await.is_err() {
                return order;
            }
        }
    }

    /// Notes that the client was heard: the longest silent one is dropped first when
    /// connections that are not logged in fill their share.
    pub fn heard(&self, now: Instant) {
        self.last_heard.set(now);
    }

    /// When the client was last heard before its login.
    pub fn last_heard(&self) -> Instant {
        self.last_heard.get()
    }

    /// Whether an order was given already.
    pub fn has_order(&self) -> bool {
        self.order.get().is_some()
    }

    /// Notes whether the login is done, or on its way at a backend. Then an order to make room
    /// among those that are not logged in is void: it has.
    pub fn set_logged_in(&self, logged_in: bool) {
        let crowded = |order: Order| order.reason == CloseReason::Crowded;
        if logged_in && self.order.get().is_some_and(crowded) {
            self.order.set(None);
        }
        self.logged_in.set(logged_in);
    }

    /// Whether the login is done, or on its way at a backend.
    pub fn logged_in(&self) -> bool {
        self.logged_in.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(reason: CloseReason) -> Order {
        let now = Instant::now();
        let border = Border::Response;
        Order { reason, bye: "", border, bye_from: now, until: now, backend_is_gone: false }
    }

    fn cell() -> SessionCell {
        let from = (Arc::from("imap"), SocketAddr::from(([192, 0, 2, 1], 1000)));
        SessionCell::new(SessionId::from_bits(7), 0, from, Instant::now())
    }

    /// As a sweep over a backend that is to be empty within that many seconds.
    fn drain(seconds: u64) -> Ending {
        ending(CloseReason::BackendDrain, seconds)
    }

    fn ending(reason: CloseReason, seconds: u64) -> Ending {
        let within = Duration::from_secs(seconds);
        Ending {
            reason,
            bye: "",
            border: Border::Command,
            spread: within.mul_f64(0.8),
            grace: within.mul_f64(0.2),
            backend_is_gone: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_leaves_a_session_its_turn_and_a_shorter_one_brings_it_forward() {
        let cell = cell();
        let now = Instant::now();
        cell.end(&drain(14_400), now);
        let first = cell.order.get().unwrap();
        // An hour later three are left.
        cell.end(&drain(10_800), now + Duration::from_secs(3600));
        assert_eq!(cell.order.get(), Some(first));
        cell.end(&drain(60), now);
        let second = cell.order.get().unwrap();
        assert!(second.until <= now + Duration::from_secs(60), "{second:?}");
        cell.end(&drain(14_400), now);
        assert_eq!(cell.order.get(), Some(second));
        cell.end(&ending(CloseReason::RouteChanged, 1), now);
        assert_eq!(cell.order.get().unwrap().reason, CloseReason::RouteChanged);
        // What ends in any case, and a session whose backend is dead, stay as they are.
        let gone = Order { backend_is_gone: true, ..first };
        cell.order(gone);
        cell.end(&drain(1), now);
        assert_eq!(cell.order.get(), Some(gone));
        cell.end(&ending(CloseReason::Kicked, 60), now);
        assert_eq!(cell.order.get().unwrap().reason, CloseReason::Kicked);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_order_to_empty_a_backend_is_withdrawn_and_only_before_its_time() {
        let cell = cell();
        let now = Instant::now();
        let kicked = ending(CloseReason::Kicked, 60);
        cell.end(&drain(14_400), now);
        cell.withdraw(now);
        assert!(!cell.has_order());
        cell.end(&kicked, now);
        cell.withdraw(now);
        assert!(cell.has_order());
        // Nor where the emptied backend would end it even sooner.
        cell.order(kicked.order(now + Duration::from_secs(60)));
        cell.end(&drain(5), now);
        cell.withdraw(now);
        let order = cell.order.get().unwrap();
        assert_eq!(order.reason, CloseReason::Kicked);
        assert!(order.until <= now + Duration::from_secs(5));
        cell.order(drain(0).order(now));
        cell.withdraw(now);
        assert!(cell.has_order(), "its time has come");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_orders_time_hears_of_withdrawals_and_of_sooner_ones() {
        let cell = cell();
        let begun = Instant::now();
        let seconds = |count| begun + Duration::from_secs(count);
        let at = |time| Order { bye_from: time, ..order(CloseReason::BackendDrain) };
        cell.order(at(seconds(10)));
        let orders = async {
            tokio::time::sleep_until(seconds(5)).await;
            cell.withdraw(Instant::now());
            tokio::time::sleep_until(seconds(20)).await;
            cell.order(at(seconds(100)));
            tokio::time::sleep_until(seconds(30)).await;
            cell.order(at(seconds(40)));
        };
        let (due, ()) = tokio::join!(cell.due(), orders);
        assert_eq!((due.bye_from, Instant::now()), (seconds(40), seconds(40)));
    }

    #[test]
    fn a_login_makes_an_order_to_make_room_void_and_no_other() {
        let cell = cell();
        cell.order(order(CloseReason::Crowded));
        cell.set_logged_in(false);
        assert!(cell.has_order());
        cell.set_logged_in(true);
        assert!(!cell.has_order());
        cell.order(order(CloseReason::Drain));
        cell.set_logged_in(true);
        assert!(cell.has_order());
    }
}
