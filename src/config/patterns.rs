//! `patterns`: shards by the form of the name.

use regex::{RegexSet, RegexSetBuilder};
use serde_saphyr::Spanned;

use crate::config::Canonical;
use crate::config::check::{Check, Entries, Text};
use crate::config::fault::quoted;
use crate::names::ShardId;

/// Patterns in one lookup at most, and bytes of one.
const PATTERNS_MAX: usize = 1000;
const PATTERN_BYTES_MAX: usize = 1024;

/// Bytes that the compiled form of one pattern, and of all of a lookup, may take; and those
/// that matching may keep beside it. Time is linear in the name's length in any case.
const ONE_BYTES_MAX: usize = 256 << 10;
const ALL_BYTES_MAX: usize = 16 << 20;
const MATCHING_BYTES_MAX: usize = 4 << 20;

/// How deep groups of a regular expression may lie in each other.
const DEPTH_MAX: u32 = 32;

const PATTERN_FORM: &str = "`*` for any characters and `?` for one, or a regular expression \
                            between slashes";

/// One pattern: a glob over the whole canonical name, `*` for any characters and `?` for one;
/// or a regular expression, written between slashes, that is searched for in the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern as it is written in the configuration.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As it is written in the configuration.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The regular expression that means the same.
    fn expression(&self) -> String {
        let inside = self.0.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
        if let Some(expression) = inside {
            return expression.to_owned();
        }
        let mut expression = String::from("^");
        let mut symbol = [0; 4];
        for letter in self.0.chars() {
            match letter {
                '*' => expression.push_str(".*"),
                '?' => expression.push('.'),
                other => expression.push_str(&regex::escape(other.encode_utf8(&mut symbol))),
            }
        }
        expression.push('$');
        expression
    }
}

/// Compiles patterns to a set that tells in one pass which of them match a name. Letters match
/// in either case where names are canonical in lower case, which an operator may not think of.
///
/// # Errors
/// What is wrong with a pattern, in a few words; without saying with which.
pub fn compile_patterns<'p>(
    patterns: impl IntoIterator<Item = &'p Pattern>,
    canonical: Canonical,
) -> Result<RegexSet, String> {
    compile(patterns, canonical, ALL_BYTES_MAX)
}

fn compile<'p>(
    patterns: impl IntoIterator<Item = &'p Pattern>,
    canonical: Canonical,
    bytes_max: usize,
) -> Result<RegexSet, String> {
    let expressions = patterns.into_iter().map(Pattern::expression);
    let set = RegexSetBuilder::new(expressions)
        .case_insensitive(canonical != Canonical::Exact)
        .dot_matches_new_line(true)
        .nest_limit(DEPTH_MAX)
        .size_limit(bytes_max)
        .dfa_size_limit(MATCHING_BYTES_MAX)
        .build();
    set.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it takes too much memory".to_owned(),
        // Many lines with a drawing; the last one says it.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    })
}

/// Notes what is wrong with each pattern; gives the others.
pub(super) fn check_patterns(
    raw: &Spanned<Entries<Text>>,
    canonical: Canonical,
    check: &mut Check<'_>,
    mut shard_of: impl FnMut(&Text, &mut Check<'_>) -> ShardId,
) -> Vec<(Pattern, ShardId)> {
    let entries = &raw.value.0;
    if entries.is_empty() || entries.len() > PATTERNS_MAX {
        let message = format!("`patterns` has {} entries", entries.len());
        let expected = format!("`pattern: shard`, 1 to {PATTERNS_MAX} of them");
        check.refuse(raw.defined, message, expected);
        return Vec::new();
    }
    let mut patterns = Vec::new();
    for (text, shard) in entries {
        let shard = shard_of(shard, check);
        let pattern = Pattern::new(text.value.as_str());
        let wrong = match text.value.len() {
            0 => Err("it is empty".to_owned()),
            length if length > PATTERN_BYTES_MAX => Err("it is too long".to_owned()),
            _ => compile([&pattern], canonical, ONE_BYTES_MAX).map(|_| ()),
        };
        if let Err(wrong) = wrong {
            let message = format!("the pattern {} cannot be used: {wrong}", quoted(&text.value));
            check.refuse(text.defined, message, PATTERN_FORM);
            continue;
        }
        patterns.push((pattern, shard));
    }
    if let Err(wrong) = compile_patterns(patterns.iter().map(|(pattern, _)| pattern), canonical) {
        let message = format!("these patterns cannot be used together: {wrong}");
        check.refuse(raw.defined, message, "fewer or simpler ones");
    }
    patterns
}
