//! The routing table: every configured lookup, loaded, immutable. A reload makes a new one.

mod pinned;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::lookup::{Guarded, Said};
use super::maps::{self, MapError, Maps, Rules};
use super::name::{self, NameError};
use super::overrides::Overrides;
use super::query::{FailureReason, Found, Login, Query, Refusal, RemoteSource};
use super::slots::{SlotError, SlotTable};
use super::sources::{
    CompiledUsers, DomainFault, Domains, Patterns, Shards, Source, Users, UsersError, open,
    same_places,
};
use crate::config::{BackendPlace, Config, Lookup, LookupGuard, RoutingKey};
use crate::metrics::{LookupResult, LookupSource, Metrics};
use crate::names::{BackendId, ShardId, UserName};
use crate::net::resolve::{Addresses, Resolver};

/// Where a user is to go: the answer of the lookups, before the registry joins or places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The shard.
    pub shard: ShardId,
    /// The only backend for new sessions, where the lookup named a host.
    pub backend: Option<BackendId>,
    /// The identity for joining, limits, kick and logs. A lookup may answer another than was
    /// asked for (aliases share it); none of the lookups in memory does.
    pub user: UserName,
    /// What the choice among the shard's backends goes by: users with the same key share one.
    pub routing_key: UserName,
    /// What signs in to the backend in place of what the client sent.
    pub login: Option<Login>,
    /// Longest wait for a connection to the backend, where it is not the configured one.
    pub connect_timeout: Option<Duration>,
    /// The login waits until then.
    pub not_before: Option<SystemTime>,
    /// Generation of the table that answered.
    pub generation: u64,
    /// The lookup that answered, for metrics.
    pub source: LookupSource,
}

/// Why a login has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No lookup knows the user. The client gets the answer to a wrong password.
    #[error("no lookup knows the user")]
    NoRoute,
    /// A lookup that had to be asked failed. The client gets `[UNAVAILABLE]`.
    #[error("the {} lookup failed: {}", lookup.label(), reason.label())]
    Unavailable {
        /// The lookup.
        lookup: LookupSource,
        /// Why.
        reason: FailureReason,
    },
    /// A lookup knows that this login must not be. The client gets the answer to a wrong
    /// password.
    #[error("the {} lookup refused the login", lookup.label())]
    Refused {
        /// The lookup.
        lookup: LookupSource,
        /// How the client is told.
        refusal: Refusal,
    },
}

impl LookupError {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::Unavailable { reason, .. } => reason.label(),
            Self::Refused { .. } => FailureReason::Refused.label(),
        }
    }
}

/// One lookup that was asked on the way to a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its place in `routing.lookups`, from 0; none for the pins, which come first.
    pub place: Option<usize>,
    /// What kind it is.
    pub source: LookupSource,
    /// What it said.
    pub result: LookupResult,
    /// How long that took.
    pub elapsed: Duration,
}

/// Why a table cannot be made of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The users file.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// A compiled users map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The slot table.
    #[error(transparent)]
    Slots(#[from] SlotError),
    /// There is a `hash` lookup but the slots were not assigned.
    #[error("the hash lookup has no slot table")]
    SlotsUnassigned,
    /// A lookup whose client is no part of this build.
    #[error("this build has no clients for one of the lookups")]
    NotBuilt,
    /// There is more than one `hash` lookup.
    #[error("there are two hash lookups; there is one slot table, so only one can be")]
    TwoHashLookups,
    /// A lookup names a shard that is not configured.
    #[error("the {lookup} lookup names the shard {shard:?}, which is not under `shards`")]
    UnknownShard {
        /// The lookup, as it is called in the configuration.
        lookup: &'static str,
        /// The shard.
        shard: ShardId,
    },
    /// A domain that no user can have.
    #[error("the domains lookup has the domain {domain:?}: {source}")]
    BadDomain {
        /// As it is in the configuration.
        domain: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A domain that is there twice.
    #[error("the domains lookup has the domain {domain:?} twice")]
    DoubledDomain {
        /// As it is in the configuration the second time.
        domain: String,
    },
    /// Patterns that cannot be used.
    #[error("the patterns lookup cannot be used: {0}")]
    BadPatterns(String),
    /// More shards than a users file's index can number.
    #[error("{shards} shards are configured; at most 65535 can be")]
    TooManyShards {
        /// Their number.
        shards: usize,
    },
}

impl RoutingError {
    /// The reason for metrics, from a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Users(error) => error.reason(),
            Self::Map(error) => error.reason(),
            Self::Slots(error) => error.reason(),
            Self::SlotsUnassigned => "slots_unassigned",
            Self::NotBuilt => "not_built",
            Self::TwoHashLookups => "two_hash_lookups",
            Self::UnknownShard { .. } => "unknown_shard",
            Self::BadDomain { .. } => "bad_domain",
            Self::DoubledDomain { .. } => "doubled_domain",
            Self::BadPatterns(_) => "bad_patterns",
            Self::TooManyShards { .. } => "too_many_shards",
        }
    }
}

