//! The commands that ask a running proxy: each is one call of the admin API, and what it
//! prints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::show;
use crate::admin::client::{
    Client, ClientError, KickRequest, PinRequest, StateRequest, UserRequest, percent,
};
use crate::config::{Config, parse_duration};

/// Where the running proxy is, and how its answer is printed.
#[derive(Debug, Clone, Args)]
pub struct Door {
    /// The proxy's admin socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Without --socket: the proxy's configuration, which names the socket.
    #[arg(long, short, value_name = "FILE", default_value = "/etc/pointsman/pointsman.yaml")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a running proxy can be asked.
#[derive(Debug, Subcommand)]
pub enum Operation {
    /// Say how the proxy is.
    Status {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
    },
    /// List the backends with their states and sessions.
    Backends {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
    },
    /// Send no new users to a backend; those with sessions there still join them.
    Drain {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The backend.
        backend: String,
        /// What becomes of those who are there.
        #[command(flatten)]
        how: Leaving,
    },
    /// Send users to a backend again.
    Resume {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The backend.
        backend: String,
    },
    /// Send users to a backend only while no other of its shard can be used.
    Standby {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The backend.
        backend: String,
    },
    /// Dial nothing on a backend any more, not even for users with sessions there.
    Disable {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The backend.
        backend: String,
        /// It is dead for certain (switched off, cut from its storage): its sessions are
        /// over, and its users may go elsewhere at once.
        #[arg(long, conflicts_with = "end_within")]
        fenced: bool,
        /// What becomes of those who are there.
        #[command(flatten)]
        how: Leaving,
    },
    /// Say where a user's next login would go, and why, without logging in.
    Route {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The user, by any spelling of the name.
        user: String,
    },
    /// List sessions.
    Sessions {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// Those of a user, by any spelling of the name.
        #[arg(long, conflicts_with = "backend")]
        user: Option<String>,
        /// Those on a backend.
        #[arg(long)]
        backend: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 1000)]
        max: usize,
    },
    /// End a user's sessions.
    Kick {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The user, by any spelling of the name.
        #[arg(required_unless_present_any = ["backend", "all"])]
        user: Option<String>,
        /// All sessions on a backend instead, spread over half a minute.
        #[arg(long, conflicts_with_all = ["user", "all"])]
        backend: Option<String>,
        /// All sessions there are instead, spread over half a minute.
        #[arg(long, conflicts_with = "user")]
        all: bool,
        /// Also keep the user from logging in again.
        #[arg(long, requires = "user")]
        block: bool,
        /// Also if it is everybody.
        #[arg(long)]
        force: bool,
    },
    /// Keep a user from logging in. Open sessions stay: see `kick --block`.
    Block {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The user, by any spelling of the name.
        user: String,
    },
    /// Let a blocked user log in again.
    Unblock {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The user, by any spelling of the name.
        user: String,
    },
    /// List the blocked users.
    Blocked {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
    },
    /// Send a user's new logins to a shard, whatever the lookups say.
    Pin {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The user, by any spelling of the name.
        user: String,
        /// The shard.
        shard: String,
    },
    /// Let the lookups decide about a user again.
    Unpin {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
        /// The user, by any spelling of the name.
        user: String,
    },
    /// List the pinned users.
    Pins {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
    },
    /// Read the configuration again: all of it is taken, or nothing and the faults are told.
    Reload {
        /// Where to ask.
        #[command(flatten)]
        door: Door,
    },
}

/// How a backend is left.
#[derive(Debug, Clone, Args)]
pub struct Leaving {
    /// Give its sessions their BYE spread over this time (such as 10m), between two commands
    /// or in IDLE. Without it they stay until they end by themselves.
    #[arg(long, value_name = "TIME", value_parser = time)]
    end_within: Option<Duration>,
    /// Also if nobody of the shard can log in then.
    #[arg(long)]
    force: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a time such as 30s, 10m or 2h".to_owned())
}

impl Operation {
    const fn door(&self) -> &Door {
        match self {
            Self::Status { door }
            | Self::Backends { door }
            | Self::Drain { door, .. }
            | Self::Resume { door, .. }
            | Self::Standby { door, .. }
            | Self::Disable { door, .. }
            | Self::Route { door, .. }
            | Self::Sessions { door, .. }
            | Self::Kick { door, .. }
            | Self::Block { door, .. }
            | Self::Unblock { door, .. }
            | Self::Blocked { door }
            | Self::Pin { door, .. }
            | Self::Unpin { door, .. }
            | Self::Pins { door }
            | Self::Reload { door } => door,
        }
    }
}

