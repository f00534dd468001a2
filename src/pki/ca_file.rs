//! `ca.json`: the root, the issuing CAs with their keys encrypted, and what each of them has revoked.

use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use x509_cert::der::Encode;

use super::Error;
use super::issuing::IssuingCa;
use crate::clock::Timestamp;
use crate::issue::Host;
use crate::vault::{self, Kek, Keks};
use crate::verify::parse_certificate;

pub const NAME: &str = "ca.json";
pub const VERSION: u64 = 1;

/// Serial numbers that the lists hold; of more, those that expire first are left out. Bounds the lists to 700 KiB.
const REVOKED_MOST: usize = 16_384;

/// An issuing CA beside what is written of it.
#[derive(Clone)]
pub struct Kept {
    pub ca: Arc<IssuingCa>,
    pub sealed: String,
    pub revoked: Vec<Revoked>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Revoked {
    pub serial: [u8; 16],
    pub at: Timestamp,
    pub expires: Timestamp,
}

/// `ca.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// DER in base64, as of each certificate here.
    pub root: String,
    /// Number and time of the latest lists; times are seconds since the epoch.
    pub list: u64,
    pub listed: u64,
    /// The latest first.
    pub issuing: Vec<StoredIssuing>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredIssuing {
    pub kid: String,
    pub made: u64,
    pub until: u64,
    pub certificate: String,
    /// The PKCS#8 document, encrypted.
    pub key: String,
    /// `serial:revoked at:expires`.
    pub revoked: Vec<Revoked>,
}

impl Kept {
    pub fn stored(&self) -> StoredIssuing {
        StoredIssuing {
            kid: self.ca.kid().to_owned(),
            made: self.ca.made().secs(),
            until: self.ca.until().secs(),
            certificate: BASE64.encode(self.ca.certificate()),
            key: self.sealed.clone(),
            revoked: self.revoked.clone(),
        }
    }
}

impl StoredIssuing {
    /// The error is its name.
    pub fn open(self, keks: &Keks, host: &Host) -> Result<Kept, String> {
        let StoredIssuing { kid, made, until, certificate, key, revoked } = self;
        let opened = || {
            let pkcs8 = keks.open(&sealed_as(&kid), &key)?;
            let certificate = BASE64.decode(certificate.as_bytes()).ok()?;
            let (made, until) = (Timestamp::from_secs(made), Timestamp::from_secs(until));
            let ca = IssuingCa::of(pkcs8, certificate, &host.id, made, until).ok()?;
            let read = parse_certificate(ca.certificate()).ok()?;
            let info = read.tbs_certificate().subject_public_key_info().to_der().ok()?;
            (info == ca.public().ok()?).then_some(ca)
        };
        match opened() {
            Some(ca) => Ok(Kept { ca: Arc::new(ca), sealed: key, revoked }),
            None => Err(kid),
        }
    }
}

/// An issuing CA's key, for the file.
pub fn seal(kek: &Kek, ca: &IssuingCa) -> Result<String, Error> {
    Ok(vault::seal(kek, &sealed_as(ca.kid()), ca.pkcs8())?)
}

/// Whatever is encrypted under the vault's key says what it is, so that an issuing key cannot stand in for a CA's.
/// An issuing CA's key, for the file.
pub fn sealed_as(kid: &str) -> Vec<u8> {
    format!("hostbadge issuing CA {kid}").into_bytes()
}

impl From<Revoked> for String {
    fn from(one: Revoked) -> String {
        format!("{}:{}:{}", HEXLOWER.encode(&one.serial), one.at.secs(), one.expires.secs())
    }
}

impl TryFrom<String> for Revoked {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Revoked, &'static str> {
        let mut parts = text.split(':');
        let mut part = || parts.next().ok_or("a revoked certificate is serial:revoked:expires");
        let serial = HEXLOWER.decode(part()?.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let serial = serial.ok_or("a serial number has 32 hexadecimal digits")?;
        let mut time = || part()?.parse().map(Timestamp::from_secs).map_err(|_| "a time is seconds");
        Ok(Revoked { serial, at: time()?, expires: time()? })
    }
}

/// Leaves out what expires first.
pub fn bound(issuing: &mut [Kept]) {
    let count = |issuing: &[Kept]| issuing.iter().map(|kept| kept.revoked.len()).sum::<usize>();
    let more = count(issuing).saturating_sub(REVOKED_MOST);
    if more == 0 {
        return;
    }
    let mut ends: Vec<Timestamp> =
        issuing.iter().flat_map(|kept| kept.revoked.iter().map(|one| one.expires)).collect();
    ends.sort_unstable();
    let from = ends[more - 1];
    for kept in issuing.iter_mut() {
        kept.revoked.retain(|one| one.expires > from);
    }
    tracing::warn!(
        "more certificates are revoked than a list holds; {} that expire first are not on it",
        ends.len() - count(issuing)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::issuing::{Above, Draft};
    use crate::verify::der;

    fn kept(revoked: usize, expires: u64) -> Kept {
        let above = Above {
            name: &der::name(&[(der::COMMON_NAME, "host CA")]),
            key_id: [0; 20],
            until: Timestamp::from_secs(2_000_000_000),
            host_id: "host",
            trust_domain: "example.org",
        };
        let ca = Draft::new(&above, Timestamp::from_secs(1_700_000_000)).unwrap().signed(&[1; 64]);
        let one = |n: usize| {
            let mut serial = [0; 16];
            serial[..8].copy_from_slice(&n.to_be_bytes());
            let expires = Timestamp::from_secs(expires + n as u64);
            Revoked { serial, at: Timestamp::from_secs(7), expires }
        };
        Kept { ca: Arc::new(ca), sealed: String::new(), revoked: (0..revoked).map(one).collect() }
    }

    #[test]
    fn of_too_many_revoked_those_that_expire_last_stay() {
        let mut issuing = vec![kept(REVOKED_MOST, 100_000), kept(100, 0)];
        bound(&mut issuing);
        assert_eq!((issuing[0].revoked.len(), issuing[1].revoked.len()), (REVOKED_MOST, 0));
        let mut issuing = vec![kept(REVOKED_MOST + 5, 100_000)];
        bound(&mut issuing);
        assert_eq!(issuing[0].revoked.len(), REVOKED_MOST);
        assert_eq!(issuing[0].revoked[0].expires.secs(), 100_005);
        let crl = issuing[0].ca.crl(
            1,
            issuing[0].revoked.iter().map(|one| (one.serial, one.at)),
            Timestamp::from_secs(9),
        );
        assert!(crl.unwrap().len() < 700 * 1024);
        let text = serde_json::to_vec_pretty(&issuing[0].stored()).unwrap();
        assert!(text.len() < 2 * 1024 * 1024, "{}", text.len());
    }

    #[test]
    fn what_is_revoked_is_read_as_it_was_written() {
        let one = kept(3, 9).revoked[2];
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, "\"00000000000000020000000000000000:7:11\"");
        let read: Revoked = serde_json::from_str(&text).unwrap();
        assert_eq!((read.serial, read.at, read.expires), (one.serial, one.at, one.expires));
        for bad in ["\"\"", "\"00:7:11\"", "\"00000000000000020000000000000000:7\"", "\"x:1:2\""] {
            assert!(serde_json::from_str::<Revoked>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn renewal_is_between_four_tenths_and_half_of_a_life() {
        for _ in 0..50 {
            let ca = kept(0, 0).ca;
            let after = ca.renew_at().since(ca.made()).as_secs();
            assert!((34_560..=43_200).contains(&after), "{after}");
        }
    }
}
