//! Removes from an agent's file what a review says, and keeps the rest as it is written, with its comments.

use std::time::Duration;

use toml_edit::{Array, DocumentMut, Item, RawString, TableLike, TomlError, Value};

use super::types::{AgentReview, Narrowing};

/// The text of an agent's file without what `review` proposes to remove from it.
///
/// A comment goes with the table or scope above or beside which it stands.
///
/// # Errors
/// The text is not TOML.
pub fn narrow(text: &str, review: &AgentReview) -> Result<String, TomlError> {
    let mut document: DocumentMut = text.parse()?;
    let narrowing_of = |audience: &str| {
        let mut own = review.grants.iter().filter(|grant| grant.role.is_none());
        own.find(|grant| grant.audience == audience).map(|grant| &grant.narrowing)
    };
    let is_removed = |name: &str| {
        let mut own = review.credentials.iter().filter(|credential| credential.role.is_none());
        own.any(|credential| credential.remove && credential.name == name)
    };
    if let Some(grants) = document.get_mut("grant") {
        retain_tables(grants, |table| {
            let narrowing = text_of(table, "audience").and_then(narrowing_of);
            !narrowing.is_some_and(|narrowing| narrowing.remove)
        });
        for_each_table(grants, |table| {
            if let Some(narrowing) = text_of(table, "audience").and_then(narrowing_of) {
                narrow_grant(table, narrowing);
            }
        });
    }
    if let Some(credentials) = document.get_mut("credential") {
        retain_tables(credentials, |table| !text_of(table, "name").is_some_and(is_removed));
    }
    Ok(document.to_string())
}

/// A unified diff from one text of a file to another one.
pub(super) fn unified_diff(file: &str, before: &str, after: &str) -> String {
    let diff = similar::TextDiff::from_lines(before, after);
    diff.unified_diff().context_radius(3).header(file, file).to_string()
}

fn text_of<'a>(table: &'a dyn TableLike, key: &str) -> Option<&'a str> {
    table.get(key)?.as_str()
}

/// Keeps those of the tables `[[x]]`, or of the inline tables `x = [{…}]`, that `keeps` accepts.
fn retain_tables(item: &mut Item, keeps: impl Fn(&dyn TableLike) -> bool) {
    match item {
        Item::ArrayOfTables(tables) => tables.retain(|table| keeps(table)),
        Item::Value(Value::Array(array)) => {
            retain_elements(array, |value| value.as_inline_table().is_none_or(|table| keeps(table)));
        }
        _ => {}
    }
}

fn for_each_table(item: &mut Item, mut change: impl FnMut(&mut dyn TableLike)) {
    match item {
        Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| change(table)),
        Item::Value(Value::Array(array)) => {
            for value in array.iter_mut() {
                if let Some(table) = value.as_inline_table_mut() {
                    change(table);
                }
            }
        }
        _ => {}
    }
}

fn narrow_grant(table: &mut dyn TableLike, narrowing: &Narrowing) {
    if let Some(scopes) = table.get_mut("scopes").and_then(Item::as_array_mut)
        && !narrowing.remove_scopes.is_empty()
    {
        retain_elements(scopes, |value| {
            value.as_str().is_none_or(|scope| !narrowing.remove_scopes.iter().any(|removed| removed == scope))
        });
    }
    let Some(ttl) = narrowing.ttl else { return };
    let text = humantime::format_duration(Duration::from_secs(ttl)).to_string();
    match table.get_mut("ttl").and_then(Item::as_value_mut) {
        Some(value) => {
            let decor = value.decor().clone();
            *value = Value::from(text);
            *value.decor_mut() = decor;
        }
        None => {
            table.insert("ttl", toml_edit::value(text));
        }
    }
}

/// Keeps the elements of an array that `keeps` accepts. In the file's text, what stands between two elements is a
/// part of the second: a comment at the end of a line is about the element before it, and what follows on the next
/// lines about the element after it.
fn retain_elements(array: &mut Array, keeps: impl Fn(&Value) -> bool) {
    let kept: Vec<usize> = (0..array.len()).filter(|at| array.get(*at).is_some_and(&keeps)).collect();
    if kept.len() == array.len() {
        return;
    }
    let text = |raw: Option<&RawString>| raw.and_then(RawString::as_str).unwrap_or_default().to_owned();
    let mut gaps: Vec<Gap> = array.iter().map(|value| Gap::new(&text(value.decor().prefix()))).collect();
    gaps.push(Gap::new(&text(Some(array.trailing()))));
    let mut values = Vec::new();
    // The gap that follows the last element that was kept, which has the comment about it.
    let mut after_kept = 0;
    for at in &kept {
        let Some(mut value) = array.get(*at).cloned() else { continue };
        let is_first = values.is_empty();
        value.decor_mut().set_prefix(gaps[after_kept].joined(&gaps[*at], is_first));
        values.push(value);
        after_kept = at + 1;
    }
    let last = gaps.len() - 1;
    let trailing = gaps[after_kept].joined(&gaps[last], values.is_empty());
    let has_trailing_comma = array.trailing_comma();
    array.clear();
    values.into_iter().for_each(|value| array.push_formatted(value));
    array.set_trailing_comma(has_trailing_comma);
    array.set_trailing(trailing);
}

