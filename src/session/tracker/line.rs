//! One line of the client behind its head: where it ends and whether it can be trusted.

use super::ClientError;
use super::literal::{Brace, Size};

/// Where in a line of the client the scan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Line {
    pub(super) brace: Brace,
    pub(super) quote: Quote,
    /// The last byte was a CR; only an LF may follow.
    pub(super) cr: bool,
}

/// Where in a quoted string the scan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Quote {
    /// Outside.
    #[default]
    Outside,
    /// Inside.
    Inside,
    /// Inside, behind a backslash.
    Escaped,
}

/// A literal that the line's end announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) bytes: u64,
    /// The client waits for a `+` before it sends the body.
    pub(super) synchronising: bool,
}

/// What a scan found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The line goes on behind the input.
    More,
    /// The line's LF is the byte before `len`.
    End { len: usize, literal: Option<Announced> },
}

/// The line cannot be followed. The bytes before `at` were still sound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) error: ClientError,
}

impl Line {
    /// Takes text that holds no line end: the part of the line that was read already.
    pub(super) fn feed(&mut self, text: &[u8]) {
        self.brace.feed(text);
        self.quote = self.quote.after(text);
    }

    /// Looks for the end of the line in the input.
    pub(super) fn scan(&mut self, input: &[u8]) -> Result<Scan, Fault> {
        let end = memchr::memchr(b'\n', input);
        if self.cr && end != Some(0) {
            let error = ClientError::BareCr;
            return if input.is_empty() { Ok(Scan::More) } else { Err(Fault { at: 0, error }) };
        }
        let mut text = input.get(..end.unwrap_or(input.len())).unwrap_or_default();
        if let Some(odd) = memchr::memchr2(0, b'\r', text) {
            if text.get(odd) == Some(&0) {
                return Err(Fault { at: odd, error: ClientError::Nul });
            }
            let behind = odd.saturating_add(1);
            if behind < text.len() {
                return Err(Fault { at: behind, error: ClientError::BareCr });
            }
            text = text.get(..odd).unwrap_or_default();
            self.cr = true;
        }
        self.quote = self.quote.after(text);
        let Some(end) = end else {
            self.brace.feed(text);
            return Ok(Scan::More);
        };
        if text.last().is_some_and(|last| *last != b'}') {
            self.brace = Brace::Nothing;
        } else {
            self.brace.feed(text);
        }
        let literal = self.ended().map_err(|error| Fault { at: end, error })?;
        *self = Self::default();
        Ok(Scan::End { len: end.saturating_add(1), literal })
    }

    /// Whether the line, as far as it came, ends in an announcement that waits for a `+`.
    pub(super) fn announces(&self) -> bool {
        let closed = matches!(self.brace, Brace::Closed(Size::Bytes(_), false));
        closed && self.quote == Quote::Outside
    }

    fn ended(self) -> Result<Option<Announced>, ClientError> {
        if self.quote != Quote::Outside {
            return Err(ClientError::OpenQuote);
        }
        let Some((size, plus)) = self.brace.announced() else {
            return Ok(None);
        };
        if !self.cr {
            return Err(ClientError::LiteralBeforeBareLf);
        }
        match size {
            Size::Bytes(bytes) => Ok(Some(Announced { bytes, synchronising: !plus })),
            Size::TooLarge => Err(ClientError::LiteralTooLarge),
            // Servers differ on whether this is a literal of no bytes or plain text.
            Size::Missing => Err(ClientError::LiteralWithoutSize),
        }
    }
}

impl Quote {
    fn after(self, text: &[u8]) -> Self {
        let mut state = self;
        let mut rest = text;
        loop {
            let found = match state {
                Self::Outside => memchr::memchr(b'"', rest),
                Self::Inside => memchr::memchr2(b'"', b'\\', rest),
                Self::Escaped if rest.is_empty() => None,
                Self::Escaped => Some(0),
            };
            let Some(at) = found else {
                return state;
            };
            state = match (state, rest.get(at)) {
                (Self::Inside, Some(b'\\')) => Self::Escaped,
                (Self::Inside, _) => Self::Outside,
                (Self::Outside | Self::Escaped, _) => Self::Inside,
            };
            rest = rest.get(at.saturating_add(1)..).unwrap_or_default();
        }
    }
}
