//! The documents for relying parties (key sets, discovery, bundles), made once for each change of keys.

use bytes::Bytes;
use serde::Serialize;

use super::error::Error;
use super::jws::wit_kid;
use crate::verify::{self, Jwk, Jwks, JwtAuthorities};

/// The documents of one issuer, the host or a tenant, as JSON texts, ready to send, and their keys, ready to
/// verify with.
#[derive(Clone, Debug)]
pub struct IssuerDocuments {
    /// The keys of `jwks`.
    pub keys: Jwks,
    /// The JWK set (RFC 7517 section 5): issuing keys, the active one first, then the keys in the TPM.
    pub jwks: Bytes,
    /// The discovery document (OpenID Connect Discovery 1.0 section 3).
    pub discovery: Bytes,
}

/// The documents of the trust domain: a SPIFFE ID names its trust domain, and verifiers have one key set for each,
/// so they have the issuing keys of the host and of all tenants.
#[derive(Clone, Debug)]
pub struct BundleDocuments {
    /// The issuing keys as a JWK set with `use` of `jwt-svid`, as the Workload API returns it.
    pub jwt_bundle: Bytes,
    /// The issuing keys as a JWK set with `use` of `wit-svid`; each `kid` has the prefix `wit-`.
    pub wit_bundle: Bytes,
    /// The keys of `jwt_bundle`.
    pub svid_keys: JwtAuthorities,
    /// The SPIFFE bundle document of this trust domain (SPIFFE Trust Domain and Bundle, section 4).
    pub spiffe_bundle: Bytes,
}

/// `spiffe_refresh_hint`: how often relying parties should fetch the bundle, in seconds.
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
    status_list_aggregation_endpoint: String,
    response_types_supported: [&'static str; 1],
    grant_types_supported: [&'static str; 1],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: Vec<&'a str>,
    claims_supported: [&'static str; 13],
}

impl IssuerDocuments {
    /// `issuer` is the URL of this issuer and `host_issuer` that of the host, which has the endpoints.
    /// `issuing_keys` in the order of the key set, the active one first; `tpm_keys` follow them, RSA last.
    pub(super) fn new(
        host_issuer: &str,
        issuer: &str,
        issuing_keys: &[Jwk],
        tpm_keys: &[Jwk],
    ) -> Result<IssuerDocuments, Error> {
        let keys = Jwks { keys: issuing_keys.iter().chain(tpm_keys).cloned().collect() };
        let mut algorithms: Vec<&str> = Vec::new();
        for key in &keys.keys {
            if !algorithms.contains(&key.alg.as_str()) {
                algorithms.push(&key.alg);
            }
        }
        let discovery = DiscoveryDocument {
            issuer,
            jwks_uri: format!("{issuer}/.well-known/jwks.json"),
            token_endpoint: format!("{host_issuer}/v1/token"),
            introspection_endpoint: format!("{host_issuer}/v1/introspect"),
            status_list_aggregation_endpoint: format!("{issuer}/v1/status-lists"),
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
                "status",
                "attest_methods",
                "binary_id",
                "hostbadge",
            ],
        };
        Ok(IssuerDocuments { jwks: to_json(&keys)?, discovery: to_json(&discovery)?, keys })
    }
}

impl BundleDocuments {
    /// `issuing_keys` are those of the host, the active one first, then those of the tenants. The TPM signs no
    /// SVIDs. `sequence` is greater after each change of the keys.
    pub(super) fn new<'a>(
        issuing_keys: impl Iterator<Item = &'a Jwk> + Clone,
        sequence: u64,
    ) -> Result<BundleDocuments, Error> {
        let jwt_keys: Vec<BundleKey> = issuing_keys.clone().map(BundleKey::jwt_svid).collect();
        let wit_keys: Vec<BundleKey> = issuing_keys.map(BundleKey::wit_svid).collect();
        let bundle_json = |metadata, keys: &[BundleKey]| to_json(&SpiffeBundle { metadata, keys });
        let metadata = BundleMetadata { spiffe_sequence: sequence, spiffe_refresh_hint: REFRESH_HINT_SECS };
        let jwt_bundle = bundle_json(None, &jwt_keys)?;
        Ok(BundleDocuments {
            svid_keys: JwtAuthorities::parse(&jwt_bundle).map_err(Error::InvalidJwk)?,
            jwt_bundle,
            wit_bundle: bundle_json(None, &wit_keys)?,
            // Without WIT keys: SPIRE before 1.14 rejects a document with a `use` that it does not know.
            spiffe_bundle: bundle_json(Some(metadata), &jwt_keys)?,
        })
    }
}

fn to_json<T: Serialize>(document: &T) -> Result<Bytes, Error> {
    Ok(Bytes::from(serde_json::to_vec(document)?))
}
