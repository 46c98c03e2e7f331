//! One key of Redis for each user: a string with the shard, or a hash of fields. Keys are
//! arguments of the protocol, told by length, so that no name is ever a command.

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, TlsCertificates,
};

use super::places::{Places, broken, quoted};
use super::pool::{Directory, Pool, within};
use super::record::{Record, VALUE_BYTES_MAX, too_large};
use super::secrets;
use crate::config::{LegSecurity, RECORD_FIELDS, RedisLookup, RedisValue};
use crate::metrics::LookupSource;
use crate::routing::query::{
    FailureReason, Pending, Query, RemoteSource, SourceFailure, SourceResult,
};

/// A configured `redis` lookup.
#[derive(Debug)]
pub(in crate::routing) struct Redis {
    pool: Pool<Server>,
}

impl Redis {
    /// Connects nothing yet.
    pub(in crate::routing) fn new(config: RedisLookup, places: Places) -> Self {
        let connections = config.connections;
        Self { pool: Pool::new(Server { config, places }, connections) }
    }
}

impl RemoteSource for Redis {
    fn label(&self) -> LookupSource {
        LookupSource::Redis
    }

    fn lookup<'a>(&'a self, query: &'a Query<'a>) -> Pending<'a> {
        Box::pin(self.pool.ask(query))
    }
}

#[derive(Debug)]
struct Server {
    config: RedisLookup,
    places: Places,
}

impl Directory for Server {
    type Connection = MultiplexedConnection;

    async fn dial(&self) -> Result<MultiplexedConnection, SourceFailure> {
        within(self.config.connections.timeout, async {
            let client = self.client().await?;
            // The lookup's own bound is over all; the crate's half a second would be in the way.
            let settings = AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None);
            let dialled = client.get_multiplexed_async_connection_with_config(&settings).await;
            dialled.map_err(failure)
        })
        .await
    }

    async fn ask(&self, connection: &mut MultiplexedConnection, query: &Query<'_>) -> SourceResult {
        let key = self.config.key.expand(query.user.as_str(), |part, key| key.push_str(part));
        match self.config.value {
            RedisValue::String => self.ask_string(connection, &key).await,
            RedisValue::Hash => self.ask_hash(connection, &key).await,
        }
    }
}

impl Server {
    async fn client(&self) -> Result<Client, SourceFailure> {
        let config = &self.config;
        let mut settings =
            RedisConnectionInfo::default().set_db(config.database.into()).set_skip_set_lib_name();
        if let Some(user) = &config.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &config.password {
            let password = secrets::load_text(password).await?;
            settings = settings.set_password(password.as_str());
        }
        let (host, port) = (config.server.host.clone(), config.server.port);
        let encrypted = config.server.security != LegSecurity::Clear;
        let address = if encrypted {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = address.into_connection_info().map_err(failure)?;
        let info: ConnectionInfo = info.set_redis_settings(settings);
        let client = match &config.ca {
            Some(file) if encrypted => {
                let root_cert = Some(secrets::load_file(file).await?);
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            _ => Client::open(info),
        };
        client.map_err(failure)
    }

    /// At most the bytes that a value may have are asked for, and one more.
    async fn ask_string(&self, connection: &mut MultiplexedConnection, key: &str) -> SourceResult {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.exists(key).getrange(key, 0, isize::try_from(VALUE_BYTES_MAX).unwrap_or(-1));
        let asked = pipeline.query_async(connection).await;
        let (there, value): (bool, Vec<u8>) = asked.map_err(failure)?;
        if !there {
            return Ok(None);
        }
        let mut record = Record::default();
        record.take("shard", Some(text("shard", value)?))?;
        record.found(&self.places)
    }

    /// The lengths are asked for first: a hash may hold values of half a gigabyte.
    async fn ask_hash(&self, connection: &mut MultiplexedConnection, key: &str) -> SourceResult {
        let mut pipeline = Pipeline::with_capacity(RECORD_FIELDS.len());
        for field in RECORD_FIELDS {
            pipeline.cmd("HSTRLEN").arg(key).arg(field);
        }
        pipeline.exists(key);
        let asked = pipeline.query_async(connection).await;
        let mut lengths: Vec<usize> = asked.map_err(failure)?;
        if lengths.pop() == Some(0) {
            return Ok(None);
        }
        let mut lengths = RECORD_FIELDS.iter().zip(lengths);
        if let Some((field, _)) = lengths.find(|(_, bytes)| *bytes > VALUE_BYTES_MAX) {
            return Err(too_large(field));
        }
        let mut command = redis::cmd("HMGET");
        command.arg(key).arg(&RECORD_FIELDS[..]);
        let asked = command.query_async(connection).await;
        let values: Vec<Option<Vec<u8>>> = asked.map_err(failure)?;
        let mut record = Record::default();
        for (field, value) in RECORD_FIELDS.iter().zip(values) {
            record.take(field, value.map(|value| text(field, value)).transpose()?)?;
        }
        record.found(&self.places)
    }
}

fn text(field: &str, value: Vec<u8>) -> Result<String, SourceFailure> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(too_large(field));
    }
    String::from_utf8(value).map_err(|_| broken(format!("`{field}` is no UTF-8")))
}

/// The server's words may repeat a command's arguments, so only its code is told.
fn failure(error: RedisError) -> SourceFailure {
    let (io, dropped) = (error.is_io_error(), error.is_connection_dropped());
    let (timeout, refused) = (error.is_timeout(), error.is_connection_refusal());
    let category = error.category().to_owned();
    let code = error.into_server_errors().and_then(|errors| {
        let (_, first) = errors.first()?;
        Some(first.code().to_owned())
    });
    let (reason, detail) = match code.as_deref() {
        Some("WRONGTYPE") => {
            (FailureReason::BrokenRow, "the key holds a value of another kind".to_owned())
        }
        Some(code) => {
            (FailureReason::Protocol, format!("the server refused with {}", quoted(code)))
        }
        None if timeout => (FailureReason::Timeout, category),
        None if io || dropped || refused => (FailureReason::Connect, category),
        None => (FailureReason::Protocol, category),
    };
    SourceFailure::new(reason, detail)
}
