//! Which state a TPM that responds is in: pinned, cleared, replaced, locked out, or with a password.

use super::info::host_id;
use super::probe::TpmaPermanent;
use super::state::StateKind;
use super::state::TpmState;

/// Compares the Names of SRK and EK with the pinned ones.
pub(super) fn compare_names((srk, ek): (&[u8], &[u8]), (pinned_srk, pinned_ek): (&[u8], &[u8])) -> TpmState {
    match (srk == pinned_srk, ek == pinned_ek) {
        (true, true) => TpmState::new(StateKind::Ready, ""),
        (false, true) => TpmState::new(
            StateKind::Cleared,
            format!(
                "it is still the TPM of host {}, but its SRK is new; a daemon with its keys in memory \
                 continues to issue until it exits",
                host_id(ek)
            ),
        ),
        // The host id is derived from the EK, so another EK is another host, with any SRK.
        (_, false) => TpmState::new(
            StateKind::Replaced,
            format!(
                "the stored keys belong to host {}, and this is the TPM of host {}",
                host_id(pinned_ek),
                host_id(ek)
            ),
        ),
    }
}

/// The state of the pinned TPM from its TPMA_PERMANENT.
pub(super) fn state_from_permanent(permanent: TpmaPermanent) -> TpmState {
    let locked = permanent.locked_hierarchies();
    if !locked.is_empty() {
        // Reported at once, since the next start cannot derive SRK and EK.
        let detail = format!(
            "a password was set for the {locked} hierarchy; loaded keys work until the TPM or the daemon \
             restarts"
        );
        return TpmState::new(StateKind::OwnerAuth, detail);
    }
    if permanent.is_locked_out() {
        return TpmState::new(
            StateKind::Lockout,
            "too many failed authorizations; the host's keys have no password and continue to work",
        );
    }
    TpmState::new(StateKind::Ready, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_determine_state() {
        let (srk, ek, other) = ([1; 34], [2; 34], [3; 34]);
        assert_eq!(compare_names((&srk, &ek), (&srk, &ek)), TpmState::new(StateKind::Ready, ""));
        let cleared = compare_names((&other, &ek), (&srk, &ek));
        assert_eq!(cleared.kind, StateKind::Cleared);
        assert!(cleared.detail.contains(&host_id(&ek)), "{cleared}");
        for names in [(&srk, &other), (&other, &other)] {
            let replaced = compare_names((names.0, names.1), (&srk, &ek));
            assert_eq!(replaced.kind, StateKind::Replaced);
            for host in [host_id(&ek), host_id(&other)] {
                assert!(replaced.detail.contains(&host), "{replaced}");
            }
        }
    }

    #[test]
    fn password_takes_precedence_over_lockout() {
        // TPMA_PERMANENT: 0 ownerAuthSet, 1 endorsementAuthSet, 2 lockoutAuthSet, 9 inLockout, 10
        // tpmGeneratedEPS.
        for (bits, kind, detail) in [
            (0x404, StateKind::Ready, ""),
            (0x200, StateKind::Lockout, "too many failed authorizations"),
            (0x201, StateKind::OwnerAuth, "the owner hierarchy"),
            (0x002, StateKind::OwnerAuth, "the endorsement hierarchy"),
            (0x003, StateKind::OwnerAuth, "the owner and endorsement hierarchy"),
        ] {
            let state = state_from_permanent(TpmaPermanent(bits));
            assert!(state.kind == kind && state.detail.contains(detail), "{bits:#x}: {state}");
        }
    }
}
