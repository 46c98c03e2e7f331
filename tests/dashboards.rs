//! Boards, alert rules and `docs/metrics.md` speak of metrics that exist, by labels and
//! label values that they have; and no metric goes undescribed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its files are not as they must be"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use pointsman::metrics::{
    BackendState, CommandStatus, Direction, Limit, LoginMechanism, LoginResult, LookupResult,
    LookupSource, Metrics, Stage,
};
use pointsman::names::{BackendId, ShardId};
use pointsman::protocol::command_kind::CommandKind;

/// Labels that Prometheus itself adds, and the one of histogram buckets.
const LABELS_OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

/// A metric family as a scrape shows it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// Label names, each with the values seen.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Every family, each label of a closed set with all its values.
fn families() -> BTreeMap<String, Family> {
    let metrics = Metrics::register().unwrap();
    touch(&metrics);
    let text = metrics.encode().unwrap();
    let mut families = BTreeMap::<String, Family>::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            families.insert(name.to_owned(), Family { kind: kind.to_owned(), ..Family::default() });
        } else if !line.starts_with('#') {
            let series = line.rsplit_once(' ').unwrap().0;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let family = families.get_mut(family_name(name, &families)).unwrap();
            for pair in labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty()) {
                let (label, value) = pair.split_once('=').unwrap();
                let values = family.labels.entry(label.to_owned()).or_default();
                values.insert(value.trim_matches('"').to_owned());
            }
        }
    }
    families
}

fn touch(metrics: &Metrics) {
    let instant = Duration::from_millis(1);
    let (shard, backend) = (ShardId::new("north"), BackendId::new("n1"));
    let north = metrics.shard(&shard);
    for kind in CommandKind::ALL {
        north.first_byte(kind, instant);
        for &status in CommandStatus::ALL {
            north.command_finished(kind, status, Some(instant));
        }
    }
    for &direction in Direction::ALL {
        north.relayed(direction, 1);
    }
    let n1 = metrics.backend(&shard, &backend);
    n1.set_up(true);
    n1.connected(instant);
    n1.failed("timeout");
    n1.checked("ok");
    n1.fenced("ok");
    n1.looked_for_warm("hit");
    n1.set_warm(1);
    n1.set_state(BackendState::Up);
    north.set_capabilities_differ(false);
    let imaps = metrics.listener("imaps");
    for &mechanism in LoginMechanism::ALL {
        for &result in LoginResult::ALL {
            imaps.login(mechanism, result);
        }
    }
    for &stage in Stage::ALL {
        metrics.logins.stage(stage, instant);
    }
    for &source in LookupSource::ALL {
        metrics.logins.breakers(source);
        for &result in LookupResult::ALL {
            metrics.logins.lookup(source, result, instant);
        }
    }
    for &limit in Limit::ALL {
        metrics.sessions.limit_hit(limit);
    }
    metrics.sessions.closed("client_gone");
    metrics.sessions.client_error("bad_syntax");
    metrics.config.started(1, UNIX_EPOCH);
    metrics.config.reload_applied(2, UNIX_EPOCH);
    metrics.config.reload_refused();
    metrics.config.users_map_refused();
    metrics.config.set_certificates([("mail.pem", 1)]);
}

/// The family that a series belongs to: histograms have three suffixes.
fn family_name<'n>(series: &'n str, families: &BTreeMap<String, Family>) -> &'n str {
    let is_histogram = |name: &str| families.get(name).is_some_and(|f| f.kind == "histogram");
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| series.strip_suffix(suffix).filter(|name| is_histogram(name)))
        .unwrap_or(series)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dashboards(extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    assert!(!found.is_empty(), "no dashboards/*.{extension}");
    found
}

/// Every string under the key `key`, at any depth.
fn strings_under(value: &serde_json::Value, key: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if name == key => found.push(text.to_owned()),
                    _ => strings_under(field, key, found),
                }
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                strings_under(item, key, found);
            }
        }
        _ => {}
    }
}

