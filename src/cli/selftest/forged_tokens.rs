//! Tokens that no issuer of this host signed. Each is made here, and none is given to anyone but the daemon.

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::verify::{Jwk, Jwks, KeyParams};

/// A token that has to be refused, and what is wrong with it.
#[derive(Debug)]
pub(super) struct ForgedToken {
    pub(super) what: &'static str,
    pub(super) token: String,
}

/// A P-256 key of somebody else.
struct ForeignKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl ForeignKey {
    fn new() -> Option<ForeignKey> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok()?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).ok()?;
        Some(ForeignKey { pair, random })
    }

    fn jwk(&self) -> Option<Jwk> {
        Some(Jwk::from_point(self.pair.public_key().as_ref().try_into().ok()?))
    }

    fn sign(&self, header: &Value, claims: &Value) -> Option<String> {
        let signed = signing_input(header, claims);
        let signature = self.pair.sign(&self.random, signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
    }
}

/// Forgeries by the published keys of the host, and of `real`, if there is a real token. `None` without random numbers.
pub(super) fn forgeries(keys: &Jwks, claims: &Value, real: Option<&str>) -> Option<Vec<ForgedToken>> {
    let foreign = ForeignKey::new()?;
    let jwk = foreign.jwk()?;
    let host_key = keys.keys.iter().find(|key| matches!(key.params, KeyParams::Ec { .. }))?;
    let point = host_key.p256_point().ok()?;
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid, "typ": "at+jwt" });
    let (kid, host_kid) = (jwk.kid.as_str(), host_key.kid.as_str());
    let mut embedded = header("ES256", kid);
    embedded["jwk"] = serde_json::to_value(&jwk).ok()?;
    let by_hmac = |secret: &[u8]| {
        let signed = signing_input(&header("HS256", host_kid), claims);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
    };
    let unsigned = |alg: &str| format!("{}.", signing_input(&header(alg, host_kid), claims));
    let mut all = vec![
        ("another key", foreign.sign(&header("ES256", kid), claims)?),
        ("another key under the name of this host's", foreign.sign(&header("ES256", host_kid), claims)?),
        ("another key that the token itself brings", foreign.sign(&embedded, claims)?),
        ("no signature, alg none", unsigned("none")),
        ("no signature, alg ES256", unsigned("ES256")),
        ("HS256 with the public key's point as secret", by_hmac(&point)),
        ("HS256 with the public key's JWK as secret", by_hmac(&serde_json::to_vec(host_key).ok()?)),
    ];
    if let Some(real) = real {
        all.extend(alterations(real));
    }
    Some(all.into_iter().map(|(what, token)| ForgedToken { what, token }).collect())
}

/// A token with these claims that is signed by a key of its own, and that key: a verification by this key accepts it.
pub(super) fn genuine(claims: &Value) -> Option<(Jwks, String)> {
    let key = ForeignKey::new()?;
    let jwk = key.jwk()?;
    let token = key.sign(&json!({ "alg": "ES256", "kid": jwk.kid, "typ": "at+jwt" }), claims)?;
    Some((Jwks { keys: vec![jwk] }, token))
}

/// Changes of a real token.
fn alterations(real: &str) -> Vec<(&'static str, String)> {
    let mut parts = real.splitn(3, '.');
    let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap_or_default();
    let mut longer: Value = serde_json::from_slice(&decode(payload)).unwrap_or_default();
    longer["exp"] = json!(longer["exp"].as_u64().unwrap_or_default() + 60);
    let longer = BASE64URL_NOPAD.encode(longer.to_string().as_bytes());
    let mut flipped = decode(signature);
    if let Some(byte) = flipped.first_mut() {
        *byte ^= 1;
    }
    let flipped = BASE64URL_NOPAD.encode(&flipped);
    vec![
        ("a token of this host that expires a minute later", format!("{header}.{longer}.{signature}")),
        ("a token of this host with one other bit in its signature", format!("{header}.{payload}.{flipped}")),
        ("a token of this host without its signature", format!("{header}.{payload}.")),
    ]
}

fn signing_input(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}
