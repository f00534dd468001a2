//! Who vouches for the keys in evidence: TPM makers for endorsement keys, an organisation for host key and AK.

use super::evidence::{CheckResult, Evidence, decode_base64, decode_base64_list, decode_public_key};
use super::{Ek, EkKey, HostCertificate, MAX_CHAIN_LEN, Roots, check_certificate_is_for_ek};
use crate::clock::Timestamp;

impl Evidence {
    /// Whether the organisation's certificate for the host key says that this AK is the host's: whoever gave it has seen
    /// that the AK is in the TPM of the EK.
    ///
    /// That the certificate is for the host key alone would not do. The host key is public, and an AK that is a program can
    /// certify it as well as the host's own.
    pub fn check_ak_by_host_certificate(&self, roots: &Roots, now: Timestamp) -> CheckResult {
        CheckResult::from_result("AK's TPM", self.check_host_certificate(roots, now))
    }

    fn check_host_certificate(&self, roots: &Roots, now: Timestamp) -> Result<String, String> {
        let Some(certificate) = self.host_certificate()? else {
            return Err(
                "no host certificate is in the evidence; enroll the host, or give the AK's Name by --ak"
                    .into(),
            );
        };
        certificate.verify_path(roots, now).map_err(|e| e.to_string())?;
        if !certificate.is_for_key(&decode_public_key(&self.host_key)?.point) {
            return Err("the host certificate is for another key than the host key".into());
        }
        if !certificate.san_contains_host(&self.host) {
            return Err("the host certificate is for another host".into());
        }
        if !certificate.san_contains_ak(&decode_public_key(&self.ak)?.name) {
            return Err(
                "the host certificate does not name this AK; learn the AK's Name, and give it by --ak".into(),
            );
        }
        Ok(format!("the host certificate of {} names host key and AK", certificate.issuer()))
    }

    /// What the organisation gave the host key; none where the host is not enrolled.
    pub fn host_certificate(&self) -> Result<Option<HostCertificate>, String> {
        if self.host_certificate.is_empty() {
            return Ok(None);
        }
        let chain = decode_base64_list(&self.host_certificate)?;
        HostCertificate::from_der(chain).map(Some).map_err(|e| e.to_string())
    }

    /// Whether a TPM maker vouches for the EK. The P-256 EK is the host's, so that its certificate says all. That the RSA
    /// EK is in the same TPM, only a credential proves, and with it the host certificate of somebody who made one: to be
    /// believed where `is_vouched_by` holds, which `enrolled` says.
    pub fn check_ek_certificate_trust(
        &self,
        roots: Option<&Roots>,
        host_is_enrolled: bool,
        now: Timestamp,
    ) -> CheckResult {
        const CHECK_NAME: &str = "EK's certificate";
        match roots {
            None if self.ek_certificate.is_none() && self.rsa_ek_certificate.is_none() => {
                CheckResult::skipped(CHECK_NAME, "the TPM has none")
            }
            None => CheckResult::skipped(CHECK_NAME, "give the TPM makers' roots by --roots to check it"),
            Some(roots) => {
                CheckResult::from_result(CHECK_NAME, self.check_ek_certificate(roots, host_is_enrolled, now))
            }
        }
    }

    fn check_ek_certificate(
        &self,
        roots: &Roots,
        host_is_enrolled: bool,
        now: Timestamp,
    ) -> Result<String, String> {
        let eks = self.endorsement_keys()?;
        let certified = eks.certified_ek(roots, now)?;
        if matches!(certified.key, EkKey::P256(_)) {
            return Ok(format!("the P-256 EK is certified by {}", certified.issuer));
        }
        let tied_to_host = self
            .host_certificate()?
            .is_some_and(|host| host.san_contains_ek_certificate(&certified.certificate));
        match host_is_enrolled && tied_to_host {
            true => Ok(format!("the RSA EK is certified by {}, and the host certificate ties it to the host", certified.issuer)),
            false => Err("only the RSA EK is certified, and nothing here ties it to the TPM of the host's EK; enroll the host, and give --ca".into()),
        }
    }

