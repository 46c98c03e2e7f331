//! Secrets in a configuration: as they are, from the environment, or from a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::check::{Check, Text};
use crate::names::Secret;

/// Bytes of a file with a secret at most.
const FILE_BYTES_MAX: u64 = 4096;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Here: it stood in the file, with what the environment had for its `${NAME}`.
    Value(Secret),
    /// In a file of its own (`file:PATH`), read at each use, so that it may change.
    File(PathBuf),
}

impl SecretSource {
    /// The secret. Blocks where it is in a file.
    ///
    /// # Errors
    /// Where the file cannot be read, is empty or has more than 4096 bytes.
    pub fn load(&self) -> io::Result<Secret> {
        match self {
            Self::Value(secret) => Ok(secret.clone()),
            Self::File(path) => read(path),
        }
    }

    /// The file that it is in.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Value(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

/// Reads a secret without the line end that editors put behind it.
fn read(path: &Path) -> io::Result<Secret> {
    // One buffer of the full size: nothing of it stays behind in one that was outgrown.
    let mut bytes = Vec::with_capacity(4097);
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let too_long = u64::try_from(bytes.len()).is_ok_and(|read| read > FILE_BYTES_MAX);
    while bytes.last().is_some_and(|last| matches!(last, b'\r' | b'\n')) {
        bytes.pop();
    }
    let empty = bytes.is_empty();
    let secret = Secret::new(bytes);
    match (empty, too_long) {
        (true, _) => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
        (_, true) => Err(io::Error::new(io::ErrorKind::InvalidData, "more than 4096 bytes")),
        _ => Ok(secret),
    }
}

/// Takes a secret as written. The line that holds it is drawn in no fault.
pub(super) fn take(key: &str, text: &Text, check: &mut Check<'_>) -> Option<SecretSource> {
    check.hide(text.defined);
    if let Some(path) = text.value.strip_prefix("file:") {
        let path = Text { value: path.to_owned(), ..text.clone() };
        return check.path(key, &path).map(SecretSource::File);
    }
    let value = expand(&text.value, |name| std::env::var(name).ok().map(Zeroizing::new));
    match value {
        Ok(value) => Some(SecretSource::Value(value)),
        Err(fault) => {
            let expected = "a value, in which `${NAME}` stands for an environment variable that is \
                            set and `$${` for `${`, or `file:PATH`";
            check.refuse(text.defined, format!("`{key}`: {fault}"), expected);
            None
        }
    }
}

/// Why a value with references to the environment has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum ReferenceFault {
    /// Nothing is left, or nothing was there.
    #[error("it is empty")]
    Empty,
    /// `${` without its end.
    #[error("a `${{` has no `}}`")]
    Open,
    /// No name that a variable can have. It is not shown: it may be part of a secret.
    #[error("what stands in `${{...}}` is no name of an environment variable")]
    BadName,
    /// No such variable, or not in UTF-8.
    #[error("the environment variable {0} is not set")]
    Unset(String),
}

/// The value with each `${NAME}` replaced by that environment variable, and `$${` by `${`.
/// What a variable holds is taken as it is.
fn expand(
    text: &str,
    variable: impl Fn(&str) -> Option<Zeroizing<String>>,
) -> Result<Secret, ReferenceFault> {
    let mut parts: Vec<Zeroizing<String>> = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            parts.push(Zeroizing::new(format!("{before}${{")));
            rest = behind;
            continue;
        }
        let (name, behind) = behind.split_once('}').ok_or(ReferenceFault::Open)?;
        if !is_variable(name) {
            return Err(ReferenceFault::BadName);
        }
        parts.push(Zeroizing::new(before.to_owned()));
        parts.push(variable(name).ok_or_else(|| ReferenceFault::Unset(name.to_owned()))?);
        rest = behind;
    }
    // Of the full size at once: no copy stays behind in a buffer that was outgrown.
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + rest.len();
    let mut whole = Vec::with_capacity(length);
    for part in &parts {
        whole.extend_from_slice(part.as_bytes());
    }
    whole.extend_from_slice(rest.as_bytes());
    if whole.is_empty() { Err(ReferenceFault::Empty) } else { Ok(Secret::new(whole)) }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str) -> Result<String, ReferenceFault> {
        let variable = |name: &str| match name {
            "PW" => Some(Zeroizing::new("s3 ${USER}".to_owned())),
            "USER" => Some(Zeroizing::new("mail".to_owned())),
            "NONE" => Some(Zeroizing::new(String::new())),
            _ => None,
        };
        expand(text, variable).map(|value| String::from_utf8(value.expose().to_vec()).unwrap())
    }

    #[test]
    fn references_stand_anywhere_and_what_they_hold_is_taken_as_it_is() {
        let cases = [
            ("plain $ } $x", "plain $ } $x"),
            ("${USER}", "mail"),
            ("postgres://${USER}:${PW}@h/db", "postgres://mail:s3 ${USER}@h/db"),
            ("a$${USER}b", "a${USER}b"),
            ("${NONE}x", "x"),
        ];
        for (text, value) in cases {
            assert_eq!(expanded(text), Ok(value.to_owned()), "{text}");
        }
    }

    #[test]
    fn references_that_lead_nowhere_are_refused() {
        use ReferenceFault::{BadName, Empty, Open, Unset};
        let cases = [
            ("", Empty),
            ("${NONE}", Empty),
            ("a${USER", Open),
            ("${}", BadName),
            ("${1X}", BadName),
            ("${hunter2 is mine}", BadName),
            ("x${MISSING}", Unset("MISSING".to_owned())),
        ];
        for (text, fault) in cases {
            let told = expanded(text).unwrap_err();
            assert_eq!(told, fault, "{text}");
            assert!(!told.to_string().contains("hunter2"));
        }
    }

    proptest! {
        #[test]
        fn a_value_without_references_is_itself(text in "[^$]{1,40}") {
            prop_assert_eq!(expanded(&text), Ok(text));
        }
    }
}
