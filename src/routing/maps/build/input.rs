//! Reads a users file in as many parts as there are cores, each sorted.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use super::Order;
use crate::config::Routing;
use crate::names::ShardId;
use crate::routing::maps::generation::is_shard_name;
use crate::routing::name::canonical_into;
use crate::routing::sources::line::{
    FAULTS_MAX, LINE_BYTES_MAX, LineFault, LineProblem, UserLine, read_line, shown,
};

/// A part is worth a thread from this size on.
const PART_BYTES_MIN: u64 = 1 << 20;
const PARTS_MAX: u64 = 16;

/// How a users file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// `user shard` a line, `#` comments.
    Text,
    /// `user,shard` a line, the first one may name the columns.
    Csv,
}

/// A user of a part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    offset: u64,
    /// Line of the part, from 0.
    line: u32,
    length: u16,
    /// Number among the part's shards.
    pub(super) shard: u16,
}

/// A part of a users file, its entries sorted by name and line.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Its number.
    pub(super) place: usize,
    /// Lines of the file before it.
    lines_before: u32,
    lines: u32,
    pub(super) arena: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    pub(super) shards: Vec<ShardId>,
    pub(super) faults: Vec<LineFault>,
    pub(super) fault_count: usize,
}

impl Part {
    pub(super) fn name(&self, entry: &Entry) -> &[u8] {
        name_in(&self.arena, entry)
    }

    /// Line of the file, from 1.
    pub(super) fn line(&self, entry: &Entry) -> u32 {
        self.lines_before.saturating_add(entry.line).saturating_add(1)
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        self.entries.sort_unstable_by(|one, other| {
            name_in(arena, one).cmp(name_in(arena, other)).then(one.line.cmp(&other.line))
        });
    }
}

fn name_in<'a>(arena: &'a [u8], entry: &Entry) -> &'a [u8] {
    let begin = usize::try_from(entry.offset).unwrap_or(usize::MAX);
    let end = begin.saturating_add(usize::from(entry.length));
    arena.get(begin..end).unwrap_or_default()
}

/// Reads all of a file, in as many parts as are worth it.
pub(super) fn read(order: &Order) -> io::Result<Vec<Part>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = u64::try_from(cores).unwrap_or(1).min(PARTS_MAX);
    let bytes = std::fs::metadata(&order.input)?.len();
    read_parts(order, (bytes / PART_BYTES_MIN).clamp(1, cores))
}

/// Reads all of a file, in parts, on as many threads.
fn read_parts(order: &Order, parts: u64) -> io::Result<Vec<Part>> {
    let metadata = std::fs::metadata(&order.input)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let share = metadata.len() / parts;
    let read_part = |place: u64| {
        let end = if place + 1 == parts { u64::MAX } else { share * (place + 1) };
        PartReader::new(order).read(place, share * place, end)
    };
    let mut parts = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..parts).map(|place| scope.spawn(move || read_part(place))).collect();
        let stopped = |_| io::Error::other("a thread that read it ended");
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(stopped)?)
            .collect::<io::Result<Vec<_>>>()
    })?;
    let mut lines_before = 0_u32;
    for (place, part) in parts.iter_mut().enumerate() {
        part.place = place;
        part.lines_before = lines_before;
        for fault in &mut part.faults {
            fault.line = fault.line.saturating_add(lines_before);
        }
        lines_before = lines_before.saturating_add(part.lines);
    }
    Ok(parts)
}

/// The text of some lines, given in their order.
pub(super) fn lines(path: &Path, wanted: impl Iterator<Item = u32>) -> io::Result<Vec<Vec<u8>>> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut texts = Vec::new();
    let (mut bytes, mut line) = (Vec::new(), 0_u32);
    for wanted in wanted {
        while line < wanted {
            if read_line(&mut reader, &mut bytes)?.is_none() {
                return Err(io::Error::other("it changed while it was read"));
            }
            line += 1;
        }
        texts.push(bytes.clone());
    }
    Ok(texts)
}

struct PartReader<'o> {
    order: &'o Order,
    rules: Routing,
    name: String,
    numbers: HashMap<Vec<u8>, u16>,
    part: Part,
}

impl<'o> PartReader<'o> {
    fn new(order: &'o Order) -> Self {
        Self {
            order,
            rules: order.rules.routing(),
            name: String::new(),
            numbers: HashMap::new(),
            part: Part::default(),
        }
    }

