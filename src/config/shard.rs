//! `shards`: the groups of backends.

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::config::backend::{Backend, RawBackend};
use crate::config::check::{Check, Entries, Keyword, Names, Text};
use crate::config::fence::{self, Failover, RawFence};
use crate::config::health::{self, Checks, RawHealthCheck};
use crate::config::mechanisms;
use crate::config::source::Object;
use crate::names::ShardId;
use crate::sasl::Mechanism;

/// Bytes of one capability at most: longer ones of a backend pass unseen anyway.
const CAPABILITY_BYTES_MAX: usize = 128;
const SLOW_START: Duration = Duration::from_secs(60);
const SLOW_START_MAX: Duration = Duration::from_secs(3600);

/// The backends that can serve the same users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Name, unique.
    pub name: ShardId,
    /// How users are spread over the backends.
    pub kind: ShardKind,
    /// What is offered after login, upper case; `None` offers all that the backend lists.
    pub capabilities: Option<Vec<String>>,
    /// The SASL mechanisms that all of its backends can finish; `None`: all that are offered.
    pub mechanisms: Option<Vec<Mechanism>>,
    /// In which order its backends are tried for a new user. Default: rendezvous where it is
    /// `shared`, ordered where it is `primary`.
    pub balance: Balance,
    /// How long the share of a backend that came back grows to its weight. Default 60 s.
    pub slow_start: Duration,
    /// What becomes of users who may have sessions on a backend that is down. Default: they
    /// wait for it.
    pub failover: Failover,
    /// At least one, in file order.
    pub backends: Vec<Backend>,
}

/// How a shard uses its backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardKind {
    /// All see the same storage: users are spread by weight and fail over.
    Shared,
    /// An ordered list: the first healthy one serves all.
    Primary,
}

/// The order in which a shard's backends are tried for a new user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// By weighted rendezvous hashing: a user goes to the same backend on every proxy.
    Rendezvous,
    /// The one with the fewest sessions of this proxy for its weight.
    LeastSessions,
    /// As the file lists them.
    Ordered,
}

impl Keyword for Balance {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("rendezvous", Self::Rendezvous),
        ("least_sessions", Self::LeastSessions),
        ("ordered", Self::Ordered),
    ];
}

impl Keyword for ShardKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("shared", Self::Shared), ("primary", Self::Primary)];
}

/// A shard as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShard {
    kind: Option<Text>,
    capabilities: Option<Vec<Text>>,
    mechanisms: Option<Vec<Text>>,
    check: Option<Spanned<RawHealthCheck>>,
    balance: Option<Text>,
    slow_start: Option<Text>,
    fence: Option<Spanned<RawFence>>,
    failover_unfenced: Option<Text>,
    backends: Option<Spanned<Vec<Spanned<RawBackend>>>>,
}

/// What holds around a shard.
#[derive(Clone, Copy)]
struct Outer<'a> {
    /// Where the shard's name stands.
    place: Location,
    /// The file's own `check`.
    checks: &'a Checks,
}

/// Checks all shards, in file order.
pub(super) fn check_all(
    raw: Entries<Spanned<RawShard>>,
    checks: &Checks,
    check: &mut Check<'_>,
) -> Vec<Shard> {
    let mut shard_names = Names::of("shard");
    let mut backend_names = Names::of("backend");
    let mut shards = Vec::new();
    for (name, raw) in raw.0 {
        shard_names.take(check, &name);
        let id = ShardId::new(name.value.as_str());
        check.remember(Object::Shard(id.clone()), name.defined);
        let outer = Outer { place: name.defined, checks };
        shards.extend(raw.value.check(id, outer, &mut backend_names, check));
    }
    shards
}

impl RawShard {
    fn check(
        self,
        name: ShardId,
        outer: Outer<'_>,
        backend_names: &mut Names,
        check: &mut Check<'_>,
    ) -> Option<Shard> {
        let place = outer.place;
        let kind = check.required_word("kind", self.kind.as_ref(), place);
        let capabilities =
            self.capabilities.map(|capabilities| check_capabilities(&capabilities, check));
        let mechanisms = self.mechanisms.map(|texts| {
            let list = mechanisms::check_list(&texts, check);
            list.into_iter().map(|(mechanism, _)| mechanism).collect()
        });
        let checks = health::check(self.check, check).within(outer.checks);
        let balance = check_balance(kind, self.balance.as_ref(), check);
        let range = Duration::ZERO..=SLOW_START_MAX;
        let text = self.slow_start.as_ref();
        let slow_start = check.duration("slow_start", text, range, SLOW_START);
        let raw = check.required("backends", self.backends, place, "a list of backends")?;
        if raw.value.is_empty() {
            let message = format!("shard `{name}` has no backends");
            check.refuse(raw.defined, message, "at least one backend");
        }
        let mut backends = Vec::new();
        for raw in raw.value {
            if let Some(name) = &raw.value.name {
                backend_names.take(check, name);
            }
            backends.extend(raw.value.check(raw.defined, &checks, check));
        }
        let failover = fence::check(self.fence, self.failover_unfenced.as_ref(), &backends, check);
        Some(Shard {
            name,
            kind: kind?,
            capabilities,
            mechanisms,
            balance,
            slow_start,
            failover,
            backends,
        })
    }
}

/// All users of a primary shard are on one backend.
fn check_balance(kind: Option<ShardKind>, text: Option<&Text>, check: &mut Check<'_>) -> Balance {
    let usual = match kind {
        Some(ShardKind::Primary) => Balance::Ordered,
        Some(ShardKind::Shared) | None => Balance::Rendezvous,
    };
    let balance = check.word("balance", text, usual);
    if let Some(text) = text.filter(|_| kind == Some(ShardKind::Primary) && balance != usual) {
        let message = format!("`balance: {}` with `kind: primary`", text.value);
        check.refuse(text.defined, message, "`ordered`, or `kind: shared`");
    }
    balance
}

fn check_capabilities(texts: &[Text], check: &mut Check<'_>) -> Vec<String> {
    let mut names = Names::of("capability");
    let mut capabilities = Vec::new();
    for text in texts {
        if !is_atom(&text.value) {
            let expected = "a capability such as IDLE or AUTH=PLAIN, at most 128 bytes";
            check.refuse_value("capabilities", text, expected);
            continue;
        }
        let capability = text.value.to_ascii_uppercase();
        names.take_any(check, capability.clone(), text);
        capabilities.push(capability);
    }
    capabilities
}

/// `atom = 1*ATOM-CHAR` (RFC 9051 section 9): printable ASCII but the specials.
fn is_atom(text: &str) -> bool {
    (1..=CAPABILITY_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| {
            b.is_ascii_graphic()
                && !matches!(b, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
        })
}
