//! What a directory has about a user: fields by name, as Dovecot calls them, and what they
//! mean here. Nothing in them is believed that the configuration does not know.

use std::time::{Duration, SystemTime};

use super::places::{Places, broken, quoted};
use crate::names::ShardId;
use crate::routing::query::{FailureReason, Found, Login, SourceFailure, SourceResult};

/// Fields of one record at most.
const FIELDS_MAX: usize = 64;

/// Bytes of one value at most: the longest user name fits well.
pub(super) const VALUE_BYTES_MAX: usize = 1024;

/// The longest time to connect that a record may ask for.
const PROXY_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The most seconds that `delay_until` may add by chance.
const DELAY_SPREAD_MAX: u64 = 300;

/// The fields of one user, each once.
#[derive(Debug, Default)]
pub(super) struct Record {
    shard: Option<String>,
    host: Option<String>,
    host_address: Option<String>,
    port: Option<String>,
    encrypted: bool,
    user: Option<String>,
    login_user: Option<String>,
    routing_key: Option<String>,
    connect_timeout: Option<String>,
    delay_until: Option<String>,
    refused: bool,
    reason: Option<String>,
    names: Vec<String>,
}

impl Record {
    /// Takes a field. One without a value (SQL's NULL) is as if it were not there.
    pub(super) fn take(&mut self, name: &str, value: Option<String>) -> Result<(), SourceFailure> {
        let name = name.to_ascii_lowercase();
        if self.names.contains(&name) {
            return Err(broken(format!("the field {} is there twice", quoted(&name))));
        }
        if self.names.len() == FIELDS_MAX {
            return Err(broken(format!("more than {FIELDS_MAX} fields")));
        }
        self.names.push(name.clone());
        let Some(value) = value else { return Ok(()) };
        if value.len() > VALUE_BYTES_MAX {
            return Err(too_large(&name));
        }
        self.set(&name, value)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), SourceFailure> {
        let place = match name {
            "shard" => &mut self.shard,
            "host" => &mut self.host,
            "hostip" => &mut self.host_address,
            "port" => &mut self.port,
            "user" => &mut self.user,
            "destuser" => &mut self.login_user,
            "routing_key" => &mut self.routing_key,
            "proxy_timeout" => &mut self.connect_timeout,
            "delay_until" => &mut self.delay_until,
            "reason" => &mut self.reason,
            "ssl" | "starttls" => {
                self.encrypted |= is_encrypted(name, &value)?;
                return Ok(());
            }
            "nologin" => {
                self.refused = is_yes(&value);
                return Ok(());
            }
            // Whether to be a proxy, and whether to believe a backend, is no question here.
            "proxy" | "proxy_maybe" | "proxy_always" | "proxy_refresh" | "proxy_not_trusted"
            | "nodelay" => return Ok(()),
            "protocol" if value.eq_ignore_ascii_case("imap") => return Ok(()),
            name if name.starts_with("userdb_") => return Ok(()),
            name if signs_in(name) => return Err(credentials(name)),
            _ => return Err(broken(format!("the field {} means nothing here", quoted(name)))),
        };
        *place = Some(value);
        Ok(())
    }

    /// What the record says. One without any field is no user.
    pub(super) fn found(self, places: &Places) -> SourceResult {
        if self.refused {
            let reason = self.reason.as_deref().unwrap_or("no reason is given");
            let detail = format!("the directory has `nologin`: {}", quoted(reason));
            return Err(SourceFailure::new(FailureReason::Refused, detail));
        }
        let mut found = Found::on(self.find_shard(places)?);
        found.by_host = self.host.is_some() || self.host_address.is_some();
        let named = |field: &str, name: &Option<String>| {
            let name = name.as_deref().map(|name| places.user(name)).transpose();
            name.map_err(|error| broken(format!("`{field}`: {error}")))
        };
        found.user = named("user", &self.user)?;
        found.routing_key = named("routing_key", &self.routing_key)?;
        if let Some(name) = self.login_user {
            places.user(&name).map_err(|error| broken(format!("`destuser`: {error}")))?;
            found.login = Some(Login { user: name.into_bytes(), password: None });
        }
        found.connect_timeout = self.connect_timeout.as_deref().map(parse_timeout).transpose()?;
        found.not_before = self.delay_until.as_deref().map(parse_delay).transpose()?;
        Ok(Some(found))
    }

    fn find_shard(&self, places: &Places) -> Result<ShardId, SourceFailure> {
        let port = self.port.as_deref().map(parse_port).transpose()?;
        // As in Dovecot: the address is where to connect, the name is for the certificate.
        let host = self.host_address.as_ref().or(self.host.as_ref());
        let by_host = match (host, &self.host_address, &self.host) {
            (Some(_), Some(address), Some(name)) => {
                let by_name = places.shard_at(name, port, self.encrypted);
                Some(by_name.or_else(|_| places.shard_at(address, port, self.encrypted))?)
            }
            (Some(host), ..) => Some(places.shard_at(host, port, self.encrypted)?),
            (None, ..) => None,
        };
        let by_name = self.shard.as_deref().map(|name| places.shard(name)).transpose()?;
        match (by_name, by_host) {
            (Some(named), Some(hosting)) if named != hosting => {
                Err(broken(format!("`host` is in the shard {hosting}, `shard` says {named}")))
            }
            (Some(shard), _) | (None, Some(shard)) => Ok(shard),
            (None, None) => Err(broken("it has neither `shard` nor `host`")),
        }
    }
}

