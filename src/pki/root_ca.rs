//! The root of the host's CA: a self-signed certificate of the host key, signed in the TPM.

use std::time::Duration;

use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

use super::error::Error;
use super::issuing_ca::{CLOCK_SKEW, random_serial};
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::enroll::host_ca_name;
use crate::issue::HostIdentity;
use crate::tpm::Tpm;
use crate::verify::x509::{
    CertificateFields, CertificateProfile, assemble_p256_signed, ecdsa_with_sha256, key_id, p256_spki,
    uri_name,
};
use crate::verify::{not_after, not_before, parse_certificate};

/// A root with less lifetime left gets a successor with the same key and name: one year.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(365 * 24 * 3600);
/// 20 years: the host key does not rotate, and relying parties that install its root by hand should not have
/// to again.
const LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// The root certificate and what issuing CAs need of it.
pub(super) struct RootCa {
    /// DER.
    pub certificate: Vec<u8>,
    pub name: Name,
    pub key_id: [u8; 20],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Why a root needs a successor. It has the same key and name, so that all issuing CAs are below both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootRenewal {
    /// Relying parties refuse it, because it is not valid before this time: the clock was ahead when it was
    /// signed, or is behind now.
    NotYetValid(Timestamp),
    /// It expires at this time, within a year or long ago: the clock may have been behind.
    Expires(Timestamp),
}

impl RootCa {
    pub async fn create(
        tpm: &Tpm,
        host_key: &[u8; 65],
        host: &HostIdentity,
        now: Timestamp,
    ) -> Result<RootCa, Error> {
        let name = host_ca_name(&host.id)?;
        let key_id = key_id(host_key);
        let not_before = Timestamp::from_secs(now.before(CLOCK_SKEW).as_secs());
        let not_after = Timestamp::from_secs(now.after(LIFETIME).as_secs());
        let fields = CertificateFields {
            profile: CertificateProfile::Ca { path_length: 1 },
            serial: random_serial()?,
            algorithm: &ecdsa_with_sha256(),
            issuer: &name,
            issuer_key_id: None,
            not_before,
            not_after,
            subject: &name,
            public_key: &p256_spki(host_key)?,
            key_id,
            alt_names: &SubjectAltName(vec![trust_domain_name(host)?]),
        };
        let tbs = fields.to_tbs_der()?;
        let certificate = assemble_p256_signed(&tbs, &sign(tpm, &tbs).await?)?;
        Ok(RootCa { certificate, name, key_id, not_before, not_after })
    }

    /// A stored root; `None` if it is not for this host key and trust domain.
    pub fn from_certificate(
        certificate: Vec<u8>,
        host_key: &[u8; 65],
        host: &HostIdentity,
    ) -> Option<RootCa> {
        let parsed = parse_certificate(&certificate).ok()?;
        let tbs = parsed.tbs_certificate();
        let (_, names) = tbs.get_extension::<SubjectAltName>().ok().flatten()?;
        let key_matches = *tbs.subject_public_key_info() == p256_spki(host_key).ok()?;
        if !key_matches || !names.0.contains(&trust_domain_name(host).ok()?) {
            return None;
        }
        let (not_before, not_after) = (not_before(&parsed), not_after(&parsed));
        let name = tbs.subject().clone();
        Some(RootCa { certificate, name, key_id: key_id(host_key), not_before, not_after })
    }

    /// Why the root needs a successor; `None` if it does not.
    pub fn renewal(&self, now: Timestamp) -> Option<RootRenewal> {
        if now < self.not_before {
            return Some(RootRenewal::NotYetValid(self.not_before));
        }
        (self.not_after.since(now) < RENEW_BEFORE).then_some(RootRenewal::Expires(self.not_after))
    }
}

fn trust_domain_name(host: &HostIdentity) -> der::Result<GeneralName> {
    uri_name(&format!("spiffe://{}", host.trust_domain))
}

/// Signs with the host key in the TPM, with ECDSA and SHA-256: r and s, 32 bytes each.
pub(super) async fn sign(tpm: &Tpm, tbs: &[u8]) -> Result<[u8; 64], Error> {
    Ok(tpm.host_sign(sha256(tbs)).await?)
}
