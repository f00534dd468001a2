//! Access tokens and key sets: any text as a token, any bytes as a JWKS, any claims with a valid signature.
#![no_main]

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use hostbadge::clock::Clock;
use hostbadge::verify::{Expectation, Jwk, Jwks, verify_access_token};
use libfuzzer_sys::fuzz_target;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

struct Key {
    pair: EcdsaKeyPair,
    keys: Jwks,
    header: String,
}

static KEY: LazyLock<Key> = LazyLock::new(|| {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
    let jwk = Jwk::from_point(pair.public_key().as_ref().try_into().unwrap());
    let header = format!(r#"{{"alg":"ES256","kid":"{}","typ":"at+jwt"}}"#, jwk.kid);
    Key { pair, keys: Jwks { keys: vec![jwk] }, header: BASE64URL_NOPAD.encode(header.as_bytes()) }
});

fn verify(token: &str, keys: &Jwks) {
    let expected = Expectation { issuer: Some("https://i"), audience: Some("a") };
    let _ = verify_access_token(token, keys, Clock::System.now(), true, expected);
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => verify(&String::from_utf8_lossy(rest), &KEY.keys),
        1 => drop(Jwks::parse(rest)),
        _ => {
            let text = format!("{}.{}", KEY.header, BASE64URL_NOPAD.encode(rest));
            let signature = KEY.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            verify(&format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref())), &KEY.keys);
        }
    }
});
