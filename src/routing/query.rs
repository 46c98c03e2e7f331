//! What a lookup is asked, and what it answers.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use crate::metrics::LookupSource;
use crate::names::{BackendId, Secret, ShardId, UserName};

/// One question to a lookup.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Whose shard is asked for, in canonical form: what every lookup goes by.
    pub user: &'a UserName,
    /// The name as the client typed it. Only for sources that hand it on.
    pub typed: &'a [u8],
    /// Who asks; none where no client does.
    pub client: Option<QueryClient<'a>>,
    /// The password, where the client gave one. Only sources whose answers
    /// [depend on it](RemoteSource::depends_on_password) are given it.
    pub password: Option<&'a Secret>,
}

impl<'a> Query<'a> {
    /// The question about a user that no client asks.
    pub fn of_user(user: &'a UserName) -> Self {
        Self { user, typed: user.as_str().as_bytes(), client: None, password: None }
    }
}

/// What is known of the client behind a question.
#[derive(Debug, Clone, Copy)]
pub struct QueryClient<'a> {
    /// Its address, by the PROXY header where there is one.
    pub remote: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    /// The name that it asked for in TLS (SNI).
    pub server_name: Option<&'a str>,
    /// Whether its leg is encrypted.
    pub tls: bool,
    /// Its TLS version, such as `TLSv1.3`, where this proxy ended TLS.
    pub tls_version: Option<&'a str>,
    /// IANA's name of its cipher suite, where this proxy ended TLS.
    pub tls_cipher: Option<&'a str>,
    /// Whether a PROXY header came with it.
    pub proxied: bool,
    /// Which login attempt on its connection this is, from 1.
    pub attempt: u32,
    /// The session's id.
    pub session: &'a str,
}

/// A question that outlives the login that asks it.
#[derive(Debug)]
pub(super) struct Question {
    user: UserName,
    typed: Vec<u8>,
    client: Option<OwnedClient>,
    password: Option<Secret>,
}

#[derive(Debug)]
struct OwnedClient {
    remote: SocketAddr,
    local: SocketAddr,
    server_name: Option<String>,
    tls: bool,
    tls_version: Option<String>,
    tls_cipher: Option<String>,
    proxied: bool,
    attempt: u32,
    session: String,
}

impl Question {
    /// A copy of the query; of the password only where it is asked for.
    pub(super) fn of(query: &Query<'_>, with_password: bool) -> Self {
        Self {
            user: query.user.clone(),
            typed: query.typed.to_vec(),
            client: query.client.map(|client| OwnedClient {
                remote: client.remote,
                local: client.local,
                server_name: client.server_name.map(str::to_owned),
                tls: client.tls,
                tls_version: client.tls_version.map(str::to_owned),
                tls_cipher: client.tls_cipher.map(str::to_owned),
                proxied: client.proxied,
                attempt: client.attempt,
                session: client.session.to_owned(),
            }),
            password: query.password.filter(|_| with_password).cloned(),
        }
    }

    pub(super) fn query(&self) -> Query<'_> {
        Query {
            user: &self.user,
            typed: &self.typed,
            client: self.client.as_ref().map(|client| QueryClient {
                remote: client.remote,
                local: client.local,
                server_name: client.server_name.as_deref(),
                tls: client.tls,
                tls_version: client.tls_version.as_deref(),
                tls_cipher: client.tls_cipher.as_deref(),
                proxied: client.proxied,
                attempt: client.attempt,
                session: &client.session,
            }),
            password: self.password.as_ref(),
        }
    }
}

/// What a source knows of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The shard. One that is not configured makes the answer unusable.
    pub shard: ShardId,
    /// Whether the shard is that of a host which the source names: with other backends it may
    /// be another one.
    pub by_host: bool,
    /// The one backend of the shard that new sessions go to, where the source names a host.
    pub backend: Option<BackendId>,
    /// Another identity for joining, limits, kick and logs, in canonical form.
    pub user: Option<UserName>,
    /// What the choice among the shard's backends goes by, where it is not the user.
    pub routing_key: Option<UserName>,
    /// What signs in to the backend in place of what the client sent.
    pub login: Option<Login>,
    /// Longest wait for a connection to the backend, where it is not the configured one.
    pub connect_timeout: Option<Duration>,
    /// The login waits until then.
    pub not_before: Option<SystemTime>,
    /// Whether the answer holds for other logins of the user too. False for one that carries
    /// credentials, or that holds for a moment only.
    pub may_cache: bool,
}

