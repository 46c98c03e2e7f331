//! Cuts a client's bytes before login into whole commands, with a bound on all of it.

use memchr::memchr;

use super::command;

/// Bounds of what a client may send before login, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// One line with its CRLF. 8 KiB.
    pub line_bytes_max: usize,
    /// The line of an `AUTHENTICATE` with an OAuth mechanism, whose tokens are long. 16 KiB.
    pub oauth_line_bytes_max: usize,
    /// One literal. 8 KiB.
    pub literal_bytes_max: usize,
    /// One command with its literals. 64 KiB.
    pub total_bytes_max: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self {
            line_bytes_max: 8192,
            oauth_line_bytes_max: 16_384,
            literal_bytes_max: 8192,
            total_bytes_max: 65_536,
        }
    }
}

/// What the buffer holds. Ends count from the buffer's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// No whole command yet.
    NeedMore,
    /// A synchronising literal was announced: a continuation is due, once. The caller
    /// sends it and calls again, or refuses the command, drops `end` bytes and resets.
    NeedContinuation {
        /// End of the line that announces.
        end: usize,
    },
    /// A whole command: all lines and literals, through the last CRLF. The caller drops
    /// these bytes from the buffer before it calls again.
    Command {
        /// End of the command.
        end: usize,
    },
}

/// Client bytes that are no frame. The framer starts afresh after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A line ends in a bare LF, or has a CR in it that ends nothing.
    #[error("line with a bare CR or LF")]
    BareLineEnd {
        /// The caller drops this many bytes and may go on.
        end: usize,
    },
    /// A synchronising literal over the bound; its bytes were not asked for.
    #[error("literal over {max} bytes announced")]
    LiteralTooBig {
        /// The bound.
        max: usize,
        /// The caller drops this many bytes and may go on.
        end: usize,
        /// Which bound it is over.
        bound: Bound,
    },
    /// A non-synchronising literal that cannot be taken; its bytes are on their way,
    /// so the connection must be closed (RFC 7888 §4).
    #[error("literal that cannot be taken is on its way")]
    LiteralInFlight {
        /// Which bound it is over; `None` where its line is broken.
        bound: Option<Bound>,
    },
    /// A line or command over its bound; the connection must be closed.
    #[error("line or command too long")]
    TooLong {
        /// Which of the two.
        bound: Bound,
    },
}

/// What is bounded before login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// One line.
    Line,
    /// One literal.
    Literal,
    /// One command with its literals.
    Command,
}

impl FrameError {
    /// How many bytes to drop to go on; `None`: the connection must be closed.
    pub const fn resume_at(&self) -> Option<usize> {
        match self {
            Self::BareLineEnd { end } | Self::LiteralTooBig { end, .. } => Some(*end),
            Self::LiteralInFlight { .. } | Self::TooLong { .. } => None,
        }
    }

    /// The bound that was run into, where it was one.
    pub const fn bound(&self) -> Option<Bound> {
        match self {
            Self::BareLineEnd { .. } => None,
            Self::LiteralTooBig { bound, .. } | Self::TooLong { bound } => Some(*bound),
            Self::LiteralInFlight { bound } => *bound,
        }
    }

    /// The metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::BareLineEnd { .. } => "bare_line_end",
            Self::LiteralTooBig { .. } => "literal_too_big",
            Self::LiteralInFlight { .. } => "literal_in_flight",
            Self::TooLong { .. } => "too_long",
        }
    }
}

/// Finds the ends of commands in a growing buffer. Bytes seen once are not searched
/// again, so a slow peer costs no second scan.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    limits: FrameLimits,
    line_start: usize,
    searched: usize,
    literal_end: Option<usize>,
}

impl Framer {
    /// A framer at the start of a command.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Forgets where it was: the next byte of the buffer starts a command.
    pub const fn reset(&mut self) {
        self.line_start = 0;
        self.searched = 0;
        self.literal_end = None;
    }

    /// Looks for the command that starts the buffer, which only grows between calls.
    ///
    /// # Errors
    /// [`FrameError`]; only CRLF ends a line, and each bound of [`FrameLimits`] is
    /// checked before more is asked for.
    pub fn next(&mut self, buffer: &[u8]) -> Result<Frame, FrameError> {
        let frame = self.advance(buffer);
        if matches!(frame, Ok(Frame::Command { .. }) | Err(_)) {
            self.reset();
        }
        frame
    }

