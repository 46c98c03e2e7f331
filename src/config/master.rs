//! `master`: who may sign in as somebody else.

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::config::check::{Check, Text};
use crate::config::network::Network;

const SEPARATOR_DEFAULT: char = '*';

/// Signs that may separate the two names. Not among them: what mail addresses are made of
/// (a `+` would make every tagged address a master's name), quoting and paths.
const SEPARATORS: &str = "*%/|!#$^~:;,";

/// Who may sign in as a master user: by `user*master`, or by AUTHENTICATE PLAIN with an
/// identity that is not the one whose password is given. A reload changes it for new logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Stands between the user and the master user in a name. It must be the backends' own
    /// (Dovecot: `auth_master_user_separator`). Default `*`.
    pub separator: char,
    /// Networks of clients that may do so. At least one.
    pub networks: Vec<Network>,
}

/// `master` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMaster {
    separator: Option<Text>,
    networks: Option<Spanned<Vec<Text>>>,
}

impl RawMaster {
    pub(super) fn check(self, place: Location, check: &mut Check<'_>) -> Option<Master> {
        let separator = self
            .separator
            .as_ref()
            .map_or(Some(SEPARATOR_DEFAULT), |text| separator_of(text, check));
        let expected = "`networks`: where master users may sign in from";
        let raw = check.required("networks", self.networks, place, expected)?;
        if raw.value.is_empty() {
            check.refuse(raw.defined, "`master` without any network", expected);
        }
        let networks = check.networks("networks", Some(&raw.value));
        Some(Master { separator: separator?, networks })
    }
}

fn separator_of(text: &Text, check: &mut Check<'_>) -> Option<char> {
    let mut letters = text.value.chars();
    let separator = letters.next().filter(|first| SEPARATORS.contains(*first));
    if separator.is_none() || letters.next().is_some() {
        let expected = format!("exactly one of the characters {SEPARATORS}");
        check.refuse_value("separator", text, expected);
        return None;
    }
    separator
}
