//! One quote, as a host checks what its own TPM says: between the two is a bus that anybody with a probe can speak on.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};

use super::Error;
use super::structures::{About, Attest, PublicKey};

/// Whether the key of this TPM2B_PUBLIC signed `attest` (a TPMS_ATTEST) for `extra`, over exactly these values of the
/// SHA-256 bank.
pub fn check_quote(
    ak: &[u8],
    attest: &[u8],
    signature: &[u8],
    extra: &[u8],
    pcrs: &BTreeMap<u8, [u8; 32]>,
) -> Result<(), Error> {
    let fault = |what: &str| Error::Evidence(format!("the TPM's quote: {what}"));
    if !PublicKey::parse(ak)?.signed(attest, signature)? {
        return Err(fault("the AK did not sign it"));
    }
    let quote = Attest::parse(attest)?;
    if quote.extra != extra {
        return Err(fault("it answers another question"));
    }
    let About::Pcrs { numbers, digest: quoted } = &quote.about else {
        return Err(fault("it is none"));
    };
    let whole: Vec<u8> = pcrs.values().flatten().copied().collect();
    match pcrs.keys().eq(numbers) && digest(&SHA256, &whole).as_ref() == quoted {
        true => Ok(()),
        false => Err(fault("it is about other values than were read")),
    }
}
