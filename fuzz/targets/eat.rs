//! An EAT with claims of any bytes and an invalid signature gives at least one failed check, or an error.
#![no_main]

use data_encoding::BASE64URL_NOPAD;
use hostbadge::verify::eat::Eat;
use hostbadge::verify::evidence::CheckOutcome;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|claims: &[u8]| {
    let header = br#"{"alg":"ES256","kid":"k","typ":"eat+jwt"}"#;
    let token = format!("{}.{}.AAAA", BASE64URL_NOPAD.encode(header), BASE64URL_NOPAD.encode(claims));
    if let Ok(eat) = Eat::parse(&token) {
        assert!(eat.check(b"a nonce of 18 bytes").iter().any(|result| result.outcome == CheckOutcome::Fail));
    }
});
