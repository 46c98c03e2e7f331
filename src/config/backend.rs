//! `shards.<name>.backends`: the IMAP servers.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::config::check::{Check, Keyword, Text};
use crate::config::fault::quoted;
use crate::config::health::{self, Checks, HealthCheck, RawHealthCheck};
use crate::config::limits::SESSIONS_MAX;
use crate::config::listener::TlsMode;
use crate::config::source::Object;
use crate::names::BackendId;

/// The highest weight: with it and a thousand backends a share still fits 32 bits.
const WEIGHT_MAX: u32 = 1000;

/// Logins in flight: enough for thousands a second at a healthy server, few enough for one
/// that a herd comes back to.
const LOGINS_MAX: u32 = 200;

/// Descriptors that nobody uses yet; a few round trips' worth of logins is enough.
const WARM_CONNECTIONS_MAX: u32 = 1000;
/// Dovecot and Cyrus give a client more time than that to log in.
const WARM_AGE: Duration = Duration::from_secs(60);
const WARM_AGE_MIN: Duration = Duration::from_secs(1);
const WARM_AGE_MAX: Duration = Duration::from_secs(1800);

/// Each gives some 28,000 connections; more than 64 have no use on one machine.
const SOURCE_ADDRESSES_MAX: usize = 64;

const ADDRESS_FORM: &str =
    "a host name or IP address and a port such as \"imap1.example.org:993\" or \"[::1]:143\"";

const SERVICE_FORM: &str = "the name of SRV records such as _imaps._tcp.example.org";

/// One IMAP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Name, unique over all shards.
    pub name: BackendId,
    /// Where it is: `address` or `srv`.
    pub place: BackendPlace,
    /// How the leg is encrypted. Policy, not a hint.
    pub tls: TlsMode,
    /// PEM file of the authorities that may sign its certificate; default: the system's.
    pub ca: Option<PathBuf>,
    /// Name that the certificate must carry; default: the host of `address`. A backend with
    /// `srv` and TLS has it, or `pin_sha256`.
    pub verify_name: Option<String>,
    /// SHA-256 of the leaf certificate's `SubjectPublicKeyInfo`; then no CA is needed.
    pub pin_sha256: Option<[u8; 32]>,
    /// Share of the users in a `shared` shard, 1 to 1000. Default 1.
    pub weight: u32,
    /// What it may do until the operator says otherwise at run time. Default up.
    pub state: AdminState,
    /// How the client's address is handed on. Default: ID.
    pub forward: Forward,
    /// Whether ID and login may be sent without waiting. Default: auto.
    pub pipelining: Pipelining,
    /// Whether ALPN `imap` is offered (`alpn: imap`, or `none`). Default true.
    pub alpn: bool,
    /// Whether the server knows PROXYAUTH, which makes a session somebody else's: then the
    /// lines inside a client's literals are looked at too. Default false.
    pub proxyauth: bool,
    /// Most sessions at once, those on their way included; `None` (default): no bound.
    pub sessions_max: Option<u32>,
    /// Most logins in flight; `None`: no bound. Default 200.
    pub logins_max: Option<u32>,
    /// Connections kept ready for logins, TLS done and the greeting read, by this proxy;
    /// `None` (default): each login makes its own.
    pub warm_connections: Option<u32>,
    /// Oldest warm connection that a login may take: below the time that the backend gives a
    /// client to log in. Default 60 s.
    pub warm_age_max: Duration,
    /// Addresses of this machine that connections to the backend come from, in turn; empty
    /// (default): the system chooses.
    pub source_addresses: Vec<IpAddr>,
    /// How it is checked.
    pub check: HealthCheck,
}

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BackendPlace {
    /// At a host.
    Host {
        /// Host name or IP address; an IPv6 address without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Where the SRV records of that name say (RFC 2782), such as
    /// `_imaps._tcp.example.org`. All their targets are one server with one mail store.
    Service(String),
}

impl BackendPlace {
    /// The host's name or address, or the name of the SRV records.
    pub fn name(&self) -> &str {
        match self {
            Self::Host { host, .. } => host,
            Self::Service(service) => service,
        }
    }

    /// The port, where the configuration says it.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Host { port, .. } => Some(*port),
            Self::Service(_) => None,
        }
    }

    /// The name that its certificate carries and that goes out as SNI, where no other is
    /// configured: the host, or the domain that has the service (RFC 6186 section 6). Never
    /// a name that only DNS told.
    pub fn certificate_name(&self) -> &str {
        match self {
            Self::Host { host, .. } => host,
            Self::Service(service) => service.splitn(3, '.').nth(2).unwrap_or(service),
        }
    }
}

