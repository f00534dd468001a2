//! What relying parties read: the key set and the discovery document, made once for each change of keys.

use bytes::Bytes;
use serde::Serialize;

use super::Error;
use super::issuer::Host;
use crate::verify::{Jwk, Jwks};

/// JSON texts, ready to send.
#[derive(Clone, Debug)]
pub struct Documents {
    pub keys: Jwks,
    /// RFC 7517 section 5.
    pub jwks: Bytes,
    /// OpenID Connect Discovery 1.0 section 3.
    pub discovery: Bytes,
}

#[derive(Serialize)]
struct Discovery<'a> {
    issuer: &'a str,
    jwks_uri: String,
    token_endpoint: String,
    introspection_endpoint: String,
    response_types_supported: [&'static str; 1],
    grant_types_supported: [&'static str; 1],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: Vec<&'a str>,
    claims_supported: [&'static str; 10],
}

impl Documents {
    /// `keys` in the order in which relying parties read them: the one that signs comes first, RSA last.
    pub(super) fn of(host: &Host, keys: Vec<Jwk>) -> Result<Documents, Error> {
        let keys = Jwks { keys };
        let mut algorithms: Vec<&str> = Vec::new();
        for key in &keys.keys {
            if !algorithms.contains(&key.alg.as_str()) {
                algorithms.push(&key.alg);
            }
        }
        let discovery = Discovery {
            issuer: &host.issuer,
            jwks_uri: format!("{}/.well-known/jwks.json", host.issuer),
            token_endpoint: format!("{}/v1/token", host.issuer),
            introspection_endpoint: format!("{}/v1/introspect", host.issuer),
            response_types_supported: ["id_token"],
            grant_types_supported: ["client_credentials"],
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: algorithms,
            claims_supported: [
                "iss",
                "sub",
                "client_id",
                "aud",
                "iat",
                "nbf",
                "exp",
                "jti",
                "scope",
                "hostbadge",
            ],
        };
        let text = |value: serde_json::Result<Vec<u8>>| {
            value.map(Bytes::from).map_err(|e| Error::Key(e.to_string()))
        };
        Ok(Documents {
            jwks: text(serde_json::to_vec(&keys))?,
            discovery: text(serde_json::to_vec(&discovery))?,
            keys,
        })
    }
}
