//! Selectors: the conditions that make a process an agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::sha256;
use crate::names::{Name, NameTable, Numbers, Resolution};
use crate::peer::{DigestError, PeerInfo, Sha256Digest};
use crate::posture::ImaDigests;

use super::match_tag::MatchTag;

/// Conditions that a process must meet, all of them. A registered agent has at least a user, group, unit or
/// container.
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
    /// Unit in the service manager of `user`, such as `agent.service`. No stronger than `user`, which is
    /// therefore given too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_unit: Option<String>,
    /// Whether the process must be in a login session of `user`, which is given too. By default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub session: bool,
    /// ID of a container, 64 hexadecimal digits. Without `user`, one that root created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
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
    /// SHA-256 digests of files of this host, by path: what a script agent is made of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<PathBuf, Sha256Digest>,
    /// SHA-256 digest over the file and the drop-ins of `unit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit_sha256: Option<Sha256Digest>,
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
            || !self.holds_user_unit(peer)
            || (self.session && !peer.is_in_own_session())
            || !self.holds_container(peer)
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

    /// Whether the condition on the unit of the user's own manager holds, or there is none.
    pub(super) fn holds_user_unit(&self, peer: &PeerInfo) -> bool {
        self.user_unit.as_deref().is_none_or(|unit| peer.own_user_unit() == Some(unit))
    }

    /// Whether the condition on the container holds, or there is none. A user can give each of its processes
    /// the ID of any container in its own service manager, so these count only beside a condition on the
    /// user.
    pub(super) fn holds_container(&self, peer: &PeerInfo) -> bool {
        let Some(id) = &self.container else { return true };
        let is_strong_enough = |owner: Option<u32>| owner.is_none() || self.user.is_some();
        peer.own_container().is_some_and(|one| one.id == *id && is_strong_enough(one.owner))
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

    /// Whether a condition needs the content of a file, which may have to be read.
    pub(super) fn needs_content(&self) -> bool {
        self.needs_digest() || !self.files.is_empty() || self.unit_sha256.is_some()
    }

    /// One digest for all of `files`: over each path with its digest.
    pub(super) fn files_sha256(&self) -> Option<Sha256Digest> {
        let mut text = "hostbadge files 1\n".to_owned();
        for (path, digest) in &self.files {
            let path = path.to_string_lossy();
            text += &format!("{digest} {} {path}\n", path.len());
        }
        (!self.files.is_empty()).then(|| Sha256Digest(sha256(text.as_bytes())))
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
    pub(super) fn tag(&self, uid: Option<u32>, gid: Option<u32>) -> MatchTag {
        MatchTag::new([
            ("user", uid.map(|uid| uid.to_string())),
            ("group", gid.map(|gid| gid.to_string())),
            ("unit", self.unit.clone()),
            ("exe", self.exe.as_ref().map(|path| path.to_string_lossy().into_owned())),
            ("exe_sha256", self.exe_sha256.map(|digest| digest.to_string())),
            ("measured", self.measured.then(|| "true".to_owned())),
            ("user_unit", self.user_unit.clone()),
            ("session", self.session.then(|| "true".to_owned())),
            ("container", self.container.clone()),
            ("files", self.files_sha256().map(|digest| digest.to_string())),
            ("unit_sha256", self.unit_sha256.map(|digest| digest.to_string())),
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
            Selectors { user_unit: Some("a.service".into()), ..Selectors::default() },
            Selectors { session: true, ..unit.clone() },
            Selectors { container: Some("00".repeat(32)), ..unit.clone() },
            Selectors { files: [("/a".into(), Sha256Digest([0; 32]))].into(), ..unit.clone() },
            Selectors { files: [("/a".into(), Sha256Digest([1; 32]))].into(), ..unit.clone() },
            Selectors { files: [("/b".into(), Sha256Digest([0; 32]))].into(), ..unit.clone() },
            Selectors { unit_sha256: Some(Sha256Digest([0; 32])), ..unit.clone() },
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
