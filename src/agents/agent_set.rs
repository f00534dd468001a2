//! A set of agents, read from a directory: either all of its files, or the list of their faults.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::config::{Diagnostic, PostureMode, list_files};
use crate::digest::sha256;
use crate::names::Name;

use super::entry::{AgentEntry, Origin};
use super::expiry::{self, Expiry};
use super::grant::{Algorithm, Grant};
use super::lint_name::Lint;
use super::read_files::read_files;
use super::role_set::{RoleSet, add_content};
use super::run_grant::RunGrant;
use super::source::AgentSource;

/// A directory with more agent files is rejected, to bound memory and load time.
const MAX_AGENT_FILES: usize = 10_000;

/// Warnings of one set, and faults of one directory, that are reported.
pub(super) const MAX_REPORTED: usize = 1000;
/// How long a reload, or a check, waits for the numbers of users and groups.
pub(super) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// An immutable set of registered agents, sorted by name. The default is the set of a registry that has not
/// read its directory without faults yet.
#[derive(Clone, Debug, Default)]
pub struct AgentSet {
    entries: BTreeMap<String, Arc<AgentEntry>>,
    /// Where each agent was read.
    origins: BTreeMap<String, Origin>,
    /// The roles that agents can refer to.
    roles: RoleSet,
    /// Digest of the names and texts of all files.
    digest: String,
    /// Ends of grants and credentials, the earliest first.
    expiries: Vec<Expiry>,
    /// Whether a grant or credential counts only at certain times.
    has_time_limits: bool,
    warnings: Vec<Diagnostic>,
    is_loaded: bool,
    is_confirmed_empty: bool,
}

impl AgentSet {
    /// Reads the files `*.toml` in `dir`, except those whose names begin with a dot. A missing directory is
    /// a fault: it may be on a file system that is not mounted, and its agents are not removed. Blocking.
    ///
    /// The roles are read from `roles.d` beside `dir`. `trust_domain_length` is as in [`AgentSource`].
    ///
    /// # Errors
    /// All faults of all files, each with file, line and fix: at most 1000, and one that says how many more.
    pub fn read(dir: &Path, trust_domain_length: usize) -> Result<AgentSet, Vec<Diagnostic>> {
        AgentSet::read_from(&AgentSource::beside(dir, trust_domain_length))
    }

    /// As [`AgentSet::read`], from any two directories. A missing directory of roles is one without roles.
    ///
    /// # Errors
    /// As [`AgentSet::read`].
    pub fn read_from(source: &AgentSource) -> Result<AgentSet, Vec<Diagnostic>> {
        let dir = &source.agents;
        let (roles, mut faults) = RoleSet::read(&source.roles);
        let mut agents = AgentSet { is_loaded: true, roles, ..AgentSet::default() };
        let missing = || {
            let message = "does not exist; create it, or set paths.agents to the right directory".into();
            vec![Diagnostic { file: dir.to_owned(), line: None, message }]
        };
        let paths = list_files(dir, "toml", MAX_AGENT_FILES, "paths.agents")
            .map_err(|fault| vec![fault])
            .and_then(|paths| paths.ok_or_else(missing))
            .map_err(|of_dir| [std::mem::take(&mut faults), of_dir].concat())?;
        let mut contents = Vec::new();
        let results = read_files(&paths, source.rules, &agents.roles);
        for (path, result) in paths.into_iter().zip(results) {
            let (entry, match_line) = match result {
                Ok(agent) => {
                    add_content(&mut contents, &path, &agent.digest);
                    agents.warnings.extend(agent.warnings);
                    (agent.entry, agent.match_line)
                }
                Err(file_faults) => {
                    faults.extend(file_faults);
                    continue;
                }
            };
            let name = entry.name.to_string();
            if let Some(first) = agents.origins.get(&name) {
                let message = format!(
                    "agent \"{name}\" is already in {}; give one of them another name",
                    first.file.display()
                );
                faults.push(Diagnostic { file: path, line: None, message });
                continue;
            }
            agents.origins.insert(name.clone(), Origin { file: path, match_line });
            agents.entries.insert(name, Arc::new(entry));
        }
        if agents.entries.is_empty() {
            let message = "has no files *.toml, so no process is an agent; if all were removed on purpose \
                           while the daemon did not run, \"hostbadge agent reload --allow-empty\" also \
                           revokes their certificates";
            let message = Lint::NoAgents.about(message);
            agents.warnings.push(Diagnostic { file: dir.to_owned(), line: None, message });
        }
        agents.warnings.extend_from_slice(agents.roles.warnings());
        if let Some(more) = faults.len().checked_sub(MAX_REPORTED).filter(|more| *more > 0) {
            faults.truncate(MAX_REPORTED);
            let message = format!("has {more} more faults; correct these first");
            faults.push(Diagnostic { file: dir.to_owned(), line: None, message });
        }
        let contents = [sha256(agents.roles.contents()), sha256(&contents)].concat();
        agents.digest = HEXLOWER.encode(&sha256(&contents));
        agents.expiries = expiry::all(agents.iter().map(|entry| &**entry), &agents.roles);
        agents.has_time_limits =
            !agents.expiries.is_empty() || agents.iter().any(|entry| has_time_limits(entry));
        if faults.is_empty() { Ok(agents) } else { Err(faults) }
    }

