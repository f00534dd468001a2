//! Security event tokens: any text, and any claims with a valid signature. What is accepted has an identifier and the
//! expected age.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hostbadge::clock::Timestamp;
use hostbadge::verify::{
    EventExpectation, JwtAuthorities, unverified_issuer, unverified_token, verify_security_event,
};
use libfuzzer_sys::fuzz_target;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

struct Key {
    pair: EcdsaKeyPair,
    keys: JwtAuthorities,
}

static KEY: LazyLock<Key> = LazyLock::new(|| {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..]));
    let set = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k","x":"{x}","y":"{y}"}}]}}"#);
    Key { keys: JwtAuthorities::parse_signing_keys(set.as_bytes()).unwrap(), pair }
});

fn verify(token: &str) {
    let _ = (unverified_issuer(token), unverified_token(token));
    let expected =
        EventExpectation { issuer: "https://i", audience: "a", now: NOW, max_age: Duration::from_secs(3600) };
    if let Ok(event) = verify_security_event(token, &KEY.keys, expected) {
        assert!(!event.jti.is_empty() && event.issued_at.as_secs() + 3600 >= NOW.as_secs());
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    if kind % 2 == 0 {
        return verify(&String::from_utf8_lossy(rest));
    }
    let header = BASE64URL_NOPAD.encode(br#"{"alg":"ES256","kid":"k","typ":"secevent+jwt"}"#);
    let text = format!("{header}.{}", BASE64URL_NOPAD.encode(rest));
    let signature = KEY.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    verify(&format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref())));
});
