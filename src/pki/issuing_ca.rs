//! An issuing CA: a key in memory, and the host CA's certificate for it.

use std::time::Duration;

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::issued::{CaTag, LeafRecord};
use super::x509::{self, CertificateProfile, TbsCertList, TbsCertificate};
use super::{Error, SubjectKey};
use crate::clock::Timestamp;
use crate::issue::{self, IssuingKey};
use crate::verify::der::{self, sequence};

/// How long an issuing CA lives. Its successor is made after half of it, so that a TPM may be away for the other half.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// It is replaced up to this part of its life before the half.
const RENEW_JITTER_DIVISOR: u32 = 10;
/// Clocks of others may be behind ours: CAs count from this long before they were made.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// The same for leaves.
const LEAF_CLOCK_SKEW: u64 = 10;

/// A leaf with less life than this is of no use to anybody.
const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(1);

/// A CA that signs leaves and their revocation lists.
pub struct IssuingCa {
    key: IssuingKey,
    /// For the day when it is to be sealed anew.
    pkcs8: Zeroizing<Vec<u8>>,
    certificate: Vec<u8>,
    name: Vec<u8>,
    key_id: [u8; 20],
    created_at: Timestamp,
    not_after: Timestamp,
}

/// What the host CA is to sign for a key.
pub struct UnsignedCa {
    pkcs8: Zeroizing<Vec<u8>>,
    key: IssuingKey,
    tbs: Vec<u8>,
    name: Vec<u8>,
    key_id: [u8; 20],
    created_at: Timestamp,
    not_after: Timestamp,
}

/// Who signs an issuing CA.
pub struct ParentCa<'a> {
    pub name: &'a [u8],
    pub key_id: [u8; 20],
    /// Nothing below it lives longer.
    pub not_after: Timestamp,
    pub host_id: &'a str,
    pub trust_domain: &'a str,
}

impl UnsignedCa {
    /// A fresh key, and what is to be certified of it.
    pub fn new(parent: &ParentCa<'_>, now: Timestamp) -> Result<UnsignedCa, Error> {
        let pkcs8 = IssuingKey::generate()?;
        let now = Timestamp::from_secs(now.as_secs());
        let key = IssuingKey::from_pkcs8(&pkcs8, now)?;
        let point = public_point(&key)?;
        let key_id = der::key_id(&point);
        let not_after = now.after(LIFETIME).min(parent.not_after);
        let name = subject_name(parent.host_id, &key_id);
        let tbs = TbsCertificate {
            profile: CertificateProfile::Ca { path_length: 0 },
            serial: random_serial()?,
            issuer: parent.name,
            subject: &name,
            not_before: Timestamp::from_secs(now.as_secs().saturating_sub(CLOCK_SKEW.as_secs())),
            not_after,
            spki: &der::p256_spki(&point),
            key_id,
            issuer_key_id: Some(parent.key_id),
            uri: &format!("spiffe://{}", parent.trust_domain),
        };
        let tbs = tbs.to_der();
        Ok(UnsignedCa { pkcs8, key, tbs, name, key_id, created_at: now, not_after })
    }

    /// What the host CA signs, with ECDSA and SHA-256.
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// With the signature: r and s, 32 bytes each.
    pub fn into_signed(self, signature: &[u8; 64]) -> IssuingCa {
        let UnsignedCa { pkcs8, key, tbs: body, name, key_id, created_at: made, not_after: until } = self;
        IssuingCa {
            certificate: x509::assemble(&body, signature),
            pkcs8,
            key,
            name,
            key_id,
            created_at: made,
            not_after: until,
        }
    }
}

impl IssuingCa {
    /// One of an earlier start.
    pub fn from_parts(
        pkcs8: Zeroizing<Vec<u8>>,
        certificate: Vec<u8>,
        host_id: &str,
        created_at: Timestamp,
        not_after: Timestamp,
    ) -> Result<IssuingCa, Error> {
        let key = IssuingKey::from_pkcs8(&pkcs8, created_at)?;
        let key_id = der::key_id(&public_point(&key)?);
        Ok(IssuingCa {
            name: subject_name(host_id, &key_id),
            key,
            pkcs8,
            certificate,
            key_id,
            created_at,
            not_after,
        })
    }

