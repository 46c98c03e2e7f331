//! Reaching one backend and logging in there: TCP, PROXY header, TLS, greeting, login.
//!
//! In two steps, because between them the caller confirms with the registry that the
//! user still belongs to this backend: [`open`] goes up to the moment before the
//! credentials are sent, [`Opened::log_in`] sends them.

mod connect;
mod error;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use self::connect::connect;
pub use self::error::DialError;
use crate::config::{Forward, Silence, TlsMode};
use crate::names::Secret;
use crate::net::proxy_header::{self, Addresses, ProxyHeader, ProxyTls};
use crate::net::sockets;
use crate::net::stream::Stream;
use crate::protocol::capability::Capabilities;
use crate::upstream::backends::Backend;
use crate::upstream::conversation::Conversation;
use crate::upstream::login::{Approach, Greeting, Leg, LoggedIn, Login, LoginError, Plan, Step};
use crate::upstream::warm::Taken;

/// A connection to a backend on which a login may begin.
#[derive(Debug)]
pub(super) struct Greeted {
    conversation: Conversation,
    greeting: Greeting,
    /// How long TCP and TLS took; `None` where they were done ahead.
    connect: Option<Duration>,
    /// Since when this login waits for the backend on a connection that stands.
    connected: Instant,
}

/// A connection to a backend, ready for the credentials.
#[derive(Debug)]
pub struct Opened {
    conversation: Conversation,
    login: Login,
    credentials: Secret,
    deadline: Instant,
    /// Waited for the backend since the credentials.
    auth: Duration,
    /// How long TCP and TLS took; `None` on a warm connection.
    pub connect: Option<Duration>,
    /// How long the backend took from there until it was ready for credentials.
    pub greeting: Duration,
}

/// A session at a backend.
#[derive(Debug)]
pub struct Joined {
    /// The connection.
    pub stream: Stream,
    /// Bytes the backend sent behind its answer; they belong to the client.
    pub leftover: Vec<u8>,
    /// The backend's answer.
    pub answer: LoggedIn,
    /// From the credentials to the answer, the client's own time in an exchange left out.
    pub auth: Duration,
}

/// What a backend says to a login.
#[derive(Debug)]
pub enum Turn {
    /// It took it.
    Joined(Joined),
    /// It asks the client.
    Challenge(Box<Challenged>),
}

/// A login in which the client has the word.
#[derive(Debug)]
pub struct Challenged {
    opened: Opened,
    since: Instant,
    /// What the backend says, base64 taken off.
    pub challenge: Secret,
}

/// A login whose credentials were sent and that did not go well.
#[derive(Debug)]
pub struct Lost {
    /// Why.
    pub error: DialError,
    /// The connection, on which the backend may yet show its end.
    pub socket: TcpStream,
}

/// What is told of the client's connection where the backend wants a PROXY header.
#[derive(Debug, Clone)]
pub struct ClientAddresses {
    /// The client's address and port.
    pub remote: SocketAddr,
    /// The address and port it connected to.
    pub local: SocketAddr,
    /// The name it asked for in TLS (SNI).
    pub server_name: Option<String>,
    /// Whether its leg is encrypted.
    pub tls: bool,
    /// Its TLS version, such as `TLSv1.3`, where this proxy ended TLS.
    pub tls_version: Option<&'static str>,
    /// IANA's name of its cipher suite, where this proxy ended TLS.
    pub tls_cipher: Option<&'static str>,
    /// Whether a PROXY header came with it.
    pub proxied: bool,
    /// The session's id.
    pub session: String,
}

/// Whom a connection is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// A client.
    Client(&'a ClientAddresses),
    /// The proxy itself: a PROXY header says LOCAL.
    Proxy,
}

/// Bounds in time on one dial.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of all up to the credentials.
    pub ready: Instant,
    /// Of the whole login.
    pub login: Instant,
    /// Of the system at the other end, from then on.
    pub silence: Silence,
}

/// Connects to the backend and goes on until the next thing to send are the credentials.
pub async fn open(
    backend: &Backend,
    (tag_prefix, plan): (String, Plan),
    client: &ClientAddresses,
    bounds: Bounds,
) -> Result<Opened, DialError> {
    let work = async {
        if let Some(greeted) = take_warm(backend) {
            match greeted.begin(plan.clone(), bounds.login).await {
                // The backend tired of it just now; of the client it has seen an ID at most.
                Err(error) if error.is_end() => {}
                result => return result,
            }
        }
        let origin = Origin::Client(client);
        let greeted = greet(backend, origin, tag_prefix, (bounds.ready, bounds.silence)).await?;
        greeted.begin(plan, bounds.login).await
    };
    timeout_at(bounds.ready, work).await.map_err(|_| DialError::Timeout)?
}

