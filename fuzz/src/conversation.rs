//! The tracker between any client and a model of a sound server: the server never reads a
//! command that changes who the session is, the client gets each answer, nothing hangs.

use std::collections::VecDeque;

use pointsman::session::tracker::{ClientError, Event, Settings, Tracker};

use crate::cuts::{Dice, first};
use crate::tracker::Wire;

/// The server does what the next byte says; any other byte is the client's.
const SERVER_ACTS: u8 = 0xff;
const REFUSAL: &[u8] = b" BAD Command not available after login.\r\n";
const NO_COMMAND: &[u8] = b" BAD Command missing.\r\n";
pub(crate) const FORBIDDEN: [&str; 7] = [
    "LOGIN",
    "AUTHENTICATE",
    "STARTTLS",
    "COMPRESS",
    "UNAUTHENTICATE",
    "X-UNAUTHENTICATE",
    "PROXYAUTH",
];

/// First byte: settings and the server's reads; then the client's bytes.
pub fn run(data: &[u8]) {
    let (seed, script) = first(data);
    let mut talk = Talk::new(Settings { check_literal_lines: seed % 2 == 1 }, seed);
    let mut left = script;
    while let Some((byte, rest)) = left.split_first() {
        let end = left.iter().position(|byte| *byte == SERVER_ACTS).unwrap_or(left.len());
        if *byte == SERVER_ACTS {
            let (act, rest) = first(rest);
            talk.server_acts(act);
            left = rest;
        } else {
            talk.client_sends(&left[..end]);
            left = &left[end..];
        }
        if talk.is_closed() {
            return talk.check();
        }
    }
    talk.finish();
}

/// A command that the server has read and not answered.
#[derive(Debug)]
struct Pending {
    tag: Vec<u8>,
    idle: Idle,
    /// It has a tag and a word; else the only answer is BAD.
    sound: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Idle {
    No,
    Asked,
    Running,
    Done,
    /// DONE came before the `+`; how it was spelled.
    DoneEarly(Vec<u8>),
}

/// Where the server stands in its input.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    Line,
    /// A literal that was announced and not granted.
    Announced(usize),
    /// So many bytes of a literal.
    Literal(usize),
}

struct Talk {
    tracker: Tracker,
    dice: Dice,
    events: Vec<Event>,
    rest: Vec<u8>,
    error: Option<ClientError>,
    down: Vec<u8>,
    /// What the server has not read yet, and the line that it is reading.
    up: Vec<u8>,
    reading: Reading,
    line: Vec<u8>,
    command: Vec<u8>,
    pending: VecDeque<Pending>,
    /// The server is in the middle of a response.
    open: bool,
    /// All that the server said, as the client is to get it.
    said: Vec<u8>,
}

impl Talk {
    fn new(settings: Settings, seed: u8) -> Self {
        Self {
            tracker: Tracker::new(settings),
            dice: Dice::new(seed),
            events: Vec::new(),
            rest: Vec::new(),
            error: None,
            down: Vec::new(),
            up: Vec::new(),
            reading: Reading::Line,
            line: Vec::new(),
            command: Vec::new(),
            pending: VecDeque::new(),
            open: false,
            said: Vec::new(),
        }
    }

    fn client_sends(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        self.relay();
    }

    /// Whether the session is closed.
    fn is_closed(&self) -> bool {
        let must = |event: &Event| matches!(event, Event::TurnedOpaque { answer_lost: true, .. });
        self.error.is_some() || self.events.iter().any(must)
    }

    fn relay(&mut self) {
        while !self.is_closed() && !self.rest.is_empty() {
            let input = std::mem::take(&mut self.rest);
            let len = self.dice.read_len().clamp(1, input.len());
            let (read, later) = input.split_at(len);
            let mut wire =
                Wire { input: read, output: &mut self.up, events: &mut self.events, passed: 0 };
            let taken = match self.tracker.client(read, 0, &mut wire) {
                Ok(taken) => taken,
                Err(error) => {
                    self.error = Some(error);
                    len
                }
            };
            self.rest = [&read[taken..], later].concat();
            let answered = self.tracker.take_answers(&mut self.down);
            self.server_reads();
            if self.tracker.client_blocked() || (taken == 0 && !answered) {
                break;
            }
        }
    }

