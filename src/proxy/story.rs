//! What is told of a session: one log line at its end.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::names::{BackendId, SessionId, ShardId, UserName};
use crate::proxy::orders::CloseReason;
use crate::proxy::relay::End;
use crate::proxy::shared::Shared;

/// The facts of one session, gathered while it lasts.
#[derive(Debug)]
pub(super) struct Story {
    /// Its id.
    pub(super) session: SessionId,
    /// The id that a trusted proxy in front gave it.
    pub(super) outer_session: Option<String>,
    /// Where it came in.
    pub(super) listener: String,
    /// The client's address, by the PROXY header where there is one.
    pub(super) remote: SocketAddr,
    /// When it was accepted.
    pub(super) start: Instant,
    /// The protocol version of the client's TLS.
    pub(super) tls: Option<&'static str>,
    /// The user of the last login attempt.
    pub(super) user: Option<UserName>,
    /// How the last login attempt ended.
    pub(super) login: Option<&'static str>,
    /// Whether the client said anything at all.
    pub(super) heard: bool,
    /// Where the session was.
    pub(super) backend: Option<(ShardId, BackendId)>,
    /// How the relay ended, where there was one.
    pub(super) end: Option<End>,
}

impl Story {
    /// A session that begins.
    pub(super) fn new(
        session: SessionId,
        listener: &str,
        remote: SocketAddr,
        start: Instant,
    ) -> Self {
        let listener = listener.to_owned();
        Self {
            session,
            outer_session: None,
            listener,
            remote,
            start,
            tls: None,
            user: None,
            login: None,
            heard: false,
            backend: None,
            end: None,
        }
    }

    /// Writes the line and counts the end. Silent probes of balancers are counted only.
    pub(super) fn tell(&self, reason: CloseReason, shared: &Shared) {
        shared.metrics.sessions.closed(reason.label());
        if reason == CloseReason::Silent {
            return;
        }
        let seconds = round_to_millis(self.start.elapsed());
        let end = self.end.as_ref();
        let backend = self.backend.as_ref();
        tracing::info!(
            session = %self.session,
            outer_session = self.outer_session,
            listener = self.listener,
            remote_address = %self.remote.ip().to_canonical(),
            remote_port = self.remote.port(),
            tls = self.tls,
            login = self.login,
            shard = backend.map(|(shard, _)| shard.as_str()),
            backend = backend.map(|(_, backend)| backend.as_str()),
            reason = reason.label(),
            seconds,
            commands = end.map(|end| end.commands),
            bytes_to_client = end.map(|end| end.to_client_bytes),
            bytes_to_backend = end.map(|end| end.to_upstream_bytes),
            // Last, so that no user name can be taken for another field.
            user = self.user.as_ref().map(|user| shared.telemetry.user(user)),
            "session ended"
        );
    }
}

fn round_to_millis(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1000.0).round() / 1000.0
}