/// What a table is made with besides the configuration.
#[derive(Debug)]
pub struct Surroundings {
    /// Where lookups over the network run: not on a worker.
    pub runtime: Handle,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The users maps that are open.
    pub maps: Maps,
    /// Follows the names of servers, in tasks of the runtime that the table is made on.
    pub resolver: Resolver,
    /// The lookups of the configuration in force, to be taken over where they are unchanged.
    pub former: Option<Former>,
}

/// The lookups over the network of a table, and the configuration that they are of.
#[derive(Debug)]
pub struct Former {
    config: Arc<Config>,
    remotes: Vec<Option<Guarded>>,
    resolver: Resolver,
}

impl Former {
    /// The lookup, where its own settings are the same and names mean what they meant.
    fn known(&self, config: &Config, lookup: &Lookup) -> Option<&Guarded> {
        let (was, is) = (&self.config.routing, &config.routing);
        let same_names = was.canonical == is.canonical && was.default_domain == is.default_domain;
        let place = was.lookups.iter().position(|former| former == lookup)?;
        self.remotes.get(place)?.as_ref().filter(|_| same_names)
    }

    /// Whether a directory's word for a place means what it meant.
    fn has_same_places(&self, config: &Config, resolver: &Resolver) -> bool {
        same_places(&self.config, config) && self.resolver.is_same(resolver)
    }
}

/// All lookups of one configuration, in their order.
#[derive(Debug)]
pub struct Table {
    /// Asked before all others.
    pins: Arc<Overrides>,
    links: Vec<Link>,
    shards: Shards,
    /// What follows the servers of its lookups.
    resolver: Resolver,
    /// Where no lookup says a key.
    routing_key: RoutingKey,
    generation: u64,
}

/// One lookup.
#[derive(Debug)]
enum Link {
    /// Answered from memory, at once.
    Memory(Source),
    /// Asked for.
    Remote(Guarded),
}

impl Link {
    fn label(&self) -> LookupSource {
        match self {
            Self::Memory(source) => source.label(),
            Self::Remote(guarded) => guarded.label(),
        }
    }

    async fn ask(&self, query: &Query<'_>) -> Said {
        match self {
            Self::Memory(source) => Said::at_once(source.lookup(query.user)),
            Self::Remote(guarded) if !guarded.can_answer(query) => Said::needs_client(),
            Self::Remote(guarded) => guarded.lookup(query).await,
        }
    }

    const fn remote(&self) -> Option<&Guarded> {
        match self {
            Self::Memory(_) => None,
            Self::Remote(guarded) => Some(guarded),
        }
    }
}