/// The words of an expression, each with the place behind it.
fn words(expression: &str) -> impl Iterator<Item = (&str, usize)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression.split(move |c| !is_word(c)).filter(|word| !word.is_empty()).map(move |word| {
        let at = word.as_ptr().addr() - expression.as_ptr().addr();
        (word, at + word.len())
    })
}

fn is_metric_name(word: &str) -> bool {
    word.starts_with("pointsman_") || word.starts_with("process_")
}

fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    words(text).map(|(word, _)| word).filter(|word| is_metric_name(word))
}

/// Checks the metric names, labels and label values of a query; returns the families named.
fn check_query(
    query: &str,
    families: &BTreeMap<String, Family>,
) -> Result<BTreeSet<String>, String> {
    let mut named = BTreeSet::new();
    for (word, end) in words(query) {
        if !is_metric_name(word) {
            continue;
        }
        let name = family_name(word, families);
        let family = families.get(name).ok_or_else(|| format!("no metric {word}"))?;
        if family.kind == "histogram" && name == word {
            return Err(format!("histogram {word} without _bucket, _sum or _count"));
        }
        named.insert(name.to_owned());
        if let Some(matchers) = query[end..].strip_prefix('{') {
            check_matchers(&matchers[..matchers.find('}').unwrap()], family)?;
        }
    }
    let known = |label: &str| {
        LABELS_OF_PROMETHEUS.contains(&label)
            || named.iter().any(|name| families[name].labels.contains_key(label))
    };
    for grouping in query.split(" by (").skip(1) {
        for label in grouping[..grouping.find(')').unwrap()].split(',').map(str::trim) {
            if !known(label) {
                return Err(format!("grouped by {label}, which {named:?} do not have"));
            }
        }
    }
    Ok(named)
}

fn check_matchers(matchers: &str, family: &Family) -> Result<(), String> {
    for matcher in matchers.split("\",").filter(|matcher| !matcher.is_empty()) {
        let (label, value) = matcher.split_once('=').ok_or("a matcher without =")?;
        let label = label.trim_end_matches('!').trim();
        if LABELS_OF_PROMETHEUS.contains(&label) {
            continue;
        }
        let values = family.labels.get(label).ok_or_else(|| format!("no label {label}"))?;
        for value in value.trim_matches(['~', '"']).split('|').filter(|v| !v.starts_with('$')) {
            if !values.contains(value) {
                return Err(format!("label {label} is never {value}"));
            }
        }
    }
    Ok(())
}

#[test]
fn boards_ask_only_for_what_exists() {
    let families = families();
    for path in dashboards("json") {
        let board: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
        let mut queries = Vec::new();
        strings_under(&board["panels"], "expr", &mut queries);
        strings_under(&board["annotations"], "expr", &mut queries);
        strings_under(&board["templating"], "query", &mut queries);
        let mut named = BTreeSet::new();
        for query in queries {
            named.extend(check_query(&query, &families).unwrap_or_else(|fault| {
                panic!("{}: {fault}\n  {query}", path.display());
            }));
        }
        assert!(named.len() > 10, "{}: only {named:?}", path.display());
    }
}

#[test]
fn the_overview_shows_every_metric_of_the_proxy() {
    let families = families();
    let board: serde_json::Value =
        serde_json::from_str(&read("dashboards/pointsman-overview.json")).unwrap();
    let mut queries = Vec::new();
    strings_under(&board["panels"], "expr", &mut queries);
    let shown: BTreeSet<_> =
        queries.iter().flat_map(|query| check_query(query, &families).unwrap()).collect();
    let missing: Vec<_> =
        families.keys().filter(|n| n.starts_with("pointsman_") && !shown.contains(*n)).collect();
    assert!(missing.is_empty(), "not on the board: {missing:?}");
}

