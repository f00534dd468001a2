//! The search for secrets in any bytes: each find lies within the text, and finds do not overlap.
#![no_main]

use hostbadge::secrets::{find_secrets, fingerprint, secret_variable};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let mut end = 0;
    find_secrets(text, |find| {
        assert!(find.start >= end && find.start < find.end && find.end <= text.len(), "{find:?}");
        assert_eq!(fingerprint(&text[find.start..find.end]).len(), 8);
        end = find.end;
    });
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = secret_variable(text);
    }
});
