//! What came from the peer and was not delivered yet.

use std::ops::Range;
use std::task::{Context, Poll, ready};
use std::{io, pin::Pin};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::net::pool::{self, Buffer};

/// Received bytes in one borrowed buffer: in front the plaintext that the reader had no
/// room for, behind it the records that are not complete. A record is longer than its
/// plaintext, so that the plaintext always fits where its record was.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    buffer: Option<Buffer>,
    plain: Range<usize>,
    records: Range<usize>,
    /// The beginning of a record while the session sleeps: the exact bytes, so that a
    /// peer who stops in the middle of a record costs no whole buffer.
    parked: Box<[u8]>,
}

impl Incoming {
    /// Whether plaintext waits for the reader.
    pub(super) fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// The received records; what the TLS library decrypts in place.
    pub(super) fn records_mut(&mut self) -> &mut [u8] {
        let range = self.records.clone();
        self.buffer.as_deref_mut().and_then(|buffer| buffer.get_mut(range)).unwrap_or_default()
    }

    /// Forgets that many bytes at the front of the records.
    pub(super) fn discard(&mut self, count: usize) {
        self.records.start = self.records.start.saturating_add(count).min(self.records.end);
    }

    /// Forgets all records: nothing behind the peer's last word counts.
    pub(super) fn discard_all(&mut self) {
        self.records.start = self.records.end;
        self.parked = Box::default();
    }

    /// Keeps plaintext of the record that was just discarded. `None` when it is longer
    /// than all that was discarded, which no record allows.
    pub(super) fn keep(&mut self, plain: &[u8]) -> Option<()> {
        if self.plain.is_empty() {
            self.plain = 0..0;
        }
        let end =
            self.plain.end.checked_add(plain.len()).filter(|&end| end <= self.records.start)?;
        self.buffer.as_deref_mut()?.get_mut(self.plain.end..end)?.copy_from_slice(plain);
        self.plain.end = end;
        Some(())
    }

    /// Gives kept plaintext to the reader, as much as it has room for.
    pub(super) fn deliver(&mut self, into: &mut ReadBuf<'_>) {
        let count = self.plain.len().min(into.remaining());
        let range = self.plain.start..self.plain.start.saturating_add(count);
        let plain = self.buffer.as_deref().and_then(|buffer| buffer.get(range));
        into.put_slice(plain.unwrap_or_default());
        self.plain.start = self.plain.start.saturating_add(count);
    }

    /// Reads once from the socket behind the records that are there. `Ok(0)` is the
    /// socket's end. Only called when no plaintext is kept. An error of kind
    /// `OutOfMemory` says that a single message fills the whole buffer.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
    ) -> Poll<io::Result<usize>> {
        let end = self.move_to_front();
        let buffer = self.buffer.get_or_insert_with(|| pool::borrow(pool::DEFAULT_BYTES));
        let window = buffer.get_mut(end..).unwrap_or_default();
        if window.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let mut window = ReadBuf::new(window);
        ready!(Pin::new(socket).poll_read(cx, &mut window))?;
        let count = window.filled().len();
        self.records = 0..end.saturating_add(count);
        Poll::Ready(Ok(count))
    }

    /// Moves the records to the buffer's front and says where they end there.
    fn move_to_front(&mut self) -> usize {
        let parked = std::mem::take(&mut self.parked);
        if !parked.is_empty() {
            let buffer = self.buffer.get_or_insert_with(|| pool::borrow(pool::DEFAULT_BYTES));
            if let Some(place) = buffer.get_mut(..parked.len()) {
                place.copy_from_slice(&parked);
            }
            self.records = 0..parked.len();
        }
        let count = self.records.len();
        if let Some(buffer) = &mut self.buffer
            && self.records.start > 0
            && self.records.end <= buffer.len()
        {
            buffer.copy_within(self.records.clone(), 0);
        }
        self.records = 0..count;
        count
    }

    /// Gives the buffer back when nothing is held in it.
    pub(super) fn rest(&mut self) {
        if self.plain.is_empty() && self.records.is_empty() {
            self.buffer = None;
            self.plain = 0..0;
            self.records = 0..0;
        }
    }

    /// Gives the buffer back before a sleep; the beginning of a record is put aside.
    pub(super) fn park(&mut self) {
        if self.plain.is_empty() && !self.records.is_empty() {
            let begun: Box<[u8]> = (&*self.records_mut()).into();
            self.parked = begun;
            self.records = 0..0;
        }
        self.rest();
    }

    /// Whether a buffer is borrowed.
    #[cfg(test)]
    pub(super) fn is_borrowing(&self) -> bool {
        self.buffer.is_some()
    }
}
