//! What a TPM that answers is to the host: its own, cleared, or another's, and whether it is well.

use super::facts::host_id;
use super::probe::Permanent;
use super::state::State;
use super::state::StateKind;

/// Compares the Names of SRK and EK with the pinned ones.
pub(super) fn of((srk, ek): (&[u8], &[u8]), (pinned_srk, pinned_ek): (&[u8], &[u8])) -> State {
    match (srk == pinned_srk, ek == pinned_ek) {
        (true, true) => State::new(StateKind::Ready, ""),
        (false, true) => State::new(
            StateKind::Cleared,
            format!(
                "it is still the TPM of host {}, but its SRK is new; a daemon that has its keys in memory serves on until it ends",
                host_id(ek)
            ),
        ),
        // A new EK is a new host id, whatever became of the SRK.
        (_, false) => State::new(
            StateKind::Replaced,
            format!(
                "the stored keys are those of host {}, and this is the TPM of host {}",
                host_id(pinned_ek),
                host_id(ek)
            ),
        ),
    }
}

/// The state of the host's own TPM.
pub(super) fn refined(permanent: Permanent) -> State {
    let locked = permanent.locked_hierarchies();
    if !locked.is_empty() {
        // Told at once, since the next boot will not get through.
        let detail = format!(
            "the {locked} hierarchy got a password; what is loaded works until the TPM or the daemon restarts"
        );
        return State::new(StateKind::OwnerAuth, detail);
    }
    match permanent.is_locked_out() {
        true => State::new(
            StateKind::Lockout,
            "too many wrong passwords; the host's own keys need none and go on working",
        ),
        false => State::new(StateKind::Ready, ""),
    }
}
