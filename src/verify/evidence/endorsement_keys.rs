//! The endorsement keys in evidence, with their certificates.

use super::document::{Evidence, decode_base64, decode_base64_list};
use crate::clock::Timestamp;
use crate::verify::certificates::MAX_CHAIN_LEN;
use crate::verify::ek::{Ek, EkKey};
use crate::verify::ek_chain::{ManufacturerRoots, check_certificate_is_for_ek};
use crate::verify::error::Error;

/// A host's endorsement keys, each with its certificate in DER if the TPM has one.
#[derive(Clone, Debug)]
pub struct EndorsementKeys {
    /// The P-256 EK, from which the host's id is derived.
    pub p256: (Ek, Option<Vec<u8>>),
    /// The RSA-2048 EK, which is in the evidence only if it has a certificate.
    pub rsa: Option<(Ek, Option<Vec<u8>>)>,
    /// Issuers' certificates that the TPM manufacturer stored in the TPM, DER.
    pub chain: Vec<Vec<u8>>,
}

/// An EK whose certificate leads to a trusted root.
#[derive(Clone, Debug)]
pub(crate) struct CertifiedEk {
    pub(crate) key: EkKey,
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// The issuer's distinguished name, for display.
    pub(crate) issuer: String,
}

impl Evidence {
    /// The endorsement keys, after the checks that they follow the TCG's templates and that each certificate
    /// is for its key. Whether a certificate leads to a trusted root is not checked.
    ///
    /// # Errors
    ///
    /// [`Error::Evidence`] or [`Error::Certificate`].
    pub fn endorsement_keys(&self) -> Result<EndorsementKeys, Error> {
        if self.rsa_ek.is_some() != self.rsa_ek_certificate.is_some() {
            return Err(Error::Evidence("the RSA EK and its certificate are not both given".into()));
        }
        let p256 = parse_ek(&self.ek, self.ek_certificate.as_deref())?;
        let rsa = self
            .rsa_ek
            .as_deref()
            .map(|public| parse_ek(public, self.rsa_ek_certificate.as_deref()))
            .transpose()?;
        match (&p256.0.key, rsa.as_ref().map(|(ek, _)| &ek.key)) {
            (EkKey::P256(_), None | Some(EkKey::Rsa(_))) => {}
            _ => {
                return Err(Error::Evidence("an EK is of another type than the member that it is in".into()));
            }
        }
        if self.ek_chain.len() > MAX_CHAIN_LEN {
            return Err(Error::Evidence(format!(
                "there are more than {MAX_CHAIN_LEN} certificates of the EKs' issuers"
            )));
        }
        Ok(EndorsementKeys { p256, rsa, chain: decode_base64_list(&self.ek_chain)? })
    }
}

impl EndorsementKeys {
    /// The certificates of both EKs, trusted or not.
    pub fn certificates(&self) -> Vec<&[u8]> {
        self.with_certificates().map(|(_, certificate)| certificate).collect()
    }

    /// The certificates that lead to a root at `now`.
    pub fn trusted_certificates(&self, roots: &ManufacturerRoots, now: Timestamp) -> Vec<&[u8]> {
        self.with_certificates()
            .filter(|(ek, certificate)| roots.verify_ek(ek, certificate, &self.chain, now).is_ok())
            .map(|(_, certificate)| certificate)
            .collect()
    }

    /// An EK whose certificate leads to a root at `now`: the P-256 EK if both do.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`] with the reason for each certificate.
    pub(crate) fn certified_ek(
        &self,
        roots: &ManufacturerRoots,
        now: Timestamp,
    ) -> Result<CertifiedEk, Error> {
        let mut reasons = Vec::new();
        for (ek, certificate) in self.with_certificates() {
            match roots.verify_ek(ek, certificate, &self.chain, now) {
                Ok(issuer) => {
                    return Ok(CertifiedEk {
                        key: ek.key.clone(),
                        certificate: certificate.to_vec(),
                        issuer,
                    });
                }
                Err(error) => reasons.push(format!("the {} EK's certificate: {error}", ek.key.kind())),
            }
        }
        if reasons.is_empty() {
            reasons.push("the TPM has no EK certificate".into());
        }
        Err(Error::Certificate(reasons.join("; ")))
    }

    /// Which keys there are, for display.
    pub(super) fn describe(&self) -> &'static str {
        match (&self.p256.1, &self.rsa) {
            (None, None) => "P-256 without a certificate",
            (Some(_), None) => "P-256 with a certificate",
            (None, Some(_)) => "P-256 without a certificate, RSA with one",
            (Some(_), Some(_)) => "P-256 and RSA, with certificates",
        }
    }

    /// The EKs that have a certificate, P-256 first.
    fn with_certificates(&self) -> impl Iterator<Item = (&Ek, &[u8])> {
        let keys = [Some(&self.p256), self.rsa.as_ref()].into_iter().flatten();
        keys.filter_map(|(ek, certificate)| Some((ek, certificate.as_deref()?)))
    }
}

fn parse_ek(public: &str, certificate: Option<&str>) -> Result<(Ek, Option<Vec<u8>>), Error> {
    let ek = Ek::parse(&decode_base64(public)?)?;
    let certificate = certificate.map(decode_base64).transpose()?;
    if let Some(certificate) = &certificate {
        check_certificate_is_for_ek(certificate, &ek).map_err(|e| Error::Certificate(e.to_string()))?;
    }
    Ok((ek, certificate))
}
