//! `check`: how backends are asked whether they serve. It may stand at the top of the file
//! for all, at a shard and at a backend; the innermost says each key.

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::config::check::{Check, Keyword, Text};
use crate::config::secret::{self, SecretSource};

const INTERVAL: Duration = Duration::from_secs(5);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT_MIN: Duration = Duration::from_millis(50);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
const COUNT_MAX: u32 = 100;
const RISE: u32 = 2;
const FALL: u32 = 3;
const USER_BYTES_MAX: usize = 320;

/// How one backend is checked. A reload changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// How far a check goes. Default: the greeting.
    pub mode: CheckMode,
    /// From one check to the next, a fifth more or less. Default 5 s.
    pub interval: Duration,
    /// Longest time of one check. Default 3 s.
    pub timeout: Duration,
    /// Good checks in a row after which a backend that was down is up. Default 2.
    pub rise: u32,
    /// Failures in a row, of checks or of logins' connections, after which a backend that
    /// was up is down. Default 3.
    pub fall: u32,
    /// Who logs in, with `mode: login`.
    pub test_user: Option<TestUser>,
}

impl HealthCheck {
    /// Whether there are checks.
    pub fn is_on(&self) -> bool {
        self.mode != CheckMode::None
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            mode: CheckMode::Greeting,
            interval: INTERVAL,
            timeout: TIMEOUT,
            rise: RISE,
            fall: FALL,
            test_user: None,
        }
    }
}

/// How far a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckMode {
    /// Nothing is checked; only logins tell how the backend does.
    None,
    /// TCP, and TLS where it comes first. A server that hangs passes.
    Connect,
    /// TLS, greeting and capabilities.
    Greeting,
    /// All that, and a login.
    Login,
}

impl Keyword for CheckMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("connect", Self::Connect),
        ("greeting", Self::Greeting),
        ("login", Self::Login),
    ];
}

/// The user as whom a check logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestUser {
    /// The name, as the backend takes it.
    pub user: String,
    /// The password.
    pub password: SecretSource,
}

/// `check` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealthCheck {
    mode: Option<Text>,
    interval: Option<Text>,
    timeout: Option<Text>,
    rise: Option<Text>,
    fall: Option<Text>,
    user: Option<Text>,
    password: Option<Text>,
}

/// The keys that one place sets, checked.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    mode: Option<CheckMode>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
    user: Option<String>,
    password: Option<SecretSource>,
    place: Option<Location>,
}

/// Checks the keys of one place, where it has any.
pub(super) fn check(raw: Option<Spanned<RawHealthCheck>>, check: &mut Check<'_>) -> Checks {
    let Some(raw) = raw else { return Checks::default() };
    let place = raw.defined;
    let raw = raw.value;
    let mode = raw.mode.as_ref().map(|text| check.word("mode", Some(text), CheckMode::Greeting));
    let mut time = |key, text: &Option<Text>, range, default| {
        text.as_ref().map(|text| check.duration(key, Some(text), range, default))
    };
    let interval = time("interval", &raw.interval, INTERVAL_MIN..=INTERVAL_MAX, INTERVAL);
    let timeout = time("timeout", &raw.timeout, TIMEOUT_MIN..=TIMEOUT_MAX, TIMEOUT);
    let mut count = |key, text: &Option<Text>, default| {
        text.as_ref().map(|text| check.number(key, Some(text), 1..=COUNT_MAX, default))
    };
    let rise = count("rise", &raw.rise, RISE);
    let fall = count("fall", &raw.fall, FALL);
    let user = raw.user.as_ref().and_then(|text| user_of(text, check));
    let password = raw.password.as_ref().and_then(|text| secret::take("password", text, check));
    Checks { mode, interval, timeout, rise, fall, user, password, place: Some(place) }
}

impl Checks {
    /// These keys, and the outer place's where they are silent.
    pub(super) fn within(self, outer: &Self) -> Self {
        let outer = outer.clone();
        Self {
            mode: self.mode.or(outer.mode),
            interval: self.interval.or(outer.interval),
            timeout: self.timeout.or(outer.timeout),
            rise: self.rise.or(outer.rise),
            fall: self.fall.or(outer.fall),
            user: self.user.or(outer.user),
            password: self.password.or(outer.password),
            place: self.place.or(outer.place),
        }
    }

    /// What holds for one backend, with the defaults.
    pub(super) fn settle(self, check: &mut Check<'_>) -> HealthCheck {
        let usual = HealthCheck::default();
        let mode = self.mode.unwrap_or(usual.mode);
        let test_user = match (self.user, self.password) {
            (Some(user), Some(password)) => Some(TestUser { user, password }),
            _ => None,
        };
        if let Some(place) = self.place.filter(|_| mode == CheckMode::Login && test_user.is_none())
        {
            let message = "`mode: login` without a test user";
            check.refuse_once(place, message, "`user` and `password` of a mailbox made for it");
        }
        HealthCheck {
            mode,
            interval: self.interval.unwrap_or(usual.interval),
            timeout: self.timeout.unwrap_or(usual.timeout),
            rise: self.rise.unwrap_or(usual.rise),
            fall: self.fall.unwrap_or(usual.fall),
            test_user,
        }
    }
}

fn user_of(text: &Text, check: &mut Check<'_>) -> Option<String> {
    let plain = !text.value.contains(char::is_control);
    if !plain || !(1..=USER_BYTES_MAX).contains(&text.value.len()) {
        check.refuse_value("user", text, "a user name of at most 320 bytes");
        return None;
    }
    Some(text.value.clone())
}
