//! `listeners`: where clients connect.

use std::net::SocketAddr;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::config::check::{Check, Keyword, Names, Text};
use crate::config::limits::SESSIONS_MAX;
use crate::config::mechanisms::{self, Offered};
use crate::config::network::Network;
use crate::config::source::Object;
use crate::sasl::Mechanism;

const ADDRESS_FORM: &str = "an IP address and a port such as \"[::]:993\" or \"127.0.0.1:143\"";

/// One listening address. Applied at start; a reload that adds, removes or changes
/// the address of one opens and closes sockets accordingly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name for metrics and logs, unique.
    pub name: String,
    /// Address and port, e.g. `[::]:993` (then also IPv4). Port 0: the system chooses.
    pub address: SocketAddr,
    /// How the connection is encrypted.
    pub tls: TlsMode,
    /// Whether a PROXY protocol header comes first. Default: none.
    pub proxy_protocol: ProxyProtocol,
    /// Networks whose PROXY header is believed; others are refused.
    pub trusted: Vec<Network>,
    /// Whether a PROXY v2 TLV saying "client is on TLS" counts as TLS. Default false.
    pub trust_tls: bool,
    /// Networks of proxies in front that sign in for clients: what their first ID says of
    /// the client (`x-originating-ip` and so on) is believed. Default: none.
    pub id_trusted: Vec<Network>,
    /// SASL mechanisms to offer, which every shard can finish. Default `[PLAIN]`.
    pub mechanisms: Vec<Mechanism>,
    /// Whether a login in clear text is taken. Default false.
    pub allow_clear_login: bool,
    /// Most connections at once, before and after login. Default: none but the descriptors.
    pub sessions_max: Option<u32>,
}

/// How a connection is encrypted, for listeners and backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// TLS from the first byte.
    Implicit,
    /// Clear text, then STARTTLS. Towards a backend it is required, never a hint.
    Starttls,
    /// Clear text.
    None,
}

impl Keyword for TlsMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("implicit", Self::Implicit), ("starttls", Self::Starttls), ("none", Self::None)];
}

/// Whether a listener expects the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// No header; one that comes is a bad command.
    None,
    /// Every connection must begin with one (v1 or v2).
    Required,
}

impl Keyword for ProxyProtocol {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("required", Self::Required)];
}

/// A listener as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    name: Option<Text>,
    address: Option<Text>,
    tls: Option<Text>,
    proxy_protocol: Option<Text>,
    trusted: Option<Vec<Text>>,
    trust_tls: Option<Text>,
    id_trusted: Option<Vec<Text>>,
    mechanisms: Option<Vec<Text>>,
    allow_clear_login: Option<Text>,
    sessions_max: Option<Text>,
}

/// Checks all listeners. `certificates` says whether any are configured; `addresses`
/// holds what is listened on, `offered` takes what clients may choose.
pub(super) fn check_all(
    raw: Vec<Spanned<RawListener>>,
    certificates: bool,
    addresses: &mut Names,
    offered: &mut Vec<Offered>,
    check: &mut Check<'_>,
) -> Vec<Listener> {
    let mut names = Names::of("listener");
    let mut listeners = Vec::new();
    for Spanned { value: raw, defined: place, .. } in raw {
        if let Some(name) = &raw.name {
            names.take(check, name);
        }
        if let Some(mode) = raw.tls.as_ref().filter(|mode| mode.value != "none" && !certificates) {
            let message = format!("`tls: {}` without any certificate", mode.value.escape_debug());
            check.refuse(mode.defined, message, "at least one entry in `tls.certificates`");
        }
        listeners.extend(raw.check(place, addresses, offered, check));
    }
    listeners
}

impl RawListener {
    fn check(
        self,
        place: Location,
        addresses: &mut Names,
        offered: &mut Vec<Offered>,
        check: &mut Check<'_>,
    ) -> Option<Listener> {
        let name = check.required("name", self.name.as_ref(), place, "a name for this listener");
        let tls = check.required_word("tls", self.tls.as_ref(), place);
        let proxy_protocol =
            check.word("proxy_protocol", self.proxy_protocol.as_ref(), ProxyProtocol::None);
        self.check_trust(proxy_protocol, place, check);
        let trusted = check.networks("trusted", self.trusted.as_deref());
        let trust_tls = check.word("trust_tls", self.trust_tls.as_ref(), false);
        let id_trusted = check.networks("id_trusted", self.id_trusted.as_deref());
        let mechanisms = match self.mechanisms.as_deref() {
            Some(texts) => mechanisms::check_list(texts, check),
            None => vec![(Mechanism::Plain, place)],
        };
        offered.extend(&mechanisms);
        let mechanisms = mechanisms.into_iter().map(|(mechanism, _)| mechanism).collect();
        let allow_clear_login =
            check.word("allow_clear_login", self.allow_clear_login.as_ref(), false);
        let sessions_max = check_sessions_max(self.sessions_max.as_ref(), check);
        let address = check.required("address", self.address.as_ref(), place, ADDRESS_FORM)?;
        let address = check_address("address", address, addresses, check)?;
        check.listens_on(address);
        let name = name?.value.clone();
        check.remember(Object::Listener(name.clone()), place);
        Some(Listener {
            name,
            address,
            tls: tls?,
            proxy_protocol,
            trusted,
            trust_tls,
            id_trusted,
            mechanisms,
            allow_clear_login,
            sessions_max,
        })
    }

    /// The PROXY protocol and the networks that may use it come together or not at all.
    fn check_trust(&self, proxy_protocol: ProxyProtocol, place: Location, check: &mut Check<'_>) {
        let trusted = self.trusted.as_deref().unwrap_or_default();
        match (proxy_protocol, trusted.first()) {
            (ProxyProtocol::Required, None) => {
                let place = self.proxy_protocol.as_ref().map_or(place, |text| text.defined);
                let expected = "`trusted`: the networks of the balancers that send the header";
                check.refuse(place, "`proxy_protocol: required` without `trusted`", expected);
            }
            (ProxyProtocol::None, Some(first)) => {
                let expected = "`proxy_protocol: required`, or no `trusted`";
                check.refuse(first.defined, "`trusted` without the PROXY protocol", expected);
            }
            _ => {}
        }
        let believes = self.trust_tls.as_ref().filter(|text| text.value == "true");
        if let (ProxyProtocol::None, Some(text)) = (proxy_protocol, believes) {
            let expected = "`proxy_protocol: required`, or no `trust_tls`";
            check.refuse(text.defined, "`trust_tls` without the PROXY protocol", expected);
        }
    }
}

fn check_sessions_max(text: Option<&Text>, check: &mut Check<'_>) -> Option<u32> {
    let text = text.filter(|text| text.value != "none")?;
    Some(check.number("sessions_max", Some(text), 1..=SESSIONS_MAX, SESSIONS_MAX))
}

/// An address to listen on that nothing else listens on.
pub(super) fn check_address(
    key: &str,
    text: &Text,
    addresses: &mut Names,
    check: &mut Check<'_>,
) -> Option<SocketAddr> {
    let address: Option<SocketAddr> = text.value.parse().ok();
    let Some(address) = address else {
        check.refuse_value(key, text, ADDRESS_FORM);
        return None;
    };
    if address.port() != 0 {
        addresses.take_any(check, address.to_string(), text);
    }
    Some(address)
}
