//! The issuing keys in memory, beside the file that says what each of them is.
//!
//! The file comes first: a step is written, and only then taken in memory. Whatever crashes in between, the next start
//! reads the step as done.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::issuer::Host;
use super::ring::{Ring, Step, Unready};
use super::rotation::Rotation;
use super::sealed::Sealed;
use super::{Documents, Endorser, Error, IssuingKey, RsaKey, Standing, endorsement, keyring, report};
use crate::clock::{Clock, Timestamp};
use crate::tpm::Tpm;
use crate::vault::{Holder, Vault};
use crate::verify::Jwk;

/// How long a change of the key-encryption key waits for the end of the one before.
const OTHERS: Duration = Duration::from_secs(5);

/// Something that happened to a key: for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It signs from `active_from` on.
    Published {
        kid: String,
        active_from: Timestamp,
    },
    Activated {
        kid: String,
    },
    /// It verifies until `destroyed_from`.
    Retired {
        kid: String,
        destroyed_from: Timestamp,
    },
    Destroyed {
        kid: String,
    },
}

/// The issuing keys of this host, and the means to change them.
pub struct Keys {
    pub(super) vault: Arc<Vault>,
    pub(super) host: Host,
    pub(super) host_key: Jwk,
    pub(super) rotation: Rotation,
    pub(super) clock: Clock,
    pub(super) ring: Ring,
    pub(super) active: Arc<IssuingKey>,
    pub(super) next: Option<Arc<IssuingKey>>,
    /// Public halves, in the ring's order: what signs no more is not held.
    pub(super) retired: Vec<Jwk>,
    /// The TPM's own, for RS256.
    pub(super) rsa: Option<Arc<RsaKey>>,
    /// A replacement failed, perhaps after the file was another already.
    pub(super) unsure: bool,
}

impl Keys {
    /// All that minting needs, as it is now.
    pub fn standing(&self) -> Result<Standing, Error> {
        let next = self.next.iter().map(|key| key.jwk());
        let jwks = std::iter::once(self.active.jwk()).chain(next).chain(self.retired.iter().rev());
        let in_tpm = std::iter::once(&self.host_key).chain(self.rsa.iter().map(|key| key.jwk()));
        let mut reports = report::report(&self.ring, &self.rotation);
        let changed = reports.iter().filter_map(|key| key.since).max().unwrap_or_else(|| self.clock.now());
        let documents =
            Documents::of(&self.host, jwks.cloned().collect(), in_tpm.cloned().collect(), changed)?;
        reports.extend(report::in_tpm(&self.host_key, self.rsa.as_deref()));
        let rsa = self.rsa.clone();
        Standing::new(self.host.clone(), self.active.clone(), &self.host_key, rsa, documents, reports)
    }

    /// From now on the TPM signs RS256 with this key, where there is one.
    pub fn take_up(&mut self, rsa: Option<Arc<RsaKey>>) {
        self.rsa = rsa;
    }

    /// The TPM's RSA key, where there is one.
    pub fn rsa(&self) -> Option<&RsaKey> {
        self.rsa.as_deref()
    }

    /// Who endorses keys of this host.
    pub fn endorser(&self) -> Endorser {
        Endorser { host_id: self.host.id.clone(), host_key: self.host_key.clone() }
    }

    /// What the keys are kept with.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// Encrypts the keys anew where the key-encryption key is another one, or is to be sealed to other PCRs.
    pub async fn bind(&mut self) -> Result<(), Error> {
        self.vault.rebind().await?;
        let Some(keks) = self.vault.is_due(Holder::IssuingKeys).await? else { return Ok(()) };
        let ring = self.ring.clone().try_map(|sealed| {
            let opened = sealed.open(&keks).ok_or_else(|| Error::Key("it does not open any more".into()))?;
            let key = IssuingKey::from_pkcs8(&opened, Timestamp::from_secs(sealed.created))?;
            Sealed::seal(&keks.latest, &key, &opened, sealed.endorsement.clone())
        })?;
        self.write(ring).await?;
        Ok(self.vault.is_done(Holder::IssuingKeys).await?)
    }

    /// Makes a recovery key, and a fresh key-encryption key with it.
    pub async fn make_recovery(&mut self) -> Result<Zeroizing<String>, Error> {
        self.bind().await?;
        // Others who have something under the key before are told at once, and need no longer than this.
        let _ = tokio::time::timeout(OTHERS, self.vault.is_settled()).await;
        let text = self.vault.make_recovery().await?;
        // The key is good from now on; what is encrypted under the one before follows, now or at the next turn.
        let _ = self.bind().await;
        Ok(text)
    }

    /// The key that signs.
    pub fn active(&self) -> &IssuingKey {
        &self.active
    }

