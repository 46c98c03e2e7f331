//! A connection before its relay: what the client and the proxy say to each other until
//! a login succeeds or the connection ends.

mod forwarded;
mod login;

use std::net::TcpStream as StdStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::admission::{AddressPermit, DescriptorPermit, PlacePermit};
use crate::config::{Config, OnUnavailable, ProxyProtocol, TlsMode};
use crate::metrics::{Limit, LoginResult, Stage};
use crate::net::cidr;
use crate::net::proxy_header::{self, ProxyTls};
use crate::net::stream::Stream;
use crate::net::tls::ServerTls;
use crate::protocol::capability::Capabilities;
use crate::protocol::command::IdPair;
use crate::proxy::accept::{Accepted, ListenerState};
use crate::proxy::attempt::{Failure, Success};
use crate::proxy::connection::Joined;
use crate::proxy::count;
use crate::proxy::front::forwarded::Arrived;
use crate::proxy::front::login::NotIn;
use crate::proxy::link::{Link, dismiss, has_left, part, read_some};
use crate::proxy::orders::CloseReason;
use crate::proxy::reaper::Reaper;
use crate::proxy::relay::{Parting, Parts};
use crate::proxy::shared::Shared;
use crate::proxy::story::Story;
use crate::proxy::worker::{Place, Worker};
use crate::session::answer::{self, Answer};
use crate::session::prelogin::{Attempt, Encryption, Inbox, PreLogin, Settings, Step};
use crate::session::tracker::{self, Tracker};
use crate::upstream::dial::ClientAddresses;

/// Least time for the proxy's own answer to be taken, whatever is left of the deadline.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// A connection that is not logged in.
pub(super) struct Front<'a> {
    shared: &'a Shared,
    config: Arc<Config>,
    tls: Option<ServerTls>,
    listener: Arc<ListenerState>,
    reaper: &'a Rc<Reaper>,
    place: &'a Place,
    story: &'a mut Story,
    client: ClientAddresses,
    /// Login attempts so far.
    attempts: u32,
    /// Fields `x-forward-*` of a trusted proxy, for the backend.
    forward: Vec<IdPair>,
    /// The session id of a balancer's PROXY header.
    header_session: Option<String>,
    /// Until when the client must be logged in. It moves on while the proxy makes the
    /// client wait.
    deadline: Instant,
    /// Since when the proxy makes the client wait.
    held_since: Instant,
    /// Its place among the logins that the proxy makes wait.
    held: Option<PlacePermit>,
    exempt: bool,
    /// The connection as it arrived, where a trusted proxy has described another client since.
    arrived: Option<Box<Arrived>>,
    permit: DescriptorPermit,
    /// Its place among the listener's connections, where those are limited.
    place_at_listener: Option<PlacePermit>,
}

impl<'a> Front<'a> {
    /// Leads the connection to its login.
    pub(super) async fn run(
        accepted: Accepted,
        worker: &'a Rc<Worker>,
        place: &'a Place,
        story: &'a mut Story,
    ) -> Result<Box<Joined>, CloseReason> {
        let shared: &Shared = &worker.shared;
        let snapshot = shared.snapshot.load_full();
        let config = Arc::clone(&snapshot.config);
        let local = accepted.socket.local_addr().map_err(|_| CloseReason::Silent)?;
        let mut front = Front {
            shared,
            tls: snapshot.tls.clone(),
            listener: accepted.listener,
            reaper: &worker.reaper,
            place,
            client: ClientAddresses {
                remote: accepted.peer,
                local,
                server_name: None,
                tls: false,
                tls_version: None,
                tls_cipher: None,
                proxied: false,
                session: story.session.to_string(),
            },
            attempts: 0,
            forward: Vec::new(),
            header_session: None,
            deadline: story.start + config.limits.login_deadline,
            held_since: story.start,
            held: None,
            config,
            story,
            exempt: false,
            arrived: None,
            permit: accepted.permit,
            place_at_listener: None,
        };
        drop(snapshot);
        let arrived = tokio::select! {
            biased;
            arrived = front.arrive(accepted.socket) => arrived,
            // Before TLS nothing can be said; who is silent there must hold up nobody.
            order = place.cell.ordered() => Err(order.reason),
        };
        let (stream, address_permit) = arrived?;
        front.converse(stream, address_permit).await
    }

