//! `routing`: how a user's shard is found.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::config::check::{Check, Entries, Keyword, Names, Text};
use crate::config::directory::{Directory, RawAuthHttp, RawLdap, RawRedis, RawSql};
use crate::config::fault::quoted;
use crate::config::guard::{LookupGuard, RawBreaker, RawCache, RawGuard};
use crate::config::patterns::{Pattern, check_patterns};
use crate::config::source::Object;
use crate::names::ShardId;

const STICKY_DEFAULT: Duration = Duration::from_secs(15 * 60);
const STICKY_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Shards that a message lists at most.
const SHARDS_SHOWN_MAX: usize = 10;

const LOOKUP_FORM: &str = "one of `users`, `domains`, `patterns`, `hash`, `shard`, `auth_http`, `ldap`, `redis` and \
                           `sql`";

/// How a user's shard is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// The canonical form of names. Default: lowercase.
    pub canonical: Canonical,
    /// Appended to names without `@`, in canonical form. Default: nothing.
    pub default_domain: Option<String>,
    /// Asked in this order, the first answer wins. At least one.
    pub lookups: Vec<Lookup>,
    /// What the choice among a shard's backends goes by, where no lookup says it. Default: the
    /// user. A reload changes it for users without sessions who are not remembered.
    pub routing_key: RoutingKey,
    /// How long a user's backend is remembered after the last session. Default 15 min.
    pub sticky: Duration,
    /// What becomes of a user's sessions on another shard than the route's. Default: join.
    pub on_route_change: OnRouteChange,
}

/// What the choice among a shard's backends goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutingKey {
    /// The user: each has his own place.
    User,
    /// The domain behind the last `@`: its users share a place. Of a name without one, the name.
    Domain,
}

impl Keyword for RoutingKey {
    const WORDS: &'static [(&'static str, Self)] =
        &[("user", Self::User), ("domain", Self::Domain)];
}

/// What becomes of a user's sessions when his route names another shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRouteChange {
    /// They go on, and new logins join them until the last one has ended.
    Join,
    /// At the user's next login they get their BYE, and the login waits for their ends.
    End,
}

impl Keyword for OnRouteChange {
    const WORDS: &'static [(&'static str, Self)] = &[("join", Self::Join), ("end", Self::End)];
}

impl Routing {
    /// Rules for names alone: they route nobody.
    pub fn of_names(canonical: Canonical, default_domain: Option<String>) -> Self {
        Self {
            canonical,
            default_domain,
            lookups: Vec::new(),
            routing_key: RoutingKey::User,
            sticky: STICKY_DEFAULT,
            on_route_change: OnRouteChange::Join,
        }
    }
}

/// The canonical form of user names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canonical {
    /// ASCII letters lowered; non-ASCII names are refused.
    Lowercase,
    /// RFC 8265 `UsernameCaseMapped`; domains are in ASCII.
    Precis,
    /// ASCII as typed; non-ASCII names are refused.
    Exact,
}

impl Keyword for Canonical {
    const WORDS: &'static [(&'static str, Self)] =
        &[("lowercase", Self::Lowercase), ("precis", Self::Precis), ("exact", Self::Exact)];
}

/// One routing lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// A text file, `user shard` a line, held in memory, reread on reload.
    Users {
        /// The file.
        file: PathBuf,
    },
    /// Shard by the domain behind the last `@`, in canonical form.
    Domains(Vec<(String, ShardId)>),
    /// Shard by the form of the canonical name; the first pattern that matches decides.
    Patterns(Vec<(Pattern, ShardId)>),
    /// Slot table over these shards.
    Hash {
        /// The shards in order, each once.
        shards: Vec<ShardId>,
    },
    /// Everybody else.
    Shard(ShardId),
    /// A directory that is asked over the network.
    Remote(Box<RemoteLookup>),
}

/// A directory that is asked over the network, and what bounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteLookup {
    /// Where and what is asked.
    pub directory: Directory,
    /// How its troubles are kept from the logins.
    pub guard: LookupGuard,
}

/// `routing` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRouting {
    canonical: Option<Text>,
    default_domain: Option<Text>,
    lookups: Option<Spanned<Vec<Spanned<RawLookup>>>>,
    routing_key: Option<Text>,
    sticky: Option<Text>,
    on_route_change: Option<Text>,
}

