//! What bounds a lookup over the network: keys beside the lookup's own.

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Location;

use crate::config::check::{Check, Keyword, Text};

const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
const IN_FLIGHT_MAX: u32 = 10_000;
const FOUND_MAX: Duration = Duration::from_secs(86_400);
const MISS_MAX: Duration = Duration::from_secs(3600);
const STALE_MAX: Duration = Duration::from_secs(7 * 86_400);
const ENTRIES_MAX: u32 = 10_000_000;
const FAILURES_MAX: u32 = 1000;
const OPEN_MIN: Duration = Duration::from_millis(100);
const OPEN_MAX: Duration = Duration::from_secs(3600);

/// How a lookup over the network is kept from hurting the logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupGuard {
    /// Longest wait for an answer, waiting for a place included. Default 2 s.
    pub timeout: Duration,
    /// Questions under way at once. Default 64.
    pub in_flight: usize,
    /// What a failure means for the login. Default: unavailable.
    pub on_failure: OnFailure,
    /// How long answers are kept.
    pub cache: CachePolicy,
    /// When a failing source is left alone.
    pub breaker: BreakerPolicy,
}

impl Default for LookupGuard {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            in_flight: 64,
            on_failure: OnFailure::Unavailable,
            cache: CachePolicy::default(),
            breaker: BreakerPolicy::default(),
        }
    }
}

/// What a failed lookup means for the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// `[UNAVAILABLE]`.
    Unavailable,
    /// The next lookup is asked, as if this one did not know the user.
    Next,
}

impl Keyword for OnFailure {
    const WORDS: &'static [(&'static str, Self)] =
        &[("unavailable", Self::Unavailable), ("next", Self::Next)];
}

/// How long a lookup's answers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePolicy {
    /// Users that were found; zero keeps none. Default 5 min.
    pub found: Duration,
    /// Users that are not known. Default 30 s.
    pub miss: Duration,
    /// How much longer users that were found serve while the source does not. Default 1 h.
    pub stale: Duration,
    /// Users found, and users not known, that are kept at most. Default 100,000.
    pub entries: usize,
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self {
            found: Duration::from_secs(300),
            miss: Duration::from_secs(30),
            stale: Duration::from_secs(3600),
            entries: 100_000,
        }
    }
}

/// When a failing source is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it. Default 5.
    pub failures: u32,
    /// How long it is open before one lookup is let through. Default 5 s.
    pub open: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: 5, open: Duration::from_secs(5) }
    }
}

/// The keys as written.
#[derive(Debug, Default)]
pub(super) struct RawGuard {
    pub(super) timeout: Option<Text>,
    pub(super) in_flight: Option<Text>,
    pub(super) on_failure: Option<Text>,
    pub(super) cache: Option<serde_saphyr::Spanned<RawCache>>,
    pub(super) breaker: Option<serde_saphyr::Spanned<RawBreaker>>,
}

/// `cache` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCache {
    found: Option<Text>,
    miss: Option<Text>,
    stale: Option<Text>,
    entries: Option<Text>,
}

/// `breaker` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBreaker {
    failures: Option<Text>,
    open: Option<Text>,
}

impl RawGuard {
    /// The bounds of a lookup over the network.
    pub(super) fn check(self, check: &mut Check<'_>) -> LookupGuard {
        let usual = LookupGuard::default();
        let range = TIMEOUT_MIN..=TIMEOUT_MAX;
        let text = self.in_flight.as_ref();
        LookupGuard {
            timeout: check.duration("timeout", self.timeout.as_ref(), range, usual.timeout),
            in_flight: count("in_flight", text, 1..=IN_FLIGHT_MAX, usual.in_flight, check),
            on_failure: check.word("on_failure", self.on_failure.as_ref(), usual.on_failure),
            cache: self.cache.map(|raw| raw.value).unwrap_or_default().check(check),
            breaker: self.breaker.map(|raw| raw.value).unwrap_or_default().check(check),
        }
    }

    /// Notes that these keys mean nothing to a lookup in memory.
    pub(super) fn refuse(&self, kind: &str, check: &mut Check<'_>) {
        let texts = [
            ("timeout", &self.timeout),
            ("in_flight", &self.in_flight),
            ("on_failure", &self.on_failure),
        ];
        let texts = texts.map(|(key, text)| (key, text.as_ref().map(|text| text.defined)));
        let maps: [(&str, Option<Location>); 2] = [
            ("cache", self.cache.as_ref().map(|map| map.defined)),
            ("breaker", self.breaker.as_ref().map(|map| map.defined)),
        ];
        for (key, place) in texts.into_iter().chain(maps) {
            if let Some(place) = place {
                let message = format!("`{key}` means nothing to `{kind}`, which asks nobody");
                check.refuse(place, message, "it beside a lookup over the network only");
            }
        }
    }
}

impl RawCache {
    fn check(self, check: &mut Check<'_>) -> CachePolicy {
        let usual = CachePolicy::default();
        let mut time = |key, text: Option<&Text>, longest, default| {
            check.duration(key, text, Duration::ZERO..=longest, default)
        };
        let found = time("found", self.found.as_ref(), FOUND_MAX, usual.found);
        let miss = time("miss", self.miss.as_ref(), MISS_MAX, usual.miss);
        let stale = time("stale", self.stale.as_ref(), STALE_MAX, usual.stale);
        let text = self.entries.as_ref();
        let entries = count("entries", text, 0..=ENTRIES_MAX, usual.entries, check);
        CachePolicy { found, miss, stale, entries }
    }
}

impl RawBreaker {
    fn check(self, check: &mut Check<'_>) -> BreakerPolicy {
        let usual = BreakerPolicy::default();
        let (failures, open) = (self.failures.as_ref(), self.open.as_ref());
        BreakerPolicy {
            failures: check.number("failures", failures, 1..=FAILURES_MAX, usual.failures),
            open: check.duration("open", open, OPEN_MIN..=OPEN_MAX, usual.open),
        }
    }
}

fn count(
    key: &str,
    text: Option<&Text>,
    range: std::ops::RangeInclusive<u32>,
    default: usize,
    check: &mut Check<'_>,
) -> usize {
    let usual = u32::try_from(default).unwrap_or(*range.end());
    usize::try_from(check.number(key, text, range, usual)).unwrap_or(default)
}
