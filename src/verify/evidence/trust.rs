//! The checks that need something the verifier trusts: the AK's Name, an organization's CA, TPM
//! manufacturers' roots, or the host's id.

use data_encoding::HEXLOWER;

use super::check_result::{CheckResult, EK_CERTIFICATE};
use super::document::{Evidence, decode_public_key};
use crate::clock::Timestamp;
use crate::verify::certificates::Roots;
use crate::verify::ek::EkKey;
use crate::verify::ek_chain::ManufacturerRoots;
use crate::verify::error::Error;

impl Evidence {
    /// Checks that the evidence is that of the host with this id. It proves something only if the check "EK"
    /// passes.
    pub fn check_host(&self, host: &str) -> CheckResult {
        const NAME: &str = "host";
        if self.host != host {
            return CheckResult::fail(NAME, format!("this is {}", self.host.escape_debug()));
        }
        CheckResult::pass(NAME, "as expected")
    }

    /// Checks that the AK has this Name (in hexadecimal), which the verifier learned on the host. Fails
    /// without a Name.
    ///
    /// Nothing else in the document proves that the AK is in the TPM of the EK: the EK's public area is not
    /// secret, and software can create an AK with any attributes. Evidence is as trustworthy as the way by
    /// which the Name was learned.
    pub fn check_ak_by_name(&self, ak_name: Option<&str>) -> CheckResult {
        CheckResult::from_result(AK_CHECK, compare_ak_name(self, ak_name))
    }

    /// Checks that the organization's certificate for the host key leads to one of `roots` at `now`, and
    /// names this host and this AK. The organization issued it after a challenge had proven that the AK is in
    /// the TPM of the EK.
    ///
    /// A certificate for the host key without the AK's Name proves less: the host key is public, and an AK in
    /// software can certify it as the host's own does.
    pub fn check_ak_by_host_certificate(&self, roots: &Roots, now: Timestamp) -> CheckResult {
        CheckResult::from_result(AK_CHECK, verify_host_certificate(self, roots, now))
    }

    /// Checks that an EK certificate leads to one of the TPM manufacturers' `roots` at `now`. Skipped without
    /// `roots`.
    ///
    /// The host's id is derived from the P-256 EK, so that the certificate of that key is sufficient. That
    /// the RSA EK is in the same TPM is proven only by a challenge, and thus by a host certificate that names
    /// the RSA EK's certificate. `host_is_enrolled` says whether [`Evidence::check_ak_by_host_certificate`]
    /// passed.
    pub fn check_ek_certificate_trust(
        &self,
        roots: Option<&ManufacturerRoots>,
        host_is_enrolled: bool,
        now: Timestamp,
    ) -> CheckResult {
        match roots {
            None if self.ek_certificate.is_none() && self.rsa_ek_certificate.is_none() => {
                CheckResult::skipped(EK_CERTIFICATE, "the TPM has none")
            }
            None => CheckResult::skipped(
                EK_CERTIFICATE,
                "give the TPM manufacturers' roots by --roots to check it",
            ),
            Some(roots) => CheckResult::from_result(
                EK_CERTIFICATE,
                verify_ek_certificate(self, roots, host_is_enrolled, now),
            ),
        }
    }
}

const AK_CHECK: &str = "AK's TPM";

fn compare_ak_name(evidence: &Evidence, ak_name: Option<&str>) -> Result<String, Error> {
    let actual = HEXLOWER.encode(&evidence.ak_name()?);
    let Some(expected) = ak_name else {
        return Err(Error::Evidence(format!(
            "nothing here ties the AK to this host; give its Name, learned on the host, by --ak (this is \
             {actual}), or enroll the host and give --ca-cert"
        )));
    };
    if expected.to_ascii_lowercase() != actual {
        return Err(Error::Evidence(format!("this is another AK: {actual}")));
    }
    Ok("the AK has the expected Name".into())
}

fn verify_host_certificate(evidence: &Evidence, roots: &Roots, now: Timestamp) -> Result<String, Error> {
    let invalid = |reason: &str| Error::Evidence(reason.into());
    let Some(certificate) = evidence.host_certificate()? else {
        return Err(invalid(
            "no host certificate is in the evidence; enroll the host, or give the AK's Name by --ak",
        ));
    };
    certificate.verify_path(roots, now).map_err(|e| Error::Certificate(e.to_string()))?;
    if !certificate.is_for_key(&decode_public_key(&evidence.host_key)?.point) {
        return Err(invalid("the host certificate is for another key than the host key"));
    }
    if !certificate.san_contains_host(&evidence.host) {
        return Err(invalid("the host certificate is for another host"));
    }
    if !certificate.san_contains_ak(&evidence.ak_name()?) {
        return Err(invalid(
            "the host certificate does not name this AK; learn the AK's Name on the host and give it by --ak",
        ));
    }
    Ok(format!("the host certificate of {} names host key and AK", certificate.issuer()))
}

fn verify_ek_certificate(
    evidence: &Evidence,
    roots: &ManufacturerRoots,
    host_is_enrolled: bool,
    now: Timestamp,
) -> Result<String, Error> {
    let certified = evidence.endorsement_keys()?.certified_ek(roots, now)?;
    if matches!(certified.key, EkKey::P256(_)) {
        return Ok(format!("the P-256 EK is certified by {}", certified.issuer));
    }
    let host_certificate = evidence.host_certificate()?;
    let is_tied_to_host = host_is_enrolled
        && host_certificate.is_some_and(|host| host.san_contains_ek_certificate(&certified.certificate));
    if !is_tied_to_host {
        return Err(Error::Evidence(
            "only the RSA EK is certified, and nothing here ties it to the TPM of the host's EK; enroll \
             the host, and give --ca-cert"
                .into(),
        ));
    }
    Ok(format!(
        "the RSA EK is certified by {}, and the host certificate ties it to the host",
        certified.issuer
    ))
}
