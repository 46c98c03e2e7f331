//! `limits` and `upstream`: how long a TCP peer may be silent before it counts as gone.

use std::time::Duration;

use crate::config::check::{Check, Text};

const TIME_MIN: Duration = Duration::from_secs(1);
/// The longest that Linux takes (`MAX_TCP_KEEPIDLE`).
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
const USER_TIMEOUT_MAX: Duration = Duration::from_secs(86_400);
/// A smaller time would cut slow readers, whose windows stay closed for minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(600);

/// How long the peer of a TCP connection may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Silence before the kernel asks whether the peer is there (`TCP_KEEPIDLE`, whole
    /// seconds). Default 300 s to clients, 60 s to backends.
    pub keepalive: Duration,
    /// How long sent bytes and the kernel's questions may stay unacknowledged
    /// (`TCP_USER_TIMEOUT`). Default 10 min.
    pub user_timeout: Duration,
}

/// Checks the keys `keepalive` and `user_timeout` of a section.
pub(super) fn check(
    keepalive: Option<&Text>,
    user_timeout: Option<&Text>,
    keepalive_default: Duration,
    check: &mut Check<'_>,
) -> Silence {
    let keepalive =
        check.duration("keepalive", keepalive, TIME_MIN..=KEEPALIVE_MAX, keepalive_default);
    let range = TIME_MIN..=USER_TIMEOUT_MAX;
    Silence {
        keepalive,
        user_timeout: check.duration("user_timeout", user_timeout, range, USER_TIMEOUT),
    }
}
