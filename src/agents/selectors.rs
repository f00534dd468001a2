//! The conditions under which a process is an agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::config::{Diagnostic, SourceFile};
use crate::peer::{DigestCache, Peer, Sha256Digest};

use super::NssCache;
use crate::posture::ImaDigests;

/// Conditions, all of which must hold. A loaded one has at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selectors {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<IdOrName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<IdOrName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<Sha256Digest>,
    /// Whether the kernel must have measured the executable, before a PCR 10 that the TPM quoted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub measured: bool,
}

/// A user or group, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IdOrName {
    Id(u32),
    Name(String),
}

impl Selectors {
    /// Whether `peer` is meant, by what is known without reading its executable.
    async fn matches_without_digest(&self, peer: &Peer, nss: &NssCache) -> bool {
        if self.unit.as_ref().is_some_and(|unit| peer.unit.as_ref() != Some(unit)) {
            return false;
        }
        if self.exe.as_ref().is_some_and(|exe| peer.exe() != Some(exe)) {
            return false;
        }
        let user_matches = match &self.user {
            None => true,
            Some(IdOrName::Id(uid)) => peer.uid == *uid,
            Some(IdOrName::Name(name)) => nss.user_name(peer.uid).await.as_deref() == Some(name.as_str()),
        };
        if !user_matches {
            return false;
        }
        match &self.group {
            None => true,
            Some(IdOrName::Id(gid)) => peer.in_group(*gid),
            Some(IdOrName::Name(name)) => {
                for gid in std::iter::once(peer.gid).chain(peer.groups.iter().copied()) {
                    if nss.group_name(gid).await.as_deref() == Some(name.as_str()) {
                        return true;
                    }
                }
                false
            }
        }
    }

    /// Whether there is a condition that the kernel keeps others from meeting.
    fn has_identity_selector(&self) -> bool {
        self.user.is_some() || self.group.is_some() || self.unit.is_some()
    }

    /// Whether `peer` is meant. The executable is read only where everything else holds.
    pub async fn matches(
        &self,
        peer: &Peer,
        nss: &NssCache,
        digest_cache: &DigestCache,
        ima_digests: &ImaDigests,
    ) -> MatchResult {
        if !self.matches_without_digest(peer, nss).await {
            return MatchResult::NotMatched;
        }
        if self.exe_sha256.is_none() && !self.measured {
            return MatchResult::Matched;
        }
        let digest = peer.compute_exe_sha256(digest_cache).await;
        if self.exe_sha256.is_some_and(|expected| digest != Some(expected)) {
            return MatchResult::NotMatched;
        }
        match (self.measured, digest) {
            (false, _) => MatchResult::Matched,
            (true, None) => MatchResult::Unmeasured(EXE_UNREADABLE.into()),
            (true, Some(digest)) => ima_digests
                .check_measured(&digest.0)
                .map_or_else(|e| MatchResult::Unmeasured(e.to_string()), |()| MatchResult::Matched),
        }
    }
}

const EXE_UNREADABLE: &str = "its executable cannot be read, so nobody can tell whether it was measured; an administrator \
                          installs the drop-in executables.conf, see hostbadged(8)";

/// Whether the conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatchResult {
    Matched,
    NotMatched,
    /// All but that the executable was measured, and why that does not.
    Unmeasured(String),
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
    pub(super) fn validate(
        self,
        source: &SourceFile,
        span: std::ops::Range<usize>,
        faults: &mut Vec<Diagnostic>,
    ) -> Selectors {
        let mut parse_id_or_name = |raw: Option<Spanned<IdOrName>>, field: &str| {
            let raw = raw?;
            let span = raw.span();
            match raw.into_inner() {
                IdOrName::Name(name)
                    if name.is_empty() || name.len() > 256 || name.contains(['\0', ':', '\n']) =>
                {
                    faults.push(source.diagnostic(span, format!("{field} is a name or a number")));
                    None
                }
                IdOrName::Name(name) => Some(name.parse().map_or(IdOrName::Name(name), IdOrName::Id)),
                id => Some(id),
            }
        };
        let user = parse_id_or_name(self.user, "user");
        let group = parse_id_or_name(self.group, "group");
        let unit = self.unit.map(|raw| {
            if !raw.get_ref().contains('.') || raw.get_ref().contains('/') {
                faults.push(
                    source.diagnostic(raw.span(), "unit is a unit's whole name, like \"researcher.service\""),
                );
            }
            raw.into_inner()
        });
        let exe = self.exe.map(|raw| {
            if !raw.get_ref().is_absolute() {
                faults.push(source.diagnostic(raw.span(), "exe is an absolute path"));
            }
            raw.into_inner()
        });
        let exe_sha256 = self.exe_sha256.and_then(|raw| match raw.get_ref().parse() {
            Ok(digest) => Some(digest),
            Err(message) => {
                faults.push(source.diagnostic(raw.span(), message));
                None
            }
        });
        let measured = self.measured.as_ref().is_some_and(|raw| *raw.get_ref());
        if let (Some(raw), true, None, None) = (&self.measured, measured, &exe, &exe_sha256) {
            let message = "measured = true beside no exe or exe_sha256 lets any measured program be this agent; name one";
            if faults.is_empty() {
                faults.push(source.diagnostic(raw.span(), message));
            }
        }
        let selectors = Selectors { user, group, unit, exe, exe_sha256, measured };
        // Anybody can run a program under a debugger, with a library of their own in it, or at its path in a mount
        // namespace of their own: an executable tells agents of one user apart, and users not at all.
        if !selectors.has_identity_selector() && faults.is_empty() {
            faults.push(source.diagnostic(
                span,
                "no user, group or unit: every user's process could be this agent; exe and exe_sha256 only narrow",
            ));
        }
        selectors
    }
}
