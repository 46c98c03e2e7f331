//! One lookup of a backend's place: the questions that it takes, and the addresses in the
//! order of trying.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::BackendPlace;
use crate::net::cidr::normalise;
use crate::net::resolve::client::{Client, HOSTS_LIFETIME};
use crate::net::resolve::question::{Failure, Question, RecordKind, Records, Service};

/// Addresses kept of one backend; a longer answer is cut.
pub(super) const ADDRESSES_MAX: usize = 16;

/// Targets of SRV records that are looked up; further ones are left out.
const TARGETS_MAX: usize = 16;

/// The name of SRV records' target where the service is not available (RFC 2782).
const NOT_AVAILABLE: &str = ".";

type Answers = HashMap<Question, Result<Records, Failure>>;

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// In the order of trying; empty only where SRV records say that the service is not
    /// available.
    pub(super) addresses: Vec<SocketAddr>,
    /// How long all of it holds.
    pub(super) lifetime: Duration,
    /// A question that got no answer: what was known of that part is in `addresses`.
    pub(super) missing: Option<Failure>,
}

/// The lookups of one place, one after the other. Remembers the last good answer to each
/// question, so that a part that fails takes nothing away.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    known: HashMap<Question, Vec<IpAddr>>,
}

/// The addresses of one host.
#[derive(Debug)]
struct Host {
    addresses: Vec<IpAddr>,
    /// `None`: nothing of it was answered this time.
    lifetime: Option<Duration>,
    missing: Option<Failure>,
}

impl Lookups {
    /// Looks the place up once. On failure what is remembered stays as it is.
    pub(super) async fn look_up(
        &mut self,
        client: &Arc<Client>,
        place: &BackendPlace,
    ) -> Result<Found, Failure> {
        match place {
            BackendPlace::Host { host, port } => self.host(client, host, *port).await,
            BackendPlace::Service(service) => self.service(client, service).await,
        }
    }

    /// By the hosts file, else by the first name of the search list that there is. The next
    /// one is asked for only where the former surely does not exist: an outage must not
    /// lead to another host.
    async fn host(
        &mut self,
        client: &Arc<Client>,
        host: &str,
        port: u16,
    ) -> Result<Found, Failure> {
        let found = |host: Host, lifetime| Found {
            addresses: with_port(&host.addresses, port),
            lifetime,
            missing: host.missing,
        };
        if let Some(host) = by_hosts_file(client, host).await {
            return Ok(found(host, HOSTS_LIFETIME));
        }
        for name in client.candidates(host) {
            let answers = ask_all(client, questions(&name)).await;
            let host = self.judge(&name, &answers);
            match (host.lifetime, host.missing.clone()) {
                (Some(lifetime), _) => {
                    self.remember(answers);
                    return Ok(found(host, lifetime));
                }
                (None, Some(failure)) => return Err(failure),
                (None, None) => {}
            }
        }
        Err(Failure::Nothing)
    }

    /// By SRV records, then their targets.
    async fn service(&mut self, client: &Arc<Client>, service: &str) -> Result<Found, Failure> {
        let records = client.ask(Question::new(service, RecordKind::Srv)).await?;
        let mut services = records.services;
        services.sort_by(|one, other| rank(one).cmp(&rank(other)));
        if services.iter().all(|service| service.target == NOT_AVAILABLE) {
            self.known.clear();
            let lifetime = records.lifetime;
            return Ok(Found { addresses: Vec::new(), lifetime, missing: None });
        }
        services.retain(|service| service.target != NOT_AVAILABLE && service.port != 0);
        services.truncate(TARGETS_MAX);

        let mut hosts = HashMap::new();
        let mut asked = Vec::new();
        for Service { target, .. } in &services {
            if let Some(host) = by_hosts_file(client, target).await {
                hosts.insert(target.clone(), host);
            } else {
                asked.extend(questions(target));
            }
        }
        let answers = ask_all(client, asked).await;
        for Service { target, .. } in &services {
            hosts.entry(target.clone()).or_insert_with(|| self.judge(target, &answers));
        }

        let mut addresses = Vec::new();
        for service in &services {
            let host = hosts.get(&service.target);
            let own = host.map(|host| with_port(&host.addresses, service.port));
            addresses.extend(own.unwrap_or_default());
        }
        let lifetimes = hosts.values().filter_map(|host| host.lifetime);
        let lifetime = lifetimes.fold(records.lifetime, Duration::min);
        let missing = hosts.into_values().filter_map(|host| host.missing).reduce(Failure::worse);
        if addresses.is_empty() {
            return Err(missing.unwrap_or(Failure::Nothing));
        }
        self.remember(answers);
        Ok(Found { addresses: without_doubles(addresses), lifetime, missing })
    }

