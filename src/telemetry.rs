//! Logs: one line an event on standard error, as text or JSON. A value from a peer can
//! neither end a line nor pass for another field, and a reader of standard error that
//! stalls stalls no session: lines that find the queue full are dropped and counted.

mod line;
mod queue;

use std::panic::Location;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::Subscriber;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

pub use crate::config::{UserField, UserKey};

use self::line::LineFormat;
use self::queue::LineQueue;
use crate::config::{Log, LogUser};
use crate::names::UserName;

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("`{level}` is no log level")]
    Level {
        /// The filter.
        level: String,
    },
    /// The thread that writes the lines could not be started.
    #[error("the log thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// Logging was set up before in this process.
    #[error("logging is set up already")]
    AlreadySet,
}

impl TelemetryError {
    /// Why, for a metric.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Level { .. } => "level",
            Self::Thread(_) => "thread",
            Self::AlreadySet => "already_set",
        }
    }
}

/// The running log. Dropping it writes out what is queued.
#[derive(Debug)]
pub struct Telemetry {
    level: LevelHandle,
    queue: LineQueue,
    user_form: ArcSwap<LogUser>,
    user_key: UserKey,
}

type LevelHandle = reload::Handle<Targets, Registry>;

/// Sets up logging for the whole process; once.
///
/// # Errors
/// A level that cannot be read, no thread to be had, or a second call.
pub fn init(log: &Log) -> Result<Telemetry, TelemetryError> {
    let queue = LineQueue::start(std::io::stderr()).map_err(TelemetryError::Thread)?;
    let (subscriber, level) = subscriber(log, queue.clone())?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::AlreadySet)?;
    std::panic::set_hook(Box::new(|panic| log_panic(panic.location())));
    let user_form = ArcSwap::from_pointee(log.user);
    Ok(Telemetry { level, queue, user_form, user_key: UserKey::default() })
}

impl Telemetry {
    /// Changes what is logged and how users appear, from the next event on.
    ///
    /// # Errors
    /// A level that cannot be read; the old one stays, and so does the users' form.
    pub fn apply(&self, log: &Log) -> Result<(), TelemetryError> {
        apply_level(&self.level, &log.level)?;
        self.user_form.store(Arc::new(log.user));
        Ok(())
    }

    /// A user's name as the configuration wants it in logs.
    pub fn user(&self, user: &UserName) -> String {
        self.user_form.load().show(user, &self.user_key).to_string()
    }

    /// Lines dropped so far because standard error was not read fast enough.
    pub fn lines_dropped(&self) -> u64 {
        self.queue.lines_dropped()
    }