/// What stands between two elements.
struct Gap {
    /// Up to the end of the line, if there is one.
    same_line: String,
    /// The rest, which begins with the end of the line.
    rest: String,
}

impl Gap {
    fn new(text: &str) -> Gap {
        let at = text.find('\n').unwrap_or_default();
        let (same_line, rest) = text.split_at(at);
        Gap { same_line: same_line.to_owned(), rest: rest.to_owned() }
    }

    /// The gap between an element that this one follows and one that `next` precedes.
    fn joined(&self, next: &Gap, is_first: bool) -> String {
        let ends_line = next.rest.starts_with('\n');
        // The first element follows the bracket as the first one did before.
        let rest = if !ends_line && (is_first || !self.same_line.trim().is_empty()) {
            &self.rest
        } else {
            &next.rest
        };
        match rest.starts_with('\n') {
            true => format!("{}{rest}", self.same_line),
            false => rest.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::samples::agent_review;

    const FILE: &str = "\
# The researcher.
name = \"a\" # its name
[match]
user = 0

# Papers.
[[grant]]
audience = \"https://x\"
scopes = [
    \"read\", # reads
    # writes, for now
    \"write\", # until 2027
    \"list\",
]
ttl = \"1h\" # as the team wants

# Old.
[[grant]]
audience = \"https://old\"
scopes = [\"r\"]

# Named.
[[credential]]
name = \"c\"
use = \"release\"
[[credential]]
name = \"d\"
use = \"release\"
# the end
";

    #[test]
    fn only_what_is_removed_changes() {
        let mut review = agent_review("a", &["https://x", "https://old"], &["c", "d"]);
        assert_eq!(narrow(FILE, &review).unwrap(), FILE);
        review.grants[0].narrowing =
            Narrowing { remove: false, remove_scopes: vec!["write".into()], ttl: Some(300) };
        review.grants[1].narrowing.remove = true;
        review.credentials[0].remove = true;
        let expected = FILE
            .replace("    # writes, for now\n    \"write\", # until 2027\n", "")
            .replace("\"1h\" #", "\"5m\" #")
            .replace("# Old.\n[[grant]]\naudience = \"https://old\"\nscopes = [\"r\"]\n\n", "")
            .replace("# Named.\n[[credential]]\nname = \"c\"\nuse = \"release\"\n", "");
        let narrowed = narrow(FILE, &review).unwrap();
        assert_eq!(
            narrowed.trim_start_matches('\n').replace("\n\n[[", "\n[["),
            expected.replace("\n\n[[", "\n[[")
        );
        let diff = unified_diff("a.toml", FILE, &narrowed);
        assert!(diff.starts_with("--- a.toml\n+++ a.toml\n@@ -"), "{diff}");
        for line in ["-ttl = \"1h\" # as the team wants", "+ttl = \"5m\" # as the team wants"] {
            assert!(diff.contains(&format!("\n{line}\n")), "{diff}");
        }
        // What a role grants is not in the file.
        review.grants[1].role = Some("r".into());
        assert!(narrow(FILE, &review).unwrap().contains("https://old"));
        assert!(narrow("name = ", &review).is_err());
    }

    #[test]
    fn scopes_leave_an_array_that_is_still_one() {
        let narrowed = |scopes: &str, removed: &[&str]| {
            let text = format!("grant = [{{ audience = \"x\", scopes = {scopes} }}]\n");
            let mut review = agent_review("a", &["x"], &[]);
            review.grants[0].narrowing.remove_scopes = removed.iter().map(|&one| one.to_owned()).collect();
            let text = narrow(&text, &review).unwrap();
            let array = text.split_once("scopes = ").unwrap().1.strip_suffix(" }]\n").unwrap().to_owned();
            // Still TOML, with the others.
            assert!(text.parse::<DocumentMut>().is_ok(), "{text}");
            array
        };
        assert_eq!(narrowed(r#"["a", "b", "c"]"#, &["a"]), r#"["b", "c"]"#);
        assert_eq!(narrowed(r#"["a", "b", "c"]"#, &["b"]), r#"["a", "c"]"#);
        assert_eq!(narrowed(r#"["a", "b", "c"]"#, &["b", "c"]), r#"["a"]"#);
        assert_eq!(narrowed(r#"["a"]"#, &["a"]), "[]");
        assert_eq!(narrowed("[\n  \"a\",\n  \"b\",\n]", &["b"]), "[\n  \"a\",\n]");
        assert_eq!(narrowed("[\n  \"a\",\n  \"b\",\n]", &["a", "b"]), "[\n]");
        assert_eq!(
            narrowed("[ # all\n  \"a\", # about a\n  \"b\" # about b\n]", &["a"]),
            "[ # all\n  \"b\" # about b\n]"
        );
        assert_eq!(narrowed("[\"a\", # about a\n  \"b\", \"c\"]", &["b"]), "[\"a\", # about a\n  \"c\"]");
    }

    #[test]
    fn a_lifetime_that_was_the_default_is_written() {
        let mut review = agent_review("a", &["x"], &[]);
        review.grants[0].narrowing.ttl = Some(60);
        let text = narrow("[[grant]]\naudience = \"x\"\n[[grant]]\naudience = \"y\"\n", &review).unwrap();
        assert_eq!(text, "[[grant]]\naudience = \"x\"\nttl = \"1m\"\n[[grant]]\naudience = \"y\"\n");
    }
}
