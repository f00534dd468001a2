//! The narrowed files of a review, checked before anyone sees them.

use std::path::PathBuf;

use toml_edit::TomlError;

use super::counts::totals_of;
use super::narrow::{narrow, unified_diff};
use super::types::{AgentReview, AgentState, Review, Use};
use crate::agents::{AgentEntry, AgentSet, EvaluatedAttributes, FileRules};
use crate::config::{Diagnostic, SourceFile};

/// A file of an agent, and what it would be without what was not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarrowedFile {
    /// The agent's name.
    pub agent: String,
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub before: String,
    /// The narrowed text.
    pub after: String,
}

/// Narrows the files of those agents that the review says, and puts the differences into the review. `agents` are
/// those that were reviewed. A file is left out, with the reason in the review, unless "hostbadge agent check" would
/// accept the narrowed text, no right becomes wider by it under policies that evaluate these attributes, and what was
/// used is still granted. Blocking.
pub fn narrowed_files(
    review: &mut Review,
    agents: &AgentSet,
    rules: FileRules,
    evaluates: EvaluatedAttributes,
) -> Vec<NarrowedFile> {
    let rules = Rules { rules, evaluates };
    let mut files = Vec::new();
    let narrowed = review.agents.iter_mut().filter(|agent| agent.state == AgentState::Narrow);
    for row in narrowed {
        match narrowed_file(row, agents, rules) {
            Ok(file) => {
                let path = file.path.to_string_lossy();
                row.diff = Some(unified_diff(&path, &file.before, &file.after));
                files.push(file);
            }
            Err(reason) => row.not_narrowed = Some(reason.to_string()),
        }
    }
    review.totals = totals_of(&review.agents);
    files
}

/// By what a narrowed text is judged.
#[derive(Clone, Copy)]
struct Rules {
    rules: FileRules,
    evaluates: EvaluatedAttributes,
}

