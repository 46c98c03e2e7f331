//! One peer of a relayed session: its connection, and how far each direction has ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::net::stream::Stream;
use crate::proxy::relay::lane::Lane;

/// One side's reading half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Open,
    /// Bytes are read and thrown away, so that the peer's end is seen.
    Discarding,
    Ended,
}

/// One side's writing half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    Open,
    /// To be shut as soon as what is queued has gone.
    Closing,
    Shut,
}

/// One peer of the session.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) stream: Stream,
    pub(super) reading: Reading,
    pub(super) writing: Writing,
    /// When waiting for its end is given up, once that began.
    pub(super) until: Option<Instant>,
}

impl Side {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, reading: Reading::Open, writing: Writing::Open, until: None }
    }

    /// Shuts the writing half when what was queued has gone.
    pub(super) fn poll_shut(&mut self, cx: &mut Context<'_>, lane: &Lane) -> bool {
        if self.writing != Writing::Closing || !lane.is_clear() {
            return false;
        }
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Pending => false,
            Poll::Ready(_) => {
                self.writing = Writing::Shut;
                true
            }
        }
    }

    pub(super) fn close_after_queued(&mut self) {
        if self.writing == Writing::Open {
            self.writing = Writing::Closing;
        }
    }

    pub(super) fn discard(&mut self) {
        if self.reading == Reading::Open {
            self.reading = Reading::Discarding;
        }
    }
}
