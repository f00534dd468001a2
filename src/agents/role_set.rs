//! The roles of a directory: all of its files, with what they refer to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Diagnostic, list_files};
use crate::nearest::nearest;

use super::lint;
use super::role::{self, OfRole, Role, RoleReference, WrittenRole, conflicts};

/// A directory with more files is rejected, to bound memory and load time.
const MAX_ROLE_FILES: usize = 1000;

/// The roles that agents can refer to, by name.
#[derive(Clone, Debug, Default)]
pub struct RoleSet {
    roles: BTreeMap<Arc<str>, Arc<Role>>,
    /// Whether roles may be missing, because files have faults or were not read.
    is_incomplete: bool,
    /// What to say about a role that is not in the set.
    source: String,
    warnings: Vec<Diagnostic>,
    /// The names of the files, each with the SHA-256 of its text.
    contents: Vec<u8>,
}

impl RoleSet {
    /// Reads the files `*.toml` in `dir`, except those whose names begin with a dot. A missing directory is
    /// one without roles. Blocking.
    ///
    /// Returns the roles, and the faults of all files; with faults, the roles are incomplete.
    pub(super) fn read(dir: &Path) -> (RoleSet, Vec<Diagnostic>) {
        let source = |what: &str| format!("{} {what}", dir.display());
        let paths = match list_files(dir, "toml", MAX_ROLE_FILES, "paths.roles") {
            Ok(Some(paths)) => paths,
            Ok(None) => return (RoleSet { source: source("does not exist"), ..RoleSet::default() }, vec![]),
            Err(fault) => return (RoleSet::unknown(), vec![fault]),
        };
        let (mut faults, mut written) = (Vec::new(), BTreeMap::<Arc<str>, WrittenRole>::new());
        let mut contents = Vec::new();
        for path in paths {
            let role = role::read(&path);
            if let Ok(role) = &role {
                add_content(&mut contents, &path, &role.digest);
            }
            match role {
                Ok(role) => match written.get(&role.name) {
                    None => drop(written.insert(role.name.clone(), role)),
                    Some(first) => faults.push(role.place.diagnostic(format!(
                        "role \"{}\" is already in {}; give one of them another name",
                        role.name,
                        first.place.file.display()
                    ))),
                },
                Err(found) => faults.extend(found),
            }
        }
        let is_incomplete = !faults.is_empty();
        let mut resolver = Resolver {
            written: &written,
            resolved: BTreeMap::new(),
            path: Vec::new(),
            faults,
            is_incomplete,
        };
        for role in written.values() {
            resolver.resolve(role);
        }
        let Resolver { resolved, faults, .. } = resolver;
        let source = source("has no such file");
        let warnings = written.values().flat_map(|role| {
            let patterns = lint::patterns(role.grants.iter().map(|grant| &**grant));
            patterns.map(|message| role.place.diagnostic(message))
        });
        let warnings = warnings.collect();
        (RoleSet { roles: resolved, is_incomplete: !faults.is_empty(), source, warnings, contents }, faults)
    }

    /// A set for texts whose roles are not known: it has every role, without content.
    pub(super) fn unknown() -> RoleSet {
        RoleSet { is_incomplete: true, ..RoleSet::default() }
    }

    /// The roles that a file refers to, without those that are missing. Appends faults for these.
    pub(super) fn find_all(
        &self,
        references: &[RoleReference],
        faults: &mut Vec<Diagnostic>,
    ) -> Vec<Arc<Role>> {
        let mut found = Vec::with_capacity(references.len());
        for reference in references {
            match self.roles.get(reference.name.as_str()) {
                Some(role) => found.push(role.clone()),
                None if self.is_incomplete => {}
                None => {
                    let names: Vec<&str> = self.roles.keys().map(|name| &**name).collect();
                    let message = unknown_role(&reference.name, &names, &self.source);
                    faults.push(reference.place.diagnostic(message));
                }
            }
        }
        found
    }

