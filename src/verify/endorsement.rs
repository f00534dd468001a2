//! The host key's word for an issuing key: a JWS that the TPM signed.
//!
//! Whoever trusts the host key (by its certification in evidence) trusts, through this, a key that signs in memory.

use serde::{Deserialize, Serialize};

use super::{Error, Jwk, Jws};

/// `typ` of an endorsement.
pub const TYP: &str = "hostbadge-endorsement+jwt";

/// What is signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The host's id.
    pub iss: String,
    /// Thumbprint of the key endorsed.
    pub sub: String,
    pub iat: u64,
    pub cnf: Confirmation,
}

/// RFC 7800 section 3.2.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    pub jwk: Jwk,
}

/// The key that `host_key` of host `host_id` endorsed.
pub fn endorsed(endorsement: &str, host_id: &str, host_key: &Jwk) -> Result<Jwk, Error> {
    let wrong = |what: &str| Error::Endorsement(what.to_owned());
    let jws = Jws::parse(endorsement)?;
    if jws.typ() != TYP || jws.kid() != host_key.kid {
        return Err(wrong("it is not an endorsement by this host's key"));
    }
    let payload = jws.verify(host_key)?;
    let statement: Statement =
        serde_json::from_slice(payload).map_err(|e| Error::Endorsement(e.to_string()))?;
    // A key's name is its thumbprint, which is checked here.
    statement.cnf.jwk.check()?;
    if statement.iss != host_id || statement.sub != statement.cnf.jwk.kid {
        return Err(wrong("it speaks of another key or host"));
    }
    Ok(statement.cnf.jwk)
}
