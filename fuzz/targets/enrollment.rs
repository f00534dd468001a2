//! The four enrollment files, credentials of tpm2-tools, EKs and certificates of any bytes are parsed, or
//! give an error.
#![no_main]

use hostbadge::enroll::{
    ChallengeAnswer, ChallengeSecret, EnrollmentChallenge, EnrollmentRequest, Tpm2ToolsCredential,
};
use hostbadge::verify::{Ek, HostCertificate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(request) = EnrollmentRequest::parse(input) {
        // The fuzzer has no AK to sign a quote with.
        request.check().unwrap_err();
    }
    if let Ok(challenge) = EnrollmentChallenge::parse(input) {
        let _ = challenge.p256.decode();
    }
    let _ = (ChallengeSecret::parse(input), ChallengeAnswer::parse(input));
    let _ = (Tpm2ToolsCredential::parse(input), Ek::parse(input));
    if let Ok(certificate) = HostCertificate::from_pem(input) {
        let _ = certificate.san_contains_host("host");
    }
    let _ = HostCertificate::from_der(vec![input.to_vec()]);
});
