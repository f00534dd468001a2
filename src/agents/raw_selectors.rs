//! The table `[match]` as a file has it, and its faults.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Diagnostic, Key, Kind, SourceFile};
use crate::peer::{ParseDigestError, Sha256Digest};

use super::selectors::{IdOrName, Selectors};
use super::unit_name;

/// Hexadecimal digits of a container's ID.
const CONTAINER_ID_LEN: usize = 64;
/// Files of one agent.
const MAX_FILES: usize = 32;
/// Length of the longest path of a file, in bytes.
const MAX_PATH_LEN: usize = 1024;
/// What the name of a user or group is, in faults.
const FORM_OF_NAME: &str = "a name of 1 to 256 bytes without ':', NUL and line breaks";

/// The table `[match]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSelectors {
    user: Option<Spanned<IdOrName>>,
    group: Option<Spanned<IdOrName>>,
    unit: Option<Spanned<String>>,
    user_unit: Option<Spanned<String>>,
    session: Option<Spanned<bool>>,
    container: Option<Spanned<String>>,
    exe: Option<Spanned<PathBuf>>,
    exe_sha256: Option<Spanned<String>>,
    measured: Option<Spanned<bool>>,
    #[serde(default)]
    files: BTreeMap<Spanned<String>, Spanned<String>>,
    unit_sha256: Option<Spanned<String>>,
}

impl RawSelectors {
    /// The keys of the table.
    pub(super) const KEYS: &[Key] = &[
        Key::optional("user", Kind::UserOrGroup),
        Key::optional("group", Kind::UserOrGroup),
        Key::optional("unit", Kind::Text("\"researcher.service\"")),
        Key::optional("user_unit", Kind::Text("\"agent.service\"")),
        Key::optional("session", Kind::Boolean),
        Key::optional("container", Kind::Text("\"4f5e6d...\", 64 hexadecimal digits")),
        Key::optional("exe", Kind::Text("\"/usr/bin/researcher\"")),
        Key::optional("exe_sha256", Kind::Text("\"9f86d081...\", 64 hexadecimal digits")),
        Key::optional("measured", Kind::Boolean),
        Key::optional("files", Kind::TextMap("{ \"/opt/agent/main.py\" = \"9f86d081...\" }")),
        Key::optional("unit_sha256", Kind::Text("\"9f86d081...\", 64 hexadecimal digits")),
    ];