/// As in the configuration, an IPv6 address in brackets.
impl fmt::Display for BackendPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Service(service) => f.write_str(service),
        }
    }
}

/// What the operator lets a backend do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// It takes users.
    Up,
    /// No new users; those with sessions there still join them.
    Drain,
    /// Taken only while no `up` backend of its shard can be used.
    Standby,
    /// Nothing is dialled there, not even for users with sessions.
    Down,
}

impl AdminState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Up, Self::Drain, Self::Standby, Self::Down];

    /// The state in the configuration, in the store and for operators.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drain => "drain",
            Self::Standby => "standby",
            Self::Down => "down",
        }
    }

    /// The state of that name.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

impl Keyword for AdminState {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Up.word(), Self::Up),
        (Self::Drain.word(), Self::Drain),
        (Self::Standby.word(), Self::Standby),
        (Self::Down.word(), Self::Down),
    ];
}

/// How the client's address reaches the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Dovecot's `ID (x-originating-ip ...)`, where the backend lists ID.
    Id,
    /// A PROXY v2 header.
    ProxyV2,
    /// Not at all.
    None,
}

impl Keyword for Forward {
    const WORDS: &'static [(&'static str, Self)] =
        &[("id", Self::Id), ("proxy_v2", Self::ProxyV2), ("none", Self::None)];
}

/// Whether commands to a backend may be sent before the former is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipelining {
    /// Where the greeting lists what is needed.
    Auto,
    /// Always step by step (Exchange 2013).
    Off,
}

impl Keyword for Pipelining {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("off", Self::Off)];
}

/// The words of `alpn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OffersAlpn(bool);

impl Keyword for OffersAlpn {
    const WORDS: &'static [(&'static str, Self)] = &[("imap", Self(true)), ("none", Self(false))];
}

/// A backend as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackend {
    pub(super) name: Option<Text>,
    address: Option<Text>,
    srv: Option<Text>,
    tls: Option<Text>,
    ca: Option<Text>,
    verify_name: Option<Text>,
    pin_sha256: Option<Text>,
    weight: Option<Text>,
    state: Option<Text>,
    forward: Option<Text>,
    pipelining: Option<Text>,
    alpn: Option<Text>,
    proxyauth: Option<Text>,
    sessions_max: Option<Text>,
    logins_max: Option<Text>,
    warm_connections: Option<Text>,
    warm_age_max: Option<Text>,
    source_addresses: Option<Vec<Text>>,
    check: Option<Spanned<RawHealthCheck>>,
}

impl RawBackend {
    pub(super) fn check(
        mut self,
        place: Location,
        checks: &Checks,
        check: &mut Check<'_>,
    ) -> Option<Backend> {
        let health = health::check(self.check.take(), check).within(checks).settle(check);
        let name = check.required("name", self.name.as_ref(), place, "a name for this backend");
        let tls = check.required_word("tls", self.tls.as_ref(), place);
        self.check_tls_keys(tls, check);
        let ca = self.ca.as_ref().and_then(|ca| check.path("ca", ca));
        let verify_name = self.verify_name.as_ref().and_then(|name| check_host(name, check));
        let pin_sha256 = self.pin_sha256.as_ref().and_then(|pin| check_pin(pin, check));
        let weight = check.number("weight", self.weight.as_ref(), 1..=WEIGHT_MAX, 1);
        let state = check.word("state", self.state.as_ref(), AdminState::Up);
        let forward = check.word("forward", self.forward.as_ref(), Forward::Id);
        let pipelining = check.word("pipelining", self.pipelining.as_ref(), Pipelining::Auto);
        let OffersAlpn(alpn) = check.word("alpn", self.alpn.as_ref(), OffersAlpn(true));
        let proxyauth = check.word("proxyauth", self.proxyauth.as_ref(), false);
        let bound = |text: &Option<Text>| text.clone().filter(|text| text.value != "none");
        let sessions_max = bound(&self.sessions_max)
            .map(|text| check.number("sessions_max", Some(&text), 1..=SESSIONS_MAX, 1));
        let logins_max = match (&self.logins_max, bound(&self.logins_max)) {
            (Some(_), None) => None,
            (_, text) => {
                Some(check.number("logins_max", text.as_ref(), 1..=SESSIONS_MAX, LOGINS_MAX))
            }
        };
        let warm_connections = self.warm_connections(forward, check);
        let warm_age_max = self.warm_age_max.as_ref();
        let warm_age_max =
            check.duration("warm_age_max", warm_age_max, WARM_AGE_MIN..=WARM_AGE_MAX, WARM_AGE);
        let source_addresses = sources(self.source_addresses.as_deref(), check);
        let backend_place = self.check_place(tls, place, check)?;
        let name = BackendId::new(name?.value.as_str());
        check.remember(Object::Backend(name.clone()), place);
        if let Some(ca) = &self.ca {
            check.remember(Object::BackendCa(name.clone()), ca.defined);
        }
        Some(Backend {
            name,
            place: backend_place,
            tls: tls?,
            ca,
            verify_name,
            pin_sha256,
            weight,
            state,
            forward,
            pipelining,
            alpn,
            proxyauth,
            sessions_max,
            logins_max,
            warm_connections,
            warm_age_max,
            source_addresses,
            check: health,
        })
    }

