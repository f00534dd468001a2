//! Certificate requests of any bytes, as DER in base64 and as text: a key that signed it, or an error.
#![no_main]

use data_encoding::BASE64;
use hostbadge::pki::HolderKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(key) = HolderKey::from_csr(&BASE64.encode(input)) {
        assert!(key.info().starts_with(&[0x30]) && key.info().len() < 1024);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = HolderKey::from_csr(text);
    }
});