    /// Whether a grant evaluates the host's posture, regardless of the host's configuration.
    pub fn uses_posture(&self) -> bool {
        let evaluates_posture = |grant: &Grant| grant.posture.is_some_and(|mode| mode != PostureMode::Off);
        self.entries.values().any(|entry| entry.grants().any(|granted| evaluates_posture(granted.item)))
    }

    /// Whether a file permits users to start commands.
    pub(super) fn has_run(&self) -> bool {
        self.entries.values().any(|entry| entry.run.is_some())
    }

    /// Whether an agent requires that IMA has measured its executable.
    pub fn uses_ima(&self) -> bool {
        self.entries.values().any(|entry| entry.selectors.measured)
    }

    /// Returns the names of users and groups in selectors and in `[run]`.
    pub fn user_and_group_names(&self) -> BTreeSet<Name> {
        let names_of_run =
            |entry: &AgentEntry| entry.run.iter().flat_map(RunGrant::names).collect::<Vec<_>>();
        self.iter().flat_map(|entry| entry.selectors.names().chain(names_of_run(entry))).collect()
    }

    /// What is valid in one file but probably not meant.
    pub(super) fn file_warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// The agents with their files, and the lines of `[match]` in them.
    pub fn with_files(&self) -> impl Iterator<Item = (&AgentEntry, &Path, Option<usize>)> {
        self.with_origins().map(|(entry, origin)| (entry, origin.file.as_path(), origin.match_line))
    }

    pub(super) fn with_origins(&self) -> impl Iterator<Item = (&AgentEntry, &Origin)> + Clone {
        self.entries.values().zip(self.origins.values()).map(|(entry, origin)| (&**entry, origin))
    }

    /// Whether the set was read from a directory. If not, it is empty, and which agents are registered is not
    /// known.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Whether an agent that is not in the set was removed on purpose. Not if the set was empty when the
    /// daemon started: its directory may be on a file system that was not mounted.
    pub fn has_removed_others(&self) -> bool {
        self.is_loaded && (!self.is_empty() || self.is_confirmed_empty)
    }

    /// The same set, with the agents that have not changed since `previous` in the memory of that one. A
    /// request that was the last to use the previous set therefore frees little.
    pub(super) fn reusing(mut self, previous: &AgentSet) -> AgentSet {
        for (name, entry) in &mut self.entries {
            if let Some(same) = previous.get(name).filter(|known| *known == entry) {
                *entry = same.clone();
            }
        }
        self
    }

    /// A set that has this agent only, to be compared with another one.
    pub(super) fn of_one(entry: Arc<AgentEntry>) -> AgentSet {
        AgentSet { entries: BTreeMap::from([(entry.name.to_string(), entry)]), ..AgentSet::default() }
    }

    /// Takes note whether an administrator wants the set even if it is empty.
    pub(super) fn confirm_empty(mut self, is_confirmed: bool) -> AgentSet {
        if is_confirmed && self.is_empty() {
            // It says how to confirm this.
            self.warnings.retain(|warning| Lint::of(warning).is_none_or(|(lint, _)| lint != Lint::NoAgents));
        }
        AgentSet { is_confirmed_empty: is_confirmed, ..self }
    }

    pub(super) fn is_confirmed_empty(&self) -> bool {
        self.is_confirmed_empty
    }

