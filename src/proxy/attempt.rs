//! One login attempt: name, route, backend, login there. Every attempt begins afresh,
//! and of a failed one nothing is left.

mod admission;
mod exchange;
mod moving;
mod referred;
mod route;
mod signing;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Config, Forward};
use crate::metrics::{Limit, Stage};
use crate::names::{BackendId, Secret, SessionId, ShardId, UserName};
use crate::net::cidr;
use crate::net::stream::Stream;
use crate::protocol::command::IdPair;
use crate::protocol::response::Code;
use crate::proxy::attempt::admission::Admission;
use crate::proxy::attempt::exchange::Dialled;
use crate::proxy::dialogue::{Dialogue, Said};
use crate::proxy::forward;
use crate::proxy::identity::{self, Identity};
use crate::proxy::logins::LoginUnderWay;
use crate::proxy::reaper::Reaper;
use crate::proxy::registry::{Live, Redirect, Request, Reservation, ReserveError, SessionHandle};
use crate::proxy::shared::{Shared, Snapshot};
use crate::routing::Route;
use crate::routing::name::NameError;
use crate::sasl::{self, Proof};
use crate::session::answer::Answer;
use crate::session::forwarded::Trace;
use crate::upstream::backends::{AdminState, Backend};
use crate::upstream::capacity::Seat;
use crate::upstream::choice::Candidates;
use crate::upstream::dial::{self, Bounds, ClientAddresses, DialError, Opened};
use crate::upstream::login::{LoggedIn, LoginError, Plan, Rejection};

/// Pause before the same backend is tried again: half of it to one and a half, so that
/// logins that failed together do not come back together.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How often a login follows its user to another backend before it gives up.
const FOLLOW_MAX: u32 = 8;
/// Why a blocked user's login failed. The client is told what a wrong password gets.
const BLOCKED: &str = "blocked";
/// Why a login failed that the backend refused by itself.
const REFUSED_BY_BACKEND: &str = "refused_by_backend";

/// What an attempt knows of its client.
#[derive(Debug)]
pub(super) struct Client<'a> {
    /// Which login attempt on its connection this is, from 1.
    pub(super) attempt: u32,
    /// The addresses, for the backend.
    pub(super) addresses: &'a ClientAddresses,
    /// The session's id.
    pub(super) session: SessionId,
    /// Its place among the worker's sessions.
    pub(super) handle: SessionHandle,
    /// Where connections go whose end is waited for.
    pub(super) reaper: &'a Rc<Reaper>,
    /// The client's own ID fields.
    pub(super) id: &'a [IdPair],
    /// A trusted proxy's `x-forward-*` fields.
    pub(super) forward: &'a [IdPair],
    /// What its IDs say of proxies on the way.
    pub(super) trace: &'a Trace,
    /// The session id of the PROXY header it came with.
    pub(super) header_session: Option<&'a str>,
}

/// A login that a backend took.
#[derive(Debug)]
pub(super) struct Success {
    /// The user's canonical name.
    pub(super) user: UserName,
    /// The session's row in the registry.
    pub(super) live: Live,
    /// The backend.
    pub(super) backend: Arc<Backend>,
    /// The connection to it.
    pub(super) stream: Stream,
    /// What it sent behind its answer.
    pub(super) leftover: Vec<u8>,
    /// Its answer.
    pub(super) answer: LoggedIn,
    /// Its place at the backend.
    pub(super) seat: Seat,
    /// Whether the user's present route names another shard.
    pub(super) route_pending: bool,
}

/// A login that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the client is told.
    pub(super) answer: Answer,
    /// Untagged lines of the backend that belong to the client.
    pub(super) untagged: Vec<u8>,
    /// The canonical name, where the client's name has one.
    pub(super) user: Option<UserName>,
    /// What the operator is told.
    pub(super) reason: &'static str,
    /// Where the backend sends the user instead.
    referral: Option<Box<Referral>>,
}

/// A backend's answer that names another one.
#[derive(Debug)]
struct Referral {
    from: BackendId,
    url: Vec<u8>,
}

impl Failure {
    /// The proxy has no descriptor left for another session.
    pub(super) fn over_limit() -> Self {
        Self::new(Answer::Limit, "sessions")
    }

    /// As many logins are under way as may be.
    pub(super) fn too_many_held() -> Self {
        Self::new(Answer::Unavailable, "held_logins")
    }

    fn new(answer: Answer, reason: &'static str) -> Self {
        Self { answer, untagged: Vec::new(), user: None, reason, referral: None }
    }

