//! The command line: what may be typed, and how the program speaks there.

mod operate;
mod show;
mod table;

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub use self::operate::{Door, Leaving, Operation, OperationError, run};

/// An IMAP proxy and load balancer for mail clusters.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy. SIGHUP reloads the configuration, SIGTERM drains and ends,
    /// SIGINT ends at once.
    Serve {
        /// The configuration file.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Say whether a configuration is good, with every fault and its line. Exit code
    /// 64 when it is not.
    Check {
        /// The configuration file.
        file: PathBuf,
        /// Look at the file alone; open nothing that it names.
        #[arg(long)]
        syntax: bool,
    },
    /// Build users maps.
    Users {
        /// What to do.
        #[command(subcommand)]
        command: UsersCommand,
    },
    /// Whatever a running proxy is asked.
    #[command(flatten)]
    Operate(Operation),
}

/// What is done with users maps.
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// Build a map for the `users` lookup: names on disk, tens of millions of them. It is
    /// written whole and takes its name in one step; a running proxy takes it up within a
    /// second or two. OUT becomes a link to `OUT.g<number>`, never to be changed in place.
    Build {
        /// The users: a text file, `user shard` a line, or a CSV file, `user,shard` a line,
        /// with or without such a header.
        input: PathBuf,
        /// The map: what `users: { file: ... }` names.
        output: PathBuf,
        /// How the users are written. Default: csv where the name ends in .csv, else text.
        #[arg(long, value_enum)]
        format: Option<UsersFormat>,
        /// The configuration that the map is for: its `routing.canonical`,
        /// `routing.default_domain` and shards hold. Without it names are in lowercase, none
        /// is given a domain, and shards may be any.
        #[arg(long, short)]
        config: Option<PathBuf>,
        /// Say what was built as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How a users file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UsersFormat {
    /// `user shard` a line, `#` before comments.
    Text,
    /// `user,shard` a line.
    Csv,
}

/// Prints a line to standard output. A closed pipe is nobody's fault.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line to standard error.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
