//! What a TOML file may contain: unknown keys, missing keys and values of another type, all at once and in
//! our own words.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::nearest::nearest;

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Whether the table needs it.
    pub is_required: bool,
}

/// The value of a key.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string, with an example as it is written in the file.
    Text(&'static str),
    /// A duration: a string, with an example, or a whole number of seconds.
    Duration(&'static str),
    /// A date, or a date and time, without quotes, with an example.
    Date(&'static str),
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// An array of strings, with an example.
    TextList(&'static str),
    /// A table whose keys and values are strings, with an example.
    TextMap(&'static str),
    /// A whole number from 0 to this one.
    Integer(u32),
    /// An array of whole numbers from 0 to 255, with an example.
    ByteList(&'static str),
    /// `true` or `false`.
    Boolean,
    /// A user or group: a string, or a number from 0 to 4294967295.
    UserOrGroup,
    /// A table with these keys: `[key]`.
    Table(&'static [Key]),
    /// An array of tables with these keys: `[[key]]`.
    Tables(&'static [Key]),
    /// Tables with these keys, each with a name of the administrator's choice: `[key.NAME]`.
    NamedTables(&'static [Key]),
}

/// A fault with its place in the text.
pub(super) type SpannedFault = (Range<usize>, String);

impl Key {
    /// A key that may be absent.
    pub const fn optional(name: &'static str, kind: Kind) -> Key {
        Key { name, kind, is_required: false }
    }

    /// A key that the table needs.
    pub const fn required(name: &'static str, kind: Kind) -> Key {
        Key { name, kind, is_required: true }
    }
}

/// Compares a file with its schema. Removes what has a fault from `root`, so that the rest can be read.
/// Returns the faults, and the headers of the tables from which a key was removed.
pub(super) fn check(root: &mut Spanned<DeTable<'_>>, keys: &[Key]) -> (Vec<SpannedFault>, Vec<String>) {
    let mut check = Check { file_keys: keys, faults: Vec::new(), incomplete: Vec::new() };
    let span = root.span();
    check.table(root.get_mut(), span, keys, "");
    (check.faults, check.incomplete)
}

/// Removes the innermost value whose span contains `at`; `false` if there is none.
pub(super) fn remove_value_at(table: &mut DeTable<'_>, at: usize) -> bool {
    let has = |value: &Spanned<DeValue<'_>>| holds(value, at);
    let Some((name, value)) = table.iter_mut().find(|(_, value)| has(value)) else { return false };
    let was_inside = match value.get_mut() {
        DeValue::Table(inner) => remove_value_at(inner, at),
        DeValue::Array(items) => items.iter_mut().any(|item| match item.get_mut() {
            DeValue::Table(inner) => remove_value_at(inner, at),
            _ => false,
        }),
        _ => false,
    };
    if !was_inside {
        let name = name.clone();
        table.remove(&name);
    }
    true
}

/// Whether a value or one that it contains is at this place. The span of a table is that of its header.
fn holds(value: &Spanned<DeValue<'_>>, at: usize) -> bool {
    let is_inside = match value.get_ref() {
        DeValue::Table(table) => table.iter().any(|(_, inner)| holds(inner, at)),
        DeValue::Array(items) => items.iter().any(|item| holds(item, at)),
        _ => false,
    };
    is_inside || value.span().contains(&at)
}

struct Check<'a> {
    /// The keys of the whole file, to say where a misplaced key belongs.
    file_keys: &'a [Key],
    faults: Vec<SpannedFault>,
    incomplete: Vec<String>,
}

impl Check<'_> {
    /// `header` is the table's, such as `[match]`, and empty for the file itself; `span` is that of the
    /// header.
    fn table(&mut self, table: &mut DeTable<'_>, span: Range<usize>, keys: &[Key], header: &str) {
        let mut absent: Vec<&Key> =
            keys.iter().filter(|key| key.is_required && table.get(key.name).is_none()).collect();
        let key_names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        let names: Vec<_> = table.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            let is_valid = match keys.iter().find(|key| key.name == name.get_ref()) {
                Some(key) => table.get_mut(&name).is_some_and(|value| self.value(value, name.span(), key)),
                None => {
                    let near = nearest(name.get_ref(), &key_names);
                    absent.retain(|key| Some(key.name) != near);
                    let message = self.unknown(name.get_ref(), near, &key_names, header);
                    self.fault(name.span(), message);
                    false
                }
            };
            if !is_valid {
                table.remove(&name);
                self.incomplete.push(header.to_owned());
            }
        }
        for key in absent {
            self.fault(span.clone(), missing(key, header));
        }
    }

    /// Whether the value has the kind of its key; what is inside of tables is removed there.
    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, name: Range<usize>, key: &Key) -> bool {
        let span = value.span();
        match (key.kind, value.get_mut()) {
            (Kind::Table(keys), DeValue::Table(table)) => {
                let span = if span.is_empty() { name } else { span };
                self.table(table, span, keys, &format!("[{}]", key.name));
                return true;
            }
            (Kind::Tables(keys), DeValue::Array(items)) if items.iter().all(is_table) => {
                for item in items.iter_mut() {
                    let span = item.span();
                    if let DeValue::Table(table) = item.get_mut() {
                        self.table(table, span, keys, &format!("[[{}]]", key.name));
                    }
                }
                return true;
            }
            (Kind::NamedTables(keys), DeValue::Table(tables))
                if tables.iter().all(|(_, value)| is_table(value)) =>
            {
                for (name, item) in tables.iter_mut() {
                    let (header, name) = (format!("[{}.{}]", key.name, name.get_ref()), name.span());
                    let span = item.span();
                    if let DeValue::Table(table) = item.get_mut() {
                        let span = if span.is_empty() { name } else { span };
                        self.table(table, span, keys, &header);
                    }
                }
                return true;
            }
            (kind, value) => {
                let Some(expected) = expectation(kind, key.name, value) else { return true };
                let found = describe(value);
                // A table's own span is that of its header; one without a header has that of its name.
                let span = if span.is_empty() { name } else { span };
                self.fault(span, format!("{expected}; this is {found}"));
            }
        }
        false
    }

    fn unknown(&self, name: &str, near: Option<&str>, key_names: &[&str], header: &str) -> String {
        let place = if header.is_empty() { String::new() } else { format!(" in {header}") };
        let other_table = self.file_keys.iter().find_map(|table| match table.kind {
            Kind::Table(keys) if keys.iter().any(|key| key.name == name) => Some(format!("[{}]", table.name)),
            Kind::Tables(keys) if keys.iter().any(|key| key.name == name) => {
                Some(format!("[[{}]]", table.name))
            }
            Kind::NamedTables(keys) if keys.iter().any(|key| key.name == name) => {
                Some(format!("[{}.NAME]", table.name))
            }
            _ => None,
        });
        let is_top_level = self.file_keys.iter().any(|key| key.name == name);
        let hint = match (near, other_table) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, Some(table)) => format!("it belongs below {table}"),
            (None, None) if is_top_level => "it belongs above the first line that begins with [".into(),
            (None, None) => format!("the keys are {}", key_names.join(", ")),
        };
        format!("unknown key `{name}`{place}; {hint}")
    }

    fn fault(&mut self, span: Range<usize>, message: String) {
        self.faults.push((span, message));
    }
}

fn missing(key: &Key, header: &str) -> String {
    let place = if header.is_empty() { "the file" } else { header };
    match key.kind {
        Kind::Table(_) => format!("{place} has no table [{}]", key.name),
        Kind::Tables(_) => format!("{place} has no table [[{}]]", key.name),
        Kind::NamedTables(_) => format!("{place} has no table [{}.NAME]", key.name),
        Kind::Text(example) | Kind::TextList(example) => {
            format!("{place} has no `{}`; add a line such as {} = {example}", key.name, key.name)
        }
        _ => format!("{place} has no `{}`", key.name),
    }
}

/// What the value should be, if it is something else.
fn expectation(kind: Kind, name: &str, value: &DeValue<'_>) -> Option<String> {
    let is_integer = |value: &DeValue<'_>, max: u32| match value {
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).is_ok_and(|n| (0..=max.into()).contains(&n))
        }
        _ => false,
    };
    let all = |is_valid: &dyn Fn(&DeValue<'_>) -> bool| match value {
        DeValue::Array(items) => items.iter().all(|item| is_valid(item.get_ref())),
        _ => false,
    };
    let text = match value {
        DeValue::String(text) => Some(&**text),
        _ => None,
    };
    let (is_valid, expected) = match kind {
        Kind::Text(example) => (text.is_some(), format!("{name} must be text in quotes, such as {example}")),
        Kind::Duration(example) => (
            text.is_some() || is_integer(value, u32::MAX),
            format!("{name} must be a duration, such as {example}, or a number of seconds"),
        ),
        Kind::Date(example) => (
            matches!(value, DeValue::Datetime(_)),
            format!("{name} must be a date without quotes, such as {example}"),
        ),
        Kind::Choice(choices) => {
            let quoted: Vec<String> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
            (
                text.is_some_and(|text| choices.contains(&text)),
                format!("{name} must be {}", quoted.join(" or ")),
            )
        }
        Kind::TextList(example) => (
            all(&|item| matches!(item, DeValue::String(_))),
            format!("{name} must be a list of texts, such as {example}"),
        ),
        Kind::TextMap(example) => {
            let is_text = |value: &Spanned<DeValue<'_>>| matches!(value.get_ref(), DeValue::String(_));
            (
                matches!(value, DeValue::Table(table) if table.iter().all(|(_, value)| is_text(value))),
                format!("{name} must be a table of texts, such as {example}"),
            )
        }
        Kind::Integer(max) => {
            (is_integer(value, max), format!("{name} must be a whole number from 0 to {max}, without quotes"))
        }
        Kind::ByteList(example) => (
            all(&|item| is_integer(item, u8::MAX.into())),
            format!("{name} must be a list of numbers, such as {example}"),
        ),
        Kind::Boolean => {
            (matches!(value, DeValue::Boolean(_)), format!("{name} must be true or false, without quotes"))
        }
        Kind::UserOrGroup => (
            text.is_some() || is_integer(value, u32::MAX),
            "a user or group is a name in quotes or a number from 0 to 4294967295".into(),
        ),
        Kind::Table(_) => (false, format!("expected a table `[{name}]`")),
        Kind::Tables(_) => {
            (false, format!("expected a table with two brackets, `[[{name}]]`, for each {name}"))
        }
        Kind::NamedTables(_) => (false, format!("expected a table `[{name}.NAME]` for each {name}")),
    };
    (!is_valid).then_some(expected)
}

fn is_table(value: &Spanned<DeValue<'_>>) -> bool {
    matches!(value.get_ref(), DeValue::Table(_))
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() > 40 => "other text".into(),
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(number) => format!("the number {}", number_text(number.as_str())),
        DeValue::Float(number) => format!("the number {}", number_text(number.as_str())),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date or time".into(),
        DeValue::Array(items) if !items.is_empty() && items.iter().all(is_table) => "a list of tables".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a single table".into(),
    }
}

fn number_text(text: &str) -> &str {
    if text.len() > 40 { "of many digits" } else { text }
}