    /// Looks for one line, a client's answer in a SASL exchange, of at most `max` bytes
    /// with its CRLF. Gives the line's end behind its CRLF.
    ///
    /// # Errors
    /// [`FrameError`], as for [`Self::next`].
    pub fn next_line(&mut self, buffer: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
        let end = self.line_end(buffer, max).and_then(|end| match end {
            Some(end) => check_line(buffer.get(..end).unwrap_or_default(), end).map(|()| Some(end)),
            None => Ok(None),
        });
        if !matches!(end, Ok(None)) {
            self.reset();
        }
        end
    }

    fn advance(&mut self, buffer: &[u8]) -> Result<Frame, FrameError> {
        loop {
            if let Some(end) = self.literal_end {
                if buffer.len() < end {
                    return Ok(Frame::NeedMore);
                }
                self.literal_end = None;
                self.line_start = end;
                self.searched = end;
            }
            let max = self.line_max(buffer);
            let Some(end) = self.line_end(buffer, max)? else {
                return Ok(Frame::NeedMore);
            };
            let line = buffer.get(self.line_start..end).unwrap_or_default();
            check_line(line, end)?;
            let Some(literal) = announced(line) else {
                return Ok(Frame::Command { end });
            };
            self.expect(literal, end)?;
            if literal.synchronising {
                return Ok(Frame::NeedContinuation { end });
            }
        }
    }

    /// The bound of the current line: a longer one for a first line that brings a token.
    fn line_max(&self, buffer: &[u8]) -> usize {
        // Asked only of the rare line that is past the usual bound.
        let long = buffer.len() >= self.limits.line_bytes_max && self.line_start == 0;
        if long && command::brings_oauth_token(buffer) {
            return self.limits.oauth_line_bytes_max;
        }
        self.limits.line_bytes_max
    }

    fn line_end(&mut self, buffer: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
        let fresh = buffer.get(self.searched..).unwrap_or_default();
        let Some(at) = memchr(b'\n', fresh) else {
            let line_bytes = buffer.len().saturating_sub(self.line_start);
            self.check_length(line_bytes, max, buffer.len())?;
            self.searched = buffer.len();
            return Ok(None);
        };
        let end = self.searched.saturating_add(at).saturating_add(1);
        // Less one each, since a line that just fits may end here but not go on.
        let line_bytes = end.saturating_sub(self.line_start).saturating_sub(1);
        self.check_length(line_bytes, max, end.saturating_sub(1))?;
        Ok(Some(end))
    }

    /// Whether a line and its command may go on by one more byte.
    fn check_length(
        &self,
        line_bytes: usize,
        max: usize,
        total_bytes: usize,
    ) -> Result<(), FrameError> {
        let total_max = self.limits.total_bytes_max;
        // The bound that is reached first, however many bytes came at once.
        if line_bytes >= max && self.line_start.saturating_add(max) <= total_max {
            return Err(FrameError::TooLong { bound: Bound::Line });
        }
        if total_bytes >= total_max {
            return Err(FrameError::TooLong { bound: Bound::Command });
        }
        Ok(())
    }

    fn expect(&mut self, literal: Announced, line_end: usize) -> Result<(), FrameError> {
        let max = self.limits.literal_bytes_max;
        let end = line_end.saturating_add(literal.size_bytes);
        if literal.size_bytes <= max && end <= self.limits.total_bytes_max {
            self.literal_end = Some(end);
            return Ok(());
        }
        let bound = if literal.size_bytes > max { Bound::Literal } else { Bound::Command };
        if literal.synchronising {
            return Err(FrameError::LiteralTooBig { max, end: line_end, bound });
        }
        Err(FrameError::LiteralInFlight { bound: Some(bound) })
    }
}

#[derive(Debug, Clone, Copy)]
struct Announced {
    size_bytes: usize,
    synchronising: bool,
}

/// Refuses a line that does not end in CRLF or has another CR. If it announces a literal
/// without waiting, what follows is no command either.
fn check_line(line: &[u8], end: usize) -> Result<(), FrameError> {
    if line.strip_suffix(b"\r\n").is_some_and(|text| memchr(b'\r', text).is_none()) {
        return Ok(());
    }
    match announced(line) {
        Some(Announced { synchronising: false, .. }) => {
            Err(FrameError::LiteralInFlight { bound: None })
        }
        _ => Err(FrameError::BareLineEnd { end }),
    }
}

