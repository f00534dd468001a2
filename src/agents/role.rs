//! One role: grants and credentials that several agents share, as a file of `roles.d` describes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Diagnostic, Key, Kind, SourceFile};
use crate::digest::sha256;

use super::credential::{CredentialGrant, RawCredential};
use super::grant::{Grant, RawGrant};
use super::name::is_valid_name;

/// Roles that one agent or one role refers to.
const MAX_REFERENCES: usize = 64;

/// Grants of one role with those of the roles that it refers to, and as many credentials. Each role has a list of its
/// own, which this bounds.
pub(super) const MAX_TABLES: usize = 1_024;
/// Conflicts of one file that are reported.
const MAX_CONFLICTS: usize = 50;

/// The keys of the file.
const KEYS: &[Key] = &[
    Key::required("name", Kind::Text("\"reader\"")),
    Key::optional("roles", Kind::TextList("[\"base\"]")),
    Key::optional("grant", Kind::Tables(RawGrant::KEYS)),
    Key::optional("credential", Kind::Tables(RawCredential::KEYS)),
];

/// The file as written. What [`KEYS`] requires is absent only if that is a fault.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleFile {
    name: Option<Spanned<String>>,
    #[serde(default)]
    roles: Vec<Spanned<String>>,
    #[serde(default, rename = "grant")]
    grants: Vec<Spanned<RawGrant>>,
    #[serde(default, rename = "credential")]
    credentials: Vec<Spanned<RawCredential>>,
}

/// A role with everything that the roles that it refers to contain. Agents share it.
#[derive(Debug, PartialEq, Eq)]
pub struct Role {
    name: Arc<str>,
    grants: Vec<OfRole<Grant>>,
    credentials: Vec<OfRole<CredentialGrant>>,
}

/// A table of a role, with the role whose file has it. Roles that refer to that role share the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OfRole<T> {
    /// The table.
    pub item: Arc<T>,
    /// The role whose file has it.
    pub role: Arc<str>,
}

/// What distinguishes the tables of one file from each other.
pub(super) trait Keyed {
    /// The audience of a grant, the name of a credential.
    fn key(&self) -> &str;
    /// The word for such a table and its key in messages.
    const WHAT: &str;
}

/// Two roles with different tables for the same audience or credential.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict<'a> {
    key: &'a str,
    what: &'static str,
    roles: [&'a str; 2],
}

/// A role as its file describes it.
pub(super) struct WrittenRole {
    pub name: Arc<str>,
    /// Where the file names itself.
    pub place: Place,
    pub references: Vec<RoleReference>,
    pub grants: Vec<Arc<Grant>>,
    pub credentials: Vec<Arc<CredentialGrant>>,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
}

/// The name of a role in the key `roles` of a file.
#[derive(Clone, Debug)]
pub(super) struct RoleReference {
    pub name: String,
    pub place: Place,
}

/// A line of a file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub file: PathBuf,
    pub line: Option<usize>,
}

impl Role {
    /// The role's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the role from its own tables and from the roles that it refers to. A table of its own replaces
    /// theirs; if two of them differ, the first counts, which [`conflicts`] reports.
    pub(super) fn new(written: &WrittenRole, referred: &[Arc<Role>]) -> Role {
        Role {
            name: written.name.clone(),
            grants: merge(&written.grants, &written.name, referred.iter().map(|role| role.grants())),
            credentials: merge(
                &written.credentials,
                &written.name,
                referred.iter().map(|role| role.credentials()),
            ),
        }
    }

    /// Whether it has more than [`MAX_TABLES`] grants or credentials, of which it does not have all then.
    pub(super) fn has_too_many_tables(&self) -> bool {
        self.grants.len() > MAX_TABLES || self.credentials.len() > MAX_TABLES
    }

    /// The grants, sorted by audience.
    pub(super) fn grants(&self) -> &[OfRole<Grant>] {
        &self.grants
    }

    /// The credentials, sorted by name.
    pub(super) fn credentials(&self) -> &[OfRole<CredentialGrant>] {
        &self.credentials
    }
}

/// The table with this key among sorted ones.
pub(super) fn find<'a, T: Keyed>(items: &'a [OfRole<T>], key: &str) -> Option<&'a OfRole<T>> {
    let at = items.binary_search_by(|item| item.item.key().cmp(key)).ok()?;
    items.get(at)
}