    /// When the schedule has something to do next.
    pub fn wake(&self) -> Option<Timestamp> {
        self.ring.wake(&self.rotation)
    }

    /// Takes one step that is due, if one is. What failed changes nothing and is tried at the next turn.
    pub async fn turn(&mut self, tpm: &Tpm) -> Result<Vec<Change>, Error> {
        if self.unsure {
            self.write(self.ring.clone()).await?;
        }
        // What waits for the TPM must not hold up what does not.
        if let Err(error) = self.vault.settle().await {
            tracing::debug!(%error, "the TPM's counter waits");
        }
        match self.ring.due(&self.rotation, self.clock.now()) {
            None => self.bind().await.map(|()| Vec::new()),
            Some(Step::Destroy) => self.destroy().await,
            Some(Step::Activate) => self.activate().await,
            Some(Step::Publish) => self.publish(tpm).await,
        }
    }

    /// Publishes a key, which signs once relying parties have had their time to learn it.
    pub async fn publish(&mut self, tpm: &Tpm) -> Result<Vec<Change>, Error> {
        if self.next.is_some() {
            return Err(Unready::AlreadyPublished.into());
        }
        let (key, sealed) = self.make(tpm).await?;
        self.write(self.ring.clone().publish(sealed, self.clock.now())?).await?;
        self.next = Some(Arc::new(key));
        Ok(self.published().into_iter().collect())
    }

    /// Has the next key sign at once: the published one, or a fresh one where there is none.
    pub async fn replace(&mut self, tpm: &Tpm) -> Result<Vec<Change>, Error> {
        if self.next.is_some() {
            return self.activate().await;
        }
        self.ring.room()?;
        let (key, sealed) = self.make(tpm).await?;
        let (kid, now) = (key.kid().to_owned(), self.clock.now());
        // Both steps in one file: a crash does not leave a key published that was to sign.
        self.write(self.ring.clone().publish(sealed, now)?.activate(now)?).await?;
        let mut changes = vec![Change::Published { kid, active_from: self.ring.active().activated }];
        changes.extend(self.retire_for(Arc::new(key)));
        Ok(changes)
    }

    /// The published key and when it signs.
    pub fn published(&self) -> Option<Change> {
        self.ring.next().map(|next| Change::Published {
            kid: next.sealed.kid.clone(),
            active_from: self.rotation.activate(next.published),
        })
    }

    async fn activate(&mut self) -> Result<Vec<Change>, Error> {
        let Some(key) = self.next.clone() else { return Err(Unready::NothingPublished.into()) };
        self.write(self.ring.clone().activate(self.clock.now())?).await?;
        self.next = None;
        Ok(self.retire_for(key))
    }

    /// In memory, what the ring says already. The private half of the old key goes with its last user.
    fn retire_for(&mut self, key: Arc<IssuingKey>) -> Vec<Change> {
        let kid = key.kid().to_owned();
        let old = std::mem::replace(&mut self.active, key);
        self.retired.push(old.jwk().clone());
        let destroyed_from = Rotation::destroy(self.ring.active().activated);
        vec![Change::Activated { kid }, Change::Retired { kid: old.kid().to_owned(), destroyed_from }]
    }

    async fn destroy(&mut self) -> Result<Vec<Change>, Error> {
        self.write(self.ring.clone().destroy(self.clock.now())).await?;
        let kept = |jwk: &Jwk| self.ring.retired().iter().any(|old| old.sealed.kid == jwk.kid);
        let (kept, gone) = self.retired.drain(..).partition(kept);
        self.retired = kept;
        Ok(Vec::into_iter(gone).map(|jwk: Jwk| Change::Destroyed { kid: jwk.kid }).collect())
    }

    async fn make(&self, tpm: &Tpm) -> Result<(IssuingKey, Sealed), Error> {
        let kek = self.vault.kek().await?;
        make(tpm, &kek, &self.host.id, &self.host_key, self.clock.now()).await
    }

    /// Replaces the file, and the ring once the file is on the disk.
    async fn write(&mut self, ring: Ring) -> Result<(), Error> {
        // Also if this future is dropped on the way.
        self.unsure = true;
        keyring::write_ring(&self.vault, &ring).await?;
        self.ring = ring;
        self.unsure = false;
        Ok(())
    }
}

/// Makes a key that the host key endorses.
pub(super) async fn make(
    tpm: &Tpm,
    kek: &[u8; 32],
    host_id: &str,
    host_key: &Jwk,
    now: Timestamp,
) -> Result<(IssuingKey, Sealed), Error> {
    let pkcs8 = IssuingKey::generate()?;
    let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(now.secs()))?;
    let endorsement = endorsement::endorse(tpm, host_id, host_key, key.jwk(), now).await?;
    let sealed = Sealed::seal(kek, &key, &pkcs8, endorsement)?;
    Ok((key, sealed))
}
