//! The host's CA: its root, its issuing CAs, and what they have revoked.
//!
//! `ca.json` comes first: a step is written, and only then taken in memory. The host key that signs for the root is in
//! the TPM; the issuing CAs' keys are sealed under the vault's key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use x509_cert::der::Encode;

use super::book::Leaf;
use super::issuing::{self, Above, CUSHION, Draft, IssuingCa};
use super::x509::{self, Body, Kind};
use super::{Error, InForce};
use crate::clock::{Clock, Timestamp};
use crate::enroll::host_ca_name;
use crate::issue::{Host, Signing};
use crate::store;
use crate::tpm::{self, Tpm};
use crate::vault::{self, Holder, Kek, Keks, Vault};
use crate::verify::{der, parse_certificate};

const NAME: &str = "ca.json";
const VERSION: u64 = 1;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The host key does not rotate, and who holds its root by hand is not to be sent another one.
const ROOT_LIFETIME: Duration = Duration::from_secs(20 * YEAR.as_secs());
/// A root with less life left gets a successor by the same key and name.
const ROOT_LEFT: Duration = YEAR;

/// The one that signs, the one before it, and what a clock that is being set about leaves behind.
const ISSUING_MOST: usize = 4;
/// Serial numbers that the lists hold; of more, those that expire first are left out. Bounds the lists to 700 KiB.
const REVOKED_MOST: usize = 16_384;

/// Something that happened: for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Root {
        until: Timestamp,
    },
    Issuing {
        name: String,
        until: Timestamp,
    },
    /// An issuing CA of before whose key does not open. Its leaves stay good, and it revokes none of them.
    Lost {
        name: String,
    },
}

/// The root as it stands.
#[derive(Clone)]
struct Root {
    certificate: Vec<u8>,
    name: Vec<u8>,
    key_id: [u8; 20],
    until: Timestamp,
}

/// An issuing CA beside what is written of it.
#[derive(Clone)]
struct Kept {
    ca: Arc<IssuingCa>,
    sealed: String,
    revoked: Vec<Revoked>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Revoked {
    serial: [u8; 16],
    at: Timestamp,
    expires: Timestamp,
}

/// `ca.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// DER in base64, as of each certificate here.
    root: String,
    /// Number and time of the latest lists; times are seconds since the epoch.
    list: u64,
    listed: u64,
    /// The latest first.
    issuing: Vec<StoredIssuing>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredIssuing {
    kid: String,
    made: u64,
    until: u64,
    certificate: String,
    /// The PKCS#8 document, encrypted.
    key: String,
    /// `serial:revoked at:expires`.
    revoked: Vec<Revoked>,
}

/// The host's CA, and the means to change it.
pub struct HostCa {
    vault: Arc<Vault>,
    tpm: Tpm,
    host: Host,
    clock: Clock,
    root: Root,
    /// What stands in the root's place below an organisation's.
    signing: Option<Arc<Signing>>,
    issuing: Vec<Kept>,
    list: u64,
    listed: Timestamp,
}

impl HostCa {
    /// Reads what there is and makes the root if it is missing or another key's. [`HostCa::turn`] makes the rest.
    pub async fn open(
        tpm: &Tpm,
        vault: Arc<Vault>,
        dir: &Path,
        host: &Host,
        clock: &Clock,
    ) -> Result<(HostCa, Vec<Change>), Error> {
        let host_key = tpm.facts().await?.host_key.ok_or(tpm::Error::NotProvisioned)?;
        let stored = store::read::<Stored>(&dir.join(NAME), VERSION)?;
        let mut changes = Vec::new();
        let now = clock.now();
        let kept = stored.and_then(|stored| {
            let certificate = BASE64.decode(stored.root.as_bytes()).ok()?;
            Root::read(certificate, &host_key, host).map(|root| (root, stored))
        });
        let (root, issuing, list, listed, fresh) = match kept {
            None => {
                let root = Root::make(tpm, &host_key, host, now).await?;
                changes.push(Change::Root { until: root.until });
                (root, Vec::new(), 0, now, true)
            }
            Some((root, stored)) => {
                let keks = vault.keks().await?;
                let mut issuing = Vec::new();
                for stored in stored.issuing {
                    match stored.open(&keks, host) {
                        Ok(kept) => issuing.push(kept),
                        Err(name) => changes.push(Change::Lost { name }),
                    }
                }
                let ends = root.until.since(now) < ROOT_LEFT;
                let root = match ends {
                    true => Root::make(tpm, &host_key, host, now).await?,
                    false => root,
                };
                if ends {
                    changes.push(Change::Root { until: root.until });
                }
                (root, issuing, stored.list, Timestamp::from_secs(stored.listed), ends)
            }
        };
        let (tpm, host, clock) = (tpm.clone(), host.clone(), clock.clone());
        let mut ca = HostCa { vault, tpm, host, clock, root, signing: None, issuing, list, listed };
        if fresh {
            ca.write(ca.issuing.clone()).await?;
        }
        Ok((ca, changes))
    }