    /// Checks the selectors and appends their faults. `span` is that of the whole table. If it is
    /// not complete, keys with faults are missing. With faults, the returned selectors are not used.
    pub(super) fn validate(
        self,
        source: &SourceFile,
        span: std::ops::Range<usize>,
        is_complete: bool,
        faults: &mut Vec<Diagnostic>,
    ) -> Selectors {
        let mut parse_id_or_name = |raw: Option<Spanned<IdOrName>>, field: &str| {
            let raw = raw?;
            let span = raw.span();
            match raw.into_inner() {
                IdOrName::Name(name) if !has_form_of_name(&name) => {
                    let message = format!("{field} must be a number, or {FORM_OF_NAME}");
                    faults.push(source.diagnostic(span, message));
                    None
                }
                IdOrName::Name(name) if is_number(&name) => {
                    let message = format!(
                        "{field} = \"{name}\" is a number in quotes; write {field} = {name} for the number \
                         (a name cannot consist of digits only)"
                    );
                    faults.push(source.diagnostic(span, message));
                    None
                }
                id_or_name => Some(id_or_name),
            }
        };
        // Also one that is a fault, which says enough.
        let has_user = self.user.is_some();
        let has_identity_key =
            self.user.is_some() || self.group.is_some() || self.unit.is_some() || self.container.is_some();
        let has_executable_key = self.exe.is_some() || self.exe_sha256.is_some();
        let user = parse_id_or_name(self.user, "user");
        let group = parse_id_or_name(self.group, "group");
        let unit = self.unit.map(|raw| {
            let spelling = unit_name::check_spelling(source.text(), raw.span(), raw.get_ref());
            if let Err(e) = spelling.and_then(|()| unit_name::check(raw.get_ref())) {
                faults.push(source.diagnostic(raw.span(), e.to_string()));
            }
            raw.into_inner()
        });
        let users_own = [
            ("user_unit", self.user_unit.as_ref().map(Spanned::span)),
            ("session", self.session.as_ref().filter(|raw| *raw.get_ref()).map(Spanned::span)),
        ];
        for (key, span) in users_own.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            if has_user || !is_complete {
                continue;
            }
            let message = format!(
                "{key} needs user beside it: every user has such units and sessions of its own, so {key} alone \
                 admits all users"
            );
            faults.push(source.diagnostic(span, message));
        }
        let user_unit = self.user_unit.map(|raw| {
            let spelling = unit_name::check_spelling(source.text(), raw.span(), raw.get_ref());
            if let Err(e) = spelling.and_then(|()| unit_name::check(raw.get_ref())) {
                faults.push(source.diagnostic(raw.span(), e.to_string().replace("unit", "user_unit")));
            }
            raw.into_inner()
        });
        let session = self.session.is_some_and(Spanned::into_inner);
        let container = self.container.map(|raw| {
            let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if raw.get_ref().len() != CONTAINER_ID_LEN || !raw.get_ref().bytes().all(is_digit) {
                let message = format!(
                    "container must be the container's whole id, {CONTAINER_ID_LEN} lower-case hexadecimal digits, as \
                     \"podman inspect --format {{{{.Id}}}} NAME\" or docker inspect prints it; the kernel does \
                     not know names of containers"
                );
                faults.push(source.diagnostic(raw.span(), message));
            }
            raw.into_inner()
        });
        let exe = self.exe.map(|raw| {
            if !raw.get_ref().is_absolute() {
                faults.push(source.diagnostic(raw.span(), "exe must be an absolute path"));
            }
            raw.into_inner()
        });
        let exe_sha256 = self.exe_sha256.and_then(|raw| parse_digest(&raw, source, faults));
        let measured = self.measured.as_ref().is_some_and(|raw| *raw.get_ref());
        if let (Some(raw), true, false) = (&self.measured, measured, has_executable_key || !is_complete) {
            let message = "measured = true without exe or exe_sha256 lets any measured program be this \
                           agent; add one of them";
            faults.push(source.diagnostic(raw.span(), message));
        }
        let files = files(self.files, source, faults);
        if let (Some(raw), None, true) = (&self.unit_sha256, &unit, is_complete) {
            let message = "unit_sha256 is the digest of the files of unit; add unit";
            faults.push(source.diagnostic(raw.span(), message));
        }
        let unit_sha256 = self.unit_sha256.and_then(|raw| parse_digest(&raw, source, faults));
        let selectors = Selectors {
            user,
            group,
            unit,
            user_unit,
            session,
            container,
            exe,
            exe_sha256,
            measured,
            files,
            unit_sha256,
        };
        // Any user can run a program under a debugger, preload a library into it, or place another file at
        // its path in a mount namespace. An executable therefore distinguishes agents of one user, but not
        // users.
        if !has_identity_key && is_complete {
            faults.push(source.diagnostic(
                span,
                "no user, group or unit, so a process of any user could be this agent; \
                 exe and exe_sha256 are not sufficient, add one of user, group, unit and container",
            ));
        }
        selectors
    }
}

/// Checks the name of a user or group where no number is accepted. `what` is the subject of the fault.
pub(super) fn check_name(name: &str, what: &str) -> Result<(), String> {
    if !has_form_of_name(name) {
        return Err(format!("{what} must be {FORM_OF_NAME}"));
    }
    if is_number(name) {
        return Err(format!("{what} cannot have a name of digits only; write its name"));
    }
    Ok(())
}

fn has_form_of_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 256 && !name.contains(['\0', ':', '\n'])
}

/// useradd and systemd refuse such names, because programs take them for numbers.
fn is_number(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_digit())
}

fn parse_digest(
    raw: &Spanned<String>,
    source: &SourceFile,
    faults: &mut Vec<Diagnostic>,
) -> Option<Sha256Digest> {
    let parsed = raw.get_ref().parse();
    parsed.map_err(|e: ParseDigestError| faults.push(source.diagnostic(raw.span(), e.to_string()))).ok()
}

