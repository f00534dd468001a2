//! A key that signs whatever a test of this module needs.

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::verify::jwks::Jwk;

pub(super) struct SampleKey(EcdsaKeyPair);

impl SampleKey {
    pub(super) fn generate() -> SampleKey {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        SampleKey(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap())
    }

    pub(super) fn jwk(&self) -> Jwk {
        Jwk::from_point(self.0.public_key().as_ref().try_into().unwrap())
    }

    /// Only the members that RFC 7518 section 6.2.1 requires.
    pub(super) fn public_members(&self) -> Value {
        serde_json::to_value(self.jwk().params).unwrap()
    }

    pub(super) fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

/// A copy of an object with other members. A member that becomes `null` is removed.
pub(super) fn with(object: &Value, members: Value) -> Value {
    let mut object = object.clone();
    for (name, value) in members.as_object().unwrap() {
        object[name] = value.clone();
    }
    let kept = object.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
    json!(kept.collect::<std::collections::BTreeMap<_, _>>())
}
