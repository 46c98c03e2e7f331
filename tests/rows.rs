//! Every known way to break an IMAP proxy, B-01 to B-93, has a test of that name:
//! `fn b39_...` is one for the row B-39. A row without one fails here, unless it stands
//! in the table of exceptions with its reason.

#![allow(clippy::unwrap_used, reason = "test code: a broken set-up must panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The last row of the catalogue.
const LAST_ROW: u8 = 93;

/// Rows that have no test, and why. A row that has one does not belong here.
const EXCEPTIONS: [(u8, &str); 1] = [(
    92,
    "needs a core dump of the process; the wiping itself has unit tests (`Inbox`, `Secret`)",
)];

/// The number in the name of a test function that begins this line: `fn b39_...`.
fn row_of(line: &str) -> Option<u8> {
    let name = line.strip_prefix("fn b")?;
    let (digits, rest) = name.split_at_checked(2)?;
    rest.strip_prefix('_')?;
    digits.parse().ok()
}

/// The names of the tests in a source file, by row. A function without `#[test]` is none.
fn tests_in(source: &str) -> Vec<(u8, String)> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") {
            is_test = true;
        } else if line.starts_with("fn ") {
            let name = line.trim_start_matches("fn ").split('(').next().unwrap_or_default();
            found.extend(row_of(line).filter(|_| is_test).map(|row| (row, name.to_owned())));
            is_test = false;
        }
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn index() -> BTreeMap<u8, Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut index: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for path in sources(&folder) {
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        for (row, name) in tests_in(&std::fs::read_to_string(&path).unwrap()) {
            index.entry(row).or_default().push(format!("{file}::{name}"));
        }
    }
    index
}

#[test]
fn every_row_has_a_test_of_its_name_or_a_reason_to_have_none() {
    let index = index();
    let excepted = |row: u8| EXCEPTIONS.iter().find(|(number, _)| *number == row);
    let mut missing = Vec::new();
    for row in 1..=LAST_ROW {
        match (index.get(&row), excepted(row)) {
            (Some(tests), _) => println!("B-{row:02}: {}", tests.join(", ")),
            (None, Some((_, reason))) => println!("B-{row:02}: none: {reason}"),
            (None, None) => missing.push(format!("B-{row:02}")),
        }
    }
    assert!(missing.is_empty(), "rows without a test: {}", missing.join(", "));
}

#[test]
fn exceptions_have_reasons_and_are_still_needed() {
    let index = index();
    for (row, reason) in EXCEPTIONS {
        assert!(!index.contains_key(&row), "B-{row:02} has a test: no exception is needed");
        assert!(reason.len() > 20, "B-{row:02} needs a reason");
    }
    let beyond: Vec<_> = index.keys().filter(|row| !(1..=LAST_ROW).contains(*row)).collect();
    assert!(beyond.is_empty(), "there are no such rows: {beyond:?}");
}

#[test]
fn only_a_test_function_counts() {
    let source = "#[test]\n#[ignore]\nfn b07_one() {}\nfn b08_two() {}\n#[test]\nfn other() {}\n\
                  // fn b09_three\n#[test]\nfn b1_four() {}\n";
    assert_eq!(tests_in(source), [(7, "b07_one".to_owned())]);
}
