//! What relying parties read: the key set and the discovery document, made once for each change of keys.

use bytes::Bytes;
use serde::Serialize;

use super::Error;
use super::issuer::Host;
use super::token::wit_kid;
use crate::clock::Timestamp;
use crate::verify::{self, Jwk, Jwks, SvidKeys};

/// JSON texts, ready to send.
#[derive(Clone, Debug)]
pub struct Documents {
    pub keys: Jwks,
    /// RFC 7517 section 5.
    pub jwks: Bytes,
    /// OpenID Connect Discovery 1.0 section 3.
    pub discovery: Bytes,
    /// SPIFFE's name for the same keys: a JWK set with `use` of `jwt-svid`, as the Workload API gives it.
    pub jwt_bundle: Bytes,
    /// The same with `use` of `wit-svid` and the names that they have there.
    pub wit_bundle: Bytes,
    /// Those of `jwt_bundle`, ready to verify with.
    pub svid_keys: SvidKeys,
    /// The SPIFFE bundle document of this trust domain (SPIFFE Trust Domain and Bundle, section 4).
    pub bundle: Bytes,
}

/// How often those who trust this host are to ask for its bundle again, in seconds.
const REFRESH_HINT: u64 = 300;

#[derive(Serialize)]
struct Bundle<'a> {
    #[serde(flatten)]
    numbers: Option<Numbers>,
    keys: &'a [SvidKey<'a>],
}

#[derive(Serialize)]
struct Numbers {
    spiffe_sequence: u64,
    spiffe_refresh_hint: u64,
}

#[derive(Serialize)]
struct SvidKey<'a> {
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(flatten)]
    numbers: &'a verify::Numbers,
    kid: String,
    alg: &'a str,
}

impl<'a> SvidKey<'a> {
    fn of(key: &'a Jwk) -> SvidKey<'a> {
        SvidKey { usage: "jwt-svid", numbers: &key.numbers, kid: key.kid.clone(), alg: &key.alg }
    }

    fn of_wits(key: &'a Jwk) -> SvidKey<'a> {
        SvidKey { usage: "wit-svid", kid: wit_kid(&key.kid), ..SvidKey::of(key) }
    }
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
    /// `issuing` in the order in which relying parties read them: the one that signs comes first; after them `in_tpm`, RSA
    /// last. `changed` is when they last changed.
    pub(super) fn of(
        host: &Host,
        issuing: Vec<Jwk>,
        in_tpm: Vec<Jwk>,
        changed: Timestamp,
    ) -> Result<Documents, Error> {
        // SVIDs are signed by issuing keys alone.
        let svid_keys: Vec<SvidKey> = issuing.iter().map(SvidKey::of).collect();
        let wit_keys: Vec<SvidKey> = issuing.iter().map(SvidKey::of_wits).collect();
        let keys = Jwks { keys: issuing.iter().cloned().chain(in_tpm).collect() };
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
        let bundle = |numbers, keys: &[SvidKey]| text(serde_json::to_vec(&Bundle { numbers, keys }));
        // Of no keys but the later ones: each change of them has a later second.
        let numbers = Numbers { spiffe_sequence: changed.secs(), spiffe_refresh_hint: REFRESH_HINT };
        let jwt_bundle = bundle(None, &svid_keys)?;
        Ok(Documents {
            svid_keys: SvidKeys::parse(&jwt_bundle).map_err(|e| Error::Key(e.to_string()))?,
            jwt_bundle,
            wit_bundle: bundle(None, &wit_keys)?,
            // Without those of WIT-SVIDs: SPIRE before 1.14 takes no document with a use that it does not know.
            bundle: bundle(Some(numbers), &svid_keys)?,
            jwks: text(serde_json::to_vec(&keys))?,
            discovery: text(serde_json::to_vec(&discovery))?,
            keys,
        })
    }
}
