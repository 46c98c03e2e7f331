//! What is wrong with a configuration, and where, in a form to print.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Characters of a line that a snippet shows at most.
const SNIPPET_CHARS_MAX: usize = 100;

/// Characters of an operator's value that a message repeats at most.
const QUOTED_CHARS_MAX: usize = 80;

/// One thing that is wrong, at its place in a file. Other parts make their own, for
/// what only shows when the named files are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The faulty file.
    pub file: Arc<Path>,
    /// Line in it, from 1, where one is to blame.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// The faulty line with a caret below the column; no control characters.
    pub snippet: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub expected: Option<String>,
}

impl Fault {
    /// A fault of a file as a whole, e.g. that it cannot be read.
    pub fn whole_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: Arc::from(file),
            line: None,
            column: None,
            snippet: None,
            message: message.into(),
            expected: None,
        }
    }

    /// This fault, placed at a line and column (both from 1) whose text is `text`.
    #[must_use]
    pub fn at(self, line: usize, column: usize, text: &str) -> Self {
        let place = text.char_indices().nth(column.saturating_sub(1)).map(|(at, _)| at);
        let (before, after) =
            text.split_at_checked(place.unwrap_or(text.len())).unwrap_or_default();
        self.drawn_at(line, column, draw_snippet(line, before, after))
    }

    /// As [`Fault::at`], with the snippet drawn already.
    pub(super) fn drawn_at(mut self, line: usize, column: usize, snippet: String) -> Self {
        self.line = Some(line);
        self.column = Some(column);
        self.snippet = Some(snippet).filter(|snippet| !snippet.is_empty());
        self
    }

    /// This fault, with what would be right.
    #[must_use]
    pub fn expecting(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        // They may hold names out of the file.
        write!(f, ": {}", escaped(&self.message))?;
        if let Some(snippet) = &self.snippet {
            write!(f, "\n{snippet}")?;
        }
        if let Some(expected) = &self.expected {
            write!(f, "\n  expected {}", escaped(expected))?;
        }
        Ok(())
    }
}

/// Why a configuration was refused: one fault or more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", show_all(.faults, *.left_out))]
pub struct ConfigErrors {
    /// What went wrong, in file order where known.
    pub faults: Vec<Fault>,
    /// How many more were found than are listed.
    pub left_out: usize,
    reason: &'static str,
}

impl ConfigErrors {
    /// The file cannot be read.
    pub(super) fn unreadable(fault: Fault) -> Self {
        Self { faults: vec![fault], left_out: 0, reason: "unreadable" }
    }

    /// The file is no YAML, or not of the known keys.
    pub(super) fn syntax(fault: Fault) -> Self {
        Self { faults: vec![fault], left_out: 0, reason: "syntax" }
    }

    /// The file reads well but cannot be used as it is.
    pub fn invalid(faults: Vec<Fault>, left_out: usize) -> Self {
        Self { faults, left_out, reason: "invalid" }
    }

    /// Why, for a metric: `unreadable`, `syntax` or `invalid`.
    pub const fn reason(&self) -> &'static str {
        self.reason
    }
}

fn show_all(faults: &[Fault], left_out: usize) -> String {
    let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
    lines.join("\n")
}

/// The line with its number, cut around the fault, and a caret under the fault's place,
/// which is between `before` and `after`. Both may go beyond the line.
pub(super) fn draw_snippet(line: usize, before: &str, after: &str) -> String {
    let in_line = |symbol: &char| !matches!(symbol, '\n' | '\r');
    let before: Vec<char> =
        before.chars().rev().take_while(in_line).take(SNIPPET_CHARS_MAX / 2).collect();
    let margin = " ".repeat(before.len());
    let after = after.chars().take_while(in_line).take(SNIPPET_CHARS_MAX / 2);
    let shown: String = before.into_iter().rev().chain(after).map(printable).collect();
    let number = line.to_string();
    let gutter = " ".repeat(number.len());
    format!("  {number} | {}\n  {gutter} | {margin}^", shown.trim_end())
}

/// One column for one character, so that the caret stays under its place.
fn printable(symbol: char) -> char {
    match symbol {
        '\t' => ' ',
        symbol if is_hidden(symbol) => '\u{fffd}',
        symbol => symbol,
    }
}

/// Whether a character would act on a terminal or log instead of being seen: controls,
/// line and paragraph separators, direction marks, the byte order mark.
pub(crate) fn is_hidden(symbol: char) -> bool {
    symbol.is_control()
        || matches!(symbol, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(symbol, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A value between backticks for a message: escaped and cut.
pub(super) fn quoted(value: &str) -> String {
    let rest = if value.chars().nth(QUOTED_CHARS_MAX).is_some() { "..." } else { "" };
    let shown: String = value.chars().take(QUOTED_CHARS_MAX).collect();
    format!("`{}{rest}`", escaped(&shown))
}

/// Text without characters that act instead of being seen.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for symbol in text.chars() {
        if is_hidden(symbol) {
            out.extend(symbol.escape_unicode());
        } else {
            out.push(symbol);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fault_prints_place_line_caret_and_what_is_expected() {
        let fault = Fault::whole_file(Path::new("p.yaml"), "unknown shard `sud`")
            .at(12, 14, "    - shard: sud")
            .expecting("one of `north`, `south`");
        let shown = "p.yaml:12:14: unknown shard `sud`\n  \
                     12 |     - shard: sud\n     \
                     |              ^\n  \
                     expected one of `north`, `south`";
        assert_eq!(fault.to_string(), shown);
    }

    #[test]
    fn a_very_long_line_is_cut_around_the_fault() {
        let text = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let fault = Fault::whole_file(Path::new("p"), "m").at(1, 5001, &text);
        let snippet = fault.snippet.unwrap();
        let lines: Vec<&str> = snippet.lines().collect();
        assert!(lines[0].len() < 120);
        assert_eq!(lines[0].find('X'), lines[1].find('^'));
    }

    proptest! {
        #[test]
        fn no_value_of_an_operator_draws_on_the_terminal(text in "\\PC*|[\\x00-\\x1f\u{80}-\u{9f}\u{202e}]*", column in 0_usize..200) {
            let snippet = Fault::whole_file(Path::new("p"), "m").at(3, column, &text).snippet.unwrap();
            prop_assert_eq!(snippet.lines().count(), 2);
            prop_assert!(!snippet.chars().any(|symbol| symbol != '\n' && is_hidden(symbol)));
            prop_assert!(!quoted(&text).chars().any(is_hidden));
        }
    }
}
