//! The state: small, and the same after its encoding.

use proptest::prelude::*;

use super::super::{DecodeError, Settings, Tracker};
use super::Pair;

fn encoded(tracker: &Tracker) -> Vec<u8> {
    let mut bytes = Vec::new();
    tracker.encode(&mut bytes);
    bytes
}

#[test]
fn an_idle_tracker_is_small() {
    let size = std::mem::size_of::<Tracker>();
    assert!(size <= 512, "{size} bytes");
    let mut pair = Pair::new();
    for number in 0..64 {
        pair.c(format!("{}{number} UID SEARCH RETURN (SAVE) ALL\r\n", "t".repeat(80)));
    }
    for number in 0..64 {
        pair.s(format!("{}{number} OK\r\n", "t".repeat(80)));
    }
    let flight = &pair.tracker.conversation.flight;
    assert!(flight.tags.capacity() <= 32 && flight.entries.capacity() <= 4);
    assert!(pair.tracker.client.capture.args.capacity() <= 16);
}

#[test]
fn another_version_is_refused() {
    let mut bytes = encoded(&Tracker::new(Settings { check_literal_lines: true }));
    assert!(Tracker::decode(&bytes).is_ok());
    bytes[0] = 2;
    assert_eq!(Tracker::decode(&bytes), Err(DecodeError::Version(2)));
    assert_eq!(Tracker::decode(&[]), Err(DecodeError::Broken));
}

#[test]
fn a_state_cut_short_or_with_more_behind_is_refused() {
    let mut pair = Pair::new();
    pair.c("a SELECT x\r\nb UID FETCH 1 FLAGS\r\nc APPEND {3}\r\n").s("a OK\r\n* CAPABILITY A B");
    let mut bytes = encoded(&pair.tracker);
    assert_eq!(Tracker::decode(&bytes), Ok(pair.tracker));
    for len in 0..bytes.len() {
        assert_eq!(Tracker::decode(&bytes[..len]), Err(DecodeError::Broken), "{len} bytes");
    }
    bytes.push(0);
    assert_eq!(Tracker::decode(&bytes), Err(DecodeError::Broken));
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut pair = Pair::new();
        pair.c("a SELECT x\r\nb UID FETCH 1 FLAGS\r\nc APPEND {3}\r\n").s("* CAPABILITY A B");
        let mut bytes = encoded(&pair.tracker);
        for (place, byte) in changes {
            let at = 1 + place.index(bytes.len() - 1);
            bytes[at] = byte;
        }
        if let Ok(tracker) = Tracker::decode(&bytes) {
            let mut pair = Pair { tracker, ..Pair::new() };
            pair.s("C\r\n+ go\r\na OK\r\n").s("b OK\r\n* 1 FETCH {2}\r\nab\r\nc OK\r\n");
            let mut sink = super::Wire {
                input: b"abc\r\nd NOOP\r\n",
                output: &mut Vec::new(),
                events: &mut Vec::new(),
                passed: Vec::new(),
                inserted: 0,
            };
            let _either = pair.tracker.client(b"abc\r\nd NOOP\r\n", 0, &mut sink);
        }
    }
}
