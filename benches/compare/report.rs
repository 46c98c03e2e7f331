//! Medians over the rounds, ratios between the proxies, as a table and as JSON.

use std::fmt::Write as _;

use crate::machine::Machine;
use crate::proxies::{Kind, WORKERS};
use crate::sample::{STALLS, Sample, Samples, median};
use crate::wire;

/// All samples, by metric and proxy.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// Measurements that failed, in words.
    failures: Vec<String>,
}

/// One metric of one work.
struct Row {
    work: String,
    metric: String,
    unit: &'static str,
    values: Vec<(Kind, Vec<f64>)>,
}

/// A promise of the project about its own figures.
pub(crate) struct Bar {
    /// The promise.
    text: String,
    /// Whether the figures keep it.
    pub(crate) kept: bool,
}

const COLUMNS: [Kind; 4] = [Kind::Pointsman, Kind::Nginx, Kind::Haproxy, Kind::Direct];
/// Largest share of nginx mail's CPU that a login may cost.
const LOGIN_SHARE_MAX: f64 = 0.60;
/// Largest memory of an idle TLS session in KiB.
const IDLE_KIB_MAX: f64 = 12.0;

impl Row {
    fn values(&self, kind: Kind) -> &[f64] {
        self.values.iter().find(|entry| entry.0 == kind).map_or(&[], |entry| &entry.1)
    }

    /// The median of the rounds; of stalls the sum, since a single one matters.
    fn figure(&self, kind: Kind) -> Option<f64> {
        match self.values(kind) {
            [] => None,
            values if self.metric == STALLS => Some(values.iter().sum()),
            values => Some(median(values)),
        }
    }

    fn ratio(&self, other: Kind) -> Option<f64> {
        let (own, other) = (self.figure(Kind::Pointsman)?, self.figure(other)?);
        (other > 0.0).then(|| own / other)
    }

    /// The widest range of any proxy, as a share of its median.
    fn spread(&self) -> Option<f64> {
        if self.metric == STALLS {
            return None;
        }
        let spreads = self.values.iter().filter(|entry| entry.1.len() > 1).map(|(_, values)| {
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(0.0, f64::max);
            (high - low) / median(values).max(f64::MIN_POSITIVE)
        });
        spreads.filter(|spread| *spread < 1e6).reduce(f64::max)
    }
}

impl Report {
    /// Adds one measurement of `kind`.
    pub(crate) fn add(&mut self, kind: Kind, samples: Samples) {
        for Sample { work, metric, unit, value } in samples.list {
            let known = self.rows.iter().position(|row| row.work == work && row.metric == metric);
            let index = known.unwrap_or_else(|| {
                let metric = metric.to_owned();
                self.rows.push(Row { work, metric, unit, values: Vec::new() });
                self.rows.len() - 1
            });
            let Some(row) = self.rows.get_mut(index) else { continue };
            match row.values.iter_mut().find(|entry| entry.0 == kind) {
                Some(entry) => entry.1.push(value),
                None => row.values.push((kind, vec![value])),
            }
        }
    }

    /// Notes a measurement that gave nothing.
    pub(crate) fn fail(&mut self, failure: String) {
        eprintln!("bench: {failure}");
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }

    /// Whether every measurement gave its values.
    pub(crate) fn complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// Adds, behind each latency, what a proxy adds to the latency without one.
    pub(crate) fn derive(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        for row in rows {
            let added = row.metric.strip_prefix("latency ").and_then(|quantile| {
                let direct = row.figure(Kind::Direct)?;
                let proxies = COLUMNS.iter().filter(|kind| **kind != Kind::Direct);
                let values = proxies
                    .filter_map(|kind| Some((*kind, vec![row.figure(*kind)? - direct])))
                    .collect();
                let metric = format!("added {quantile}");
                Some(Row { work: row.work.clone(), metric, unit: row.unit, values })
            });
            self.rows.push(row);
            self.rows.extend(added);
        }
    }

