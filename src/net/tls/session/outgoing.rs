//! Encrypted bytes that wait for the socket.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::net::pool::{self, Buffer};

/// Encrypted bytes in one borrowed buffer, which is given back when all are sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    buffer: Option<Buffer>,
    waiting: Range<usize>,
}

impl Outgoing {
    /// How many bytes can still be queued.
    pub(super) fn room(&self) -> usize {
        pool::DEFAULT_BYTES.saturating_sub(self.waiting.end)
    }

    /// The place for more bytes, behind those that wait.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let buffer = self.buffer.get_or_insert_with(|| pool::borrow(pool::DEFAULT_BYTES));
        buffer.get_mut(self.waiting.end..).unwrap_or_default()
    }

    /// Queues that many bytes of [`Self::space`].
    pub(super) fn wrote(&mut self, count: usize) {
        self.waiting.end = self.waiting.end.saturating_add(count).min(pool::DEFAULT_BYTES);
    }

    /// Sends all that waits.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let count = ready!(Pin::new(&mut *socket).poll_write(cx, self.bytes()))?;
            self.sent(count)?;
        }
        self.rest();
        Poll::Ready(Ok(()))
    }

    /// Sends what the socket takes at once. Nobody is woken for the rest, it goes out
    /// with the next write; nor are errors reported, the next write meets them again.
    pub(super) fn try_drain(&mut self, socket: &TcpStream) {
        while !self.waiting.is_empty() {
            let sent = socket.try_write(self.bytes()).and_then(|count| self.sent(count));
            if sent.is_err() {
                return;
            }
        }
        self.rest();
    }

    fn bytes(&self) -> &[u8] {
        let range = self.waiting.clone();
        self.buffer.as_deref().and_then(|buffer| buffer.get(range)).unwrap_or_default()
    }

    fn sent(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.waiting.start = self.waiting.start.saturating_add(count).min(self.waiting.end);
        Ok(())
    }

    fn rest(&mut self) {
        self.buffer = None;
        self.waiting = 0..0;
    }

    /// Whether a buffer is borrowed.
    #[cfg(test)]
    pub(super) fn is_borrowing(&self) -> bool {
        self.buffer.is_some()
    }
}
