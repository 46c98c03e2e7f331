//! Turns values as written into values as used, and collects every fault on the way.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::config::fault::{Fault, draw_snippet, quoted};
use crate::config::network::{NETWORK_FORM, Network};
use crate::config::source::{Mark, Object, Source};
use crate::config::units::{self, DURATION_FORM, SIZE_FORM};

/// Faults listed at most; the others are counted.
const FAULTS_MAX: usize = 100;

/// Bytes of a listener's, shard's or backend's name at most (it becomes a metric label).
const NAME_BYTES_MAX: usize = 64;

/// A scalar as written, with its place.
pub(super) type Text = Spanned<String>;

/// A map in file order, its keys with their places. The parser refuses doubled keys.
#[derive(Debug)]
pub(super) struct Entries<V>(pub(super) Vec<(Text, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for InOrder<V> {
            type Value = Entries<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

/// A setting that is one of a few words.
pub(super) trait Keyword: Copy + 'static {
    /// Each word and what it means.
    const WORDS: &'static [(&'static str, Self)];
}

impl Keyword for bool {
    const WORDS: &'static [(&'static str, Self)] = &[("true", true), ("false", false)];
}

/// One check of one file: its text for snippets, and what was found.
#[derive(Debug)]
pub(super) struct Check<'t> {
    text: &'t str,
    folder: PathBuf,
    faults: Vec<Fault>,
    faults_left_out: usize,
    source: Source,
    /// Lines that hold a secret.
    hidden: HashSet<usize>,
    /// Where this proxy will listen for clients.
    listening: Vec<SocketAddr>,
}

impl<'t> Check<'t> {
    pub(super) fn new(file: &Path, text: &'t str) -> Self {
        Self {
            text,
            folder: file.parent().map(Path::to_owned).unwrap_or_default(),
            faults: Vec::new(),
            faults_left_out: 0,
            source: Source { file: file.to_owned(), marks: HashMap::new() },
            hidden: HashSet::new(),
            listening: Vec::new(),
        }
    }

    /// What was found: the places of all objects, or the faults.
    pub(super) fn finish(mut self) -> Result<Source, (Vec<Fault>, usize)> {
        let hidden = &self.hidden;
        for mark in self.source.marks.values_mut().filter(|mark| hidden.contains(&mark.line)) {
            mark.snippet.clear();
        }
        if self.faults.is_empty() {
            return Ok(self.source);
        }
        let drawn = self.faults.iter_mut();
        for fault in drawn.filter(|fault| fault.line.is_some_and(|line| hidden.contains(&line))) {
            fault.snippet = None;
        }
        self.faults.sort_by_key(|fault| (fault.line, fault.column));
        Err((self.faults, self.faults_left_out))
    }

    /// A fault at a place, not yet noted.
    pub(super) fn fault_at(&self, place: Location, message: impl Into<String>) -> Fault {
        let fault = Fault::whole_file(&self.source.file, message);
        match self.mark(place) {
            Some(mark) => fault.drawn_at(mark.line, mark.column, mark.snippet),
            None => fault,
        }
    }

    /// Notes a fault.
    pub(super) fn refuse(
        &mut self,
        place: Location,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        if self.faults.len() == FAULTS_MAX {
            self.faults_left_out += 1;
            return;
        }
        let fault = self.fault_at(place, message).expecting(expected);
        self.faults.push(fault);
    }

    /// Notes a fault of a place that may be looked at again, once.
    pub(super) fn refuse_once(&mut self, place: Location, message: &str, expected: &str) {
        let fault = self.fault_at(place, message);
        let same = |known: &Fault| {
            known.message == fault.message
                && (known.line, known.column) == (fault.line, fault.column)
        };
        if !self.faults.iter().any(same) {
            self.refuse(place, message, expected);
        }
    }

    /// A secret stands there: its line is drawn in no fault.
    pub(super) fn hide(&mut self, place: Location) {
        if let Some(mark) = self.mark(place) {
            self.hidden.insert(mark.line);
        }
    }

    /// Notes that a key cannot have the value that it has.
    pub(super) fn refuse_value(&mut self, key: &str, text: &Text, expected: impl Into<String>) {
        let message = format!("`{key}` cannot be {}", quoted(&text.value));
        self.refuse(text.defined, message, expected);
    }

    /// Remembers where an object stands.
    pub(super) fn remember(&mut self, object: Object, place: Location) {
        if let Some(mark) = self.mark(place) {
            self.source.marks.insert(object, mark);
        }
    }

    /// Remembers where clients connect.
    pub(super) fn listens_on(&mut self, address: SocketAddr) {
        self.listening.push(address);
    }

    /// Whether a backend there would be this proxy itself, as far as the file alone can tell.
    pub(super) fn is_own_listener(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let local = host.eq_ignore_ascii_case("localhost");
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        self.listening.iter().filter(|own| own.port() == port).any(|own| {
            let own = own.ip().to_canonical();
            let here = |address: IpAddr| {
                address == own
                    || address.is_unspecified()
                    || (own.is_unspecified() && address.is_loopback())
            };
            address.is_some_and(here) || (local && (own.is_loopback() || own.is_unspecified()))
        })
    }