/// A value that nothing here can need.
pub(super) fn too_large(name: &str) -> SourceFailure {
    let detail = format!("the field {} has more than {VALUE_BYTES_MAX} bytes", quoted(name));
    SourceFailure::new(FailureReason::TooLarge, detail)
}

/// Fields that sign in without the user's own password, or give one away.
fn signs_in(name: &str) -> bool {
    matches!(name, "password" | "pass" | "nopassword" | "master" | "master_user" | "proxy_noauth")
        || name.starts_with("proxy_master")
        || name == "proxy_mech"
}

fn credentials(name: &str) -> SourceFailure {
    broken(format!(
        "the field `{name}` is about credentials, and nobody has checked the user's: \
         the backend gets what the client sent; leave the field out"
    ))
}

fn is_encrypted(name: &str, value: &str) -> Result<bool, SourceFailure> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "y" | "any-cert" | "true" | "t" | "1" => Ok(true),
        "no" | "n" | "false" | "f" | "0" | "" => Ok(false),
        other => Err(broken(format!("`{name}` cannot be {}", quoted(other)))),
    }
}

/// Dovecot's flags hold by being there; the databases' booleans may say no.
fn is_yes(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "n" | "no" | "f" | "false" | "0")
}

fn parse_port(text: &str) -> Result<u16, SourceFailure> {
    let port = digits(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| broken(format!("`port` cannot be {}", quoted(text))))
}

/// Seconds, or a number with Dovecot's units.
fn parse_timeout(text: &str) -> Result<Duration, SourceFailure> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let milliseconds = match unit.trim() {
        "" | "s" | "sec" | "secs" | "second" | "seconds" => Some(1000),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => Some(1),
        "min" | "mins" | "minute" | "minutes" => Some(60_000),
        _ => None,
    };
    let time = digits(number)
        .zip(milliseconds)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .map(Duration::from_millis)
        .filter(|time| !time.is_zero() && *time <= PROXY_TIMEOUT_MAX);
    time.ok_or_else(|| broken(format!("`proxy_timeout` cannot be {}", quoted(text))))
}

/// `unix-time ["+" seconds]`: the login waits until then, and for up to so many seconds more.
fn parse_delay(text: &str) -> Result<SystemTime, SourceFailure> {
    let (time, spread) = text.split_once('+').unwrap_or((text, "0"));
    let parsed = digits(time).zip(digits(spread).filter(|spread| *spread <= DELAY_SPREAD_MAX));
    let moment = parsed.and_then(|(time, spread)| {
        let seconds = time.checked_add(fastrand::u64(0..=spread))?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    });
    moment.ok_or_else(|| broken(format!("`delay_until` cannot be {}", quoted(text))))
}

