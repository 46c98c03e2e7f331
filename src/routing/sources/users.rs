//! The users file: a line `user shard` for each user, held in memory.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Shards;
use super::line::{FAULTS_MAX, LINE_BYTES_MAX, LineFault, LineProblem, UserLine, read_line, shown};
use super::user_index::{IndexedUser, Refused, UserIndex};
use crate::config::{Fault, Routing};
use crate::names::{ShardId, UserName};
use crate::routing::name::canonical_into;

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("the users file {file:?} cannot be read: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Lines of it are wrong: the first 20 of them.
    #[error("{}", FaultList(&self.faults()))]
    Lines {
        /// The file.
        file: PathBuf,
        /// The faults in the order of their lines.
        faults: Vec<LineFault>,
        /// How many more there are.
        more: usize,
    },
}

impl UsersError {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "users_unreadable",
            Self::Lines { .. } => "users_lines",
        }
    }

    /// The faults at their places in the file, the last one telling how many more there
    /// are; none where the file cannot be read.
    pub fn faults(&self) -> Vec<Fault> {
        let Self::Lines { file, faults, more } = self else { return Vec::new() };
        let mut shown: Vec<Fault> = faults.iter().map(|fault| fault.show(file)).collect();
        if *more > 0 {
            shown.push(Fault::whole_file(file, format!("and {more} more lines are wrong")));
        }
        shown
    }
}

/// The faults as an operator reads them.
struct FaultList<'a>(&'a [Fault]);

impl fmt::Display for FaultList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.0.iter().enumerate() {
            let line_break = if number == 0 { "" } else { "\n" };
            write!(f, "{line_break}{fault}")?;
        }
        Ok(())
    }
}

/// A users file in memory.
#[derive(Debug)]
pub(in super::super) struct Users {
    index: UserIndex,
    shards: Shards,
}

impl Users {
    /// Reads the file; blocks.
    pub(in super::super) fn load(
        routing: &Routing,
        file: &Path,
        shards: &Shards,
    ) -> Result<Self, UsersError> {
        let unreadable = |source| UsersError::Unreadable { file: file.to_owned(), source };
        let metadata = std::fs::metadata(file).map_err(unreadable)?;
        if !metadata.is_file() {
            // A pipe would block for ever.
            return Err(unreadable(io::Error::other("it is not a regular file")));
        }
        let reader = BufReader::with_capacity(1 << 16, File::open(file).map_err(unreadable)?);
        let mut loader = Loader::new(routing, shards);
        loader.read(reader).map_err(unreadable)?;
        let Loader { index, faults, more, .. } = loader;
        if faults.is_empty() {
            tracing::debug!(?file, users = index.len(), "users file loaded");
            Ok(Self { index, shards: shards.clone() })
        } else {
            Err(UsersError::Lines { file: file.to_owned(), faults, more })
        }
    }

    /// The shard of a user.
    pub(in super::super) fn lookup(&self, user: &UserName) -> Option<&ShardId> {
        let found = self.index.lookup(user.as_str())?;
        self.shards.get(usize::from(found.shard))
    }
}

/// A users file while it is read.
struct Loader<'a> {
    routing: &'a Routing,
    numbers: HashMap<&'a [u8], u16>,
    index: UserIndex,
    /// The canonical name of the line at hand.
    name: String,
    faults: Vec<LineFault>,
    /// Faults behind those that are reported.
    more: usize,
}

impl<'a> Loader<'a> {
    fn new(routing: &'a Routing, shards: &'a [ShardId]) -> Self {
        let numbered = (0_u16..).zip(shards);
        Self {
            routing,
            numbers: numbered.map(|(number, shard)| (shard.as_str().as_bytes(), number)).collect(),
            index: UserIndex::new(),
            name: String::new(),
            faults: Vec::new(),
            more: 0,
        }
    }

    /// Reads to the end.
    fn read(&mut self, mut reader: impl BufRead) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(LINE_BYTES_MAX + 1);
        let mut line = 0_u32;
        while let Some(read) = read_line(&mut reader, &mut bytes)? {
            line = line.saturating_add(1);
            let taken = if read.whole {
                self.take(&bytes, line)
            } else {
                Err((LINE_BYTES_MAX, LineProblem::TooLong))
            };
            if let Err((at, problem)) = taken {
                if self.faults.len() < FAULTS_MAX {
                    self.faults.push(LineFault::new(&bytes, line, at, problem));
                } else {
                    self.more += 1;
                }
            }
        }
        self.index.shrink_to_fit();
        Ok(())
    }

    /// A fault comes with the byte of the line that is to blame.
    fn take(&mut self, bytes: &[u8], line: u32) -> Result<(), (usize, LineProblem)> {
        let Some(UserLine { user: (user_at, user), shard: (shard_at, shard) }) =
            UserLine::of_text(bytes)?
        else {
            return Ok(());
        };
        canonical_into(self.routing, user, &mut self.name)
            .map_err(|error| (user_at, LineProblem::Name(error)))?;
        let number = self
            .numbers
            .get(shard)
            .copied()
            .ok_or_else(|| (shard_at, LineProblem::UnknownShard(shown(shard))))?;
        let user = IndexedUser { shard: number, line };
        self.index.insert(&self.name, user).map_err(|refused| match refused {
            Refused::Doubled(line) => {
                let user = UserName::new(self.name.as_str());
                (user_at, LineProblem::Doubled { user, line })
            }
            Refused::Full => (user_at, LineProblem::TooMany),
        })
    }
}
