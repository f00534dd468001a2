//! Describes a reload of the agents in one line.

use crate::agents::{AgentChanges, MAX_LISTED_NAMES};

use super::text::{MAX_CALLER_TEXT, cut_owned};

/// Returns the description: all names, or of many agents the first ones and the number of the others.
pub(super) fn detail(changes: &AgentChanges, requested_by: &str) -> String {
    let requested_by = cut_owned(requested_by.to_owned(), MAX_CALLER_TEXT);
    let AgentChanges { added, changed, removed, rights } = changes;
    let count = match changes.is_long() {
        true => format!(" ({} added, {} changed, {} removed)", added.len(), changed.len(), removed.len()),
        false => String::new(),
    };
    format!(
        "{requested_by} reloaded the agents{count}: added [{}], changed [{}], removed [{}]{}",
        list(added),
        list(changed),
        list(removed),
        rights.summary()
    )
}

fn list(names: &[String]) -> String {
    match names.len().saturating_sub(MAX_LISTED_NAMES) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..MAX_LISTED_NAMES].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::{MAX_EVENT_TEXT, encoded_len};
    use super::*;

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{prefix}{n:0>62}")).collect()
    }

    #[test]
    fn a_short_reload_names_all_agents() {
        let changes = AgentChanges { added: names("a", MAX_LISTED_NAMES), ..AgentChanges::default() };
        let expected = format!(
            "SIGHUP reloaded the agents: added [{}], changed [], removed []",
            changes.added.join(", ")
        );
        assert_eq!(detail(&changes, "SIGHUP"), expected);
    }

    #[test]
    fn a_long_reload_is_one_line_with_counts_and_the_first_names() {
        let changes = AgentChanges {
            added: names("a", 10_000),
            changed: names("c", 11),
            removed: names("r", 10),
            ..AgentChanges::default()
        };
        let line = detail(&changes, &"\u{1}".repeat(10_000));
        assert!(encoded_len(&line) <= MAX_EVENT_TEXT, "{}", encoded_len(&line));
        assert!(line.contains(" (10000 added, 11 changed, 10 removed): added ["), "{line}");
        for (names, listed, end) in [
            (&changes.added, 10, " and 9990 more]"),
            (&changes.changed, 10, " and 1 more]"),
            (&changes.removed, 10, "]"),
        ] {
            let expected = format!("[{}{end}", names[..listed].join(", "));
            assert!(line.contains(&expected), "{line}");
        }
    }
}
