//! `ca.json`: the root, the issuing CAs with their keys encrypted, and what each of them has revoked.

use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use x509_cert::der::Encode;

use super::Error;
use super::issuing_ca::IssuingCa;
use crate::clock::Timestamp;
use crate::issue::HostIdentity;
use crate::keystore::{self, Kek, KekPair};
use crate::verify::parse_certificate;

pub const FILE_NAME: &str = "ca.json";
pub const VERSION: u64 = 1;

/// Serial numbers that the lists hold; of more, those that expire first are left out. Bounds the lists to 700 KiB.
const MAX_REVOKED: usize = 16_384;

/// An issuing CA beside what is written of it.
#[derive(Clone)]
pub struct CaRecord {
    pub ca: Arc<IssuingCa>,
    pub encrypted_key: String,
    pub revoked: Vec<RevokedCertificate>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RevokedCertificate {
    pub serial: [u8; 16],
    pub revoked_at: Timestamp,
    pub expires: Timestamp,
}

/// `ca.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaFile {
    /// DER in base64, as of each certificate here.
    pub root: String,
    /// Number and time of the latest lists; times are seconds since the epoch.
    pub list: u64,
    pub listed: u64,
    /// The latest first.
    pub issuing: Vec<RawIssuingCa>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIssuingCa {
    pub kid: String,
    pub made: u64,
    pub until: u64,
    pub certificate: String,
    /// The PKCS#8 document, encrypted.
    pub key: String,
    /// `serial:revoked at:expires`.
    pub revoked: Vec<RevokedCertificate>,
}

impl CaRecord {
    pub fn to_raw(&self) -> RawIssuingCa {
        RawIssuingCa {
            kid: self.ca.kid().to_owned(),
            made: self.ca.created_at().as_secs(),
            until: self.ca.not_after().as_secs(),
            certificate: BASE64.encode(self.ca.certificate()),
            key: self.encrypted_key.clone(),
            revoked: self.revoked.clone(),
        }
    }
}

impl RawIssuingCa {
    /// The error is its name.
    pub fn decrypt(self, keks: &KekPair, host: &HostIdentity) -> Result<CaRecord, String> {
        let RawIssuingCa { kid, made, until, certificate, key, revoked } = self;
        let try_decrypt = || {
            let pkcs8 = keks.decrypt(&key_aad(&kid), &key)?;
            let certificate = BASE64.decode(certificate.as_bytes()).ok()?;
            let (made, until) = (Timestamp::from_secs(made), Timestamp::from_secs(until));
            let ca = IssuingCa::from_parts(pkcs8, certificate, &host.id, made, until).ok()?;
            let parsed = parse_certificate(ca.certificate()).ok()?;
            let info = parsed.tbs_certificate().subject_public_key_info().to_der().ok()?;
            (info == ca.spki().ok()?).then_some(ca)
        };
        match try_decrypt() {
            Some(ca) => Ok(CaRecord { ca: Arc::new(ca), encrypted_key: key, revoked }),
            None => Err(kid),
        }
    }
}

/// An issuing CA's key, for the file.
pub fn encrypt_key(kek: &Kek, ca: &IssuingCa) -> Result<String, Error> {
    Ok(keystore::encrypt(kek, &key_aad(ca.kid()), ca.pkcs8())?)
}

/// Whatever is encrypted under the vault's key says what it is, so that an issuing key cannot stand in for a CA's.
/// An issuing CA's key, for the file.
pub fn key_aad(kid: &str) -> Vec<u8> {
    format!("hostbadge issuing CA {kid}").into_bytes()
}

impl From<RevokedCertificate> for String {
    fn from(revoked: RevokedCertificate) -> String {
        format!(
            "{}:{}:{}",
            HEXLOWER.encode(&revoked.serial),
            revoked.revoked_at.as_secs(),
            revoked.expires.as_secs()
        )
    }
}

impl TryFrom<String> for RevokedCertificate {
    type Error = &'static str;

