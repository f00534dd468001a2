//! The conditions under which a process is an agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::config::{Fault, Source};
use crate::peer::{Digest, Digests, Peer};

use super::Names;
use crate::posture::Measured;

/// Conditions, all of which must hold. A loaded one has at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Match {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<Digest>,
    /// Whether the kernel must have measured the executable, before a PCR 10 that the TPM quoted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub measured: bool,
}

/// A user or group, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    Number(u32),
    Name(String),
}

impl Match {
    /// Whether `peer` is meant, by what is known without reading its executable.
    async fn holds_but_for_digest(&self, peer: &Peer, names: &Names) -> bool {
        if self.unit.as_ref().is_some_and(|unit| peer.unit.as_ref() != Some(unit)) {
            return false;
        }
        if self.exe.as_ref().is_some_and(|exe| peer.exe() != Some(exe)) {
            return false;
        }
        let user = match &self.user {
            None => true,
            Some(Id::Number(uid)) => peer.uid == *uid,
            Some(Id::Name(name)) => names.user(peer.uid).await.as_deref() == Some(name.as_str()),
        };
        if !user {
            return false;
        }
        match &self.group {
            None => true,
            Some(Id::Number(gid)) => peer.in_group(*gid),
            Some(Id::Name(name)) => {
                for gid in std::iter::once(peer.gid).chain(peer.groups.iter().copied()) {
                    if names.group(gid).await.as_deref() == Some(name.as_str()) {
                        return true;
                    }
                }
                false
            }
        }
    }

    /// Whether there is a condition that the kernel keeps others from meeting.
    fn names_somebody(&self) -> bool {
        self.user.is_some() || self.group.is_some() || self.unit.is_some()
    }

    /// Whether `peer` is meant. The executable is read only where everything else holds.
    pub async fn holds(&self, peer: &Peer, names: &Names, digests: &Digests, measured: &Measured) -> Held {
        if !self.holds_but_for_digest(peer, names).await {
            return Held::No;
        }
        if self.exe_sha256.is_none() && !self.measured {
            return Held::Yes;
        }
        let digest = peer.compute_exe_sha256(digests).await;
        if self.exe_sha256.is_some_and(|wanted| digest != Some(wanted)) {
            return Held::No;
        }
        match (self.measured, digest) {
            (false, _) => Held::Yes,
            (true, None) => Held::Unmeasured(UNREADABLE.into()),
            (true, Some(digest)) => measured.has(&digest.0).map_or_else(Held::Unmeasured, |()| Held::Yes),
        }
    }
}

const UNREADABLE: &str = "its executable cannot be read, so nobody can tell whether it was measured; an administrator \
                          installs the drop-in executables.conf, see hostbadged(8)";

/// Whether the conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Yes,
    No,
    /// All but that the executable was measured, and why that does not.
    Unmeasured(String),
}

/// The table `[match]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    user: Option<Spanned<Id>>,
    group: Option<Spanned<Id>>,
    unit: Option<Spanned<String>>,
    exe: Option<Spanned<PathBuf>>,
    exe_sha256: Option<Spanned<String>>,
    measured: Option<Spanned<bool>>,
}

impl Written {
    pub(super) fn check(
        self,
        source: &Source,
        span: std::ops::Range<usize>,
        faults: &mut Vec<Fault>,
    ) -> Match {
        let mut id = |written: Option<Spanned<Id>>, kind: &str| {
            let written = written?;
            let at = written.span();
            match written.into_inner() {
                Id::Name(name) if name.is_empty() || name.len() > 256 || name.contains(['\0', ':', '\n']) => {
                    faults.push(source.fault(at, format!("{kind} is a name or a number")));
                    None
                }
                Id::Name(name) => Some(name.parse().map_or(Id::Name(name), Id::Number)),
                number => Some(number),
            }
        };
        let user = id(self.user, "user");
        let group = id(self.group, "group");
        let unit = self.unit.map(|written| {
            if !written.get_ref().contains('.') || written.get_ref().contains('/') {
                faults.push(
                    source.fault(written.span(), "unit is a unit's whole name, like \"researcher.service\""),
                );
            }
            written.into_inner()
        });
        let exe = self.exe.map(|written| {
            if !written.get_ref().is_absolute() {
                faults.push(source.fault(written.span(), "exe is an absolute path"));
            }
            written.into_inner()
        });
        let exe_sha256 = self.exe_sha256.and_then(|written| match written.get_ref().parse() {
            Ok(digest) => Some(digest),
            Err(what) => {
                faults.push(source.fault(written.span(), what));
                None
            }
        });
        let measured = self.measured.as_ref().is_some_and(|written| *written.get_ref());
        if let (Some(written), true, None, None) = (&self.measured, measured, &exe, &exe_sha256) {
            let what = "measured = true beside no exe or exe_sha256 lets any measured program be this agent; name one";
            if faults.is_empty() {
                faults.push(source.fault(written.span(), what));
            }
        }
        let matching = Match { user, group, unit, exe, exe_sha256, measured };
        // Anybody can run a program under a debugger, with a library of their own in it, or at its path in a mount
        // namespace of their own: an executable tells agents of one user apart, and users not at all.
        if !matching.names_somebody() && faults.is_empty() {
            faults.push(source.fault(
                span,
                "no user, group or unit: every user's process could be this agent; exe and exe_sha256 only narrow",
            ));
        }
        matching
    }
}