    /// The server says this; `heard` is what its client is to get of it.
    fn says(&mut self, said: &[u8], heard: &[u8]) {
        self.said.extend_from_slice(heard);
        let mut left = said;
        while !left.is_empty() {
            let (read, rest) = left.split_at(self.dice.read_len().clamp(1, left.len()));
            let keeps = |atom: &[u8]| !atom.eq_ignore_ascii_case(b"COMPRESS=DEFLATE");
            let mut wire =
                Wire { input: read, output: &mut self.down, events: &mut self.events, passed: 0 };
            self.tracker.server(read, 0, &keeps, &mut wire);
            left = rest;
        }
        self.relay();
    }

    fn line_says(&mut self, line: &[u8]) {
        if self.open {
            self.open = false;
            self.says(b" x)\r\n", b" x)\r\n");
        }
        self.says(line, line);
    }

    fn server_acts(&mut self, act: u8) {
        match act % 10 {
            0..=2 => self.answers([&b"OK"[..], b"NO", b"BAD"][usize::from(act % 10)]),
            3 => self.continues(),
            4 => self.refuses_literal(),
            5 => self.line_says(b"* 1 EXISTS\r\n"),
            6 => self.line_says(b"* 1 FETCH (BODY[] {17}\r\na LOGIN b c\r\n+ \r\n FLAGS ())\r\n"),
            7 => {
                self.line_says(b"");
                let list = b"* CAPABILITY IMAP4rev1 COMPRESS=DEFLATE IDLE\r\n";
                self.says(list, b"* CAPABILITY IMAP4rev1 IDLE\r\n");
            }
            8 => {
                self.line_says(b"* 2 FETCH (X {3}\r\nab");
                self.says(b"c", b"c");
                self.open = true;
            }
            _ => self.line_says(b"* OK [ALERT] {7}\r\n"),
        }
    }

    fn answers(&mut self, status: &[u8]) {
        let ready = |pending: &Pending| pending.idle != Idle::Running;
        if !self.pending.front().is_some_and(ready) {
            return;
        }
        if let Some(Pending { tag, sound, idle }) = self.pending.pop_front() {
            let status = if sound { status } else { b"BAD" };
            // A server that refused the IDLE does not know what the DONE behind it is.
            if let (Idle::DoneEarly(tag), b"NO" | b"BAD") = (idle, status) {
                self.pending.push_front(Pending { tag, sound: false, idle: Idle::No });
            }
            self.line_says(&[&tag[..], b" ", status, b" x\r\n"].concat());
        }
    }

    /// `+` to the oldest IDLE that asked, else to a literal behind all that was answered.
    fn continues(&mut self) {
        let asks = |one: &&mut Pending| matches!(one.idle, Idle::Asked | Idle::DoneEarly(_));
        if let Some(idle) = self.pending.iter_mut().find(asks) {
            idle.idle = if idle.idle == Idle::Asked { Idle::Running } else { Idle::Done };
            return self.line_says(b"+ idling\r\n");
        }
        if let Reading::Announced(bytes) = self.reading {
            self.reading = Reading::Literal(bytes);
            self.line_says(b"+ go\r\n");
            self.server_reads();
        }
    }

    /// Answers the command whose literal waits, after all before it.
    fn refuses_literal(&mut self) {
        if !matches!(self.reading, Reading::Announced(_)) || !self.pending.is_empty() {
            return;
        }
        self.reading = Reading::Line;
        self.line.clear();
        let command = std::mem::take(&mut self.command);
        let tag = command.split(|byte| *byte == b' ').next().unwrap_or_default();
        self.line_says(&[tag, b" NO too big\r\n"].concat());
        self.server_reads();
    }

    fn server_reads(&mut self) {
        let up = std::mem::take(&mut self.up);
        let mut left = &up[..];
        while let Some((byte, rest)) = left.split_first() {
            match self.reading {
                Reading::Announced(_) => {
                    // An opaque session sends its literals unasked: the server's buffer
                    // holds them until it has decided.
                    assert!(self.tracker.opaque(), "bytes to a server that was waited for");
                    self.up = left.to_vec();
                    return;
                }
                Reading::Literal(0) => {
                    self.reading = Reading::Line;
                    continue;
                }
                Reading::Literal(bytes) => self.reading = Reading::Literal(bytes - 1),
                Reading::Line => {
                    self.line.push(*byte);
                    if *byte == b'\n' {
                        self.line_ends();
                    }
                }
            }
            left = rest;
        }
        if self.reading == Reading::Literal(0) {
            self.reading = Reading::Line;
        }
    }

