//! The backends of one configuration, with the little that is learnt about each.

mod upstreams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::config::{self, Balance, CheckMode, Failover, ShardKind};
use crate::metrics::{BackendHandles, BackendState, ShardHandles};
use crate::names::{BackendId, ShardId};
use crate::net::resolve::Addresses;
use crate::net::tls::ClientTls;
use crate::protocol::capability::CapabilityFilter;
use crate::sasl::Mechanism;
use crate::upstream::capacity::{Gate, Seat, Seats};
use crate::upstream::check::Learnt;
use crate::upstream::choice::SHARE_FULL;
use crate::upstream::cuts::Cuts;
use crate::upstream::dial::DialError;
use crate::upstream::health::{Health, Hysteresis, Outcome, Status};
use crate::upstream::login::LoginError;
use crate::upstream::warm::WarmPool;

pub use crate::config::AdminState;
pub use upstreams::Upstreams;

/// One backend as configured, ready to be dialled.
#[derive(Debug)]
pub struct Backend {
    /// What the configuration says of it.
    pub config: config::Backend,
    /// The shard it belongs to.
    pub shard: Arc<Shard>,
    /// How its leg is encrypted; `None` for clear text.
    pub tls: Option<ClientTls>,
    /// Where it is, by the last good answer.
    pub addresses: Addresses,
    /// Its metrics.
    pub metrics: Arc<BackendHandles>,
    gate: Arc<Gate>,
    /// Connections made ahead, where the configuration wants some.
    warm: Option<Arc<WarmPool>>,
    state: Arc<State>,
}

/// What outlives a reload: it belongs to the server, not to the file.
#[derive(Debug)]
struct State {
    origin: Instant,
    /// Milliseconds since `origin` until which new users are sent elsewhere.
    skipped_until: AtomicU64,
    /// A bit for each kind of misfit between configuration and backend that was told.
    told: AtomicU32,
    /// Where nothing is checked: milliseconds since `origin` until which it is believed to
    /// be down.
    down_until: AtomicU64,
    /// The judgement of checks and logins.
    health: Mutex<Health>,
    /// Whether that says down, for those who must not wait.
    down: AtomicBool,
    /// Whether it says that the backend is silent.
    silent: AtomicBool,
    /// Milliseconds since `origin` when it rose last; 0 where it never fell.
    risen_at: AtomicU64,
    /// Its sessions.
    seats: Seats,
    /// Those that it ended lately.
    cuts: Arc<Cuts>,
    /// What the last good check learnt.
    learnt: ArcSwapOption<Learnt>,
    /// The address that the next dial begins with, where there are several.
    first_address: ArcSwapOption<SocketAddr>,
    /// Counts dials, so that source addresses take turns.
    sources: AtomicUsize,
    /// The state given at run time, as its place in [`AdminState::ALL`] and one; 0: none.
    admin: AtomicU8,
}

/// Without a further failure a backend is believed down for this many times `skip_failed`:
/// long enough that one that fails at every try does not seem to be up between two tries,
/// and not for ever where nobody tries.
const DOWN_FOR_SKIPS: u32 = 6;

impl Backend {
    /// The backend's name.
    pub fn name(&self) -> &BackendId {
        &self.config.name
    }

    /// What the operator lets it do: what was said at run time, else what the file says.
    pub fn admin_state(&self) -> AdminState {
        self.run_time_state().unwrap_or(self.config.state)
    }

    /// The state given at run time, where there is one.
    pub fn run_time_state(&self) -> Option<AdminState> {
        let place = usize::from(self.state.admin.load(Ordering::Acquire)).checked_sub(1)?;
        AdminState::ALL.get(place).copied()
    }

    /// Whether nothing is dialled there.
    pub fn is_disabled(&self) -> bool {
        self.admin_state() == AdminState::Down
    }