    /// Where the proxy itself refuses a token the client is told in the way of its mechanism,
    /// as a backend does it: an error, the client's answer, then NO (RFC 7628 section 3.2.2).
    async fn told_as_of_token(mut self, dialogue: &mut Dialogue<'_, '_>) -> Self {
        let own = self.answer.is_auth_failed() && self.reason != REFUSED_BY_BACKEND;
        if own && !dialogue.has_asked() {
            let error = Secret::new(sasl::INVALID_TOKEN.to_vec());
            if let Said::Over(answer) = dialogue.ask(&error).await {
                self.answer = answer.of_refused();
            }
        }
        self
    }
}

/// Tries to log the client in. `limits` is the configuration the connection was
/// accepted with; the routing is the one of this moment. `proof` is none where the client
/// left its name out; `dialogue` leads to the client where the backend asks it something.
pub(super) async fn log_in(
    shared: &Shared,
    limits: &Config,
    client: &Client<'_>,
    proof: Option<&Proof>,
    dialogue: &mut Dialogue<'_, '_>,
) -> Result<Success, Failure> {
    let result = try_to_log_in(shared, limits, client, proof, dialogue).await;
    match result {
        Err(failure) if proof.is_some_and(Proof::is_token) => {
            Err(failure.told_as_of_token(dialogue).await)
        }
        result => result,
    }
}

async fn try_to_log_in(
    shared: &Shared,
    limits: &Config,
    client: &Client<'_>,
    proof: Option<&Proof>,
    dialogue: &mut Dialogue<'_, '_>,
) -> Result<Success, Failure> {
    let snapshot = shared.snapshot.load_full();
    let proof = proof.ok_or_else(|| Failure::new(Answer::AuthenticationFailed, "no_user"))?;
    let source = client.addresses.remote.ip();
    let identity = identity::of(&snapshot.config, source, proof)
        .map_err(|reason| Failure::new(Answer::AuthenticationFailed, reason))
        .inspect_err(|failure| {
            if failure.reason == NameError::TooLong.reason() {
                shared.metrics.sessions.limit_hit(Limit::UserNameBytes);
            }
        })?;
    if signing::is_too_long(proof) {
        let refused = Failure::new(Answer::AuthenticationFailed, "credentials_too_long");
        return Err(Failure { user: Some(identity.user), ..refused });
    }
    if shared.overrides.is_blocked(&identity.user) {
        let refused = Failure::new(Answer::AuthenticationFailed, BLOCKED);
        return Err(Failure { user: Some(identity.user), ..refused });
    }
    let left = forward::proxies_left(client.trace.ttl);
    check_loop(shared, client, left)?;
    let under_way = shared.logins.enter(&client.addresses.session, left);
    if let Some(master) = &identity.master {
        let [user, master] = [&identity.user, master].map(|name| shared.telemetry.user(name));
        tracing::info!(session = %client.session, master, user, "a master user signs in");
    }
    let attempt = Attempt {
        shared,
        limits,
        snapshot: &snapshot,
        client,
        proof,
        identity: &identity,
        under_way: &under_way,
    };
    attempt.run(dialogue).await.map_err(|failure| {
        let user = Some(identity.user.clone());
        if failure.answer.is_unavailable() && under_way.came_back() {
            return Failure { user, ..Failure::new(Answer::ServerBug, "loop") };
        }
        Failure { user, ..failure }
    })
}

/// A login that already passed this proxy, or as many proxies as one may, is not dialled.
/// `left` is how many it may still pass.
fn check_loop(shared: &Shared, client: &Client<'_>, left: u32) -> Result<(), Failure> {
    let told = client.trace.ttl.map(|_| left);
    let named = client.trace.sessions.iter().map(String::as_str);
    // A PROXY header has no such number.
    let in_header = shared.logins.came_back(client.header_session, None);
    let came_back = shared.logins.came_back(named, told) || in_header;
    if !came_back && left > 1 {
        return Ok(());
    }
    tracing::error!(session = %client.session, came_back, "a login runs in a loop of proxies");
    Err(Failure::new(Answer::ServerBug, "loop"))
}

struct Attempt<'a> {
    shared: &'a Shared,
    limits: &'a Config,
    snapshot: &'a Snapshot,
    client: &'a Client<'a>,
    proof: &'a Proof,
    identity: &'a Identity,
    under_way: &'a LoginUnderWay,
}

/// Where a login may go.
struct Way {
    /// Where the lookups sent the user; a referral changes the route, and not this.
    home: ShardId,
    route: Route,
    candidates: Vec<BackendId>,
    /// Tried when none of the candidates served.
    standby: Vec<BackendId>,
    /// The referrals followed so far, by the backends that gave them. Behind one there is
    /// one candidate, and a user who is elsewhere goes nowhere.
    referred_by: Vec<BackendId>,
}

