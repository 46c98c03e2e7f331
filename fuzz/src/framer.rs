//! Frames before login: the same for every cut, within their bounds, no byte lost.

use pointsman::protocol::framer::{Frame, FrameError, FrameLimits, Framer};

use crate::cuts::{Dice, first, pieces};

/// Small, so that the bounds are met by short inputs.
const SMALL: FrameLimits = FrameLimits {
    line_bytes_max: 100,
    oauth_line_bytes_max: 150,
    literal_bytes_max: 20,
    total_bytes_max: 200,
};

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Continuation(usize),
    Command(Vec<u8>),
    Error(FrameError),
}

/// First byte: seed of the cuts and which bounds; then the client's bytes.
pub fn run(data: &[u8]) {
    let (seed, wire) = first(data);
    let limits = if seed % 2 == 0 { SMALL } else { FrameLimits::default() };
    let whole = frames(wire, limits, &mut || usize::MAX);
    let mut dice = Dice::new(seed);
    assert_eq!(frames(wire, limits, &mut || 1), whole, "single bytes");
    assert_eq!(frames(wire, limits, &mut || dice.read_len()), whole, "random cuts");
    check(wire, &whole, limits);
    let lines = |next: &mut dyn FnMut() -> usize| exchange_lines(wire, limits, next);
    assert_eq!(lines(&mut || 1), lines(&mut || usize::MAX), "lines of an exchange");
}

fn frames(wire: &[u8], limits: FrameLimits, next: &mut dyn FnMut() -> usize) -> Vec<Seen> {
    let mut framer = Framer::new(limits);
    let (mut buffer, mut seen) = (Vec::new(), Vec::new());
    let mut reads = pieces(wire, next).into_iter();
    loop {
        match framer.next(&buffer) {
            Ok(Frame::NeedMore) => {
                assert!(buffer.len() < limits.total_bytes_max, "more is held than allowed");
                let Some(read) = reads.next() else { return seen };
                buffer.extend_from_slice(read);
            }
            Ok(Frame::NeedContinuation { end }) => {
                assert!(buffer[..end].ends_with(b"}\r\n"), "`+` without an announcement");
                seen.push(Seen::Continuation(end));
            }
            Ok(Frame::Command { end }) => seen.push(Seen::Command(buffer.drain(..end).collect())),
            Err(error) => {
                let end = error.resume_at();
                seen.push(Seen::Error(error));
                let Some(end) = end else { return seen };
                assert!(end > 0 && end <= buffer.len(), "an end outside of the buffer");
                buffer.drain(..end);
            }
        }
    }
}

/// The commands are pieces of the stream in its order, whole and bounded.
fn check(wire: &[u8], seen: &[Seen], limits: FrameLimits) {
    let mut at = 0;
    for frame in seen {
        match frame {
            Seen::Command(command) => {
                assert!(command.ends_with(b"\r\n") && command.len() <= limits.total_bytes_max);
                assert!(wire[at..].starts_with(command), "a command that was not sent");
                assert_eq!(model_end(command), Some(command.len()), "another end: {command:?}");
                at += command.len();
            }
            Seen::Error(error) => at += error.resume_at().unwrap_or(0),
            Seen::Continuation(_) => {}
        }
        assert!(at <= wire.len());
    }
}

/// Where the first command ends, found line by line.
fn model_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line_end = at + bytes.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        let line = &bytes[at..line_end];
        let Some(size) = announced(line) else { return Some(line_end) };
        at = line_end + size;
    }
}

/// The size of the literal that a line ending in CRLF announces.
fn announced(line: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(&line[line.iter().rposition(|byte| *byte == b'{')?..]).ok()?;
    let number = text.strip_suffix("}\r\n")?.strip_prefix('{')?;
    let digits = number.strip_suffix('+').unwrap_or(number);
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

type Line = Result<Vec<u8>, FrameError>;

fn exchange_lines(wire: &[u8], limits: FrameLimits, next: &mut dyn FnMut() -> usize) -> Vec<Line> {
    let mut framer = Framer::new(limits);
    let (mut buffer, mut seen) = (Vec::<u8>::new(), Vec::new());
    let mut reads = pieces(wire, next).into_iter();
    let max = limits.line_bytes_max;
    loop {
        match framer.next_line(&buffer, max) {
            Ok(None) => {
                let Some(read) = reads.next() else { return seen };
                buffer.extend_from_slice(read);
            }
            Ok(Some(end)) => {
                assert!(end <= max && buffer[..end].ends_with(b"\r\n"));
                seen.push(Ok(buffer.drain(..end).collect()));
            }
            Err(error) => {
                let end = error.resume_at();
                seen.push(Err(error));
                let Some(end) = end else { return seen };
                buffer.drain(..end);
            }
        }
    }
}
