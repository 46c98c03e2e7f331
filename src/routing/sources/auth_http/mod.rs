//! nginx's `auth_http` protocol: an HTTP server is given user and password, checks them, and
//! names a backend. Since it checked them, the login that it may give in their place is
//! believed. Each login asks for itself; nothing is cached.

mod answer;
mod request;

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use self::answer::{Answer, HEAD_BYTES_MAX, Refused};
use super::places::{Places, broken};
use super::pool::within;
use super::secrets;
use super::servers::Servers;
use crate::config::{AuthHttpLookup, BackendPlace, Endpoint, HttpServer, LegSecurity};
use crate::metrics::LookupSource;
use crate::names::Secret;
use crate::net::resolve::Addresses;
use crate::net::stream::Stream;
use crate::net::tls::ClientTls;
use crate::routing::query::{
    FailureReason, Found, Login, Pending, Query, Refusal, RemoteSource, SourceFailure, SourceResult,
};

/// How often a server may say in a row that it has to be asked again.
const WAITS_MAX: usize = 16;

/// A configured `auth_http` lookup.
#[derive(Debug)]
pub(in crate::routing) struct AuthHttp {
    config: AuthHttpLookup,
    servers: Servers<Server>,
    places: Places,
}

#[derive(Debug)]
struct Server {
    config: HttpServer,
    /// Where it is: no login waits for a name server.
    addresses: Addresses,
    ca: Option<PathBuf>,
    tls: OnceCell<ClientTls>,
}

impl AuthHttp {
    /// Connects nothing yet.
    pub(in crate::routing) fn new(
        config: AuthHttpLookup,
        places: Places,
        follow: &dyn Fn(&BackendPlace) -> Addresses,
    ) -> Self {
        let place = |Endpoint { host, port, .. }: &Endpoint| BackendPlace::Host {
            host: host.clone(),
            port: *port,
        };
        let server = |server: &HttpServer| Server {
            config: server.clone(),
            addresses: follow(&place(&server.endpoint)),
            ca: config.ca.clone(),
            tls: OnceCell::new(),
        };
        let servers = Servers::new(config.servers.iter().map(server).collect());
        Self { config, servers, places }
    }

    async fn ask(&self, query: &Query<'_>) -> SourceResult {
        let Some(password) = query.password else {
            return Err(broken("it checks passwords, and this login brings none"));
        };
        let mut headers = Vec::with_capacity(self.config.headers.len());
        for (name, value) in &self.config.headers {
            headers.push((name.as_str(), secrets::load_text(value).await?));
        }
        let encode = |server: &HttpServer| request::encode(server, query, password, &headers);
        for _ in 0..WAITS_MAX {
            match self.ask_servers(encode).await? {
                Answer::Ok(ok) => return self.found(ok, query),
                Answer::Refused(refused) => return Err(self.refusal(refused)),
                // The lookup's own time bounds the waits.
                Answer::Wait(time) => tokio::time::sleep(time.min(self.config.wait_max)).await,
            }
        }
        Err(SourceFailure::new(FailureReason::Protocol, "it says WAIT again and again"))
    }

    /// The first answer that can be understood.
    async fn ask_servers(
        &self,
        encode: impl Fn(&HttpServer) -> Secret,
    ) -> Result<Answer, SourceFailure> {
        let mut last = SourceFailure::new(FailureReason::Connect, "there is no server");
        for (place, server) in self.servers.in_order() {
            let working = self.servers.begin(place);
            let request = encode(&server.config);
            match self.exchange(server, &request).await {
                Ok(answer) => {
                    working.serves();
                    return Ok(answer);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// One request, one answer, one connection.
    async fn exchange(&self, server: &Server, request: &Secret) -> Result<Answer, SourceFailure> {
        let mut stream = within(self.config.connect_timeout, server.connect()).await?;
        let lost = |error: std::io::Error| {
            SourceFailure::new(FailureReason::Connect, format!("the connection broke: {error}"))
        };
        stream.write_all(request.expose()).await.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
        let mut head = Vec::with_capacity(1024);
        let mut buffer = [0; 1024];
        while answer::end_of_head(&head).is_none() {
            match stream.read(&mut buffer).await.map_err(lost)? {
                0 => break,
                read => head.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            }
            if head.len() > HEAD_BYTES_MAX {
                let detail = format!("the answer's head has more than {HEAD_BYTES_MAX} bytes");
                return Err(SourceFailure::new(FailureReason::TooLarge, detail));
            }
        }
        answer::parse(&head, self.config.nginx_compat)
            .map_err(|fault| SourceFailure::new(FailureReason::Protocol, fault.to_string()))
    }

    fn found(&self, ok: answer::Ok, query: &Query<'_>) -> SourceResult {
        // A password that is not the client's may be a master's.
        let loopback = ok.server.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let encrypted = ok.password.is_some() && !loopback;
        let shard = self.places.shard_at(&ok.server, Some(ok.port), encrypted)?;
        let mut found = Found { may_cache: false, ..Found::on(shard) };
        if ok.user.is_none() && ok.password.is_none() {
            return Ok(Some(found));
        }
        // The mailbox is that of the name that signs in, unless that is no user's.
        let told = ok.user.as_ref().and_then(|user| std::str::from_utf8(user).ok());
        found.user = told.and_then(|user| self.places.user(user).ok());
        let user = ok.user.unwrap_or_else(|| query.typed.to_vec());
        found.login = Some(Login { user, password: ok.password });
        Ok(Some(found))
    }

    fn refusal(&self, refused: Refused) -> SourceFailure {
        let reason =
            if refused.temporary { FailureReason::TryLater } else { FailureReason::Refused };
        let shown = super::places::quoted(&refused.words);
        let mut failure = SourceFailure::new(reason, format!("the server says {shown}"));
        failure.refusal = Refusal {
            wait: refused.wait.min(self.config.wait_max),
            words: self.config.pass_error_text.then_some(refused.words),
        };
        failure
    }
}

impl RemoteSource for AuthHttp {
    fn label(&self) -> LookupSource {
        LookupSource::AuthHttp
    }

    fn depends_on_password(&self) -> bool {
        true
    }

    fn lookup<'a>(&'a self, query: &'a Query<'a>) -> Pending<'a> {
        Box::pin(self.ask(query))
    }
}

impl Server {
    async fn connect(&self) -> Result<Stream, SourceFailure> {
        let failed = |what: &str, error: String| {
            SourceFailure::new(FailureReason::Connect, format!("{what}: {error}"))
        };
        let tcp = TcpStream::connect(self.addresses.current().as_slice()).await;
        let tcp = tcp.map_err(|error| failed("no connection", error.to_string()))?;
        // It matters little here, and a system without it is none to fail over.
        let _ = tcp.set_nodelay(true);
        if self.config.endpoint.security == LegSecurity::Clear {
            return Ok(Stream::Plain(tcp));
        }
        let tls = self.tls.get_or_try_init(|| self.load_tls()).await;
        let connected = tls.map_err(|error| failed("TLS", error))?.connect(tcp).await;
        connected.map_err(|error| failed("TLS", error.to_string()))
    }

    /// The authorities are read once; a reload of the configuration reads them again.
    async fn load_tls(&self) -> Result<ClientTls, String> {
        let (host, ca) = (self.config.endpoint.host.clone(), self.ca.clone());
        let load = move || ClientTls::for_host(&host, ca.as_deref());
        let loaded = tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?;
        loaded.map_err(|error| error.to_string())
    }
}
