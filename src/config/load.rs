//! Reads, parses and checks a configuration file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, Location, MessageFormatter, Spanned, UserMessageFormatter};

use crate::config::check::{Check, Entries, Names};
use crate::config::dns::RawDns;
use crate::config::fault::{ConfigErrors, Fault, escaped, quoted};
use crate::config::health::{self, RawHealthCheck};
use crate::config::limits::RawLimits;
use crate::config::listener::{self, RawListener};
use crate::config::log::RawLog;
use crate::config::master::RawMaster;
use crate::config::mechanisms;
use crate::config::routing::{RawRouting, ShardNames};
use crate::config::service::{RawAdmin, RawShutdown, RawStore};
use crate::config::shard::{self, RawShard};
use crate::config::tls::RawTls;
use crate::config::upstream::RawUpstream;
use crate::config::{Config, Source};

/// Bytes of a configuration file at most: a hundred thousand backends fit.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Values and keys in one file at most, as for the bytes.
const NODES_MAX: usize = 10_000_000;

/// Depth of the known keys is 8; more is refused before it costs stack.
const DEPTH_MAX: usize = 24;

/// Values that aliases may add: enough for shared blocks, not for a bomb.
const ALIAS_EVENTS_MAX: usize = 1_000_000;

/// The whole file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    listeners: Option<Spanned<Vec<Spanned<RawListener>>>>,
    tls: Option<RawTls>,
    check: Option<Spanned<RawHealthCheck>>,
    shards: Option<Spanned<Entries<Spanned<RawShard>>>>,
    routing: Option<Spanned<RawRouting>>,
    master: Option<Spanned<RawMaster>>,
    limits: Option<RawLimits>,
    upstream: Option<RawUpstream>,
    dns: Option<RawDns>,
    admin: Option<RawAdmin>,
    store: Option<RawStore>,
    shutdown: Option<RawShutdown>,
    log: Option<RawLog>,
}

impl Config {
    /// Reads and checks a file. Opens nothing else: what the file names is opened by its
    /// users, who report through [`Source::fault`].
    ///
    /// # Errors
    /// All faults found, each with file, line, column and the faulty line; of a file that
    /// is no YAML or has unknown keys, the first.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = read(path).map_err(ConfigErrors::unreadable)?;
        Self::parse(path, &text)
    }

    /// Checks the text of a file named `path`; opens nothing.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        // Editors of other systems put a byte order mark there (YAML 1.2 section 5.2).
        let text = text.trim_start_matches('\u{feff}');
        let mut check = Check::new(path, text);
        let raw: Spanned<RawConfig> = serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| ConfigErrors::syntax(explain(&error, &check)))?;
        let config = raw.value.check(raw.defined, &mut check);
        match (check.finish(), config) {
            (Ok(source), Some(config)) => Ok(Self { source, ..config }),
            (Ok(_), None) => {
                let fault = Fault::whole_file(path, "the configuration is incomplete");
                Err(ConfigErrors::invalid(vec![fault], 0))
            }
            (Err((faults, left_out)), _) => Err(ConfigErrors::invalid(faults, left_out)),
        }
    }
}

