//! Literal announcements at the end of a line, read a piece at a time.
//!
//! RFC 9051 §9: `literal = "{" number64 ["+"] "}" CRLF *CHAR8`; RFC 3516: `literal8` has
//! a `~` before it, which changes nothing here.

/// What stands at the end of the text seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Brace {
    /// Nothing that could become an announcement.
    #[default]
    Nothing,
    /// `{` and perhaps digits.
    Digits(Size),
    /// `{`, perhaps digits, and `+`.
    Plus(Size),
    /// All of it; true for one with `+`.
    Closed(Size, bool),
}

/// The number in the braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// No digit.
    Missing,
    /// In bytes.
    Bytes(u64),
    /// More than 64 bits.
    TooLarge,
}

impl Size {
    fn with_digit(self, digit: u8) -> Self {
        let so_far = match self {
            Self::Missing => 0,
            Self::Bytes(bytes) => bytes,
            Self::TooLarge => return Self::TooLarge,
        };
        so_far
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(digit)))
            .map_or(Self::TooLarge, Self::Bytes)
    }
}

impl Brace {
    /// Takes more text of the line, without its line end. Only the last `{` counts, and
    /// leading zeros may fill any number of reads.
    pub(super) fn feed(&mut self, text: &[u8]) {
        let tail = match memchr::memrchr(b'{', text) {
            Some(at) => {
                *self = Self::Digits(Size::Missing);
                text.get(at..).and_then(|from| from.get(1..)).unwrap_or_default()
            }
            None => text,
        };
        for byte in tail {
            if *self == Self::Nothing {
                return;
            }
            *self = self.then(*byte);
        }
    }

    fn then(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Digits(size), b'0'..=b'9') => {
                Self::Digits(size.with_digit(byte.wrapping_sub(b'0')))
            }
            (Self::Digits(size), b'+') => Self::Plus(size),
            (Self::Digits(size), b'}') => Self::Closed(size, false),
            (Self::Plus(size), b'}') => Self::Closed(size, true),
            _ => Self::Nothing,
        }
    }

    /// The announcement, if the text ended with one: its size and whether it has a `+`.
    pub(super) fn announced(self) -> Option<(Size, bool)> {
        match self {
            Self::Closed(size, plus) => Some((size, plus)),
            _ => None,
        }
    }
}
