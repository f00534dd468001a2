//! Quotes: what the TPM says about its PCRs, signed by the AK.

use std::collections::BTreeMap;

use ring::digest;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::Attest;
use tss_esapi::structures::AttestInfo;
use tss_esapi::structures::Data;
use tss_esapi::structures::PcrSelectionList;
use tss_esapi::structures::PcrSlot;
use tss_esapi::structures::SignatureScheme;
use tss_esapi::traits::Marshall;

use super::connection::TpmConnection;
use super::connection::unexpected_response;
use super::error::Error;
use super::error::command_failed;
use super::objects::Certification;
use super::objects::TpmObjects;

/// A PCR can be extended between its reading and the quote; then both are done again, so often at most.
const MAX_QUOTE_ATTEMPTS: usize = 5;

/// What a verifier needs to know this host by: public areas, and what the AK signed.
#[derive(Clone, Debug)]
pub struct Attestation {
    pub srk_name: Vec<u8>,
    /// TPM2B_PUBLIC of EK, AK and host key.
    pub ek_public: Vec<u8>,
    pub ak_public: Vec<u8>,
    pub host_key_public: Vec<u8>,
    /// The AK's word that the host key lives in the same TPM.
    pub certification: Certification,
    /// TPMS_ATTEST of the quote, and the AK's TPMT_SIGNATURE over it.
    pub quote: Vec<u8>,
    pub signature: Vec<u8>,
    /// The SHA-256 bank's values that were quoted, by number.
    pub pcrs: BTreeMap<u8, [u8; 32]>,
}

/// Quotes `pcrs` (numbers up to 23) with `qualification` in the quote's extraData.
pub(super) fn attest(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    pcrs: &[u8],
    qualifying_data: &[u8],
) -> Result<Attestation, Error> {
    let slots = pcr_slots(pcrs)?;
    let extra_data = Data::try_from(qualifying_data).map_err(command_failed("TPM2_Quote"))?;
    for _ in 0..MAX_QUOTE_ATTEMPTS {
        let values = read_pcrs(connection, pcrs)?;
        let (quote, signature) = connection.with_loaded(&objects.ak, |connection, ak| {
            connection.run("TPM2_Quote", |context| {
                context.quote(ak, extra_data.clone(), SignatureScheme::Null, pcr_selection(&slots)?)
            })
        })?;
        if !covers_values(&quote, &values) {
            continue;
        }
        let marshal_error = command_failed("marshalling a quote");
        return Ok(Attestation {
            srk_name: objects.srk_name.clone(),
            ek_public: objects.ek_public.clone(),
            ak_public: objects.ak.public.clone(),
            host_key_public: objects.host_key.public.clone(),
            certification: objects.certification.clone(),
            quote: quote.marshall().map_err(&marshal_error)?,
            signature: signature.marshall().map_err(&marshal_error)?,
            pcrs: values,
        });
    }
    Err(Error::RequestFailed(
        "the PCRs changed each time they were quoted; ask again when the host is quiet".into(),
    ))
}

/// The SHA-256 bank's values. The TPM gives eight at a time at most. No session protects this command, as it has nothing
/// to authorize or encrypt: the quote does, which is compared with the values.
pub(super) fn read_pcrs(
    connection: &mut TpmConnection,
    pcrs: &[u8],
) -> Result<BTreeMap<u8, [u8; 32]>, Error> {
    let mut values = BTreeMap::new();
    for chunk in pcrs.chunks(8) {
        let slots = pcr_slots(chunk)?;
        let (_, returned, digests) = connection
            .run_without_session("TPM2_PCR_Read", |context| context.pcr_read(pcr_selection(&slots)?))?;
        // A bank that is not there reads as an empty selection.
        if returned.is_empty() || digests.value().len() != chunk.len() {
            return Err(Error::RequestFailed(
                "this TPM has no SHA-256 bank of PCRs; enable it in the firmware".into(),
            ));
        }
        for (number, digest) in chunk.iter().zip(digests.value()) {
            let value = digest.value().try_into().map_err(|_| unexpected_response("TPM2_PCR_Read"))?;
            values.insert(*number, value);
        }
    }
    Ok(values)
}

/// TPM 2.0 Part 3, section 18.4: the quote holds a digest of the values in the order of their numbers.
fn covers_values(quote: &Attest, values: &BTreeMap<u8, [u8; 32]>) -> bool {
    let AttestInfo::Quote { info } = quote.attested() else { return false };
    let concatenated: Vec<u8> = values.values().flatten().copied().collect();
    info.pcr_digest().value() == digest::digest(&digest::SHA256, &concatenated).as_ref()
}

pub(super) fn pcr_slots(pcrs: &[u8]) -> Result<Vec<PcrSlot>, Error> {
    let ordered = pcrs.windows(2).all(|pair| pair[0] < pair[1]);
    if pcrs.is_empty() || !ordered || pcrs.iter().any(|number| *number > 23) {
        return Err(Error::RequestFailed("PCRs are numbers from 0 to 23, each once, in their order".into()));
    }
    let slot = |number: &u8| PcrSlot::try_from(1u32 << number).map_err(command_failed("selecting PCRs"));
    pcrs.iter().map(slot).collect()
}

pub(super) fn pcr_selection(slots: &[PcrSlot]) -> tss_esapi::Result<PcrSelectionList> {
    PcrSelectionList::builder().with_selection(HashingAlgorithm::Sha256, slots).build()
}