    /// DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The name under which its key is sealed: that of the key.
    pub fn kid(&self) -> &str {
        self.key.kid()
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> Result<Vec<u8>, Error> {
        Ok(der::p256_spki(&public_point(&self.key)?))
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

    /// Why a leaf that it signs now would not verify.
    pub fn unusable_reason(&self, now: Timestamp) -> Option<&'static str> {
        if self.not_after.since(now) < MIN_LEAF_LIFETIME {
            return Some(
                "the issuing CA has expired, and the TPM did not sign another; see hostbadge status",
            );
        }
        // By a clock that was set back, its own certificate does not count yet.
        (now.after(CLOCK_SKEW) < self.created_at)
            .then_some("the clock was set back to before the issuing CA was made, and another is to be made; try again in a moment")
    }

    /// When the next one is to be made. Hosts that were started together are not to ask their TPMs together for ever.
    pub fn renew_at(&self) -> Timestamp {
        let lifetime = self.not_after.since(self.created_at);
        let jitter_seed = u32::from_be_bytes(self.tag());
        let jitter = (lifetime / RENEW_JITTER_DIVISOR).mul_f64(f64::from(jitter_seed) / f64::from(u32::MAX));
        self.created_at.after((lifetime / 2).saturating_sub(jitter))
    }

    /// Signs a leaf: its DER, and what is remembered of it. It never outlives this CA.
    pub fn sign_leaf(
        &self,
        id: &str,
        key: &SubjectKey,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<(Vec<u8>, LeafRecord), Error> {
        let not_after = Timestamp::from_secs(now.after(ttl).min(self.not_after).as_secs());
        let serial = random_serial()?;
        let tbs = TbsCertificate {
            profile: CertificateProfile::Leaf,
            serial,
            issuer: &self.name,
            subject: &sequence(&[]),
            not_before: Timestamp::from_secs(now.as_secs().saturating_sub(LEAF_CLOCK_SKEW)),
            not_after,
            spki: key.spki(),
            key_id: key.key_id(),
            issuer_key_id: Some(self.key_id),
            uri: id,
        };
        Ok((self.sign(&tbs.to_der())?, LeafRecord { serial, expires: not_after, ca_tag: self.tag() }))
    }

    /// Signs a revocation list, good for the rest of this CA's life.
    pub fn sign_crl(
        &self,
        number: u64,
        revoked: impl Iterator<Item = ([u8; 16], Timestamp)>,
        now: Timestamp,
    ) -> Result<Vec<u8>, Error> {
        let this_update = Timestamp::from_secs(now.as_secs().saturating_sub(LEAF_CLOCK_SKEW));
        let crl = TbsCertList {
            issuer: &self.name,
            issuer_key_id: self.key_id,
            number,
            this_update,
            next_update: self.not_after,
            revoked,
        };
        self.sign(&crl.into_der())
    }

    fn sign(&self, tbs: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.key.sign(tbs)?;
        let raw: &[u8; 64] = signature.as_ref().try_into().map_err(|_| Error::Random)?;
        Ok(x509::assemble(tbs, raw))
    }
}

impl std::fmt::Debug for IssuingCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuingCa").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

/// 128 random bits.
pub fn random_serial() -> Result<[u8; 16], Error> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Random)?;
    Ok(serial)
}

/// Each issuing CA has a name of its own, so that a revocation list is never taken for another's.
fn subject_name(host_id: &str, key_id: &[u8; 20]) -> Vec<u8> {
    let common_name = format!("{host_id} issuing CA {}", HEXLOWER.encode(&key_id[..4]));
    der::distinguished_name(&[(der::ORGANIZATION, "hostbadge"), (der::COMMON_NAME, &common_name)])
}

fn public_point(key: &IssuingKey) -> Result<[u8; 65], Error> {
    key.jwk().p256_point().map_err(|e| issue::Error::InvalidJwk(e).into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::enroll::pem;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    /// A root as the TPM would sign it, and an issuing CA below it.
    fn root_and_issuing_ca() -> (Vec<u8>, IssuingCa) {
        let pkcs8 = IssuingKey::generate().unwrap();
        let key = IssuingKey::from_pkcs8(&pkcs8, NOW).unwrap();
        let point = public_point(&key).unwrap();
        let name = der::distinguished_name(&[(der::COMMON_NAME, "host CA")]);
        let not_after = NOW.after(LIFETIME * 100);
        let tbs = TbsCertificate {
            profile: CertificateProfile::Ca { path_length: 1 },
            serial: random_serial().unwrap(),
            issuer: &name,
            subject: &name,
            not_before: Timestamp::from_secs(NOW.as_secs() - 60),
            not_after,
            spki: &der::p256_spki(&point),
            key_id: der::key_id(&point),
            issuer_key_id: None,
            uri: "spiffe://example.org",
        };
        let sign = |tbs: &[u8]| key.sign(tbs).unwrap().as_ref().try_into().unwrap();
        let parent = ParentCa {
            name: &name,
            key_id: der::key_id(&point),
            not_after,
            host_id: "host",
            trust_domain: "example.org",
        };
        let unsigned = UnsignedCa::new(&parent, NOW).unwrap();
        let signature = sign(unsigned.tbs());
        let root = tbs.to_der();
        (x509::assemble(&root, &sign(&root)), unsigned.into_signed(&signature))
    }

    fn subject_key() -> SubjectKey {
        let key = IssuingKey::from_pkcs8(&IssuingKey::generate().unwrap(), NOW).unwrap();
        SubjectKey::from_point(&public_point(&key).unwrap())
    }

    /// What openssl says of a leaf, with the lists, at a time.
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
        // A CA of before has a list of its own, which is not taken for this one's.
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