impl RawConfig {
    /// All sections are checked, whatever is wrong with the former ones.
    fn check(self, place: Location, check: &mut Check<'_>) -> Option<Config> {
        let mut addresses = Names::of("address");
        let raw_tls = self.tls.unwrap_or_default();
        let certificates = raw_tls.certificate_count() > 0;
        let mut offered = Vec::new();
        let listeners =
            check.required("listeners", self.listeners, place, "a list of listeners").map(|raw| {
                if raw.value.is_empty() {
                    check.refuse(raw.defined, "no listeners", "at least one listener");
                }
                listener::check_all(raw.value, certificates, &mut addresses, &mut offered, check)
            });
        let tls = raw_tls.check(check);
        let checks = health::check(self.check, check);
        let shards =
            check.required("shards", self.shards, place, "a map of shards by name").map(|raw| {
                if raw.value.0.is_empty() {
                    check.refuse(raw.defined, "no shards", "at least one shard");
                }
                let names = raw.value.0.iter().map(|(name, _)| name.value.clone()).collect();
                (ShardNames::new(names), shard::check_all(raw.value, &checks, check))
            });
        if let Some((_, shards)) = &shards {
            mechanisms::check_finished(&offered, shards, check);
        }
        let known = shards.as_ref().map(|(names, _)| names);
        let routing = check
            .required("routing", self.routing, place, "`routing` with `lookups`")
            .and_then(|raw| raw.value.check(raw.defined, known?, check));
        let master = self.master.and_then(|raw| raw.value.check(raw.defined, check));
        let limits = self.limits.unwrap_or_default().check(check);
        let upstream = self.upstream.unwrap_or_default().check(check);
        let dns = self.dns.unwrap_or_default().check(check);
        let store = self.store.unwrap_or_default().check(check);
        let admin = self.admin.unwrap_or_default().check(&store, &mut addresses, check);
        let shutdown = self.shutdown.unwrap_or_default().check(check);
        let log = self.log.unwrap_or_default().check(check);
        Some(Config {
            listeners: listeners?,
            tls,
            shards: shards?.1,
            routing: routing?,
            master,
            limits,
            upstream,
            dns,
            admin,
            store,
            shutdown,
            log,
            source: Source::default(),
        })
    }
}

fn read(path: &Path) -> Result<String, Fault> {
    let unreadable = |error| Fault::whole_file(path, format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read > FILE_BYTES_MAX) {
        return Err(Fault::whole_file(path, format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default());
        let last = before.rsplit('\n').next().unwrap_or_default();
        Fault::whole_file(path, "a byte that is not UTF-8")
            .at(before.matches('\n').count() + 1, last.chars().count() + 1, last)
            .expecting("text in UTF-8")
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 2,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIAS_EVENTS_MAX,
        },
        // Their number would be bounded otherwise, and nobody reads them.
        emit_comments: false,
        // Snippets are drawn here, the same for all faults.
        with_snippet: false,
        reject_unsupported_tags: true,
    }
}

/// The parser's error in the words of this product.
fn explain(error: &Error, check: &Check<'_>) -> Fault {
    let message_only = UserMessageFormatter.format_message(error).into_owned();
    let (message, expected) = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let keys: Vec<String> = expected.iter().map(|key| format!("`{key}`")).collect();
            (format!("unknown key {}", quoted(field)), Some(format!("one of {}", keys.join(", "))))
        }
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("?");
            (format!("{} is there twice", quoted(key)), Some("each key once".to_owned()))
        }
        Error::Unexpected { expected, .. } => {
            ("this kind of value does not fit here".to_owned(), Some(kind_name(expected)))
        }
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            (format!("{unexpected} does not fit here"), Some(kind_name(expected)))
        }
        Error::NullIntoString { .. } => ("an empty value".to_owned(), Some("one value".to_owned())),
        Error::MultipleDocuments { .. }
        | Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            ("a second YAML document".to_owned(), Some("one document a file".to_owned()))
        }
        Error::Budget { .. } => (
            "too large or nested too deeply".to_owned(),
            Some(format!("{DEPTH_MAX} levels at most")),
        ),
        Error::Eof { .. } => ("the file ends here".to_owned(), Some("a configuration".to_owned())),
        _ => (message_only, None),
    };
    let place = error.location().unwrap_or(Location::UNKNOWN);
    let fault = check.fault_at(place, escaped(&message));
    match expected {
        Some(expected) => fault.expecting(expected),
        None => fault,
    }
}

/// The parser's name of a kind of node, for operators.
fn kind_name(expected: &str) -> String {
    if expected.contains("sequence") {
        "a list".to_owned()
    } else if expected.contains("map") {
        "a map of keys".to_owned()
    } else if expected.contains("string") || expected.contains("scalar") {
        "one value".to_owned()
    } else {
        expected.to_owned()
    }
}
