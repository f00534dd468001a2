//! Evidence of any bytes gives at least one failed check, or an error.
#![no_main]

use hostbadge::verify::evidence::{CheckOutcome, Evidence};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(evidence) = Evidence::parse(input) {
        assert!(
            evidence.check(b"a nonce of 18 bytes").iter().any(|result| result.outcome == CheckOutcome::Fail)
        );
    }
});
