//! Has the TPM endorse issuing keys; what an endorsement is, `verify` says.

use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};

use super::Error;
use crate::clock::Timestamp;
use crate::tpm::Tpm;
use crate::verify::Jwk;
use crate::verify::endorsement::{self, ENDORSEMENT_TYP, EndorsementClaims, EndorsementConfirmation};

/// Has the TPM endorse `key`. The host key's thumbprint is the `kid`.
pub async fn endorse(
    tpm: &Tpm,
    host_id: &str,
    host_key: &Jwk,
    key: &Jwk,
    now: Timestamp,
) -> Result<String, Error> {
    let header = serde_json::json!({ "alg": "ES256", "kid": host_key.kid, "typ": ENDORSEMENT_TYP });
    let statement = EndorsementClaims {
        iss: host_id.to_owned(),
        sub: key.kid.clone(),
        iat: now.as_secs(),
        cnf: EndorsementConfirmation { jwk: key.clone() },
    };
    let statement = serde_json::to_vec(&statement).map_err(|e| Error::Key(e.to_string()))?;
    let jws = sign_jws(tpm, &header, &statement).await?;
    verify(&jws, host_id, host_key, key)?;
    Ok(jws)
}

/// A compact JWS by the host key.
pub(super) async fn sign_jws(tpm: &Tpm, header: &serde_json::Value, payload: &[u8]) -> Result<String, Error> {
    unsigned_jws(header, payload)?.sign(tpm).await
}

/// A compact JWS that lacks its signature, and the SHA-256 that is to be signed.
pub(super) struct UnsignedJws {
    signing_input: String,
    digest: [u8; 32],
}

pub(super) fn unsigned_jws(header: &serde_json::Value, payload: &[u8]) -> Result<UnsignedJws, Error> {
    let mut signing_input = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
    signing_input.push('.');
    BASE64URL_NOPAD.encode_append(payload, &mut signing_input);
    let hash: [u8; 32] =
        digest(&SHA256, signing_input.as_bytes()).as_ref().try_into().map_err(|_| Error::Random)?;
    Ok(UnsignedJws { signing_input, digest: hash })
}

impl UnsignedJws {
    pub(super) async fn sign(self, tpm: &Tpm) -> Result<String, Error> {
        let mut jws = self.signing_input;
        let signature = tpm.host_sign(self.digest).await?;
        jws.push('.');
        BASE64URL_NOPAD.encode_append(&signature, &mut jws);
        Ok(jws)
    }
}

/// Whether `host_key` of host `host_id` endorsed `key`.
pub fn verify(endorsement: &str, host_id: &str, host_key: &Jwk, key: &Jwk) -> Result<(), Error> {
    match endorsed_key(endorsement, host_id, host_key)? == *key {
        true => Ok(()),
        false => Err(Error::Endorsement("it speaks of another key".into())),
    }
}

/// The key that `host_key` of host `host_id` endorsed.
pub fn endorsed_key(endorsement: &str, host_id: &str, host_key: &Jwk) -> Result<Jwk, Error> {
    endorsement::verify_endorsement(endorsement, host_id, host_key)
        .map_err(|e| Error::Endorsement(e.to_string()))
}