    /// Has what is in force be of another time, though no step of ours was due.
    pub async fn touch(&mut self) -> Result<(), Error> {
        self.write(self.issuing.clone()).await
    }

    /// From now on the host signs below an organisation's root, or below its own.
    pub fn sign_with(&mut self, signing: Option<Arc<Signing>>) {
        self.signing = signing;
    }

    /// When there is something to do next.
    pub fn wake(&self) -> Timestamp {
        self.issuing.first().map_or(self.clock.now(), |kept| kept.ca.renew_at())
    }

    /// Makes the next issuing CA if it is time. What failed changes nothing and is tried at the next turn.
    pub async fn turn(&mut self) -> Result<Vec<Change>, Error> {
        self.reseal().await?;
        let now = self.clock.now();
        let due = match self.issuing.first() {
            None => true,
            // A clock that was ahead: this CA does not count yet.
            Some(kept) => now >= kept.ca.renew_at() || now.after(CUSHION) < kept.ca.made(),
        };
        if !due {
            return Ok(Vec::new());
        }
        let until = self.signing.as_ref().map_or(self.root.until, |signing| signing.until);
        if until <= now {
            return Err(Error::Expired(until));
        }
        let above = Above {
            name: &self.root.name,
            key_id: self.root.key_id,
            until,
            host_id: &self.host.id,
            trust_domain: &self.host.trust_domain,
        };
        let draft = Draft::new(&above, now)?;
        let kek = self.vault.kek().await?;
        let signature = sign(&self.tpm, draft.body()).await?;
        let ca = Arc::new(draft.signed(&signature));
        let sealed = seal(&kek, &ca)?;
        let change = Change::Issuing { name: HEXLOWER.encode(&ca.tag()), until: ca.until() };
        let mut issuing = vec![Kept { ca, sealed, revoked: Vec::new() }];
        issuing.extend(self.issuing.iter().filter(|kept| kept.ca.until() > now).cloned());
        issuing.truncate(ISSUING_MOST);
        self.write(issuing).await?;
        Ok(vec![change])
    }

    /// Puts leaves on the lists: on disk when this returns.
    pub async fn revoke(&mut self, leaves: &[Leaf]) -> Result<(), Error> {
        let now = self.clock.now();
        let mut issuing = self.issuing.clone();
        for leaf in leaves.iter().filter(|leaf| leaf.expires > now) {
            let by = issuing.iter_mut().find(|kept| kept.ca.tag() == leaf.by);
            if let Some(kept) = by {
                let revoked = Revoked { serial: leaf.serial, at: now, expires: leaf.expires };
                if kept.revoked.iter().all(|old| old.serial != leaf.serial) {
                    kept.revoked.push(revoked);
                }
            }
        }
        self.write(issuing).await
    }

    /// What leaves are issued by and checked with, as it is now.
    pub fn in_force(&self) -> Result<Option<InForce>, Error> {
        let Some(first) = self.issuing.first() else { return Ok(None) };
        let crls = self.issuing.iter().filter(|kept| kept.ca.until() > self.clock.now()).map(|kept| {
            let revoked = kept.revoked.iter().map(|one| (one.serial, one.at));
            kept.ca.crl(self.list, revoked, self.listed)
        });
        let mut above = vec![first.ca.certificate().to_vec()];
        let mut bundle = vec![self.root.certificate.clone()];
        if let Some(signing) = &self.signing {
            above.extend_from_slice(signing.below_root());
            bundle.insert(0, signing.root().to_vec());
            // Leaves of before lead to the host's own root alone, for as long as they live.
            if self.clock.now().since(signing.since) > issuing::LIFETIME {
                bundle.truncate(1);
            }
        }
        Ok(Some(InForce {
            above,
            bundle,
            changed: self.listed,
            crls: crls.collect::<Result<_, _>>()?,
            ca: first.ca.clone(),
        }))
    }