/// A lookup as written: exactly one of the first, and what bounds it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLookup {
    users: Option<Spanned<RawUsers>>,
    domains: Option<Spanned<Entries<Text>>>,
    patterns: Option<Spanned<Entries<Text>>>,
    hash: Option<Spanned<RawHash>>,
    shard: Option<Text>,
    auth_http: Option<Spanned<RawAuthHttp>>,
    ldap: Option<Spanned<RawLdap>>,
    redis: Option<Spanned<RawRedis>>,
    sql: Option<Spanned<RawSql>>,
    timeout: Option<Text>,
    in_flight: Option<Text>,
    on_failure: Option<Text>,
    cache: Option<Spanned<RawCache>>,
    breaker: Option<Spanned<RawBreaker>>,
}

/// `users` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUsers {
    file: Option<Text>,
}

/// `hash` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHash {
    shards: Option<Vec<Text>>,
}

impl RawRouting {
    pub(super) fn check(
        self,
        place: Location,
        shards: &ShardNames,
        check: &mut Check<'_>,
    ) -> Option<Routing> {
        if let Some(text) = &self.canonical {
            check.remember(Object::Canonical, text.defined);
        }
        if let Some(text) = &self.default_domain {
            check.remember(Object::DefaultDomain, text.defined);
        }
        let canonical = check.word("canonical", self.canonical.as_ref(), Canonical::Lowercase);
        let default_domain = self
            .default_domain
            .as_ref()
            .and_then(|domain| check_domain("default_domain", domain, canonical, check));
        let routing_key = check.word("routing_key", self.routing_key.as_ref(), RoutingKey::User);
        let range = Duration::ZERO..=STICKY_MAX;
        let sticky = check.duration("sticky", self.sticky.as_ref(), range, STICKY_DEFAULT);
        let word = self.on_route_change;
        let lookups = check.required("lookups", self.lookups, place, "a list of lookups")?;
        if lookups.value.is_empty() {
            check.refuse(lookups.defined, "no lookups: no user has a shard", LOOKUP_FORM);
        }
        let mut chain = Chain { canonical, shards, catch_all: None, hash_line: None };
        let mut checked = Vec::new();
        for (index, raw) in lookups.value.into_iter().enumerate() {
            checked.extend(chain.check(index, raw, check));
        }
        let on_route_change = check.word("on_route_change", word.as_ref(), OnRouteChange::Join);
        Some(Routing {
            canonical,
            default_domain,
            lookups: checked,
            routing_key,
            sticky,
            on_route_change,
        })
    }
}

/// The shards that lookups may name.
#[derive(Debug)]
pub(super) struct ShardNames {
    names: std::collections::HashSet<String>,
    shown: String,
}

impl ShardNames {
    /// All names of the file, also of shards with faults, so that one fault is one.
    pub(super) fn new(names: Vec<String>) -> Self {
        let mut shown: Vec<String> =
            names.iter().take(SHARDS_SHOWN_MAX).map(|name| quoted(name)).collect();
        if names.len() > SHARDS_SHOWN_MAX {
            shown.push("...".to_owned());
        }
        Self { shown: shown.join(", "), names: names.into_iter().collect() }
    }

    fn check(&self, text: &Text, check: &mut Check<'_>) -> ShardId {
        if !self.names.contains(&text.value) {
            let message = format!("unknown shard {}", quoted(&text.value));
            check.refuse(text.defined, message, format!("a shard of this file: {}", self.shown));
        }
        ShardId::new(text.value.as_str())
    }
}

/// What the lookups before this one decide about it.
struct Chain<'s> {
    canonical: Canonical,
    shards: &'s ShardNames,
    /// The lookup that answers for everybody, and its line.
    catch_all: Option<(&'static str, u64)>,
    hash_line: Option<u64>,
}

