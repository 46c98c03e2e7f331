//! Where a directory listens, as a URL without user, password or query.

use std::net::IpAddr;

use crate::config::backend::{is_host, parse_host_port};
use crate::config::check::{Check, Text};
use crate::config::fault::quoted;

/// Bytes of the path of a URL at most.
const PATH_BYTES_MAX: usize = 1024;

/// One server of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or IP address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the leg is encrypted.
    pub security: LegSecurity,
}

/// How a leg to a directory is encrypted. Policy, never a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegSecurity {
    /// Not at all.
    Clear,
    /// By a command of the protocol, before anything else.
    StartTls,
    /// From the first byte.
    Tls,
}

/// One server that is asked over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpServer {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Path and query of the request, beginning with a slash.
    pub target: String,
}

/// A scheme that a URL may have: how the leg is encrypted, and the usual port.
pub(super) type Scheme = (&'static str, LegSecurity, u16);

/// A URL taken apart: endpoint and what follows it, which is empty or begins with a slash.
pub(super) fn check_url(
    key: &str,
    text: &Text,
    schemes: &[Scheme],
    check: &mut Check<'_>,
) -> Option<(Endpoint, String)> {
    let parsed = parse(&text.value, schemes);
    if parsed.is_none() {
        let forms: Vec<String> =
            schemes.iter().map(|(scheme, ..)| format!("{scheme}://host:port/...")).collect();
        let expected = format!("{}, without user, password or blanks", forms.join(" or "));
        check.refuse_value(key, text, expected);
    }
    parsed
}

fn parse(text: &str, schemes: &[Scheme]) -> Option<(Endpoint, String)> {
    let (scheme, rest) = text.split_once("://")?;
    let (_, security, usual_port) = schemes.iter().find(|(known, ..)| *known == scheme)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let well_formed = path.len() <= PATH_BYTES_MAX
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let with_port = parse_host_port(authority);
    let (host, port) = match with_port {
        Some(parts) => parts,
        None => (bare_host(authority)?, *usual_port),
    };
    well_formed.then(|| (Endpoint { host, port, security: *security }, path.to_owned()))
}

fn bare_host(text: &str) -> Option<String> {
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().ok().map(|_| address.to_owned());
    }
    is_host(text).then(|| text.to_owned())
}

impl Endpoint {
    /// Whether it is on this machine, as far as its name tells.
    pub fn is_loopback(&self) -> bool {
        let name = self.host.trim_end_matches('.');
        let address = name.parse::<IpAddr>().map(|address| address.to_canonical());
        address.map_or_else(|_| name.eq_ignore_ascii_case("localhost"), |own| own.is_loopback())
    }

    /// Notes a leg in clear text that leaves the machine, where that is not allowed.
    pub(super) fn check_clear(&self, text: &Text, allowed: bool, check: &mut Check<'_>) {
        if self.security == LegSecurity::Clear && !self.is_loopback() && !allowed {
            let message = format!("{} is asked in clear text", quoted(&text.value));
            let expected = "TLS, or `allow_clear: true` where the network in between is trusted";
            check.refuse(text.defined, message, expected);
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: &[Scheme] =
        &[("redis", LegSecurity::Clear, 6379), ("rediss", LegSecurity::Tls, 6380)];

    #[test]
    fn a_url_is_scheme_host_port_and_path() {
        let (endpoint, path) = parse("rediss://r1.internal/3", SCHEMES).unwrap();
        let host = "r1.internal".to_owned();
        assert_eq!(endpoint, Endpoint { host, port: 6380, security: LegSecurity::Tls });
        assert_eq!(path, "/3");
        let (endpoint, path) = parse("redis://[::1]:7000", SCHEMES).unwrap();
        assert_eq!((endpoint.to_string().as_str(), path.as_str()), ("[::1]:7000", ""));
        assert!(endpoint.is_loopback());
        assert!(parse("redis://[::1]", SCHEMES).is_some());
        assert!(parse("redis://LOCALHOST.", SCHEMES).unwrap().0.is_loopback());
    }

    #[test]
    fn other_urls_are_none() {
        let odd = [
            "",
            "redis:",
            "redis://",
            "http://h",
            "redis://u:p@h",
            "redis://h:0",
            "redis://h:x",
            "redis://h/a b",
            "redis://h/#x",
            "redis://h/\r\nX",
            "redis://-h",
            "redis://[h]",
            "REDIS://h",
            "redis://h:1:2",
            "redis://h?x",
        ];
        for text in odd {
            assert_eq!(parse(text, SCHEMES), None, "{text:?}");
        }
    }
}
