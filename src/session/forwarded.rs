//! What a proxy in front says of its client, in the ID fields that Dovecot's proxies use.
//!
//! Only the first ID of a trusted network is read so. What anybody may say is the count of
//! proxies still allowed, since a low one harms nobody but who says it, and the id of the
//! session in front, by which a proxy knows itself again.

use std::net::IpAddr;

use crate::protocol::command::IdPair;

/// Longest session id of another proxy, in bytes (Dovecot's own bound).
const SESSION_BYTES_MAX: usize = 64;
/// Longest name of a host (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 255;
/// Fields `x-forward-*` that are handed on at most.
const FORWARD_MAX: usize = 12;

/// A client as a trusted proxy describes it. What is absent was not said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwarded {
    /// `x-originating-ip`: the client's address.
    pub remote_ip: Option<IpAddr>,
    /// `x-originating-port`
    pub remote_port: Option<u16>,
    /// `x-connected-ip`: the address that the client connected to.
    pub local_ip: Option<IpAddr>,
    /// `x-connected-port`
    pub local_port: Option<u16>,
    /// `x-session-ext-id`, else `x-session-id`.
    pub session: Option<String>,
    /// `x-connected-name`: the name the client asked for in TLS.
    pub server_name: Option<String>,
    /// `x-client-transport`: whether the client's own leg is encrypted.
    pub tls: Option<bool>,
    /// Fields `x-forward-*`, to be handed on.
    pub forward: Vec<IdPair>,
}

/// What is read of everybody's ID: it can only make a login fail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// The lowest `x-proxy-ttl` so far; 0 where one could not be read.
    pub ttl: Option<u32>,
    /// The session ids that were named, to be compared with the proxy's own.
    pub sessions: Vec<String>,
}

/// A field of a trusted proxy that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the field {field} of a trusted proxy cannot be used")]
pub struct BadField {
    /// Its name.
    pub field: &'static str,
}

impl Forwarded {
    /// Reads the fields of a trusted proxy. One bad value spoils all: a client whose address
    /// is half known must not be taken for another.
    pub fn parse(fields: &[IdPair]) -> Result<Self, BadField> {
        let mut told = Self::default();
        for (key, value) in fields {
            let key = key.to_ascii_lowercase();
            let value = value.as_deref().unwrap_or_default();
            told.take(&key, value)?;
        }
        if let Some(session) = text_of(fields, b"x-session-ext-id") {
            told.session = Some(checked(session_id(session), "x-session-ext-id")?);
        }
        Ok(told)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), BadField> {
        match key {
            b"x-originating-ip" => {
                self.remote_ip = Some(checked(number(value), "x-originating-ip")?);
            }
            b"x-originating-port" => {
                self.remote_port = Some(checked(number(value), "x-originating-port")?);
            }
            b"x-connected-ip" => {
                self.local_ip = Some(checked(number(value), "x-connected-ip")?);
            }
            b"x-connected-port" => {
                self.local_port = Some(checked(number(value), "x-connected-port")?);
            }
            b"x-connected-name" => {
                self.server_name = Some(checked(host_name(value), "x-connected-name")?);
            }
            b"x-session-id" => self.session = Some(checked(session_id(value), "x-session-id")?),
            b"x-client-transport" => {
                self.tls = Some(checked(transport(value), "x-client-transport")?);
            }
            b"x-proxy-ttl" => {
                checked(number::<u32>(value).filter(|ttl| *ttl > 0), "x-proxy-ttl")?;
            }
            _ if key.starts_with(b"x-forward-") => {
                if self.forward.len() == FORWARD_MAX {
                    return Err(BadField { field: "x-forward-" });
                }
                self.forward.push((key.to_vec(), Some(value.to_vec())));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Trace {
    /// Adds what one more ID of the connection says.
    pub fn add(&mut self, fields: &[IdPair]) {
        if let Some(value) = text_of(fields, b"x-proxy-ttl") {
            let ttl = number(value).unwrap_or(0);
            self.ttl = Some(self.ttl.map_or(ttl, |lowest| lowest.min(ttl)));
        }
        // One connection has one session in front; the last one named is kept.
        let named = [b"x-session-id".as_slice(), b"x-session-ext-id"];
        let sessions: Vec<String> =
            named.into_iter().filter_map(|key| session_id(text_of(fields, key)?)).collect();
        if !sessions.is_empty() {
            self.sessions = sessions;
        }
    }
}

/// Whether only a proxy may say this.
pub fn is_proxy_field(key: &[u8]) -> bool {
    key.get(..2).is_some_and(|head| head.eq_ignore_ascii_case(b"x-"))
}

fn text_of<'a>(fields: &'a [IdPair], wanted: &[u8]) -> Option<&'a [u8]> {
    let (_, value) = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted))?;
    value.as_deref()
}

