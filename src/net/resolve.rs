//! Backend names to addresses, in the background: a login reads a snapshot and never
//! waits for a name server.
//!
//! Names are looked up through the system's resolver every [`REFRESH_EVERY`]; it tells
//! neither lifetimes nor SRV records, so records with a shorter lifetime are followed
//! with this delay until the proxy does its own lookups.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;

use crate::net::cidr::normalise;

/// Pause between two rounds of lookups.
pub const REFRESH_EVERY: Duration = Duration::from_secs(30);

/// Longest wait for one lookup of a round; the last answer stays meanwhile.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Lookups at a time. Each takes a thread of the control runtime while it waits.
pub const LOOKUPS_AT_ONCE: usize = 64;

/// Addresses kept per name; a longer answer is cut.
pub const ADDRESSES_MAX: usize = 16;

type Lookup = dyn Fn(String) -> Answer + Send + Sync;

/// A lookup under way, for [`Resolver::with_lookup`].
pub type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Follows the names of backends. Cloning shares it.
#[derive(Clone)]
pub struct Resolver {
    /// Names go when nobody holds their [`Addresses`] any more, as after a reload.
    names: Arc<Mutex<Vec<Weak<Name>>>>,
    lookup: Arc<Lookup>,
}

/// The addresses of one backend's host, as last known. Cloning is a count.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<Name>);

#[derive(Debug)]
struct Name {
    host: String,
    literal: bool,
    last_good: ArcSwap<Vec<IpAddr>>,
    /// Set while lookups fail, so that the log has one line per outage.
    failing: std::sync::atomic::AtomicBool,
}

impl Addresses {
    /// The addresses in the resolver's order; empty while no lookup has succeeded. Does
    /// not block, does not allocate.
    pub fn current(&self) -> Arc<Vec<IpAddr>> {
        self.0.last_good.load_full()
    }

    /// The name, or the literal address as it was given.
    pub fn host(&self) -> &str {
        &self.0.host
    }
}

impl Resolver {
    /// One that asks the system (`/etc/hosts`, `/etc/resolv.conf`).
    pub fn system() -> Self {
        Self::with_lookup(|host| Box::pin(ask_system(host)))
    }

    /// One with its own way of asking, for tests.
    pub fn with_lookup(lookup: impl Fn(String) -> Answer + Send + Sync + 'static) -> Self {
        Self { names: Arc::default(), lookup: Arc::new(lookup) }
    }

    /// Begins to follow `host`. An IP address (also in brackets) is its own answer at
    /// once; a name is empty until a round has found it. The same name is followed once.
    pub fn follow(&self, host: &str) -> Addresses {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let literal = bare.parse().ok().map(normalise);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|name| name.strong_count() > 0);
        if let Some(known) = names.iter().filter_map(Weak::upgrade).find(|name| name.host == host) {
            return Addresses(known);
        }
        let name = Arc::new(Name {
            host: host.to_owned(),
            literal: literal.is_some(),
            last_good: ArcSwap::from_pointee(Vec::from_iter(literal)),
            failing: false.into(),
        });
        names.push(Arc::downgrade(&name));
        Addresses(name)
    }

    /// One round over all names, for at most `bound`, at start and after a reload (5 s is
    /// a good bound). Returns the names that have no address after it: their backends
    /// cannot be dialled until a later round finds them.
    pub async fn resolve_now(&self, bound: Duration) -> Vec<String> {
        // What the bound cuts off is asked again in the next round.
        let _ = tokio::time::timeout(bound, self.round()).await;
        let names = self.followed();
        names
            .iter()
            .filter(|name| name.last_good.load().is_empty())
            .map(|name| name.host.clone())
            .collect()
    }

    /// Asks again and again, every [`REFRESH_EVERY`]. Runs until dropped; belongs on the
    /// control runtime.
    pub async fn refresh_forever(self) {
        loop {
            tokio::time::sleep(REFRESH_EVERY).await;
            self.round().await;
        }
    }

    /// Asks for every name once, some at a time.
    async fn round(&self) {
        let names = self.followed();
        for some in names.chunks(LOOKUPS_AT_ONCE) {
            let mut asked = JoinSet::new();
            for name in some.iter().filter(|name| !name.literal) {
                asked.spawn(refresh(Arc::clone(name), (self.lookup)(name.host.clone())));
            }
            while asked.join_next().await.is_some() {}
        }
    }

    fn followed(&self) -> Vec<Arc<Name>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter_map(Weak::upgrade).collect()
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("names", &self.followed().len()).finish_non_exhaustive()
    }
}

