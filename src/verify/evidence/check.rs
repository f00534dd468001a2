//! The checks that need the document and the nonce alone.

use data_encoding::BASE32_NOPAD;

use super::check_result::{BOOT_EVENT_LOG, CheckResult, IMA_BOOT_AGGREGATE, IMA_LIST};
use super::document::{Evidence, decode_public_key};
use super::measurement_logs::{check_event_log, check_ima};
use super::quote::{
    REQUIRED_PCRS, check_host_key_certification, check_nonce, check_pcrs, check_quoted_pcrs, check_srk,
    describe_clock, verify_attestation,
};
use crate::digest::sha256;
use crate::verify::endorsement::verify_endorsement;
use crate::verify::error::Error;
use crate::verify::jwks::Jwk;
use crate::verify::tpm_structures::{
    Attest, DECRYPT, FIXED_PARENT, FIXED_TPM, PublicKey, RESTRICTED, SENSITIVE_DATA_ORIGIN, SIGN,
};

impl Evidence {
    /// Checks all that can be checked with the document and the nonce, and returns every result rather than
    /// the first failure. A check that depends on one that failed is skipped. PCRs 0 to 14 must be quoted.
    ///
    /// The evidence is valid only if every result [is acceptable](CheckResult::is_acceptable).
    ///
    /// These checks do not prove that the AK is in the TPM of the host's EK. For that see
    /// [`Evidence::check_ak_by_name`] and [`Evidence::check_ak_by_host_certificate`].
    pub fn check(&self, nonce: &[u8]) -> Vec<CheckResult> {
        self.check_with_pcrs(nonce, &REQUIRED_PCRS.collect::<Vec<u8>>())
    }

    /// As [`Evidence::check`], for a verifier that requires a quote of these PCRs, in place of 0 to 14.
    pub fn check_with_pcrs(&self, nonce: &[u8], required_pcrs: &[u8]) -> Vec<CheckResult> {
        let mut results = CheckList::default();
        results.record("EK", check_ek(self));
        results.record("endorsement keys", self.endorsement_keys().map(|keys| keys.describe().to_owned()));
        let ak = results.record_value("AK", check_key("AK", &self.ak, RESTRICTED | SIGN, DECRYPT));
        let host_key = results
            .record_value("host key", check_key("host key", &self.host_key, SIGN, DECRYPT | RESTRICTED));
        let quote = match &ak {
            Some(ak) => results.record_value(
                "quote's signature",
                verify_attestation(&self.quote, ak).map(|quote| (quote, "by the AK".to_owned())),
            ),
            None => {
                results.skip(&["quote's signature"], "the AK is not valid");
                None
            }
        };
        match (&ak, &quote) {
            (Some(ak), Some(quote)) => {
                results.record("SRK", check_srk(self, quote, ak));
                check_quoted_state(self, quote, nonce, required_pcrs, &mut results);
            }
            _ => results.skip(&QUOTED_STATE, "the quote is not valid"),
        }
        match (&ak, &host_key) {
            (Some(ak), Some(host_key)) => {
                results.record("host key's certification", check_host_key_certification(self, ak, host_key));
            }
            _ => results.skip(&["host key's certification"], "AK or host key is not valid"),
        }
        match &host_key {
            Some(host_key) => results.record("issuing keys", check_endorsements(self, host_key)),
            None => results.skip(&["issuing keys"], "the host key is not valid"),
        }
        results.0
    }
}

/// The checks of what the quote proves, which need a valid one.
const QUOTED_STATE: [&str; 8] =
    ["SRK", "nonce", "TPM clock", "quoted PCRs", "PCR values", BOOT_EVENT_LOG, IMA_LIST, IMA_BOOT_AGGREGATE];

/// The checks of what the quote proves.
fn check_quoted_state(
    evidence: &Evidence,
    quote: &Attest,
    nonce: &[u8],
    required_pcrs: &[u8],
    results: &mut CheckList,
) {
    results.record("nonce", check_nonce(evidence, quote, nonce));
    results.record("TPM clock", Ok(describe_clock(quote)));
    results.record("quoted PCRs", check_quoted_pcrs(quote, required_pcrs));
    results.record("PCR values", check_pcrs(evidence, quote));
    results.0.push(check_event_log(evidence));
    results.0.extend(check_ima(evidence));
}

/// Checks that the EK has the attributes of one, and that the host's id is derived from it.
fn check_ek(evidence: &Evidence) -> Result<String, Error> {
    let ek = decode_public_key(&evidence.ek)?;
    if !ek.has_attributes(FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT) {
        return Err(Error::Evidence("its attributes are not those of an EK".into()));
    }
    let id = BASE32_NOPAD.encode(&sha256(&ek.name)[..16]).to_ascii_lowercase();
    if id != evidence.host {
        let claimed = evidence.host.escape_debug();
        return Err(Error::Evidence(format!("it is that of host {id}, not of {claimed}")));
    }
    Ok(format!("host {id}"))
}

/// Checks that a key was generated in a TPM, cannot leave it, and has these attributes and none of the
/// forbidden ones. The attributes are the key's own claim, which an attestation about the key proves.
fn check_key(kind: &str, public: &str, required: u32, forbidden: u32) -> Result<(PublicKey, String), Error> {
    let key = decode_public_key(public)?;
    let generated_in_tpm = key.has_attributes(FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN);
    if !generated_in_tpm || !key.has_attributes(required) || key.attributes & forbidden != 0 {
        return Err(Error::Evidence(format!(
            "its attributes are not those of a TPM's {kind} that cannot leave the TPM"
        )));
    }
    Ok((key, "has the attributes of a key that a TPM generated and that cannot leave it".into()))
}

/// Checks that the host key endorsed at least one issuing key, and every endorsement. The detail has the
/// keys' `kid`s.
fn check_endorsements(evidence: &Evidence, host_key: &PublicKey) -> Result<String, Error> {
    let host_key = Jwk::from_point(&host_key.point);
    let mut kids = Vec::new();
    for endorsement in &evidence.endorsements {
        kids.push(verify_endorsement(endorsement, &evidence.host, &host_key)?.kid);
    }
    if kids.is_empty() {
        return Err(Error::Evidence("the host key endorsed none".into()));
    }
    Ok(kids.join(", "))
}

#[derive(Default)]
struct CheckList(Vec<CheckResult>);

impl CheckList {
    fn record(&mut self, name: &'static str, result: Result<String, Error>) {
        self.0.push(CheckResult::from_result(name, result));
    }

    /// Records a check that also returns a value for later checks.
    fn record_value<T>(&mut self, name: &'static str, result: Result<(T, String), Error>) -> Option<T> {
        let (value, result) = match result {
            Ok((value, detail)) => (Some(value), Ok(detail)),
            Err(error) => (None, Err(error)),
        };
        self.record(name, result);
        value
    }

    /// Records that these checks were skipped.
    fn skip(&mut self, names: &[&'static str], reason: &str) {
        self.0.extend(names.iter().map(|name| CheckResult::skipped(name, reason)));
    }
}
