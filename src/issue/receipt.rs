//! Receipts of offboarding, signed in the TPM by the host key.
//!
//! [`crate::verify::receipt`] has the format.

use super::error::Error;
use super::issuer::IssuerState;
use super::jws::{SigningHeader, UnsignedJws, new_jti};
use crate::clock::Timestamp;
use crate::tpm::Tpm;
use crate::verify::receipt::{RECEIPT_TYP, ReceiptClaims, verify_receipt};

/// Has the TPM sign a receipt with these claims, to which it adds its own: the host, the time and an identifier.
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
    let claims = ReceiptClaims { iss, iat: now.as_secs(), jti: new_jti()?, ..claims };
    let header = SigningHeader::for_tpm_key(host_key, RECEIPT_TYP)?;
    let unsigned = UnsignedJws::of_claims(&header, &claims)?;
    let signature = tpm.host_sign(unsigned.digest()).await?;
    let receipt = unsigned.with_signature(&signature);
    verify_receipt(&receipt, host_key, now).map_err(Error::Endorsement)?;
    Ok(receipt)
}
