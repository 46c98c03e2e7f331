//! Connections to the databases, each made for one pool.

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, MySqlConnection, PgConnection, SqliteConnection};

use super::super::secrets;
use crate::config::{LegSecurity, SqlDatabase, SqlServer};
use crate::routing::query::{FailureReason, SourceFailure};

/// A connection of whatever kind.
pub(super) enum Connection {
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// Connects and signs in.
pub(super) async fn open(database: &SqlDatabase) -> Result<Connection, SourceFailure> {
    let opened = match database {
        SqlDatabase::Postgres(server) => {
            postgres(server).await?.connect().await.map(Connection::Postgres)
        }
        SqlDatabase::MariaDb(server) => {
            mariadb(server).await?.connect().await.map(Connection::MariaDb)
        }
        SqlDatabase::Sqlite(file) => {
            let options = SqliteConnectOptions::new().filename(file).read_only(true);
            options.disable_statement_logging().connect().await.map(Connection::Sqlite)
        }
    };
    opened.map_err(|error| {
        // Words about signing in name the proxy's own user at most.
        SourceFailure::new(FailureReason::Connect, super::super::places::quoted(&error.to_string()))
    })
}

async fn postgres(server: &SqlServer) -> Result<PgConnectOptions, SourceFailure> {
    let encrypted = server.endpoint.security != LegSecurity::Clear;
    let mode = if encrypted { PgSslMode::VerifyFull } else { PgSslMode::Disable };
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&server.endpoint.host)
        .port(server.endpoint.port)
        .database(&server.database)
        .username(&server.user)
        .application_name("pointsman")
        .ssl_mode(mode);
    if let Some(password) = &server.password {
        options = options.password(&secrets::load_text(password).await?);
    }
    if let Some(file) = &server.ca {
        options = options.ssl_root_cert(file);
    }
    Ok(options.disable_statement_logging())
}

async fn mariadb(server: &SqlServer) -> Result<MySqlConnectOptions, SourceFailure> {
    let encrypted = server.endpoint.security != LegSecurity::Clear;
    let mode = if encrypted { MySqlSslMode::VerifyIdentity } else { MySqlSslMode::Disabled };
    let mut options = MySqlConnectOptions::new()
        .host(&server.endpoint.host)
        .port(server.endpoint.port)
        .database(&server.database)
        .username(&server.user)
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .ssl_mode(mode);
    if let Some(password) = &server.password {
        options = options.password(&secrets::load_text(password).await?);
    }
    if let Some(file) = &server.ca {
        options = options.ssl_ca(file);
    }
    Ok(options.disable_statement_logging())
}
