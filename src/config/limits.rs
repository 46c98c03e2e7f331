//! `limits`: bounds on clients.

use std::time::Duration;

use serde::Deserialize;

use crate::config::check::{Check, Keyword, Text};
use crate::config::network::Network;
use crate::config::silence::{self, Silence};

/// IDLE is renewed every 29 minutes (RFC 2177); a lower limit would cut healthy clients.
const IDLE_MIN: Duration = Duration::from_secs(35 * 60);
const IDLE_MAX: Duration = Duration::from_secs(30 * 86_400);
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Longer than the radio wake-ups of phones, shorter than most NAT tables remember.
const KEEPALIVE: Duration = Duration::from_secs(300);
pub(super) const SESSIONS_MAX: u32 = 1_000_000;

/// Bounds on clients. A reload changes them for new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Networks without per-address limit and login delay. Default: none.
    pub exempt: Vec<Network>,
    /// Sessions of one user. Default 100.
    pub sessions_per_user: u32,
    /// Sessions of one user from one address. Default 40.
    pub sessions_per_user_address: u32,
    /// Connections not logged in per address (/64 for IPv6). Default 50.
    pub unauthenticated_per_address: u32,
    /// Logins under way at once, over all clients. Default 20,000.
    pub held_logins: u32,
    /// Earliest answer AUTHENTICATIONFAILED after complete credentials. Default 3 s.
    pub failed_login_delay: Duration,
    /// Absolute time from accept to login. Default 60 s.
    pub login_deadline: Duration,
    /// TLS handshake. Default 10 s.
    pub tls_handshake: Duration,
    /// PROXY header. Default 5 s.
    pub proxy_header: Duration,
    /// Idle limit after login; `None` (default) or at least 35 min.
    pub idle: Option<Duration>,
    /// How long a client's system may be silent.
    pub silence: Silence,
    /// Login tries on one connection. Default 5.
    pub login_tries: u32,
    /// Syntax errors on one connection before login. Default 10.
    pub syntax_errors: u32,
    /// What a client gets when a login cannot be tried. Default: `NO`.
    pub on_unavailable: OnUnavailable,
}

/// The answer to a login that could not be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnavailable {
    /// `NO [UNAVAILABLE]`.
    No,
    /// `* BYE`, for clients that ask for the password on any NO.
    Bye,
}

impl Keyword for OnUnavailable {
    const WORDS: &'static [(&'static str, Self)] = &[("no", Self::No), ("bye", Self::Bye)];
}

/// `limits` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    exempt: Option<Vec<Text>>,
    sessions_per_user: Option<Text>,
    sessions_per_user_address: Option<Text>,
    unauthenticated_per_address: Option<Text>,
    held_logins: Option<Text>,
    failed_login_delay: Option<Text>,
    login_deadline: Option<Text>,
    tls_handshake: Option<Text>,
    proxy_header: Option<Text>,
    idle: Option<Text>,
    keepalive: Option<Text>,
    user_timeout: Option<Text>,
    login_tries: Option<Text>,
    syntax_errors: Option<Text>,
    on_unavailable: Option<Text>,
}

impl RawLimits {
    pub(super) fn check(self, check: &mut Check<'_>) -> Limits {
        let mut count = |key, text: &Option<Text>, max, default| {
            check.number(key, text.as_ref(), 1..=max, default)
        };
        let sessions_per_user =
            count("sessions_per_user", &self.sessions_per_user, SESSIONS_MAX, 100);
        let sessions_per_user_address =
            count("sessions_per_user_address", &self.sessions_per_user_address, SESSIONS_MAX, 40);
        let unauthenticated_per_address = count(
            "unauthenticated_per_address",
            &self.unauthenticated_per_address,
            SESSIONS_MAX,
            50,
        );
        let held_logins = count("held_logins", &self.held_logins, SESSIONS_MAX, 20_000);
        let login_tries = count("login_tries", &self.login_tries, 100, 5);
        let syntax_errors = count("syntax_errors", &self.syntax_errors, 1000, 10);
        let mut wait = |key, text: &Option<Text>, min, default_seconds| {
            let default = Duration::from_secs(default_seconds);
            check.duration(key, text.as_ref(), min..=WAIT_MAX, default)
        };
        let failed_login_delay =
            wait("failed_login_delay", &self.failed_login_delay, Duration::ZERO, 3);
        let login_deadline = wait("login_deadline", &self.login_deadline, WAIT_MIN, 60);
        let tls_handshake = wait("tls_handshake", &self.tls_handshake, WAIT_MIN, 10);
        let proxy_header = wait("proxy_header", &self.proxy_header, WAIT_MIN, 5);
        Limits {
            exempt: check.networks("exempt", self.exempt.as_deref()),
            sessions_per_user,
            sessions_per_user_address,
            unauthenticated_per_address,
            held_logins,
            failed_login_delay,
            login_deadline,
            tls_handshake,
            proxy_header,
            idle: check_idle(self.idle.as_ref(), check),
            silence: silence::check(
                self.keepalive.as_ref(),
                self.user_timeout.as_ref(),
                KEEPALIVE,
                check,
            ),
            login_tries,
            syntax_errors,
            on_unavailable: check.word(
                "on_unavailable",
                self.on_unavailable.as_ref(),
                OnUnavailable::No,
            ),
        }
    }
}

fn check_idle(text: Option<&Text>, check: &mut Check<'_>) -> Option<Duration> {
    let text = text.filter(|text| text.value != "none")?;
    Some(check.duration("idle", Some(text), IDLE_MIN..=IDLE_MAX, IDLE_MAX))
}
