//! Values of PCRs of the SHA-256 bank.

use crate::digest::sha256;

/// The value of a PCR of the SHA-256 bank, or a digest that one is extended with.
pub type PcrDigest = [u8; 32];

/// The value of a PCR after `TPM2_PCR_Extend`: SHA-256 over the old value and the event's digest (TPM 2.0
/// Library part 1, section 17.2).
pub(super) fn extend_pcr(pcr: &PcrDigest, event_digest: &PcrDigest) -> PcrDigest {
    sha256(&[*pcr, *event_digest].concat())
}
