//! `ldap`: a search in an LDAP tree.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::endpoint::{Endpoint, LegSecurity, Scheme, check_url};
use super::template::Template;
use super::{Connections, RECORD_FIELDS, check_built, check_ca};
use crate::config::check::{Check, Entries, Keyword, Names, Text};
use crate::config::secret::{self, SecretSource};

const SCHEMES: &[Scheme] = &[("ldap", LegSecurity::Clear, 389), ("ldaps", LegSecurity::Tls, 636)];

/// Servers of one lookup at most.
const SERVERS_MAX: usize = 16;

/// A lookup by one search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapLookup {
    /// The servers, in the order in which they are tried.
    pub servers: Vec<Endpoint>,
    /// PEM file of the authorities that may sign their certificates; default: the system's.
    pub ca: Option<PathBuf>,
    /// Who signs in. Default: nobody.
    pub bind_dn: Option<String>,
    /// With what password.
    pub bind_password: Option<SecretSource>,
    /// Where the search begins. Default: the whole tree.
    pub base: String,
    /// How deep it goes. Default: all below.
    pub scope: LdapScope,
    /// The filter, in which names are escaped.
    pub filter: Template,
    /// Fields of a row, and the attributes that have them.
    pub attributes: Vec<(String, String)>,
    /// Bounds of the connections.
    pub connections: Connections,
}

/// How deep a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LdapScope {
    /// The base alone.
    Base,
    /// What is right below it.
    One,
    /// The base and all below it.
    Sub,
}

impl Keyword for LdapScope {
    const WORDS: &'static [(&'static str, Self)] =
        &[("base", Self::Base), ("one", Self::One), ("sub", Self::Sub)];
}

/// `ldap` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawLdap {
    urls: Option<Vec<Text>>,
    starttls: Option<Text>,
    ca: Option<Text>,
    bind_dn: Option<Text>,
    bind_password: Option<Text>,
    base: Option<Text>,
    scope: Option<Text>,
    filter: Option<Text>,
    attributes: Option<Spanned<Entries<Text>>>,
    allow_clear: Option<Text>,
    connect_timeout: Option<Text>,
    connections: Option<Text>,
}

impl RawLdap {
    pub(in crate::config) fn check(
        raw: &Spanned<Self>,
        check: &mut Check<'_>,
    ) -> Option<LdapLookup> {
        check_built(cfg!(feature = "ldap"), "ldap", raw, check);
        let Spanned { value: raw, defined: place, .. } = raw;
        let (timeout, most) = (raw.connect_timeout.as_ref(), raw.connections.as_ref());
        let connections = Connections::check(timeout, most, check);
        let scope = check.word("scope", raw.scope.as_ref(), LdapScope::Sub);
        let ca = check_ca(raw.ca.as_ref(), check);
        let bind_password = raw.check_password(check);
        let attributes = raw.check_attributes(*place, check);
        let expected = "`filter`: which entry is the user's, such as \"(mail=%u)\"";
        let filter = check.required("filter", raw.filter.as_ref(), *place, expected);
        let filter = filter.and_then(|filter| Template::check("filter", filter, check));
        let servers = raw.check_servers(*place, check);
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.value.clone());
        Some(LdapLookup {
            servers: servers?,
            ca,
            bind_dn: text(&raw.bind_dn),
            bind_password,
            base: text(&raw.base).unwrap_or_default(),
            scope,
            filter: filter?,
            attributes: attributes?,
            connections,
        })
    }

    /// A name without a password would sign in as nobody (RFC 4513 section 5.1.2).
    fn check_password(&self, check: &mut Check<'_>) -> Option<SecretSource> {
        let password =
            self.bind_password.as_ref().and_then(|text| secret::take("bind_password", text, check));
        match (&self.bind_dn, &self.bind_password) {
            (Some(name), None) => {
                let message = "`bind_dn` without `bind_password` signs nobody in";
                check.refuse(name.defined, message, "both or neither");
            }
            (None, Some(password)) => {
                let message = "`bind_password` without `bind_dn`";
                check.refuse(password.defined, message, "both or neither");
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        password
    }

    fn check_servers(&self, place: Location, check: &mut Check<'_>) -> Option<Vec<Endpoint>> {
        let expected = "`urls`: a list of servers such as ldaps://ldap1.example.org";
        let starttls = check.word("starttls", self.starttls.as_ref(), false);
        let allow_clear = check.word("allow_clear", self.allow_clear.as_ref(), false);
        let urls = check.required("urls", self.urls.as_ref(), place, expected)?;
        if urls.is_empty() || urls.len() > SERVERS_MAX {
            check.refuse(place, "`urls` has no servers, or more than 16", expected);
        }
        let mut servers = Vec::new();
        for url in urls {
            let Some((mut server, path)) = check_url("urls", url, SCHEMES, check) else {
                continue;
            };
            if !path.is_empty() && path != "/" {
                check.refuse_value("urls", url, "no path; `base` says where the search begins");
            }
            if starttls && server.security == LegSecurity::Clear {
                server.security = LegSecurity::StartTls;
            }
            server.check_clear(url, allow_clear, check);
            servers.push(server);
        }
        Some(servers)
    }

    fn check_attributes(
        &self,
        place: Location,
        check: &mut Check<'_>,
    ) -> Option<Vec<(String, String)>> {
        let expected = "`attributes`: fields and their attributes, such as { shard: mailShard }";
        let raw = check.required("attributes", self.attributes.as_ref(), place, expected)?;
        if raw.value.0.is_empty() {
            check.refuse(raw.defined, "`attributes` is empty", expected);
        }
        let mut names = Names::of("attribute");
        let mut attributes = Vec::new();
        for (field, attribute) in &raw.value.0 {
            let is_plain =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b';');
            if attribute.value.is_empty() || !attribute.value.bytes().all(is_plain) {
                check.refuse_value(&field.value, attribute, "the name of an attribute");
            }
            if !RECORD_FIELDS.contains(&field.value.as_str()) {
                let expected = format!("one of {}", RECORD_FIELDS.join(", "));
                check.refuse_value("attributes", field, expected);
            }
            names.take_any(check, attribute.value.to_ascii_lowercase(), attribute);
            attributes.push((field.value.clone(), attribute.value.clone()));
        }
        Some(attributes)
    }
}
