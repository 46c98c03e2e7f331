//! `auth_http`: an HTTP server that checks passwords and names a backend, as nginx asks it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::endpoint::{HttpServer, LegSecurity, Scheme, check_url};
use super::{check_built, check_ca, check_timeout};
use crate::config::check::{Check, Entries, Names, Text};
use crate::config::secret::{self, SecretSource};

const SCHEMES: &[Scheme] = &[("http", LegSecurity::Clear, 80), ("https", LegSecurity::Tls, 443)];

/// Servers of one lookup at most.
const SERVERS_MAX: usize = 16;

/// Bytes of one further header at most.
const HEADER_BYTES_MAX: usize = 4096;

const WAIT_DEFAULT: Duration = Duration::from_secs(10);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A lookup over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthHttpLookup {
    /// The servers, in the order in which they are tried.
    pub servers: Vec<HttpServer>,
    /// PEM file of the authorities that may sign their certificates; default: the system's.
    pub ca: Option<PathBuf>,
    /// Further headers of each request.
    pub headers: Vec<(String, SecretSource)>,
    /// Whether answers are taken that only nginx takes: any status, no `Auth-Status`.
    /// Default false.
    pub nginx_compat: bool,
    /// Whether clients are told the server's own words. Default false.
    pub pass_error_text: bool,
    /// The longest `Auth-Wait` that is believed. Default 10 s.
    pub wait_max: Duration,
    /// Longest wait for a connection, with TLS, to each server. Default 1 s.
    pub connect_timeout: Duration,
}

/// `auth_http` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawAuthHttp {
    urls: Option<Vec<Text>>,
    ca: Option<Text>,
    headers: Option<Entries<Text>>,
    nginx_compat: Option<Text>,
    pass_error_text: Option<Text>,
    wait_max: Option<Text>,
    allow_clear: Option<Text>,
    connect_timeout: Option<Text>,
}

impl RawAuthHttp {
    pub(in crate::config) fn check(
        raw: &Spanned<Self>,
        check: &mut Check<'_>,
    ) -> Option<AuthHttpLookup> {
        check_built(cfg!(feature = "auth_http"), "auth_http", raw, check);
        let Spanned { value: raw, defined: place, .. } = raw;
        let connect_timeout = check_timeout(raw.connect_timeout.as_ref(), check);
        let headers = raw.check_headers(check);
        let ca = check_ca(raw.ca.as_ref(), check);
        let nginx_compat = check.word("nginx_compat", raw.nginx_compat.as_ref(), false);
        let pass_error_text = check.word("pass_error_text", raw.pass_error_text.as_ref(), false);
        let range = Duration::ZERO..=WAIT_MAX;
        let wait_max = check.duration("wait_max", raw.wait_max.as_ref(), range, WAIT_DEFAULT);
        let servers = raw.check_servers(*place, check)?;
        Some(AuthHttpLookup {
            servers,
            ca,
            headers,
            nginx_compat,
            pass_error_text,
            wait_max,
            connect_timeout,
        })
    }

    fn check_servers(&self, place: Location, check: &mut Check<'_>) -> Option<Vec<HttpServer>> {
        let expected = "`urls`: a list of servers such as http://localhost:9000/auth";
        let allow_clear = check.word("allow_clear", self.allow_clear.as_ref(), false);
        let urls = check.required("urls", self.urls.as_ref(), place, expected)?;
        if urls.is_empty() || urls.len() > SERVERS_MAX {
            check.refuse(place, "`urls` has no servers, or more than 16", expected);
        }
        let mut servers = Vec::new();
        for url in urls {
            let Some((endpoint, path)) = check_url("urls", url, SCHEMES, check) else {
                continue;
            };
            endpoint.check_clear(url, allow_clear, check);
            let target = if path.is_empty() { "/".to_owned() } else { path };
            servers.push(HttpServer { endpoint, target });
        }
        Some(servers)
    }

    fn check_headers(&self, check: &mut Check<'_>) -> Vec<(String, SecretSource)> {
        let mut names = Names::of("header");
        let mut headers = Vec::new();
        for (name, value) in self.headers.iter().flat_map(|headers| &headers.0) {
            let lower = name.value.to_ascii_lowercase();
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let is_own = lower.starts_with("auth-")
                || lower.starts_with("client-")
                || lower.starts_with("proxy-protocol-")
                || ["host", "connection", "content-length", "transfer-encoding"]
                    .contains(&lower.as_str());
            if lower.is_empty() || !lower.bytes().all(is_token) || is_own {
                let expected = "the name of a header that is not part of the protocol";
                check.refuse_value("headers", name, expected);
                continue;
            }
            let is_plain =
                value.value.len() <= HEADER_BYTES_MAX && !value.value.chars().any(char::is_control);
            if !is_plain {
                check.refuse(value.defined, "a header cannot have that value", "one line");
            }
            names.take_any(check, lower, name);
            headers.extend(
                secret::take("headers", value, check).map(|value| (name.value.clone(), value)),
            );
        }
        headers
    }
}
