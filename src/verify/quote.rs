//! One quote, as a host checks what its own TPM says: between the two is a bus that anybody with a probe can speak on.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};

use super::Error;
use super::tpm_structures::{Attest, AttestedInfo, PublicKey};

/// Whether the key of this TPM2B_PUBLIC signed `attest` (a TPMS_ATTEST) for `extra`, over exactly these values of the
/// SHA-256 bank.
pub fn check_quote(
    ak: &[u8],
    attest: &[u8],
    signature: &[u8],
    qualifying_data: &[u8],
    pcrs: &BTreeMap<u8, [u8; 32]>,
) -> Result<(), Error> {
    let fault = |what: &str| Error::Evidence(format!("the TPM's quote: {what}"));
    if !PublicKey::parse(ak)?.verify_signature(attest, signature)? {
        return Err(fault("the AK did not sign it"));
    }
    let quote = Attest::parse(attest)?;
    if quote.extra_data != qualifying_data {
        return Err(fault("it answers another question"));
    }
    let AttestedInfo::Quote { pcr_indexes, digest: quoted } = &quote.attested else {
        return Err(fault("it is none"));
    };
    let concatenated: Vec<u8> = pcrs.values().flatten().copied().collect();
    match pcrs.keys().eq(pcr_indexes) && digest(&SHA256, &concatenated).as_ref() == quoted {
        true => Ok(()),
        false => Err(fault("it is about other values than were read")),
    }
}
