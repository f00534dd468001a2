//! An issuing CA: a key in memory, and the host CA's certificate for it.

use std::time::Duration;

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::book::{Leaf, Tag};
use super::x509::{self, Body, Crl, Kind};
use super::{Error, HolderKey};
use crate::clock::Timestamp;
use crate::issue::{self, IssuingKey};
use crate::verify::der::{self, sequence};

/// How long an issuing CA lives. Its successor is made after half of it, so that a TPM may be away for the other half.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// It is replaced up to this part of its life before the half.
const JITTER: u32 = 10;
/// Clocks of others may be behind ours: CAs count from this long before they were made.
pub const CUSHION: Duration = Duration::from_secs(60);
/// The same for leaves.
const LEAF_CUSHION: u64 = 10;

/// A leaf with less life than this is of no use to anybody.
const SHORTEST: Duration = Duration::from_secs(1);

/// A CA that signs leaves and their revocation lists.
pub struct IssuingCa {
    key: IssuingKey,
    /// For the day when it is to be sealed anew.
    pkcs8: Zeroizing<Vec<u8>>,
    certificate: Vec<u8>,
    name: Vec<u8>,
    key_id: [u8; 20],
    made: Timestamp,
    until: Timestamp,
}

/// What the host CA is to sign for a key.
pub struct Draft {
    pkcs8: Zeroizing<Vec<u8>>,
    key: IssuingKey,
    body: Vec<u8>,
    name: Vec<u8>,
    key_id: [u8; 20],
    made: Timestamp,
    until: Timestamp,
}

/// Who signs an issuing CA.
pub struct Above<'a> {
    pub name: &'a [u8],
    pub key_id: [u8; 20],
    /// Nothing below it lives longer.
    pub until: Timestamp,
    pub host_id: &'a str,
    pub trust_domain: &'a str,
}

impl Draft {
    /// A fresh key, and what is to be certified of it.
    pub fn new(above: &Above<'_>, now: Timestamp) -> Result<Draft, Error> {
        let pkcs8 = IssuingKey::generate()?;
        let now = Timestamp::from_secs(now.secs());
        let key = IssuingKey::from_pkcs8(&pkcs8, now)?;
        let point = point(&key)?;
        let key_id = der::key_id(&point);
        let until = now.after(LIFETIME).min(above.until);
        let name = name(above.host_id, &key_id);
        let body = Body {
            kind: Kind::Authority { path_length: 0 },
            serial: serial()?,
            issuer: above.name,
            subject: &name,
            from: Timestamp::from_secs(now.secs().saturating_sub(CUSHION.as_secs())),
            until,
            key: &der::p256_key(&point),
            key_id,
            issuer_key_id: Some(above.key_id),
            uri: &format!("spiffe://{}", above.trust_domain),
        };
        let body = body.der();
        Ok(Draft { pkcs8, key, body, name, key_id, made: now, until })
    }

    /// What the host CA signs, with ECDSA and SHA-256.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// With the signature: r and s, 32 bytes each.
    pub fn signed(self, signature: &[u8; 64]) -> IssuingCa {
        let Draft { pkcs8, key, body, name, key_id, made, until } = self;
        IssuingCa { certificate: x509::signed(&body, signature), pkcs8, key, name, key_id, made, until }
    }
}

impl IssuingCa {
    /// One of an earlier start.
    pub fn of(
        pkcs8: Zeroizing<Vec<u8>>,
        certificate: Vec<u8>,
        host_id: &str,
        made: Timestamp,
        until: Timestamp,
    ) -> Result<IssuingCa, Error> {
        let key = IssuingKey::from_pkcs8(&pkcs8, made)?;
        let key_id = der::key_id(&point(&key)?);
        Ok(IssuingCa { name: name(host_id, &key_id), key, pkcs8, certificate, key_id, made, until })
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
    pub fn public(&self) -> Result<Vec<u8>, Error> {
        Ok(der::p256_key(&point(&self.key)?))
    }

    pub fn tag(&self) -> Tag {
        let [a, b, c, d, ..] = self.key_id;
        [a, b, c, d]
    }

    pub fn made(&self) -> Timestamp {
        self.made
    }

    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// Why a leaf that it signs now would not verify.
    pub fn why_not_at(&self, now: Timestamp) -> Option<&'static str> {
        if self.until.since(now) < SHORTEST {
            return Some(
                "the issuing CA has expired, and the TPM did not sign another; see hostbadge status",
            );
        }
        // By a clock that was set back, its own certificate does not count yet.
        (now.after(CUSHION) < self.made)
            .then_some("the clock was set back to before the issuing CA was made, and another is to be made; try again in a moment")
    }

