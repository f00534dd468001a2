//! A bounded list of changes of rights, of agents and of policies alike.

use crate::plural::counted;

/// Changes that are kept; all are counted.
pub(super) const MAX_KEPT: usize = 100;
/// Changes that a summary lists. Their number is always given.
const MAX_LISTED: usize = 5;
/// Length of one description, in characters.
const MAX_DESCRIPTION_LEN: usize = 160;

/// What a reload changes in the rights of agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RightsDiff {
    /// Changes that widen the rights, then others; the first 100.
    pub changes: Vec<RightsChange>,
    /// Number of all changes.
    pub count: usize,
    /// Number of changes that widen the rights.
    pub widening: usize,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RightsChange {
    /// `agent NAME`, `role NAME` or `policy LABEL`, and what changed.
    pub description: String,
    /// Whether it widens the rights.
    pub widens: bool,
}

/// Collects changes.
#[derive(Default)]
pub struct RightsCollector {
    widening: Vec<RightsChange>,
    others: Vec<RightsChange>,
    widening_count: usize,
    other_count: usize,
}

impl RightsCollector {
    /// Adds what changed for `holder`: `agent NAME`, `role NAME` or `policy LABEL`.
    pub fn add(&mut self, holder: &str, what: &str, widens: bool) {
        let (kept, count) = match widens {
            true => (&mut self.widening, &mut self.widening_count),
            false => (&mut self.others, &mut self.other_count),
        };
        *count += 1;
        if kept.len() < MAX_KEPT {
            let description = format!("{holder}: {what}").chars().take(MAX_DESCRIPTION_LEN).collect();
            kept.push(RightsChange { description, widens });
        }
    }

    /// The changes that widen, then the others.
    pub fn finish(self) -> RightsDiff {
        let (count, widening) = (self.widening_count + self.other_count, self.widening_count);
        let changes = self.widening.into_iter().chain(self.others).take(MAX_KEPT).collect();
        RightsDiff { changes, count, widening }
    }
}

impl RightsChange {
    /// The description, which says whether the change widens.
    pub fn text(&self) -> String {
        let wider = if self.widens { " (wider)" } else { "" };
        format!("{}{wider}", self.description)
    }
}

impl RightsDiff {
    /// `; 2 changes of rights, 1 of them wider: [the first five]`; empty without any.
    pub fn summary(&self) -> String {
        if self.count == 0 {
            return String::new();
        }
        let listed: Vec<String> = self.changes.iter().take(MAX_LISTED).map(RightsChange::text).collect();
        let more = match self.count.saturating_sub(listed.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (count, widening) = (counted(self.count, "change"), self.widening);
        format!("; {count} of rights, {widening} of them wider: [{}{more}]", listed.join(", "))
    }

    /// The changes of both; of those that widen, this one's first.
    pub fn joined(&self, other: &RightsDiff) -> RightsDiff {
        let all = || self.changes.iter().chain(&other.changes);
        let (widening, others) = (all().filter(|one| one.widens), all().filter(|one| !one.widens));
        RightsDiff {
            changes: widening.chain(others).take(MAX_KEPT).cloned().collect(),
            count: self.count + other.count,
            widening: self.widening + other.widening,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(holder: &str, widening: usize, others: usize) -> RightsDiff {
        let mut collector = RightsCollector::default();
        (0..others).for_each(|n| collector.add(holder, &format!("o{n}"), false));
        (0..widening).for_each(|n| collector.add(holder, &format!("w{n}"), true));
        collector.finish()
    }

    #[test]
    fn of_two_lists_the_changes_that_widen_stand_first() {
        let joined = diff("agent a", 1, 1).joined(&diff("policy p", 1, 1));
        let texts: Vec<String> = joined.changes.iter().map(RightsChange::text).collect();
        assert_eq!(texts, ["agent a: w0 (wider)", "policy p: w0 (wider)", "agent a: o0", "policy p: o0"]);
        assert_eq!((joined.count, joined.widening), (4, 2));
        let long = diff("agent a", 90, 90).joined(&diff("policy p", 90, 90));
        assert_eq!((long.changes.len(), long.count, long.widening), (MAX_KEPT, 360, 180));
        assert!(long.changes.iter().all(|one| one.widens));
        let listed = "agent a: w0 (wider), agent a: w1 (wider), agent a: w2 (wider), agent a: w3 (wider), agent a: w4 (wider)";
        let expected = format!("; 360 changes of rights, 180 of them wider: [{listed} and 355 more]");
        assert_eq!(long.summary(), expected);
        let empty = RightsDiff::default();
        assert_eq!(empty.summary(), "");
        assert_eq!(empty.joined(&empty), empty);
    }

    #[test]
    fn a_description_is_bounded() {
        let diff = diff(&format!("policy {}", "é".repeat(1_000)), 1, 0);
        assert_eq!(diff.changes[0].description.chars().count(), MAX_DESCRIPTION_LEN);
    }
}
