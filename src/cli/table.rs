//! Text for people: labelled lines and columns.

use std::borrow::Cow;

/// What came from elsewhere, fit for a terminal: control characters are shown, not obeyed.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.chars().fold(String::new(), |mut escaped, c| {
            match c.is_control() {
                true => escaped.extend(c.escape_default()),
                false => escaped.push(c),
            }
            escaped
        })),
    }
}

/// A block of `label  value` lines, labels padded to one width.
#[derive(Default)]
pub struct KeyValueTable(Vec<(String, String)>);

impl KeyValueTable {
    pub fn add(&mut self, label: &str, value: impl Into<String>) -> &mut Self {
        self.0.push((label.to_owned(), value.into()));
        self
    }

    pub fn print(&self) {
        let width = self.0.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        for (label, value) in &self.0 {
            println!("{label:width$}  {}", sanitize(value));
        }
    }
}

/// Prints rows in columns under their heads.
pub fn print_columns(headers: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..headers.len())
        .map(|at| {
            let longest = rows.iter().map(|row| sanitize(&row[at]).chars().count()).max().unwrap_or(0);
            longest.max(headers[at].len())
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let text: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{:width$}", sanitize(cell))).collect();
        println!("{}", text.join("  ").trim_end());
    };
    line(&mut headers.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}
