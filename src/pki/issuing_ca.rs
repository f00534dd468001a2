//! An issuing CA: a P-256 key in memory, and the host CA's certificate for it.

use std::time::Duration;

use data_encoding::HEXLOWER;
use der::Decode;
use ring::rand::{SecureRandom, SystemRandom};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::name::Name;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use zeroize::Zeroizing;

use super::crl::CrlFields;
use super::csr::SubjectKey;
use super::error::Error;
use super::issued_file::{CaTag, LeafRecord};
use crate::clock::{Timestamp, jitter};
use crate::issue::IssuingKey;
use crate::verify::x509::{
    self, CertificateFields, CertificateProfile, assemble_p256_signed, ecdsa_with_sha256,
    organization_and_common_name, uri_name,
};

/// Lifetime of an issuing CA. Its successor is created after about half of it, so that the TPM may be
/// unavailable for the other half.
pub(super) const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The successor is created up to this fraction of the lifetime earlier.
const RENEW_JITTER_DIVISOR: u32 = 10;
/// CAs are valid from this long before they were created, because relying parties' clocks may be behind.
/// Leaves and CRLs are valid from [`crate::clock::BACKDATE`] before.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// No leaf is issued with a shorter lifetime.
const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(1);

/// A CA that signs leaves and CRLs.
pub(super) struct IssuingCa {
    key: IssuingKey,
    /// The key again, to be encrypted under the next key-encryption key.
    pkcs8: Zeroizing<Vec<u8>>,
    certificate: Vec<u8>,
    name: Name,
    key_id: [u8; 20],
    created_at: Timestamp,
    not_after: Timestamp,
}

/// A new issuing CA whose certificate the host CA has yet to sign.
pub(super) struct UnsignedCa {
    pkcs8: Zeroizing<Vec<u8>>,
    key: IssuingKey,
    tbs: Vec<u8>,
    name: Name,
    key_id: [u8; 20],
    created_at: Timestamp,
    not_after: Timestamp,
}

/// The CA that signs an issuing CA's certificate.
pub(super) struct ParentCa<'a> {
    pub name: &'a Name,
    /// Its subjectKeyIdentifier.
    pub key_id: [u8; 20],
    /// An upper bound for the expiry of the issuing CA.
    pub not_after: Timestamp,
    pub host_id: &'a str,
    pub trust_domain: &'a str,
}

impl UnsignedCa {
    /// Generates a key and the content of its certificate.
    pub fn new(parent: &ParentCa<'_>, now: Timestamp) -> Result<UnsignedCa, Error> {
        let pkcs8 = IssuingKey::generate()?;
        let now = Timestamp::from_secs(now.as_secs());
        let key = IssuingKey::from_pkcs8(&pkcs8, now)?;
        let point = key.jwk().p256_point()?;
        let key_id = x509::key_id(&point);
        let not_after = now.after(LIFETIME).min(parent.not_after);
        let name = subject_name(parent.host_id, &key_id)?;
        let fields = CertificateFields {
            profile: CertificateProfile::Ca { path_length: 0 },
            serial: random_serial()?,
            algorithm: &ecdsa_with_sha256(),
            issuer: parent.name,
            issuer_key_id: Some(&parent.key_id),
            not_before: Timestamp::from_secs(now.as_secs().saturating_sub(CLOCK_SKEW.as_secs())),
            not_after,
            subject: &name,
            public_key: &x509::p256_spki(&point)?,
            key_id,
            alt_names: &SubjectAltName(vec![uri_name(&format!("spiffe://{}", parent.trust_domain))?]),
        };
        let tbs = fields.to_tbs_der()?;
        Ok(UnsignedCa { pkcs8, key, tbs, name, key_id, created_at: now, not_after })
    }

    /// The TBSCertificate (DER), to be signed with ECDSA and SHA-256.
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// The CA, with the signature of its certificate: r and s, 32 bytes each.
    pub fn into_signed(self, signature: &[u8; 64]) -> Result<IssuingCa, Error> {
        Ok(IssuingCa {
            certificate: assemble_p256_signed(&self.tbs, signature)?,
            pkcs8: self.pkcs8,
            key: self.key,
            name: self.name,
            key_id: self.key_id,
            created_at: self.created_at,
            not_after: self.not_after,
        })
    }
}

impl IssuingCa {
    /// An issuing CA from what is stored of it.
    pub fn from_parts(
        pkcs8: Zeroizing<Vec<u8>>,
        certificate: Vec<u8>,
        host_id: &str,
        created_at: Timestamp,
        not_after: Timestamp,
    ) -> Result<IssuingCa, Error> {
        let key = IssuingKey::from_pkcs8(&pkcs8, created_at)?;
        let key_id = x509::key_id(&key.jwk().p256_point()?);
        let name = subject_name(host_id, &key_id)?;
        Ok(IssuingCa { key, pkcs8, certificate, name, key_id, created_at, not_after })
    }

