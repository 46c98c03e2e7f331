//! One query of a database for each user. The user's name is a parameter of a prepared
//! statement and never a part of its text.

mod connect;
mod dialect;

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Column, Encode, Executor, IntoArguments, Row, Type};

use self::connect::Connection;
use self::dialect::Dialect;
use super::places::{Places, broken, quoted};
use super::pool::{Directory, Pool, within};
use super::record::Record;
use crate::config::SqlLookup;
use crate::metrics::LookupSource;
use crate::routing::query::{
    FailureReason, Pending, Query, RemoteSource, SourceFailure, SourceResult,
};

/// A configured `sql` lookup.
#[derive(Debug)]
pub(in crate::routing) struct Sql {
    pool: Pool<Database>,
}

impl Sql {
    /// Connects nothing yet.
    pub(in crate::routing) fn new(config: SqlLookup, places: Places) -> Self {
        let connections = config.connections;
        Self { pool: Pool::new(Database { config, places }, connections) }
    }
}

impl RemoteSource for Sql {
    fn label(&self) -> LookupSource {
        LookupSource::Sql
    }

    fn lookup<'a>(&'a self, query: &'a Query<'a>) -> Pending<'a> {
        Box::pin(self.pool.ask(query))
    }
}

#[derive(Debug)]
struct Database {
    config: SqlLookup,
    places: Places,
}

/// A connection, and whether nothing of an answer is still to be read on it.
struct Open {
    connection: Connection,
    sound: bool,
}

impl Directory for Database {
    type Connection = Open;

    async fn dial(&self) -> Result<Open, SourceFailure> {
        let connection =
            within(self.config.connections.timeout, connect::open(&self.config.database)).await?;
        Ok(Open { connection, sound: true })
    }

    async fn ask(&self, open: &mut Open, query: &Query<'_>) -> SourceResult {
        open.sound = false;
        let user = query.user.as_str();
        let record = match &mut open.connection {
            Connection::Postgres(connection) => {
                self.fetch::<sqlx::Postgres>(connection, user).await
            }
            Connection::MariaDb(connection) => self.fetch::<sqlx::MySql>(connection, user).await,
            Connection::Sqlite(connection) => self.fetch::<sqlx::Sqlite>(connection, user).await,
        };
        open.sound = !matches!(record, Err(Trouble::SeveralRows | Trouble::Database(_)));
        match record {
            Ok(record) => record.map_or(Ok(None), |record| record.found(&self.places)),
            Err(Trouble::SeveralRows) => Err(broken("the query gives several rows for one user")),
            Err(Trouble::Row(failure)) => Err(failure),
            Err(Trouble::Database(error)) => Err(failure(&error, user)),
        }
    }

    fn is_sound(open: &Open) -> bool {
        open.sound
    }
}

/// What can be wrong with an answer.
enum Trouble {
    SeveralRows,
    Row(SourceFailure),
    Database(sqlx::Error),
}

impl Database {
    /// The one row, or none. A second one ends the reading.
    async fn fetch<'c, D>(
        &self,
        connection: &'c mut D::Connection,
        user: &str,
    ) -> Result<Option<Record>, Trouble>
    where
        D: Dialect,
        &'c mut D::Connection: Executor<'c, Database = D>,
        D::Arguments: IntoArguments<D>,
        String: Encode<'c, D> + Type<D>,
    {
        // The operator's own text, from the configuration.
        let mut asked = sqlx::query::<D>(AssertSqlSafe(self.config.query.as_str()));
        for part in &self.config.parameters {
            asked = asked.bind(part.of(user).to_owned());
        }
        let mut rows = asked.fetch(connection);
        let Some(row) = rows.try_next().await.map_err(Trouble::Database)? else {
            return Ok(None);
        };
        let record = read::<D>(&row).map_err(Trouble::Row);
        match rows.try_next().await.map_err(Trouble::Database)? {
            Some(_) => Err(Trouble::SeveralRows),
            None => record.map(Some),
        }
    }
}

fn read<D: Dialect>(row: &D::Row) -> Result<Record, SourceFailure> {
    let mut record = Record::default();
    for (at, column) in row.columns().iter().enumerate() {
        let name = column.name();
        let value = D::text(row, at).map_err(|kind| {
            let column = quoted(name);
            broken(format!("the column {column} has the type {}; cast it to text", quoted(&kind)))
        })?;
        record.take(name, value)?;
    }
    Ok(record)
}

/// What a database's error means. Its words are told where they do not repeat the name.
fn failure(error: &sqlx::Error, user: &str) -> SourceFailure {
    let (reason, detail) = match error {
        sqlx::Error::Database(refusal) => {
            let code = refusal.code().unwrap_or_default();
            let words = refusal.message();
            let words = if words.contains(user) { "(its words repeat the name)" } else { words };
            let detail = format!("the database refused with {code}: {}", quoted(words));
            (
                if is_goodbye(&code) { FailureReason::Connect } else { FailureReason::Protocol },
                detail,
            )
        }
        sqlx::Error::Io(error) => (FailureReason::Connect, error.to_string()),
        sqlx::Error::Tls(error) => (FailureReason::Connect, format!("TLS: {error}")),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (FailureReason::BrokenRow, "a value of the row cannot be read".to_owned())
        }
        sqlx::Error::Protocol(_) => {
            (FailureReason::Protocol, "what came is no answer by the protocol".to_owned())
        }
        _ => (FailureReason::Protocol, "the client gave up".to_owned()),
    };
    SourceFailure::new(reason, detail)
}

/// Whether a server says with that code that the connection is over: `PostgreSQL`'s classes
/// for lost connections and for an operator at work.
fn is_goodbye(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P")
}
