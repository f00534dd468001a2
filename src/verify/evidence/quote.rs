//! Checks of what the AK signed: the quote, and the certification of the host key.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};

use super::document::{
    Evidence, NONCE_LEN, SignedAttestation, decode_base64, decode_public_key, qualifying_data,
};
use crate::digest::sha256;
use crate::verify::error::Error;
use crate::verify::pcr::PcrDigest;
use crate::verify::tpm_structures::{Attest, AttestedInfo, PublicKey};

/// The PCRs that a quote must cover unless the verifier's policy says otherwise: firmware and its settings (0
/// to 7), boot loader and kernel (8, 9, 11, 12, 13), IMA (10), shim (14). Without this rule, a quote of no
/// PCRs would prove an empty list of values, and PCR 16 can be reset by any program.
pub(crate) const REQUIRED_PCRS: std::ops::RangeInclusive<u8> = 0..=14;

impl Evidence {
    /// The content of an attestation that is not in the evidence, if the AK of the evidence signed it.
    ///
    /// # Errors
    ///
    /// If it did not, or one of them is malformed.
    pub(crate) fn verify_by_ak(&self, attestation: &SignedAttestation) -> Result<Attest, Error> {
        verify_attestation(attestation, &decode_public_key(&self.ak)?)
    }
}

/// The content of an attestation, after the check that the AK in the evidence signed it. See [`check_srk`].
pub(super) fn verify_attestation(attestation: &SignedAttestation, ak: &PublicKey) -> Result<Attest, Error> {
    let attest = decode_base64(&attestation.attest)?;
    if !ak.verify_signature(&attest, &decode_base64(&attestation.signature)?)? {
        return Err(Error::Evidence("the AK did not sign this".into()));
    }
    Attest::parse(&attest)
}

/// Checks that the TPM names this AK, below the SRK of the evidence, as the signer of an attestation.
///
/// A TPM puts the signer's qualified Name into each attestation: a digest over the owner hierarchy, the Name
/// of the parent and the Name of the key (part 1, section 16). No other pair of Names has the same digest, so
/// the attestation proves the Name of the SRK as well as it proves the PCR values.
pub(super) fn check_srk(evidence: &Evidence, attest: &Attest, ak: &PublicKey) -> Result<String, Error> {
    let srk = HEXLOWER_PERMISSIVE
        .decode(evidence.srk.as_bytes())
        .map_err(|e| Error::Evidence(format!("its Name is not hexadecimal: {e}")))?;
    if attest.qualified_signer != ak.qualified_name_under(&srk) {
        return Err(Error::Evidence(
            "the TPM names another key than this AK below this SRK as the signer".into(),
        ));
    }
    Ok("is the parent of the AK, by the quote".into())
}

/// Checks that all PCRs that the verifier requires are in the quote.
pub(super) fn check_quoted_pcrs(quote: &Attest, required: &[u8]) -> Result<String, Error> {
    let AttestedInfo::Quote { pcr_indexes, .. } = &quote.attested else {
        return Err(Error::Evidence("the attestation is not a quote".into()));
    };
    if required.is_empty() {
        return Err(Error::Evidence("the verifier requires none, and a quote of none proves nothing".into()));
    }
    let missing: Vec<u8> = required.iter().copied().filter(|number| !pcr_indexes.contains(number)).collect();
    if !missing.is_empty() {
        return Err(Error::Evidence(format!("PCRs {missing:?} are not in the quote")));
    }
    Ok(format!("{pcr_indexes:?}"))
}

/// Checks that the quote was made for the verifier's nonce, and that the document names no other.
pub(super) fn check_nonce(evidence: &Evidence, quote: &Attest, nonce: &[u8]) -> Result<String, Error> {
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
    if evidence.nonce != BASE64URL_NOPAD.encode(nonce) {
        return Err(Error::Evidence("the quote is for it, and the document names another".into()));
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
    let certification = verify_attestation(&evidence.certification, ak)?;
    check_srk(evidence, &certification, ak)?;
    match certification.attested {
        AttestedInfo::Certify { name } if name == host_key.name => {
            Ok("the host key is in the AK's TPM".into())
        }
        AttestedInfo::Certify { .. } => Err(Error::Evidence("the certification is about another key".into())),
        AttestedInfo::Quote { .. } => Err(Error::Evidence("this is a quote, which certifies no key".into())),
        AttestedInfo::Nv { .. } => {
            Err(Error::Evidence("this is about an NV index, and certifies no key".into()))
        }
    }
}