    /// The CA's certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key, PKCS#8 in DER.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The RFC 7638 thumbprint of the key, under which the key is encrypted.
    pub fn kid(&self) -> &str {
        self.key.kid()
    }

    pub fn spki(&self) -> Result<SubjectPublicKeyInfoOwned, Error> {
        Ok(x509::p256_spki(&self.key.jwk().p256_point()?)?)
    }

    pub fn tag(&self) -> CaTag {
        let [a, b, c, d, ..] = self.key_id;
        [a, b, c, d]
    }

    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Why a leaf signed at `now` would not verify; `None` if it would. The text goes to callers.
    pub fn unusable_reason(&self, now: Timestamp) -> Option<&'static str> {
        if self.not_after.since(now) < MIN_LEAF_LIFETIME {
            return Some(
                "the issuing CA has expired, and the TPM has not signed its successor; see hostbadge status",
            );
        }
        // The CA's own certificate is not valid yet by a clock that was set back.
        (now.after(CLOCK_SKEW) < self.created_at).then_some(
            "the clock was set back to before the issuing CA was created, and a new one is being created; \
             try again in a moment",
        )
    }

    /// When the successor is due: after 40 % to 50 % of the lifetime. Hosts that started together differ, so
    /// that their TPMs do not sign in lockstep.
    pub fn renew_at(&self) -> Timestamp {
        let lifetime = self.not_after.since(self.created_at);
        let jitter = jitter(lifetime / RENEW_JITTER_DIVISOR, u32::from_be_bytes(self.tag()));
        self.created_at.after((lifetime / 2).saturating_sub(jitter))
    }

    /// Signs a leaf for this SPIFFE ID: its certificate (DER), and what revocation needs of it. It expires
    /// after `ttl`, or with this CA if that is earlier.
    pub fn sign_leaf(
        &self,
        id: &str,
        key: &SubjectKey,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<(Vec<u8>, LeafRecord), Error> {
        let not_after = Timestamp::from_secs(now.after(ttl).min(self.not_after).as_secs());
        let serial = random_serial()?;
        let fields = CertificateFields {
            profile: CertificateProfile::TlsPeer,
            serial,
            algorithm: &ecdsa_with_sha256(),
            issuer: &self.name,
            issuer_key_id: Some(&self.key_id),
            not_before: now.backdated(),
            not_after,
            subject: &Name::default(),
            public_key: &SubjectPublicKeyInfoOwned::from_der(key.spki())?,
            key_id: key.key_id(),
            alt_names: &SubjectAltName(vec![uri_name(id)?]),
        };
        let certificate = self.sign(&fields.to_tbs_der()?)?;
        let (ca_tag, match_tag, invocation) = (self.tag(), None, None);
        Ok((certificate, LeafRecord { serial, expires: not_after, ca_tag, match_tag, invocation }))
    }

    /// Signs a CRL (DER) that is valid until this CA expires.
    pub fn sign_crl(
        &self,
        number: u64,
        revoked: impl Iterator<Item = ([u8; 16], Timestamp)>,
        now: Timestamp,
    ) -> Result<Vec<u8>, Error> {
        let fields = CrlFields {
            issuer: &self.name,
            issuer_key_id: self.key_id,
            number,
            this_update: now.backdated(),
            next_update: self.not_after,
            revoked,
        };
        self.sign(&fields.into_tbs_der()?)
    }

    fn sign(&self, tbs: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.key.sign(tbs)?;
        let fixed: &[u8; 64] =
            signature.as_ref().try_into().map_err(|_| Error::UnexpectedEncoding("signature"))?;
        Ok(assemble_p256_signed(tbs, fixed)?)
    }
}

impl std::fmt::Debug for IssuingCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuingCa").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

/// 128 random bits.
pub(super) fn random_serial() -> Result<[u8; 16], Error> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Random)?;
    Ok(serial)
}

