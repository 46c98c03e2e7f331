//! Turns the tracker's events into metrics, and its byte ranges into lane pieces.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::{CommandStatus, Direction, Metrics, SessionGauge};
use crate::protocol::command_kind::CommandKind;
use crate::proxy::relay::lane::Lane;
use crate::session::tracker::{Event, Sink, Status};
use crate::upstream::backends::Shard;

/// What a session's events are counted in.
#[derive(Debug)]
pub(super) struct Observer {
    shard: Arc<Shard>,
    metrics: Arc<Metrics>,
    idle: Option<SessionGauge>,
    opaque: Option<SessionGauge>,
    /// Commands answered so far.
    pub(super) commands: u64,
    /// Whether a LOGOUT was answered with OK.
    pub(super) logged_out: bool,
    /// Whether the client waits for an answer of the proxy's own that can no more be
    /// given, because the server broke the framing.
    pub(super) answer_lost: bool,
}

impl Observer {
    pub(super) fn new(shard: Arc<Shard>, metrics: Arc<Metrics>) -> Self {
        Self {
            shard,
            metrics,
            idle: None,
            opaque: None,
            commands: 0,
            logged_out: false,
            answer_lost: false,
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Bytes went on.
    pub(super) fn relayed(&self, direction: Direction, bytes: u64) {
        if bytes > 0 {
            self.shard.metrics.relayed(direction, bytes);
        }
    }

    /// The client's side could not be followed any further.
    pub(super) fn client_error(&self, reason: &'static str) {
        self.metrics.sessions.client_error(reason);
    }

    fn observe(&mut self, event: &Event) {
        match event {
            Event::Finished { kind, status, elapsed, first_byte } => {
                self.commands += 1;
                self.logged_out |= *kind == CommandKind::Logout;
                let handles = &self.shard.metrics;
                let elapsed = elapsed.map(Duration::from_nanos);
                handles.command_finished(*kind, label_of(*status), elapsed);
                if let Some(first_byte) = first_byte {
                    handles.first_byte(*kind, Duration::from_nanos(*first_byte));
                }
            }
            Event::IdleStarted => self.idle = Some(self.metrics.sessions.idle()),
            Event::IdleEnded => self.idle = None,
            Event::TurnedOpaque { answer_lost, .. } => {
                self.opaque = Some(self.metrics.sessions.opaque());
                self.answer_lost |= *answer_lost;
            }
            Event::Refused => self.metrics.sessions.client_error("forbidden_command"),
            Event::NoCommand => self.metrics.sessions.client_error("syntax"),
            Event::ServerBye => {}
        }
    }
}

fn label_of(status: Status) -> CommandStatus {
    match status {
        Status::Ok => CommandStatus::Ok,
        Status::No => CommandStatus::No,
        Status::Bad => CommandStatus::Bad,
    }
}

/// Takes what the tracker says of one stretch of input.
pub(super) struct Output<'a> {
    /// Where the bytes go.
    pub(super) lane: &'a mut Lane,
    /// Offset of the stretch in the lane's buffer.
    pub(super) base: usize,
    /// Who counts.
    pub(super) observer: &'a mut Observer,
}

impl Sink for Output<'_> {
    fn pass(&mut self, range: Range<usize>) {
        self.lane.pass(range.start + self.base..range.end + self.base);
    }

    fn insert(&mut self, bytes: &[u8]) {
        self.lane.insert(bytes);
    }

    fn event(&mut self, event: Event) {
        self.observer.observe(&event);
    }
}
