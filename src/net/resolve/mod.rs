//! Names of backends and of HTTP servers that are asked, to addresses, in the background: a login reads a snapshot and never
//! waits for a name server.
//!
//! Each name has a task of its own on the control runtime. It asks again when the lifetime
//! of the last answer has ended, within [`LIFETIME_MIN`] and [`LIFETIME_MAX`], and after a
//! failure with a growing pause. The last good answer stays until there is a better one.

mod client;
mod lookup;
mod question;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::{BackendPlace, Dns};
use crate::metrics::{DnsResult, Metrics};
use crate::net::cidr::normalise;

pub use self::client::Asked;
use self::client::{Client, Settings};
use self::lookup::{Found, Lookups};
pub use self::question::{Failure, Question, RecordKind, Records, Service};

/// Shortest time after which a good answer is asked for again.
pub const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// Longest time after which a good answer is asked for again.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3600);

/// Pause after the first failure; it doubles with each further one.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Longest pause between two tries.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why the name servers of a configuration cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("the name servers cannot be used: {0}")]
pub struct ResolverError(String);

/// Follows the places of backends. Cloning shares it.
#[derive(Clone)]
pub struct Resolver {
    names: Arc<Mutex<Names>>,
    client: Arc<Client>,
    metrics: Arc<Metrics>,
}

/// Names go when nobody holds their [`Addresses`] any more, as after a reload. The same
/// place is there twice only while the name servers change.
type Names = HashMap<BackendPlace, Vec<Weak<Name>>>;

/// The addresses of one backend, as last known. Cloning is a count.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<Name>);

#[derive(Debug)]
struct Name {
    place: BackendPlace,
    last_good: ArcSwap<Vec<SocketAddr>>,
    /// `None`: the place is an address.
    follower: Option<Follower>,
}

/// The task that looks a name up. It ends when this is dropped.
#[derive(Debug)]
struct Follower {
    client: Arc<Client>,
    /// Counts the wishes for a lookup before its time.
    wanted: watch::Sender<u64>,
    /// Counts the lookups that ended.
    ended: watch::Receiver<u64>,
}

impl Addresses {
    /// The addresses in the order of trying; empty while no lookup has succeeded, and where
    /// SRV records say that the service is not available. Does not block, does not allocate.
    pub fn current(&self) -> Arc<Vec<SocketAddr>> {
        self.0.last_good.load_full()
    }

    /// Addresses that nobody looks up: an IP address is its own, a name has none.
    pub fn fixed(place: &BackendPlace) -> Self {
        let last_good = ArcSwap::from_pointee(Vec::from_iter(literal(place)));
        Self(Arc::new(Name { place: place.clone(), last_good, follower: None }))
    }

    /// What is followed.
    pub fn place(&self) -> &BackendPlace {
        &self.0.place
    }
}

impl Resolver {
    /// One that asks the name servers of a configuration; `/etc/hosts` comes first.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub async fn new(dns: &Dns, metrics: Arc<Metrics>) -> Result<Self, ResolverError> {
        let client = Client::new(read(dns).await?).map_err(refused)?;
        Ok(Self { names: Arc::default(), client: Arc::new(client), metrics })
    }

    /// One with its own way of asking, for tests: whatever the configuration says.
    pub fn with_ask(
        metrics: Arc<Metrics>,
        ask: impl Fn(Question) -> Asked + Send + Sync + 'static,
    ) -> Self {
        Self { names: Arc::default(), client: Arc::new(Client::with_ask(ask)), metrics }
    }

    /// The same for another configuration. What is followed already goes on as it was; what
    /// this one follows begins with the last good answers. Where the servers are the same,
    /// also in `/etc/resolv.conf`, so are the names.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub async fn reconfigured(&self, dns: &Dns) -> Result<Self, ResolverError> {
        let settings = read(dns).await?;
        let in_use = self
            .followed()
            .into_iter()
            .filter_map(|name| name.follower.as_ref().map(|follower| Arc::clone(&follower.client)));
        let known = in_use.chain([Arc::clone(&self.client)]);
        let same = known.into_iter().find(|client| client.is_made_from(&settings));
        let client = match same {
            Some(client) => client,
            None => Arc::new(Client::new(settings).map_err(refused)?),
        };
        Ok(Self { client, ..self.clone() })
    }

    /// Whether both ask the same name servers in the same way.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.client, &other.client)
    }

    /// Begins to follow a place, in a task of the present runtime. An IP address is its own
    /// answer at once; a name is empty until a lookup has found it. The same name is followed
    /// once.
    pub fn follow(&self, place: &BackendPlace) -> Addresses {
        if literal(place).is_some() {
            return Addresses::fixed(place);
        }
        let mut names = self.names();
        let known = names.entry(place.clone()).or_default();
        known.retain(|name| name.strong_count() > 0);
        let mut last_good = Arc::default();
        for name in known.iter().filter_map(Weak::upgrade) {
            let follower = name.follower.as_ref();
            if follower.is_some_and(|follower| Arc::ptr_eq(&follower.client, &self.client)) {
                return Addresses(name);
            }
            last_good = name.last_good.load_full();
        }
        let (wanted, wishes) = watch::channel(0);
        let (count, ended) = watch::channel(0);
        let client = Arc::clone(&self.client);
        let name = Arc::new(Name {
            place: place.clone(),
            last_good: ArcSwap::new(last_good),
            follower: Some(Follower { client: Arc::clone(&client), wanted, ended }),
        });
        let task = Task {
            place: place.clone(),
            name: Arc::downgrade(&name),
            client,
            metrics: Arc::clone(&self.metrics),
            wishes,
            count,
        };
        tokio::spawn(task.run());
        known.push(Arc::downgrade(&name));
        Addresses(name)
    }

    /// Asks for all names now, at start and after a reload, and waits at most for `bound`
    /// (5 s is a good one) for those that have no address. Returns them where they have none
    /// after it: their backends cannot be dialled until a later lookup finds them.
    pub async fn resolve_now(&self, bound: Duration) -> Vec<String> {
        let names = self.followed();
        let missing = |name: &Arc<Name>| name.last_good.load().is_empty();
        let mut waited = Vec::new();
        for name in &names {
            let Some(follower) = &name.follower else { continue };
            let mut ended = follower.ended.clone();
            // The first lookup is under way by itself. The count is read before the
            // addresses: a lookup that ends between the two is not waited for.
            if *ended.borrow_and_update() > 0 {
                follower.wanted.send_modify(|wishes| *wishes += 1);
            }
            if missing(name) {
                waited.push(ended);
            }
        }
        let all = async {
            for mut ended in waited {
                // An error says that the task is gone, with the runtime.
                let _ = ended.changed().await;
            }
        };
        // What the bound cuts off goes on.
        let _ = tokio::time::timeout(bound, all).await;
        names.iter().filter(|name| missing(name)).map(|name| name.place.to_string()).collect()
    }

    /// The names that somebody holds.
    fn followed(&self) -> Vec<Arc<Name>> {
        let mut names = self.names();
        names.retain(|_, known| known.iter().any(|name| name.strong_count() > 0));
        names.values().flatten().filter_map(Weak::upgrade).collect()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.followed().len();
        f.debug_struct("Resolver").field("names", &names).finish_non_exhaustive()
    }
}

