//! Referrals of backends (RFC 2221): an answer that sends the user to another server. The
//! proxy goes there itself, to configured backends only; the client never hears of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::BackendPlace;
use crate::upstream::backends::{Backend, Upstreams};

/// Port of an IMAP URL without one (RFC 5092 section 3).
const PORT_DEFAULT: u16 = 143;

/// Where a referral points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The user it names, percent-decoded.
    pub(super) user: Option<Vec<u8>>,
    host: String,
    port: u16,
}

impl Target {
    /// `"imap://" [user [";AUTH=" type] "@"] host [":" port] ["/"]`, the part of RFC 5092
    /// that names a server. A host in brackets cannot stand in a response code.
    pub(super) fn parse(url: &[u8]) -> Option<Self> {
        let url = std::str::from_utf8(url).ok()?;
        let (scheme, rest) = url.split_once("://")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if !scheme.eq_ignore_ascii_case("imap") || rest.contains(['/', '?', '#']) {
            return None;
        }
        let (user, server) = match rest.rsplit_once('@') {
            Some((user, server)) => (Some(user_of(user)?), server),
            None => (None, rest),
        };
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (server, PORT_DEFAULT),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        (!host.is_empty()).then_some(Self { user, host, port })
    }

    /// The configured backend that it means, by host and port as configured or by address.
    pub(super) fn find(&self, upstreams: &Upstreams) -> Option<Arc<Backend>> {
        upstreams.backends().find(|backend| self.is(backend)).map(Arc::clone)
    }

    fn is(&self, backend: &Backend) -> bool {
        let configured = match &backend.config.place {
            BackendPlace::Host { host, port } => {
                let host = host.strip_suffix('.').unwrap_or(host);
                *port == self.port && host.eq_ignore_ascii_case(&self.host)
            }
            BackendPlace::Service(_) => false,
        };
        let known = |ip| backend.addresses.current().contains(&SocketAddr::new(ip, self.port));
        configured || self.host.parse::<IpAddr>().is_ok_and(known)
    }
}

/// The user name before `;AUTH=`, percent-decoded; empty counts as none of use.
fn user_of(text: &str) -> Option<Vec<u8>> {
    let name = text.split_once(';').map_or(text, |(name, _)| name);
    let mut decoded = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok()?);
    }
    (!decoded.is_empty()).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Option<(Option<String>, String, u16)> {
        Target::parse(url.as_bytes()).map(|target| {
            let user = target.user.map(|user| String::from_utf8(user).unwrap());
            (user, target.host, target.port)
        })
    }

    #[test]
    fn a_referral_names_a_server_and_perhaps_a_user() {
        let server = |user: Option<&str>, host: &str, port| {
            Some((user.map(str::to_owned), host.to_owned(), port))
        };
        assert_eq!(parsed("imap://b2.example/"), server(None, "b2.example", 143));
        assert_eq!(parsed("IMAP://B2.example.:1143"), server(None, "b2.example", 1143));
        assert_eq!(parsed("imap://bob@h:1/"), server(Some("bob"), "h", 1));
        assert_eq!(parsed("imap://bob%40x;AUTH=*@h/"), server(Some("bob@x"), "h", 143));
    }

    #[test]
    fn what_names_no_server_is_no_referral() {
        for odd in [
            "",
            "b2:143",
            "imaps://h/",
            "http://h/",
            "imap://",
            "imap://@h/",
            "imap://h:0/",
            "imap://h:x/",
            "imap://h/INBOX",
            "imap://b%4@h/",
            "imap://b%zz@h/",
            "imap://h?x",
        ] {
            assert_eq!(parsed(odd), None, "{odd}");
        }
    }
}
