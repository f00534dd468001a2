//! A SPIFFE bundle document of any bytes, or one that is built around the input, gives a bundle whose parts
//! are well formed, or diagnostics without control characters.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use hostbadge::federation::read_bundles;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// Keys whose members are pieces of the input, which are separated by zeros.
fn build(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let mut pieces = text.split('\0').map(|piece| serde_json::to_string(piece).unwrap());
    let mut next = || pieces.next().unwrap_or_else(|| "null".to_owned());
    let names = ["use", "kty", "crv", "kid", "x", "y", "n", "e", "x5c", "alg"];
    let sequence = next();
    let keys: Vec<String> = (0..3)
        .map(|_| {
            let members: Vec<String> = names
                .iter()
                .map(|name| match *name {
                    "x5c" => format!("\"x5c\":[{}]", next()),
                    name => format!("\"{name}\":{}", next()),
                })
                .collect();
            format!("{{{}}}", members.join(","))
        })
        .collect();
    format!("{{\"spiffe_sequence\":{sequence},\"keys\":[{}]}}", keys.join(","))
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let file = DIR.path().join("example.org.json");
    match kind % 2 {
        0 => fs::write(&file, rest).unwrap(),
        _ => fs::write(&file, build(rest)).unwrap(),
    }
    match read_bundles(DIR.path()) {
        Ok(bundles) => {
            let bundle = &bundles["example.org"];
            for jwks in [&bundle.jwt_jwks, &bundle.wit_jwks].into_iter().flatten() {
                let set: serde_json::Value = serde_json::from_slice(jwks).expect("JSON");
                assert!(set["keys"].as_array().is_some_and(|keys| !keys.is_empty()));
            }
        }
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty());
            for diagnostic in diagnostics {
                let text = diagnostic.to_string();
                assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            }
        }
    }
});
