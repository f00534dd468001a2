//! The names of what can be the matter with a TPM, and the mend for each.

use std::fmt;

/// What the room knows of its TPM at this moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TpmState {
    pub kind: StateKind,
    /// One line about this occurrence, for the administrator; may be empty.
    pub detail: String,
    /// Whether the TPM that answered last is another than the pinned one. It stays so while that one stalls or is away.
    pub ek_mismatch: bool,
}

impl TpmState {
    /// Before anything is known.
    pub fn starting() -> Self {
        TpmState::new(StateKind::Starting, "")
    }

    pub(super) fn new(kind: StateKind, detail: impl Into<String>) -> Self {
        TpmState { kind, detail: detail.into(), ek_mismatch: false }
    }
}

impl fmt::Display for TpmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_str() {
            "" => write!(f, "{}", self.kind),
            detail => write!(f, "{} ({detail})", self.kind),
        }
    }
}

/// Shown in kebab-case, as in `hostbadge status`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StateKind {
    /// No TPM answers.
    Absent,
    /// It has not answered within the deadline, or other programs fill it.
    Busy,
    /// Same TPM, but its owner's seed is new: `TPM2_Clear` was done, and all its keys are gone.
    Cleared,
    /// It refuses for too many failed authorizations. Keys outside the dictionary attack counter, as ours, go on working.
    Lockout,
    /// A hierarchy has a password that the room does not know. What is loaded already goes on working.
    OwnerAuth,
    /// It answers and is the one that was pinned.
    Ready,
    /// Another TPM than the one that was pinned.
    Replaced,
    /// It was reset beneath the room, which is reconnecting.
    Reset,
    /// Not yet asked.
    Starting,
}

impl StateKind {
    /// What an administrator does about it, in one line.
    pub fn remedy(&self) -> &'static str {
        match self {
            StateKind::Absent => {
                "enable the TPM in the firmware, load its driver, and let the daemon's user read and write the device (group tss)"
            }
            StateKind::Busy => {
                "wait; if it lasts, stop the other programs that use the TPM, then power the machine off and on"
            }
            StateKind::Cleared => {
                "the TPM was cleared and its keys are gone for ever; restart the daemon and open this host's keys with the recovery key (hostbadge key recover), or stop it, move the files of its state directory away, start it and enroll the host anew"
            }
            StateKind::Lockout => {
                "wait for the lockout to run out (tpm2_getcap properties-variable) or end it with tpm2_dictionarylockout --clear-lockout"
            }
            StateKind::OwnerAuth => {
                "remove the password of the owner and endorsement hierarchies (tpm2_changeauth -c owner -p PASSWORD)"
            }
            StateKind::Ready => "nothing to do",
            StateKind::Replaced => {
                "this is another TPM than before; give the host its old TPM back, or restart the daemon and open this host's keys with the recovery key (hostbadge key recover), or stop it, move the files of its state directory away, start it and enroll the host anew"
            }
            StateKind::Reset => "nothing to do; the daemon reconnects by itself",
            StateKind::Starting => "nothing to do; the TPM is being asked for the first time",
        }
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateKind::Absent => "absent",
            StateKind::Busy => "busy",
            StateKind::Cleared => "cleared",
            StateKind::Lockout => "lockout",
            StateKind::OwnerAuth => "owner-auth",
            StateKind::Ready => "ready",
            StateKind::Replaced => "replaced",
            StateKind::Reset => "reset",
            StateKind::Starting => "starting",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_name_and_remedy() {
        let all = [
            (StateKind::Absent, "absent"),
            (StateKind::Busy, "busy"),
            (StateKind::Cleared, "cleared"),
            (StateKind::Lockout, "lockout"),
            (StateKind::OwnerAuth, "owner-auth"),
            (StateKind::Ready, "ready"),
            (StateKind::Replaced, "replaced"),
            (StateKind::Reset, "reset"),
            (StateKind::Starting, "starting"),
        ];
        for (kind, name) in all {
            assert_eq!(kind.to_string(), name);
            assert!(!kind.remedy().is_empty() && !kind.remedy().contains('\n'));
        }
        assert_eq!(TpmState::new(StateKind::Absent, "no device").to_string(), "absent (no device)");
        assert_eq!(TpmState::new(StateKind::Ready, "").to_string(), "ready");
    }
}
