//! Splits the description of a reload into as many lines as its agents' names need.

use crate::agents::AgentChanges;

use super::text::{MAX_CALLER_TEXT, MAX_EVENT_TEXT, cut_owned, encoded_len};

/// Bytes that a description needs beside the requester and the names: its words and two numbers.
const MAX_WORDS_LEN: usize = 128;
/// Bytes of names in one description.
const MAX_NAMES_LEN: usize = MAX_EVENT_TEXT - MAX_CALLER_TEXT - MAX_WORDS_LEN;

/// Names of one line: added, changed, removed.
type Names<'a> = [Vec<&'a str>; 3];

/// Returns descriptions that together name all agents. If there are several, each has its number.
pub(super) fn details(changes: &AgentChanges, requested_by: &str) -> Vec<String> {
    let requested_by = cut_owned(requested_by.to_owned(), MAX_CALLER_TEXT);
    let parts = split(changes);
    let count = parts.len();
    let describe = |(at, [added, changed, removed]): (usize, &Names<'_>)| {
        let part = if count == 1 { String::new() } else { format!(" (part {} of {count})", at + 1) };
        format!(
            "{requested_by} reloaded the agents{part}: added [{}], changed [{}], removed [{}]",
            added.join(", "),
            changed.join(", "),
            removed.join(", ")
        )
    };
    parts.iter().enumerate().map(describe).collect()
}

fn split(changes: &AgentChanges) -> Vec<Names<'_>> {
    let mut parts = vec![Names::default()];
    let mut names_len = 0;
    for (kind, names) in [&changes.added, &changes.changed, &changes.removed].into_iter().enumerate() {
        for name in names {
            let name_len = encoded_len(name) + ", ".len();
            if names_len + name_len > MAX_NAMES_LEN {
                parts.push(Names::default());
                names_len = 0;
            }
            names_len += name_len;
            if let Some(part) = parts.last_mut() {
                part[kind].push(name);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{prefix}{n:0>62}")).collect()
    }

    #[test]
    fn a_short_reload_is_one_line() {
        let changes = AgentChanges { added: names("a", 2), ..AgentChanges::default() };
        let text = details(&changes, "SIGHUP");
        let expected = format!(
            "SIGHUP reloaded the agents: added [{}], changed [], removed []",
            changes.added.join(", ")
        );
        assert_eq!(text, [expected]);
    }

    #[test]
    fn a_long_reload_names_each_agent_in_numbered_lines() {
        let changes =
            AgentChanges { added: names("a", 10_000), changed: names("c", 60), removed: names("r", 10_000) };
        let lines = details(&changes, &"\u{1}".repeat(10_000));
        for (at, line) in lines.iter().enumerate() {
            assert!(encoded_len(line) <= MAX_EVENT_TEXT, "{}", encoded_len(line));
            assert!(line.contains(&format!("(part {} of {})", at + 1, lines.len())), "{line}");
        }
        for (kind, names) in
            [("added", &changes.added), ("changed", &changes.changed), ("removed", &changes.removed)]
        {
            let listed: Vec<&str> = lines
                .iter()
                .flat_map(|line| {
                    let list = line.split_once(&format!("{kind} [")).unwrap().1.split(']').next().unwrap();
                    list.split(", ").filter(|name| !name.is_empty())
                })
                .collect();
            assert_eq!(listed, names.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}