/// A warm connection of the backend, where it has one that is alive.
fn take_warm(backend: &Backend) -> Option<Greeted> {
    let pool = backend.warm()?;
    let (greeted, result) = match pool.take(Instant::now()) {
        Taken::Ready(greeted) => (Some(*greeted), "hit"),
        Taken::Empty => (None, "empty"),
        Taken::Stale => (None, "stale"),
    };
    backend.metrics.looked_for_warm(result);
    greeted
}

/// Connects and goes as far as the backend's TLS where it comes first. The caller bounds the
/// whole; `deadline` is for sharing the time among the backend's addresses.
pub(super) async fn reach(
    backend: &Backend,
    origin: Origin<'_>,
    deadline: Instant,
    silence: Silence,
) -> Result<Conversation, DialError> {
    let mut tcp = connect(backend, deadline).await?;
    sockets::tune(&tcp, silence)?;
    if backend.config.forward == Forward::ProxyV2 {
        tcp.write_all(&announcement(origin)).await?;
    }
    let stream = match backend.config.tls {
        TlsMode::Implicit => backend.tls.as_ref().ok_or(DialError::NoTls)?.connect(tcp).await?,
        TlsMode::Starttls | TlsMode::None => Stream::Plain(tcp),
    };
    Ok(Conversation::new(stream))
}

/// Connects and goes on until a login could begin. The caller bounds the whole.
pub(super) async fn greet(
    backend: &Backend,
    origin: Origin<'_>,
    tag_prefix: String,
    (deadline, silence): (Instant, Silence),
) -> Result<Greeted, DialError> {
    let start = Instant::now();
    let mut conversation = reach(backend, origin, deadline, silence).await?;
    let connected = Instant::now();
    let leg = Leg { tls: backend.config.tls, pipelining: backend.config.pipelining, tag_prefix };
    let mut greeting = Greeting::new(leg);
    loop {
        let line = conversation.line().await?;
        let step = greeting.on_line(line.text(conversation.inbox()))?;
        conversation.take(&line);
        match step {
            Approach::Read => {}
            Approach::Send(bytes) => conversation.send(&bytes).await?,
            Approach::StartTls => {
                conversation = conversation.secure(backend.tls.as_ref()).await?;
                conversation.send(&greeting.secured()).await?;
            }
            Approach::Ready => break,
        }
    }
    Ok(Greeted { conversation, greeting, connect: Some(connected - start), connected })
}

impl Greeted {
    /// What the backend lists before a login.
    pub(super) fn capabilities(&self) -> Option<&Capabilities> {
        self.greeting.capabilities()
    }

    /// How long TCP and TLS took.
    pub(super) fn connect_time(&self) -> Duration {
        self.connect.unwrap_or_default()
    }

    /// Where it leads.
    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        self.conversation.peer_address()
    }

    /// Whether the backend has sent nothing behind its greeting and has not ended.
    pub(super) fn is_at_rest(&self) -> bool {
        self.conversation.is_at_rest()
    }

    /// The same connection on the runtime of the caller, for a login that begins now; `None`
    /// where the backend has ended it, or has said something meanwhile, which is how an end
    /// begins.
    pub(super) fn moved_here(self) -> Option<Self> {
        if !self.is_at_rest() {
            return None;
        }
        let Self { conversation, greeting, .. } = self;
        let conversation = conversation.moved_here()?;
        Some(Self { conversation, greeting, connect: None, connected: Instant::now() })
    }

    /// The connection, for who does not log in.
    pub(super) fn into_conversation(self) -> Conversation {
        self.conversation
    }

    /// Goes on until the next thing to send are the credentials. The caller bounds it;
    /// `deadline` is that of the whole login.
    pub(super) async fn begin(self, plan: Plan, deadline: Instant) -> Result<Opened, DialError> {
        let Self { mut conversation, greeting, connect, connected } = self;
        let mut login = Login::new(greeting, plan);
        let mut step = login.begin()?;
        let credentials = loop {
            match step {
                Step::Read => {}
                Step::Send(bytes) if login.credentials_sent() => break bytes,
                Step::Send(bytes) => conversation.send(bytes.expose()).await?,
                Step::Done(_) | Step::Challenge(_) => {
                    let what = "a login without credentials";
                    return Err(LoginError::Protocol { what }.into());
                }
            }
            step = next_step(&mut conversation, &mut login).await?;
        };
        let greeting = connected.elapsed();
        let auth = Duration::ZERO;
        Ok(Opened { conversation, login, credentials, deadline, auth, connect, greeting })
    }
}