/// Digits alone: no sign, no blanks.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::net::resolve::Addresses;

    fn places() -> Places {
        let text = "\
listeners: [ { name: i, address: \"127.0.0.1:143\", tls: none } ]
shards:
  north: { kind: shared, backends: [
    { name: n1, address: \"n1.internal:993\", tls: implicit },
    { name: n2, address: \"[2001:db8::1]:143\", tls: starttls } ] }
  south: { kind: primary, backends: [
    { name: s1, address: \"10.0.2.1:143\", tls: none },
    { name: s2, address: \"both.internal:143\", tls: none } ] }
  west: { kind: primary, backends: [ { name: w1, address: \"both.internal:993\", tls: implicit } ] }
routing: { lookups: [ { shard: north } ] }
";
        Places::of(&Config::parse(Path::new("p.yaml"), text).unwrap(), &Addresses::fixed)
    }

    fn found(fields: &[(&str, &str)]) -> SourceResult {
        let mut record = Record::default();
        for (name, value) in fields {
            record.take(name, Some((*value).to_owned()))?;
        }
        record.found(&places())
    }

    fn shard(fields: &[(&str, &str)]) -> String {
        found(fields).unwrap().unwrap().shard.to_string()
    }

    fn reason(fields: &[(&str, &str)]) -> FailureReason {
        found(fields).unwrap_err().reason
    }

    #[test]
    fn a_shard_or_a_backends_host_says_where_the_user_is() {
        assert_eq!(shard(&[("SHARD", "south")]), "south");
        assert_eq!(shard(&[("host", "N1.internal.")]), "north");
        assert_eq!(shard(&[("host", "2001:DB8:0::1"), ("port", "143")]), "north");
        assert_eq!(shard(&[("host", "mail"), ("hostip", "::ffff:10.0.2.1")]), "south");
        assert_eq!(shard(&[("host", "both.internal"), ("port", "993")]), "west");
        assert_eq!(shard(&[("shard", "north"), ("host", "n1.internal")]), "north");
    }

    #[test]
    fn places_that_are_not_configured_or_disagree_are_refused() {
        assert_eq!(reason(&[("shard", "nowhere")]), FailureReason::UnknownShard);
        assert_eq!(reason(&[("host", "evil.example")]), FailureReason::UnknownBackend);
        assert_eq!(
            reason(&[("host", "n1.internal"), ("port", "1")]),
            FailureReason::UnknownBackend
        );
        let broken: [&[(&str, &str)]; 6] = [
            &[],
            &[("shard", "north"), ("host", "10.0.2.1")],
            &[("host", "both.internal")],
            &[("host", "10.0.2.1"), ("ssl", "yes")],
            &[("host", "10.0.2.1"), ("port", "+143")],
            &[("shard", "north"), ("shard", "north")],
        ];
        for fields in broken {
            assert_eq!(reason(fields), FailureReason::BrokenRow, "{fields:?}");
        }
    }

    #[test]
    fn dovecots_fields_are_understood() {
        let all = found(&[("proxy", "y"), ("nopassword_", "")]);
        assert_eq!(all.unwrap_err().reason, FailureReason::BrokenRow);
        let found = found(&[
            ("proxy_maybe", "y"),
            ("host", "n1.internal"),
            ("port", "993"),
            ("ssl", "any-cert"),
            ("user", "Bob"),
            ("destuser", "Bob.Old"),
            ("routing_key", "Family"),
            ("proxy_timeout", "1500 msecs"),
            ("delay_until", "1700000000+30"),
            ("nologin", "n"),
            ("userdb_uid", "1000"),
            ("protocol", "imap"),
        ])
        .unwrap()
        .unwrap();
        assert!(found.by_host);
        assert_eq!(found.user.unwrap().as_str(), "bob");
        assert_eq!(found.routing_key.unwrap().as_str(), "family");
        let login = Login { user: b"Bob.Old".to_vec(), password: None };
        assert_eq!(found.login, Some(login));
        assert_eq!(found.connect_timeout, Some(Duration::from_millis(1500)));
        let delay = found.not_before.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!((1_700_000_000..=1_700_000_030).contains(&delay.as_secs()));
    }

    #[test]
    fn a_user_who_may_not_log_in_is_refused_and_not_unknown() {
        for value in ["", "y", "1", "account closed"] {
            let fields = [("shard", "north"), ("nologin", value)];
            assert_eq!(reason(&fields), FailureReason::Refused, "{value}");
        }
        let shown = found(&[("nologin", "y"), ("reason", "moved\r\nx")]).unwrap_err().detail;
        assert!(shown.contains(r"moved\r\nx"), "{shown}");
    }

    #[test]
    fn credentials_that_nobody_checked_are_refused() {
        let fields =
            ["password", "pass", "nopassword", "master", "master_user", "proxy_master_pass"];
        for field in fields {
            let failure = found(&[("shard", "north"), (field, "hunter2")]).unwrap_err();
            assert_eq!(failure.reason, FailureReason::BrokenRow, "{field}");
            assert!(!failure.detail.contains("hunter2"), "{failure}");
        }
    }

    #[test]
    fn values_out_of_their_form_are_refused() {
        let odd = [
            ("port", "0"),
            ("port", "65536"),
            ("port", " 143"),
            ("ssl", "maybe"),
            ("proxy_timeout", "0"),
            ("proxy_timeout", "1h"),
            ("proxy_timeout", "99999999999999999999"),
            ("delay_until", "soon"),
            ("delay_until", "1+99999"),
            ("user", "a\r\nb"),
            ("user", ""),
            ("destuser", "a\0b"),
            ("routing_key", "a b"),
            ("protocol", "pop3"),
            ("shrad", "north"),
        ];
        for (field, value) in odd {
            let fields = [("shard", "north"), (field, value)];
            assert_eq!(reason(&fields), FailureReason::BrokenRow, "{field}={value:?}");
        }
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        assert_eq!(reason(&[("shard", &long)]), FailureReason::TooLarge);
    }

    #[test]
    fn nothing_is_as_if_it_were_not_there() {
        let mut record = Record::default();
        record.take("shard", Some("north".to_owned())).unwrap();
        for field in ["host", "password", "nologin", "anything"] {
            record.take(field, None).unwrap();
        }
        let found = record.found(&places()).unwrap().unwrap();
        assert_eq!((found.shard.as_str(), found.by_host), ("north", false));
    }

    proptest! {
        #[test]
        fn whatever_a_directory_says_leads_to_a_configured_shard_or_nowhere(
            fields in prop::collection::vec(("[a-z_]{0,9}|shard|host|port|user", "\\PC{0,20}|north|143"), 0..5),
        ) {
            let places = places();
            let mut record = Record::default();
            let taken: Result<Vec<()>, _> = fields
                .into_iter()
                .map(|(name, value)| record.take(&name, Some(value)))
                .collect();
            if let (Ok(_), Ok(Some(found))) = (taken, record.found(&places)) {
                prop_assert!(places.shard(found.shard.as_str()).is_ok());
            }
        }
    }
}
