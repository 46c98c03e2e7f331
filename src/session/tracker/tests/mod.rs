//! The tracker's tests: a driver that plays a conversation, cut as the test wants.

mod client;
mod cuts;
mod facts;
mod forbidden;
mod latency;
mod server;
mod state;

use std::ops::Range;

use super::{ClientError, Event, Keeps, Nanos, Settings, Sink, Status, Tracker};
use crate::protocol::command_kind::CommandKind;

/// Bytes from one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Client(Vec<u8>),
    Server(Vec<u8>),
}

pub(super) fn c(bytes: impl AsRef<[u8]>) -> Step {
    Step::Client(bytes.as_ref().to_vec())
}

pub(super) fn s(bytes: impl AsRef<[u8]>) -> Step {
    Step::Server(bytes.as_ref().to_vec())
}

/// A sink that builds the output.
struct Wire<'w> {
    input: &'w [u8],
    output: &'w mut Vec<u8>,
    events: &'w mut Vec<Event>,
    passed: Vec<Range<usize>>,
    inserted: usize,
}

impl Sink for Wire<'_> {
    fn pass(&mut self, range: Range<usize>) {
        assert!(range.start < range.end, "an empty range");
        if let Some(before) = self.passed.last() {
            assert!(before.end <= range.start, "ranges in order");
            assert!(before.end < range.start || self.inserted > 0, "adjacent ranges are merged");
        }
        self.output.extend_from_slice(&self.input[range.clone()]);
        self.passed.push(range);
    }

    fn insert(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        self.inserted += 1;
    }

    fn event(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// What the clients of these tests are to see.
struct Offered;

impl Keeps for Offered {
    fn keeps(&self, atom: &[u8]) -> bool {
        let is = |known: &str| known.as_bytes().eq_ignore_ascii_case(atom);
        !is("COMPRESS=DEFLATE") && !is("UNAUTHENTICATE")
    }
}

/// A tracker between two recorded streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) tracker: Tracker,
    pub(super) now: Nanos,
    /// To the server.
    pub(super) up: Vec<u8>,
    /// To the client.
    pub(super) down: Vec<u8>,
    pub(super) events: Vec<Event>,
    /// From the client, not taken yet.
    pub(super) rest: Vec<u8>,
    pub(super) error: Option<ClientError>,
    /// The state goes through its encoding after each call.
    pub(super) recode: bool,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        Self {
            tracker: Tracker::new(settings),
            now: 0,
            up: Vec::new(),
            down: Vec::new(),
            events: Vec::new(),
            rest: Vec::new(),
            error: None,
            recode: false,
        }
    }

    /// Bytes come from the client, in reads of the lengths that `cut` gives.
    pub(super) fn client_cut(&mut self, bytes: &[u8], cut: &mut dyn FnMut() -> usize) {
        for read in reads(bytes, cut) {
            self.rest.extend_from_slice(read);
            self.push_rest();
        }
    }

    /// Bytes come from the server; what the client had to wait with goes on behind them.
    pub(super) fn server_cut(&mut self, bytes: &[u8], cut: &mut dyn FnMut() -> usize) {
        for read in reads(bytes, cut) {
            let (output, events) = (&mut self.down, &mut self.events);
            let mut wire = Wire { input: read, output, events, passed: Vec::new(), inserted: 0 };
            self.tracker.server(read, self.now, &Offered, &mut wire);
            self.recode();
        }
        self.push_rest();
    }

    fn push_rest(&mut self) {
        while self.error.is_none() && !self.rest.is_empty() {
            let input = std::mem::take(&mut self.rest);
            let (output, events) = (&mut self.up, &mut self.events);
            let mut wire = Wire { input: &input, output, events, passed: Vec::new(), inserted: 0 };
            match self.tracker.client(&input, self.now, &mut wire) {
                Ok(taken) => {
                    self.rest = input[taken..].to_vec();
                    assert_eq!(
                        !self.rest.is_empty(),
                        self.tracker.client_blocked() && taken < input.len()
                    );
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
            let again = Tracker::decode(&bytes).unwrap();
            assert_eq!(again, self.tracker);
            self.tracker = again;
        }
    }

    pub(super) fn c(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.client_cut(bytes.as_ref(), &mut || usize::MAX);
        self
    }

    pub(super) fn s(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.server_cut(bytes.as_ref(), &mut || usize::MAX);
        self
    }

    pub(super) fn at(&mut self, now: Nanos) -> &mut Self {
        self.now = now;
        self
    }

    /// Plays a script; the clock advances with each step, not with each read.
    pub(super) fn play(&mut self, script: &[Step], cut: &mut dyn FnMut() -> usize) {
        for step in script {
            self.now += 1000;
            match step {
                Step::Client(bytes) => self.client_cut(bytes, cut),
                Step::Server(bytes) => self.server_cut(bytes, cut),
            }
            if self.error.is_some() {
                return;
            }
        }
    }

    /// Kinds and verdicts of what was finished, in order.
    pub(super) fn finished(&self) -> Vec<(CommandKind, Status)> {
        let told = |event: &Event| match event {
            Event::Finished { kind, status, .. } => Some((*kind, *status)),
            _ => None,
        };
        self.events.iter().filter_map(told).collect()
    }

    /// The state's outcome, without what a test's driver adds.
    pub(super) fn up_text(&self) -> String {
        String::from_utf8_lossy(&self.up).into_owned()
    }

    pub(super) fn down_text(&self) -> String {
        String::from_utf8_lossy(&self.down).into_owned()
    }
}

fn reads<'b>(bytes: &'b [u8], cut: &mut dyn FnMut() -> usize) -> Vec<&'b [u8]> {
    let mut left = bytes;
    let mut reads = Vec::new();
    while !left.is_empty() {
        let (read, rest) = left.split_at(cut().clamp(1, left.len()));
        reads.push(read);
        left = rest;
    }
    reads
}