    /// The promises that these figures can decide.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let mut bars = Vec::new();
        let mut stalls = None;
        for row in &self.rows {
            let name = format!("{}: {}", row.work, row.metric);
            let own = row.figure(Kind::Pointsman);
            if row.metric == "CPU per login" {
                bars.extend(row.ratio(Kind::Nginx).map(|ratio| Bar {
                    text: format!("{name} {ratio:.2} × nginx, at most {LOGIN_SHARE_MAX:.2}"),
                    kept: ratio <= LOGIN_SHARE_MAX,
                }));
            } else if row.work == "idle session, TLS" && row.metric.starts_with("PSS") {
                bars.extend(own.map(|kib| Bar {
                    text: format!("{name} {kib:.1} KiB, at most {IDLE_KIB_MAX:.0}"),
                    kept: kib <= IDLE_KIB_MAX,
                }));
            } else if row.metric == STALLS {
                stalls = own.map(|own| stalls.unwrap_or(0.0) + own).or(stalls);
            }
        }
        bars.extend(stalls.map(|stalls| Bar {
            text: format!("{stalls:.0} answers after 35 ms or more, at most 0"),
            kept: stalls <= 0.0,
        }));
        bars
    }

    /// The table for people.
    pub(crate) fn table(&self, machine: &Machine) -> String {
        let mut text = format!(
            "{}\nTLS: {}. {WORKERS} workers each. Medians of the rounds, sums of stalls; spread is the widest (max - min) / median.\n\
             HAProxy relays logins without reading them.\n\n",
            machine.line(),
            wire::SETTINGS
        );
        let _ = writeln!(
            text,
            "{:<28} {:<27} {:>8} {:>10} {:>10} {:>10} {:>10} {:>8} {:>9} {:>7}",
            "work",
            "metric",
            "unit",
            "pointsman",
            "nginx",
            "haproxy",
            "direct",
            "/ nginx",
            "/ haproxy",
            "spread"
        );
        let mut last = "";
        for row in &self.rows {
            let work = if row.work == last { "" } else { &row.work };
            let _ = write!(text, "{work:<28} {:<27} {:>8}", row.metric, row.unit);
            for kind in COLUMNS {
                let _ = write!(text, " {:>10}", shown(row.figure(kind)));
            }
            let _ = writeln!(
                text,
                " {:>8} {:>9} {:>7}",
                shown(row.ratio(Kind::Nginx)),
                shown(row.ratio(Kind::Haproxy)),
                row.spread().map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0))
            );
            last = &row.work;
        }
        text.push('\n');
        for bar in self.bars() {
            let verdict = if bar.kept { "kept  " } else { "MISSED" };
            let _ = writeln!(text, "{verdict} {}", bar.text);
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED {failure}");
        }
        text
    }

    /// Everything, for programs.
    pub(crate) fn json(&self, machine: &Machine) -> String {
        let rows: Vec<String> = self.rows.iter().map(row_json).collect();
        let bars: Vec<String> = self
            .bars()
            .iter()
            .map(|bar| format!("{{\"text\": {}, \"kept\": {}}}", quoted(&bar.text), bar.kept))
            .collect();
        let failures: Vec<String> = self.failures.iter().map(|text| quoted(text)).collect();
        format!(
            "{{\n  \"machine\": {},\n  \"tls\": {},\n  \"workers\": {WORKERS},\n  \"rows\": [\n    {}\n  ],\n  \"bars\": [{}],\n  \"failures\": [{}]\n}}\n",
            machine.json(),
            quoted(wire::SETTINGS),
            rows.join(",\n    "),
            bars.join(", "),
            failures.join(", ")
        )
    }
}

fn row_json(row: &Row) -> String {
    let proxies: Vec<String> = row
        .values
        .iter()
        .map(|(kind, values)| {
            let list: Vec<String> = values.iter().map(|value| number(*value)).collect();
            format!(
                "{}: {{\"figure\": {}, \"values\": [{}]}}",
                quoted(kind.label()),
                row.figure(*kind).map_or("null".to_owned(), number),
                list.join(", ")
            )
        })
        .collect();
    let ratio = |kind| row.ratio(kind).map_or("null".to_owned(), number);
    format!(
        "{{\"work\": {}, \"metric\": {}, \"unit\": {}, {}, \"ratio_to_nginx\": {}, \"ratio_to_haproxy\": {}}}",
        quoted(&row.work),
        quoted(&row.metric),
        quoted(row.unit),
        proxies.join(", "),
        ratio(Kind::Nginx),
        ratio(Kind::Haproxy)
    )
}

/// Three significant figures or so.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// A JSON number; JSON knows no infinity.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.4}") } else { "null".to_owned() }
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
