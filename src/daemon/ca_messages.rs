//! Texts of the records about the host's CA.

use crate::pki::{CaChange, RootRenewal};

/// The record of a change.
pub(super) fn describe(change: &CaChange) -> String {
    match change {
        CaChange::RootCreated { not_after, replaces } => {
            let reason = match replaces {
                None => String::new(),
                Some(RootRenewal::NotYetValid(not_before)) => {
                    format!("; the previous one, of a clock that was ahead, is not valid before {not_before}")
                }
                Some(RootRenewal::Expires(at)) => format!("; the previous one expires at {at}"),
            };
            format!(
                "the host key signed the root certificate of the host's CA, valid until {not_after}{reason}"
            )
        }
        CaChange::IssuingCaCreated { name, not_after } => {
            format!(
                "the host CA signed issuing CA {name}, which signs from now on, at most until {not_after}"
            )
        }
        CaChange::IssuingCaResumed { name } => {
            format!("issuing CA {name} signs again, because the clock was set back")
        }
        CaChange::IssuingKeyLost { name } => format!(
            "the key of issuing CA {name} cannot be decrypted; its certificates remain valid until they \
             expire"
        ),
    }
}

/// Why certificates of one identity are revoked. Of `total`, `of_future` were issued while the clock was
/// ahead.
pub(super) fn revocation_reason(is_registered: bool, of_future: usize, total: usize) -> String {
    match is_registered {
        false => "it is not a registered agent".into(),
        true if of_future == total => "they were issued while the clock was ahead".into(),
        true if of_future == 0 => "the agent is matched by other conditions now".into(),
        true => format!(
            "{of_future} were issued while the clock was ahead, and for the others the agent is matched by \
             other conditions now"
        ),
    }
}