    /// A PROXY header is the connection's first word and names the client: no connection can be
    /// made before there is one.
    fn warm_connections(&self, forward: Forward, check: &mut Check<'_>) -> Option<u32> {
        let text = self.warm_connections.as_ref().filter(|text| text.value != "none")?;
        let size = check.number("warm_connections", Some(text), 1..=WARM_CONNECTIONS_MAX, 1);
        if forward == Forward::ProxyV2 {
            let message =
                "`warm_connections` with `forward: proxy_v2`: its header names the client";
            check.refuse(text.defined, message, "`forward: id`, or no `warm_connections`");
            return None;
        }
        Some(size)
    }

    /// `address` or `srv`, not both.
    fn check_place(
        &self,
        tls: Option<TlsMode>,
        place: Location,
        check: &mut Check<'_>,
    ) -> Option<BackendPlace> {
        let Some(srv) = &self.srv else {
            let expected = format!("{ADDRESS_FORM}; or `srv`");
            let address = check.required("address", self.address.as_ref(), place, &expected)?;
            return check_address(address, check);
        };
        if self.address.is_some() {
            check.refuse(srv.defined, "`srv` beside `address`", "one of the two");
        }
        let encrypted = matches!(tls, Some(TlsMode::Implicit | TlsMode::Starttls));
        if encrypted && self.verify_name.is_none() && self.pin_sha256.is_none() {
            let message = "`srv` with TLS, and nothing that the certificate must match";
            let expected = "`verify_name` or `pin_sha256`: DNS must not choose who is believed";
            check.refuse(srv.defined, message, expected);
        }
        if !is_service(&srv.value) {
            check.refuse_value("srv", srv, SERVICE_FORM);
            return None;
        }
        Some(BackendPlace::Service(srv.value.clone()))
    }

    /// In clear text nothing is verified: who asks for it believes in more than there is.
    fn check_tls_keys(&self, tls: Option<TlsMode>, check: &mut Check<'_>) {
        if tls != Some(TlsMode::None) {
            return;
        }
        let keys = [
            ("ca", &self.ca),
            ("verify_name", &self.verify_name),
            ("pin_sha256", &self.pin_sha256),
        ];
        for (key, text) in keys {
            if let Some(text) = text {
                let message = format!("`{key}` with `tls: none` verifies nothing");
                check.refuse(text.defined, message, "`tls: implicit` or `tls: starttls`");
            }
        }
    }
}

fn sources(texts: Option<&[Text]>, check: &mut Check<'_>) -> Vec<IpAddr> {
    let texts = texts.unwrap_or_default();
    if let Some(surplus) = texts.get(SOURCE_ADDRESSES_MAX) {
        let message = format!("`source_addresses` has {} entries", texts.len());
        check.refuse(surplus.defined, message, format!("at most {SOURCE_ADDRESSES_MAX}"));
        return Vec::new();
    }
    let mut sources = Vec::with_capacity(texts.len());
    for text in texts {
        match text.value.parse::<IpAddr>() {
            Ok(address) if !address.is_unspecified() && !address.is_multicast() => {
                sources.push(address);
            }
            _ => check.refuse_value("source_addresses", text, "an IP address of this machine"),
        }
    }
    sources
}

fn check_address(address: &Text, check: &mut Check<'_>) -> Option<BackendPlace> {
    let Some((host, port)) = parse_host_port(&address.value) else {
        check.refuse_value("address", address, ADDRESS_FORM);
        return None;
    };
    if check.is_own_listener(&host, port) {
        let message = format!("`address` {} is a listener of this proxy", quoted(&address.value));
        check.refuse(address.defined, message, "another server: this would be a loop");
    }
    Some(BackendPlace::Host { host, port })
}

/// `_Service._Proto.Name` (RFC 2782), where the protocol is TCP.
fn is_service(name: &str) -> bool {
    let mut labels = name.splitn(3, '.');
    let service = labels.next().is_some_and(|label| label.len() > 1 && label.starts_with('_'));
    let protocol = labels.next().is_some_and(|label| label.eq_ignore_ascii_case("_tcp"));
    service && protocol && labels.next().is_some_and(is_host) && is_host(name)
}