fn checked<T>(value: Option<T>, field: &'static str) -> Result<T, BadField> {
    value.ok_or(BadField { field })
}

/// An address or a number, without the signs that Rust's parsers take besides.
fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(value).ok()?;
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// Base64 without padding, as Dovecot makes them, and what other proxies use; no `=`, since
/// the id stands in log lines among `key=value` pairs.
fn session_id(value: &[u8]) -> Option<String> {
    let lawful = (1..=SESSION_BYTES_MAX).contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_.:,@".contains(byte));
    lawful.then(|| String::from_utf8_lossy(value).into_owned())
}

fn host_name(value: &[u8]) -> Option<String> {
    let lawful = (1..=HOST_BYTES_MAX).contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte));
    lawful.then(|| String::from_utf8_lossy(value).into_owned())
}

/// Dovecot's words: `TLS` or `insecure`; further ones of later versions begin with `TLS`.
fn transport(value: &[u8]) -> Option<bool> {
    if value.eq_ignore_ascii_case(b"insecure") {
        return Some(false);
    }
    value.get(..3).is_some_and(|head| head.eq_ignore_ascii_case(b"TLS")).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<IdPair> {
        let pair = |(key, value): &(&str, &str)| {
            (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_trusted_proxy_describes_its_client() {
        let told = Forwarded::parse(&fields(&[
            ("X-Originating-IP", "192.0.2.7"),
            ("x-originating-port", "4711"),
            ("x-connected-ip", "2001:db8::1"),
            ("x-connected-port", "993"),
            ("x-session-id", "abc/DEF+1"),
            ("x-proxy-ttl", "4"),
            ("x-client-transport", "TLS"),
            ("x-connected-name", "mail.example.org"),
            ("x-forward-tenant", "seven"),
            ("name", "Thunderbird"),
        ]))
        .unwrap();
        assert_eq!(told.remote_ip.unwrap().to_string(), "192.0.2.7");
        assert_eq!(
            (told.remote_port, told.local_port, told.tls),
            (Some(4711), Some(993), Some(true))
        );
        assert_eq!(told.session.as_deref(), Some("abc/DEF+1"));
        assert_eq!(told.forward, fields(&[("x-forward-tenant", "seven")]));
    }

    #[test]
    fn one_bad_value_spoils_all() {
        for (key, value) in [
            ("x-originating-ip", "192.0.2.7 "),
            ("x-originating-ip", "192.0.2"),
            ("x-originating-port", "+1"),
            ("x-originating-port", "65536"),
            ("x-proxy-ttl", "0"),
            ("x-proxy-ttl", "many"),
            ("x-session-id", ""),
            ("x-session-id", "a b"),
            ("x-session-id", "a=b"),
            ("x-client-transport", "pigeon"),
            ("x-connected-name", "a\"b"),
        ] {
            let result = Forwarded::parse(&fields(&[("x-connected-port", "1"), (key, value)]));
            assert_eq!(result, Err(BadField { field: key }), "{value:?}");
        }
        let long = "s".repeat(65);
        assert!(Forwarded::parse(&fields(&[("x-session-id", &long)])).is_err());
    }

    #[test]
    fn the_lowest_count_stays() {
        let mut trace = Trace::default();
        trace.add(&fields(&[("name", "x")]));
        assert_eq!(trace, Trace::default());
        trace.add(&fields(&[("x-proxy-ttl", "3"), ("x-session-id", "abc")]));
        trace.add(&fields(&[("X-Proxy-TTL", "7")]));
        assert_eq!(
            (trace.ttl, trace.sessions.as_slice()),
            (Some(3), ["abc".to_owned()].as_slice())
        );
        trace.add(&fields(&[("x-proxy-ttl", "-1")]));
        assert_eq!(trace.ttl, Some(0));
    }
}
