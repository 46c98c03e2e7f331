//! `log`: what is logged, and how.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

use serde::Deserialize;

use crate::config::check::{Check, Keyword, Text};
use crate::config::source::Object;
use crate::names::UserName;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
const LEVEL_FORM: &str = "`error`, `warn`, `info`, `debug`, `trace` or `off`, also for parts of \
                          the program, such as `info,pointsman::upstream=debug`";

/// What is logged, and how. A reload applies `level` and `user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Form of a line. Default text.
    pub format: LogFormat,
    /// Most detailed level, a `tracing` filter such as `info`. Default `info`.
    pub level: String,
    /// How user names appear. Default full.
    pub user: LogUser,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Keyword for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// How user names appear in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogUser {
    /// The canonical name.
    Full,
    /// A keyed hash of it, the same for a process's life.
    Hash,
    /// Not at all.
    None,
}

impl Keyword for LogUser {
    const WORDS: &'static [(&'static str, Self)] =
        &[("full", Self::Full), ("hash", Self::Hash), ("none", Self::None)];
}

impl LogUser {
    /// The name as it may be logged: a value for a `tracing` field (`user = %field`).
    pub fn show<'n>(self, user: &'n UserName, key: &'n UserKey) -> UserField<'n> {
        UserField { form: self, user, key }
    }
}

/// The random key of hashed user names (`SipHash`). One per process, made at start and
/// handed to whoever logs names, so that one user's lines can be joined but not guessed.
#[derive(Debug, Clone, Default)]
pub struct UserKey(RandomState);

/// A user name on its way into the log: in full, 16 hex digits, or `-`.
#[derive(Clone, Copy)]
pub struct UserField<'n> {
    form: LogUser,
    user: &'n UserName,
    key: &'n UserKey,
}

impl fmt::Display for UserField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            LogUser::Full => f.write_str(self.user.as_str()),
            LogUser::Hash => write!(f, "{:016x}", self.key.0.hash_one(self.user.as_str())),
            LogUser::None => f.write_str("-"),
        }
    }
}

impl fmt::Debug for UserField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `log` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    format: Option<Text>,
    level: Option<Text>,
    user: Option<Text>,
}

impl RawLog {
    pub(super) fn check(self, check: &mut Check<'_>) -> Log {
        if let Some(format) = &self.format {
            check.remember(Object::LogFormat, format.defined);
        }
        let format = check.word("format", self.format.as_ref(), LogFormat::Text);
        let user = check.word("user", self.user.as_ref(), LogUser::Full);
        if let Some(level) = self.level.as_ref().filter(|level| !is_filter(&level.value)) {
            check.refuse_value("level", level, LEVEL_FORM);
        }
        let level = self.level.map_or_else(|| "info".to_owned(), |level| level.value);
        Log { format, level, user }
    }
}

/// `filter = directive *("," directive)`, `directive = level / target "=" level`.
/// Narrower than what `tracing` reads: there a mistyped level is a target, and silences
/// all others.
fn is_filter(text: &str) -> bool {
    text.split(',').all(|directive| match directive.split_once('=') {
        Some((target, level)) => is_target(target) && LEVELS.contains(&level),
        None => LEVELS.contains(&directive),
    })
}

fn is_target(target: &str) -> bool {
    !target.is_empty()
        && target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_for_all_or_for_a_part() {
        for right in ["info", "off", "info,pointsman::upstream=debug", "pointsman=trace,warn"] {
            assert!(is_filter(right), "{right}");
        }
        for wrong in ["", "inof", "info,", "INFO=", "=info", "a b=info", "pointsman[x]=info"] {
            assert!(!is_filter(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_hashed_name_is_stable_in_a_process_and_differs_between_keys() {
        let (anna, berta) = (UserName::new("anna"), UserName::new("berta"));
        let key = UserKey::default();
        let hashed = LogUser::Hash.show(&anna, &key).to_string();
        assert_eq!(hashed, LogUser::Hash.show(&anna, &key).to_string());
        assert_ne!(hashed, LogUser::Hash.show(&berta, &key).to_string());
        assert_ne!(hashed, LogUser::Hash.show(&anna, &UserKey::default()).to_string());
        assert_eq!(hashed.len(), 16);
        assert!(hashed.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }

    #[test]
    fn names_are_shown_or_left_out_as_configured() {
        let (user, key) = (UserName::new("anna@example.org"), UserKey::default());
        assert_eq!(LogUser::Full.show(&user, &key).to_string(), "anna@example.org");
        assert_eq!(LogUser::None.show(&user, &key).to_string(), "-");
        assert_eq!(format!("{:?}", LogUser::None.show(&user, &key)), "-");
    }
}