    /// What the answers to both questions for a host's addresses come to.
    fn judge(&self, name: &str, answers: &Answers) -> Host {
        let mut host = Host { addresses: Vec::new(), lifetime: None, missing: None };
        let mut families = Vec::new();
        for question in questions(name) {
            families.push(match answers.get(&question) {
                Some(Ok(records)) => {
                    let longest = host.lifetime.unwrap_or(records.lifetime);
                    host.lifetime = Some(longest.min(records.lifetime));
                    records.addresses.clone()
                }
                Some(Err(Failure::Nothing)) | None => Vec::new(),
                Some(Err(failure)) => {
                    let former = host.missing.take().unwrap_or(Failure::Nothing);
                    host.missing = Some(failure.clone().worse(former));
                    self.known.get(&question).cloned().unwrap_or_default()
                }
            });
        }
        let [six, four] = families.try_into().unwrap_or_default();
        host.addresses = interleaved(six, four);
        host
    }

    /// Keeps what was answered, and what was known of what was not.
    fn remember(&mut self, answers: Answers) {
        let mut former = std::mem::take(&mut self.known);
        for (question, answer) in answers {
            let known = match answer {
                Ok(records) => Some(records.addresses),
                Err(Failure::Nothing) => None,
                Err(_) => former.remove(&question),
            };
            self.known.extend(known.map(|known| (question, known)));
        }
    }
}

/// The order of SRV targets: by priority, then the heavier first. RFC 2782 draws among the
/// same priority by lot; here the order stays, because users stay where they are.
fn rank(service: &Service) -> (u16, Reverse<u16>, &str, u16) {
    (service.priority, Reverse(service.weight), &service.target, service.port)
}

/// IPv6 first, as [`Lookups::judge`] takes them.
fn questions(name: &str) -> [Question; 2] {
    [RecordKind::Aaaa, RecordKind::A].map(|kind| Question::new(name, kind))
}

/// All questions at the same time, each once.
async fn ask_all(client: &Arc<Client>, questions: impl IntoIterator<Item = Question>) -> Answers {
    let mut asked = JoinSet::new();
    let mut answers = Answers::new();
    for question in questions {
        let unanswered = Err(Failure::Failed("the question was not asked".to_owned()));
        if answers.insert(question.clone(), unanswered).is_none() {
            let client = Arc::clone(client);
            asked.spawn(async move { (question.clone(), client.ask(question).await) });
        }
    }
    while let Some(answered) = asked.join_next().await {
        answers.extend(answered);
    }
    answers
}

async fn by_hosts_file(client: &Client, host: &str) -> Option<Host> {
    let addresses = client.hosts(host).await?;
    let (six, four) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let addresses = interleaved(six, four);
    Some(Host { addresses, lifetime: Some(HOSTS_LIFETIME), missing: None })
}

/// IPv6 first, then in turn, each family in its own order (RFC 8305 section 4).
fn interleaved(six: Vec<IpAddr>, four: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut addresses = Vec::with_capacity(six.len() + four.len());
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    loop {
        let pair = [six.next(), four.next()];
        if pair == [None, None] {
            return addresses;
        }
        addresses.extend(pair.into_iter().flatten());
    }
}

fn with_port(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let addresses = addresses.iter().map(|address| SocketAddr::new(normalise(*address), port));
    without_doubles(addresses)
}

/// Each once, at most [`ADDRESSES_MAX`].
fn without_doubles(all: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for address in all {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