impl Found {
    /// A user of that shard, of whom nothing else is known.
    pub fn on(shard: ShardId) -> Self {
        Self {
            shard,
            by_host: false,
            backend: None,
            user: None,
            routing_key: None,
            login: None,
            connect_timeout: None,
            not_before: None,
            may_cache: true,
        }
    }
}

/// What signs in to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user, as the source told it; without NUL, CR and LF.
    pub user: Vec<u8>,
    /// The password, where it is not the client's. Only from a source that has checked the
    /// client's.
    pub password: Option<Secret>,
}

/// How a client is told that a source refused its login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// How long the client waits for the answer.
    pub wait: Duration,
    /// The source's own words for it, where the operator lets clients see them.
    pub words: Option<String>,
}

/// Why a source could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// No answer in time.
    Timeout,
    /// No connection, or it broke; TLS and signing in to the source included.
    Connect,
    /// What came is no answer by the protocol, or says that the source is out of order.
    Protocol,
    /// The answer is longer than any can be.
    TooLarge,
    /// The answer names a shard that is not configured.
    UnknownShard,
    /// The answer names a host that is no configured backend.
    UnknownBackend,
    /// A field of the answer is missing or has no meaning.
    BrokenRow,
    /// It answers for a client and its password only, and there is none.
    NeedsClient,
    /// The source knows that this login must not be.
    Refused,
    /// The source says that the login may be later.
    TryLater,
    /// Too many lookups are under way.
    Busy,
    /// It is not asked for a while, since it failed too often.
    BreakerOpen,
    /// The login that asked is over.
    Abandoned,
    /// The lookup ended without an answer: a fault of the proxy.
    Stopped,
}

impl FailureReason {
    /// The reason of the failed login, from a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Timeout => "lookup_timeout",
            Self::Connect => "lookup_connect",
            Self::Protocol => "lookup_protocol",
            Self::TooLarge => "lookup_too_large",
            Self::UnknownShard => "lookup_unknown_shard",
            Self::UnknownBackend => "lookup_unknown_backend",
            Self::BrokenRow => "lookup_broken_row",
            Self::NeedsClient => "lookup_needs_client",
            Self::Refused => "lookup_refused",
            Self::TryLater => "lookup_try_later",
            Self::Busy => "lookup_busy",
            Self::BreakerOpen => "lookup_breaker_open",
            Self::Abandoned => "lookup_abandoned",
            Self::Stopped => "lookup_stopped",
        }
    }

    /// Whether the question or answer about one user is at fault, not the source: other users
    /// are served, and this one's former answer, or another lookup's, may be wrong by now.
    pub const fn is_about_the_user(self) -> bool {
        matches!(
            self,
            Self::TooLarge
                | Self::UnknownShard
                | Self::UnknownBackend
                | Self::BrokenRow
                | Self::NeedsClient
                | Self::Refused
                | Self::TryLater
        )
    }
}

/// A lookup that came to nothing: neither found nor missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct SourceFailure {
    /// What kind of failure.
    pub reason: FailureReason,
    /// What an operator needs to know; no secret, no user name.
    pub detail: String,
    /// With [`FailureReason::Refused`]: how the client is told.
    pub refusal: Refusal,
}

impl SourceFailure {
    /// A failure, told in one line for the log.
    pub fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), refusal: Refusal::default() }
    }
}

/// What a source says: the user's place, or that it does not know the user.
pub type SourceResult = Result<Option<Found>, SourceFailure>;

/// An answer on its way.
pub type Pending<'a> = Pin<Box<dyn Future<Output = SourceResult> + Send + 'a>>;

/// A lookup whose answers take time: what [`Guarded`](super::lookup::Guarded) keeps from
/// hurting the logins. It runs on the runtime of the lookups, never on a worker's, and is
/// dropped when its time is over.
pub trait RemoteSource: fmt::Debug + Send + Sync + 'static {
    /// What kind of lookup it is.
    fn label(&self) -> LookupSource;

    /// Whether answers depend on the password, or on anything else than the user's canonical
    /// name: then each login asks for itself and nothing is cached.
    fn depends_on_password(&self) -> bool {
        false
    }

    /// Asks once. How long it may take is the caller's matter.
    fn lookup<'a>(&'a self, query: &'a Query<'a>) -> Pending<'a>;
}