impl Table {
    /// Loads what the lookups name. Blocks for about a second a million users in a file.
    ///
    /// `slots` is [`SlotTable::unassigned`] where there is no `hash` lookup. The generation is
    /// the configuration's; it goes into every route.
    pub fn load(
        config: &Config,
        slots: &SlotTable,
        generation: u64,
        around: &Surroundings,
    ) -> Result<Self, RoutingError> {
        let shards: Shards = config.shards.iter().map(|shard| shard.name.clone()).collect();
        if u16::try_from(shards.len()).is_err() {
            return Err(RoutingError::TooManyShards { shards: shards.len() });
        }
        let lookups = &config.routing.lookups;
        if lookups.iter().filter(|lookup| matches!(lookup, Lookup::Hash { .. })).count() > 1 {
            return Err(RoutingError::TwoHashLookups);
        }
        let follow = |place: &BackendPlace| around.resolver.follow(place);
        let loader = Loader { config, shards: &shards, slots, maps: &around.maps, follow: &follow };
        let former = around.former.as_ref();
        let is_same = former.is_some_and(|former| former.has_same_places(config, &around.resolver));
        let link = |lookup| match loader.load(lookup)? {
            Loaded::Memory(source) => Ok(Link::Memory(source)),
            Loaded::Remote(source, guard) => {
                let known = former.and_then(|former| former.known(config, lookup));
                let guarded = match known {
                    Some(known) if is_same => known.clone(),
                    Some(known) => known.renewed(source, shards.clone()),
                    None => {
                        let breakers = around.metrics.logins.breakers(source.label());
                        let runtime = around.runtime.clone();
                        Guarded::new(source, guard, shards.clone(), runtime, breakers)
                    }
                };
                Ok(Link::Remote(guarded))
            }
        };
        let links = lookups.iter().map(link).collect::<Result<_, RoutingError>>()?;
        let resolver = around.resolver.clone();
        let routing_key = config.routing.routing_key;
        Ok(Self { pins: Arc::default(), links, shards, resolver, routing_key, generation })
    }

    /// The same table with these pins.
    #[must_use]
    pub fn with_pins(self, pins: Arc<Overrides>) -> Self {
        Self { pins, ..self }
    }

    /// What the next table may take over of this one, which was made of that configuration.
    pub fn former(&self, config: Arc<Config>) -> Former {
        let remotes = self.links.iter().map(|link| link.remote().cloned()).collect();
        Former { config, remotes, resolver: self.resolver.clone() }
    }

    /// What is wrong with each lookup, where [`Table::load`] tells the first. Blocks as that.
    pub fn faults(config: &Config, slots: &SlotTable, maps: &Maps) -> Vec<RoutingError> {
        let shards: Shards = config.shards.iter().map(|shard| shard.name.clone()).collect();
        let loader = Loader { config, shards: &shards, slots, maps, follow: &Addresses::fixed };
        config.routing.lookups.iter().filter_map(|lookup| loader.load(lookup).err()).collect()
    }

    /// What the lookups say, in their order, with the one that says it.
    async fn ask_links(
        &self,
        query: &Query<'_>,
        mut tell: impl FnMut(Step),
    ) -> Result<(Arc<Found>, LookupSource), LookupError> {
        let mut passed_over = None;
        for (place, link) in self.links.iter().enumerate() {
            let source = link.label();
            let start = Instant::now();
            let Said { answer, result } = link.ask(query).await;
            tell(Step { place: Some(place), source, result, elapsed: start.elapsed() });
            match answer {
                Ok(Some(found)) => return Ok((found, source)),
                Ok(None) => {}
                Err(failure) if failure.reason == FailureReason::Refused => {
                    // As long as the source wants: guesses at passwords are to be slow.
                    tokio::time::sleep(failure.refusal.wait).await;
                    return Err(LookupError::Refused { lookup: source, refusal: failure.refusal });
                }
                Err(failure) => {
                    let reason = failure.reason;
                    let error = LookupError::Unavailable { lookup: source, reason };
                    let optional = link.remote().is_some_and(Guarded::is_optional);
                    if !optional || reason.is_about_the_user() {
                        return Err(error);
                    }
                    passed_over.get_or_insert(error);
                }
            }
        }
        Err(passed_over.unwrap_or(LookupError::NoRoute))
    }

    fn route_of(&self, asked: &UserName, found: &Found, source: LookupSource) -> Route {
        let user = found.user.as_ref().unwrap_or(asked);
        Route {
            shard: found.shard.clone(),
            backend: found.backend.clone(),
            user: user.clone(),
            routing_key: found.routing_key.clone().unwrap_or_else(|| self.key_of(user)),
            login: found.login.clone(),
            connect_timeout: found.connect_timeout,
            not_before: found.not_before,
            generation: self.generation,
            source,
        }
    }

