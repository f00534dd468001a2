//! Checks of what the AK signed: the quote, and the certification of the host key.

use data_encoding::HEXLOWER_PERMISSIVE;

use super::document::{Evidence, NONCE_LEN, SignedAttestation, decode_base64, qualifying_data};
use crate::digest::sha256;
use crate::verify::error::Error;
use crate::verify::pcr::PcrDigest;
use crate::verify::tpm_structures::{Attest, AttestedInfo, PublicKey};

/// The content of an attestation, after the check that the AK in the evidence signed it.
///
/// A TPM puts the signer's qualified Name into the attestation. It is compared as well: it proves that the
/// AK's attributes and its parent are those that the evidence gives.
pub(super) fn verify_attestation(
    evidence: &Evidence,
    attestation: &SignedAttestation,
    ak: &PublicKey,
) -> Result<Attest, Error> {
    let attest = decode_base64(&attestation.attest)?;
    if !ak.verify_signature(&attest, &decode_base64(&attestation.signature)?)? {
        return Err(Error::Evidence("the AK did not sign this".into()));
    }
    let attest = Attest::parse(&attest)?;
    let srk = HEXLOWER_PERMISSIVE
        .decode(evidence.srk.as_bytes())
        .map_err(|e| Error::Evidence(format!("the SRK's Name is not hexadecimal: {e}")))?;
    if attest.qualified_signer != ak.qualified_name_under(&srk) {
        return Err(Error::Evidence("the TPM names another key than this AK as the signer".into()));
    }
    Ok(attest)
}

pub(super) fn check_nonce(quote: &Attest, nonce: &[u8]) -> Result<String, Error> {
    if !NONCE_LEN.contains(&nonce.len()) {
        return Err(Error::Evidence(format!(
            "a nonce has {} to {} bytes",
            NONCE_LEN.start(),
            NONCE_LEN.end()
        )));
    }
    if quote.extra_data != qualifying_data(nonce) {
        return Err(Error::Evidence(
            "the quote was made for another nonce: it is old, or another verifier requested it".into(),
        ));
    }
    Ok("is in the quote".into())
}

/// Describes the TPM's clock and counters. There is nothing to compare them with.
///
/// For a key outside the endorsement hierarchy, a TPM adds a constant to the counts of resets and restarts
/// (TPM 2.0 Library part 1, section 36.7). Single counts have no meaning; a difference between two quotes by
/// one AK proves a reset between them.
pub(super) fn describe_clock(quote: &Attest) -> String {
    let clock = quote.clock;
    let caveat = if clock.safe { "" } else { ", which may have gone back" };
    format!(
        "{} s{caveat}; reset count {}, restart count {}, comparable only with other quotes by this AK",
        clock.millis / 1000,
        clock.resets,
        clock.restarts
    )
}

/// Checks that the quote is over exactly the PCR values in the evidence.
pub(super) fn check_pcrs(evidence: &Evidence, quote: &Attest) -> Result<String, Error> {
    let AttestedInfo::Quote { pcr_indexes, digest: quoted } = &quote.attested else {
        return Err(Error::Evidence("the attestation is not a quote".into()));
    };
    if !evidence.pcrs.keys().eq(pcr_indexes) {
        return Err(Error::Evidence(format!(
            "the quote is about the PCRs {pcr_indexes:?}, and other values are given"
        )));
    }
    let values = quoted_pcrs(evidence, pcr_indexes.iter().copied())?;
    if sha256(&values.concat()).as_slice() != quoted {
        return Err(Error::Evidence("they are not what was quoted".into()));
    }
    Ok(format!("{} of the SHA-256 bank, as quoted", pcr_indexes.len()))
}

/// The values of these PCRs in the evidence. The check of PCR values proves that they are the quoted ones.
pub(super) fn quoted_pcrs(
    evidence: &Evidence,
    numbers: impl Iterator<Item = u8>,
) -> Result<Vec<PcrDigest>, Error> {
    numbers.map(|number| quoted_pcr(evidence, number)).collect()
}

/// The value of one PCR in the evidence.
pub(super) fn quoted_pcr(evidence: &Evidence, number: u8) -> Result<PcrDigest, Error> {
    let value = evidence.pcrs.get(&number);
    let value = value.ok_or_else(|| Error::Evidence(format!("PCR {number} was not quoted")))?;
    let decoded = HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok().and_then(|value| value.try_into().ok());
    decoded.ok_or_else(|| Error::Evidence(format!("the value of PCR {number} is not 64 hexadecimal digits")))
}

/// Checks that the AK certified the host key, which proves that both are in one TPM.
pub(super) fn check_host_key_certification(
    evidence: &Evidence,
    ak: &PublicKey,
    host_key: &PublicKey,
) -> Result<String, Error> {
    match verify_attestation(evidence, &evidence.certification, ak)?.attested {
        AttestedInfo::Certify { name } if name == host_key.name => {
            Ok("the host key is in the AK's TPM".into())
        }
        AttestedInfo::Certify { .. } => Err(Error::Evidence("the certification is about another key".into())),
        AttestedInfo::Quote { .. } => Err(Error::Evidence("this is a quote, which certifies no key".into())),
    }
}
