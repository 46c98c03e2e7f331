//! Where reads end, as the input's first bytes say.

/// A plain generator (xorshift): the same bytes always cut alike.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A generator of this seed.
    #[must_use]
    pub fn new(seed: u8) -> Self {
        Self(u64::from(seed) | 0x9e37_79b9_7f4a_7c00)
    }

    /// A number from 0 to `below - 1`; `below` must not be 0.
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % below
    }

    /// The length of the next read: mostly short, sometimes all.
    pub fn read_len(&mut self) -> usize {
        match self.roll(8) {
            0 => usize::MAX,
            1..=3 => 1 + self.roll(3),
            _ => 1 + self.roll(40),
        }
    }
}

/// The pieces of `bytes` as `next` cuts them; none is empty.
pub fn pieces<'b>(bytes: &'b [u8], next: &mut dyn FnMut() -> usize) -> Vec<&'b [u8]> {
    let mut left = bytes;
    let mut pieces = Vec::new();
    while !left.is_empty() {
        let (piece, rest) = left.split_at(next().clamp(1, left.len()));
        pieces.push(piece);
        left = rest;
    }
    pieces
}

/// Takes the first byte off; 0 where there is none.
pub fn first(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}