    /// All endorsement keys, each with its certificate, which is for it.
    pub fn endorsement_keys(&self) -> Result<EndorsementKeys, String> {
        let ek = |public: &str, certificate: &Option<String>| {
            let ek = Ek::parse(&decode_base64(public)?).map_err(|e| e.to_string())?;
            let certificate = certificate.as_deref().map(decode_base64).transpose()?;
            if let Some(certificate) = &certificate {
                check_certificate_is_for_ek(certificate, &ek).map_err(|e| e.to_string())?;
            }
            Ok::<_, String>((ek, certificate))
        };
        if self.rsa_ek.is_some() != self.rsa_ek_certificate.is_some() {
            return Err("an RSA EK comes with its certificate".into());
        }
        let p256 = ek(&self.ek, &self.ek_certificate)?;
        let rsa = self.rsa_ek.as_deref().map(|public| ek(public, &self.rsa_ek_certificate)).transpose()?;
        match (&p256.0.key, rsa.as_ref().map(|(ek, _)| &ek.key)) {
            (EkKey::P256(_), None | Some(EkKey::Rsa(_))) => {}
            _ => return Err("an EK is of another kind than it is shown as".into()),
        }
        if self.ek_chain.len() > MAX_CHAIN_LEN {
            return Err(format!("more than {MAX_CHAIN_LEN} certificates lead to the EK's"));
        }
        Ok(EndorsementKeys { p256, rsa, chain: decode_base64_list(&self.ek_chain)? })
    }

    pub(super) fn check_endorsement_keys(&self) -> Result<((), String), String> {
        let eks = self.endorsement_keys()?;
        match (&eks.p256.1, &eks.rsa) {
            (None, None) => Ok(((), "without a certificate".into())),
            (Some(_), None) => Ok(((), "P-256, with a certificate".into())),
            (None, Some(_)) => Ok(((), "P-256 without a certificate, RSA with one".into())),
            (Some(_), Some(_)) => Ok(((), "P-256 and RSA, with certificates".into())),
        }
    }
}

/// A host's endorsement keys with their certificates, DER.
#[derive(Clone, Debug)]
pub struct EndorsementKeys {
    pub p256: (Ek, Option<Vec<u8>>),
    pub rsa: Option<(Ek, Option<Vec<u8>>)>,
    pub chain: Vec<Vec<u8>>,
}

/// Which key a TPM maker vouches for.
#[derive(Clone, Debug)]
pub struct CertifiedEk {
    pub key: EkKey,
    pub certificate: Vec<u8>,
    pub issuer: String,
}

impl EndorsementKeys {
    /// The first certificate that leads to a root: the P-256 EK's rather than the RSA one's.
    pub fn certified_ek(&self, roots: &Roots, now: Timestamp) -> Result<CertifiedEk, String> {
        let mut last_error = "the TPM has no EK certificate".to_owned();
        for (ek, certificate) in [Some(&self.p256), self.rsa.as_ref()].into_iter().flatten() {
            let Some(certificate) = certificate else { continue };
            match roots.verify_ek(ek, certificate, &self.chain, now) {
                Ok(issuer) => {
                    return Ok(CertifiedEk { key: ek.key.clone(), certificate: certificate.clone(), issuer });
                }
                Err(e) => last_error = e.to_string(),
            }
        }
        Err(last_error)
    }

    /// The certificates that lead to a root.
    pub fn trusted_certificates(&self, roots: &Roots, now: Timestamp) -> Vec<&[u8]> {
        let all = [Some(&self.p256), self.rsa.as_ref()].into_iter().flatten();
        all.filter_map(|(ek, certificate)| Some((ek, certificate.as_deref()?)))
            .filter(|(ek, certificate)| roots.verify_ek(ek, certificate, &self.chain, now).is_ok())
            .map(|(_, certificate)| certificate)
            .collect()
    }

    /// Whether or not they lead anywhere.
    pub fn certificates(&self) -> Vec<&[u8]> {
        let rsa = self.rsa.as_ref().and_then(|(_, certificate)| certificate.as_deref());
        self.p256.1.as_deref().into_iter().chain(rsa).collect()
    }
}