    /// Reads the lines that begin from one byte on and before another one.
    fn read(mut self, place: u64, begin: u64, end: u64) -> io::Result<Part> {
        let mut file = File::open(&self.order.input)?;
        let mut at = begin;
        let mut reader = if begin == 0 {
            BufReader::with_capacity(1 << 18, file)
        } else {
            // The line that is cut here belongs to the part before; one that begins exactly
            // here does not.
            file.seek(SeekFrom::Start(begin - 1))?;
            let mut reader = BufReader::with_capacity(1 << 18, file);
            at = begin - 1 + skip_line(&mut reader)?;
            reader
        };
        let mut bytes = Vec::with_capacity(LINE_BYTES_MAX + 1);
        while at < end {
            let Some(read) = read_line(&mut reader, &mut bytes)? else { break };
            at += read.file_bytes;
            let line = self.part.lines;
            self.part.lines = line.saturating_add(1);
            let taken = if read.whole {
                self.take(&bytes, line, place == 0 && line == 0)
            } else {
                Err((LINE_BYTES_MAX, LineProblem::TooLong))
            };
            if let Err((at, problem)) = taken {
                self.part.fault_count += 1;
                if self.part.faults.len() < FAULTS_MAX {
                    self.part.faults.push(LineFault::new(&bytes, line + 1, at, problem));
                }
            }
        }
        self.part.sort();
        Ok(self.part)
    }

    fn take(&mut self, bytes: &[u8], line: u32, first: bool) -> Result<(), (usize, LineProblem)> {
        let read = match self.order.format {
            InputFormat::Text => UserLine::of_text(bytes)?,
            InputFormat::Csv => UserLine::of_csv(bytes)?.filter(|row| !(first && row.is_header())),
        };
        let Some(UserLine { user: (user_at, user), shard: (shard_at, shard) }) = read else {
            return Ok(());
        };
        canonical_into(&self.rules, user, &mut self.name)
            .map_err(|error| (user_at, LineProblem::Name(error)))?;
        let shard = match self.numbers.get(shard) {
            Some(number) => *number,
            None => self.new_shard(shard).map_err(|problem| (shard_at, problem))?,
        };
        let length = u16::try_from(self.name.len()).map_err(|_| (user_at, LineProblem::TooLong))?;
        let offset = u64::try_from(self.part.arena.len()).unwrap_or(u64::MAX);
        self.part.arena.extend_from_slice(self.name.as_bytes());
        self.part.entries.push(Entry { offset, line, length, shard });
        Ok(())
    }

    fn new_shard(&mut self, shard: &[u8]) -> Result<u16, LineProblem> {
        let named = std::str::from_utf8(shard).ok().filter(|name| is_shard_name(name));
        let name = match (named, &self.order.shards) {
            (Some(name), None) => name,
            (Some(name), Some(known)) if known.iter().any(|shard| shard.as_str() == name) => name,
            (_, Some(_)) => return Err(LineProblem::UnknownShard(shown(shard))),
            (None, None) => return Err(LineProblem::ShardName(shown(shard))),
        };
        let number = u16::try_from(self.part.shards.len())
            .map_err(|_| LineProblem::UnknownShard(shown(shard)))?;
        self.part.shards.push(ShardId::new(name));
        self.numbers.insert(shard.to_vec(), number);
        Ok(number)
    }
}

fn skip_line(reader: &mut BufReader<File>) -> io::Result<u64> {
    reader.skip_until(b'\n').map(|skipped| u64::try_from(skipped).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Canonical;
    use crate::routing::maps::Rules;

    /// A name, its line and its shard.
    type Row = (Vec<u8>, u32, ShardId);

    /// All users, sorted, and the faults.
    fn read_in(order: &Order, parts: u64) -> (Vec<Row>, Vec<LineFault>) {
        let parts = read_parts(order, parts).unwrap();
        let row = |part: &Part, entry: &Entry| {
            let shard = part.shards[usize::from(entry.shard)].clone();
            (part.name(entry).to_vec(), part.line(entry), shard)
        };
        let mut entries = Vec::new();
        for part in &parts {
            entries.extend(part.entries.iter().map(|entry| row(part, entry)));
        }
        entries.sort();
        (entries, parts.iter().flat_map(|part| part.faults.clone()).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// However many threads read a file, the map and the faults are the same.
        #[test]
        fn parts_make_no_difference(
            lines in prop::collection::vec("[a-d]{1,3} (north|south)|#|alone|", 0..40),
            end in "\n?",
        ) {
            let folder = tempfile::tempdir().unwrap();
            let input = folder.path().join("users");
            std::fs::write(&input, lines.join("\n") + &end).unwrap();
            let rules = Rules { canonical: Canonical::Lowercase, default_domain: None };
            let output = folder.path().join("map");
            let format = InputFormat::Text;
            let order = Order { input, format, output, rules, shards: None };
            let whole = read_in(&order, 1);
            for parts in 2..9 {
                prop_assert_eq!(&read_in(&order, parts), &whole, "{} parts", parts);
            }
        }
    }
}