/// Reads the backend's next line and hands it to the login.
async fn next_step(conversation: &mut Conversation, login: &mut Login) -> Result<Step, DialError> {
    let line = conversation.line().await?;
    let step = login.on_line(line.text(conversation.inbox()))?;
    conversation.take(&line);
    Ok(step)
}

impl Opened {
    /// Sends the credentials, or the first message of an exchange, and waits for what the
    /// backend says to it.
    pub async fn log_in(mut self) -> Result<Turn, Box<Lost>> {
        let credentials = std::mem::take(&mut self.credentials);
        self.say(&credentials).await
    }

    async fn say(mut self, bytes: &Secret) -> Result<Turn, Box<Lost>> {
        let start = Instant::now();
        let work = converse(&mut self.conversation, &mut self.login, bytes);
        let said = timeout_at(self.deadline, work).await.unwrap_or(Err(DialError::Timeout));
        self.auth += start.elapsed();
        match said {
            Ok(Word::Challenge(challenge)) => {
                let challenged = Challenged { opened: self, since: Instant::now(), challenge };
                Ok(Turn::Challenge(Box::new(challenged)))
            }
            Ok(Word::Taken(answer)) => {
                let (stream, leftover) = self.conversation.into_parts();
                Ok(Turn::Joined(Joined { stream, leftover, answer, auth: self.auth }))
            }
            Err(error) => Err(Box::new(self.lost(error))),
        }
    }

    fn lost(self, error: DialError) -> Lost {
        Lost { error, socket: self.conversation.into_parts().0.into_tcp() }
    }
}

/// A backend's word in a login that goes well.
enum Word {
    Challenge(Secret),
    Taken(LoggedIn),
}

/// Says something of a login and goes on until the backend's word on it.
async fn converse(
    conversation: &mut Conversation,
    login: &mut Login,
    bytes: &Secret,
) -> Result<Word, DialError> {
    conversation.send(bytes.expose()).await?;
    loop {
        match next_step(conversation, login).await? {
            Step::Read => {}
            Step::Send(bytes) => conversation.send(bytes.expose()).await?,
            Step::Challenge(challenge) => return Ok(Word::Challenge(challenge)),
            Step::Done(answer) => return Ok(Word::Taken(answer)),
        }
    }
}

impl Challenged {
    /// Passes the client's message on and waits for what the backend says to it.
    pub async fn answer(self: Box<Self>, message: &Secret) -> Result<Turn, Box<Lost>> {
        let mut opened = self.resumed();
        let line = opened.login.answer(message);
        opened.say(&line).await
    }

    /// Tells the backend that the client gave up, waits for its word and leaves. Gives what
    /// became of it; [`LoginError::Cancelled`] is how it should be.
    pub async fn cancel(self: Box<Self>) -> Lost {
        let mut opened = self.resumed();
        let line = opened.login.cancel();
        let what = "a login in spite of the client";
        match opened.say(&line).await {
            Err(lost) => *lost,
            Ok(Turn::Joined(joined)) => Lost {
                error: LoginError::Protocol { what }.into(),
                socket: joined.stream.into_tcp(),
            },
            Ok(Turn::Challenge(again)) => again.opened.lost(LoginError::Protocol { what }.into()),
        }
    }

    /// The login's deadline is the backend's: it does not run while the client thinks.
    fn resumed(self: Box<Self>) -> Opened {
        let deadline = self.opened.deadline + self.since.elapsed();
        Opened { deadline, ..self.opened }
    }
}

fn announcement(origin: Origin<'_>) -> Vec<u8> {
    let header = match origin {
        Origin::Client(client) => ProxyHeader {
            addresses: Some(Addresses::new(client.remote, client.local)),
            tls: client.tls.then_some(ProxyTls::WITHOUT_CERTIFICATE),
            authority: client.server_name.clone(),
            alpn: None,
            unique_id: Some(client.session.clone().into_bytes()),
        },
        Origin::Proxy => ProxyHeader::default(),
    };
    let mut out = Vec::with_capacity(128);
    proxy_header::encode_v2(&header, &mut out);
    out
}
