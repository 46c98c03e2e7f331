//! One search in an LDAP tree for each user. The parts of a name are escaped (RFC 4515), so
//! that none is ever a part of the filter's form.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use ldap3::asn1::StructureTag;
use ldap3::{
    Ldap as Client, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchOptions, SearchResult,
    ldap_escape,
};
use rustls::ClientConfig;
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;

use super::places::{Places, broken, quoted};
use super::pool::{Directory, Pool, within};
use super::record::Record;
use super::secrets;
use super::servers::Servers;
use crate::config::{Endpoint, LdapLookup, LdapScope, LegSecurity};
use crate::metrics::LookupSource;
use crate::net::tls;
use crate::routing::query::{
    FailureReason, Pending, Query, RemoteSource, SourceFailure, SourceResult,
};

/// Entries that are asked for: one too many tells that the filter is too wide.
const ENTRIES_MAX: i32 = 2;

/// The result of a search that found more entries than were asked for (RFC 4511 section 4.1.9).
const SIZE_LIMIT_EXCEEDED: u32 = 4;

/// A configured `ldap` lookup.
#[derive(Debug)]
pub(in crate::routing) struct Ldap {
    pool: Pool<Tree>,
}

impl Ldap {
    /// Connects nothing yet.
    pub(in crate::routing) fn new(config: LdapLookup, places: Places) -> Self {
        let connections = config.connections;
        let servers = Servers::new(config.servers.clone());
        let tree = Tree { config, servers, places, tls: OnceCell::new() };
        Self { pool: Pool::new(tree, connections) }
    }
}

impl RemoteSource for Ldap {
    fn label(&self) -> LookupSource {
        LookupSource::Ldap
    }

    fn lookup<'a>(&'a self, query: &'a Query<'a>) -> Pending<'a> {
        Box::pin(self.pool.ask(query))
    }
}

#[derive(Debug)]
struct Tree {
    config: LdapLookup,
    servers: Servers<Endpoint>,
    places: Places,
    tls: OnceCell<Arc<ClientConfig>>,
}

