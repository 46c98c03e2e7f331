//! The client's bytes before login: bounded, and wiped as they are used up.

use zeroize::Zeroize;

/// Bytes that came and were not used yet, oldest first. Used bytes are overwritten with
/// zeros, also when the buffer moves or is dropped: they may have been a password.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    used: usize,
}

impl Inbox {
    /// Most bytes held: one whole command, or what is pipelined behind a login.
    pub const BYTES_MAX: usize = 65_536;

    /// An empty inbox; it owns no memory until bytes come.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), used: 0 }
    }

    /// How many more bytes may be pushed. While this is 0, the caller must not read.
    pub fn room(&self) -> usize {
        Self::BYTES_MAX.saturating_sub(self.unread().len())
    }

    /// Takes bytes in, at most [`Self::room`]; gives how many were taken.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let part = bytes.get(..self.room()).unwrap_or(bytes);
        if self.bytes.len().saturating_add(part.len()) > self.bytes.capacity() {
            self.make_room(part.len());
        }
        self.bytes.extend_from_slice(part);
        part.len()
    }

    /// The bytes not used yet.
    pub fn unread(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.unread().is_empty()
    }

    /// Uses up the first bytes and wipes them.
    pub fn consume(&mut self, count: usize) {
        let end = self.used.saturating_add(count).min(self.bytes.len());
        self.bytes.get_mut(self.used..end).unwrap_or_default().zeroize();
        self.used = end;
        if self.used == self.bytes.len() {
            self.bytes.clear();
            self.used = 0;
        }
    }

    /// The bytes behind the login, in order, for the backend.
    pub fn into_rest(self) -> Vec<u8> {
        self.unread().to_vec()
    }

    /// Moves what is unread to a fresh buffer, since growing in place would leave a copy.
    fn make_room(&mut self, more: usize) {
        const LEAST: usize = 512;
        let needed = self.unread().len().saturating_add(more);
        let mut fresh = Vec::with_capacity(needed.next_power_of_two().max(LEAST));
        fresh.extend_from_slice(self.unread());
        self.bytes.zeroize();
        self.bytes = fresh;
        self.used = 0;
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("unread_bytes", &self.unread().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_the_growth() {
        let mut inbox = Inbox::new();
        let sent: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let mut seen = Vec::new();
        for part in sent.chunks(700) {
            assert_eq!(inbox.push(part), part.len());
            let take = inbox.unread().len() / 2;
            seen.extend_from_slice(&inbox.unread()[..take]);
            inbox.consume(take);
        }
        seen.extend_from_slice(&inbox.into_rest());
        assert_eq!(seen, sent);
    }

    #[test]
    fn used_bytes_are_wiped_at_once() {
        let mut inbox = Inbox::new();
        inbox.push(b"secret more");
        inbox.consume(6);
        assert_eq!(inbox.unread(), b" more");
        assert_eq!(&inbox.bytes[..6], [0; 6]);
        assert!(!format!("{inbox:?}").contains("more"));
    }

    #[test]
    fn no_more_is_held_than_the_bound() {
        let mut inbox = Inbox::new();
        assert_eq!(inbox.push(&vec![b'x'; Inbox::BYTES_MAX + 10]), Inbox::BYTES_MAX);
        assert_eq!((inbox.room(), inbox.push(b"y")), (0, 0));
        inbox.consume(5);
        assert_eq!(inbox.push(b"123456789"), 5);
        inbox.consume(usize::MAX);
        assert!(inbox.is_empty() && inbox.room() == Inbox::BYTES_MAX);
    }
}
