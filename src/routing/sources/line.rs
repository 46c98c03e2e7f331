//! A line of a users file: `user shard`, or `user,shard` in a CSV file.

use std::io::{self, BufRead, Read};
use std::path::Path;

use crate::config::Fault;
use crate::names::UserName;
use crate::routing::name::NameError;

/// Longest line in bytes: the longest name, the shard and a comment.
pub(in super::super) const LINE_BYTES_MAX: usize = 1024;

/// Faults reported in one go; more say nothing new about a file.
pub(in super::super) const FAULTS_MAX: usize = 20;

/// Characters of a wrong shard name that are shown at most.
const SHOWN_CHARS_MAX: usize = 80;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// No user can have this name.
    #[error("{0}")]
    Name(#[from] NameError),
    /// The name stands alone.
    #[error("no shard follows the user name")]
    NoShard,
    /// More than two words.
    #[error("more than a user name and a shard")]
    MoreWords,
    /// A field of a CSV file whose quotes do not match.
    #[error("the quotes of this field do not match")]
    BadQuotes,
    /// No shard can have this name.
    #[error("a shard cannot be named {0:?}")]
    ShardName(String),
    /// The shard is not configured.
    #[error("there is no shard {0:?}")]
    UnknownShard(String),
    /// The user has a line already, perhaps spelled in another way.
    #[error("the user {user} is there twice")]
    Doubled {
        /// The canonical name.
        user: UserName,
        /// The other line.
        line: u32,
    },
    /// Longer than any line can be.
    #[error("the line is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// The names before this line fill 4 GiB.
    #[error("the file has more users than can be held in memory")]
    TooMany,
}

impl LineProblem {
    /// What would be right.
    fn expected(&self) -> String {
        match self {
            Self::Name(_) => "a name that a user can log in with".to_owned(),
            Self::NoShard | Self::TooLong => {
                "`user shard`, or `user,shard` in a CSV file".to_owned()
            }
            Self::ShardName(_) => "1 to 64 of the characters A-Z a-z 0-9 . _ -".to_owned(),
            Self::MoreWords => "`user shard`, and `#` before a comment".to_owned(),
            Self::BadQuotes => "`user,shard`, each as it is or between double quotes".to_owned(),
            Self::UnknownShard(_) => "a shard that stands under `shards`".to_owned(),
            Self::Doubled { line, .. } => {
                format!("each user once, in whatever spelling; the first is on line {line}")
            }
            Self::TooMany => "at most 4 GiB of names".to_owned(),
        }
    }
}

/// A line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFault {
    /// Number of the line, from 1.
    pub line: u32,
    /// Where in the line the fault is, in characters from 1.
    pub column: usize,
    /// The line, without what is over the longest that is read.
    pub text: String,
    /// What is wrong with it.
    pub problem: LineProblem,
}

impl LineFault {
    pub(in super::super) fn new(bytes: &[u8], line: u32, at: usize, problem: LineProblem) -> Self {
        let before = bytes.get(..at).unwrap_or_default();
        let column = String::from_utf8_lossy(before).chars().count() + 1;
        Self { line, column, text: String::from_utf8_lossy(bytes).into_owned(), problem }
    }

    pub(in super::super) fn show(&self, file: &Path) -> Fault {
        let line = usize::try_from(self.line).unwrap_or(usize::MAX);
        Fault::whole_file(file, self.problem.to_string())
            .at(line, self.column, &self.text)
            .expecting(self.problem.expected())
    }
}