/// A connection that is signed in, and the task that reads it.
struct Bound {
    client: Client,
    reader: AbortHandle,
    server: usize,
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Directory for Tree {
    type Connection = Bound;

    async fn dial(&self) -> Result<Bound, SourceFailure> {
        let mut last = SourceFailure::new(FailureReason::Connect, "there is no server");
        for (place, server) in self.servers.in_order() {
            let working = self.servers.begin(place);
            match within(self.config.connections.timeout, self.connect(place, server)).await {
                Ok(bound) => {
                    working.serves();
                    return Ok(bound);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn ask(&self, bound: &mut Bound, query: &Query<'_>) -> SourceResult {
        let working = self.servers.begin(bound.server);
        // The crate expects answers to be well formed, and panics where one is not.
        let search = AssertUnwindSafe(self.search(&mut bound.client, query)).catch_unwind();
        let result = search.await.unwrap_or_else(|_| Err(malformed()));
        if result.as_ref().map_or_else(|failure| failure.reason.is_about_the_user(), |_| true) {
            working.serves();
        }
        result
    }

    fn tries(&self) -> usize {
        self.servers.len()
    }
}

impl Tree {
    async fn connect(&self, place: usize, server: &Endpoint) -> Result<Bound, SourceFailure> {
        let mut settings =
            LdapConnSettings::new().set_starttls(server.security == LegSecurity::StartTls);
        if server.security != LegSecurity::Clear {
            settings = settings.set_config(self.tls().await?);
        }
        let scheme = if server.security == LegSecurity::Tls { "ldaps" } else { "ldap" };
        let url = format!("{scheme}://{server}");
        let dial = AssertUnwindSafe(LdapConnAsync::with_settings(settings, &url)).catch_unwind();
        let dialled = dial.await.map_err(|_| malformed())?;
        let (connection, client) = dialled.map_err(|error| failure(&error))?;
        let reader = tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "a connection to a directory ended");
            }
        });
        let mut bound = Bound { client, reader: reader.abort_handle(), server: place };
        self.bind(&mut bound.client).await?;
        Ok(bound)
    }

    async fn bind(&self, client: &mut Client) -> Result<(), SourceFailure> {
        let (Some(name), Some(password)) = (&self.config.bind_dn, &self.config.bind_password)
        else {
            return Ok(());
        };
        let password = secrets::load_text(password).await?;
        let bind = AssertUnwindSafe(client.simple_bind(name, &password)).catch_unwind();
        let result = bind.await.map_err(|_| malformed())?.map_err(|error| failure(&error))?;
        if result.rc == 0 {
            return Ok(());
        }
        let detail = format!("the server refused `bind_dn` with the code {}", result.rc);
        Err(SourceFailure::new(FailureReason::Connect, detail))
    }

    /// The authorities are read once; a reload of the configuration reads them again.
    async fn tls(&self) -> Result<Arc<ClientConfig>, SourceFailure> {
        let load = || async {
            let ca: Option<PathBuf> = self.config.ca.clone();
            let loaded = tokio::task::spawn_blocking(move || tls::verifying(ca.as_deref())).await;
            let loaded = loaded.map_err(|error| error.to_string())?;
            loaded.map_err(|error| error.to_string())
        };
        let config = self.tls.get_or_try_init(load).await;
        config.cloned().map_err(|detail: String| SourceFailure::new(FailureReason::Connect, detail))
    }

    async fn search(&self, client: &mut Client, query: &Query<'_>) -> SourceResult {
        let filter = self.config.filter.expand(query.user.as_str(), |part, filter| {
            filter.push_str(&ldap_escape(part));
        });
        let scope = match self.config.scope {
            LdapScope::Base => Scope::Base,
            LdapScope::One => Scope::OneLevel,
            LdapScope::Sub => Scope::Subtree,
        };
        let attributes: Vec<&str> =
            self.config.attributes.iter().map(|(_, attribute)| attribute.as_str()).collect();
        client.with_search_options(SearchOptions::new().sizelimit(ENTRIES_MAX));
        let asked = client.search(&self.config.base, scope, &filter, attributes).await;
        let SearchResult(entries, result) = asked.map_err(|error| failure(&error))?;
        match result.rc {
            0 | SIZE_LIMIT_EXCEEDED => {}
            // That there is no such base is a fault of the settings, not of the user.
            code => {
                let detail = format!("the server refused the search with the code {code}");
                return Err(SourceFailure::new(FailureReason::Protocol, detail));
            }
        }
        // Referrals to other servers are not followed.
        let mut entries = entries.into_iter().filter(|entry| !entry.is_ref());
        match (entries.next(), entries.next(), result.rc) {
            (None, _, 0) => Ok(None),
            (Some(entry), None, 0) => self.read(entry.0)?.found(&self.places),
            _ => Err(broken("the filter fits several entries")),
        }
    }

    fn read(&self, entry: StructureTag) -> Result<Record, SourceFailure> {
        let mut record = Record::default();
        let there = attributes(entry).ok_or_else(malformed)?;
        for (field, attribute) in &self.config.attributes {
            let mut values = there
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case(attribute.as_bytes()))
                .flat_map(|(_, values)| values);
            let value = values.next();
            if values.next().is_some() {
                return Err(broken(format!(
                    "the attribute {} has several values",
                    quoted(attribute)
                )));
            }
            let text = value.map(|value| String::from_utf8(value.clone())).transpose();
            let text = text.map_err(|_| broken(format!("{} is no UTF-8", quoted(attribute))))?;
            record.take(field, text)?;
        }
        Ok(record)
    }
}

/// The name of an attribute and its values.
type Attribute = (Vec<u8>, Vec<Vec<u8>>);

/// `SearchResultEntry = [APPLICATION 4] { name, { { type, { value... } }... } }` (RFC 4511
/// section 4.5.2); `None` where it has another form.
fn attributes(entry: StructureTag) -> Option<Vec<Attribute>> {
    let mut parts = entry.match_id(4)?.expect_constructed()?.into_iter();
    let list = parts.nth(1)?.expect_constructed()?;
    list.into_iter()
        .map(|attribute| {
            let mut parts = attribute.expect_constructed()?.into_iter();
            let name = parts.next()?.expect_primitive()?;
            let values = parts.next()?.expect_constructed()?.into_iter();
            Some((name, values.map(StructureTag::expect_primitive).collect::<Option<_>>()?))
        })
        .collect()
}

fn malformed() -> SourceFailure {
    SourceFailure::new(FailureReason::Protocol, "what came is no answer by the protocol")
}

fn failure(error: &LdapError) -> SourceFailure {
    let reason = match error {
        LdapError::Timeout { .. } => FailureReason::Timeout,
        LdapError::FilterParsing => FailureReason::Protocol,
        _ => FailureReason::Connect,
    };
    let detail = match error {
        LdapError::FilterParsing => "`filter` is none by RFC 4515".to_owned(),
        LdapError::LdapResult { result } => {
            format!("the server refused TLS with the code {}", result.rc)
        }
        error => quoted(&error.to_string()),
    };
    SourceFailure::new(reason, detail)
}
