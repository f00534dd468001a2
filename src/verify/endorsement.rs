//! Endorsements: JWSs by which a host key, in the TPM, vouches for an issuing key that signs in memory.
//!
//! A verifier that trusts a host key, by its certification in evidence, trusts the issuing keys that it
//! endorsed.

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::jwks::Jwk;
use super::jws::Jws;
use crate::json;

/// The `typ` of an endorsement.
pub const ENDORSEMENT_TYP: &str = "hostbadge-endorsement+jwt";

/// The claims of an endorsement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndorsementClaims {
    /// The host's id.
    pub iss: String,
    /// The RFC 7638 thumbprint of the endorsed key.
    pub sub: String,
    /// When the endorsement was made, in seconds since 1970.
    pub iat: u64,
    /// The endorsed key.
    pub cnf: EndorsementConfirmation,
}

/// A confirmation by public key (RFC 7800 section 3.2).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndorsementConfirmation {
    /// The key.
    pub jwk: Jwk,
}

/// Verifies an endorsement by `host_key` of the host `host_id`. Returns the endorsed key.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::Signature`], [`Error::KeySet`] or [`Error::Endorsement`].
pub fn verify_endorsement(endorsement: &str, host_id: &str, host_key: &Jwk) -> Result<Jwk, Error> {
    let invalid = |reason: &str| Error::Endorsement(reason.to_owned());
    let jws = Jws::parse(endorsement)?;
    jws.expect_typ(ENDORSEMENT_TYP)?;
    if jws.kid() != host_key.kid {
        return Err(invalid("it is not an endorsement by this host's key"));
    }
    let payload = jws.verify(host_key)?;
    let claims: EndorsementClaims =
        json::from_object(payload).map_err(|e| Error::Endorsement(e.to_string()))?;
    // Checks that the key's `kid`, which has to be the subject, is its thumbprint.
    claims.cnf.jwk.check()?;
    if claims.iss != host_id || claims.sub != claims.cnf.jwk.kid {
        return Err(invalid("it is about another key or host"));
    }
    Ok(claims.cnf.jwk)
}