/// The file is read away from the runtime.
async fn read(dns: &Dns) -> Result<Settings, ResolverError> {
    let dns = dns.clone();
    let read = tokio::task::spawn_blocking(move || Settings::read(&dns)).await;
    read.map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> ResolverError {
    ResolverError(error.to_string())
}

fn literal(place: &BackendPlace) -> Option<SocketAddr> {
    match place {
        BackendPlace::Host { host, port } => {
            let address: IpAddr = host.parse().ok()?;
            Some(SocketAddr::new(normalise(address), *port))
        }
        BackendPlace::Service(_) => None,
    }
}

/// Follows one name.
struct Task {
    place: BackendPlace,
    name: Weak<Name>,
    client: Arc<Client>,
    metrics: Arc<Metrics>,
    wishes: watch::Receiver<u64>,
    count: watch::Sender<u64>,
}

impl Task {
    async fn run(mut self) {
        let mut lookups = Lookups::default();
        let mut schedule = Schedule::default();
        loop {
            self.wishes.mark_unchanged();
            let found = lookups.look_up(&self.client, &self.place).await;
            let Some(name) = self.name.upgrade() else { return };
            self.take_over(&name, &found, schedule.fails());
            drop(name);
            let pause = schedule.pause_after(&found);
            self.count.send_modify(|count| *count += 1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                wish = self.wishes.changed() => if wish.is_err() {
                    // Nobody holds the name any more.
                    return;
                }
            }
        }
    }

    /// Takes a good answer over; a failure leaves the last one. The log has one line for
    /// each outage.
    fn take_over(&self, name: &Name, found: &Result<Found, Failure>, failed: bool) {
        let place = &self.place;
        match found {
            Ok(found) => {
                if **name.last_good.load() != found.addresses {
                    name.last_good.store(Arc::new(found.addresses.clone()));
                    self.tell_change(found);
                }
                if failed {
                    tracing::info!(%place, "a server's name resolves again");
                }
                let empty = found.addresses.is_empty();
                self.metrics.dns.lookup_ended(if empty { DnsResult::Empty } else { DnsResult::Ok });
            }
            Err(failure) => {
                if !failed {
                    let kept = name.last_good.load().len();
                    tracing::warn!(%place, %failure, kept, "a server's name does not resolve");
                }
                self.metrics.dns.lookup_ended(failure.result());
            }
        }
    }

    fn tell_change(&self, found: &Found) {
        let place = &self.place;
        if found.addresses.is_empty() {
            tracing::warn!(%place, "its SRV records say that the service is not available");
        } else {
            tracing::debug!(%place, addresses = ?found.addresses, "a server's addresses");
        }
    }
}

/// When a name is asked for again.
#[derive(Debug, Default)]
struct Schedule {
    /// The pause after the next failure; `None` after a whole good answer.
    next: Option<Duration>,
    fails: bool,
}

impl Schedule {
    /// Whether the last lookup failed as a whole.
    const fn fails(&self) -> bool {
        self.fails
    }

    /// The end of a good answer's lifetime; after a failure, of a part too, a pause that
    /// grows from [`PAUSE_MIN`] to [`PAUSE_MAX`].
    fn pause_after(&mut self, found: &Result<Found, Failure>) -> Duration {
        self.fails = found.is_err();
        let lifetime = match found {
            Ok(found) if found.missing.is_none() => {
                self.next = None;
                return found.lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX);
            }
            Ok(found) => found.lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX),
            Err(_) => LIFETIME_MAX,
        };
        let pause = self.next.unwrap_or(PAUSE_MIN);
        self.next = Some((pause * 2).min(PAUSE_MAX));
        pause.min(lifetime)
    }
}

#[cfg(test)]
mod tests;
