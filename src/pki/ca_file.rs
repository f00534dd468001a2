//! `ca.json`: the root, the issuing CAs with their encrypted keys, and what each of them has revoked.

use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::issuing_ca::IssuingCa;
use crate::clock::Timestamp;
use crate::issue::HostIdentity;
use crate::keystore::{self, Kek, KekPair};
use crate::verify::parse_certificate;

pub(super) const FILE_NAME: &str = "ca.json";
pub(super) const VERSION: u64 = 1;

/// An issuing CA together with what `ca.json` has of it.
#[derive(Clone)]
pub(super) struct CaRecord {
    pub ca: Arc<IssuingCa>,
    /// The PKCS#8 key, encrypted under the key-encryption key.
    pub encrypted_key: String,
    pub revoked: Vec<RevokedCertificate>,
}

/// An entry of a CRL. In `ca.json` it is the string `serial:revoked at:expires`: the serial number as 32
/// hexadecimal digits, times in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct RevokedCertificate {
    pub serial: [u8; 16],
    pub revoked_at: Timestamp,
    /// When the certificate expires, and the entry is dropped.
    pub expires: Timestamp,
}

/// The content of `ca.json`. Certificates are DER in base64, times are seconds since the epoch.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaFile {
    pub root: String,
    /// The number of the latest CRLs.
    #[serde(rename = "list")]
    pub crl_number: u64,
    /// When they were issued.
    #[serde(rename = "listed")]
    pub crl_issued_at: u64,
    /// The active one first.
    #[serde(rename = "issuing")]
    pub issuing_cas: Vec<RawIssuingCa>,
}

/// An issuing CA in `ca.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIssuingCa {
    pub kid: String,
    #[serde(rename = "made")]
    pub created_at: u64,
    #[serde(rename = "until")]
    pub not_after: u64,
    pub certificate: String,
    /// The PKCS#8 key, encrypted under the key-encryption key.
    pub key: String,
    pub revoked: Vec<RevokedCertificate>,
}

impl CaRecord {
    pub fn to_raw(&self) -> RawIssuingCa {
        RawIssuingCa {
            kid: self.ca.kid().to_owned(),
            created_at: self.ca.created_at().as_secs(),
            not_after: self.ca.not_after().as_secs(),
            certificate: BASE64.encode(self.ca.certificate()),
            key: self.encrypted_key.clone(),
            revoked: self.revoked.clone(),
        }
    }
}

impl RawIssuingCa {
    /// The CA with its key; `None` if the key cannot be decrypted, or is not the one that the certificate is
    /// for.
    pub fn decrypt(self, keks: &KekPair, host: &HostIdentity) -> Option<CaRecord> {
        let pkcs8 = keks.decrypt(&key_aad(&self.kid), &self.key)?;
        let certificate = BASE64.decode(self.certificate.as_bytes()).ok()?;
        let (created_at, not_after) =
            (Timestamp::from_secs(self.created_at), Timestamp::from_secs(self.not_after));
        let ca = IssuingCa::from_parts(pkcs8, certificate, &host.id, created_at, not_after).ok()?;
        let parsed = parse_certificate(ca.certificate()).ok()?;
        if *parsed.tbs_certificate().subject_public_key_info() != ca.spki().ok()? {
            return None;
        }
        Some(CaRecord { ca: Arc::new(ca), encrypted_key: self.key, revoked: self.revoked })
    }
}

/// Encrypts an issuing CA's key for `ca.json`.
pub(super) fn encrypt_key(kek: &Kek, ca: &IssuingCa) -> Result<String, Error> {
    Ok(keystore::encrypt(kek, &key_aad(ca.kid()), ca.pkcs8())?)
}

/// Associated data of the encryption: it names the kind of key, so that an encrypted key of another kind is
/// not accepted as an issuing CA's.
fn key_aad(kid: &str) -> Vec<u8> {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pki::issuing_ca::{ParentCa, UnsignedCa};
    use crate::verify::x509::common_name;

    /// A CA that was created at this time and has revoked nothing. Its certificate has no valid signature.
    pub fn ca_record_at(now: Timestamp) -> CaRecord {
        let parent = ParentCa {
            name: &common_name("host CA").unwrap(),
            key_id: [0; 20],
            not_after: Timestamp::from_secs(2_000_000_000),
            host_id: "host",
            trust_domain: "example.org",
        };
        let ca = UnsignedCa::new(&parent, now).unwrap().into_signed(&[1; 64]).unwrap();
        CaRecord { ca: Arc::new(ca), encrypted_key: String::new(), revoked: Vec::new() }
    }

    #[test]
    fn revoked_certificate_round_trips() {
        let mut serial = [0; 16];
        serial[7] = 2;
        let [revoked_at, expires] = [7, 11].map(Timestamp::from_secs);
        let revoked = RevokedCertificate { serial, revoked_at, expires };
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
            let ca = ca_record_at(Timestamp::from_secs(1_700_000_000)).ca;
            let after = ca.renew_at().since(ca.created_at()).as_secs();
            assert!((34_560..=43_200).contains(&after), "{after}");
        }
    }
}
