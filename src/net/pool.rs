//! Relay buffers, borrowed from the worker while bytes are there.
//!
//! A sleeping session holds none: the relay borrows one, tries to read, and drops it
//! when nothing came. Each thread keeps a few for the next one; no lock is taken.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Most buffers that a thread keeps. More are lent out when needed and freed after
/// use; at 64 KiB each this is 512 KiB a worker. A wake-up needs one or two, and only
/// slow readers hold theirs for longer.
pub const KEPT_MAX: usize = 8;

/// Usual size of a buffer in bytes (`upstream.relay_buffer_bytes`).
pub const DEFAULT_BYTES: usize = 65_536;

thread_local! {
    static KEPT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer on loan; dropping it gives it back to the thread that drops it.
///
/// Its content is what the last borrower left, another session's mail perhaps: pass on
/// only what was read into it.
pub struct Buffer {
    bytes: Box<[u8]>,
    /// How many of the bytes are lent.
    lent: usize,
}

/// Borrows a buffer of exactly `size_bytes`: a kept one, perhaps the front of a larger
/// one. Smaller ones are freed on the way, so that borrowers of different sizes (relay
/// and TLS) soon share buffers of the largest instead of freeing each other's.
pub fn borrow(size_bytes: usize) -> Buffer {
    let kept = KEPT
        .try_with(|kept| {
            let mut kept = kept.try_borrow_mut().ok()?;
            loop {
                let bytes = kept.pop()?;
                if bytes.len() >= size_bytes {
                    return Some(bytes);
                }
            }
        })
        .ok()
        .flatten();
    let bytes = kept.unwrap_or_else(|| vec![0; size_bytes].into_boxed_slice());
    Buffer { bytes, lent: size_bytes }
}

/// How many buffers this thread keeps at the moment.
pub fn kept() -> usize {
    KEPT.try_with(|kept| kept.try_borrow().map_or(0, |kept| kept.len())).unwrap_or(0)
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.lent).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.lent).unwrap_or_default()
    }
}

impl std::fmt::Debug for Buffer {
    /// Says the size alone: the content is mail.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.lent)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // While the thread ends its pool may be gone already; then the buffer is freed.
        let _ = KEPT.try_with(|kept| {
            if let Ok(mut kept) = kept.try_borrow_mut()
                && kept.len() < KEPT_MAX
            {
                kept.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_lent_again() {
        let first = borrow(4096);
        let place = first.as_ptr();
        drop(first);
        assert_eq!(kept(), 1);
        let again = borrow(4096);
        assert_eq!(again.as_ptr(), place);
        assert_eq!(kept(), 0);
    }

    #[test]
    fn a_thread_keeps_no_more_than_its_share() {
        let lent: Vec<Buffer> = (0..KEPT_MAX * 2).map(|_| borrow(64)).collect();
        drop(lent);
        assert_eq!(kept(), KEPT_MAX);
    }

    #[test]
    fn a_larger_size_frees_the_old_buffers() {
        drop((borrow(64), borrow(64)));
        assert_eq!(borrow(128).len(), 128);
        assert_eq!(kept(), 1, "the two old ones are gone, the new one is back");
    }

    #[test]
    fn a_smaller_size_borrows_the_front_of_a_larger_buffer() {
        let large = borrow(128);
        let place = large.as_ptr();
        drop(large);
        let mut small = borrow(64);
        assert_eq!((small.len(), small.as_ptr()), (64, place));
        assert_eq!(small.iter_mut().len(), 64);
        drop(small);
        let again = borrow(128);
        assert_eq!((again.len(), again.as_ptr()), (128, place), "nothing was cut off");
    }

    #[test]
    fn what_is_written_is_read_and_never_printed() {
        let mut buffer = borrow(8);
        buffer[..4].copy_from_slice(b"mail");
        assert_eq!(&buffer[..4], b"mail");
        assert_eq!(format!("{buffer:?}"), "Buffer(8 bytes)");
    }
}
