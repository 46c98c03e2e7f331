//! `upstream`: how the proxy reaches backends.

use std::time::Duration;

use serde::Deserialize;

use crate::config::check::{Check, Text};
use crate::config::silence::{self, Silence};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
const SKIP_FAILED: Duration = Duration::from_secs(10);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
const LOGIN_QUEUE: u32 = 1000;
const QUEUE_MAX: u32 = 1_000_000;
const LOGIN_QUEUE_WAIT: Duration = Duration::from_secs(10);
/// Clients give up after a minute or two.
const LOGIN_QUEUE_WAIT_MAX: Duration = Duration::from_secs(60);
const DISCONNECT_SPREAD: Duration = Duration::from_secs(2);
const DISCONNECT_SPREAD_MAX: Duration = Duration::from_secs(60);
const SKIP_MAX: Duration = Duration::from_secs(3600);
const KEEPALIVE: Duration = Duration::from_secs(60);
const RELAY_BUFFER_BYTES: usize = 65536;
const RELAY_BUFFER_BYTES_MIN: usize = 4096;
const RELAY_BUFFER_BYTES_MAX: usize = 16 << 20;

/// How the proxy reaches backends. All of it may change on reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Longest wait for TCP, TLS and greeting together, per try. Default 5 s.
    pub connect_timeout: Duration,
    /// Tries over the shard's backends. Default 3.
    pub connect_tries: u32,
    /// All tries and the login together; not below `connect_timeout`. Default 15 s.
    pub login_timeout: Duration,
    /// How long a backend whose connect failed is skipped. Default 10 s.
    pub skip_failed: Duration,
    /// Logins that may wait for one backend that has `logins_max` in flight. Default 1000.
    pub login_queue: u32,
    /// How long they wait. Default 10 s.
    pub login_queue_wait: Duration,
    /// Over how long the clients of sessions that a backend cut off are let go, where they
    /// are many at once. Default 2 s.
    pub disconnect_spread: Duration,
    /// How long a backend's system may be silent.
    pub silence: Silence,
    /// Relay buffer in bytes, taken from the worker's pool while bytes are there. Default 65536.
    pub relay_buffer_bytes: usize,
}

/// `upstream` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    connect_timeout: Option<Text>,
    connect_tries: Option<Text>,
    login_timeout: Option<Text>,
    skip_failed: Option<Text>,
    login_queue: Option<Text>,
    login_queue_wait: Option<Text>,
    disconnect_spread: Option<Text>,
    keepalive: Option<Text>,
    user_timeout: Option<Text>,
    relay_buffer_bytes: Option<Text>,
}

impl RawUpstream {
    pub(super) fn check(self, check: &mut Check<'_>) -> Upstream {
        let range = TIMEOUT_MIN..=TIMEOUT_MAX;
        let text = self.connect_timeout.as_ref();
        let connect_timeout =
            check.duration("connect_timeout", text, range.clone(), CONNECT_TIMEOUT);
        let text = self.login_timeout.as_ref();
        let login_timeout = check.duration("login_timeout", text, range, LOGIN_TIMEOUT);
        let blamed = self.login_timeout.as_ref().or(self.connect_timeout.as_ref());
        if let Some(text) = blamed.filter(|_| login_timeout < connect_timeout) {
            let message = "`login_timeout` is shorter than `connect_timeout`";
            check.refuse(text.defined, message, "time for at least one whole try");
        }
        let text = self.skip_failed.as_ref();
        let skip_failed =
            check.duration("skip_failed", text, Duration::ZERO..=SKIP_MAX, SKIP_FAILED);
        let login_queue =
            check.number("login_queue", self.login_queue.as_ref(), 0..=QUEUE_MAX, LOGIN_QUEUE);
        let text = self.login_queue_wait.as_ref();
        let range = TIMEOUT_MIN..=LOGIN_QUEUE_WAIT_MAX;
        let login_queue_wait = check.duration("login_queue_wait", text, range, LOGIN_QUEUE_WAIT);
        let text = self.disconnect_spread.as_ref();
        let range = Duration::ZERO..=DISCONNECT_SPREAD_MAX;
        let disconnect_spread = check.duration("disconnect_spread", text, range, DISCONNECT_SPREAD);
        let (keepalive, user_timeout) = (self.keepalive.as_ref(), self.user_timeout.as_ref());
        let silence = silence::check(keepalive, user_timeout, KEEPALIVE, check);
        let range = RELAY_BUFFER_BYTES_MIN..=RELAY_BUFFER_BYTES_MAX;
        let text = self.relay_buffer_bytes.as_ref();
        Upstream {
            connect_timeout,
            connect_tries: check.number("connect_tries", self.connect_tries.as_ref(), 1..=100, 3),
            login_timeout,
            skip_failed,
            login_queue,
            login_queue_wait,
            disconnect_spread,
            silence,
            relay_buffer_bytes: check.size("relay_buffer_bytes", text, range, RELAY_BUFFER_BYTES),
        }
    }
}
