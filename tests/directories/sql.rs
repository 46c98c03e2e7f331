//! `sql` against `PostgreSQL`, `MariaDB` and `SQLite`.

use std::path::Path;

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::support::databases::{DatabaseServer, PASSWORD};
use super::support::temporary_folder;
use super::{AUTHORITY, Lookup, NASTY, flow};

/// Rows that all databases have, by name: `shard`, `host`, `port`, `destuser`, `nologin`.
const ROWS: &str = "
    ('bob', 'north', NULL, NULL, NULL, NULL),
    ('eve', NULL, '10.0.2.1', 143, 'eve.old', NULL),
    ('shut', 'north', NULL, NULL, NULL, 'y'),
    ('null', NULL, NULL, NULL, NULL, NULL),
    ('odd', 'nowhere', NULL, NULL, NULL, NULL),
    ('far', NULL, 'evil.example', NULL, NULL, NULL),
    ('port', NULL, '10.0.2.1', 99999, NULL, NULL),
    ('two', 'north', NULL, NULL, NULL, NULL),
    ('two', 'south', NULL, NULL, NULL, NULL)";

const TABLE: &str = "CREATE TABLE users (name VARCHAR(400), shard VARCHAR(5000), \
                     host VARCHAR(400), port INTEGER, destuser VARCHAR(400), nologin CHAR(1))";

const QUERY: &str = "SELECT shard, host, port, destuser, nologin FROM users WHERE name = ";

fn set_up() -> String {
    format!("{TABLE}; INSERT INTO users VALUES {ROWS}; {}", long_row())
}

fn long_row() -> String {
    format!("INSERT INTO users (name, shard) VALUES ('long', '{}')", "n".repeat(5000))
}

fn lookup(keys: &[(&str, &str)], more: &str) -> Lookup {
    Lookup::new(&format!("sql: {{ {}{more} }}", flow(keys)))
}

fn with<'t>(keys: &[(&'t str, &'t str)], query: &'t str) -> Vec<(&'t str, &'t str)> {
    [keys, &[("query", query)]].concat()
}

/// What must hold with every database, whatever mark its parameters have.
fn check_rows(lookup: &Lookup) {
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()));
    let route = lookup.route("eve").unwrap();
    assert_eq!(route.shard.as_str(), "south");
    assert_eq!(route.login.unwrap().user, b"eve.old");
    let refused = [
        ("nobody", "no_route"),
        ("shut", "lookup_refused"),
        ("null", "lookup_broken_row"),
        ("odd", "lookup_unknown_shard"),
        ("far", "lookup_unknown_backend"),
        ("port", "lookup_broken_row"),
        ("two", "lookup_broken_row"),
        ("long", "lookup_too_large"),
    ];
    for (user, reason) in refused {
        assert_eq!(lookup.ask(user), Err(reason), "{user}");
    }
    for name in NASTY {
        // PostgreSQL has no NUL in a text, and says so.
        let expected = if name.contains('\0') { "no_route or refused" } else { "no_route" };
        let answer = lookup.ask(name);
        let fine =
            answer == Err("no_route") || (name.contains('\0') && answer == Err("lookup_protocol"));
        assert!(fine, "{name:?}: {answer:?}, not {expected}");
    }
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()), "the table is still there");
}

/// Queries that give what no row may have.
fn check_queries(ask: impl Fn(&str) -> Result<String, &'static str>) {
    let broken = [
        "SELECT shard, 'secret' AS password FROM users WHERE name = ",
        "SELECT shard, 'y' AS nopassword FROM users WHERE name = ",
        "SELECT shard, 'x' AS anything FROM users WHERE name = ",
        "SELECT shard, shard FROM users WHERE name = ",
        "SELECT 1.5 AS shard FROM users WHERE name = ",
    ];
    for query in broken {
        assert_eq!(ask(query), Err("lookup_broken_row"), "{query}");
    }
    assert_eq!(ask("SELECT shard FROM nothing WHERE name = "), Err("lookup_protocol"));
    assert_eq!(ask("SELECT shard, NULL AS password FROM users WHERE name = "), Ok("north".into()));
}

