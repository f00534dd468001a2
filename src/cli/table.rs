//! Text output: labelled lines and columns.

use std::borrow::Cow;

/// Escapes control characters, so that text from elsewhere cannot send commands to the terminal.
pub(super) fn sanitize(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::new();
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

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

    pub(super) fn print(&self) {
        let width = self.0.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        for (label, value) in &self.0 {
            println!("{label:width$}  {}", sanitize(value));
        }
    }
}

/// Prints rows in columns below their headers.
pub(super) fn print_columns(headers: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..headers.len())
        .map(|column| {
            let longest = rows.iter().map(|row| sanitize(&row[column]).chars().count()).max().unwrap_or(0);
            longest.max(headers[column].len())
        })
        .collect();
    let print_row = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{:width$}", sanitize(cell))).collect();
        println!("{}", cells.join("  ").trim_end());
    };
    print_row(&mut headers.iter().copied());
    for row in rows {
        print_row(&mut row.iter().map(String::as_str));
    }
}
