//! Reads one file of `agents.d`, which describes one agent.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Diagnostic, Key, Kind, RawAgentAnomaly, SourceFile};
use crate::digest::sha256;

use super::anomaly::AgentAnomaly;
use super::credential::RawCredential;
use super::delegate::RawDelegate;
use super::entry::AgentEntry;
use super::grant::RawGrant;
use super::lint;
use super::name::{AgentName, MAX_SPIFFE_ID_LEN, is_valid_name};
use super::raw_selectors::RawSelectors;
use super::role::references;
use super::role_set::{RoleSet, role_conflicts};
use super::run_grant::RawRun;
use super::source::FileRules;

/// Placeholder for the host id, which has 26 base32 characters on every host.
const HOST_ID_PLACEHOLDER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Length of the longest owner, in bytes.
const MAX_OWNER_LEN: usize = 256;

/// The keys of the file.
const KEYS: &[Key] = &[
    Key::required("name", Kind::Text("\"researcher\"")),
    Key::optional("owner", Kind::Text("\"team@example.com\"")),
    Key::optional("tenant", Kind::Text("\"acme\"")),
    Key::optional("roles", Kind::TextList("[\"reader\"]")),
    Key::optional("drain", Kind::Boolean),
    Key::required("match", Kind::Table(RawSelectors::KEYS)),
    Key::optional("grant", Kind::Tables(RawGrant::KEYS)),
    Key::optional("credential", Kind::Tables(RawCredential::KEYS)),
    Key::optional("anomaly", Kind::Table(RawAgentAnomaly::KEYS)),
    Key::optional("delegate", Kind::Table(RawDelegate::KEYS)),
    Key::optional("run", Kind::Table(RawRun::KEYS)),
];

/// The file as written. What [`KEYS`] requires is absent only if that is a fault.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentFile {
    name: Option<Spanned<String>>,
    owner: Option<Spanned<String>>,
    tenant: Option<Spanned<String>>,
    #[serde(default)]
    roles: Vec<Spanned<String>>,
    #[serde(default)]
    drain: bool,
    #[serde(rename = "match")]
    selectors: Option<Spanned<RawSelectors>>,
    #[serde(default, rename = "grant")]
    grants: Vec<Spanned<RawGrant>>,
    #[serde(default, rename = "credential")]
    credentials: Vec<Spanned<RawCredential>>,
    #[serde(default)]
    anomaly: RawAgentAnomaly,
    delegate: Option<RawDelegate>,
    run: Option<Spanned<RawRun>>,
}

/// The agent of a file, with what is valid in the file and probably not meant.
pub(super) struct ReadAgent {
    pub entry: AgentEntry,
    /// The line of `[match]`.
    pub match_line: Option<usize>,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
    pub warnings: Vec<Diagnostic>,
}

/// Reads one file: the agent with those of `roles` that it refers to, and warnings about it.
///
/// # Errors
/// The faults of the file, at most 50.
pub(super) fn read(path: &Path, rules: FileRules, roles: &RoleSet) -> Result<ReadAgent, Vec<Diagnostic>> {
    let source = SourceFile::read(path).map_err(|fault| vec![fault])?;
    parse(&source, rules, roles)
}

/// Checks the text of a file that is not written yet. Whether its roles exist is not checked.
///
/// # Errors
/// The faults of the text, at most 50.
pub fn check_text(path: &Path, text: &str, trust_domain_length: usize) -> Result<(), Vec<Diagnostic>> {
    let rules = FileRules { trust_domain_length, requires_owner: false };
    parse(&SourceFile::from_text(path, text.to_owned()), rules, &RoleSet::unknown()).map(drop)
}

/// Reads the text of a file that is not written yet: the agent with those of `roles` that it refers to.
///
/// # Errors
/// The faults of the text, at most 50.
pub(super) fn read_text(
    path: &Path,
    text: &str,
    rules: FileRules,
    roles: &RoleSet,
) -> Result<AgentEntry, Vec<Diagnostic>> {
    parse(&SourceFile::from_text(path, text.to_owned()), rules, roles).map(|read| read.entry)
}