/// Takes a good answer over; a failure or an empty answer leaves the last one.
async fn refresh(name: Arc<Name>, answer: Answer) {
    use std::sync::atomic::Ordering::Relaxed;
    let failure = match tokio::time::timeout(LOOKUP_TIMEOUT, answer).await {
        Ok(Ok(found)) if !found.is_empty() => {
            take_over(&name, found);
            if name.failing.swap(false, Relaxed) {
                tracing::info!(host = name.host, "backend name resolves again");
            }
            return;
        }
        Ok(Ok(_)) => "no addresses".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {LOOKUP_TIMEOUT:?}"),
    };
    if !name.failing.swap(true, Relaxed) {
        let kept = name.last_good.load().len();
        tracing::warn!(host = name.host, failure, kept, "backend name does not resolve");
    }
}

fn take_over(name: &Name, found: Vec<IpAddr>) {
    let mut addresses = Vec::with_capacity(found.len().min(ADDRESSES_MAX));
    for address in found.into_iter().map(normalise) {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if **name.last_good.load() != addresses {
        name.last_good.store(Arc::new(addresses));
    }
}

async fn ask_system(host: String) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((host, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const BOUND: Duration = Duration::from_secs(5);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Gives these answers in turn; then never again.
    fn scripted(answers: Vec<io::Result<Vec<IpAddr>>>) -> Resolver {
        let answers = Mutex::new(VecDeque::from(answers));
        Resolver::with_lookup(move |_| match answers.lock().unwrap().pop_front() {
            Some(answer) => Box::pin(async move { answer }),
            None => Box::pin(std::future::pending()),
        })
    }

    #[tokio::test]
    async fn literals_are_their_own_answer_and_are_never_asked_for() {
        let resolver = scripted(Vec::new());
        let four = resolver.follow("192.0.2.1");
        let six = resolver.follow("[2001:db8::1]");
        assert!(resolver.resolve_now(BOUND).await.is_empty());
        assert_eq!(*four.current(), [ip("192.0.2.1")]);
        assert_eq!(*six.current(), [ip("2001:db8::1")]);
    }

    #[tokio::test]
    async fn the_last_good_answer_outlives_failures_and_empty_answers() {
        let good = vec![ip("192.0.2.1"), ip("192.0.2.1"), ip("::ffff:192.0.2.2")];
        let resolver = scripted(vec![
            Ok(good),
            Err(io::Error::other("server failure")),
            Ok(Vec::new()),
            Ok(vec![ip("192.0.2.9")]),
        ]);
        let name = resolver.follow("n1.mail.internal");
        for expected in [&["192.0.2.1", "192.0.2.2"][..]; 3].iter().chain([&&["192.0.2.9"][..]]) {
            assert!(resolver.resolve_now(BOUND).await.is_empty());
            let expected: Vec<IpAddr> = expected.iter().map(|text| ip(text)).collect();
            assert_eq!(*name.current(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_resolver_delays_the_start_by_the_bound_only() {
        let resolver = scripted(Vec::new());
        let _name = resolver.follow("n1.mail.internal");
        let began = tokio::time::Instant::now();
        assert_eq!(resolver.resolve_now(BOUND).await, ["n1.mail.internal"]);
        assert_eq!(began.elapsed(), BOUND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_address_is_seen_within_a_refresh() {
        let resolver = scripted(vec![Ok(vec![ip("192.0.2.1")]), Ok(vec![ip("192.0.2.2")])]);
        let name = resolver.follow("n1.mail.internal");
        resolver.resolve_now(BOUND).await;
        let refresh = tokio::spawn(resolver.refresh_forever());
        assert_eq!(*name.current(), [ip("192.0.2.1")]);
        tokio::time::sleep(REFRESH_EVERY + Duration::from_secs(1)).await;
        assert_eq!(*name.current(), [ip("192.0.2.2")]);
        refresh.abort();
    }

    #[tokio::test]
    async fn names_that_nobody_holds_are_asked_for_no_more() {
        let resolver = scripted(Vec::new());
        let held = resolver.follow("held.internal");
        drop(resolver.follow("gone.internal"));
        let again = resolver.follow("held.internal");
        assert!(Arc::ptr_eq(&held.0, &again.0));
        assert_eq!(resolver.followed().len(), 1);
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let resolver = Resolver::system();
        let name = resolver.follow("localhost");
        assert!(resolver.resolve_now(BOUND).await.is_empty());
        assert!(name.current().iter().all(IpAddr::is_loopback));
    }
}
