//! Selectors: the conditions that make a process an agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::config::{Diagnostic, Key, Kind, SourceFile};
use crate::names::{Name, NameTable, Numbers, Resolution};
use crate::peer::{DigestError, ParseDigestError, PeerInfo, Sha256Digest};
use crate::posture::ImaDigests;

use super::match_tag::MatchTag;
use super::unit_name;

/// Conditions that a process must meet, all of them. A registered agent has at least a user, group or unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selectors {
    /// Effective user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<IdOrName>,
    /// Effective or supplementary group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<IdOrName>,
    /// systemd system unit, such as `researcher.service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Absolute path of the executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<PathBuf>,
    /// SHA-256 digest of the executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<Sha256Digest>,
    /// Whether the executable must be in the IMA log, in a part that a quote of PCR 10 confirms. By default
    /// false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub measured: bool,
}

/// A user or group, by number or by name. A [`NameTable`] has the numbers of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a user or group is a name in quotes or a number from 0 to 4294967295")]
pub enum IdOrName {
    /// A uid or gid.
    Id(u32),
    /// A name in the system's user or group database.
    Name(String),
}

/// Result of comparing a peer with all conditions but those on the content of its executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberMatch {
    /// All hold. The tag is that of the numbers that were compared.
    Holds(MatchTag),
    /// One does not hold.
    Fails,
    /// All others hold, and the name of the user or group does not exist.
    Missing,
    /// All others hold, and the number of the user or group is not known.
    Unknown,
    /// All others hold, and the peer is in too many groups for the condition on its group.
    TooManyGroups,
}

/// Result of comparing what was issued with an agent's present conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagCheck {
    /// The conditions are the same.
    Same,
    /// A condition, or the number of a user or group, has changed.
    Changed,
    /// The number of this name has not been known since the daemon started.
    Undecided(Name),
}

impl Selectors {
    /// Compares the peer with all conditions that do not need the content of its executable.
    pub(super) fn match_numbers(&self, peer: &PeerInfo, names: &NameTable) -> NumberMatch {
        if self.unit.as_ref().is_some_and(|unit| peer.unit.as_ref() != Some(unit))
            || self.exe.as_ref().is_some_and(|exe| peer.exe() != Some(exe))
        {
            return NumberMatch::Fails;
        }
        let (user, group) = (self.uid(names), self.gid(names));
        if matches!(user, Some(Resolution::Number(uid)) if uid != peer.uid) {
            return NumberMatch::Fails;
        }
        let too_many_groups = match group {
            Some(Resolution::Number(gid)) if !peer.in_group(gid) => {
                if !peer.has_too_many_groups() {
                    return NumberMatch::Fails;
                }
                true
            }
            _ => false,
        };
        let has = |resolution| user == Some(resolution) || group == Some(resolution);
        if has(Resolution::Missing) {
            return NumberMatch::Missing;
        }
        if has(Resolution::Unknown) {
            return NumberMatch::Unknown;
        }
        if too_many_groups {
            return NumberMatch::TooManyGroups;
        }
        NumberMatch::Holds(self.tag(number_of(user), number_of(group)))
    }

    /// The number of the user, if there is a condition on it.
    pub(super) fn uid(&self, names: &NameTable) -> Option<Resolution> {
        numbers_of(self.user.as_ref(), |name| names.user(name)).map(|numbers| numbers.current)
    }

    /// The number of the group, if there is a condition on it.
    pub(super) fn gid(&self, names: &NameTable) -> Option<Resolution> {
        numbers_of(self.group.as_ref(), |name| names.group(name)).map(|numbers| numbers.current)
    }

    /// Whether a condition needs the digest of the executable.
    pub(super) fn needs_digest(&self) -> bool {
        self.exe_sha256.is_some() || self.measured
    }

    /// Compares the digest of the executable, for conditions that need it.
    pub(super) fn match_digest(
        &self,
        digest: &Result<Sha256Digest, DigestError>,
        ima_digests: &ImaDigests,
    ) -> DigestMatch {
        let digest = match digest {
            Ok(digest) => *digest,
            Err(error) => return DigestMatch::NoDigest(error.clone()),
        };
        if self.exe_sha256.is_some_and(|expected| digest != expected) {
            return DigestMatch::Fails;
        }
        if !self.measured {
            return DigestMatch::Holds;
        }
        ima_digests
            .check_measured(&digest.0)
            .map_or_else(|e| DigestMatch::Unmeasured(e.to_string()), |()| DigestMatch::Holds)
    }

