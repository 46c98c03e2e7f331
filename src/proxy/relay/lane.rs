//! One direction of a relayed session: what was read, what of it still has to be
//! written, and nothing while the session sleeps.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::pool::{self, Buffer};
use crate::net::stream::Stream;

/// A stretch of bytes to write.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Bytes of the read buffer, unchanged.
    Input(Range<usize>),
    /// Bytes of `own`: held back earlier, or said by the proxy.
    Own(Range<usize>),
}

/// The bytes between one reader and one writer. The buffer is borrowed from the
/// worker's pool while bytes are there; a sleeping lane holds none.
#[derive(Debug, Default)]
pub(super) struct Lane {
    buffer: Option<Buffer>,
    /// Bytes of the buffer that were read.
    filled: usize,
    /// Bytes of the buffer that the tracker has taken.
    scanned: usize,
    pieces: VecDeque<Piece>,
    own: Vec<u8>,
    /// Whether the writer still has bytes of ours below the stream's surface (TLS).
    flushing: bool,
    /// Bytes written so far.
    pub(super) written: u64,
    /// How many of them have been counted.
    counted: u64,
}

/// A lane's buffer while it is scanned.
#[derive(Debug)]
pub(super) struct Lent {
    buffer: Buffer,
    from: usize,
    to: usize,
}

impl Lent {
    /// Where the unscanned bytes begin in the buffer.
    pub(super) fn base(&self) -> usize {
        self.from
    }

    /// The unscanned bytes.
    pub(super) fn input(&self) -> &[u8] {
        self.buffer.get(self.from..self.to).unwrap_or_default()
    }
}

impl Lane {
    /// Whether nothing waits to be written or flushed.
    pub(super) fn is_clear(&self) -> bool {
        self.pieces.is_empty() && !self.flushing
    }

    /// Whether bytes were read that the tracker has not taken.
    pub(super) fn has_unscanned(&self) -> bool {
        self.scanned < self.filled
    }

    /// Lends the buffer to a scan of what is not scanned yet, so that the scan can
    /// queue pieces of it meanwhile.
    pub(super) fn lend(&mut self) -> Option<Lent> {
        if !self.has_unscanned() {
            return None;
        }
        let from = self.scanned;
        let to = self.filled;
        self.buffer.take().map(|buffer| Lent { buffer, from, to })
    }

    /// Takes the buffer back; the scan took that many bytes.
    pub(super) fn take_back(&mut self, lent: Lent, taken: usize) {
        self.scanned = (lent.from + taken).min(self.filled);
        self.buffer = Some(lent.buffer);
    }

    /// Queues bytes of the read buffer; neighbours become one piece.
    pub(super) fn pass(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if let Some(Piece::Input(last)) = self.pieces.back_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        self.pieces.push_back(Piece::Input(range));
    }

    /// Queues bytes that are not in the read buffer.
    pub(super) fn insert(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.own.len();
        self.own.extend_from_slice(bytes);
        let end = self.own.len();
        if let Some(Piece::Own(last)) = self.pieces.back_mut() {
            last.end = end;
            return;
        }
        self.pieces.push_back(Piece::Own(start..end));
    }

    /// Bytes written since this was last asked.
    pub(super) fn newly_written(&mut self) -> u64 {
        let fresh = self.written - self.counted;
        self.counted = self.written;
        fresh
    }

    /// Forgets all that was read and not written.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.flushing = false;
        self.scanned = self.filled;
        self.give_back();
    }

    /// Puts bytes into the lane as if they had been read: what a peer sent behind the
    /// login. At most a buffer's length; more is the caller's mistake and cut off, so
    /// the caller checks.
    pub(super) fn preload(&mut self, bytes: &[u8], buffer_bytes: usize) {
        if bytes.is_empty() {
            return;
        }
        let mut buffer = pool::borrow(buffer_bytes.max(bytes.len()));
        if let Some(place) = buffer.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.filled = bytes.len();
        self.buffer = Some(buffer);
    }

    /// Reads once into a buffer of the pool. Only called when the last read is wholly
    /// scanned and written. `Ok(0)` is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        buffer_bytes: usize,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = self.buffer.take().unwrap_or_else(|| pool::borrow(buffer_bytes));
        let mut window = ReadBuf::new(&mut buffer);
        let polled = Pin::new(from).poll_read(cx, &mut window);
        let count = window.filled().len();
        match polled {
            Poll::Ready(Ok(())) if count > 0 => {
                self.filled = count;
                self.scanned = 0;
                self.buffer = Some(buffer);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(0)),
            // TLS without a last word. IMAP says itself where it ends, and many just close.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what is queued and flushes it. Ready when nothing is left.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while let Some(piece) = self.pieces.front_mut() {
            let (range, source): (&mut Range<usize>, &[u8]) = match piece {
                Piece::Input(range) => (range, self.buffer.as_deref().unwrap_or_default()),
                Piece::Own(range) => (range, &self.own),
            };
            let bytes = source.get(range.clone()).unwrap_or_default();
            let count = ready!(Pin::new(&mut *to).poll_write(cx, bytes))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.flushing = true;
            self.written = self.written.saturating_add(u64::try_from(count).unwrap_or(0));
            range.start += count;
            if range.start >= range.end {
                self.pieces.pop_front();
            }
        }
        if self.flushing {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.flushing = false;
        }
        self.give_back();
        Poll::Ready(Ok(()))
    }

    /// Gives the buffers back when nothing in them is needed.
    fn give_back(&mut self) {
        if self.pieces.is_empty() {
            if self.own.capacity() > 0 {
                self.own = Vec::new();
            }
            if self.scanned >= self.filled {
                self.buffer = None;
                self.filled = 0;
                self.scanned = 0;
            }
        }
    }
}