    /// PROXY header, limits per listener and address, implicit TLS.
    async fn arrive(&mut self, socket: StdStream) -> Result<(Stream, AddressPermit), CloseReason> {
        let mut tcp = TcpStream::from_std(socket).map_err(|_| CloseReason::ClientReset)?;
        if self.listener.config.proxy_protocol == ProxyProtocol::Required {
            self.read_proxy_header(&mut tcp).await?;
        }
        let address = self.client.remote.ip();
        self.exempt = cidr::any_contains(&self.config.limits.exempt, address);
        let implicit = self.listener.config.tls == TlsMode::Implicit;
        let permit = match self.admit() {
            Ok(permit) => permit,
            Err((limit, bye)) => {
                self.shared.metrics.sessions.limit_hit(limit);
                if !implicit {
                    let mut stream = Stream::Plain(tcp);
                    self.write(&mut stream, bye).await?;
                    dismiss(&mut stream).await;
                }
                return Err(CloseReason::Limit);
            }
        };
        let stream = if implicit { self.secure(tcp).await? } else { Stream::Plain(tcp) };
        Ok((stream, permit))
    }

    /// Takes a place at the listener and one of the address; else the limit, and what the
    /// client is told.
    fn admit(&mut self) -> Result<AddressPermit, (Limit, &'static [u8])> {
        let listener = &self.listener;
        if let Some(max) = listener.config.sessions_max {
            let full: &[u8] = b"* BYE [LIMIT] Too many connections.\r\n";
            let place = listener.places.take(max).ok_or((Limit::SessionsPerListener, full))?;
            self.place_at_listener = Some(place);
        }
        let bye: &[u8] = b"* BYE [LIMIT] Too many connections that are not logged in.\r\n";
        let permit = self.shared.addresses.acquire(self.client.remote.ip(), &self.config.limits);
        permit.ok_or((Limit::UnauthenticatedPerAddress, bye))
    }

    /// The header of a balancer in front; only listed networks are believed.
    async fn read_proxy_header(&mut self, tcp: &mut TcpStream) -> Result<(), CloseReason> {
        let peer = self.client.remote.ip();
        if !cidr::any_contains(&self.listener.config.trusted, peer) {
            tracing::warn!(remote_address = %peer, "a PROXY header is required and this network is not trusted");
            self.client_error("proxy_untrusted");
            return Err(CloseReason::ProxyHeader);
        }
        let header = proxy_header::read_proxy_header(tcp, self.config.limits.proxy_header).await;
        let header = header.map_err(|error| {
            if error.is_silent() {
                return CloseReason::Silent;
            }
            tracing::warn!(remote_address = %peer, %error, "PROXY header refused");
            self.client_error(error.reason());
            CloseReason::ProxyHeader
        })?;
        if let Some(addresses) = header.addresses {
            self.client.proxied = true;
            self.client.remote = addresses.source;
            self.client.local = addresses.destination;
            self.story.remote = addresses.source;
            self.place.cell.set_remote(addresses.source);
        }
        self.client.tls =
            self.listener.config.trust_tls && header.tls.is_some_and(ProxyTls::is_over_tls);
        self.client.server_name = header.authority;
        self.header_session = header.unique_id.and_then(|id| String::from_utf8(id).ok());
        Ok(())
    }

    /// The TLS handshake, implicit or after STARTTLS.
    async fn secure(&mut self, tcp: TcpStream) -> Result<Stream, CloseReason> {
        let Some(tls) = self.tls.clone() else { return Err(CloseReason::Tls) };
        let start = Instant::now();
        let handshake = Box::pin(tls.accept(tcp, self.config.limits.tls_handshake));
        let result = tokio::select! {
            result = handshake => result,
            order = self.place.cell.due() => return Err(order.reason),
        };
        match result {
            Ok(stream) => {
                self.shared.metrics.logins.stage(Stage::Tls, start.elapsed());
                self.client.tls = true;
                self.client.server_name = stream.sni().map(str::to_owned);
                self.story.tls = stream.tls_version();
                self.client.tls_version = stream.tls_version();
                self.client.tls_cipher = stream.tls_cipher();
                Ok(stream)
            }
            Err(error) if error.is_silent() => Err(CloseReason::Silent),
            Err(error) => {
                self.client_error(error.reason());
                tracing::debug!(session = %self.story.session, %error, "TLS handshake failed");
                Err(CloseReason::Tls)
            }
        }
    }

