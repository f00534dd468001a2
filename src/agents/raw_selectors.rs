//! The table `[match]` as a file has it, and its faults.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Diagnostic, Key, Kind, SourceFile};
use crate::peer::ParseDigestError;

use super::selectors::{IdOrName, Selectors};
use super::unit_name;

/// Hexadecimal digits of a container's ID.
const CONTAINER_ID_LEN: usize = 64;

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
                IdOrName::Name(name)
                    if name.is_empty() || name.len() > 256 || name.contains(['\0', ':', '\n']) =>
                {
                    let message = format!(
                        "{field} must be a number, or a name of 1 to 256 bytes without ':', NUL and line \
                         breaks"
                    );
                    faults.push(source.diagnostic(span, message));
                    None
                }
                // useradd and systemd refuse such names, because programs take them for numbers.
                IdOrName::Name(name) if name.bytes().all(|b| b.is_ascii_digit()) => {
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
        let exe_sha256 = self.exe_sha256.and_then(|raw| match raw.get_ref().parse() {
            Ok(digest) => Some(digest),
            Err(error @ ParseDigestError) => {
                faults.push(source.diagnostic(raw.span(), error.to_string()));
                None
            }
        });
        let measured = self.measured.as_ref().is_some_and(|raw| *raw.get_ref());
        if let (Some(raw), true, false) = (&self.measured, measured, has_executable_key || !is_complete) {
            let message = "measured = true without exe or exe_sha256 lets any measured program be this \
                           agent; add one of them";
            faults.push(source.diagnostic(raw.span(), message));
        }
        let selectors =
            Selectors { user, group, unit, user_unit, session, container, exe, exe_sha256, measured };
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