    /// Compares what was issued under `tag` with the present conditions. The last number of a name counts, so
    /// that the end of a unit with `DynamicUser=` changes nothing.
    pub(super) fn check_tag(&self, tag: MatchTag, names: &NameTable) -> TagCheck {
        // A name without a number does not end what was issued: a unit with DynamicUser= may have been
        // stopped when the daemon started.
        if let Some(name) = self.names().find(|name| names.get(name).last.is_none()) {
            return TagCheck::Undecided(name);
        }
        let uid = numbers_of(self.user.as_ref(), |name| names.user(name)).and_then(|numbers| numbers.last);
        let gid = numbers_of(self.group.as_ref(), |name| names.group(name)).and_then(|numbers| numbers.last);
        if self.tag(uid, gid) == tag { TagCheck::Same } else { TagCheck::Changed }
    }

    /// The names of user and group.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        let name_of = |condition: &Option<IdOrName>| match condition {
            Some(IdOrName::Name(name)) => Some(name.clone()),
            Some(IdOrName::Id(_)) | None => None,
        };
        let (user, group) = (name_of(&self.user), name_of(&self.group));
        user.map(Name::User).into_iter().chain(group.map(Name::Group))
    }

    /// The tag of these conditions, with numbers for user and group.
    fn tag(&self, uid: Option<u32>, gid: Option<u32>) -> MatchTag {
        MatchTag::new([
            ("user", uid.map(|uid| uid.to_string())),
            ("group", gid.map(|gid| gid.to_string())),
            ("unit", self.unit.clone()),
            ("exe", self.exe.as_ref().map(|path| path.to_string_lossy().into_owned())),
            ("exe_sha256", self.exe_sha256.map(|digest| digest.to_string())),
            ("measured", self.measured.then(|| "true".to_owned())),
        ])
    }
}

/// What is known of the user or group of a condition.
fn numbers_of(condition: Option<&IdOrName>, look_up: impl Fn(&str) -> Numbers) -> Option<Numbers> {
    Some(match condition? {
        IdOrName::Id(number) => Numbers { current: Resolution::Number(*number), last: Some(*number) },
        IdOrName::Name(name) => look_up(name),
    })
}

fn number_of(resolution: Option<Resolution>) -> Option<u32> {
    match resolution {
        Some(Resolution::Number(number)) => Some(number),
        _ => None,
    }
}

/// Result of comparing the digest of an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DigestMatch {
    /// All conditions are met.
    Holds,
    /// `exe_sha256` is another digest.
    Fails,
    /// Only `measured` is not met, for this reason.
    Unmeasured(String),
    /// Only `exe_sha256` or `measured` may not be met, because the executable's digest is not known.
    NoDigest(DigestError),
}

/// The table `[match]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSelectors {
    user: Option<Spanned<IdOrName>>,
    group: Option<Spanned<IdOrName>>,
    unit: Option<Spanned<String>>,
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
        let has_identity_key = self.user.is_some() || self.group.is_some() || self.unit.is_some();
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
        let selectors = Selectors { user, group, unit, exe, exe_sha256, measured };
        // Any user can run a program under a debugger, preload a library into it, or place another file at
        // its path in a mount namespace. An executable therefore distinguishes agents of one user, but not
        // users.
        if !has_identity_key && is_complete {
            faults.push(source.diagnostic(
                span,
                "no user, group or unit, so a process of any user could be this agent; \
                 exe and exe_sha256 are not sufficient, add one of user, group and unit",
            ));
        }
        selectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_depends_on_every_condition() {
        let unit = Selectors { unit: Some("a.service".into()), ..Selectors::default() };
        let selectors = [
            Selectors::default(),
            unit.clone(),
            Selectors { unit: Some("b.service".into()), ..Selectors::default() },
            Selectors { exe: Some("/a".into()), ..unit.clone() },
            Selectors { exe_sha256: Some("00".repeat(32).parse().unwrap()), ..unit.clone() },
            Selectors { measured: true, ..unit.clone() },
        ];
        let mut tags: Vec<String> =
            selectors.iter().map(|selectors| selectors.tag(None, None).to_string()).collect();
        for (uid, gid) in [(Some(1), None), (Some(2), None), (None, Some(1)), (Some(1), Some(1))] {
            tags.push(unit.tag(uid, gid).to_string());
        }
        let count = tags.len();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), count);
    }

    /// Certificates that were issued by an earlier release must not be revoked by a later one.
    #[test]
    fn encoding_is_stable() {
        let selectors = Selectors { unit: Some("researcher.service".into()), ..Selectors::default() };
        assert_eq!(selectors.tag(Some(1001), None).to_string(), "317b8f82");
    }
}