    /// The conversation until a login succeeds.
    async fn converse(
        mut self,
        stream: Stream,
        mut address_permit: AddressPermit,
    ) -> Result<Box<Joined>, CloseReason> {
        let mut free_since = Instant::now();
        let mut prelogin = PreLogin::new(self.settings());
        let mut link = Link { stream, inbox: Inbox::new() };
        let mut out = Vec::with_capacity(256);
        prelogin.greeting(&mut out);
        self.write(&mut link.stream, &out).await?;
        loop {
            // What one read brought may hold exchanges for minutes.
            if Instant::now() >= self.deadline {
                return Err(self.end_late(&mut link).await);
            }
            let step = prelogin.step(&mut link.inbox);
            self.tally(&mut prelogin);
            match step {
                Step::Read | Step::Wait => self.read(&mut link).await?,
                Step::Reply(reply) => self.write(&mut link.stream, &reply).await?,
                Step::Forwarded { reply, client } => {
                    self.believe(*client, &mut link, &mut address_permit).await?;
                    self.write(&mut link.stream, &reply).await?;
                }
                Step::StartTls { reply } => {
                    self.forget_told(&mut link, &mut address_permit).await?;
                    self.write(&mut link.stream, &reply).await?;
                    let tcp = link.stream.into_plain().map_err(|_| CloseReason::Tls)?;
                    link = Link { stream: self.secure(tcp).await?, inbox: Inbox::new() };
                    prelogin.after_tls();
                }
                Step::Close { reply, reason } => {
                    count::ending(reason.into(), &self.shared.metrics.sessions);
                    self.write(&mut link.stream, &reply).await?;
                    return Err(part(&mut link.stream, reason.into()).await);
                }
                Step::Login(attempt) => {
                    self.shared.metrics.logins.stage(Stage::Client, free_since.elapsed());
                    let deadline = self.deadline;
                    match self.log_in(&attempt, &mut link, &mut prelogin).await {
                        Ok(success) => {
                            let gone = has_left(&mut link).await;
                            let result =
                                if gone { LoginResult::ClientGone } else { LoginResult::Ok };
                            self.listener
                                .metrics
                                .login(count::mechanism_of(attempt.method), result);
                            drop(address_permit);
                            return Ok(self.join(link, success, &attempt));
                        }
                        Err(NotIn::Refused(failure)) => {
                            let cancelled = matches!(failure.answer, Answer::Cancelled);
                            self.refuse(&mut link, failure, &mut prelogin).await?;
                            self.release();
                            if cancelled {
                                // It costs none of its tries, so it gives no time either.
                                self.deadline = deadline;
                            }
                        }
                        Err(NotIn::Gone(reason)) => return Err(reason),
                    }
                    free_since = Instant::now();
                }
            }
        }
    }

    /// Counts what the state machine answered by itself.
    pub(super) fn tally(&self, prelogin: &mut PreLogin) {
        let tally = prelogin.take_tally();
        self.tell_of_bad_field(tally);
        count::tally(tally, &self.shared.metrics, &self.listener.metrics);
    }

    fn settings(&self) -> Settings {
        let config = &self.listener.config;
        let encryption = if self.client.tls {
            Encryption::Active
        } else if config.tls == TlsMode::Starttls {
            Encryption::Offered
        } else {
            Encryption::Absent
        };
        let limits = &self.config.limits;
        Settings {
            session: self.story.session,
            mechanisms: config.mechanisms.clone().into(),
            encryption,
            clear_login: config.allow_clear_login,
            tries: limits.login_tries,
            syntax_errors: limits.syntax_errors,
            bye_on_unavailable: limits.on_unavailable == OnUnavailable::Bye,
            id_trusted: self.is_trusted_proxy(),
        }
    }

    /// Answers a failed login. A wrong password is not answered before its time, so that
    /// guessing is slow and says nothing of which users exist.
    async fn refuse(
        &mut self,
        link: &mut Link,
        failure: Failure,
        prelogin: &mut PreLogin,
    ) -> Result<(), CloseReason> {
        self.tell_failed(&failure);
        if failure.answer.is_auth_failed() && !self.exempt {
            let until = self.held_since + self.config.limits.failed_login_delay;
            self.wait(link, until).await?;
        }
        let mut out = failure.untagged;
        let close = prelogin.login_failed(&failure.answer, &mut out);
        // The client's own time does not move: a login that costs none could go on for ever.
        let deadline = self.deadline;
        self.deadline = deadline.max(Instant::now() + WRITE_TIME);
        self.write(&mut link.stream, &out).await?;
        self.deadline = deadline;
        match close.map(CloseReason::from) {
            None => Ok(()),
            Some(reason) => {
                count::ending(reason, &self.shared.metrics.sessions);
                Err(part(&mut link.stream, reason).await)
            }
        }
    }

