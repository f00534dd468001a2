//! Endorsements: the TPM's host key signs a statement about another key of the host.
//!
//! [`crate::verify::endorsement`] has the format.

use super::error::Error;
use super::jws::{SigningHeader, UnsignedJws};
use crate::clock::Timestamp;
use crate::tpm::Tpm;
use crate::verify::endorsement::{
    ENDORSEMENT_TYP, EndorsementClaims, EndorsementConfirmation, verify_endorsement,
};
use crate::verify::{self, Jwk};

/// Has the TPM endorse `key`. The result is a compact JWS whose `kid` is the host key's thumbprint.
pub(super) async fn endorse(
    tpm: &Tpm,
    host_id: &str,
    host_key: &Jwk,
    key: &Jwk,
    now: Timestamp,
) -> Result<String, Error> {
    let claims = EndorsementClaims {
        iss: host_id.to_owned(),
        sub: key.kid.clone(),
        iat: now.backdated().as_secs(),
        cnf: EndorsementConfirmation { jwk: key.clone() },
    };
    let header = SigningHeader::for_tpm_key(host_key, ENDORSEMENT_TYP)?;
    let unsigned = UnsignedJws::of_claims(&header, &claims)?;
    let signature = tpm.host_sign(unsigned.digest()).await?;
    let jws = unsigned.with_signature(&signature);
    verify(&jws, host_id, host_key, key).map_err(Error::Endorsement)?;
    Ok(jws)
}

/// Checks that `host_key` of host `host_id` endorsed `key`.
pub(super) fn verify(
    endorsement: &str,
    host_id: &str,
    host_key: &Jwk,
    key: &Jwk,
) -> Result<(), verify::Error> {
    if verify_endorsement(endorsement, host_id, host_key)? == *key {
        Ok(())
    } else {
        Err(verify::Error::Endorsement("it is for another key".to_owned()))
    }
}