#[test]
fn postgresql_says_where_users_are() {
    let server = DatabaseServer::postgres(&AUTHORITY);
    server.sql(&set_up());
    let url = format!("postgres://{}/mail", server.address());
    let query = format!("{QUERY}$1");
    let keys = [("url", url.as_str()), ("user", "postgres"), ("password", PASSWORD)];
    check_rows(&lookup(&with(&keys, &query), ""));
    check_queries(|query| lookup(&with(&keys, &format!("{query}$1")), "").ask("bob"));
    // Both parts of a name as parameters.
    let parts = "SELECT 'south' AS shard WHERE $2 = 'b' AND $1 = 'c.org'";
    let lookup_of_parts = lookup(&with(&keys, parts), "parameters: [domain, local]");
    assert_eq!(lookup_of_parts.ask("b@c.org"), Ok("south".to_owned()));
    assert_eq!(lookup_of_parts.ask("c@b.org"), Err("no_route"));
    check_tls(&server, "postgres", &query, "postgres");
    let wrong = [("url", url.as_str()), ("user", "postgres"), ("password", "x"), ("query", &query)];
    assert_eq!(lookup(&wrong, "").ask("bob"), Err("lookup_connect"));
    check_lost_connections(server, &lookup(&with(&keys, &query), ""), |server| {
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE application_name = 'pointsman'",
        );
    });
}

#[test]
fn mariadb_says_where_users_are() {
    let server = DatabaseServer::mariadb(&AUTHORITY);
    server.sql(&set_up());
    let url = format!("mariadb://{}/mail", server.address());
    let query = format!("{QUERY}?");
    let keys = [("url", url.as_str()), ("user", "proxy"), ("password", PASSWORD)];
    check_rows(&lookup(&with(&keys, &query), ""));
    check_queries(|query| lookup(&with(&keys, &format!("{query}?")), "").ask("bob"));
    check_tls(&server, "mariadb", &query, "proxy");
    check_lost_connections(server, &lookup(&with(&keys, &query), ""), |server| {
        server.sql("KILL USER proxy");
    });
}

/// The certificate is for `localhost` and of the test's own authority.
fn check_tls(server: &DatabaseServer, scheme: &str, query: &str, user: &str) {
    let folder = temporary_folder("ca");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, AUTHORITY.pem()).unwrap();
    let port = server.address().port();
    let ask = |host: &str, more: &str| {
        let url = format!("{scheme}://{host}:{port}/mail");
        let keys =
            [("url", url.as_str()), ("user", user), ("password", PASSWORD), ("query", query)];
        lookup(&keys, &format!("tls: required{more}")).ask("bob")
    };
    let with_ca = format!(", ca: \"{}\"", ca.display());
    assert_eq!(ask("localhost", &with_ca), Ok("north".to_owned()));
    assert_eq!(ask("127.0.0.1", &with_ca), Err("lookup_connect"), "another name");
    assert_eq!(ask("localhost", ""), Err("lookup_connect"), "an unknown authority");
}

fn check_lost_connections(
    mut server: DatabaseServer,
    lookup: &Lookup,
    cut: impl Fn(&DatabaseServer),
) {
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()));
    cut(&server);
    assert_eq!(lookup.ask("bob"), Ok("north".to_owned()), "over a new connection");
    server.process.stop();
    assert_eq!(lookup.ask("bob"), Err("lookup_connect"));
}

#[test]
fn sqlite_says_where_users_are() {
    let folder = temporary_folder("sqlite");
    let file = folder.path().join("users.db");
    make_file(&file);
    let url = format!("sqlite:{}", file.display());
    let with = |query: &str| lookup(&[("url", &url), ("query", query)], "");
    check_rows(&with(&format!("{QUERY}?")));
    check_queries(|query| with(&format!("{query}?")).ask("bob"));
    let writing = with("DELETE FROM users WHERE name = ? RETURNING shard");
    assert_eq!(writing.ask("bob"), Err("lookup_protocol"), "the file is opened for reading");
    let absent = folder.path().join("absent.db");
    let url = format!("sqlite:{}", absent.display());
    let lookup = lookup(&[("url", &url), ("query", &format!("{QUERY}?"))], "");
    assert_eq!(lookup.ask("bob"), Err("lookup_connect"));
    assert!(!absent.exists());
}

fn make_file(file: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        for statement in [TABLE, &format!("INSERT INTO users VALUES {ROWS}"), &long_row()] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        }
        sqlx::Connection::close(connection).await.unwrap();
    });
}