fn check_host(text: &Text, check: &mut Check<'_>) -> Option<String> {
    if !is_host(&text.value) && text.value.parse::<Ipv6Addr>().is_err() {
        check.refuse_value("verify_name", text, "a host name or an IP address");
        return None;
    }
    Some(text.value.clone())
}

/// `address = (host / "[" IPv6 "]") ":" port`
pub(super) fn parse_host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0)?;
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().ok().map(|_| (address.to_owned(), port));
    }
    is_host(host).then(|| (host.to_owned(), port))
}

/// A host name's letters, digits, hyphens and dots (RFC 1123 section 2.1; underscores
/// too, they are out there), which an IPv4 address is as well.
pub(super) fn is_host(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let looks_numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (1..=253).contains(&host.len())
        && host.split('.').all(is_label)
        && (!looks_numeric || host.parse::<std::net::Ipv4Addr>().is_ok())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn check_pin(text: &Text, check: &mut Check<'_>) -> Option<[u8; 32]> {
    let pin = parse_pin(&text.value);
    if pin.is_none() {
        let expected = "the SHA-256 of a SubjectPublicKeyInfo: 64 hex digits (colons allowed) \
                        or 44 characters of base64";
        check.refuse_value("pin_sha256", text, expected);
    }
    pin
}

fn parse_pin(text: &str) -> Option<[u8; 32]> {
    let hex: Vec<u8> = if text.len() == 95 {
        // 32 pairs and the 31 colons between them.
        let pairs: Vec<&str> = text.split(':').collect();
        let whole = pairs.len() == 32 && pairs.iter().all(|pair| pair.len() == 2);
        pairs.concat().into_bytes().into_iter().filter(|_| whole).collect()
    } else {
        text.as_bytes().to_vec()
    };
    if hex.len() == 64 {
        let mut pin = [0; 32];
        for (byte, pair) in pin.iter_mut().zip(hex.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        return Some(pin);
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let cases = [
            ("n1.mail.internal:993", "n1.mail.internal", 993),
            ("10.0.2.1:143", "10.0.2.1", 143),
            ("[::1]:143", "::1", 143),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
            ("dovecot_1:1", "dovecot_1", 1),
        ];
        for (text, host, port) in cases {
            assert_eq!(parse_host_port(text), Some((host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        let wrong = [
            "",
            ":",
            "n1",
            "n1:",
            ":993",
            "n1:0",
            "n1:65536",
            "n1:+1",
            "::1:143",
            "[::1]",
            "[n1]:1",
            "[::1:143",
            "n1 :1",
            "-n1:1",
            "n1-:1",
            "a..b:1",
            "1.2.3:1",
            "300.1.1.1:1",
            "n1:993/x",
            "u@n1:1",
            "\u{fc}.de:1",
        ];
        for text in wrong {
            assert_eq!(parse_host_port(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_service_is_named_as_its_srv_records_are() {
        for name in ["_imaps._tcp.example.org", "_imap._TCP.a.b.", "_x-y._tcp.internal"] {
            assert!(is_service(name), "{name}");
        }
        let wrong =
            ["", "imaps._tcp.a.b", "_._tcp.a", "_imaps._udp.a", "_imaps._tcp", "_imaps._tcp."];
        for name in wrong.into_iter().chain(["_imaps._tcp.a:1", "_imaps._tcp..a", "_imaps"]) {
            assert!(!is_service(name), "{name}");
        }
        let place = BackendPlace::Service("_imaps._tcp.example.org".to_owned());
        assert_eq!(place.certificate_name(), "example.org");
    }

    #[test]
    fn malformed_pins_are_refused() {
        let colons_wrong = "a".repeat(63) + &":".repeat(32);
        for text in ["", "ab", &"+1".repeat(32), &"zz".repeat(32), &"a".repeat(44), &colons_wrong] {
            assert_eq!(parse_pin(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pin_reads_the_same_in_all_three_forms(pin: [u8; 32]) {
            let pairs: Vec<String> = pin.iter().map(|byte| format!("{byte:02X}")).collect();
            prop_assert_eq!(parse_pin(&pairs.join(":")), Some(pin));
            prop_assert_eq!(parse_pin(&pairs.concat()), Some(pin));
            prop_assert_eq!(parse_pin(&STANDARD.encode(pin)), Some(pin));
        }

        #[test]
        fn any_text_as_address_or_pin_is_read_or_refused(text in "\\PC{0,100}") {
            let _ = parse_pin(&text);
            if let Some((host, port)) = parse_host_port(&text) {
                prop_assert!(!host.is_empty() && port > 0);
            }
        }
    }
}