fn parse(source: &SourceFile, rules: FileRules, roles: &RoleSet) -> Result<ReadAgent, Vec<Diagnostic>> {
    let parsed = source.parse::<AgentFile>(KEYS);
    let (mut faults, incomplete) = (parsed.faults, parsed.incomplete);
    let Some(raw) = parsed.values else { return Err(source.sorted(faults)) };

    let name = raw.name.and_then(|raw| match AgentName::parse(raw.get_ref()) {
        Ok(name) => Some((name, raw.span())),
        Err(e) => {
            faults.push(source.diagnostic(raw.span(), e.to_string()));
            None
        }
    });
    let owner = raw.owner.map(|owner| {
        if owner.get_ref().trim().is_empty() || owner.get_ref().len() > MAX_OWNER_LEN {
            faults.push(source.diagnostic(
                owner.span(),
                format!(
                    "owner must be a contact for this agent, such as a mail address, \
                         of at most {MAX_OWNER_LEN} bytes"
                ),
            ));
        }
        owner.into_inner()
    });
    let tenant = raw.tenant.map(|tenant| {
        if !is_valid_name(tenant.get_ref()) {
            faults.push(source.diagnostic(
                tenant.span(),
                "tenant must have the form of an agent name: a-z 0-9 . _ -, at most 63 characters",
            ));
        }
        tenant.into_inner()
    });
    let selectors = raw.selectors.map(|raw| {
        let span = raw.span();
        let is_complete = !incomplete.iter().any(|header| header == "[match]");
        let selectors = raw.into_inner().validate(source, span.clone(), is_complete, &mut faults);
        (selectors, span)
    });

    let own_grants = RawGrant::validate_all(raw.grants, source, &mut faults);
    let own_credentials = RawCredential::validate_all(raw.credentials, source, &mut faults);
    let anomaly = AgentAnomaly::validate(raw.anomaly, source, &mut faults);
    let delegate = raw.delegate.map(|raw| raw.validate(source, &mut faults));
    let run = raw.run.map(|raw| {
        let span = raw.span();
        raw.into_inner().validate(source, span, &mut faults)
    });
    let references = references(raw.roles, source, &mut faults);
    let roles = roles.find_all(&references, &mut faults);
    if let Some(first) = references.first() {
        let has_grant = |audience: &str| own_grants.iter().any(|grant| grant.audience == audience);
        let has_credential = |name: &str| own_credentials.iter().any(|credential| credential.name == name);
        let conflicts = role_conflicts(&roles, has_grant, has_credential);
        faults.extend(conflicts.into_iter().map(|message| first.place.diagnostic(message)));
    }
    let (Some((name, name_span)), Some((selectors, selectors_span))) = (name, selectors) else {
        return Err(source.sorted(faults));
    };
    if owner.is_none() && rules.requires_owner {
        let message = "the agent has no owner, which [agents] require_owner in the configuration demands; add \
                       a line such as owner = \"team@example.com\" above";
        faults.push(source.diagnostic(name_span.clone(), message));
    }
    let is_draining = raw.drain;
    let entry = AgentEntry {
        name,
        owner,
        tenant,
        selectors,
        roles,
        is_draining,
        own_grants,
        own_credentials,
        anomaly,
        delegate,
        run,
        parent: None,
    };
    let length = "spiffe://".len() + rules.trust_domain_length + entry.spiffe_path(HOST_ID_PLACEHOLDER).len();
    if length > MAX_SPIFFE_ID_LEN {
        let excess = length - MAX_SPIFFE_ID_LEN;
        let message = format!(
            "the SPIFFE ID would have {length} characters; shorten name or tenant by {excess}, \
             because relying parties accept at most {MAX_SPIFFE_ID_LEN}"
        );
        faults.push(source.diagnostic(name_span, message));
    }
    if !faults.is_empty() {
        return Err(source.sorted(faults));
    }
    let warn = |message| source.diagnostic(selectors_span.clone(), message);
    let warnings = lint::warnings(&entry).into_iter().map(warn).collect();
    let match_line = source.diagnostic(selectors_span.clone(), "").line;
    Ok(ReadAgent { entry, match_line, digest: sha256(source.text().as_bytes()), warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults of a file with this text, each as `LINE: MESSAGE`.
    fn faults(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, text).unwrap();
        let faults =
            read(&path, FileRules { trust_domain_length: 35, requires_owner: false }, &RoleSet::default())
                .map(drop)
                .unwrap_err();
        faults.iter().map(|fault| format!("{}: {}", fault.line.unwrap_or(0), fault.message)).collect()
    }

    #[track_caller]
    fn assert_faults(text: &str, expected: &[&str]) {
        let found = faults(text);
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    }

    #[test]
    fn all_faults_of_a_file_are_reported_at_once_and_by_line() {
        assert_faults(
            "nmae = \"a\"\nowner = 3\n[match]\nuesr = 0\nunit = 'x'\nexe = 'bin'\nexe_sha256 = '12'\n\
             measured = 'yes'\n[grants]\n[[grant]]\nscopes = 'a b'\nttl = true\n[[grant]]\naudience = ''\n\
             alg = 'es256'\nposture = true\n",
            &[
                "1: unknown key `nmae`; did you mean `name`?",
                "2: owner must be text in quotes, such as \"team@example.com\"; this is the number 3",
                "4: unknown key `uesr` in [match]; did you mean `user`?",
                "5: unit must be a complete unit name; write \"x.service\"",
                "6: exe must be an absolute path",
                "7: a SHA-256 digest",
                "8: measured must be true or false, without quotes; this is the text \"yes\"",
                "9: unknown key `grants`; did you mean `grant`?",
                "10: [[grant]] has no `audience`; add a line such as audience = ",
                "11: scopes must be a list of texts, such as [\"docs.read\", \"docs.write\"]; this is",
                "12: ttl must be a duration, such as \"5m\", or a number of seconds; this is true",
                "14: an audience is 1 to 512",
                "15: alg must be \"ES256\" or \"RS256\"; this is the text \"es256\"",
                "16: posture must be \"off\" or \"warn\" or \"enforce\"; this is true",
            ],
        );
    }

    #[test]
    fn tables_of_another_kind_are_named_as_the_file_writes_them() {
        let start = "name = \"a\"\n[match]\nuser = 0\n";
        assert_faults(
            &format!("{start}[grant]\naudience = \"x\"\n"),
            &["4: expected a table with two brackets, `[[grant]]`, for each grant; this is a single table"],
        );
        assert_faults(
            "name = \"a\"\n[[match]]\nuser = 0\n",
            &["2: expected a table `[match]`; this is a list of tables"],
        );
        assert_faults("name = \"a\"\nmatch = 3\n", &["2: expected a table `[match]`; this is the number 3"]);
        assert_faults("name = \"a\"\n", &["1: the file has no table [match]"]);
        assert_faults("[match]\nuser = 0\n", &["1: the file has no `name`; add a line such as name = "]);
        assert_faults(
            "name = \"a\"\nuser = 0\n[match]\nowner = \"x\"\n",
            &[
                "2: unknown key `user`; it belongs below [match]",
                "4: unknown key `owner` in [match]; it belongs above the first line that begins with [",
            ],
        );
        assert_faults("name = a\n", &["1: is not valid TOML: string values must be quoted"]);
    }

    #[test]
    fn faults_of_match_do_not_hide_each_other() {
        assert_faults(
            "name = \"a\"\n[match]\nexe = \"bin\"\nmeasured = true\n",
            &["2: no user, group or unit", "3: exe must be an absolute path"],
        );
        assert_faults(
            "name = \"A\"\n[match]\nmeasured = true\n",
            &["1: \"A\" is not", "2: no user, group or unit", "3: measured = true without exe"],
        );
        // What a faulty key would have meant is not known.
        assert_faults("name = \"a\"\n[match]\nusre = 0\nmeasured = true\n", &["3: unknown key `usre`"]);
    }

    #[test]
    fn a_unit_that_toml_changes_is_refused() {
        let found = faults("name = \"a\"\n[match]\nunit = \"foo\\x2dbar.service\"\n");
        assert!(
            found[0].starts_with("3: ") && found[0].contains("unit = 'foo\\x2dbar.service'"),
            "{found:?}"
        );
        let found = faults("name = \"a\"\n[match]\nunit = 'agent@.service'\n");
        assert!(found[0].contains("is a template"), "{found:?}");
    }

    #[test]
    fn the_faults_of_a_file_are_bounded() {
        let lines: String = (0..200).map(|n| format!("k{n} = 0\n")).collect();
        let found = faults(&lines);
        assert_eq!(found.len(), 51);
        assert!(found[50].contains("more faults"), "{found:?}");
    }
}