    /// When the next one is to be made. Hosts that were started together are not to ask their TPMs together for ever.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.until.since(self.made);
        let part = u32::from_be_bytes(self.tag());
        let early = (life / JITTER).mul_f64(f64::from(part) / f64::from(u32::MAX));
        self.made.after((life / 2).saturating_sub(early))
    }

    /// Signs a leaf: its DER, and what is remembered of it. It never outlives this CA.
    pub fn leaf(
        &self,
        id: &str,
        key: &HolderKey,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<(Vec<u8>, Leaf), Error> {
        let until = Timestamp::from_secs(now.after(ttl).min(self.until).secs());
        let serial = serial()?;
        let body = Body {
            kind: Kind::Leaf,
            serial,
            issuer: &self.name,
            subject: &sequence(&[]),
            from: Timestamp::from_secs(now.secs().saturating_sub(LEAF_CUSHION)),
            until,
            key: key.info(),
            key_id: key.id(),
            issuer_key_id: Some(self.key_id),
            uri: id,
        };
        Ok((self.sign(&body.der())?, Leaf { serial, expires: until, by: self.tag() }))
    }

    /// Signs a revocation list, good for the rest of this CA's life.
    pub fn crl(
        &self,
        number: u64,
        revoked: impl Iterator<Item = ([u8; 16], Timestamp)>,
        now: Timestamp,
    ) -> Result<Vec<u8>, Error> {
        let from = Timestamp::from_secs(now.secs().saturating_sub(LEAF_CUSHION));
        let crl =
            Crl { issuer: &self.name, issuer_key_id: self.key_id, number, from, until: self.until, revoked };
        self.sign(&crl.der())
    }

    fn sign(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.key.sign(body)?;
        let fixed: &[u8; 64] = signature.as_ref().try_into().map_err(|_| Error::Random)?;
        Ok(x509::signed(body, fixed))
    }
}

impl std::fmt::Debug for IssuingCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuingCa").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

/// 128 random bits.
pub fn serial() -> Result<[u8; 16], Error> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Random)?;
    Ok(serial)
}

/// Each issuing CA has a name of its own, so that a revocation list is never taken for another's.
fn name(host_id: &str, key_id: &[u8; 20]) -> Vec<u8> {
    let common = format!("{host_id} issuing CA {}", HEXLOWER.encode(&key_id[..4]));
    der::name(&[(der::ORGANIZATION, "hostbadge"), (der::COMMON_NAME, &common)])
}