    /// Gives it a state at run time, which all generations of its configuration share;
    /// `None`: its file decides again.
    pub fn set_admin_state(&self, state: Option<AdminState>) {
        let place = AdminState::ALL.iter().position(|known| Some(*known) == state);
        let stored = place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0);
        self.state.admin.store(stored, Ordering::Release);
        self.show_admin_state();
    }

    fn show_admin_state(&self) {
        self.metrics.set_state(match self.admin_state() {
            AdminState::Up => BackendState::Up,
            AdminState::Drain => BackendState::Drain,
            AdminState::Standby => BackendState::Standby,
            AdminState::Down => BackendState::Down,
        });
    }

    /// Notes that a login's connection could not be made: where that says that the backend is
    /// out of order it judges it, and for `skip` users without sessions here are sent to other
    /// backends first.
    pub fn note_failure(&self, error: &DialError, now: Instant, skip: Duration) {
        if !error.is_outage() {
            if matches!(error, DialError::NoAddress) {
                self.skip(now, skip);
            }
            return;
        }
        self.skip(now, skip);
        let down_until = self.state.millis(now + skip * DOWN_FOR_SKIPS);
        self.state.down_until.store(down_until, Ordering::Relaxed);
        let answered = error.outcome() != Outcome::Silent;
        self.judge(now, |health, hysteresis| health.on_failure(answered, hysteresis));
        self.show_up(now);
    }

    /// Notes that a connection could not be made ahead: new users are sent elsewhere for `skip`.
    /// Where the backend is checked, that and the logins judge it: failures of this kind may be
    /// hours apart, with nothing between them that would end their row.
    pub fn note_failure_ahead(&self, error: &DialError, now: Instant, skip: Duration) {
        if !self.config.check.is_on() {
            self.note_failure(error, now, skip);
        } else if error.is_outage() {
            self.skip(now, skip);
        }
    }

    fn skip(&self, now: Instant, time: Duration) {
        self.state.skipped_until.store(self.state.millis(now + time), Ordering::Relaxed);
    }

    /// Notes that a login's connection came to a greeting.
    pub fn note_success(&self, now: Instant) {
        self.state.serves();
        self.judge(now, |health, _| {
            health.on_success();
            None
        });
        self.show_up(now);
    }

    /// Notes how a check ended. A good one that has seen the greeting also ends the time in
    /// which new users are sent elsewhere.
    pub fn note_check(&self, outcome: Outcome, now: Instant) {
        if outcome == Outcome::Good && self.config.check.mode > CheckMode::Connect {
            self.state.serves();
        }
        self.judge(now, |health, hysteresis| health.on_check(outcome, hysteresis));
        self.show_up(now);
    }

    /// Notes that nobody dials it for a while: what was seen before says nothing of how it is
    /// then, so that the judgement stays until a whole row of results turns it.
    pub fn note_pause(&self, now: Instant) {
        self.judge(now, |health, _| {
            health.forget_rows();
            None
        });
    }

    /// Whether checks, and connections of logins, say that it does not serve. Never where
    /// nothing is checked: nobody would find out that it is back.
    pub fn is_down(&self) -> bool {
        self.config.check.is_on() && self.state.down.load(Ordering::Relaxed)
    }

    /// Whether it is down because it does not answer, or refuses or loses connections: one that
    /// answers wrongly may still serve its sessions.
    pub fn is_silent(&self) -> bool {
        self.is_down() && self.state.silent.load(Ordering::Relaxed)
    }

    /// Whether new users are sent elsewhere, where they can.
    pub fn fails(&self, now: Instant) -> bool {
        self.is_down() || self.skipped(now)
    }

    /// A place for one more session, where it may have one.
    pub fn take_seat(&self) -> Option<Seat> {
        self.state.seats.take(self.config.sessions_max)
    }

    /// The sessions that it ended lately.
    pub fn cuts(&self) -> &Arc<Cuts> {
        &self.state.cuts
    }

    /// Its connections made ahead, where it has such.
    pub fn warm(&self) -> Option<&Arc<WarmPool>> {
        self.warm.as_ref()
    }

    /// Shows how many warm connections are ready.
    pub fn show_warm(&self, ready: usize) {
        self.metrics.set_warm(ready);
    }

    /// The place among its source addresses that the next dial begins with.
    pub fn next_source(&self) -> usize {
        self.state.sources.fetch_add(1, Ordering::Relaxed)
    }

    /// Where its logins wait their turn.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What the last good check learnt.
    pub fn learnt(&self) -> Option<Arc<Learnt>> {
        self.state.learnt.load_full()
    }

    /// Keeps what a good check learnt.
    pub fn learn(&self, learnt: Learnt) {
        self.state.learnt.store(Some(Arc::new(learnt)));
    }

    /// Hands one event to the judgement and notes where that turned.
    fn judge(&self, now: Instant, event: impl FnOnce(&mut Health, Hysteresis) -> Option<Status>) {
        let check = &self.config.check;
        if !check.is_on() {
            return;
        }
        let hysteresis = Hysteresis { rise: check.rise, fall: check.fall };
        let mut health = self.state.health.lock().unwrap_or_else(PoisonError::into_inner);
        let turned = event(&mut health, hysteresis);
        self.state.down.store(health.status() == Status::Down, Ordering::Relaxed);
        self.state.silent.store(health.is_silent(hysteresis), Ordering::Relaxed);
        if turned == Some(Status::Up) {
            self.state.risen_at.store(self.state.millis(now).max(1), Ordering::Relaxed);
        }
    }

    /// The part of its weight that counts, in percent: after it rose it grows from 1 to
    /// [`SHARE_FULL`] over the shard's `slow_start`.
    fn share(&self, now: Instant) -> u32 {
        let risen_at = self.state.risen_at.load(Ordering::Relaxed);
        let ramp = u64::try_from(self.shard.slow_start.as_millis()).unwrap_or(u64::MAX);
        let since = self.state.millis(now).saturating_sub(risen_at);
        if risen_at == 0 || since >= ramp {
            return SHARE_FULL;
        }
        let percent = since.saturating_mul(u64::from(SHARE_FULL)) / ramp;
        u32::try_from(percent).unwrap_or(SHARE_FULL).max(1)
    }

    /// Whether the operator has not been told of this failure yet. What only a change of
    /// configuration ends is told once, everything else each time.
    pub fn is_news(&self, error: &DialError) -> bool {
        let DialError::Login(error) = error else { return true };
        let kind = match error {
            LoginError::NotListed(mechanism) => {
                Mechanism::ALL.iter().position(|known| known == mechanism).unwrap_or_default()
            }
            LoginError::ChannelBinding => Mechanism::ALL.len(),
            LoginError::NoMechanism => Mechanism::ALL.len() + 1,
            _ => return true,
        };
        let bit = 1_u32 << kind;
        self.state.told.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Shows its state, and whether it is believed to serve: as checks judge. Where nothing
    /// is checked: not from a failed connection on until one succeeds, or until so long nobody
    /// has failed there that nothing speaks against it.
    pub fn show_up(&self, now: Instant) {
        let failed = self.state.millis(now) < self.state.down_until.load(Ordering::Relaxed);
        let down = if self.config.check.is_on() { self.is_down() } else { failed };
        self.metrics.set_up(!down);
        self.show_admin_state();
    }

    /// Its addresses in the order in which a dial tries them.
    pub fn addresses_in_turn(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::clone(&self.addresses.current());
        let first = self.state.first_address.load();
        let place = first.as_ref().and_then(|first| addresses.iter().position(|at| *at == **first));
        addresses.rotate_left(place.unwrap_or(0));
        addresses
    }

    /// The next dial begins with that address.
    pub fn begin_with(&self, address: SocketAddr) {
        let first = &self.state.first_address;
        if first.load().as_deref() != Some(&address) {
            first.store(Some(Arc::new(address)));
        }
    }

    /// Whether it failed a moment ago.
    pub fn skipped(&self, now: Instant) -> bool {
        self.state.millis(now) < self.state.skipped_until.load(Ordering::Relaxed)
    }
}

