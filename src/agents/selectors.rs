//! Selectors: the conditions that make a process an agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::config::{Diagnostic, SourceFile};
use crate::peer::{DigestCache, DigestError, ParseDigestError, Peer, Sha256Digest};
use crate::posture::ImaDigests;

use super::nss::NssCache;

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

/// A user or group, by number or by name. A name is resolved when a process is matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IdOrName {
    /// A uid or gid.
    Id(u32),
    /// A name in the system's user or group database.
    Name(String),
}

impl Selectors {
    /// Whether `peer` meets all conditions that do not need the executable's digest.
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

    /// Whether there is a condition that the kernel prevents other users' processes from meeting.
    fn has_identity_selector(&self) -> bool {
        self.user.is_some() || self.group.is_some() || self.unit.is_some()
    }

    /// Matches `peer`. The executable is read only if the selectors need its digest and all others match.
    pub(super) async fn matches(
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
        let digest = match peer.compute_exe_sha256(digest_cache).await {
            Ok(digest) => digest,
            Err(error) => return MatchResult::NoDigest(error),
        };
        if self.exe_sha256.is_some_and(|expected| digest != expected) {
            return MatchResult::NotMatched;
        }
        if !self.measured {
            return MatchResult::Matched;
        }
        ima_digests
            .check_measured(&digest.0)
            .map_or_else(|e| MatchResult::Unmeasured(e.to_string()), |()| MatchResult::Matched)
    }
}

/// Result of matching a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MatchResult {
    /// All conditions are met.
    Matched,
    /// A condition other than `measured` is not met.
    NotMatched,
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
    /// Checks the selectors and appends their faults. `span` is that of the whole table. With faults, the
    /// returned selectors are incomplete and not used.
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
                    faults.push(source.diagnostic(span, format!("{field} must be a name or a number")));
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
                faults.push(source.diagnostic(
                    raw.span(),
                    "unit must be a complete unit name, like \"researcher.service\"",
                ));
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
        if let (Some(raw), true, None, None) = (&self.measured, measured, &exe, &exe_sha256) {
            let message = "measured = true without exe or exe_sha256 lets any measured program be this \
                           agent; add one of them";
            if faults.is_empty() {
                faults.push(source.diagnostic(raw.span(), message));
            }
        }
        let selectors = Selectors { user, group, unit, exe, exe_sha256, measured };
        // Any user can run a program under a debugger, preload a library into it, or place another file at
        // its path in a mount namespace. An executable therefore distinguishes agents of one user, but not
        // users.
        if !selectors.has_identity_selector() && faults.is_empty() {
            faults.push(source.diagnostic(
                span,
                "no user, group or unit, so a process of any user could be this agent; \
                 exe and exe_sha256 are not sufficient, add one of user, group and unit",
            ));
        }
        selectors
    }
}
