//! The host key's word for an issuing key: a JWS that the TPM signed.
//!
//! Whoever trusts the host key (by its certification in evidence) trusts, through this, a key that signs in memory.

use serde::{Deserialize, Serialize};

use super::{Error, Jwk, Jws};

/// `typ` of an endorsement.
pub const ENDORSEMENT_TYP: &str = "hostbadge-endorsement+jwt";

/// What is signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndorsementClaims {
    /// The host's id.
    pub iss: String,
    /// Thumbprint of the key endorsed.
    pub sub: String,
    pub iat: u64,
    pub cnf: EndorsementConfirmation,
}

/// RFC 7800 section 3.2.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndorsementConfirmation {
    pub jwk: Jwk,
}

/// The key that `host_key` of host `host_id` endorsed.
pub fn verify_endorsement(endorsement: &str, host_id: &str, host_key: &Jwk) -> Result<Jwk, Error> {
    let invalid = |what: &str| Error::Endorsement(what.to_owned());
    let jws = Jws::parse(endorsement)?;
    if jws.typ() != ENDORSEMENT_TYP || jws.kid() != host_key.kid {
        return Err(invalid("it is not an endorsement by this host's key"));
    }
    let payload = jws.verify(host_key)?;
    let claims: EndorsementClaims =
        serde_json::from_slice(payload).map_err(|e| Error::Endorsement(e.to_string()))?;
    // A key's name is its thumbprint, which is checked here.
    claims.cnf.jwk.check()?;
    if claims.iss != host_id || claims.sub != claims.cnf.jwk.kid {
        return Err(invalid("it speaks of another key or host"));
    }
    Ok(claims.cnf.jwk)
}
