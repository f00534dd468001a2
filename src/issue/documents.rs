//! What relying parties read: the key set and the discovery document, made once for each change of keys.

use bytes::Bytes;
use serde::Serialize;

use super::Error;
use super::access_token::wit_kid;
use super::issuer::HostIdentity;
use crate::clock::Timestamp;
use crate::verify::{self, Jwk, Jwks, JwtAuthorities};

/// JSON texts, ready to send.
#[derive(Clone, Debug)]
pub struct PublishedDocuments {
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
    pub svid_keys: JwtAuthorities,
    /// The SPIFFE bundle document of this trust domain (SPIFFE Trust Domain and Bundle, section 4).
    pub spiffe_bundle: Bytes,
}

/// How often those who trust this host are to ask for its bundle again, in seconds.
const REFRESH_HINT_SECS: u64 = 300;

#[derive(Serialize)]
struct SpiffeBundle<'a> {
    #[serde(flatten)]
    metadata: Option<BundleMetadata>,
    keys: &'a [BundleKey<'a>],
}

#[derive(Serialize)]
struct BundleMetadata {
    spiffe_sequence: u64,
    spiffe_refresh_hint: u64,
}

#[derive(Serialize)]
struct BundleKey<'a> {
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(flatten)]
    params: &'a verify::KeyParams,
    kid: String,
    alg: &'a str,
}

impl<'a> BundleKey<'a> {
    fn jwt_svid(key: &'a Jwk) -> BundleKey<'a> {
        BundleKey { usage: "jwt-svid", params: &key.params, kid: key.kid.clone(), alg: &key.alg }
    }

    fn wit_svid(key: &'a Jwk) -> BundleKey<'a> {
        BundleKey { usage: "wit-svid", kid: wit_kid(&key.kid), ..BundleKey::jwt_svid(key) }
    }
}

#[derive(Serialize)]
struct DiscoveryDocument<'a> {
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

impl PublishedDocuments {
    /// `issuing` in the order in which relying parties read them: the one that signs comes first; after them `in_tpm`, RSA
    /// last. `changed` is when they last changed.
    pub(super) fn new(
        host: &HostIdentity,
        issuing_keys: Vec<Jwk>,
        tpm_keys: Vec<Jwk>,
        keys_changed_at: Timestamp,
    ) -> Result<PublishedDocuments, Error> {
        // SVIDs are signed by issuing keys alone.
        let jwt_keys: Vec<BundleKey> = issuing_keys.iter().map(BundleKey::jwt_svid).collect();
        let wit_keys: Vec<BundleKey> = issuing_keys.iter().map(BundleKey::wit_svid).collect();
        let keys = Jwks { keys: issuing_keys.iter().cloned().chain(tpm_keys).collect() };
        let mut algorithms: Vec<&str> = Vec::new();
        for key in &keys.keys {
            if !algorithms.contains(&key.alg.as_str()) {
                algorithms.push(&key.alg);
            }
        }
        let discovery = DiscoveryDocument {
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
        let into_bytes = |value: serde_json::Result<Vec<u8>>| {
            value.map(Bytes::from).map_err(|e| Error::Key(e.to_string()))
        };
        let bundle_json =
            |metadata, keys: &[BundleKey]| into_bytes(serde_json::to_vec(&SpiffeBundle { metadata, keys }));
        // Of no keys but the later ones: each change of them has a later second.
        let metadata = BundleMetadata {
            spiffe_sequence: keys_changed_at.as_secs(),
            spiffe_refresh_hint: REFRESH_HINT_SECS,
        };
        let jwt_bundle = bundle_json(None, &jwt_keys)?;
        Ok(PublishedDocuments {
            svid_keys: JwtAuthorities::parse(&jwt_bundle).map_err(|e| Error::Key(e.to_string()))?,
            jwt_bundle,
            wit_bundle: bundle_json(None, &wit_keys)?,
            // Without those of WIT-SVIDs: SPIRE before 1.14 takes no document with a use that it does not know.
            spiffe_bundle: bundle_json(Some(metadata), &jwt_keys)?,
            jwks: into_bytes(serde_json::to_vec(&keys))?,
            discovery: into_bytes(serde_json::to_vec(&discovery))?,
            keys,
        })
    }
}
