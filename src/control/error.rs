//! Why what an operator asked for did not happen.

use super::ApplyError;
use super::run_time::ChangeError;
use crate::routing::name::NameError;

/// Why a call of an operator was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Nonsense(String),
    /// No name that a user can have.
    #[error("no user can have that name: {0}")]
    BadName(#[from] NameError),
    /// No such backend.
    #[error("there is no backend {0:?}")]
    UnknownBackend(String),
    /// No such shard.
    #[error("there is no shard {0:?}")]
    UnknownShard(String),
    /// It would hurt many; the operator must say that this is meant.
    #[error("{0}; say --force if that is meant")]
    NeedsForce(String),
    /// The store.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The configuration was refused, and the former one stays.
    #[error("the configuration was refused, the former one stays\n{0}")]
    Reload(ApplyError),
    /// The proxy is about to end.
    #[error("the proxy is shutting down")]
    Ending,
}

/// Whose matter an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// What was asked for.
    Request,
    /// Something that is not there.
    Missing,
    /// The present state of things.
    State,
    /// The configuration.
    Configuration,
    /// The proxy or its machine.
    Proxy,
}

impl OperateError {
    /// The reason, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Nonsense(_) => "bad_request",
            Self::BadName(_) => "bad_name",
            Self::UnknownBackend(_) => "unknown_backend",
            Self::UnknownShard(_) => "unknown_shard",
            Self::NeedsForce(_) => "needs_force",
            Self::Change(ChangeError::Store(error)) => error.reason(),
            Self::Change(ChangeError::Conflict) => "conflict",
            Self::Change(ChangeError::Unknown) => "unknown_outcome",
            Self::Change(ChangeError::NotInForce) => "not_in_force",
            Self::Change(ChangeError::TooMany) => "too_many",
            Self::Reload(_) => "configuration_refused",
            Self::Ending => "shutting_down",
        }
    }

    /// Whose matter it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Nonsense(_) | Self::BadName(_) => Blame::Request,
            Self::UnknownBackend(_) | Self::UnknownShard(_) => Blame::Missing,
            Self::NeedsForce(_) | Self::Change(ChangeError::Conflict | ChangeError::TooMany) => {
                Blame::State
            }
            Self::Reload(error) if error.is_configuration() => Blame::Configuration,
            Self::Reload(_) | Self::Change(_) | Self::Ending => Blame::Proxy,
        }
    }
}
