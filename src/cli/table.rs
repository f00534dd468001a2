//! Text output: labelled lines and columns.

use super::error::CliError;
use super::output::print_bytes;
use crate::config::escape_unprintable;

/// A block of `label  value` lines, labels padded to one width.
#[derive(Default)]
pub(super) struct KeyValueTable(Vec<(String, String)>);

impl KeyValueTable {
    pub(super) fn add(&mut self, label: &str, value: impl Into<String>) {
        self.0.push((label.to_owned(), value.into()));
    }

    /// Adds a line if there is a value.
    pub(super) fn add_some(&mut self, label: &str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.add(label, value);
        }
    }

    pub(super) fn print(&self) -> Result<(), CliError> {
        let width = self.0.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let line =
            |(label, value): &(String, String)| format!("{label:width$}  {}\n", escape_unprintable(value));
        print_bytes(self.0.iter().map(line).collect::<String>().as_bytes())
    }
}

/// Prints rows in columns below their headers.
pub(super) fn print_columns(headers: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
    print_bytes((format_columns(headers, rows).join("\n") + "\n").as_bytes())
}

pub(super) fn format_columns(headers: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let headers = headers.iter().map(|header| (*header).to_owned()).collect();
    let escape = |row: &Vec<String>| row.iter().map(|cell| escape_unprintable(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headers).chain(rows.iter().map(escape)).collect();
    let width_of = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width_of).collect();
    let format_row = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(format_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_as_wide_as_their_escaped_text() {
        let rows = [vec!["a\u{202e}b".to_owned(), "c".to_owned()], vec!["d".to_owned(), "e".to_owned()]];
        assert_eq!(format_columns(&["x", "y"], &rows), ["x           y", "a\\u{202e}b  c", "d           e"]);
    }
}
