//! Verification of a quote that a host requested from its own TPM.
//!
//! The bus between CPU and TPM is not trusted: an attacker with a probe can answer for the TPM.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};

use super::error::Error;
use super::pcr::PcrDigest;
use super::tpm_structures::{Attest, AttestedInfo, PublicKey};

/// Verifies that the AK signed a quote over exactly these PCR values of the SHA-256 bank.
///
/// `ak` is a TPM2B_PUBLIC, `attest` a TPMS_ATTEST, `signature` a TPMT_SIGNATURE, and `qualifying_data` what
/// the quote was requested with.
///
/// # Errors
///
/// [`Error::Evidence`].
pub fn check_quote(
    ak: &[u8],
    attest: &[u8],
    signature: &[u8],
    qualifying_data: &[u8],
    pcrs: &BTreeMap<u8, PcrDigest>,
) -> Result<(), Error> {
    let invalid = |reason: &str| Error::Evidence(format!("the TPM's quote: {reason}"));
    if !PublicKey::parse(ak)?.verify_signature(attest, signature)? {
        return Err(invalid("the AK did not sign it"));
    }
    let quote = Attest::parse(attest)?;
    if quote.extra_data != qualifying_data {
        return Err(invalid("it has other qualifying data than requested"));
    }
    let AttestedInfo::Quote { pcr_indexes, digest: quoted } = &quote.attested else {
        return Err(invalid("it is another kind of attestation"));
    };
    let concatenated: Vec<u8> = pcrs.values().flatten().copied().collect();
    if !pcrs.keys().eq(pcr_indexes) || digest(&SHA256, &concatenated).as_ref() != quoted {
        return Err(invalid("it is over other values than those that were read"));
    }
    Ok(())
}