    /// The value of a key that must be there; `owner` is blamed when it is not.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        value: Option<T>,
        owner: Location,
        expected: &str,
    ) -> Option<T> {
        if value.is_none() {
            self.refuse(owner, format!("`{key}` is missing"), expected);
        }
        value
    }

    /// One of a few words.
    pub(super) fn word<T: Keyword>(&mut self, key: &str, text: Option<&Text>, default: T) -> T {
        let Some(text) = text else { return default };
        let found = T::WORDS.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            self.refuse_value(key, text, one_of::<T>());
        }
        found.map_or(default, |(_, value)| *value)
    }

    /// One of a few words, which must be there.
    pub(super) fn required_word<T: Keyword>(
        &mut self,
        key: &str,
        text: Option<&Text>,
        owner: Location,
    ) -> Option<T> {
        let text = self.required(key, text, owner, &format!("`{key}`: {}", one_of::<T>()))?;
        let (_, value) = T::WORDS.iter().find(|(word, _)| *word == text.value).or_else(|| {
            self.refuse_value(key, text, one_of::<T>());
            None
        })?;
        Some(*value)
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &mut self,
        key: &str,
        text: Option<&Text>,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(text) = text else { return default };
        let number = text.value.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            self.refuse_value(key, text, expected);
        }
        number.unwrap_or(default)
    }

    /// A time within bounds.
    pub(super) fn duration(
        &mut self,
        key: &str,
        text: Option<&Text>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(text) = text else { return default };
        let time = units::parse_duration(&text.value).filter(|time| range.contains(time));
        if time.is_none() {
            let [from, to] = [range.start(), range.end()].map(|end| units::show_duration(*end));
            self.refuse_value(key, text, format!("{DURATION_FORM}, from {from} to {to}"));
        }
        time.unwrap_or(default)
    }

    /// A number of bytes within bounds.
    pub(super) fn size(
        &mut self,
        key: &str,
        text: Option<&Text>,
        range: RangeInclusive<usize>,
        default: usize,
    ) -> usize {
        let Some(text) = text else { return default };
        let size = units::parse_size(&text.value).filter(|size| range.contains(size));
        if size.is_none() {
            let (from, to) = (range.start(), range.end());
            self.refuse_value(key, text, format!("{SIZE_FORM}, from {from} to {to} bytes"));
        }
        size.unwrap_or(default)
    }

    /// A file or directory; a relative one lies in the configuration file's folder.
    pub(super) fn path(&mut self, key: &str, text: &Text) -> Option<PathBuf> {
        if text.value.is_empty() || text.value.contains('\0') {
            self.refuse_value(key, text, "a path; a relative one begins at this file's folder");
            return None;
        }
        Some(self.folder.join(&text.value))
    }

    /// The same of a path that is a part of a value.
    pub(super) fn path_of(&mut self, key: &str, path: &str, text: &Text) -> Option<PathBuf> {
        self.path(key, &Text { value: path.to_owned(), ..text.clone() })
    }

    /// A list of IP networks.
    pub(super) fn networks(&mut self, key: &str, texts: Option<&[Text]>) -> Vec<Network> {
        let mut networks = Vec::new();
        for text in texts.unwrap_or_default() {
            match Network::parse(&text.value) {
                Some(network) => networks.push(network),
                None => self.refuse_value(key, text, NETWORK_FORM),
            }
        }
        networks
    }

    fn mark(&self, place: Location) -> Option<Mark> {
        let line = usize::try_from(place.line()).ok().filter(|line| *line > 0)?;
        let column = usize::try_from(place.column()).ok()?;
        // The parser knows the byte of every value, so that a file of one long line costs no
        // search; only its own errors may lack it.
        let at = place.span().byte_offset().and_then(|at| usize::try_from(at).ok());
        let at = at.unwrap_or_else(|| byte_at(self.text, line, column));
        let (before, after) = self.text.split_at_checked(at)?;
        let snippet = draw_snippet(line, before, after);
        Some(Mark { line, column, snippet })
    }
}

/// Names that may be used once, each with the place of its first use.
#[derive(Debug)]
pub(super) struct Names {
    what: &'static str,
    seen: HashMap<String, Location>,
}

impl Names {
    /// `what`: what bears the names, e.g. `backend`.
    pub(super) fn of(what: &'static str) -> Self {
        Self { what, seen: HashMap::new() }
    }

    /// Takes a name that is well formed and new, or notes the fault.
    pub(super) fn take(&mut self, check: &mut Check<'_>, text: &Text) {
        let what = self.what;
        if !is_name(&text.value) {
            let message = format!("a {what} cannot be named {}", quoted(&text.value));
            let expected = "1 to 64 of the characters A-Z a-z 0-9 . _ -";
            check.refuse(text.defined, message, expected);
        }
        self.take_any(check, text.value.clone(), text);
    }

    /// Takes a value in whatever form, if it is new.
    pub(super) fn take_any(&mut self, check: &mut Check<'_>, value: String, text: &Text) {
        let what = self.what;
        if let Some(first) = self.seen.get(&value) {
            let message = format!("{what} {} is there twice", quoted(&text.value));
            let expected = format!("each {what} once; the first is on line {}", first.line());
            check.refuse(text.defined, message, expected);
            return;
        }
        self.seen.insert(value, text.defined);
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn one_of<T: Keyword>() -> String {
    let words: Vec<String> = T::WORDS.iter().map(|(word, _)| quoted(word)).collect();
    format!("one of {}", words.join(", "))
}

/// The byte at a line and column, both from 1.
fn byte_at(text: &str, line: usize, column: usize) -> usize {
    let begin: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = text.get(begin..).unwrap_or_default();
    begin + rest.chars().take(column.saturating_sub(1)).map(char::len_utf8).sum::<usize>()
}
