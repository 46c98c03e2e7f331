//! What a compiled map looks like: an LMDB file of names and shard numbers, a first record
//! that says what the numbers mean, and a seal behind the last page.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3Default;

use crate::config::{Canonical, Routing};
use crate::names::ShardId;

/// Key of the first record. No name has a NUL, so it sorts before all of them.
pub(super) const META_KEY: &[u8] = b"\0pointsman";

/// What the seal begins with.
const SEAL_WORD: &[u8; 16] = b"pointsman users\n";

/// The word, and 128 bits over all bytes before it.
const SEAL_BYTES: u64 = 32;

/// LMDB's mark in its first page, and where it stands.
const LMDB_MARK: [u8; 4] = 0xBEEF_C0DE_u32.to_le_bytes();
const LMDB_MARK_AT: usize = 16;

/// The rules that made the names canonical. A map is good for a configuration with the same
/// ones only: else some of its users would not be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The canonical form.
    pub canonical: Canonical,
    /// What was added to names without `@`.
    pub default_domain: Option<String>,
}

impl From<&Routing> for Rules {
    fn from(routing: &Routing) -> Self {
        Self { canonical: routing.canonical, default_domain: routing.default_domain.clone() }
    }
}

impl Rules {
    /// These rules as canonical names are made by them.
    pub(super) fn routing(&self) -> Routing {
        Routing::of_names(self.canonical, self.default_domain.clone())
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`canonical: {}` and ", word_of(self.canonical))?;
        match &self.default_domain {
            Some(domain) => write!(f, "`default_domain: {domain}`"),
            None => f.write_str("no `default_domain`"),
        }
    }
}

const CANONICAL_WORDS: [(&str, Canonical); 3] = [
    ("lowercase", Canonical::Lowercase),
    ("precis", Canonical::Precis),
    ("exact", Canonical::Exact),
];

fn word_of(canonical: Canonical) -> &'static str {
    CANONICAL_WORDS.iter().find(|(_, form)| *form == canonical).map_or("", |(word, _)| word)
}

/// The first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) rules: Rules,
    /// Names in the map.
    pub(super) names: u64,
    /// The shards in the order of their numbers.
    pub(super) shards: Vec<ShardId>,
}

impl Meta {
    /// meta = `users 1` LF `canonical` SP word LF [`default_domain` SP domain LF] `names` SP
    /// number LF *(`shard` SP name LF)
    pub(super) fn encode(&self) -> String {
        let mut text = format!("users 1\ncanonical {}\n", word_of(self.rules.canonical));
        if let Some(domain) = &self.rules.default_domain {
            let _ = writeln!(text, "default_domain {domain}"); // Text takes all.
        }
        let _ = writeln!(text, "names {}", self.names);
        for shard in &self.shards {
            let _ = writeln!(text, "shard {shard}");
        }
        text
    }

    /// None where it is none, or of another version.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        lines.next().filter(|first| *first == "users 1")?;
        let word = lines.next()?.strip_prefix("canonical ")?;
        let (_, canonical) = *CANONICAL_WORDS.iter().find(|(known, _)| *known == word)?;
        let mut line = lines.next()?;
        let mut default_domain = None;
        if let Some(domain) = line.strip_prefix("default_domain ") {
            default_domain = Some(domain.to_owned());
            line = lines.next()?;
        }
        let names = line.strip_prefix("names ")?.parse().ok()?;
        let shards = lines.map(|line| line.strip_prefix("shard ").map(ShardId::new));
        let shards = shards.collect::<Option<_>>()?;
        Some(Self { rules: Rules { canonical, default_domain }, names, shards })
    }
}

/// What is known of a file's seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    /// There is none.
    Absent,
    /// All bytes are as they were written.
    Whole,
    /// They are not.
    Broken,
}

/// Whether a file is an LMDB file of any kind: a compiled map, not text.
pub(in super::super) fn is_lmdb(path: &Path) -> io::Result<bool> {
    if !std::fs::metadata(path)?.is_file() {
        return Ok(false); // A pipe would block for ever.
    }
    let mut head = Vec::new();
    let bound = u64::try_from(LMDB_MARK_AT + LMDB_MARK.len()).unwrap_or(u64::MAX);
    File::open(path)?.take(bound).read_to_end(&mut head)?;
    Ok(head.get(LMDB_MARK_AT..) == Some(LMDB_MARK.as_slice()))
}

/// Seals a file and brings it to the disk.
pub(super) fn seal(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let digest = digest(&mut file, u64::MAX)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(SEAL_WORD)?;
    file.write_all(&digest.to_le_bytes())?;
    file.sync_all()
}

/// Reads a file through and says what its seal is worth.
pub(super) fn check_seal(path: &Path) -> io::Result<Seal> {
    let mut file = File::open(path)?;
    let Some(body_bytes) = file.metadata()?.len().checked_sub(SEAL_BYTES) else {
        return Ok(Seal::Absent);
    };
    let (mut word, mut sealed) = ([0; 16], [0; 16]);
    file.seek(SeekFrom::Start(body_bytes))?;
    file.read_exact(&mut word)?;
    file.read_exact(&mut sealed)?;
    if word != *SEAL_WORD {
        return Ok(Seal::Absent);
    }
    file.rewind()?;
    let whole = digest(&mut file, body_bytes)? == u128::from_le_bytes(sealed);
    Ok(if whole { Seal::Whole } else { Seal::Broken })
}

/// 128 bits over the first bytes of a file, from where it stands.
fn digest(file: &mut File, bytes_max: u64) -> io::Result<u128> {
    let mut buffer = vec![0; 1 << 20];
    let mut bounded = file.take(bytes_max);
    let mut hash = Xxh3Default::new();
    loop {
        match bounded.read(&mut buffer)? {
            0 => return Ok(hash.digest128()),
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_reads_back_as_it_was_written() {
        for default_domain in [None, Some("example.org".to_owned())] {
            let rules = Rules { canonical: Canonical::Precis, default_domain };
            let shards = ["north", "south"].map(ShardId::new).to_vec();
            let meta = Meta { rules, names: 10_000_000, shards };
            assert_eq!(Meta::parse(meta.encode().as_bytes()), Some(meta));
        }
        for odd in ["", "users 2\ncanonical exact\nnames 1\n", "users 1\ncanonical x\nnames 1\n"] {
            assert_eq!(Meta::parse(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn a_seal_breaks_with_any_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map");
        std::fs::write(&path, "some bytes").unwrap();
        assert_eq!(check_seal(&path).unwrap(), Seal::Absent);
        seal(&path).unwrap();
        assert_eq!(check_seal(&path).unwrap(), Seal::Whole);
        let sealed = std::fs::read(&path).unwrap();
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            std::fs::write(&path, changed).unwrap();
            assert_ne!(check_seal(&path).unwrap(), Seal::Whole, "byte {place}");
        }
    }
}