    fn try_from(text: String) -> Result<RevokedCertificate, &'static str> {
        let mut parts = text.split(':');
        let mut part = || parts.next().ok_or("a revoked certificate is serial:revoked:expires");
        let serial = HEXLOWER.decode(part()?.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let serial = serial.ok_or("a serial number has 32 hexadecimal digits")?;
        let mut time = || part()?.parse().map(Timestamp::from_secs).map_err(|_| "a time is seconds");
        Ok(RevokedCertificate { serial, revoked_at: time()?, expires: time()? })
    }
}

/// Leaves out what expires first.
pub fn truncate_revoked(issuing: &mut [CaRecord]) {
    let count = |issuing: &[CaRecord]| issuing.iter().map(|record| record.revoked.len()).sum::<usize>();
    let excess = count(issuing).saturating_sub(MAX_REVOKED);
    if excess == 0 {
        return;
    }
    let mut expiries: Vec<Timestamp> =
        issuing.iter().flat_map(|record| record.revoked.iter().map(|revoked| revoked.expires)).collect();
    expiries.sort_unstable();
    let cutoff = expiries[excess - 1];
    for record in issuing.iter_mut() {
        record.revoked.retain(|revoked| revoked.expires > cutoff);
    }
    tracing::warn!(
        "more certificates are revoked than a list holds; {} that expire first are not on it",
        expiries.len() - count(issuing)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::issuing_ca::{ParentCa, UnsignedCa};
    use crate::verify::der;

    fn ca_record(revoked: usize, expires: u64) -> CaRecord {
        let parent = ParentCa {
            name: &der::distinguished_name(&[(der::COMMON_NAME, "host CA")]),
            key_id: [0; 20],
            not_after: Timestamp::from_secs(2_000_000_000),
            host_id: "host",
            trust_domain: "example.org",
        };
        let ca = UnsignedCa::new(&parent, Timestamp::from_secs(1_700_000_000)).unwrap().into_signed(&[1; 64]);
        let revoked_certificate = |n: usize| {
            let mut serial = [0; 16];
            serial[..8].copy_from_slice(&n.to_be_bytes());
            let expires = Timestamp::from_secs(expires + n as u64);
            RevokedCertificate { serial, revoked_at: Timestamp::from_secs(7), expires }
        };
        CaRecord {
            ca: Arc::new(ca),
            encrypted_key: String::new(),
            revoked: (0..revoked).map(revoked_certificate).collect(),
        }
    }

    #[test]
    fn truncation_keeps_the_revocations_that_expire_last() {
        let mut issuing = vec![ca_record(MAX_REVOKED, 100_000), ca_record(100, 0)];
        truncate_revoked(&mut issuing);
        assert_eq!((issuing[0].revoked.len(), issuing[1].revoked.len()), (MAX_REVOKED, 0));
        let mut issuing = vec![ca_record(MAX_REVOKED + 5, 100_000)];
        truncate_revoked(&mut issuing);
        assert_eq!(issuing[0].revoked.len(), MAX_REVOKED);
        assert_eq!(issuing[0].revoked[0].expires.as_secs(), 100_005);
        let crl = issuing[0].ca.sign_crl(
            1,
            issuing[0].revoked.iter().map(|revoked| (revoked.serial, revoked.revoked_at)),
            Timestamp::from_secs(9),
        );
        assert!(crl.unwrap().len() < 700 * 1024);
        let text = serde_json::to_vec_pretty(&issuing[0].to_raw()).unwrap();
        assert!(text.len() < 2 * 1024 * 1024, "{}", text.len());
    }

    #[test]
    fn revoked_certificate_round_trips() {
        let revoked = ca_record(3, 9).revoked[2];
        let text = serde_json::to_string(&revoked).unwrap();
        assert_eq!(text, "\"00000000000000020000000000000000:7:11\"");
        let read: RevokedCertificate = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (read.serial, read.revoked_at, read.expires),
            (revoked.serial, revoked.revoked_at, revoked.expires)
        );
        for bad in ["\"\"", "\"00:7:11\"", "\"00000000000000020000000000000000:7\"", "\"x:1:2\""] {
            assert!(serde_json::from_str::<RevokedCertificate>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn renewal_is_between_40_and_50_percent_of_the_lifetime() {
        for _ in 0..50 {
            let ca = ca_record(0, 0).ca;
            let after = ca.renew_at().since(ca.created_at()).as_secs();
            assert!((34_560..=43_200).contains(&after), "{after}");
        }
    }
}
