//! What another text of an agent's file would change in the agent's rights, before it is written.

use std::path::Path;
use std::sync::Arc;

use crate::config::Diagnostic;

use super::agent_set::AgentSet;
use super::beside::EvaluatedAttributes;
use super::entry::AgentEntry;
use super::file::read_text;
use super::rights_changes::RightsDiff;
use super::source::FileRules;

impl AgentSet {
    /// Reads `text` as "hostbadge agent check" would read it in `file`, with the roles of this set, and compares the
    /// agent that it describes with `before`, under policies that evaluate these attributes.
    ///
    /// # Errors
    /// The faults of the text, at most 50.
    pub fn compare_text(
        &self,
        before: &AgentEntry,
        file: &Path,
        text: &str,
        rules: FileRules,
        evaluates: EvaluatedAttributes,
    ) -> Result<(AgentEntry, RightsDiff), Vec<Diagnostic>> {
        let after = read_text(file, text, rules, self.roles())?;
        let of_one = |entry: &AgentEntry| AgentSet::of_one(Arc::new(entry.clone()));
        let diff = RightsDiff::between(&of_one(before), &of_one(&after), evaluates);
        Ok((after, diff))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::agent_set::tests::{VALID_AGENT, read};

    #[test]
    fn another_text_is_compared_before_it_is_written() {
        let agents = read(&[("a.toml", VALID_AGENT)]).unwrap();
        let before = agents.get("a").unwrap();
        let rules = FileRules { trust_domain_length: 35, requires_owner: false };
        let none = EvaluatedAttributes::default();
        let under =
            |text: &str, evaluates| agents.compare_text(before, Path::new("a.toml"), text, rules, evaluates);
        let compare = |text: &str| under(text, none);
        let (same, diff) = compare(VALID_AGENT).unwrap();
        assert_eq!((&same, diff.count), (&**before, 0));
        let (_, diff) = compare(&VALID_AGENT.replace("[\"r\"]", "[]")).unwrap();
        assert_eq!((diff.count, diff.widening), (1, 0));
        // A policy may refuse because of a scope.
        let evaluates = EvaluatedAttributes { scopes: true, ..none };
        let (_, diff) = under(&VALID_AGENT.replace("[\"r\"]", "[]"), evaluates).unwrap();
        assert_eq!((diff.count, diff.widening), (1, 1));
        let (_, diff) = compare(&VALID_AGENT.replace("[\"r\"]", "[\"r\", \"w\"]")).unwrap();
        assert_eq!((diff.count, diff.widening), (1, 1));
        let faults = compare(&VALID_AGENT.replace("scopes", "scpoes")).unwrap_err();
        assert_eq!(faults[0].line, Some(6));
    }
}