/// Why a file is not narrowed.
#[derive(Debug, thiserror::Error)]
enum NotNarrowed {
    #[error("{0}")]
    Unreadable(Diagnostic),
    #[error("the file has changed while it was reviewed")]
    Changed,
    #[error("it cannot be edited: {}", .0.message())]
    NotEditable(#[from] TomlError),
    #[error("the narrowed file would have a fault: {0}")]
    Faulty(String),
    #[error("the narrowed file would make a right wider: {0}")]
    Wider(String),
    #[error("the narrowed file would not grant what was used of {0}")]
    LacksGrant(String),
    #[error("the narrowed file would lack the credential {0}, which was used")]
    LacksCredential(String),
}

fn narrowed_file(row: &AgentReview, agents: &AgentSet, rules: Rules) -> Result<NarrowedFile, NotNarrowed> {
    let source = SourceFile::read(&row.file).map_err(NotNarrowed::Unreadable)?;
    let before = source.text();
    let entry = agents.get(&row.name).ok_or(NotNarrowed::Changed)?;
    let is_same = agents
        .compare_text(entry, &row.file, before, rules.rules, rules.evaluates)
        .is_ok_and(|(read, _)| read == **entry);
    if !is_same {
        return Err(NotNarrowed::Changed);
    }
    let after = narrow(before, row)?;
    check(row, agents, entry, &after, rules)?;
    let (agent, path) = (row.name.clone(), row.file.clone());
    Ok(NarrowedFile { agent, path, before: before.to_owned(), after })
}

/// Whether the narrowed text may be proposed.
fn check(
    row: &AgentReview,
    agents: &AgentSet,
    before: &AgentEntry,
    after: &str,
    rules: Rules,
) -> Result<(), NotNarrowed> {
    let (entry, diff) = agents
        .compare_text(before, &row.file, after, rules.rules, rules.evaluates)
        .map_err(|faults| NotNarrowed::Faulty(faults.first().map(ToString::to_string).unwrap_or_default()))?;
    if let Some(wider) = diff.changes.iter().find(|change| change.widens) {
        return Err(NotNarrowed::Wider(wider.description.clone()));
    }
    for grant in row.grants.iter().filter(|grant| grant.state == Use::Used) {
        let mut used = grant.scopes.iter().filter(|scope| scope.state == Use::Used);
        let is_granted = entry.grant(&grant.audience).is_some_and(|granted| {
            used.all(|scope| granted.scopes.contains(&scope.scope))
                && grant.longest.unwrap_or_default().min(grant.ttl) <= granted.ttl.as_secs()
        });
        if !is_granted {
            return Err(NotNarrowed::LacksGrant(grant.audience.clone()));
        }
    }
    let mut used = row.credentials.iter().filter(|credential| credential.state == Use::Used);
    match used.find(|credential| entry.credential(&credential.name).is_none()) {
        Some(missing) => Err(NotNarrowed::LacksCredential(missing.name.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::agents::AgentSource;
    use crate::audit::{AgentUsage, AudienceUsage, CredentialUsage};
    use crate::clock::Timestamp;
    use crate::review::compare::{Basis, review_agent};
    use crate::review::samples::{self, NOW};

    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

    const NONE: EvaluatedAttributes = EvaluatedAttributes::NONE;

    fn basis(days: u32) -> Basis {
        Basis { known_since: NOW.before(DAY * days), is_enough: true, evaluates: NONE }
    }

    /// Numbers that look random and are the same in each run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }

        fn chance(&mut self) -> bool {
            self.below(2) == 0
        }
    }

    fn scopes(numbers: &mut Numbers) -> Vec<String> {
        ["a", "b", "c", "d"].iter().filter(|_| numbers.chance()).map(|&scope| scope.to_owned()).collect()
    }

    /// A file in one of the forms in which people write it, with roles that grant some of the same.
    fn agent_text(numbers: &mut Numbers) -> String {
        let mut text = format!("name = \"a\" # {}\n", numbers.below(100));
        if numbers.chance() {
            text += "roles = [\"r\"]\n";
        }
        let inline = numbers.chance();
        let mut grants = Vec::new();
        for audience in 0..numbers.below(5) {
            let scopes: Vec<String> = scopes(numbers).iter().map(|scope| format!("\"{scope}\"")).collect();
            let separator = if numbers.chance() { ", " } else { ", # c\n  " };
            let ttl = ["", "ttl = 90", "ttl = \"1h\"", "ttl = \"2m\""][numbers.below(4) as usize];
            let list = format!("[{}]", scopes.join(separator));
            match inline {
                true => {
                    let ttl = if ttl.is_empty() { String::new() } else { format!(", {ttl}") };
                    grants.push(format!("{{ audience = \"https://{audience}\", scopes = {list}{ttl} }}"));
                }
                false => grants.push(format!(
                    "# {audience}\n[[grant]]\naudience = \"https://{audience}\"\nscopes = {list}\n{ttl}\n"
                )),
            }
        }
        if inline {
            text += &format!("grant = [{}]\n", grants.join(", "));
        }
        text += "[match]\nuser = 0\n";
        if !inline {
            text += &grants.concat();
        }
        for credential in 0..numbers.below(3) {
            let usage = if numbers.chance() { "release" } else { "inject" };
            text += &format!("[[credential]]\nname = \"c{credential}\"\nuse = \"{usage}\"\n");
        }
        text
    }

    /// What an agent used, which its file or its roles grant, or once granted.
    fn usage(numbers: &mut Numbers) -> AgentUsage {
        let mut usage = AgentUsage::from_time(NOW.before(DAY * 30));
        let at = NOW.before(DAY);
        for audience in 0..5 {
            if numbers.chance() {
                let scopes = scopes(numbers).into_iter().collect();
                let lifetime = 1 + numbers.below(3600);
                let is_cut = numbers.below(8) == 0;
                let used = AudienceUsage {
                    count: 1,
                    last: Some(at),
                    scopes,
                    is_cut,
                    lifetime,
                    ..Default::default()
                };
                usage.by_audience.insert(format!("https://{audience}"), used);
            }
        }
        if numbers.chance() {
            usage.credentials.insert("c0".to_owned(), CredentialUsage { count: 1, last: Some(at) });
        }
        usage.is_cut = numbers.below(8) == 0;
        usage.last_given = (numbers.below(4) > 0).then_some(at);
        usage.last_seen = usage.last_given;
        usage
    }

    #[test]
    fn narrowed_files_are_accepted_grant_less_and_still_what_was_used() {
        const ROLE: &str = "[[grant]]\naudience = \"https://0\"\nscopes = [\"a\", \"x\"]\nttl = \"1h\"\n\
                            [[credential]]\nname = \"c1\"\nuse = \"release\"\n";
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("agents.d");
        fs::create_dir(&dir).unwrap();
        fs::create_dir(root.path().join("roles.d")).unwrap();
        fs::write(root.path().join("roles.d/r.toml"), format!("name = \"r\"\n{ROLE}")).unwrap();
        let source = AgentSource::beside(&dir, 35);
        let path = dir.join("a.toml");
        let mut numbers = Numbers(7);
        let mut narrowed = 0;
        for round in 0..400 {
            let text = agent_text(&mut numbers);
            fs::write(&path, &text).unwrap();
            let agents = AgentSet::read_from(&source)
                .unwrap_or_else(|faults| panic!("round {round}: {}\n{text}", faults[0]));
            let used = usage(&mut numbers);
            let entry = agents.get("a").unwrap();
            let row = review_agent(entry, &path, &used, basis(30));
            let mut review = samples::review(vec![row]);
            let files = narrowed_files(&mut review, &agents, source.rules, NONE);
            let row = &review.agents[0];
            assert_eq!(row.not_narrowed, None, "round {round}:\n{text}");
            let Some(file) = files.first() else {
                assert_ne!(row.state, AgentState::Narrow, "round {round}:\n{text}");
                continue;
            };
            narrowed += 1;
            assert_ne!(file.after, file.before, "round {round}");
            fs::write(&path, &file.after).unwrap();
            let after = AgentSet::read_from(&source)
                .unwrap_or_else(|faults| panic!("round {round}: {}\n{}", faults[0], file.after));
            let (_, diff) = agents.compare_text(entry, &path, &file.after, source.rules, NONE).unwrap();
            assert!(diff.count > 0 && diff.widening == 0, "round {round}: {diff:?}");
            assert_still_granted(&used, entry, after.get("a").unwrap());
            // What is left was used or is not known: the next review proposes nothing.
            let again = review_agent(after.get("a").unwrap(), &path, &used, basis(30));
            assert_eq!(again.state, AgentState::Keep, "round {round}:\n{}\n{}", file.before, file.after);
        }
        assert!(narrowed > 100, "{narrowed} of 400");
    }

    /// Asserts that a request as those of the period gets what it got, as far as the file granted it before.
    fn assert_still_granted(used: &AgentUsage, before: &AgentEntry, after: &AgentEntry) {
        for (audience, used) in &used.by_audience {
            let Some(old) = before.grant(audience) else { continue };
            let new = after.grant(audience).unwrap_or_else(|| panic!("no grant for {audience}"));
            for scope in used.scopes.iter().filter(|scope| old.scopes.contains(*scope)) {
                assert!(new.scopes.contains(scope), "{audience} {scope}");
            }
            assert!(new.ttl.as_secs() >= used.lifetime.min(old.ttl.as_secs()), "{audience}");
        }
        for name in used.credentials.keys().filter(|name| before.credential(name).is_some()) {
            assert!(after.credential(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_file_that_changed_or_would_grant_more_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let text = "name = \"a\"\n[match]\nuser = 0\n[[grant]]\naudience = \"x\"\nscopes = [\"r\", \"w\"]\n";
        fs::write(&path, text).unwrap();
        let source = AgentSource::beside(dir.path(), 35);
        let agents = AgentSet::read_from(&source).unwrap();
        let entry = agents.get("a").unwrap();
        let at = NOW.before(DAY);
        let used = AudienceUsage {
            count: 1,
            last: Some(at),
            scopes: ["r".to_owned()].into(),
            lifetime: 300,
            ..AudienceUsage::default()
        };
        let mut usage = AgentUsage::from_time(Timestamp::from_secs(0));
        usage.by_audience = HashMap::from([("x".to_owned(), used)]);
        usage.last_given = Some(at);
        let row = review_agent(entry, &path, &usage, basis(2));
        let rules = Rules { rules: source.rules, evaluates: NONE };
        let reason = |text: &str| check(&row, &agents, entry, text, rules).unwrap_err().to_string();
        assert!(
            reason(&text.replace("scopes", "scpoes")).starts_with("the narrowed file would have a fault: ")
        );
        let wider = reason(&text.replace("\"w\"", "\"z\""));
        assert!(
            wider.starts_with("the narrowed file would make a right wider: agent a: grant for x:"),
            "{wider}"
        );
        let less = reason(&text.replace("\"r\", ", ""));
        assert_eq!(less, "the narrowed file would not grant what was used of x");
        assert!(check(&row, &agents, entry, &text.replace(", \"w\"", ""), rules).is_ok());
        // A policy that refuses some scopes could give more for fewer of them.
        let evaluates = EvaluatedAttributes { scopes: true, ..NONE };
        let rules = Rules { evaluates, ..rules };
        let wider = check(&row, &agents, entry, &text.replace(", \"w\"", ""), rules).unwrap_err();
        assert!(matches!(wider, NotNarrowed::Wider(_)), "{wider}");

        fs::write(&path, text.replace("\"w\"", "\"v\"")).unwrap();
        let mut review = samples::review(vec![row]);
        assert_eq!(narrowed_files(&mut review, &agents, source.rules, NONE), []);
        let reason = review.agents[0].not_narrowed.as_deref();
        assert_eq!(reason, Some("the file has changed while it was reviewed"));
        assert!(review.agents[0].diff.is_none() && Path::new(&review.agents[0].file).exists());
    }
}