#[test]
fn a_boards_panels_have_ids_of_their_own_and_a_data_source_to_choose() {
    for path in dashboards("json") {
        let board: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
        assert!(board["schemaVersion"].as_u64().unwrap() >= 38, "older than Grafana 10");
        let variables = board["templating"]["list"].as_array().unwrap();
        assert!(variables.iter().any(|v| v["name"] == "datasource" && v["type"] == "datasource"));
        let panels = board["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len());
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            }
        }
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    groups: Vec<RuleGroup>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleGroup {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(default, rename = "for")]
    lasting: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[test]
fn alert_rules_ask_only_for_what_exists_and_say_what_to_do() {
    let families = families();
    for path in dashboards("yml") {
        let file: RuleFile = serde_saphyr::from_str(&read(&path)).unwrap();
        let mut alerts = BTreeSet::new();
        for rule in file.groups.iter().flat_map(|group| &group.rules) {
            let named = check_query(&rule.expr, &families);
            let named = named.unwrap_or_else(|fault| panic!("{}: {fault}", rule.alert));
            assert!(!named.is_empty(), "{} asks for nothing of the proxy", rule.alert);
            assert!(alerts.insert(&rule.alert), "{} stands twice", rule.alert);
            let severity = rule.labels.get("severity").map(String::as_str);
            assert!(matches!(severity, Some("critical" | "warning")), "{}", rule.alert);
            for said in ["summary", "description"] {
                let text = rule.annotations.get(said).unwrap_or_else(|| panic!("{}", rule.alert));
                let unknown = metric_names(text).find(|word| {
                    let name = family_name(word, &families);
                    !families.contains_key(name)
                });
                assert_eq!(unknown, None, "{}: no such metric", rule.alert);
            }
            let lasting = rule.lasting.as_deref().unwrap_or("0m");
            assert!(lasting.ends_with(['m', 'h']), "{}: for {lasting}", rule.alert);
        }
        assert!(file.groups.iter().all(|group| group.name.starts_with("pointsman-")));
    }
}

/// The rows `| name | type | labels | meaning |` of the metric tables.
fn described() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let document = read("docs/metrics.md");
    let mut rows = BTreeMap::new();
    for line in document.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind @ ("counter" | "gauge" | "histogram"), labels, meaning, _] = cells[..]
        else {
            continue;
        };
        assert!(meaning.len() > 5, "{name} without a meaning");
        let name = name.trim_matches('`').to_owned();
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        assert!(rows.insert(name.clone(), (kind.to_owned(), labels)).is_none(), "{name} twice");
    }
    rows
}

#[test]
fn every_metric_is_described_with_its_type_and_labels_and_nothing_else_is() {
    let shown: BTreeMap<_, _> = families()
        .into_iter()
        .map(|(name, family)| {
            let labels = family.labels.into_keys().filter(|label| label != "le").collect();
            (name, (family.kind, labels))
        })
        .collect();
    assert_eq!(described(), shown);
}

#[test]
fn every_word_of_a_closed_set_is_described() {
    let document = read("docs/metrics.md");
    let words = CommandKind::ALL.iter().map(|kind| kind.label()).chain(
        families()
            .into_iter()
            .filter(|(name, _)| name.starts_with("pointsman_"))
            .flat_map(|(_, family)| family.labels)
            .filter(|(label, _)| {
                let closed =
                    ["status", "direction", "mechanism", "result", "stage", "source", "limit"];
                closed.contains(&label.as_str())
            })
            .flat_map(|(_, values)| values)
            .map(|value| &*value.leak()),
    );
    let missing: BTreeSet<_> = words.filter(|w| !document.contains(&format!("`{w}`"))).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
}

#[test]
fn a_query_for_something_else_is_noticed() {
    let families = families();
    for (query, fault) in [
        ("pointsman_no_such_metric", "no metric"),
        ("rate(pointsman_command_seconds[5m])", "without _bucket"),
        (r#"pointsman_logins_total{user="x"}"#, "no label user"),
        (r#"pointsman_logins_total{result=~"ok|fine"}"#, "never fine"),
        ("sum by (shard) (pointsman_logins_total)", "grouped by shard"),
    ] {
        assert!(check_query(query, &families).unwrap_err().contains(fault), "{query}");
    }
}
