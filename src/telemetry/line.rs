//! The form of a log line. `tracing-subscriber`'s own text form writes line feeds and
//! blanks of values as they are and its JSON form leaves terminal controls alone, so
//! both are written here.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFormat, is_hidden};

/// Characters of one value that are logged at most.
const VALUE_CHARS_MAX: usize = 1024;

/// Writes events as lines; spans are not shown, fields say all.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineFormat {
    form: LogFormat,
}

impl LineFormat {
    pub(super) const fn new(form: LogFormat) -> Self {
        Self { form }
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let (level, target) = (event.metadata().level(), event.metadata().target());
        match self.form {
            LogFormat::Text => write!(writer, "{time} {level:>5} {target}:")?,
            LogFormat::Json => {
                write!(writer, r#"{{"time":"{time}","level":"{level}","target":"{target}""#)?;
            }
        }
        let mut fields = Fields { form: self.form, writer, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        fields.writer.write_str(match self.form {
            LogFormat::Text => "\n",
            LogFormat::Json => "}\n",
        })
    }
}

/// Writes each field as it comes; keeps the first error.
struct Fields<'w> {
    form: LogFormat,
    writer: Writer<'w>,
    result: fmt::Result,
}

impl Fields<'_> {
    /// A value that cannot hold anything harmful.
    fn put_plain(&mut self, field: &Field, value: impl fmt::Display) {
        let written = self.put_name(field).and_then(|()| write!(self.writer, "{value}"));
        self.result = self.result.and(written);
    }

    fn put_text(&mut self, field: &Field, value: &str) {
        let (cut, rest) = cut(value);
        let written = self.put_name(field).and_then(|()| match self.form {
            LogFormat::Json => put_quoted(&mut self.writer, cut, rest, put_json),
            LogFormat::Text if field.name() == "message" => {
                cut.chars().try_for_each(|symbol| put_shown(&mut self.writer, symbol))?;
                self.writer.write_str(rest)
            }
            LogFormat::Text if is_word(cut) => write!(self.writer, "{cut}{rest}"),
            LogFormat::Text => put_quoted(&mut self.writer, cut, rest, put_text),
        });
        self.result = self.result.and(written);
    }

    fn put_name(&mut self, field: &Field) -> fmt::Result {
        match self.form {
            LogFormat::Text if field.name() == "message" => self.writer.write_str(" "),
            LogFormat::Text => write!(self.writer, " {}=", field.name()),
            LogFormat::Json => write!(self.writer, ",\"{}\":", field.name()),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put_text(field, &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put_plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put_plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put_plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.put_plain(field, value);
        } else {
            // JSON has no such numbers.
            self.put_text(field, &value.to_string());
        }
    }
}

/// A value as far as it is logged, and what stands for its rest.
fn cut(value: &str) -> (&str, &'static str) {
    match value.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => (value.get(..end).unwrap_or_default(), "..."),
        None => (value, ""),
    }
}

/// Whether a value can be neither a part of a line nor two of them without quotes.
fn is_word(value: &str) -> bool {
    !value.is_empty()
        && !value.chars().any(|symbol| {
            is_hidden(symbol) || symbol.is_whitespace() || matches!(symbol, '"' | '\\' | '=')
        })
}

fn put_quoted(
    writer: &mut Writer<'_>,
    value: &str,
    rest: &str,
    put: fn(&mut Writer<'_>, char) -> fmt::Result,
) -> fmt::Result {
    writer.write_char('"')?;
    value.chars().try_for_each(|symbol| put(writer, symbol))?;
    writer.write_str(rest)?;
    writer.write_char('"')
}

fn put_text(writer: &mut Writer<'_>, symbol: char) -> fmt::Result {
    match symbol {
        '"' | '\\' => write!(writer, "\\{symbol}"),
        symbol => put_shown(writer, symbol),
    }
}

fn put_shown(writer: &mut Writer<'_>, symbol: char) -> fmt::Result {
    if is_hidden(symbol) {
        write!(writer, "{}", symbol.escape_default())
    } else {
        writer.write_char(symbol)
    }
}

/// `string = quotation-mark *char quotation-mark` (RFC 8259 section 7).
fn put_json(writer: &mut Writer<'_>, symbol: char) -> fmt::Result {
    match symbol {
        '"' | '\\' => write!(writer, "\\{symbol}"),
        symbol if is_hidden(symbol) => {
            let mut units = [0; 2];
            let units = symbol.encode_utf16(&mut units);
            units.iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))
        }
        symbol => writer.write_char(symbol),
    }
}