    fn join(self, link: Link, success: Success, attempt: &Attempt) -> Box<Joined> {
        let shard = Arc::clone(&success.backend.shard);
        let listed = shard.filter.filter_list(&success.answer.capabilities);
        let mut greeting = success.answer.untagged;
        answer::encode_login_ok(
            &attempt.tag,
            &listed,
            success.answer.text.as_bytes(),
            attempt.asked_capability,
            &mut greeting,
        );
        self.story.backend = Some((shard.name.clone(), success.backend.name().clone()));
        let pending_gauge =
            success.route_pending.then(|| self.shared.metrics.sessions.route_pending());
        Box::new(Joined {
            parts: Parts {
                client: link.stream,
                upstream: success.stream,
                client_rest: link.inbox.into_rest(),
                upstream_rest: success.leftover,
                greeting,
                tracker: Tracker::new(tracker::Settings {
                    check_literal_lines: success.backend.config.proxyauth
                        || changes_identity(&success.answer.capabilities),
                }),
                shard,
                live: success.live,
                parting: Parting::new(
                    Arc::clone(success.backend.cuts()),
                    self.config.upstream.disconnect_spread,
                ),
                metrics: Arc::clone(&self.shared.metrics),
                buffer_bytes: self.config.upstream.relay_buffer_bytes,
                idle: self.config.limits.idle,
            },
            permit: self.permit,
            place_at_listener: self.place_at_listener,
            backend_gauge: success.backend.metrics.session(),
            seat: success.seat,
            pending_gauge,
            backend: success.backend,
        })
    }

    /// Waits until then, while bytes of the client are kept and its end is noticed: one that
    /// sent no command behind its login has left.
    async fn wait(&mut self, link: &mut Link, until: Instant) -> Result<(), CloseReason> {
        while link.inbox.room() > 0 {
            match timeout_at(until, read_some(link)).await {
                Err(_) => return Ok(()),
                Ok(Ok(0)) if link.inbox.is_empty() => return Err(CloseReason::ClientClosed),
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(CloseReason::ClientReset),
            }
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    pub(super) async fn read(&mut self, link: &mut Link) -> Result<(), CloseReason> {
        // `timeout_at` looks at the clock last: a client that never pauses would outrun it.
        let in_time = async {
            if Instant::now() < self.deadline {
                timeout_at(self.deadline, read_some(link)).await.ok()
            } else {
                None
            }
        };
        let read = tokio::select! {
            read = in_time => read,
            order = self.place.cell.due() => {
                let bye = format!("* BYE {}\r\n", order.bye);
                self.deadline = Instant::now() + WRITE_TIME;
                self.write(&mut link.stream, bye.as_bytes()).await?;
                if order.reason == CloseReason::Crowded {
                    // It was silent, and others wait for its place.
                    return Err(order.reason);
                }
                return Err(part(&mut link.stream, order.reason).await);
            }
        };
        match read {
            Some(Ok(0)) => Err(self.reason_of_end(CloseReason::ClientClosed)),
            Some(Ok(_)) => {
                self.place.cell.heard(Instant::now());
                self.story.heard = true;
                Ok(())
            }
            Some(Err(_)) => Err(self.reason_of_end(CloseReason::ClientReset)),
            None => Err(self.end_late(link).await),
        }
    }

    async fn end_late(&mut self, link: &mut Link) -> CloseReason {
        count::ending(CloseReason::LoginDeadline, &self.shared.metrics.sessions);
        self.deadline = Instant::now() + WRITE_TIME;
        let bye = b"* BYE [UNAVAILABLE] You did not log in in time.\r\n";
        match self.write(&mut link.stream, bye).await {
            Ok(()) => part(&mut link.stream, CloseReason::LoginDeadline).await,
            Err(reason) => reason,
        }
    }

    /// A balancer's probe connects, perhaps reads the greeting, and leaves, by FIN or RST.
    fn reason_of_end(&self, reason: CloseReason) -> CloseReason {
        if self.story.heard { reason } else { CloseReason::Silent }
    }

    pub(super) async fn write(
        &mut self,
        stream: &mut Stream,
        bytes: &[u8],
    ) -> Result<(), CloseReason> {
        let work = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        let written = tokio::select! {
            // What can go out at once does, an order's BYE too.
            biased;
            written = timeout_at(self.deadline, work) => written,
            order = self.place.cell.due() => return Err(order.reason),
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.reason_of_end(CloseReason::ClientReset)),
            Err(_) => Err(CloseReason::LoginDeadline),
        }
    }

    fn client_error(&self, reason: &'static str) {
        self.shared.metrics.sessions.client_error(reason);
    }
}

/// Whether the backend knows a command that makes the session somebody else's: then the
/// tracker also looks inside literals, which such a server may run as commands.
fn changes_identity(capabilities: &[u8]) -> bool {
    let list = Capabilities::parse(capabilities);
    list.has("UNAUTHENTICATE") || list.has("X-UNAUTHENTICATE")
}
