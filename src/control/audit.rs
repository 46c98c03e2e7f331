//! One log line for each call that changes something: who, what, and what came of it.

use super::{Control, OperateError};
use crate::names::UserName;

/// The process that asks, as the system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its user id.
    pub uid: u32,
    /// Its process id, where the system knows it.
    pub pid: Option<i32>,
}

/// What a call is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    /// The proxy as a whole.
    Proxy,
    /// A backend, as it was named.
    Backend(&'a str),
    /// A user; none where the name was none.
    User(Option<&'a UserName>),
}

impl Control {
    /// Writes the line. User names appear as `log.user` says.
    pub(super) fn audit<T>(
        &self,
        caller: Caller,
        call: &str,
        subject: Subject<'_>,
        result: &Result<T, OperateError>,
    ) {
        let user = match subject {
            Subject::User(user) => user.map(|user| self.shared.telemetry.user(user)),
            Subject::Proxy | Subject::Backend(_) => None,
        };
        let backend = match subject {
            Subject::Backend(name) => Some(name),
            Subject::Proxy | Subject::User(_) => None,
        };
        let Caller { uid, pid } = caller;
        let result = result.as_ref().err().map_or("done", OperateError::reason);
        tracing::info!(target: "pointsman::audit", uid, pid, call, result, backend, user, "admin call");
    }
}
