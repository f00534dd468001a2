//! The host's CA: its root, its issuing CAs, and what they have revoked.
//!
//! `ca.json` comes first: a step is written, and only then taken in memory. The host key that signs for the root is in
//! the TPM; the issuing CAs' keys are sealed under the vault's key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use x509_cert::der::Encode;

use super::book::Leaf;
use super::ca_file::{Kept, NAME, Revoked, Stored, VERSION, bound, seal};
use super::issuing::{self, Above, CUSHION, Draft};
use super::x509::{self, Body, Kind};
use super::{Error, InForce};
use crate::clock::{Clock, Timestamp};
use crate::enroll::host_ca_name;
use crate::issue::{Host, Signing};
use crate::store;
use crate::tpm::{self, Tpm};
use crate::vault::{Holder, Vault};
use crate::verify::{der, parse_certificate};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The host key does not rotate, and who holds its root by hand is not to be sent another one.
const ROOT_LIFETIME: Duration = Duration::from_secs(20 * YEAR.as_secs());
/// A root with less life left gets a successor by the same key and name.
const ROOT_LEFT: Duration = YEAR;

/// The one that signs, the one before it, and what a clock that is being set about leaves behind.
const ISSUING_MOST: usize = 4;

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

async fn sign(tpm: &Tpm, body: &[u8]) -> Result<[u8; 64], Error> {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, body).as_ref());
    Ok(tpm.host_sign(hash).await?)
}