/// Different tables of these roles for the same key, each pair once, unless `is_replaced` holds of the key; the first
/// 50.
pub(super) fn conflicts<'a, T: Keyed + PartialEq + 'a>(
    roles: impl Iterator<Item = &'a [OfRole<T>]> + Clone + 'a,
    is_replaced: impl Fn(&str) -> bool,
) -> Vec<Conflict<'a>> {
    let mut found: Vec<Conflict<'a>> = Vec::new();
    for (at, later) in roles.clone().enumerate() {
        for item in later {
            let earlier = roles.clone().take(at).find_map(|items| find(items, item.item.key()));
            let Some(earlier) = earlier.filter(|earlier| earlier.item != item.item) else { continue };
            let conflict =
                Conflict { key: item.item.key(), what: T::WHAT, roles: [&earlier.role, &item.role] };
            if !is_replaced(conflict.key) && !found.contains(&conflict) {
                found.push(conflict);
            }
            if found.len() >= MAX_CONFLICTS {
                return found;
            }
        }
    }
    found
}

/// The tables of `own` and those of the referred roles that they do not replace, sorted by key; not all of them if
/// there are more than [`MAX_TABLES`].
fn merge<'a, T: Keyed + 'a>(
    own: &[Arc<T>],
    own_name: &Arc<str>,
    referred: impl Iterator<Item = &'a [OfRole<T>]>,
) -> Vec<OfRole<T>> {
    let own = own.iter().map(|item| OfRole { item: item.clone(), role: own_name.clone() });
    let mut merged: Vec<OfRole<T>> = own.chain(referred.flatten().cloned()).collect();
    // Stable: own tables stay before those of the first role, and these before those of the second.
    merged.sort_by(|a, b| a.item.key().cmp(b.item.key()));
    merged.dedup_by(|later, earlier| later.item.key() == earlier.item.key());
    merged.truncate(MAX_TABLES + 1);
    merged.shrink_to_fit();
    merged
}

/// Reads one file.
///
/// # Errors
/// The faults of the file, at most 50.
pub(super) fn read(path: &Path) -> Result<WrittenRole, Vec<Diagnostic>> {
    let source = SourceFile::read(path).map_err(|fault| vec![fault])?;
    let parsed = source.parse::<RoleFile>(KEYS);
    let mut faults = parsed.faults;
    let Some(raw) = parsed.values else { return Err(source.sorted(faults)) };
    if let Some(name) = &raw.name
        && !is_valid_name(name.get_ref())
    {
        faults.push(source.diagnostic(name.span(), INVALID_NAME));
    }
    let references = references(raw.roles, &source, &mut faults);
    let grants = RawGrant::validate_all(raw.grants, &source, &mut faults);
    let credentials = RawCredential::validate_all(raw.credentials, &source, &mut faults);
    match raw.name {
        Some(name) if faults.is_empty() => Ok(WrittenRole {
            place: Place::of(source.diagnostic(name.span(), "")),
            name: name.into_inner().into(),
            references,
            grants: grants.into_iter().map(Arc::new).collect(),
            credentials: credentials.into_iter().map(Arc::new).collect(),
            digest: sha256(source.text().as_bytes()),
        }),
        _ => Err(source.sorted(faults)),
    }
}

const INVALID_NAME: &str =
    "the name of a role must have the form of an agent name: a-z 0-9 . _ -, at most 63 characters";

/// Checks the key `roles` of a file and appends its faults.
pub(super) fn references(
    names: Vec<Spanned<String>>,
    source: &SourceFile,
    faults: &mut Vec<Diagnostic>,
) -> Vec<RoleReference> {
    if let Some(excess) = names.get(MAX_REFERENCES) {
        faults.push(source.diagnostic(excess.span(), format!("more than {MAX_REFERENCES} roles")));
    }
    let mut references: Vec<RoleReference> = Vec::new();
    for name in names {
        let (span, name) = (name.span(), name.into_inner());
        if !is_valid_name(&name) {
            faults.push(source.diagnostic(span, INVALID_NAME));
        } else if references.iter().any(|earlier| earlier.name == name) {
            faults.push(source.diagnostic(span, format!("role \"{name}\" a second time; remove one")));
        } else {
            references.push(RoleReference { name, place: Place::of(source.diagnostic(span, "")) });
        }
    }
    references
}

impl Place {
    fn of(diagnostic: Diagnostic) -> Place {
        Place { file: diagnostic.file, line: diagnostic.line }
    }

    /// A diagnostic about this line.
    pub(super) fn diagnostic(&self, message: String) -> Diagnostic {
        Diagnostic { file: self.file.clone(), line: self.line, message }
    }
}

impl<T> Clone for OfRole<T> {
    fn clone(&self) -> Self {
        OfRole { item: self.item.clone(), role: self.role.clone() }
    }
}

impl Keyed for Grant {
    const WHAT: &str = "grants for audience";

    fn key(&self) -> &str {
        &self.audience
    }
}

impl Keyed for CredentialGrant {
    const WHAT: &str = "tables for credential";

    fn key(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for Conflict<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Conflict { key, what, roles: [first, second] } = self;
        write!(
            f,
            "roles \"{first}\" and \"{second}\" have different {what} \"{key}\"; make them equal, remove one, \
             or write it in this file, which then counts"
        )
    }
}
