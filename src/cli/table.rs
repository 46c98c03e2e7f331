//! Tables for people.

use crate::config::is_hidden;

/// Blanks between two columns.
const GAP: usize = 2;

/// Rows below a head, each column as wide as its widest cell. Characters that would act on
/// the terminal are shown as `?`.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&title| title.to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(&head)
        .chain(rows)
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let shown = lines.iter().map(|line| {
        let padded = line.iter().zip(&widths).map(|(cell, width)| {
            let blanks = width + GAP - cell.chars().count();
            format!("{cell}{}", " ".repeat(blanks))
        });
        padded.collect::<String>().trim_end().to_owned()
    });
    shown.collect::<Vec<_>>().join("\n")
}

fn printable(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars().map(|letter| if is_hidden(letter) { '?' } else { letter }).collect()
}

/// A time as an operator reads it: `45s`, `12m`, `3h 20m`, `5d 4h`.
pub(super) fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [vec!["n1".to_owned(), "up".to_owned()], vec!["a-long-name".to_owned(), String::new()]];
        let shown = "BACKEND      STATE\nn1           up\na-long-name  -";
        assert_eq!(table(&["BACKEND", "STATE"], &rows), shown);
    }

    #[test]
    fn nothing_in_a_cell_acts_on_the_terminal() {
        let rows = [vec!["a\u{1b}[2Jb\nc".to_owned()]];
        assert_eq!(table(&["X"], &rows), "X\na?[2Jb?c");
    }

    #[test]
    fn times_have_two_units_at_most() {
        let shown: Vec<String> = [0, 59, 60, 3_599, 3_661, 90_000].map(time).into();
        assert_eq!(shown, ["0s", "59s", "1m", "59m", "1h 1m", "1d 1h"]);
    }
}
