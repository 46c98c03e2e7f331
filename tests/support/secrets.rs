//! Secrets that a test gives away to the proxy alone, and the search for any trace of
//! them in what the proxy shows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Characters of a secret that suffice for a find. A cut secret is a leak too.
const PIECE_BYTES: usize = 8;
/// Characters of its base64 that suffice: more than eight bytes' worth.
const BASE64_PIECE_BYTES: usize = 12;

/// All secrets of one test.
#[derive(Debug, Default)]
pub struct Secrets {
    words: BTreeSet<String>,
}

impl Secrets {
    /// A new secret of 24 letters and digits, which no quoting or escaping changes.
    pub fn fresh(&mut self) -> String {
        let word: String = std::iter::repeat_with(fastrand::alphanumeric).take(24).collect();
        self.keep(&word);
        word
    }

    /// Takes in a secret from elsewhere, such as a token.
    pub fn keep(&mut self, word: &str) {
        assert!(word.len() >= 2 * PIECE_BYTES, "{word:?} is too short to be searched for");
        self.words.insert(word.to_owned());
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.words.len()
    }

    /// Where a piece of a secret stands in the text, in whatever case: as it is, in base64
    /// at any alignment, in hex, or as a list of byte values.
    pub fn found_in(&self, text: &[u8]) -> Vec<String> {
        let text = text.to_ascii_lowercase();
        let mut finds = BTreeMap::new();
        for (length, pieces) in &self.pieces() {
            for (at, window) in text.windows(*length).enumerate() {
                if let Some(form) = pieces.get(window) {
                    // One find a line is enough to see where it comes from.
                    let line = line_around(&text, at);
                    finds.entry(line).or_insert_with(|| (*form).to_owned());
                }
            }
        }
        finds.into_iter().map(|(line, form)| format!("{form}: {line}")).collect()
    }

    /// All pieces in lower case by their length, each with the name of its form.
    fn pieces(&self) -> HashMap<usize, HashMap<Vec<u8>, &'static str>> {
        let mut pieces: HashMap<usize, HashMap<Vec<u8>, &'static str>> = HashMap::new();
        for word in &self.words {
            for (form, piece) in pieces_of(word.as_bytes()) {
                let piece = piece.to_ascii_lowercase().into_bytes();
                pieces.entry(piece.len()).or_default().insert(piece, form);
            }
        }
        pieces
    }
}

fn pieces_of(word: &[u8]) -> Vec<(&'static str, String)> {
    let mut pieces = Vec::new();
    for window in word.windows(PIECE_BYTES) {
        pieces.push(("plain", String::from_utf8_lossy(window).into_owned()));
        pieces.push(("hex", hex(window)));
        let listed: Vec<String> = window.iter().map(u8::to_string).collect();
        pieces.push(("list", listed.join(", ")));
        pieces.push(("list", listed.join(",")));
    }
    for before in 0..3 {
        for engine in [STANDARD, URL_SAFE] {
            let text = engine.encode([vec![0; before], word.to_vec()].concat());
            // What shares a group with other bytes is not of the secret alone.
            let own = &text.as_bytes()[4.min(before * 4)..text.len() / 4 * 4 - 4];
            let windows = own.windows(BASE64_PIECE_BYTES);
            pieces.extend(windows.map(|piece| ("base64", String::from_utf8_lossy(piece).into())));
        }
    }
    pieces
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn line_around(text: &[u8], at: usize) -> String {
    let start = memchr::memrchr(b'\n', &text[..at]).map_or(0, |end| end + 1);
    let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |end| at + end);
    String::from_utf8_lossy(&text[start..end]).into_owned()
}