impl State {
    fn new() -> Self {
        Self {
            origin: Instant::now(),
            skipped_until: AtomicU64::new(0),
            told: AtomicU32::new(0),
            down_until: AtomicU64::new(0),
            health: Mutex::default(),
            down: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            risen_at: AtomicU64::new(0),
            seats: Seats::default(),
            cuts: Arc::default(),
            learnt: ArcSwapOption::empty(),
            first_address: ArcSwapOption::empty(),
            sources: AtomicUsize::new(0),
            admin: AtomicU8::new(0),
        }
    }

    /// It answered as a server does.
    fn serves(&self) {
        if self.skipped_until.load(Ordering::Relaxed) != 0 {
            self.skipped_until.store(0, Ordering::Relaxed);
            self.down_until.store(0, Ordering::Relaxed);
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }
}

/// A shard with what the relay needs of it.
#[derive(Debug)]
pub struct Shard {
    /// Its name.
    pub name: ShardId,
    /// How users are spread.
    pub kind: ShardKind,
    /// In which order they are tried for a new user.
    pub balance: Balance,
    /// What becomes of users who may have sessions on one that is down.
    pub failover: Failover,
    /// How long the share of a backend that rose grows.
    pub slow_start: Duration,
    /// What is left of a backend's capability list for clients.
    pub filter: CapabilityFilter,
    /// Its metrics.
    pub metrics: Arc<ShardHandles>,
}
