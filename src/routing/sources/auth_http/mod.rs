//! nginx's `auth_http` protocol: an HTTP server is given user and password, checks them, and
//! names a backend. Since it checked them, the login that it may give in their place is
//! believed. Each login asks for itself; nothing is cached.

mod answer;
mod request;

use std::net::SocketAddr;
use std::path::PathBuf;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use self::answer::{Answer, HEAD_BYTES_MAX, Refused};
use super::places::Places;
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
            let detail = "it checks passwords, and this login brings none";
            return Err(SourceFailure::new(FailureReason::NeedsClient, detail));
        };
        let mut headers = Vec::with_capacity(self.config.headers.len());
        for (name, value) in &self.config.headers {
            headers.push((name.as_str(), secrets::load_text(value).await?));
        }
        let encode = |server: &HttpServer| request::encode(server, query, password, &headers);
        for _ in 0..WAITS_MAX {
            match self.ask_servers(encode).await? {
                Answer::Ok(ok) => return self.found(ok, query),
                Answer::Refused(refused) => return Err(self.refusal(refused, query)),
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
        let time = self.config.connect_timeout;
        let mut stream = within(time, server.connect(Instant::now() + time)).await?;
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
        let mut found = Found { by_host: true, may_cache: false, ..Found::on(shard) };
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

    fn refusal(&self, refused: Refused, query: &Query<'_>) -> SourceFailure {
        let reason =
            if refused.temporary { FailureReason::TryLater } else { FailureReason::Refused };
        // The log may be told less of users than this server knows.
        let shown = if repeats(refused.words.as_bytes(), query) {
            "(withheld: it repeats the credentials)".to_owned()
        } else {
            super::places::quoted(&refused.words)
        };
        let mut failure = SourceFailure::new(reason, format!("the server says {shown}"));
        failure.refusal = Refusal {
            wait: refused.wait.min(self.config.wait_max),
            words: self.config.pass_error_text.then_some(refused.words),
        };
        failure
    }
}

fn repeats(words: &[u8], query: &Query<'_>) -> bool {
    let has = |part: &[u8]| !part.is_empty() && memmem::find(words, part).is_some();
    has(query.typed)
        || has(query.user.as_str().as_bytes())
        || query.password.is_some_and(|password| has(password.expose()))
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
    async fn connect(&self, until: Instant) -> Result<Stream, SourceFailure> {
        let failed = |what: &str, error: String| {
            SourceFailure::new(FailureReason::Connect, format!("{what}: {error}"))
        };
        let tcp = dial(&self.addresses.current(), until).await;
        let tcp = tcp.map_err(|error| failed("no connection", error))?;
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

/// A silent address leaves time for those behind it.
async fn dial(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, String> {
    let mut last = "no address is known".to_owned();
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = format!("{address} is silent"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener};
    use std::time::Duration;

    use super::*;
    use crate::net::sockets::silent_listener;

    #[tokio::test]
    async fn a_silent_address_leaves_time_for_the_next() {
        let (silent, _fillers) = silent_listener(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7)));
        let serving = TcpListener::bind("127.0.0.8:0").unwrap();
        let addresses = [&silent, &serving].map(|listener| listener.local_addr().unwrap());
        let until = Instant::now() + Duration::from_secs(2);
        let joined = dial(&addresses, until).await.unwrap();
        assert_eq!(joined.peer_addr().unwrap(), addresses[1]);
        assert!(Instant::now() < until);
        let until = Instant::now() + Duration::from_millis(100);
        let told = dial(&addresses[..1], until).await.unwrap_err();
        assert!(told.ends_with(" is silent"), "{told}");
        assert_eq!(dial(&[], until).await.unwrap_err(), "no address is known");
    }
}
