//! Status lists: any text as a list, any claims with a valid signature, and any list in zlib.
#![no_main]

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use hostbadge::clock::Clock;
use hostbadge::verify::{Jwk, Jwks, StatusList, StatusReference};
use libfuzzer_sys::fuzz_target;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

const URI: &str = "https://i/v1/status-list/1";

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
    let header = format!(r#"{{"alg":"ES256","kid":"{}","typ":"statuslist+jwt"}}"#, jwk.kid);
    Key { pair, keys: Jwks { keys: vec![jwk] }, header: BASE64URL_NOPAD.encode(header.as_bytes()) }
});

fn verify(text: &str) {
    let Ok(list) = StatusList::verify(text, &KEY.keys, Clock::System.now()) else { return };
    for idx in [0, 1, 7, 8, u64::MAX] {
        let _ = list.status_of(&StatusReference { idx, uri: URI.into() });
    }
}

fn verify_signed(claims: &[u8]) {
    let text = format!("{}.{}", KEY.header, BASE64URL_NOPAD.encode(claims));
    let signature = KEY.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    verify(&format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref())));
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => verify(&String::from_utf8_lossy(rest)),
        1 => verify_signed(rest),
        _ => {
            let lst = BASE64URL_NOPAD.encode(rest);
            verify_signed(
                format!(r#"{{"sub":"{URI}","iat":0,"status_list":{{"bits":1,"lst":"{lst}"}}}}"#).as_bytes(),
            );
        }
    }
});
