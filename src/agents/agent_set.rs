//! A whole set of agents, read from a directory: all of it, or the list of its faults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Diagnostic, PostureMode, list_files};

use super::{AgentEntry, Grant, file};

/// More files than this in one directory are not a registry.
const MAX_AGENT_FILES: usize = 10_000;

/// The agents in force, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct AgentSet {
    entries: BTreeMap<String, std::sync::Arc<AgentEntry>>,
}

/// What a reload changed, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AgentChanges {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl AgentSet {
    /// Reads `*.toml` in `dir`. A directory that is not there holds no agents.
    ///
    /// `trust_domain_length` is what the trust domain will take of the 127 characters of a SPIFFE ID.
    pub fn read(dir: &Path, trust_domain_length: usize) -> Result<AgentSet, Vec<Diagnostic>> {
        let mut faults = Vec::new();
        let mut path_by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
        let mut agents = AgentSet::default();
        let paths = list_files(dir, "toml", MAX_AGENT_FILES, "paths.agents").map_err(|fault| vec![fault])?;
        for path in paths {
            let entry = match file::read(&path, trust_domain_length) {
                Ok(entry) => entry,
                Err(file_faults) => {
                    faults.extend(file_faults);
                    continue;
                }
            };
            let name = entry.name.to_string();
            if let Some(first_path) = path_by_name.get(&name) {
                let message = format!(
                    "agent \"{name}\" is already in {}; give one of them another name",
                    first_path.display()
                );
                faults.push(Diagnostic { file: path, line: None, message });
                continue;
            }
            path_by_name.insert(name.clone(), path);
            agents.entries.insert(name, std::sync::Arc::new(entry));
        }
        if faults.is_empty() { Ok(agents) } else { Err(faults) }
    }

    /// Whether somebody's grant goes by the host's posture, whatever the host's configuration says.
    pub fn uses_posture(&self) -> bool {
        let evaluates_posture = |grant: &Grant| grant.posture.is_some_and(|mode| mode != PostureMode::Off);
        self.entries.values().any(|entry| entry.grants.iter().any(evaluates_posture))
    }

    /// Whether some agent's executable has to be measured.
    pub fn uses_ima(&self) -> bool {
        self.entries.values().any(|entry| entry.selectors.measured)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&std::sync::Arc<AgentEntry>> {
        self.entries.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &std::sync::Arc<AgentEntry>> {
        self.entries.values()
    }

    /// Whether any grant asks for RS256.
    pub fn uses_rs256(&self) -> bool {
        let is_rs256 = |grant: &super::Grant| grant.alg == super::Algorithm::Rs256;
        self.iter().any(|entry| entry.grants.iter().any(is_rs256))
    }

    /// What `self` changes against `before`.
    pub fn changes_since(&self, previous: &AgentSet) -> AgentChanges {
        let mut changes = AgentChanges::default();
        for (name, entry) in &self.entries {
            match previous.entries.get(name) {
                None => changes.added.push(name.clone()),
                Some(old) if old != entry => changes.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        changes.removed =
            previous.entries.keys().filter(|name| !self.entries.contains_key(*name)).cloned().collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const VALID_AGENT: &str =
        "name = \"a\"\n[match]\nuser = 0\n[[grant]]\naudience = \"https://x\"\nscopes = [\"r\"]\n";

    fn read(files: &[(&str, &str)]) -> Result<AgentSet, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        AgentSet::read(dir.path(), 35).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(|f| f.to_string()).collect();
            lines.join("\n").replace(dir.path().to_str().unwrap(), "")
        })
    }

    #[test]
    fn reads_toml_files_only() {
        let agents =
            read(&[("a.toml", VALID_AGENT), ("note.txt", "not an agent"), (".b.toml.swp", "nor this")])
                .unwrap();
        assert_eq!(agents.len(), 1);
        let grant = &agents.get("a").unwrap().grants[0];
        assert_eq!((grant.audience.as_str(), grant.ttl.as_secs()), ("https://x", 300));
        assert!(AgentSet::read(Path::new("/nonexistent/agents.d"), 35).unwrap().is_empty());
    }

    #[test]
    fn measured_requires_exe_selector() {
        let with =
            |more: &str| VALID_AGENT.replace("user = 0\n", &format!("user = 0\nmeasured = true\n{more}"));
        let faults = read(&[("a.toml", &with(""))]).unwrap_err();
        assert!(faults.contains("a.toml:4") && faults.contains("beside no exe or exe_sha256"), "{faults}");
        let digest = format!("exe_sha256 = \"{}\"\n", "00".repeat(32));
        for selector in ["exe = \"/usr/bin/agent\"\n", &digest] {
            assert!(read(&[("a.toml", &with(selector))]).unwrap().uses_ima());
        }
        assert!(
            read(&[("a.toml", &VALID_AGENT.replace("user = 0\n", "user = 0\nmeasured = false\n"))]).is_ok()
        );
    }

    #[test]
    fn reports_all_faults() {
        let b = "name = \"B\"\n[match]\nunit = \"x\"\nexe = \"bin\"\nexe_sha256 = \"12\"\n[[grant]]\naudience = \"\"\nttl = \"2h\"\nscopes = [\"a\", \"a\", \"b c\"]\n";
        let e = "name = \"e\"\n[match]\nuser = 0\n[[grant]]\naudience = \"x\"\nassurance = \"sealed\"\nalg = \"RS256\"\n";
        let faults = read(&[
            ("a.toml", VALID_AGENT),
            ("b.toml", b),
            ("c.toml", "name = \"c\"\n[match]\n"),
            ("d.toml", VALID_AGENT),
            ("e.toml", e),
        ])
        .unwrap_err();
        for expected in [
            "/b.toml:1: \"B\" is no name",
            "/b.toml:3: unit is",
            "/b.toml:4: exe is an absolute path",
            "/b.toml:5: a SHA-256 digest",
            "/b.toml:7: an audience is",
            "/b.toml:8: ttl is at least 1s and never above 1h",
            "/b.toml:9: this scope stands here twice",
            "/b.toml:9: a scope is one word",
            "/c.toml:2: no user, group or unit",
            "/e.toml:6: alg = \"RS256\" is signed by the TPM itself; drop assurance",
            "/d.toml: agent \"a\" is already in",
        ] {
            assert!(faults.contains(expected), "{expected}\nnot in\n{faults}");
        }
    }

    #[test]
    fn rs256_implies_tpm_assurance() {
        use super::super::{Algorithm, Assurance};
        let signed_by = |lines: &str| {
            let agents = read(&[("a.toml", &(VALID_AGENT.to_owned() + lines))]).unwrap();
            let grant = &agents.get("a").unwrap().grants[0];
            (grant.assurance, grant.alg, agents.uses_rs256())
        };
        assert_eq!(signed_by(""), (Assurance::Sealed, Algorithm::Es256, false));
        assert_eq!(signed_by("assurance = \"tpm\"\n"), (Assurance::Tpm, Algorithm::Es256, false));
        assert_eq!(signed_by("alg = \"RS256\"\n"), (Assurance::Tpm, Algorithm::Rs256, true));
        let both = "assurance = \"tpm\"\nalg = \"RS256\"\n";
        assert_eq!(signed_by(both), (Assurance::Tpm, Algorithm::Rs256, true));
    }

    #[test]
    fn rejects_overlong_spiffe_id() {
        let text = VALID_AGENT.replace("\"a\"", &format!("\"{}\"", "a".repeat(45)));
        let fault = read(&[("a.toml", &text)]).unwrap_err();
        assert!(
            fault.starts_with(
                "/a.toml:1: the SPIFFE ID would have 128 characters; shorten name or tenant by 1"
            ),
            "{fault}"
        );
        assert!(
            read(&[("a.toml", &VALID_AGENT.replace("\"a\"", &format!("\"{}\"", "a".repeat(44))))]).is_ok()
        );
    }

    #[test]
    fn rejects_world_writable_or_symlinked_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(AgentSet::read(dir.path(), 35).unwrap_err()[0].message.contains("chmod o-w"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(AgentSet::read(&link, 35).unwrap_err()[0].message.contains("symbolic link"));
    }

    #[test]
    fn lists_added_changed_and_removed() {
        let before =
            read(&[("a.toml", VALID_AGENT), ("b.toml", &VALID_AGENT.replace("\"a\"", "\"b\""))]).unwrap();
        let after = read(&[
            ("a.toml", &VALID_AGENT.replace("\"r\"", "\"w\"")),
            ("c.toml", &VALID_AGENT.replace("\"a\"", "\"c\"")),
        ])
        .unwrap();
        let changes = after.changes_since(&before);
        assert_eq!(
            (changes.added, changes.changed, changes.removed),
            (vec!["c".into()], vec!["a".into()], vec!["b".into()])
        );
    }
}