    /// The names of the files, each with the SHA-256 of its text.
    pub(super) fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// What is valid in the files and probably not meant.
    pub(super) fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Returns the number of roles.
    pub fn len(&self) -> usize {
        self.roles.len()
    }

    /// Whether there are no roles.
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    /// Iterates over the roles, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.values()
    }
}

/// Appends the name of a file, which has no NUL, and the digest of its text.
pub(super) fn add_content(contents: &mut Vec<u8>, path: &Path, digest: &[u8; 32]) {
    contents.extend(path.file_name().unwrap_or_default().as_encoded_bytes());
    contents.push(0);
    contents.extend(digest);
}

fn unknown_role(name: &str, names: &[&str], source: &str) -> String {
    match nearest(name, names) {
        Some(near) => format!("there is no role \"{name}\"; did you mean \"{near}\"?"),
        None => format!("there is no role \"{name}\": {source}; add the role's file, or remove the name"),
    }
}

/// Resolves references, each role once.
struct Resolver<'a> {
    written: &'a BTreeMap<Arc<str>, WrittenRole>,
    resolved: BTreeMap<Arc<str>, Arc<Role>>,
    /// The roles that are being resolved, each referred to by the one before.
    path: Vec<&'a str>,
    faults: Vec<Diagnostic>,
    is_incomplete: bool,
}

impl<'a> Resolver<'a> {
    fn resolve(&mut self, written: &'a WrittenRole) -> Arc<Role> {
        if let Some(role) = self.resolved.get(&written.name) {
            return role.clone();
        }
        self.path.push(&written.name);
        let mut referred = Vec::with_capacity(written.references.len());
        for RoleReference { name, place } in &written.references {
            if let Some(start) = self.path.iter().position(|earlier| earlier == name) {
                let circle = [&self.path[start..], &[name.as_str()]].concat().join(" -> ");
                let message =
                    format!("roles refer to each other in a circle: {circle}; remove one reference");
                self.faults.push(place.diagnostic(message));
                continue;
            }
            match self.written.get(name.as_str()) {
                Some(other) => referred.push(self.resolve(other)),
                None if self.is_incomplete => {}
                None => {
                    let names: Vec<&str> = self.written.keys().map(|name| &**name).collect();
                    let message = unknown_role(name, &names, "no file of this directory has that name");
                    self.faults.push(place.diagnostic(message));
                }
            }
        }
        self.path.pop();
        let own_grant = |key: &str| written.grants.iter().any(|grant| grant.audience == key);
        let own_credential = |key: &str| written.credentials.iter().any(|credential| credential.name == key);
        for conflict in role_conflicts(&referred, own_grant, own_credential) {
            self.faults.push(written.place.diagnostic(conflict));
        }
        let role = Arc::new(Role::new(written, &referred));
        self.resolved.insert(written.name.clone(), role.clone());
        role
    }
}

