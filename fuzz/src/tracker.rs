//! The tracker between two arbitrary streams: cuts change nothing, its state survives
//! encoding at every read, and bytes go on as they came but for what it may take out.

use std::ops::Range;

use pointsman::session::tracker::{ClientError, Event, HEAD_BYTES_MAX, Settings, Sink, Tracker};

use crate::conversation::FORBIDDEN;
use crate::cuts::{Dice, first, pieces};

/// Turns the input to the client's bytes; the input begins with these.
const CLIENT: u8 = 0xff;
/// Turns the input to the server's bytes.
const SERVER: u8 = 0xfe;

/// First byte: bit 0 checks literals for commands, the rest seeds the cuts. Then both
/// sides' bytes, [`CLIENT`] and [`SERVER`] between them.
pub fn run(data: &[u8]) {
    let (seed, script) = first(data);
    let settings = Settings { check_literal_lines: seed % 2 == 1 };
    let mut whole = Pair::new(settings);
    whole.play(script, &mut || usize::MAX);
    whole.check();
    let mut dice = Dice::new(seed);
    let mut recoded = Pair { recode: true, ..Pair::new(settings) };
    recoded.play(script, &mut || dice.read_len());
    assert_same(&whole, &recoded);
    let mut single = Pair::new(settings);
    single.play(script, &mut || 1);
    assert_same(&whole, &single);
    decode_changed(&whole.tracker, script, &mut dice);
}

/// A state with one wrong byte is refused, or is a state that is written the same way again
/// and does not panic whatever comes.
fn decode_changed(tracker: &Tracker, script: &[u8], dice: &mut Dice) {
    let mut state = Vec::new();
    tracker.encode(&mut state);
    let at = dice.roll(state.len());
    state[at] = state[at].wrapping_add(u8::try_from(1 + dice.roll(255)).expect("a byte"));
    let Ok(tracker) = Tracker::decode(&state) else { return };
    let mut again = Vec::new();
    tracker.encode(&mut again);
    assert_eq!(Tracker::decode(&again).as_ref(), Ok(&tracker), "not the same state again");
    let mut pair = Pair { tracker, ..Pair::new(Settings::default()) };
    pair.play(script, &mut || usize::MAX);
}

/// Capabilities that the client of these conversations is not to see.
fn keeps(atom: &[u8]) -> bool {
    !atom.eq_ignore_ascii_case(b"COMPRESS=DEFLATE") && !atom.eq_ignore_ascii_case(b"UNAUTHENTICATE")
}

/// Where the tracker's verdicts go.
pub(crate) struct Wire<'w> {
    pub(crate) input: &'w [u8],
    pub(crate) output: &'w mut Vec<u8>,
    pub(crate) events: &'w mut Vec<Event>,
    pub(crate) passed: usize,
}

