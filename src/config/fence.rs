//! `fence`: the program that makes sure that a backend holds no session any more.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::backend::Backend;
use crate::config::check::{Check, Text};

const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// What is done about sessions that a backend which is down may hold still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failover {
    /// Nothing: users with sessions there wait until it is back.
    Wait,
    /// A program is run; when it has ended with 0 they may go elsewhere.
    Fence {
        /// The program. It gets no arguments, and of the environment what says which backend.
        program: PathBuf,
        /// How long it may take. Default 30 s.
        timeout: Duration,
    },
    /// They go elsewhere at once, and one user may be on two backends.
    Unfenced,
}

/// `fence` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFence {
    program: Option<Text>,
    timeout: Option<Text>,
}

/// Checks the keys of a shard that say what becomes of its users.
pub(super) fn check(
    fence: Option<Spanned<RawFence>>,
    unfenced: Option<&Text>,
    backends: &[Backend],
    check: &mut Check<'_>,
) -> Failover {
    let gives_up = check.word("failover_unfenced", unfenced, false);
    let place = fence.as_ref().map(|raw| raw.defined);
    let unchecked = backends.iter().find(|backend| !backend.check.is_on());
    let wanted = place.or_else(|| unfenced.filter(|_| gives_up).map(|text| text.defined));
    if let (Some(place), Some(backend)) = (wanted, unchecked) {
        let message = format!("nobody would find out that `{}` is down", backend.name);
        check.refuse(place, message, "a `check` of all the shard's backends");
    }
    let Some(raw) = fence else {
        return if gives_up { Failover::Unfenced } else { Failover::Wait };
    };
    if let Some(text) = unfenced.filter(|_| gives_up) {
        let message = "`failover_unfenced: true` beside `fence`";
        check.refuse(text.defined, message, "one of the two");
    }
    let text = raw.value.timeout.as_ref();
    let timeout = check.duration("timeout", text, TIMEOUT_MIN..=TIMEOUT_MAX, TIMEOUT);
    let program = raw.value.program.as_ref();
    let program = check.required("program", program, raw.defined, "a program without arguments");
    match program.and_then(|text| check.path("program", text)) {
        Some(program) => Failover::Fence { program, timeout },
        None => Failover::Wait,
    }
}
