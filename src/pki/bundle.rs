//! The bundle document of the host's trust domain (SPIFFE Trust Domain and Bundle, section 4): the roots of its
//! certificates and the keys of its tokens, for those who federate with it.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Reader, SliceReader};

use crate::verify::{der, parse_certificate};

/// The document of the tokens' keys with the roots in it, and with a sequence number that is no less than `sequence`. A root
/// that is of no kind that JWKs have is left out.
pub fn bundle_document(token_jwks: &[u8], roots: &[Vec<u8>], sequence: u64) -> Option<Value> {
    let mut document: Value = serde_json::from_slice(token_jwks).ok()?;
    let roots = roots.iter().filter_map(|root| root_jwk(root));
    let keys: Vec<Value> = roots.chain(document["keys"].as_array()?.iter().cloned()).collect();
    document["keys"] = keys.into();
    document["spiffe_sequence"] = document["spiffe_sequence"].as_u64()?.max(sequence).into();
    Some(document)
}

/// `use` x509-svid, no `kid`, one certificate in `x5c`.
fn root_jwk(root: &[u8]) -> Option<Value> {
    let certificate = parse_certificate(root).ok()?;
    let info = certificate.tbs_certificate().subject_public_key_info();
    let public = info.subject_public_key.as_bytes()?;
    let mut key = match info.algorithm.oid.as_bytes() {
        der::EC_PUBLIC_KEY => {
            let curve = info.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()?;
            let name = match curve.as_bytes() {
                der::PRIME256V1 => "P-256",
                der::SECP384R1 => "P-384",
                _ => return None,
            };
            let (x, y) = public.strip_prefix(&[4])?.split_at_checked(public.len() / 2)?;
            json!({ "kty": "EC", "crv": name, "x": BASE64URL_NOPAD.encode(x), "y": BASE64URL_NOPAD.encode(y) })
        }
        _ => {
            let mut reader = SliceReader::new(public).ok()?;
            let key_params = reader.sequence(|inner: &mut SliceReader<'_>| {
                Ok::<_, x509_cert::der::Error>((UintRef::decode(inner)?, UintRef::decode(inner)?))
            });
            let (n, e) = key_params.ok()?;
            let encode = |number: &UintRef<'_>| BASE64URL_NOPAD.encode(number.as_bytes());
            json!({ "kty": "RSA", "n": encode(&n), "e": encode(&e) })
        }
    };
    key["use"] = "x509-svid".into();
    key["x5c"] = json!([BASE64.encode(root)]);
    Some(key)
}