fn point(key: &IssuingKey) -> Result<[u8; 65], Error> {
    key.jwk().point().map_err(|e| issue::Error::Key(e.to_string()).into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::enroll::pem;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    /// A root as the TPM would sign it, and an issuing CA below it.
    fn authority() -> (Vec<u8>, IssuingCa) {
        let pkcs8 = IssuingKey::generate().unwrap();
        let key = IssuingKey::from_pkcs8(&pkcs8, NOW).unwrap();
        let point = point(&key).unwrap();
        let name = der::name(&[(der::COMMON_NAME, "host CA")]);
        let until = NOW.after(LIFETIME * 100);
        let body = Body {
            kind: Kind::Authority { path_length: 1 },
            serial: serial().unwrap(),
            issuer: &name,
            subject: &name,
            from: Timestamp::from_secs(NOW.secs() - 60),
            until,
            key: &der::p256_key(&point),
            key_id: der::key_id(&point),
            issuer_key_id: None,
            uri: "spiffe://example.org",
        };
        let sign = |body: &[u8]| key.sign(body).unwrap().as_ref().try_into().unwrap();
        let above = Above {
            name: &name,
            key_id: der::key_id(&point),
            until,
            host_id: "host",
            trust_domain: "example.org",
        };
        let draft = Draft::new(&above, NOW).unwrap();
        let signature = sign(draft.body());
        let root = body.der();
        (x509::signed(&root, &sign(&root)), draft.signed(&signature))
    }

    fn holder() -> HolderKey {
        let key = IssuingKey::from_pkcs8(&IssuingKey::generate().unwrap(), NOW).unwrap();
        HolderKey::of_point(&point(&key).unwrap())
    }

    /// What openssl says of a leaf, with the lists, at a time.
    fn verified(dir: &Path, ca: &IssuingCa, leaf: &[u8], crls: &[Vec<u8>], at: u64) -> (bool, String) {
        let file = |name: &str, text: String| {
            std::fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        let lists: String = crls.iter().map(|crl| pem("X509 CRL", crl)).collect();
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-crl_check", "-attime", &at.to_string()])
            .arg("-CAfile")
            .arg(dir.join("root.pem"))
            .arg("-untrusted")
            .arg(file("issuing.pem", pem("CERTIFICATE", ca.certificate())))
            .arg("-CRLfile")
            .arg(file("crl.pem", lists))
            .arg(file("leaf.pem", pem("CERTIFICATE", leaf)))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn a_list_revokes_what_is_on_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (root, ca) = authority();
        std::fs::write(dir.path().join("root.pem"), pem("CERTIFICATE", &root)).unwrap();
        let hour = Duration::from_secs(3600);
        let (good, _) = ca.leaf("spiffe://example.org/a", &holder(), hour, NOW).unwrap();
        let (bad, revoked) = ca.leaf("spiffe://example.org/b", &holder(), hour, NOW).unwrap();
        let empty = ca.crl(1, std::iter::empty(), NOW).unwrap();
        let list = ca.crl(2, [(revoked.serial, NOW)].into_iter(), NOW).unwrap();
        // A CA of before has a list of its own, which is not taken for this one's.
        let (_, other) = authority();
        let others = other.crl(3, [(revoked.serial, NOW)].into_iter(), NOW).unwrap();

        let at = NOW.secs() + 60;
        let says = |leaf: &[u8], crls: &[Vec<u8>]| verified(dir.path(), &ca, leaf, crls, at);
        for (leaf, crls) in [(&good, &empty), (&bad, &empty), (&good, &list)] {
            let (holds, said) = says(leaf, &[others.clone(), crls.clone()]);
            assert!(holds, "{said}");
        }
        let (holds, said) = says(&bad, &[others.clone(), list.clone()]);
        assert!(!holds && said.contains("revoked"), "{said}");
        let (holds, said) = verified(dir.path(), &ca, &good, &[list], NOW.secs() + 2 * 3600);
        assert!(!holds && said.contains("expired"), "{said}");
    }

    #[test]
    fn a_ca_signs_within_its_own_life() {
        let (_, ca) = authority();
        let before = |seconds| Timestamp::from_secs(NOW.secs() - seconds);
        assert_eq!([NOW, before(60), NOW.after(LIFETIME / 2)].map(|at| ca.why_not_at(at)), [None; 3]);
        assert!(ca.why_not_at(before(61)).unwrap().contains("set back"));
        assert!(ca.why_not_at(NOW.after(LIFETIME)).unwrap().contains("expired"));
    }

    #[test]
    fn no_leaf_outlives_its_ca() {
        let (_, ca) = authority();
        let late = NOW.after(LIFETIME - Duration::from_secs(100));
        let (_, leaf) =
            ca.leaf("spiffe://example.org/a", &holder(), Duration::from_secs(3600), late).unwrap();
        assert_eq!(leaf.expires, ca.until());
    }
}
