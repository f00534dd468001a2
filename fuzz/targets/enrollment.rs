//! The four files of enrollment, credentials of other tools and certificates, of any bytes: read, or an error.
#![no_main]

use hostbadge::enroll::{Answer, Challenge, Request, Secret, ToolsFile};
use hostbadge::verify::{Ek, HostCertificate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(request) = Request::parse(input) {
        // No TPM signed what a fuzzer made up.
        request.check().unwrap_err();
    }
    if let Ok(challenge) = Challenge::parse(input) {
        let _ = challenge.p256.decode();
    }
    let _ = (Secret::parse(input), Answer::parse(input), ToolsFile::parse(input), Ek::parse(input));
    if let Ok(certificate) = HostCertificate::from_pem(input) {
        let _ = certificate.names_host("host");
    }
    let _ = HostCertificate::from_der(vec![input.to_vec()]);
});