impl Chain<'_> {
    fn check(
        &mut self,
        index: usize,
        raw: Spanned<RawLookup>,
        check: &mut Check<'_>,
    ) -> Option<Lookup> {
        let Spanned { value: raw, defined: place, .. } = raw;
        let guard = RawGuard {
            timeout: raw.timeout,
            in_flight: raw.in_flight,
            on_failure: raw.on_failure,
            cache: raw.cache,
            breaker: raw.breaker,
        };
        let kinds = [
            ("users", raw.users.is_some()),
            ("domains", raw.domains.is_some()),
            ("patterns", raw.patterns.is_some()),
            ("hash", raw.hash.is_some()),
            ("shard", raw.shard.is_some()),
            ("auth_http", raw.auth_http.is_some()),
            ("ldap", raw.ldap.is_some()),
            ("redis", raw.redis.is_some()),
            ("sql", raw.sql.is_some()),
        ];
        let mut there = kinds.into_iter().filter_map(|(kind, there)| there.then_some(kind));
        let (Some(kind), None) = (there.next(), there.next()) else {
            let message = "a lookup is exactly one thing; several are several list entries";
            check.refuse(place, message, LOOKUP_FORM);
            return None;
        };
        self.check_reached(raw.hash.is_some(), place, check);
        let directory = match kind {
            "auth_http" => {
                Some(RawAuthHttp::check(&raw.auth_http?, check).map(Directory::AuthHttp))
            }
            "ldap" => Some(RawLdap::check(&raw.ldap?, check).map(Directory::Ldap)),
            "redis" => Some(RawRedis::check(&raw.redis?, check).map(Directory::Redis)),
            "sql" => Some(RawSql::check(&raw.sql?, check).map(Directory::Sql)),
            _ => None,
        };
        if let Some(directory) = directory {
            let guard = guard.check(check);
            return directory
                .map(|directory| Lookup::Remote(Box::new(RemoteLookup { directory, guard })));
        }
        // Wrong values are told too where the keys do not belong: one run tells all.
        guard.refuse(kind, check);
        guard.check(check);
        if let Some(users) = raw.users {
            return check_users(index, &users, check);
        }
        if let Some(domains) = raw.domains {
            return Some(self.check_domains(&domains, check));
        }
        if let Some(patterns) = raw.patterns {
            let shard_of = |shard: &Text, check: &mut Check<'_>| self.shards.check(shard, check);
            let patterns = check_patterns(&patterns, self.canonical, check, shard_of);
            return Some(Lookup::Patterns(patterns));
        }
        if let Some(hash) = raw.hash {
            self.catch_all.get_or_insert(("hash", place.line()));
            self.hash_line.get_or_insert(place.line());
            check.remember(Object::HashLookup, place);
            return self.check_hash(&hash, check);
        }
        let shard = raw.shard?;
        self.catch_all.get_or_insert(("shard", place.line()));
        Some(Lookup::Shard(self.shards.check(&shard, check)))
    }

    /// A lookup behind one that answers for everybody would never be asked.
    fn check_reached(&self, is_hash: bool, place: Location, check: &mut Check<'_>) {
        if let Some(line) = self.hash_line.filter(|_| is_hash) {
            let expected = format!("one for all its shards; the first is on line {line}");
            check.refuse(place, "a second `hash` lookup", expected);
        } else if let Some((kind, line)) = self.catch_all {
            let message =
                format!("this lookup is never asked: `{kind}` on line {line} answers all");
            check.refuse(place, message, format!("`{kind}` as the last lookup"));
        }
    }

    fn check_domains(&self, raw: &Spanned<Entries<Text>>, check: &mut Check<'_>) -> Lookup {
        if raw.value.0.is_empty() {
            check.refuse(raw.defined, "`domains` is empty", "`domain: shard`, one or more");
        }
        let mut names = Names::of("domain");
        let mut domains = Vec::new();
        for (domain, shard) in &raw.value.0 {
            let shard = self.shards.check(shard, check);
            if let Some(name) = check_domain("domains", domain, self.canonical, check) {
                names.take_any(check, name.clone(), domain);
                domains.push((name, shard));
            }
        }
        Lookup::Domains(domains)
    }

    fn check_hash(&self, raw: &Spanned<RawHash>, check: &mut Check<'_>) -> Option<Lookup> {
        let texts = raw.value.shards.as_deref();
        let texts = check.required("shards", texts, raw.defined, "`shards`: a list of shards")?;
        if texts.is_empty() {
            check.refuse(raw.defined, "`hash` over no shards", "`shards`: a list of shards");
        }
        let mut names = Names::of("shard");
        let mut shards = Vec::new();
        for text in texts {
            names.take_any(check, text.value.clone(), text);
            shards.push(self.shards.check(text, check));
        }
        Some(Lookup::Hash { shards })
    }
}

fn check_users(index: usize, raw: &Spanned<RawUsers>, check: &mut Check<'_>) -> Option<Lookup> {
    let file = raw.value.file.as_ref();
    let file = check.required("file", file, raw.defined, "`file`: a text file of users")?;
    check.remember(Object::UsersFile(index), file.defined);
    check.path("file", file).map(|file| Lookup::Users { file })
}

/// A mail domain in canonical form.
fn check_domain(
    key: &str,
    text: &Text,
    canonical: Canonical,
    check: &mut Check<'_>,
) -> Option<String> {
    let well_formed = (1..=255).contains(&text.value.len())
        && text.value.bytes().all(|b| b.is_ascii_graphic() && b != b'@');
    if !well_formed {
        check.refuse_value(key, text, "a domain in ASCII without `@`, such as example.org");
        return None;
    }
    Some(match canonical {
        Canonical::Lowercase | Canonical::Precis => text.value.to_ascii_lowercase(),
        Canonical::Exact => text.value.clone(),
    })
}
