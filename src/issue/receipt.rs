//! Receipts of offboarding, signed in the TPM by the host key.
//!
//! [`crate::verify::receipt`] has the format.

use data_encoding::BASE64;

use super::error::Error;
use super::issuer::IssuerState;
use super::jws::{SigningHeader, UnsignedJws, new_jti};
use crate::clock::Timestamp;
use crate::tpm::{self, Tpm};
use crate::verify::evidence::SignedAttestation;
use crate::verify::receipt::{RECEIPT_TYP, ReceiptClaims, counter_binding, verify_receipt};

/// Has the TPM sign a receipt with these claims, to which it adds its own: the host, the time, an identifier, and the
/// AK's statement of the counter's value.
///
/// # Errors
/// [`Error::Tpm`], and [`Error::Endorsement`] for a signature that does not verify.
pub async fn sign_receipt(
    tpm: &Tpm,
    issuer_state: &IssuerState,
    claims: ReceiptClaims,
    now: Timestamp,
) -> Result<String, Error> {
    let host_key = issuer_state.host_key();
    let iss = issuer_state.host().id.clone();
    let mut claims = ReceiptClaims { iss, iat: now.as_secs(), jti: new_jti()?, ..claims };
    if let Some(erasure) = claims.erasure {
        let binding = counter_binding(&claims.jti, &claims.agent);
        claims.counter_certification = match tpm.certify_counter(erasure.nv_index, binding).await {
            Ok(certified) => Some(SignedAttestation {
                attest: BASE64.encode(&certified.attest),
                signature: BASE64.encode(&certified.signature),
            }),
            // The counter was deleted since, or this TPM lacks the command: the receipt is made all the same.
            Err(error @ (tpm::Error::RequestFailed(_) | tpm::Error::CommandFailed { .. })) => {
                tracing::warn!("the receipt has no statement of the TPM about its counter: {error}");
                None
            }
            Err(error) => return Err(error.into()),
        };
    }
    let header = SigningHeader::for_tpm_key(host_key, RECEIPT_TYP)?;
    let unsigned = UnsignedJws::of_claims(&header, &claims)?;
    let signature = tpm.host_sign(unsigned.digest()).await?;
    let receipt = unsigned.with_signature(&signature);
    verify_receipt(&receipt, host_key, now).map_err(Error::Endorsement)?;
    Ok(receipt)
}