    fn key_of(&self, user: &UserName) -> UserName {
        match (self.routing_key, name::domain_of(user)) {
            (RoutingKey::Domain, Some(domain)) => UserName::new(domain),
            (RoutingKey::User, _) | (RoutingKey::Domain, None) => user.clone(),
        }
    }

    /// A backend refused the user's login: what is cached of the user may be out of date, and
    /// the next login asks anew.
    pub fn doubt(&self, user: &UserName) {
        self.links.iter().filter_map(Link::remote).for_each(|guarded| guarded.doubt(user));
    }

    /// The operator asked for a fresh view: what is cached serves only while a lookup fails.
    pub fn doubt_all(&self) {
        self.links.iter().filter_map(Link::remote).for_each(Guarded::doubt_all);
    }

    /// The generation given to [`Table::load`].
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

/// A lookup whose configuration is sound.
enum Loaded {
    Memory(Source),
    Remote(Arc<dyn RemoteSource>, LookupGuard),
}

/// What lookups are loaded with.
struct Loader<'a> {
    config: &'a Config,
    shards: &'a Shards,
    slots: &'a SlotTable,
    maps: &'a Maps,
    follow: &'a dyn Fn(&BackendPlace) -> Addresses,
}

impl Loader<'_> {
    fn load(&self, lookup: &Lookup) -> Result<Loaded, RoutingError> {
        let source = match lookup {
            Lookup::Users { file } => return self.users(file),
            Lookup::Domains(domains) => {
                check_shards("domains", domains.iter().map(|(_, shard)| shard), self.shards)?;
                let loaded =
                    Domains::load(&self.config.routing, domains).map_err(|(domain, fault)| {
                        match fault {
                            DomainFault::Bad(source) => RoutingError::BadDomain { domain, source },
                            DomainFault::Doubled => RoutingError::DoubledDomain { domain },
                        }
                    })?;
                Source::Domains(loaded)
            }
            Lookup::Patterns(patterns) => {
                check_shards("patterns", patterns.iter().map(|(_, shard)| shard), self.shards)?;
                let loaded = Patterns::load(self.config.routing.canonical, patterns);
                Source::Patterns(loaded.map_err(RoutingError::BadPatterns)?)
            }
            Lookup::Hash { shards: listed } => {
                check_shards("hash", listed, self.shards)?;
                if !self.slots.is_assigned() {
                    return Err(RoutingError::SlotsUnassigned);
                }
                self.slots.check_shards(self.shards)?;
                Source::Hash(self.slots.clone())
            }
            Lookup::Shard(shard) => {
                check_shards("shard", [shard], self.shards)?;
                Source::Shard(shard.clone())
            }
            Lookup::Remote(remote) => {
                let source = open(self.config, &remote.directory, self.follow)
                    .ok_or(RoutingError::NotBuilt)?;
                return Ok(Loaded::Remote(source, remote.guard.clone()));
            }
        };
        Ok(Loaded::Memory(source))
    }

    /// Text is held in memory, a compiled map is read where it lies.
    fn users(&self, file: &Path) -> Result<Loaded, RoutingError> {
        let unreadable = |source| UsersError::Unreadable { file: file.to_owned(), source };
        if maps::is_lmdb(file).map_err(unreadable)? {
            let map = self.maps.open(file, &Rules::from(&self.config.routing))?;
            let source = Arc::new(CompiledUsers::new(map));
            return Ok(Loaded::Remote(source, CompiledUsers::guard()));
        }
        Ok(Loaded::Memory(Source::Users(Users::load(&self.config.routing, file, self.shards)?)))
    }
}

fn check_shards<'a>(
    lookup: &'static str,
    named: impl IntoIterator<Item = &'a ShardId>,
    shards: &Shards,
) -> Result<(), RoutingError> {
    match named.into_iter().find(|shard| !shards.contains(shard)) {
        Some(shard) => Err(RoutingError::UnknownShard { lookup, shard: shard.clone() }),
        None => Ok(()),
    }
}

/// Tables are shared by the workers.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Table>>();
};
