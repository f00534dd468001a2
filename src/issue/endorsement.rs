//! The host key's word for an issuing key: a JWS that the TPM signed.
//!
//! Whoever trusts the host key (by its certification in evidence) trusts, through this, a key that signs in memory.

use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::clock::Timestamp;
use crate::tpm::Tpm;
use crate::verify::{Jwk, Jws};

/// `typ` of an endorsement.
const TYP: &str = "hostbadge-endorsement+jwt";
const ANOTHER: &str = "it speaks of another key or host";

/// What is signed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    /// The host's id.
    iss: String,
    /// Thumbprint of the key endorsed.
    sub: String,
    iat: u64,
    cnf: Confirmation,
}

/// RFC 7800 section 3.2.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    jwk: Jwk,
}

/// Has the TPM endorse `key`. The host key's thumbprint is the `kid`.
pub async fn endorse(
    tpm: &Tpm,
    host_id: &str,
    host_key: &Jwk,
    key: &Jwk,
    now: Timestamp,
) -> Result<String, Error> {
    let header = serde_json::json!({ "alg": "ES256", "kid": host_key.kid, "typ": TYP });
    let statement = Statement {
        iss: host_id.to_owned(),
        sub: key.kid.clone(),
        iat: now.secs(),
        cnf: Confirmation { jwk: key.clone() },
    };
    let statement = serde_json::to_vec(&statement).map_err(|e| Error::Key(e.to_string()))?;
    let mut jws = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
    jws.push('.');
    BASE64URL_NOPAD.encode_append(&statement, &mut jws);
    let hash: [u8; 32] = digest(&SHA256, jws.as_bytes()).as_ref().try_into().map_err(|_| Error::Random)?;
    let signature = tpm.host_sign(hash).await?;
    jws.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut jws);
    check(&jws, host_id, host_key, key)?;
    Ok(jws)
}

/// Whether `host_key` of host `host_id` endorsed `key`.
pub fn check(endorsement: &str, host_id: &str, host_key: &Jwk, key: &Jwk) -> Result<(), Error> {
    match endorsed(endorsement, host_id, host_key)? == *key {
        true => Ok(()),
        false => Err(Error::Endorsement(ANOTHER.to_owned())),
    }
}

/// The key that `host_key` of host `host_id` endorsed.
pub fn endorsed(endorsement: &str, host_id: &str, host_key: &Jwk) -> Result<Jwk, Error> {
    let wrong = |what: &str| Error::Endorsement(what.to_owned());
    let jws = Jws::parse(endorsement).map_err(|e| Error::Endorsement(e.to_string()))?;
    if jws.typ() != TYP || jws.kid() != host_key.kid {
        return Err(wrong("it is not an endorsement by this host's key"));
    }
    let payload = jws.verify(host_key).map_err(|e| Error::Endorsement(e.to_string()))?;
    let statement: Statement =
        serde_json::from_slice(payload).map_err(|e| Error::Endorsement(e.to_string()))?;
    if statement.iss != host_id || statement.sub != statement.cnf.jwk.kid {
        return Err(wrong(ANOTHER));
    }
    Ok(statement.cnf.jwk)
}