impl Attempt<'_> {
    async fn run(&self, dialogue: &mut Dialogue<'_, '_>) -> Result<Success, Failure> {
        let route = self.route_when_free().await?;
        signing::wait_for(route.not_before).await?;
        let proof = self.signs_in(route.login.as_ref())?;
        Attempt { proof: &proof, ..*self }.log_in(route, dialogue).await
    }

    async fn log_in(
        &self,
        route: Route,
        dialogue: &mut Dialogue<'_, '_>,
    ) -> Result<Success, Failure> {
        let now = Instant::now();
        let login_deadline = now + self.snapshot.config.upstream.login_timeout;
        let Candidates { first: candidates, standby } =
            self.snapshot.upstreams.candidates_of(&route, now);
        let home = route.shard.clone();
        let mut way = Way { home, route, candidates, standby, referred_by: Vec::new() };
        loop {
            match self.join(&way, login_deadline, dialogue).await {
                Err(Failure { referral: Some(referral), .. }) if dialogue.has_asked() => {
                    return Err(self.lost(&[referral.from], "the exchange cannot begin again"));
                }
                Err(Failure { referral: Some(referral), .. }) => {
                    way = self.follow(way, *referral)?;
                }
                result => return result,
            }
        }
    }

    /// Dials the candidates until one takes or refuses the login.
    async fn join(
        &self,
        way: &Way,
        mut login_deadline: Instant,
        dialogue: &mut Dialogue<'_, '_>,
    ) -> Result<Success, Failure> {
        let mut reservation = self.reserve(way, Instant::now())?;
        let mut untried: Vec<_> = way.candidates.iter().chain(&way.standby).cloned().collect();
        let mut tries = 0;
        let mut follows = 0;
        loop {
            let backend = self.backend(&reservation)?;
            if !way.referred_by.is_empty() && !way.candidates.contains(backend.name()) {
                return Err(self.lost(&way.referred_by, "the user has sessions elsewhere"));
            }
            untried.retain(|name| name != backend.name());
            signing::check_leg(way.route.login.as_ref(), &backend)?;
            if backend.admin_state() == AdminState::Down {
                follows = followed(follows)?;
                leave_disabled(&mut reservation, &untried)?;
                continue;
            }
            let admission =
                self.admit(&backend, &mut reservation, &untried, &mut login_deadline).await?;
            let Admission::Admitted(admitted) = admission else {
                follows = followed(follows)?;
                continue;
            };
            tries += 1;
            let route_pending = reservation.route_pending();
            match self.open(&backend, way, login_deadline).await {
                Ok(opened) => match reservation.live(self.client.handle) {
                    Ok(live) => {
                        if let Err(stopped) = self.check_still_welcome(&way.route.user) {
                            live.rejected();
                            return Err(stopped);
                        }
                        let dialled = Dialled { opened, live, admitted };
                        let success = self.finish(dialled, &backend, dialogue).await?;
                        return Ok(Success { route_pending, ..success });
                    }
                    Err(moved) => {
                        follows = followed(follows)?;
                        reservation = moved.reservation;
                    }
                },
                Err(error) => {
                    self.note_outage(&backend, &error);
                    drop(admitted);
                    let more = tries < self.snapshot.config.upstream.connect_tries
                        && error.another_try_helps()
                        && Instant::now() < login_deadline;
                    // One that is known to be down is worth one try.
                    let again = !backend.is_down();
                    if !more || !try_elsewhere(&mut reservation, &untried, again).await {
                        return Err(failure_of(error, backend.name()));
                    }
                }
            }
        }
    }

    fn reserve(&self, way: &Way, now: Instant) -> Result<Reservation, Failure> {
        let limits = &self.limits.limits;
        let address = self.client.addresses.remote.ip();
        let exempt = cidr::any_contains(&limits.exempt, address);
        let request = Request {
            user: &way.route.user,
            home: &way.home,
            shard: &way.route.shard,
            candidates: &way.candidates,
            sticky: self.snapshot.config.routing.sticky,
            user_max: limits.sessions_per_user,
            address,
            address_max: if exempt { u32::MAX } else { limits.sessions_per_user_address },
            now,
        };
        self.shared.registry.reserve(&request).map_err(|error| self.over_limit(error))
    }

    fn over_limit(&self, error: ReserveError) -> Failure {
        let limit = match error {
            ReserveError::UserLimit { .. } => Limit::SessionsPerUser,
            ReserveError::AddressLimit { .. } => Limit::SessionsPerUserAddress,
            ReserveError::NoCandidate => {
                return Failure::new(Answer::Unavailable, error.reason());
            }
        };
        self.shared.metrics.sessions.limit_hit(limit);
        Failure::new(Answer::Limit, error.reason())
    }

    fn backend(&self, reservation: &Reservation) -> Result<Arc<Backend>, Failure> {
        self.snapshot
            .upstreams
            .backend(reservation.backend())
            .ok_or_else(|| Failure::new(Answer::Unavailable, "backend_gone"))
    }

    async fn open(
        &self,
        backend: &Backend,
        way: &Way,
        login_deadline: Instant,
    ) -> Result<Opened, DialError> {
        let upstream = &self.snapshot.config.upstream;
        let connect_timeout = way.route.connect_timeout.unwrap_or(upstream.connect_timeout);
        let bounds = Bounds {
            ready: (Instant::now() + connect_timeout).min(login_deadline),
            login: login_deadline,
            silence: upstream.silence,
        };
        let plan = (forward::tag_prefix(), self.plan(backend, way));
        let opened = dial::open(backend, plan, self.client.addresses, bounds).await?;
        let logins = &self.shared.metrics.logins;
        // What was made ahead says nothing of how the backend does now.
        if let Some(connect) = opened.connect {
            logins.stage(Stage::Connect, connect);
            backend.metrics.connected(connect);
            backend.note_success(Instant::now());
        }
        logins.stage(Stage::Greeting, opened.greeting);
        Ok(opened)
    }

    fn plan(&self, backend: &Backend, way: &Way) -> Plan {
        let Client { addresses, id, forward, trace, .. } = self.client;
        // This proxy and each referral count; at 0 a receiver would refuse the field.
        let passed = u32::try_from(way.referred_by.len() + 1).unwrap_or(u32::MAX);
        let ttl = forward::proxies_left(trace.ttl).saturating_sub(passed).max(1);
        let id = match backend.config.forward {
            Forward::Id => forward::id_fields(addresses, ttl, forward, id),
            Forward::ProxyV2 | Forward::None => forward::client_fields(id),
        };
        Plan { id, proof: self.proof.clone(), needs_authzid: self.identity.needs_authzid }
    }

    /// A backend could not be brought to the point where it takes credentials.
    fn note_outage(&self, backend: &Backend, error: &DialError) {
        backend.note_failure(error, Instant::now(), self.snapshot.config.upstream.skip_failed);
        self.count_failure(backend, error);
    }

    fn count_failure(&self, backend: &Backend, error: &DialError) {
        backend.metrics.failed(error.reason());
        if !backend.is_news(error) {
            return;
        }
        tracing::warn!(
            session = %self.client.session,
            backend = %backend.name(),
            %error,
            "a backend could not be joined"
        );
    }
}

