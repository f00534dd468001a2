//! The roles of a directory: all of its files, with what they refer to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Diagnostic, list_files};
use crate::nearest::nearest;

use super::lint;
use super::role::{self, MAX_TABLES, OfRole, Role, RoleReference, WrittenRole, conflicts};

/// A directory with more files is rejected, to bound memory and load time.
const MAX_ROLE_FILES: usize = 1000;
/// Roles of a circle that a fault names.
const MAX_NAMED_IN_CIRCLE: usize = 8;

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
                let circle = named_circle(&self.path[start..], name);
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
        if role.has_too_many_tables() {
            let message = format!(
                "with the roles that it refers to, the role has more than {MAX_TABLES} grants or credentials; split it"
            );
            self.faults.push(written.place.diagnostic(message));
        }
        self.resolved.insert(written.name.clone(), role.clone());
        role
    }
}

/// The roles of a circle, each of which refers to the next; of a long one the first and the last.
fn named_circle(path: &[&str], first: &str) -> String {
    let hidden = path.len().saturating_sub(MAX_NAMED_IN_CIRCLE);
    let (begin, rest) = path.split_at(path.len().min(MAX_NAMED_IN_CIRCLE / 2));
    let more = format!("({hidden} more)");
    let more = (hidden > 0).then_some(more.as_str());
    let end = rest.iter().skip(hidden).copied();
    begin.iter().copied().chain(more).chain(end).chain([first]).collect::<Vec<_>>().join(" -> ")
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
pub(super) mod tests;