/// The words of a line that names a user, each with the byte that it begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct UserLine<'a> {
    pub(in super::super) user: (usize, &'a [u8]),
    pub(in super::super) shard: (usize, &'a [u8]),
}

impl<'a> UserLine<'a> {
    /// line = [blanks] [user blanks shard] [blanks] [`#` comment]; a comment behind the shard
    /// begins behind a blank. None where there is no user. A fault comes with the byte of the
    /// line that is to blame.
    pub(in super::super) fn of_text(line: &'a [u8]) -> Result<Option<Self>, (usize, LineProblem)> {
        let mut words = words(line);
        let is_comment = |(_, word): &(usize, &[u8])| word.starts_with(b"#");
        let Some(user) = words.next().filter(|word| !is_comment(word)) else {
            return Ok(None);
        };
        let shard = words
            .next()
            .filter(|word| !is_comment(word))
            .ok_or((user.0 + user.1.len(), LineProblem::NoShard))?;
        if let Some((at, _)) = words.next().filter(|word| !is_comment(word)) {
            return Err((at, LineProblem::MoreWords));
        }
        Ok(Some(Self { user, shard }))
    }

    /// line = [user `,` shard]; each may stand between double quotes.
    pub(in super::super) fn of_csv(line: &'a [u8]) -> Result<Option<Self>, (usize, LineProblem)> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let comma = line.iter().position(|byte| *byte == b',');
        let comma = comma.ok_or((line.len(), LineProblem::NoShard))?;
        let (user, rest) = line.split_at(comma);
        let shard = rest.get(1..).unwrap_or_default();
        if let Some(more) = shard.iter().position(|byte| *byte == b',') {
            return Err((comma + 1 + more, LineProblem::MoreWords));
        }
        let (user, shard) = (field(0, user)?, field(comma + 1, shard)?);
        if shard.1.is_empty() {
            return Err((shard.0, LineProblem::NoShard));
        }
        Ok(Some(Self { user, shard }))
    }

    /// Whether it is the first line of a CSV file, with the names of its columns.
    pub(in super::super) fn is_header(&self) -> bool {
        self.user.1.eq_ignore_ascii_case(b"user") && self.shard.1.eq_ignore_ascii_case(b"shard")
    }
}

/// A field of a CSV line without blanks and quotes around it. No name has a quote inside.
fn field(at: usize, raw: &[u8]) -> Result<(usize, &[u8]), (usize, LineProblem)> {
    let blanks = raw.len() - raw.trim_ascii_start().len();
    let (at, text) = (at + blanks, raw.trim_ascii());
    let inner = match text.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"").ok_or((at, LineProblem::BadQuotes))?,
        None => text,
    };
    if inner.contains(&b'"') {
        return Err((at, LineProblem::BadQuotes));
    }
    Ok((at + usize::from(inner.len() < text.len()), inner))
}

/// The words of a line, each with the byte that it begins at.
fn words(line: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut next = 0;
    let placed = line.split(u8::is_ascii_whitespace).map(move |word| {
        let at = next;
        next += word.len() + 1;
        (at, word)
    });
    placed.filter(|(_, word)| !word.is_empty())
}

/// A line that was read.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct LineRead {
    /// False where it is too long: the rest was skipped.
    pub(in super::super) whole: bool,
    /// Bytes of the file that it took, its end included.
    pub(in super::super) file_bytes: u64,
}

/// Reads the next line into `bytes`, its end included. None at the end of the file.
pub(in super::super) fn read_line(
    reader: &mut impl BufRead,
    bytes: &mut Vec<u8>,
) -> io::Result<Option<LineRead>> {
    bytes.clear();
    let bound = u64::try_from(LINE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    let mut read = reader.by_ref().take(bound).read_until(b'\n', bytes)?;
    if read == 0 {
        return Ok(None);
    }
    let whole = bytes.len() <= LINE_BYTES_MAX || bytes.ends_with(b"\n");
    if !whole {
        read += reader.skip_until(b'\n')?;
    }
    Ok(Some(LineRead { whole, file_bytes: u64::try_from(read).unwrap_or(u64::MAX) }))
}

/// A wrong shard name as it is told.
pub(in super::super) fn shown(shard: &[u8]) -> String {
    String::from_utf8_lossy(shard).chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(line: &str) -> Result<Option<(&str, &str)>, (usize, LineProblem)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        let read = UserLine::of_csv(line.as_bytes())?;
        Ok(read.map(|line| (text(line.user.1), text(line.shard.1))))
    }

    #[test]
    fn a_csv_line_is_two_fields_with_or_without_quotes() {
        assert_eq!(csv("bob,north\r\n"), Ok(Some(("bob", "north"))));
        assert_eq!(csv(" \"bob\" , \"north\""), Ok(Some(("bob", "north"))));
        assert_eq!(csv("\n"), Ok(None));
        assert_eq!(csv("bob\n"), Err((3, LineProblem::NoShard)));
        assert_eq!(csv("bob, \n"), Err((5, LineProblem::NoShard)));
        assert_eq!(csv("bob,north,south"), Err((9, LineProblem::MoreWords)));
        for odd in ["\"bob,north", "bo\"b,north", "\",north", "\"b\"\"ob\",north"] {
            assert!(matches!(csv(odd), Err((_, LineProblem::BadQuotes))), "{odd}");
        }
        assert!(UserLine::of_csv(b"\"User\",SHARD").unwrap().unwrap().is_header());
        assert!(!UserLine::of_csv(b"user,north").unwrap().unwrap().is_header());
    }
}
