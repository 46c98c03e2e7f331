//! Sections of directories, right and wrong.

use std::path::Path;

use super::{Directory, LegSecurity, SqlDatabase};
use crate::config::{Config, Lookup};

fn parse(lookup: &str) -> Result<Directory, Vec<String>> {
    let text = format!(
        "listeners: [ {{ name: i, address: \"127.0.0.1:143\", tls: none }} ]\n\
         shards: {{ s: {{ kind: shared, backends: \
         [ {{ name: b, address: \"h:1\", tls: none }} ] }} }}\n\
         routing:\n  lookups:\n    - {{ {lookup} }}\n"
    );
    let config = Config::parse(Path::new("p.yaml"), &text).map_err(|errors| {
        errors.faults.into_iter().map(|fault| fault.message).collect::<Vec<_>>()
    })?;
    match config.routing.lookups.into_iter().next() {
        Some(Lookup::Remote(remote)) => Ok(remote.directory),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("redis: { key: \"%u\" }", "`url` is missing"),
        ("redis: { url: \"redis://localhost\" }", "`key` is missing"),
        ("redis: { url: \"redis://localhost\", key: mail }", "`key` cannot be `mail`"),
        ("redis: { url: \"redis://localhost\", key: \"%x\" }", "`key` cannot be `%x`"),
        (
            "redis: { url: \"redis://localhost/x\", key: \"%u\" }",
            "`url` cannot be `redis://localhost/x`",
        ),
        (
            "redis: { url: \"redis://r.internal\", key: \"%u\" }",
            "`redis://r.internal` is asked in clear text",
        ),
        ("sql: { url: \"oracle://h/d\", query: q }", "`url` cannot be `oracle://h/d`"),
        ("sql: { url: \"postgres://h/d\", query: q }", "`user` is missing"),
        ("sql: { url: \"postgres://h\", user: u, query: q }", "`url` cannot be `postgres://h`"),
        ("sql: { url: \"sqlite:f\", user: u, query: q }", "`user` means nothing to a file"),
        ("sql: { url: \"sqlite:\", query: q }", "`url` cannot be `sqlite:`"),
        (
            "sql: { url: \"sqlite:f\", query: q, parameters: [name] }",
            "`parameters` cannot be `name`",
        ),
        (
            "sql: { url: \"postgres://h/d\", user: u, query: q, tls: none }",
            "`postgres://h/d` is asked in clear text",
        ),
        (
            "ldap: { urls: [ \"ldaps://h\" ], bind_dn: x, filter: \"%u\", attributes: { shard: s } }",
            "`bind_dn` without `bind_password` signs nobody in",
        ),
        (
            "ldap: { urls: [ \"ldap://h\" ], filter: \"%u\", attributes: { shard: s } }",
            "`ldap://h` is asked in clear text",
        ),
        (
            "ldap: { urls: [ \"ldaps://h\" ], filter: \"%u\", attributes: { colour: s } }",
            "`attributes` cannot be `colour`",
        ),
        (
            "ldap: { urls: [], filter: \"%u\", attributes: { shard: s } }",
            "`urls` has no servers, or more than 16",
        ),
        (
            "auth_http: { urls: [ \"http://a.internal/\" ] }",
            "`http://a.internal/` is asked in clear text",
        ),
        (
            "auth_http: { urls: [ \"https://h\" ], headers: { Auth-User: x } }",
            "`headers` cannot be `Auth-User`",
        ),
        (
            "auth_http: { urls: [ \"https://h\" ], headers: { X: \"a\\r\\nY: b\" } }",
            "a header cannot have that value",
        ),
    ];
    for (lookup, message) in cases {
        assert_eq!(parse(lookup), Err(vec![message.to_owned()]), "{lookup}");
    }
}

#[test]
fn a_leg_that_leaves_the_machine_has_tls_unless_the_operator_says_otherwise() {
    let security = |lookup: &str| match parse(lookup).unwrap() {
        Directory::Sql(sql) => match sql.database {
            SqlDatabase::Postgres(server) | SqlDatabase::MariaDb(server) => {
                server.endpoint.security
            }
            SqlDatabase::Sqlite(file) => panic!("{file:?}"),
        },
        Directory::Ldap(ldap) => ldap.servers[0].security,
        Directory::Redis(redis) => redis.server.security,
        Directory::AuthHttp(http) => http.servers[0].endpoint.security,
    };
    let sql = |more: &str| security(&format!("sql: {{ user: u, query: q, {more} }}"));
    assert_eq!(sql("url: \"postgres://db.internal/d\""), LegSecurity::Tls);
    assert_eq!(sql("url: \"mariadb://[::1]/d\""), LegSecurity::Clear);
    let allowed = "url: \"mysql://db.internal/d\", tls: none, allow_clear: true";
    assert_eq!(sql(allowed), LegSecurity::Clear);
    let ldap = "filter: \"%u\", attributes: { shard: s }";
    let starttls = format!("ldap: {{ urls: [ \"ldap://h\" ], starttls: true, {ldap} }}");
    assert_eq!(security(&starttls), LegSecurity::StartTls);
    let redis = "redis: { url: \"rediss://h\", key: \"%n@%d\" }";
    assert_eq!(security(redis), LegSecurity::Tls);
    assert_eq!(
        security("auth_http: { urls: [ \"http://127.0.0.1:9000/a\" ] }"),
        LegSecurity::Clear
    );
}