impl Sink for Wire<'_> {
    fn pass(&mut self, range: Range<usize>) {
        assert!(range.start < range.end && self.passed <= range.start, "ranges in order");
        self.passed = range.end;
        self.output.extend_from_slice(&self.input[range]);
    }

    fn insert(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    fn event(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// A tracker between two recorded streams.
struct Pair {
    tracker: Tracker,
    now: u64,
    /// All that the client sent, and what went on of it.
    client: Vec<u8>,
    up: Vec<u8>,
    /// All that the server sent, and what the client got.
    server: Vec<u8>,
    down: Vec<u8>,
    events: Vec<Event>,
    /// From the client, not taken yet.
    rest: Vec<u8>,
    error: Option<ClientError>,
    recode: bool,
}

impl Pair {
    fn new(settings: Settings) -> Self {
        Self {
            tracker: Tracker::new(settings),
            now: 0,
            client: Vec::new(),
            up: Vec::new(),
            server: Vec::new(),
            down: Vec::new(),
            events: Vec::new(),
            rest: Vec::new(),
            error: None,
            recode: false,
        }
    }

    fn play(&mut self, script: &[u8], cut: &mut dyn FnMut() -> usize) {
        let mut side = CLIENT;
        let mut left = script;
        while !left.is_empty() && self.error.is_none() {
            let end = left.iter().position(|byte| *byte >= SERVER).unwrap_or(left.len());
            self.now += 1000;
            self.step(side, &left[..end], cut);
            side = left.get(end).copied().unwrap_or(side);
            left = left.get(end + 1..).unwrap_or_default();
        }
    }

    fn step(&mut self, side: u8, bytes: &[u8], cut: &mut dyn FnMut() -> usize) {
        for read in pieces(bytes, cut) {
            if side == CLIENT {
                self.client.extend_from_slice(read);
                self.rest.extend_from_slice(read);
                self.push_rest();
            } else {
                self.server.extend_from_slice(read);
                let (output, events) = (&mut self.down, &mut self.events);
                let mut wire = Wire { input: read, output, events, passed: 0 };
                self.tracker.server(read, self.now, &keeps, &mut wire);
                self.recode();
            }
        }
        self.push_rest();
    }

    /// As the relay does: until all is taken or the client is blocked.
    fn push_rest(&mut self) {
        while self.error.is_none() && !self.rest.is_empty() {
            let input = std::mem::take(&mut self.rest);
            let (output, events) = (&mut self.up, &mut self.events);
            let mut wire = Wire { input: &input, output, events, passed: 0 };
            match self.tracker.client(&input, self.now, &mut wire) {
                Ok(taken) => {
                    assert!(taken == input.len() || self.tracker.client_blocked(), "bytes left");
                    self.rest = input[taken..].to_vec();
                }
                Err(error) => self.error = Some(error),
            }
            let answered = self.tracker.take_answers(&mut self.down);
            if self.error.is_none() {
                self.recode();
            }
            if self.tracker.client_blocked() || (self.rest.len() == input.len() && !answered) {
                return;
            }
        }
    }

    fn recode(&mut self) {
        if self.recode {
            let mut bytes = Vec::new();
            self.tracker.encode(&mut bytes);
            let again = Tracker::decode(&bytes).expect("own state");
            assert_eq!(again, self.tracker, "another state behind encoding");
            self.tracker = again;
        }
    }

    /// What holds whatever the two sides say.
    fn check(&self) {
        let own = |event: &&Event| matches!(event, Event::Refused | Event::NoCommand);
        let refused = self.events.iter().filter(own).count();
        assert!(is_subsequence(&self.up, &self.client), "bytes to the server that nobody sent");
        if refused == 0 && self.error.is_none() {
            assert!(self.client.starts_with(&self.up), "bytes to the server were changed");
            // A command that is refused at its end is swallowed until then.
            let swallows = [&FORBIDDEN[..], &["DONE "]]
                .concat()
                .iter()
                .any(|word| contains_ignoring_case(&self.client, word.as_bytes()));
            let back = self.client.len() - self.up.len() - self.rest.len();
            assert!(swallows || back <= HEAD_BYTES_MAX, "{back} bytes are held back");
        }
        let filters = ["COMPRESS=DEFLATE", "UNAUTHENTICATE", "CAPABILITY"]
            .iter()
            .any(|word| contains_ignoring_case(&self.server, word.as_bytes()));
        if refused == 0 && !filters {
            assert_eq!(self.down, self.server, "bytes to the client were changed");
        }
        assert_eq!(self.tracker.opaque(), self.turned_opaque(), "opaque without an event");
        if self.tracker.at_command_border() {
            assert!(self.tracker.at_response_border() && !self.tracker.answers_wait());
            assert!(self.tracker.in_flight() == 0 || self.tracker.idle());
        }
        let (on, off) = (self.count(Event::IdleStarted), self.count(Event::IdleEnded));
        assert!(off <= on, "{on} IDLEs began and {off} ended");
    }

    fn count(&self, wanted: Event) -> usize {
        self.events.iter().filter(|event| **event == wanted).count()
    }

    fn turned_opaque(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::TurnedOpaque { .. }))
    }
}

/// What must not depend on the cuts.
fn assert_same(whole: &Pair, other: &Pair) {
    assert_eq!(whole.error, other.error);
    assert_eq!(whole.events, other.events);
    assert!(whole.up == other.up, "other bytes to the server");
    assert!(whole.down == other.down, "other bytes to the client");
    if whole.error.is_none() {
        assert_eq!(whole.tracker, other.tracker);
        assert!(whole.rest == other.rest);
    }
}

fn is_subsequence(part: &[u8], of: &[u8]) -> bool {
    let mut left = of.iter();
    part.iter().all(|byte| left.any(|other| other == byte))
}

fn contains_ignoring_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}
