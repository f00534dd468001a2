//! Certificate requests of any bytes, as base64 DER and as text, give the key that signed the request, or an
//! error.
#![no_main]

use data_encoding::BASE64;
use hostbadge::pki::SubjectKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(key) = SubjectKey::from_csr(&BASE64.encode(input)) {
        assert!(key.spki().starts_with(&[0x30]) && key.spki().len() < 1024);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = SubjectKey::from_csr(text);
    }
});