/// Each issuing CA has a name of its own, so that its CRL is not mistaken for another CA's.
fn subject_name(host_id: &str, key_id: &[u8; 20]) -> der::Result<Name> {
    let common_name = format!("{host_id} issuing CA {}", HEXLOWER.encode(&key_id[..4]));
    organization_and_common_name("hostbadge", &common_name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn pem(label: &'static str, der: &[u8]) -> String {
        crate::enroll::pem(label, der).unwrap()
    }

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    /// A root, signed as by the TPM, and an issuing CA below it.
    fn root_and_issuing_ca() -> (Vec<u8>, IssuingCa) {
        let pkcs8 = IssuingKey::generate().unwrap();
        let key = IssuingKey::from_pkcs8(&pkcs8, NOW).unwrap();
        let point = key.jwk().p256_point().unwrap();
        let name = x509::common_name("host CA").unwrap();
        let not_after = NOW.after(LIFETIME * 100);
        let root = CertificateFields {
            profile: CertificateProfile::Ca { path_length: 1 },
            serial: random_serial().unwrap(),
            algorithm: &ecdsa_with_sha256(),
            issuer: &name,
            issuer_key_id: None,
            not_before: Timestamp::from_secs(NOW.as_secs() - 60),
            not_after,
            subject: &name,
            public_key: &x509::p256_spki(&point).unwrap(),
            key_id: x509::key_id(&point),
            alt_names: &SubjectAltName(vec![uri_name("spiffe://example.org").unwrap()]),
        };
        let root = root.to_tbs_der().unwrap();
        let sign = |tbs: &[u8]| key.sign(tbs).unwrap().as_ref().try_into().unwrap();
        let parent = ParentCa {
            name: &name,
            key_id: x509::key_id(&point),
            not_after,
            host_id: "host",
            trust_domain: "example.org",
        };
        let unsigned = UnsignedCa::new(&parent, NOW).unwrap();
        let signature = sign(unsigned.tbs());
        let root = assemble_p256_signed(&root, &sign(&root)).unwrap();
        (root, unsigned.into_signed(&signature).unwrap())
    }

    fn subject_key() -> SubjectKey {
        let key = IssuingKey::from_pkcs8(&IssuingKey::generate().unwrap(), NOW).unwrap();
        SubjectKey::from_point(&key.jwk().p256_point().unwrap()).unwrap()
    }

    /// Whether `openssl verify` accepts a leaf with these CRLs at a time, and what it writes.
    fn openssl_verify(dir: &Path, ca: &IssuingCa, leaf: &[u8], crls: &[Vec<u8>], at: u64) -> (bool, String) {
        let file = |name: &str, text: String| {
            std::fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        let crls_pem: String = crls.iter().map(|crl| pem("X509 CRL", crl)).collect();
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-crl_check", "-attime", &at.to_string()])
            .arg("-CAfile")
            .arg(dir.join("root.pem"))
            .arg("-untrusted")
            .arg(file("issuing.pem", pem("CERTIFICATE", ca.certificate())))
            .arg("-CRLfile")
            .arg(file("crl.pem", crls_pem))
            .arg(file("leaf.pem", pem("CERTIFICATE", leaf)))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn crl_revokes_only_the_listed_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let (root, ca) = root_and_issuing_ca();
        std::fs::write(dir.path().join("root.pem"), pem("CERTIFICATE", &root)).unwrap();
        let hour = Duration::from_secs(3600);
        let (good, _) = ca.sign_leaf("spiffe://example.org/a", &subject_key(), hour, NOW).unwrap();
        let (bad, revoked) = ca.sign_leaf("spiffe://example.org/b", &subject_key(), hour, NOW).unwrap();
        let empty = ca.sign_crl(1, std::iter::empty(), NOW).unwrap();
        let crl = ca.sign_crl(2, [(revoked.serial, NOW)].into_iter(), NOW).unwrap();
        // Another CA has a CRL of its own, which does not count for this one's leaves.
        let (_, other_ca) = root_and_issuing_ca();
        let other_crl = other_ca.sign_crl(3, [(revoked.serial, NOW)].into_iter(), NOW).unwrap();

        let at = NOW.as_secs() + 60;
        let verify = |leaf: &[u8], crls: &[Vec<u8>]| openssl_verify(dir.path(), &ca, leaf, crls, at);
        for (leaf, crls) in [(&good, &empty), (&bad, &empty), (&good, &crl)] {
            let (ok, output) = verify(leaf, &[other_crl.clone(), crls.clone()]);
            assert!(ok, "{output}");
        }
        let (ok, output) = verify(&bad, &[other_crl.clone(), crl.clone()]);
        assert!(!ok && output.contains("revoked"), "{output}");
        let (ok, output) = openssl_verify(dir.path(), &ca, &good, &[crl], NOW.as_secs() + 2 * 3600);
        assert!(!ok && output.contains("expired"), "{output}");
    }

    #[test]
    fn issuing_ca_is_usable_only_within_its_lifetime() {
        let (_, ca) = root_and_issuing_ca();
        let before = |seconds| Timestamp::from_secs(NOW.as_secs() - seconds);
        assert_eq!([NOW, before(60), NOW.after(LIFETIME / 2)].map(|at| ca.unusable_reason(at)), [None; 3]);
        assert!(ca.unusable_reason(before(61)).unwrap().contains("set back"));
        assert!(ca.unusable_reason(NOW.after(LIFETIME)).unwrap().contains("expired"));
    }

    #[test]
    fn leaf_never_outlives_its_ca() {
        let (_, ca) = root_and_issuing_ca();
        let late = NOW.after(LIFETIME - Duration::from_secs(100));
        let (_, leaf) =
            ca.sign_leaf("spiffe://example.org/a", &subject_key(), Duration::from_secs(3600), late).unwrap();
        assert_eq!(leaf.expires, ca.not_after());
    }
}