    /// Encrypts the keys anew where the vault's key is another one. Until then the vault keeps the key before.
    async fn reseal(&mut self) -> Result<(), Error> {
        let Some(keks) = self.vault.is_due(Holder::IssuingCas).await? else { return Ok(()) };
        let again = |kept: &Kept| Ok(Kept { sealed: seal(&keks.latest, &kept.ca)?, ..kept.clone() });
        let issuing = self.issuing.iter().map(again).collect::<Result<_, Error>>()?;
        self.write(issuing).await?;
        Ok(self.vault.is_done(Holder::IssuingCas).await?)
    }

    async fn write(&mut self, mut issuing: Vec<Kept>) -> Result<(), Error> {
        let now = self.clock.now();
        for kept in &mut issuing {
            kept.revoked.retain(|one| one.expires > now);
        }
        bound(&mut issuing);
        let stored = Stored {
            root: BASE64.encode(&self.root.certificate),
            list: self.list + 1,
            listed: now.secs(),
            issuing: issuing.iter().map(Kept::stored).collect(),
        };
        self.vault.write(NAME, VERSION, &stored).await?;
        (self.list, self.listed) = (stored.list, Timestamp::from_secs(stored.listed));
        self.issuing = issuing;
        Ok(())
    }
}

/// Leaves out what expires first.
fn bound(issuing: &mut [Kept]) {
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

impl Root {
    async fn make(tpm: &Tpm, key: &[u8; 65], host: &Host, now: Timestamp) -> Result<Root, Error> {
        let name = host_ca_name(&host.id);
        let key_id = der::key_id(key);
        let until = Timestamp::from_secs(now.after(ROOT_LIFETIME).secs());
        let body = Body {
            kind: Kind::Authority { path_length: 1 },
            serial: issuing::serial()?,
            issuer: &name,
            subject: &name,
            from: Timestamp::from_secs(now.secs().saturating_sub(CUSHION.as_secs())),
            until,
            key: &der::p256_key(key),
            key_id,
            issuer_key_id: None,
            uri: &format!("spiffe://{}", host.trust_domain),
        };
        let body = body.der();
        let certificate = x509::signed(&body, &sign(tpm, &body).await?);
        Ok(Root { certificate, name, key_id, until })
    }

    /// The root of an earlier start, if it is this host key's and this trust domain's.
    fn read(certificate: Vec<u8>, key: &[u8; 65], host: &Host) -> Option<Root> {
        use x509_cert::ext::pkix::SubjectAltName;
        use x509_cert::ext::pkix::name::GeneralName;
        let read = parse_certificate(&certificate).ok()?;
        let body = read.tbs_certificate();
        let (_, names) = body.get_extension::<SubjectAltName>().ok().flatten()?;
        let uri = format!("spiffe://{}", host.trust_domain);
        let named = |name: &GeneralName| matches!(name, GeneralName::UniformResourceIdentifier(of) if of.as_str() == uri);
        let of_key = body.subject_public_key_info().to_der().ok()? == der::p256_key(key);
        if !of_key || !names.0.iter().any(named) {
            return None;
        }
        let until = Timestamp::from_secs(body.validity().not_after.to_unix_duration().as_secs());
        let name = body.subject().to_der().ok()?;
        Some(Root { certificate, name, key_id: der::key_id(key), until })
    }
}

impl Kept {
    fn stored(&self) -> StoredIssuing {
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
    fn open(self, keks: &Keks, host: &Host) -> Result<Kept, String> {
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

fn seal(kek: &Kek, ca: &IssuingCa) -> Result<String, Error> {
    Ok(vault::seal(kek, &sealed_as(ca.kid()), ca.pkcs8())?)
}

/// Whatever is encrypted under the vault's key says what it is, so that an issuing key cannot stand in for a CA's.
fn sealed_as(kid: &str) -> Vec<u8> {
    format!("hostbadge issuing CA {kid}").into_bytes()
}

async fn sign(tpm: &Tpm, body: &[u8]) -> Result<[u8; 64], Error> {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, body).as_ref());
    Ok(tpm.host_sign(hash).await?)
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

#[cfg(test)]
mod tests {
    use super::*;

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