    /// SHA-256 of the names and texts of all files of agents and roles, 64 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Ends of grants and credentials, the earliest first: those of agents' own files and those of roles.
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }

    /// Whether a grant or credential of an agent counts only at certain times.
    pub fn has_time_limits(&self) -> bool {
        self.has_time_limits
    }

    /// The roles that agents can refer to.
    pub fn roles(&self) -> &RoleSet {
        &self.roles
    }

    /// Returns the number of agents.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the set has no agents.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the agent with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<AgentEntry>> {
        self.entries.get(name)
    }

    /// Iterates over the agents, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<AgentEntry>> {
        self.entries.values()
    }

    /// Iterates over the agents whose names are greater than this one; over all without one.
    pub fn after(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<AgentEntry>> {
        let start = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<str, _>((start, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// Whether a grant uses RS256, so that the host needs an RSA key.
    pub fn uses_rs256(&self) -> bool {
        let is_rs256 = |grant: &Grant| grant.alg == Algorithm::Rs256;
        self.iter().any(|entry| entry.grants().any(|granted| is_rs256(granted.item)))
    }
}

fn has_time_limits(entry: &AgentEntry) -> bool {
    entry.grants().any(|grant| grant.limits.is_limited())
        || entry.credentials().any(|credential| credential.limits.is_limited())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    pub(in crate::agents) const VALID_AGENT: &str =
        "name = \"a\"\n[match]\nuser = 0\n[[grant]]\naudience = \"https://x\"\nscopes = [\"r\"]\n";

    /// Reads agents from files with these names and texts; faults without their directory, a line each.
    pub(in crate::agents) fn read(files: &[(&str, &str)]) -> Result<AgentSet, String> {
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
        let grant = &agents.get("a").unwrap().own_grants[0];
        assert_eq!((grant.audience.as_str(), grant.ttl.as_secs()), ("https://x", 300));
    }

    #[test]
    fn an_empty_directory_is_a_set_and_a_missing_one_is_a_fault() {
        let empty = read(&[]).unwrap();
        assert!(empty.is_empty() && empty.is_loaded());
        let faults = AgentSet::read(Path::new("/nonexistent/agents.d"), 35).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().starts_with("/nonexistent/agents.d: does not exist"), "{}", faults[0]);
        assert!(!AgentSet::default().is_loaded());
    }

    #[test]
    fn measured_requires_exe_selector() {
        let with =
            |more: &str| VALID_AGENT.replace("user = 0\n", &format!("user = 0\nmeasured = true\n{more}"));
        let faults = read(&[("a.toml", &with(""))]).unwrap_err();
        assert!(faults.contains("a.toml:4") && faults.contains("without exe or exe_sha256"), "{faults}");
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
        let invalid_fields = "name = \"B\"\n\
                              [match]\nunit = \"x\"\nexe = \"bin\"\nexe_sha256 = \"12\"\n\
                              [[grant]]\naudience = \"\"\nttl = \"2h\"\nscopes = [\"a\", \"a\", \"b c\"]\n";
        let sealed_rs256 = "name = \"e\"\n\
                            [match]\nuser = 0\n\
                            [[grant]]\naudience = \"x\"\nassurance = \"sealed\"\nalg = \"RS256\"\n";
        let faults = read(&[
            ("a.toml", VALID_AGENT),
            ("b.toml", invalid_fields),
            ("c.toml", "name = \"c\"\n[match]\n"),
            ("d.toml", VALID_AGENT),
            ("e.toml", sealed_rs256),
        ])
        .unwrap_err();
        for expected in [
            "/b.toml:1: \"B\" is not a valid agent name",
            "/b.toml:3: unit must be",
            "/b.toml:4: exe must be an absolute path",
            "/b.toml:5: a SHA-256 digest",
            "/b.toml:7: an audience is",
            "/b.toml:8: ttl must be at least 1s and at most 1h",
            "/b.toml:9: duplicate scope",
            "/b.toml:9: a scope is one word",
            "/c.toml:2: no user, group or unit",
            "/e.toml:6: alg = \"RS256\" is signed by the TPM; remove assurance",
            "/d.toml: agent \"a\" is already in",
        ] {
            assert!(faults.contains(expected), "{expected}\nnot in\n{faults}");
        }
    }

    #[test]
    fn rs256_implies_tpm_assurance() {
        use crate::agents::Assurance;
        let signed_by = |lines: &str| {
            let agents = read(&[("a.toml", &(VALID_AGENT.to_owned() + lines))]).unwrap();
            let grant = &agents.get("a").unwrap().own_grants[0];
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
}
