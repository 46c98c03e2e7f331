//! Looks for commands that change identity, or hide them, at line starts inside client
//! literals.
//!
//! A server that refuses a command with a non-synchronising literal may run the body of
//! the literal as commands, and then also what follows it on the same line.

/// Where in a line of a literal the search stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Guard {
    /// Not searching.
    #[default]
    Off,
    /// At a line start.
    Start,
    /// In the first word.
    Tag,
    /// In the blanks behind it.
    Blank,
    /// In the second word: which word it may be, and how many bytes of it are there.
    Word(u8, u8),
    /// Nothing more to look for in this line.
    Rest,
}

/// What changes who the session is. Compression would hide such a command from every
/// later look; its second word keeps ordinary text apart.
const WORDS: [&[u8]; 4] =
    [b"UNAUTHENTICATE", b"X-UNAUTHENTICATE", b"PROXYAUTH", b"COMPRESS DEFLATE"];

impl Guard {
    /// Takes more bytes; the place of the byte that completes a finding.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0_usize;
        while let Some(byte) = bytes.get(at) {
            match self.then(*byte) {
                None => return Some(at),
                Some(next) => *self = next,
            }
            at = at.saturating_add(1);
            let skip = match self {
                Self::Off => return None,
                // A bare CR is no line end to most servers; here it counts, to be safe.
                Self::Rest => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())
                }
                _ => 0,
            };
            at = at.saturating_add(skip);
        }
        None
    }

    /// The next state; nothing when a finding is complete.
    fn then(self, byte: u8) -> Option<Self> {
        let line_end = matches!(byte, b'\r' | b'\n');
        let blank = matches!(byte, b' ' | b'\t');
        Some(match self {
            Self::Off => Self::Off,
            Self::Word(which, len) => return after_word(which, len, byte),
            _ if line_end => Self::Start,
            Self::Start if blank => Self::Start,
            Self::Start | Self::Tag if !blank => Self::Tag,
            Self::Tag | Self::Blank if blank => Self::Blank,
            Self::Blank => WORDS
                .iter()
                .zip(0_u8..)
                .find(|(word, _)| letter(word, 0) == Some(byte.to_ascii_uppercase()))
                .map_or(Self::Rest, |(_, which)| Self::Word(which, 1)),
            Self::Start | Self::Tag | Self::Rest => Self::Rest,
        })
    }
}

fn letter(word: &[u8], place: u8) -> Option<u8> {
    word.get(usize::from(place)).copied()
}

fn after_word(which: u8, len: u8, byte: u8) -> Option<Guard> {
    let word = WORDS.get(usize::from(which)).copied().unwrap_or_default();
    let behind_blank = letter(word, len.wrapping_sub(1)) == Some(b' ');
    match letter(word, len) {
        Some(next) if next == byte.to_ascii_uppercase() => {
            Some(Guard::Word(which, len.saturating_add(1)))
        }
        Some(b' ') if byte == b'\t' => Some(Guard::Word(which, len.saturating_add(1))),
        Some(_) if behind_blank && matches!(byte, b' ' | b'\t') => Some(Guard::Word(which, len)),
        None if !byte.is_ascii_alphanumeric() && !b"-_.".contains(&byte) => None,
        _ if matches!(byte, b'\r' | b'\n') => Some(Guard::Start),
        _ => Some(Guard::Rest),
    }
}