    /// Waits until all lines so far are written, two seconds at most.
    pub fn flush(&self) {
        self.queue.flush();
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A panic's own words may hold what a peer sent, even a password: only its place is told.
fn log_panic(place: Option<&Location<'_>>) {
    let place = place.map(tracing::field::display);
    tracing::error!(place, "a fault in the proxy itself: please report it");
}

fn subscriber<W>(
    log: &Log,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LevelHandle), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, level) = reload::Layer::new(parse_level(&log.level)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .event_format(LineFormat::new(log.format))
        .with_writer(writer);
    Ok((tracing_subscriber::registry().with(filter).with(lines), level))
}

fn apply_level(handle: &LevelHandle, level: &str) -> Result<(), TelemetryError> {
    let filter = parse_level(level)?;
    handle.reload(filter).map_err(|_| TelemetryError::Level { level: level.to_owned() })
}

fn parse_level(level: &str) -> Result<Targets, TelemetryError> {
    level.parse().map_err(|_| TelemetryError::Level { level: level.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;
    use tracing::{debug, info};

    use super::*;
    use crate::config::LogFormat;

    /// Names that try to end the line, to look like fields, to drive the terminal.
    const HOSTILE: [&str; 8] = [
        "x\n2026-01-01T00:00:00Z  INFO pointsman: login user=admin",
        "x\r\n",
        "x rip=1.2.3.4",
        "x\" rip=\"1.2.3.4",
        "\u{1b}[2J\u{7}\u{8}\u{0}\u{7f}\u{9b}31m",
        "\u{202e}nimda\u{2028}\u{2029}\u{feff}",
        "\\\",\"level\":\"ERROR\",\"x\":\"",
        "",
    ];

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Captured {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }

    fn log(format: LogFormat) -> Log {
        Log { format, level: "info".to_owned(), user: LogUser::Full }
    }

    fn logged(format: LogFormat, act: impl FnOnce()) -> String {
        let captured = Captured::default();
        let (subscriber, _level) = subscriber(&log(format), captured.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, act);
        captured.text()
    }

    fn log_in_all_ways(value: &str) {
        let user = UserName::new(value);
        let key = UserKey::default();
        let error = std::io::Error::other(value);
        let source: &(dyn std::error::Error + 'static) = &error;
        info!(user = %LogUser::Full.show(&user, &key), rip = "192.0.2.1", "{value}");
        info!(text = value, debug = ?value, display = %value, error = source, "event");
    }

    fn is_shown_plainly(line: &str) -> bool {
        !line.chars().any(crate::config::is_hidden)
    }

    /// What a reader of the text form takes for field names: words before `=`, outside of
    /// quotes.
    fn field_names(line: &str) -> Vec<String> {
        let mut outside = String::new();
        let (mut quoted, mut escaped) = (false, false);
        for symbol in line.chars() {
            match symbol {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = !quoted,
                _ if quoted => {}
                symbol => outside.push(symbol),
            }
        }
        assert!(!quoted, "{line}");
        let names = outside.split(' ').filter_map(|word| word.split_once('='));
        names.map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn a_hostile_value_stays_one_field_of_one_text_line() {
        for value in HOSTILE {
            let text = logged(LogFormat::Text, || log_in_all_ways(value));
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{text}");
            assert!(lines.iter().all(|line| is_shown_plainly(line)), "{text}");
            assert_eq!(field_names(lines[1]), ["text", "debug", "display", "error"], "{text}");
        }
    }

    #[test]
    fn text_quotes_what_is_not_one_plain_word() {
        let text = logged(LogFormat::Text, || info!(a = "x rip=1.2.3.4", b = "q\"\\", c = 7, "m"));
        assert!(
            text.ends_with(
                "INFO pointsman::telemetry::tests: m a=\"x rip=1.2.3.4\" b=\"q\\\"\\\\\" c=7\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn every_json_line_is_one_object_that_gives_the_value_back() {
        for value in HOSTILE {
            let text = logged(LogFormat::Json, || log_in_all_ways(value));
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{text}");
            assert!(lines.iter().all(|line| is_shown_plainly(line)), "{text}");
            let first: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
            assert_eq!((&first["user"], &first["message"]), (&value.into(), &value.into()));
            assert_eq!((&first["rip"], &first["level"]), (&"192.0.2.1".into(), &"INFO".into()));
            let second: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
            assert_eq!((&second["text"], &second["display"]), (&value.into(), &value.into()));
            assert_eq!((&second["error"], &second["level"]), (&value.into(), &"INFO".into()));
        }
    }

    #[test]
    fn json_keeps_numbers_and_truth_values() {
        let text = logged(LogFormat::Json, || {
            info!(count = 7_u64, below = -7, share = 0.5, odd = f64::NAN, on = true, "m");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["count"], 7);
        assert_eq!(line["below"], -7);
        assert_eq!(line["share"], 0.5);
        assert_eq!(line["odd"], "NaN");
        assert_eq!(line["on"], true);
    }

    #[test]
    fn a_very_long_value_is_cut() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format, || info!(user = "u".repeat(100_000), "m"));
            assert!(text.len() < 2000, "{} bytes", text.len());
            assert!(text.contains("uuu..."));
        }
    }

    #[test]
    fn the_level_changes_while_running_and_a_wrong_one_is_refused() {
        let captured = Captured::default();
        let (subscriber, level) = subscriber(&log(LogFormat::Text), captured.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            debug!("first");
            apply_level(&level, "debug").unwrap();
            debug!("second");
            assert_eq!(apply_level(&level, "=7=").unwrap_err().reason(), "level");
            debug!("third");
            apply_level(&level, "off").unwrap();
            info!("fourth");
        });
        let text = captured.text();
        let seen = ["first", "second", "third", "fourth"].map(|word| text.contains(word));
        assert_eq!(seen, [false, true, true, false], "{text}");
    }

    #[test]
    fn logging_is_set_up_once() {
        let telemetry = init(&log(LogFormat::Text)).unwrap();
        let user = UserName::new("kim");
        assert_eq!(telemetry.user(&user), "kim");
        let quiet = Log { level: "off".into(), user: LogUser::None, ..log(LogFormat::Text) };
        telemetry.apply(&quiet).unwrap();
        assert_ne!(telemetry.user(&user), "kim");
        assert_eq!(telemetry.lines_dropped(), 0);
        assert_eq!(init(&log(LogFormat::Json)).unwrap_err().reason(), "already_set");
    }

    proptest! {
        #[test]
        fn no_value_forges_a_line(value in any::<String>()) {
            let text = logged(LogFormat::Text, || log_in_all_ways(&value));
            prop_assert_eq!(text.lines().count(), 2);
            prop_assert!(text.lines().all(is_shown_plainly));
            let json = logged(LogFormat::Json, || log_in_all_ways(&value));
            for line in json.lines() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{}", line);
            }
        }
    }
}
