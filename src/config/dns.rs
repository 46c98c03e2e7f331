//! `dns`: which name servers are asked for the names of backends.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::check::{Check, Names, Text};

/// The port of DNS (RFC 1035 section 4.2).
const PORT_DEFAULT: u16 = 53;
/// Name servers at most. They share the time for a question.
const SERVERS_MAX: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

const SERVER_FORM: &str =
    "an IP address, with a port if it is not 53, such as \"192.0.2.53\" or \"[2001:db8::53]:5353\"";

/// How the names of backends are looked up. All of it may change on reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The name servers, asked in this order until one answers; empty: those of
    /// `/etc/resolv.conf`, with its `search` list. Default: empty.
    pub servers: Vec<SocketAddr>,
    /// Longest wait for the answer to one question, over all servers, which share it
    /// equally. Default 5 s.
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: TIMEOUT }
    }
}

/// `dns` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDns {
    servers: Option<Spanned<Vec<Text>>>,
    timeout: Option<Text>,
}

impl RawDns {
    pub(super) fn check(self, check: &mut Check<'_>) -> Dns {
        let servers = self.servers.map(|raw| check_servers(&raw, check)).unwrap_or_default();
        let range = TIMEOUT_MIN..=TIMEOUT_MAX;
        let timeout = check.duration("timeout", self.timeout.as_ref(), range, TIMEOUT);
        Dns { servers, timeout }
    }
}

fn check_servers(raw: &Spanned<Vec<Text>>, check: &mut Check<'_>) -> Vec<SocketAddr> {
    let count = raw.value.len();
    if count == 0 || count > SERVERS_MAX {
        let message = format!("`servers` has {count} name servers");
        let expected = format!("1 to {SERVERS_MAX}, or no `servers`: those of /etc/resolv.conf");
        check.refuse(raw.defined, message, expected);
    }
    let mut names = Names::of("name server");
    let mut servers = Vec::with_capacity(count);
    for text in &raw.value {
        let Some(server) = parse_server(&text.value) else {
            check.refuse_value("servers", text, SERVER_FORM);
            continue;
        };
        names.take_any(check, server.to_string(), text);
        servers.push(server);
    }
    servers
}

/// `server = IPv4 [":" port] / IPv6 / "[" IPv6 "]" [":" port]`
fn parse_server(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let six = bare.map(|bare| bare.parse().map(IpAddr::V6));
    let alone = six.unwrap_or_else(|| text.parse::<IpAddr>()).ok();
    let server = alone.map(|address| SocketAddr::new(address, PORT_DEFAULT));
    server.or_else(|| text.parse().ok()).filter(|server| {
        // One that stands for any address, or a port that there is not, answers nothing.
        server.port() != 0 && !server.ip().is_unspecified() && !server.ip().is_multicast()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_is_an_address_with_or_without_a_port() {
        let cases = [
            ("192.0.2.53", "192.0.2.53:53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]", "[2001:db8::53]:53"),
            ("[::1]:5353", "[::1]:5353"),
        ];
        for (text, server) in cases {
            assert_eq!(parse_server(text), Some(server.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_no_name_server_can_be_is_refused() {
        let wrong =
            ["", "ns.example", "192.0.2.53:", "192.0.2.53:0", "[192.0.2.53]", "0.0.0.0", "[::]:53"];
        for text in wrong {
            assert_eq!(parse_server(text), None, "{text:?}");
        }
    }
}
