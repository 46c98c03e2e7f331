//! A few bytes kept inside their owner, without an allocation.

/// Up to `N` bytes (`N` at most 255).
#[derive(Clone, Copy)]
pub(super) struct Inline<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Inline<N> {
    /// None so far.
    pub(super) const fn new() -> Self {
        Self { len: 0, bytes: [0; N] }
    }

    /// Appends as many of the bytes as have room and says how many those were.
    pub(super) fn extend(&mut self, more: &[u8]) -> usize {
        let room = self.bytes.get_mut(usize::from(self.len)..).unwrap_or_default();
        let count = room.len().min(more.len());
        for (place, byte) in room.iter_mut().zip(more) {
            *place = *byte;
        }
        self.len = self.len.saturating_add(u8::try_from(count).unwrap_or(u8::MAX));
        count
    }

    /// Forgets all bytes.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// How many bytes are kept.
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> PartialEq for Inline<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<const N: usize> Eq for Inline<N> {}

impl<const N: usize> std::fmt::Debug for Inline<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Only the length: a client's line may hold what no log should.
        write!(f, "{} bytes", self.len)
    }
}
