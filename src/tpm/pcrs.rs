//! PCRs of the SHA-256 bank: values, selections, and digests over them.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{PcrSelectionList, PcrSlot};

use super::connection::TpmConnection;
use super::error::{Error, RequestError, command_failed, unexpected_response};
use super::templates;

/// The highest PCR number of a PC (TCG PC Client Platform TPM Profile, section 4.6).
const MAX_PCR: u8 = 23;

/// `TPM2_PCR_Read` returns at most this many digests (TPML_DIGEST, TPM 2.0 Part 2, section 10.9.5).
const PCRS_PER_READ: usize = 8;

/// TPM 2.0 Part 2, section 6.5.2.
const TPM_CC_POLICY_PCR: u32 = 0x0000_017F;

/// PCR values of the SHA-256 bank, 32 bytes each, by PCR number (0 to 23).
pub type PcrValues = BTreeMap<u8, [u8; 32]>;

/// Reads the values of `pcrs`, numbers up to 23 in ascending order.
///
/// No session protects the command, as it has nothing to authorize or encrypt: callers compare the values
/// with a quote or use them in a policy, which the TPM evaluates.
pub(super) fn read(connection: &mut TpmConnection, pcrs: &[u8]) -> Result<PcrValues, Error> {
    let mut values = PcrValues::new();
    for chunk in pcrs.chunks(PCRS_PER_READ) {
        let slots = slots(chunk)?;
        let (_, returned, digests) = connection
            .run_without_session("TPM2_PCR_Read", |context| context.pcr_read(selection(&slots)?))?;
        // A bank that is not allocated reads as an empty selection.
        if returned.is_empty() || digests.value().len() != chunk.len() {
            return Err(RequestError::NoSha256Bank.into());
        }
        for (number, digest) in chunk.iter().zip(digests.value()) {
            let value = digest.value().try_into().map_err(|_| unexpected_response("TPM2_PCR_Read"))?;
            values.insert(*number, value);
        }
    }
    Ok(values)
}

/// PCR numbers in tss-esapi's type.
pub(super) fn slots(pcrs: &[u8]) -> Result<Vec<PcrSlot>, Error> {
    let ascending = pcrs.windows(2).all(|pair| pair[0] < pair[1]);
    if pcrs.is_empty() || !ascending || pcrs.iter().any(|number| *number > MAX_PCR) {
        return Err(RequestError::InvalidPcrSelection.into());
    }
    let slot = |number: &u8| PcrSlot::try_from(1u32 << number).map_err(command_failed("selecting PCRs"));
    pcrs.iter().map(slot).collect()
}

/// A selection in the SHA-256 bank.
pub(super) fn selection(slots: &[PcrSlot]) -> tss_esapi::Result<PcrSelectionList> {
    PcrSelectionList::builder().with_selection(HashingAlgorithm::Sha256, slots).build()
}

/// SHA-256 over the values in ascending order of their numbers, as a quote (TPM 2.0 Part 3, section 18.4) and
/// a PCR policy have it.
pub(super) fn values_digest(values: &PcrValues) -> [u8; 32] {
    let concatenated: Vec<u8> = values.values().flatten().copied().collect();
    sha256(&concatenated)
}

/// The digest of a policy of `TPM2_PolicyPCR` alone (TPM 2.0 Part 3, section 23.7) for these values.
pub(super) fn policy_digest(values: &PcrValues) -> Result<[u8; 32], Error> {
    slots(&numbers(values))?;
    let mut bitmap = [0u8; 3];
    for number in values.keys() {
        bitmap[usize::from(number / 8)] |= 1 << (number % 8);
    }
    let mut policy_data = vec![0; 32];
    policy_data.extend_from_slice(&TPM_CC_POLICY_PCR.to_be_bytes());
    // TPML_PCR_SELECTION: one bank and its bitmap.
    policy_data.extend_from_slice(&1u32.to_be_bytes());
    policy_data.extend_from_slice(&templates::SHA256_ID);
    policy_data.push(bitmap.len() as u8);
    policy_data.extend_from_slice(&bitmap);
    policy_data.extend_from_slice(&values_digest(values));
    Ok(sha256(&policy_data))
}

/// The PCR numbers of `values`, in ascending order.
pub(super) fn numbers(values: &PcrValues) -> Vec<u8> {
    values.keys().copied().collect()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut output = [0; 32];
    output.copy_from_slice(digest(&SHA256, bytes).as_ref());
    output
}