/// Another backend that was not tried, where the user is free to go there; else, where that
/// makes sense, the same `again` after a pause. Whether there is anything to try.
async fn try_elsewhere(reservation: &mut Reservation, untried: &[BackendId], again: bool) -> bool {
    if let Some(next) = untried.first()
        && !matches!(reservation.dial_failed(next), Redirect::Bound)
    {
        return true;
    }
    if again {
        tokio::time::sleep(RETRY_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
    }
    again
}

/// Counts one more backend that the user turned out not to be on.
fn followed(follows: u32) -> Result<u32, Failure> {
    if follows == FOLLOW_MAX {
        return Err(Failure::new(Answer::Unavailable, "moved_too_often"));
    }
    Ok(follows + 1)
}

/// A disabled backend is not dialled: a user without live sessions there goes elsewhere.
fn leave_disabled(reservation: &mut Reservation, untried: &[BackendId]) -> Result<(), Failure> {
    let placed = untried.first().map(|next| reservation.dial_failed(next));
    match placed {
        Some(Redirect::Placed | Redirect::Follow) => Ok(()),
        Some(Redirect::Bound) | None => Err(Failure::new(Answer::Unavailable, "backend_disabled")),
    }
}

fn failure_of(error: DialError, backend: &BackendId) -> Failure {
    let reason = error.reason();
    match error {
        DialError::Login(LoginError::Rejected(rejection)) => rejected(rejection, backend),
        DialError::NoTls => Failure::new(Answer::ServerBug, reason),
        DialError::Login(error) if error.is_about_mechanisms() => {
            Failure::new(Answer::ServerBug, reason)
        }
        _ => Failure::new(Answer::Unavailable, reason),
    }
}

fn rejected(rejection: Rejection, backend: &BackendId) -> Failure {
    let code = Code { name: rejection.code.name().as_bytes(), arguments: b"" };
    let answer = Answer::of_backend(rejection.status, Some(&code), rejection.text.as_bytes());
    let answer = answer.unwrap_or(Answer::Unavailable);
    // Words about the user would tell unknown ones from wrong passwords.
    let untagged = if answer.is_auth_failed() { Vec::new() } else { rejection.untagged };
    let referral = rejection.referral.map(|url| Box::new(Referral { from: backend.clone(), url }));
    Failure { untagged, referral, ..Failure::new(answer, REFUSED_BY_BACKEND) }
}