    fn line_ends(&mut self) {
        let line = std::mem::take(&mut self.line);
        let literal = announced(&line);
        self.command.extend_from_slice(&line);
        self.reads_word();
        match literal {
            Some((bytes, true)) => self.reading = Reading::Announced(bytes),
            Some((bytes, false)) => self.reading = Reading::Literal(bytes),
            None => {
                let command = std::mem::take(&mut self.command);
                self.takes(&command);
            }
        }
    }

    /// No command that the server reads may change who the session is.
    fn reads_word(&mut self) {
        let mut words = self.command.split(|byte| b" \r\n\t".contains(byte));
        let word = words.nth(1).unwrap_or_default();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let end = word.iter().position(|byte| !plain(byte)).unwrap_or(word.len());
        let word = String::from_utf8_lossy(&word[..end]).to_ascii_uppercase();
        let reached = FORBIDDEN.contains(&&word[..]);
        assert!(!reached, "{word} reached the server");
    }

    fn takes(&mut self, command: &[u8]) {
        let text = command.trim_ascii_end();
        let mut words = text.split(|byte| *byte == b' ');
        let (tag, word) = (words.next().unwrap_or_default(), words.next());
        if text.eq_ignore_ascii_case(b"DONE") {
            let waits = |one: &&mut Pending| matches!(one.idle, Idle::Running | Idle::Asked);
            if let Some(idle) = self.pending.iter_mut().find(waits) {
                let running = idle.idle == Idle::Running;
                idle.idle = if running { Idle::Done } else { Idle::DoneEarly(text.to_vec()) };
                return;
            }
        }
        if tag.is_empty() {
            return;
        }
        let is_tag =
            tag.iter().all(|byte| byte.is_ascii_graphic() && !b"(){%*\"\\+".contains(byte));
        let idle = match word {
            Some(word) if word.eq_ignore_ascii_case(b"IDLE") && is_tag => Idle::Asked,
            _ => Idle::No,
        };
        let sound = is_tag && word.is_some();
        let tag = if is_tag { tag } else { b"*" };
        self.pending.push_back(Pending { tag: tag.to_vec(), idle, sound });
    }

    /// The client is done: the server answers all that it has read.
    fn finish(mut self) {
        for _ in 0..3 {
            while !self.pending.is_empty() && !self.is_closed() {
                if self.pending.front().is_some_and(|front| front.idle == Idle::Running) {
                    break;
                }
                self.answers(b"OK");
            }
            self.refuses_literal();
        }
        self.line_says(b"* 9 EXISTS\r\n");
        self.check();
        let busy = !self.pending.is_empty()
            || self.is_closed()
            || self.tracker.client_mid_command()
            || !self.rest.is_empty();
        if !busy {
            assert_eq!(self.tracker.in_flight(), 0, "a command that was answered is in flight");
            assert!(self.tracker.at_command_border(), "no border at the end");
        }
    }

    fn check(&self) {
        let opaque = |event: &&Event| matches!(event, Event::TurnedOpaque { .. });
        if let Some(event) = self.events.iter().find(opaque) {
            let said = self.said.escape_ascii();
            panic!("a sound server is not understood: {event:?} behind {said}");
        }
        let own = |event: &&Event| matches!(event, Event::Refused | Event::NoCommand);
        let mut refused = self.events.iter().filter(own).count();
        let (mut heard, mut at) = (Vec::new(), 0);
        while at < self.down.len() {
            let end = self.down[at..].iter().position(|byte| *byte == b'\n');
            let end = end.map_or(self.down.len(), |end| at + end + 1);
            let line = &self.down[at..end];
            if (line.ends_with(REFUSAL) || line.ends_with(NO_COMMAND)) && refused > 0 {
                refused -= 1;
            } else {
                heard.extend_from_slice(line);
            }
            at = end;
        }
        assert!(self.said.starts_with(&heard), "the client hears something else");
        assert!(self.said.len() - heard.len() <= 160, "the client does not hear all");
        assert!(refused == 0 || self.open || self.tracker.answers_wait(), "a refusal is lost");
    }
}

/// Size, and whether the client waits.
fn announced(line: &[u8]) -> Option<(usize, bool)> {
    let text = line.strip_suffix(b"}\r\n")?;
    let open = text.iter().rposition(|byte| *byte == b'{')?;
    let number = std::str::from_utf8(&text[open + 1..]).ok()?;
    let (digits, waits) = number.strip_suffix('+').map_or((number, true), |digits| (digits, false));
    let all = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    all.then(|| Some((digits.parse().ok()?, waits)))?
}