/// What the roles of one file contradict each other in, unless the file's own tables replace it.
pub(super) fn role_conflicts(
    roles: &[Arc<Role>],
    has_own_grant: impl Fn(&str) -> bool,
    has_own_credential: impl Fn(&str) -> bool,
) -> Vec<String> {
    let grants = conflicts(roles.iter().map(|role| -> &[OfRole<_>] { role.grants() }), has_own_grant);
    let credentials =
        conflicts(roles.iter().map(|role| -> &[OfRole<_>] { role.credentials() }), has_own_credential);
    grants.iter().chain(&credentials).map(ToString::to_string).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::agents::AgentSet;

    const GRANT: &str = "[[grant]]\naudience = \"https://x\"\n";

    /// Reads agents and roles with these names and texts; faults without their directory.
    pub(in crate::agents) fn read(
        agents: &[(&str, &str)],
        roles: &[(&str, &str)],
    ) -> Result<AgentSet, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        for (kind, files) in [("agents.d", agents), ("roles.d", roles)] {
            fs::create_dir(dir.path().join(kind)).unwrap();
            for (name, text) in files {
                let text = format!("name = \"{name}\"\n{text}");
                fs::write(dir.path().join(format!("{kind}/{name}.toml")), text).unwrap();
            }
        }
        let shorten = |fault: &Diagnostic| fault.to_string().replace(dir.path().to_str().unwrap(), "");
        AgentSet::read(&dir.path().join("agents.d"), 35)
            .map_err(|faults| faults.iter().map(shorten).collect())
    }

    /// Audiences with the roles that they come from, of agent `a`.
    fn grants(agents: &AgentSet) -> Vec<(&str, u64, Option<&str>)> {
        let grants = agents.get("a").unwrap().grants();
        grants.map(|grant| (grant.item.audience.as_str(), grant.ttl.as_secs(), grant.role)).collect()
    }

    #[test]
    fn an_agent_has_its_own_grants_and_those_of_its_roles() {
        let own = format!("roles = [\"r\", \"s\"]\n[match]\nuser = 0\n{GRANT}ttl = \"1m\"\n");
        let role = format!(
            "roles = [\"base\"]\n{GRANT}[[grant]]\naudience = \"https://y\"\n[[credential]]\nname = \"c\"\n"
        );
        let base = "[[grant]]\naudience = \"https://z\"\n[[grant]]\naudience = \"https://y\"\nttl = \"1h\"\n";
        let other = "roles = [\"base\"]\n[[grant]]\naudience = \"https://y\"\n";
        let agents = read(&[("a", &own)], &[("r", &role), ("base", base), ("s", other)]).unwrap();
        let expected =
            [("https://x", 60, None), ("https://y", 300, Some("r")), ("https://z", 300, Some("base"))];
        assert_eq!(grants(&agents), expected, "the nearest file counts, and each audience once");
        let agent = agents.get("a").unwrap();
        for (audience, _, role) in expected {
            assert_eq!(agent.grant(audience).unwrap().role, role);
        }
        assert!(agent.grant("https://w").is_none());
        assert_eq!(agent.credential("c").unwrap().role, Some("r"));
        assert_eq!((agent.credentials().count(), agents.roles().len()), (1, 3));
    }

    #[test]
    fn agents_share_the_grants_of_a_role() {
        let text = "roles = [\"r\"]\n[match]\nuser = 0\n";
        let names: Vec<String> = (0..100).map(|n| format!("a{n}")).collect();
        let agents: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), text)).collect();
        let agents = read(&agents, &[("r", GRANT)]).unwrap();
        let addresses: std::collections::BTreeSet<*const super::super::grant::Grant> =
            agents.iter().map(|agent| std::ptr::from_ref(agent.grant("https://x").unwrap().item)).collect();
        assert_eq!((agents.len(), addresses.len()), (100, 1));
    }

    #[test]
    fn faults_of_references_name_file_line_and_roles() {
        let agent = |roles: &str| format!("roles = [{roles}]\n[match]\nuser = 0\n");
        let assert_faults = |agents: &[(&str, &str)], roles: &[(&str, &str)], expected: &[&str]| {
            assert_eq!(read(agents, roles).unwrap_err(), expected);
        };
        assert_faults(
            &[("a", &agent("\"raeder\""))],
            &[("reader", "")],
            &["/agents.d/a.toml:2: there is no role \"raeder\"; did you mean \"reader\"?"],
        );
        assert_faults(
            &[("a", &agent("\"one\",\n\"other\", \"one\", \"No\""))],
            &[("one", "")],
            &[
                "/agents.d/a.toml:3: role \"one\" a second time; remove one",
                "/agents.d/a.toml:3: the name of a role must have the form of an agent name: a-z 0-9 . _ -, \
                 at most 63 characters",
                "/agents.d/a.toml:3: there is no role \"other\": /roles.d has no such file; add the role's \
                 file, or remove the name",
            ],
        );
        assert_faults(
            &[("a", &agent("\"a\""))],
            &[("a", "roles = [\n\"b\"]\n"), ("b", "roles = [\"c\"]"), ("c", "roles = [\"b\", \"none\"]")],
            &[
                "/roles.d/c.toml:2: roles refer to each other in a circle: b -> c -> b; remove one reference",
                "/roles.d/c.toml:2: there is no role \"none\": no file of this directory has that name; add \
                 the role's file, or remove the name",
            ],
        );
        assert_faults(
            &[],
            &[("a", "roles = [\"a\"]")],
            &["/roles.d/a.toml:2: roles refer to each other in a circle: a -> a; remove one reference"],
        );
    }

    #[test]
    fn different_grants_of_two_roles_are_a_fault_unless_the_own_file_has_one() {
        let both = "roles = [\"r\", \"s\"]\n";
        let agent = format!("{both}[match]\nuser = 0\n");
        let (short, long) = (GRANT, format!("{GRANT}ttl = \"1h\"\n"));
        let expected = "roles \"r\" and \"s\" have different grants for audience \"https://x\"; make them equal, \
                        remove one, or write it in this file, which then counts";
        let roles = [("r", short), ("s", &long)];
        assert_eq!(read(&[("a", &agent)], &roles).unwrap_err(), [format!("/agents.d/a.toml:2: {expected}")]);
        let with_own = format!("{agent}{GRANT}ttl = \"2m\"\n");
        assert_eq!(grants(&read(&[("a", &with_own)], &roles).unwrap()), [("https://x", 120, None)]);
        assert!(read(&[("a", &agent)], &[("r", short), ("s", short)]).is_ok());
        let third = [roles[0], roles[1], ("t", both)];
        assert_eq!(read(&[], &third).unwrap_err(), [format!("/roles.d/t.toml:1: {expected}")]);
        let credentials =
            ["", "use = \"release\"\n"].map(|usage| format!("[[credential]]\nname = \"c\"\n{usage}"));
        let faults = read(&[("a", &agent)], &[("r", &credentials[0]), ("s", &credentials[1])]).unwrap_err();
        assert!(faults[0].contains("different tables for credential \"c\""), "{faults:?}");
    }

    #[test]
    fn a_role_with_a_fault_gives_no_further_ones_for_its_agents() {
        let agent = "roles = [\"r\"]\n[match]\nuser = 0\n";
        let faults = read(&[("a", agent)], &[("r", "[[grant]]\naudeince = \"x\"\n")]).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("/roles.d/r.toml:3: unknown key `audeince`"), "{faults:?}");
        let twice = [("r", "")].repeat(2);
        assert!(read(&[("a", agent)], &twice).is_ok(), "the same file");
    }

    #[test]
    fn a_host_without_roles_needs_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let agents = dir.path().join("agents.d");
        fs::create_dir(&agents).unwrap();
        let write = |text: &str| fs::write(agents.join("a.toml"), format!("name = \"a\"\n{text}")).unwrap();
        write("[match]\nuser = 0\n");
        assert!(AgentSet::read(&agents, 35).unwrap().roles().is_empty());
        write("roles = [\"r\"]\n[match]\nuser = 0\n");
        let faults = AgentSet::read(&agents, 35).unwrap_err();
        assert!(faults[0].message.contains("roles.d does not exist"), "{faults:?}");
    }

    #[test]
    fn a_long_chain_of_references_is_resolved() {
        let names: Vec<String> = (0..MAX_ROLE_FILES).map(|n| format!("r{n}")).collect();
        let texts: Vec<String> = (1..=MAX_ROLE_FILES)
            .map(|n| if n < MAX_ROLE_FILES { format!("roles = [\"r{n}\"]\n") } else { GRANT.to_owned() })
            .collect();
        let roles: Vec<(&str, &str)> =
            names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
        let agents = read(&[("a", "roles = [\"r0\"]\n[match]\nuser = 0\n")], &roles).unwrap();
        assert_eq!(grants(&agents), [("https://x", 300, Some("r999"))]);
    }
}
