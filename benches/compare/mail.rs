//! The bytes that the bench moves, known to both ends so that each can check them.

use std::sync::LazyLock;

/// Sequence number and size in bytes of the small message.
pub(crate) const SMALL: (u32, usize) = (1, 64 * 1024);
/// Sequence number and size in bytes of the large message.
pub(crate) const LARGE: (u32, usize) = (2, 1024 * 1024);
/// The message whose flags the backend sends in two writes with a pause between.
pub(crate) const SPLIT: u32 = 3;

/// Every message is the start of these bytes: lines of 72 characters, as mail has.
static BODY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(LARGE.1 + 80);
    let mut line = 0_u32;
    while bytes.len() < LARGE.1 {
        bytes.extend_from_slice(format!("{line:08x} ").as_bytes());
        bytes.extend_from_slice(&[b'.'; 63]);
        bytes.extend_from_slice(b"\r\n");
        line += 1;
    }
    bytes.truncate(LARGE.1);
    bytes
});

/// The first `size` bytes of the body, at most 1 MiB.
pub(crate) fn body(size: usize) -> &'static [u8] {
    BODY.get(..size).unwrap_or(&BODY)
}

/// The size of message `number`, if there is one with a body.
pub(crate) fn size_of_message(number: u32) -> Option<usize> {
    [SMALL, LARGE].into_iter().find(|message| message.0 == number).map(|message| message.1)
}
