//! The states of the TPM, and the remedy for each.

use std::fmt;

/// The current state of the TPM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TpmState {
    /// Which state it is.
    pub kind: StateKind,
    /// One line about the cause, for the administrator; may be empty.
    pub detail: String,
    /// Whether the TPM that responded last is not the pinned one. It remains set while that TPM stalls or is
    /// absent.
    pub ek_mismatch: bool,
}

impl TpmState {
    /// The state before the first attempt to connect.
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

/// The kind of a state. Displayed in kebab-case, as in `hostbadge status`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StateKind {
    /// No TPM can be reached.
    Absent,
    /// The TPM has not responded within the deadline, or has no memory for objects and sessions.
    Busy,
    /// The pinned TPM with another owner seed: `TPM2_Clear` destroyed all keys under its SRK.
    Cleared,
    /// Dictionary attack lockout after too many failed authorizations. The host's keys are exempt (`noDA`)
    /// and continue to work.
    Lockout,
    /// The owner or endorsement hierarchy has a password. Keys that are loaded already continue to work.
    OwnerAuth,
    /// The pinned TPM responds.
    Ready,
    /// The TPM is not the pinned one.
    Replaced,
    /// The TPM was reset while in use; the daemon is reconnecting.
    Reset,
    /// No attempt to connect has ended yet.
    Starting,
}

impl StateKind {
    /// All kinds.
    pub const ALL: [StateKind; 9] = [
        StateKind::Absent,
        StateKind::Busy,
        StateKind::Cleared,
        StateKind::Lockout,
        StateKind::OwnerAuth,
        StateKind::Ready,
        StateKind::Replaced,
        StateKind::Reset,
        StateKind::Starting,
    ];

    /// The name, as it is displayed.
    pub fn name(self) -> &'static str {
        match self {
            StateKind::Absent => "absent",
            StateKind::Busy => "busy",
            StateKind::Cleared => "cleared",
            StateKind::Lockout => "lockout",
            StateKind::OwnerAuth => "owner-auth",
            StateKind::Ready => "ready",
            StateKind::Replaced => "replaced",
            StateKind::Reset => "reset",
            StateKind::Starting => "starting",
        }
    }

    /// What an administrator can do about the state, in one line.
    pub fn remedy(&self) -> &'static str {
        match self {
            StateKind::Absent => {
                "enable the TPM in the firmware, load its driver, and let the daemon's user read and write \
                 the device (group tss)"
            }
            StateKind::Busy => {
                "wait; if it lasts, stop the other programs that use the TPM, then power the machine off and \
                 on"
            }
            StateKind::Cleared => {
                "the TPM was cleared, which destroyed its keys; restart the daemon and recover this host's \
                 keys with the recovery key (hostbadge key recover), or stop it, move the files of its state \
                 directory away, start it and enroll the host again"
            }
            StateKind::Lockout => {
                "wait for the lockout to expire (tpm2_getcap properties-variable) or end it with \
                 tpm2_dictionarylockout --clear-lockout"
            }
            StateKind::OwnerAuth => {
                "remove the password of the owner and endorsement hierarchies (tpm2_changeauth -c owner -p \
                 PASSWORD)"
            }
            StateKind::Ready => "nothing to do",
            StateKind::Replaced => {
                "this is not the TPM that the host was set up with; put the previous TPM back, or restart \
                 the daemon and recover this host's keys with the recovery key (hostbadge key recover), or \
                 stop it, move the files of its state directory away, start it and enroll the host again"
            }
            StateKind::Reset => "nothing to do; the daemon reconnects by itself",
            StateKind::Starting => "nothing to do; the daemon is connecting to the TPM for the first time",
        }
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_name_and_remedy() {
        let names: Vec<String> = StateKind::ALL.iter().map(StateKind::to_string).collect();
        let expected = "absent busy cleared lockout owner-auth ready replaced reset starting";
        assert_eq!(names.join(" "), expected);
        for kind in StateKind::ALL {
            assert!(!kind.remedy().is_empty() && !kind.remedy().contains('\n'));
        }
        assert_eq!(TpmState::new(StateKind::Absent, "no device").to_string(), "absent (no device)");
        assert_eq!(TpmState::new(StateKind::Ready, "").to_string(), "ready");
    }
}