/// Why an operation came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is no socket to ask at.
    #[error("{0}")]
    NoSocket(String),
    /// No answer, or a refusal.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl OperationError {
    /// The process's exit code: 64 where the command line is at fault, else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NoSocket(_) => 64,
            Self::Client(_) => 1,
        }
    }
}

/// Asks the running proxy; gives what is to be printed.
///
/// # Errors
/// Where no proxy answers, or it refuses.
pub fn run(operation: &Operation) -> Result<String, OperationError> {
    let door = operation.door();
    let asker = Asker { client: Client::new(&socket(door)?), json: door.json };
    Ok(asker.run(operation)?)
}

fn socket(door: &Door) -> Result<PathBuf, OperationError> {
    if let Some(path) = &door.socket {
        return Ok(path.clone());
    }
    socket_of(&door.config).map_err(|why| {
        let file = door.config.display();
        OperationError::NoSocket(format!(
            "the admin socket cannot be found by {file}: {why}\nname it with --socket PATH, or the \
             proxy's configuration with --config FILE"
        ))
    })
}

fn socket_of(file: &Path) -> Result<PathBuf, String> {
    let config = Config::load(file).map_err(|error| error.to_string())?;
    config.admin.socket.ok_or_else(|| "`admin.socket` is `none`".to_owned())
}

struct Asker {
    client: Client,
    json: bool,
}

impl Asker {
    fn run(&self, operation: &Operation) -> Result<String, ClientError> {
        match operation {
            Operation::Status { .. } => self.get("status", &[], show::status),
            Operation::Backends { .. } => self.get("backends", &[], show::backends),
            Operation::Drain { backend, how, .. } => self.state(backend, "drain", false, Some(how)),
            Operation::Resume { backend, .. } => self.state(backend, "up", false, None),
            Operation::Standby { backend, .. } => self.state(backend, "standby", false, None),
            Operation::Disable { backend, fenced, how, .. } => {
                self.state(backend, "down", *fenced, Some(how))
            }
            Operation::Route { user, .. } => self.get("route", &[("user", user)], show::route),
            Operation::Sessions { user, backend, max, .. } => {
                let max = max.to_string();
                let mut query = vec![("max", max.as_str())];
                query.extend(user.as_deref().map(|user| ("user", user)));
                query.extend(backend.as_deref().map(|backend| ("backend", backend)));
                self.get("sessions", &query, show::sessions)
            }
            Operation::Kick { user, backend, all, block, force, .. } => {
                let request = KickRequest {
                    user: user.clone(),
                    backend: backend.clone(),
                    all: *all,
                    block: *block,
                    force: *force,
                };
                self.post("kick", &request, show::kick)
            }
            Operation::Block { user, .. } => self.post("block", &of(user), show::user),
            Operation::Unblock { user, .. } => self.post("unblock", &of(user), show::user),
            Operation::Blocked { .. } => self.get("blocked", &[], show::blocked),
            Operation::Pin { user, shard, .. } => {
                let request = PinRequest { user: user.clone(), shard: shard.clone() };
                self.post("pin", &request, show::user)
            }
            Operation::Unpin { user, .. } => self.post("unpin", &of(user), show::user),
            Operation::Pins { .. } => self.get("pins", &[], show::pins),
            Operation::Reload { .. } => self.post("reload", &Nothing {}, show::reload),
        }
    }

    fn state(
        &self,
        backend: &str,
        state: &str,
        fenced: bool,
        how: Option<&Leaving>,
    ) -> Result<String, ClientError> {
        let end_within = how.and_then(|how| how.end_within);
        let request = StateRequest {
            state: state.to_owned(),
            force: how.is_some_and(|how| how.force),
            fenced,
            end_within_seconds: end_within
                .map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
        };
        self.post(&format!("backends/{}/state", percent(backend)), &request, show::state)
    }

    fn get<T: DeserializeOwned + Serialize>(
        &self,
        call: &str,
        query: &[(&str, &str)],
        show: impl Fn(&T) -> String,
    ) -> Result<String, ClientError> {
        self.print(&self.client.get(call, query)?, show)
    }

    fn post<T: DeserializeOwned + Serialize>(
        &self,
        call: &str,
        body: &impl Serialize,
        show: impl Fn(&T) -> String,
    ) -> Result<String, ClientError> {
        self.print(&self.client.post(call, body)?, show)
    }

    fn print<T: Serialize>(
        &self,
        answer: &T,
        show: impl Fn(&T) -> String,
    ) -> Result<String, ClientError> {
        if !self.json {
            return Ok(show(answer));
        }
        serde_json::to_string_pretty(answer).map_err(|error| ClientError::Broken(error.to_string()))
    }
}

/// The body of a call that says nothing more.
#[derive(Debug, Serialize)]
struct Nothing {}

fn of(user: &str) -> UserRequest {
    UserRequest { user: user.to_owned() }
}