/// Checks the table `files` and appends its faults.
fn files(
    raw: BTreeMap<Spanned<String>, Spanned<String>>,
    source: &SourceFile,
    faults: &mut Vec<Diagnostic>,
) -> BTreeMap<PathBuf, Sha256Digest> {
    if let Some((path, _)) = raw.iter().nth(MAX_FILES) {
        faults.push(source.diagnostic(path.span(), format!("more than {MAX_FILES} files of one agent")));
    }
    let mut files = BTreeMap::new();
    for (path, digest) in raw {
        let (span, path) = (path.span(), PathBuf::from(path.into_inner()));
        let is_plain = path.is_absolute()
            && path.components().skip(1).all(|part| matches!(part, Component::Normal(_)))
            && path.as_os_str().len() <= MAX_PATH_LEN;
        if !is_plain {
            let message = format!(
                "a file is an absolute path without .. and of at most {MAX_PATH_LEN} bytes, such as \
                 \"/opt/agent/main.py\""
            );
            faults.push(source.diagnostic(span, message));
        }
        if let Some(digest) = parse_digest(&digest, source, faults) {
            files.insert(path, digest);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::agents::agent_set::tests::{VALID_AGENT, read};
    use crate::names::{Name, NameTable};

    #[test]
    fn number_in_quotes_is_a_fault() {
        for (field, conditions) in [("user", "user = \"1000\""), ("group", "user = 0\ngroup = \"0\"")] {
            let faults = read(&[("a.toml", &VALID_AGENT.replace("user = 0", conditions))]).unwrap_err();
            let expected = format!("is a number in quotes; write {field} = ");
            assert!(faults.contains(&expected), "{faults}");
        }
        let agents = read(&[("a.toml", &VALID_AGENT.replace("= 0", "= \"1a\""))]).unwrap();
        assert_eq!(agents.user_and_group_names(), BTreeSet::from([Name::User("1a".into())]));
        let number = read(&[("a.toml", &VALID_AGENT.replace("= 0", "= 1000"))]).unwrap();
        assert!(number.user_and_group_names().is_empty());
    }

    #[test]
    fn faults_of_users_and_groups_say_what_is_accepted() {
        let fault = |field: &str, value: &str| {
            let conditions = format!("unit = \"a.service\"\n{field} = {value}");
            read(&[("a.toml", &VALID_AGENT.replace("user = 0", &conditions))]).unwrap_err()
        };
        let long = format!("\"{}\"", "a".repeat(257));
        for field in ["user", "group"] {
            for value in ["-1", "true", "4294967296", "1.5", "[\"a\"]"] {
                let expected = "/a.toml:4: a user or group is a name in quotes or a number from 0 to \
                                4294967295; this is ";
                let fault = fault(field, value);
                assert!(fault.starts_with(expected), "{value}: {fault}");
            }
            for value in ["\"\"", "\"a:b\"", "\"a\\u0000\"", "\"a\\n\"", &long] {
                let expected = format!(
                    "/a.toml:4: {field} must be a number, or a name of 1 to 256 bytes without ':', NUL and \
                     line breaks"
                );
                assert_eq!(fault(field, value), expected, "{value}");
            }
        }
    }

    #[test]
    fn unit_alone_is_a_warning_and_stronger_for_units_of_many_users() {
        let warning = |conditions: &str| {
            let agents = read(&[("a.toml", &VALID_AGENT.replace("user = 0", conditions))]).unwrap();
            agents
                .warnings(&NameTable::default())
                .first()
                .map(|warning| (warning.line, warning.message.clone()))
        };
        let (line, message) = warning("unit = \"a.service\"").unwrap();
        assert_eq!(line, Some(2));
        assert!(
            message.starts_with("unit alone admits the processes of every user in a.service"),
            "{message}"
        );
        for unit in [
            "cron.service",
            "crond.service",
            "atd.service",
            "sshd.service",
            "ssh.service",
            "user@1000.service",
        ]
        .iter()
        .chain(&["session-4.scope", "getty@tty1.service"])
        {
            let (_, message) = warning(&format!("unit = \"{unit}\"")).unwrap();
            assert!(message.starts_with(&format!("users start processes in {unit}")), "{message}");
        }
        assert_eq!(warning("unit = \"cron.service\"\nuser = 0"), None);
        assert_eq!(warning("unit = \"a.service\"\ngroup = \"x\""), None);
        assert_eq!(warning("user = 0"), None);
    }
}
