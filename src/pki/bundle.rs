//! The bundle document of the host's trust domain (SPIFFE Trust Domain and Bundle, section 4).

use data_encoding::{BASE64, BASE64URL_NOPAD};
use der::Decode;
use der::asn1::ObjectIdentifier;
use der::oid::db::rfc5912;
use serde_json::{Value, json};

use crate::verify::parse_certificate;
use crate::verify::x509::RsaPublicKey;

/// The bundle document: the keys of the JWK set `token_jwks` (JSON), and before them one `x509-svid` key for
/// each root certificate (DER). `spiffe_sequence` is the sum of the set's own and `root_number`: both only
/// increase, so that the sum increases with each change of either.
///
/// Roots with other keys than P-256, P-384 and RSA are left out. `None` if `token_jwks` is not a JWK set with
/// a sequence number.
pub fn bundle_document(token_jwks: &[u8], roots: &[Vec<u8>], root_number: u64) -> Option<Value> {
    let mut document: Value = serde_json::from_slice(token_jwks).ok()?;
    let roots = roots.iter().filter_map(|root| root_jwk(root));
    let keys: Vec<Value> = roots.chain(document["keys"].as_array()?.iter().cloned()).collect();
    document["keys"] = keys.into();
    document["spiffe_sequence"] = document["spiffe_sequence"].as_u64()?.saturating_add(root_number).into();
    Some(document)
}

/// The JWK of a root certificate: `use` is `x509-svid`, `x5c` has the one certificate, and there is no `kid`.
fn root_jwk(root: &[u8]) -> Option<Value> {
    let certificate = parse_certificate(root).ok()?;
    let info = certificate.tbs_certificate().subject_public_key_info();
    let public = info.subject_public_key.as_bytes()?;
    let mut key = if info.algorithm.oid == rfc5912::ID_EC_PUBLIC_KEY {
        let curve = match info.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()? {
            rfc5912::SECP_256_R_1 => "P-256",
            rfc5912::SECP_384_R_1 => "P-384",
            _ => return None,
        };
        // An uncompressed point (SEC 1, section 2.3.3).
        let (x, y) = public.strip_prefix(&[4])?.split_at_checked(public.len() / 2)?;
        json!({ "kty": "EC", "crv": curve, "x": BASE64URL_NOPAD.encode(x), "y": BASE64URL_NOPAD.encode(y) })
    } else {
        let key = RsaPublicKey::from_der(public).ok()?;
        let (n, e) = (key.modulus.as_bytes(), key.public_exponent.as_bytes());
        json!({ "kty": "RSA", "n": BASE64URL_NOPAD.encode(n), "e": BASE64URL_NOPAD.encode(e) })
    };
    key["use"] = "x509-svid".into();
    key["x5c"] = json!([BASE64.encode(root)]);
    Some(key)
}
