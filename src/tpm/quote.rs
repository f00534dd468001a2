//! Quotes: PCR values signed by the AK.

use tss_esapi::structures::{Attest, AttestInfo, Data, SignatureScheme};
use tss_esapi::traits::Marshall;

use super::connection::TpmConnection;
use super::error::{Error, RequestError, command_failed};
use super::objects::{Certification, TpmObjects};
use super::pcrs;
use super::pcrs::PcrValues;

/// How often PCRs are read and quoted: a PCR can be extended between the two commands.
const MAX_QUOTE_ATTEMPTS: usize = 5;

/// What a verifier needs to identify this host and check its PCRs: public areas and the AK's signatures.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// The SRK's Name (34 bytes).
    pub srk_name: Vec<u8>,
    /// The ECC P-256 EK's TPM2B_PUBLIC.
    pub ek_public: Vec<u8>,
    /// The AK's TPM2B_PUBLIC.
    pub ak_public: Vec<u8>,
    /// The host key's TPM2B_PUBLIC.
    pub host_key_public: Vec<u8>,
    /// The AK's certification that the host key is in the same TPM.
    pub certification: Certification,
    /// The quote's TPMS_ATTEST (TPM 2.0 Part 2, section 10.12.12).
    pub quote: Vec<u8>,
    /// The AK's TPMT_SIGNATURE over the quote.
    pub signature: Vec<u8>,
    /// The quoted values of the SHA-256 bank.
    pub pcrs: PcrValues,
}

/// Quotes the PCRs `numbers` (up to 23, ascending) with `qualifying_data` as the quote's extraData.
pub(super) fn attest(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    numbers: &[u8],
    qualifying_data: &[u8],
) -> Result<Attestation, Error> {
    let slots = pcrs::slots(numbers)?;
    let extra_data = Data::try_from(qualifying_data).map_err(command_failed("TPM2_Quote"))?;
    for _ in 0..MAX_QUOTE_ATTEMPTS {
        let values = pcrs::read(connection, numbers)?;
        let (quote, signature) = connection.with_loaded(&objects.ak, |connection, ak| {
            connection.run("TPM2_Quote", |context| {
                context.quote(ak, extra_data.clone(), SignatureScheme::Null, pcrs::selection(&slots)?)
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
    Err(RequestError::PcrsUnstable.into())
}

/// Whether the quote is over these values.
fn covers_values(quote: &Attest, values: &PcrValues) -> bool {
    let AttestInfo::Quote { info } = quote.attested() else { return false };
    info.pcr_digest().value() == pcrs::values_digest(values)
}