/// `literal = "{" number64 ["+"] "}" CRLF` (RFC 9051 §9, RFC 7888 §3) at the end of a
/// line: digits and at most one `+`, nothing else. Where in the line it may stand is the
/// grammar's question; its bytes are taken in any case, so that they never run.
fn announced(line: &[u8]) -> Option<Announced> {
    let last = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let inner = line.get(..=last)?.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner)?;
    let number = inner.get(open.saturating_add(1)..)?;
    let (digits, synchronising) = match number.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (number, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // More digits than a usize holds: the largest, which is over every bound.
    let size_bytes = std::str::from_utf8(digits).ok()?.parse().unwrap_or(usize::MAX);
    Some(Announced { size_bytes, synchronising })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Seen = Vec<Result<Vec<u8>, FrameError>>;

    /// Feeds the bytes in pieces of these sizes and lists commands, continuations (`+`)
    /// and errors.
    fn frames(wire: &[u8], mut sizes: impl Iterator<Item = usize>) -> Seen {
        let mut framer = Framer::new(small());
        let mut buffer = Vec::new();
        let mut left = wire;
        let mut seen = Vec::new();
        loop {
            match framer.next(&buffer) {
                Ok(Frame::NeedMore) => {
                    if left.is_empty() {
                        return seen;
                    }
                    let (now, later) = left.split_at(sizes.next().unwrap().clamp(1, left.len()));
                    buffer.extend_from_slice(now);
                    left = later;
                }
                Ok(Frame::NeedContinuation { .. }) => seen.push(Ok(b"+".to_vec())),
                Ok(Frame::Command { end }) => seen.push(Ok(buffer.drain(..end).collect())),
                Err(error) => {
                    seen.push(Err(error));
                    let Some(end) = error.resume_at() else { return seen };
                    buffer.drain(..end);
                }
            }
        }
    }

    /// Small, but a line still holds the longest tag, AUTHENTICATE and a mechanism's name.
    fn small() -> FrameLimits {
        FrameLimits {
            line_bytes_max: 100,
            oauth_line_bytes_max: 150,
            literal_bytes_max: 20,
            total_bytes_max: 200,
        }
    }

    fn whole(wire: &[u8]) -> Seen {
        frames(wire, std::iter::repeat(wire.len()))
    }

    fn ok(frames: &[&[u8]]) -> Seen {
        frames.iter().map(|frame| Ok(frame.to_vec())).collect()
    }

    #[test]
    fn a_command_is_its_lines_and_literals() {
        let wire = b"a LOGIN {4+}\r\nu\r\nx {2}\r\npw\r\nb NOOP\r\nc";
        let first = b"a LOGIN {4+}\r\nu\r\nx {2}\r\npw\r\n";
        assert_eq!(whole(wire), ok(&[b"+", first, b"b NOOP\r\n"]));
        assert_eq!(whole(b"a LOGIN {0}\r\n {000}\r\n\r\n").len(), 3);
    }

    /// B-16: refused before anything is asked for, and the connection goes on.
    #[test]
    fn a_big_literal_is_refused_before_it_comes() {
        for size in ["21", "4294967296", "99999999999999999999", "0021"] {
            let line = format!("a LOGIN {{{size}}}\r\n");
            let seen = whole(format!("{line}b NOOP\r\n").as_bytes());
            let refused =
                FrameError::LiteralTooBig { max: 20, end: line.len(), bound: Bound::Literal };
            assert_eq!(seen, vec![Err(refused), Ok(b"b NOOP\r\n".to_vec())], "{size}");
        }
        assert_eq!(whole(b"a LOGIN {020}\r\n"), ok(&[b"+"]));
    }

    /// B-17: its bytes are on their way and must never run.
    #[test]
    fn a_big_literal_in_flight_ends_it() {
        for size in ["21", "100000", "99999999999999999999"] {
            let wire = format!("a LOGIN {{{size}+}}\r\nx LOGOUT\r\n");
            let refused = FrameError::LiteralInFlight { bound: Some(Bound::Literal) };
            assert_eq!(whole(wire.as_bytes()), vec![Err(refused)]);
        }
    }

    /// B-18: none of these is a literal, so the line is the whole command.
    #[test]
    fn only_digits_and_one_plus_make_a_literal() {
        for odd in [
            "{+10}", "{10++}", "{ 10}", "{10 }", "{0x10}", "{-1}", "{}", "{+}", "{1 +}", "10}",
            "{1}}", "\"{5+}\"", "{5+} ", "{5}x",
        ] {
            let wire = format!("a LOGIN {odd}\r\n");
            assert_eq!(whole(wire.as_bytes()), ok(&[wire.as_bytes()]), "{odd}");
        }
    }

    /// B-28.
    #[test]
    fn only_crlf_ends_a_line() {
        for odd in [&b"a NOOP\n"[..], b"a NO\rOP\r\n", b"a NOOP\r\r\n", b"a \"x\ny\r\n", b"a {3}\n"]
        {
            let wire = [odd, b"b NOOP\r\n"].concat();
            let seen = whole(&wire);
            assert!(matches!(seen[0], Err(FrameError::BareLineEnd { .. })), "{odd:?}");
            assert_eq!(seen.last(), Some(&Ok(b"b NOOP\r\n".to_vec())), "{odd:?}");
        }
        for odd in [&b"a {3+}\nb N"[..], b"a {3+}\r\r\n", b"a\r {3+}\r\n"] {
            let refused = FrameError::LiteralInFlight { bound: None };
            assert_eq!(whole(odd), vec![Err(refused)], "{odd:?}");
        }
    }

    /// B-26.
    #[test]
    fn lines_and_commands_have_a_bound() {
        let fits = [&[b'x'; 98][..], b"\r\n"].concat();
        assert_eq!(whole(&fits), ok(&[&fits]));
        for long in [&[b'x'; 100][..], &[&[b'x'; 99][..], b"\r\n"].concat()] {
            assert_eq!(whole(long), vec![Err(FrameError::TooLong { bound: Bound::Line })]);
        }
        let part = [b"x {20+}\r\n", &[b'x'; 20][..]].concat();
        let refused = FrameError::LiteralInFlight { bound: Some(Bound::Command) };
        assert_eq!(whole(&part.repeat(7)), vec![Err(refused)]);
        let ends = [&part.repeat(6)[..], &[b'x'; 25], b"\r\n"].concat();
        assert_eq!(whole(&ends), vec![Err(FrameError::TooLong { bound: Bound::Command })]);
    }

    #[test]
    fn the_bound_that_is_named_does_not_depend_on_where_reads_split() {
        let part = [b"x {20+}\r\n", &[b'x'; 20][..]].concat();
        let wire = [part.repeat(6), vec![b'x'; 120]].concat();
        let refused = vec![Err(FrameError::TooLong { bound: Bound::Command })];
        assert_eq!(whole(&wire), refused);
        assert_eq!(frames(&wire, std::iter::repeat(1)), refused);
    }

    #[test]
    fn tokens_get_a_longer_line() {
        let line = |head: &str, bytes: usize| format!("{head}{:x<bytes$}\r\n", "");
        let token = line("a authenticate xoauth2 ", 110);
        assert_eq!(whole(token.as_bytes()), ok(&[token.as_bytes()]));
        for long in [line("a AUTHENTICATE XOAUTH2 ", 130), line("a AUTHENTICATE PLAIN ", 110)] {
            let refused = FrameError::TooLong { bound: Bound::Line };
            assert_eq!(whole(long.as_bytes()), vec![Err(refused)]);
        }
    }

    #[test]
    fn a_slow_peer_costs_no_second_scan() {
        let mut framer = Framer::new(FrameLimits::default());
        assert_eq!(framer.next(b"a NOOP"), Ok(Frame::NeedMore));
        assert_eq!(framer.searched, 6);
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let known: Vec<&[u8]> = vec![
            b"a LOGIN ",
            b"{3}\r\n",
            b"{3+}\r\n",
            b"{21}\r\n",
            b"{99+}\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b"x",
            b"\"q\"",
            b" ",
            b"{",
            b"+}",
            b"AUTHENTICATE XOAUTH2 ",
            b"xxxxxxxxxxxxxxxxxxxxxxxxx",
        ];
        prop_oneof![
            9 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ]
    }

    proptest! {
        /// However the network cuts the bytes, the frames are the same.
        #[test]
        fn frames_do_not_depend_on_where_reads_split(
            pieces in proptest::collection::vec(piece(), 0..20),
            sizes in proptest::collection::vec(1_usize..12, 1..20),
        ) {
            let wire = pieces.concat();
            let cut = frames(&wire, sizes.into_iter().cycle());
            prop_assert_eq!(cut, whole(&wire));
        }
    }
}
