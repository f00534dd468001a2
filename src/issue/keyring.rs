//! Makes and keeps what the issuer stands on: the TPM's objects, and the issuing keys sealed under them.
//!
//! Two files: `tpm.json` holds public and private areas that only this TPM can load; `issuing.json` holds the issuing
//! keys, encrypted under a key that only this TPM unseals, with their states and the host key's endorsements.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::issuer::Host;
use super::keys::{self, Change, Keys};
use super::ring::Ring;
use super::rotation::Rotation;
use super::sealed::Sealed;
use super::{Error, IssuingKey, endorsement};
use crate::clock::{Clock, Timestamp};
use crate::store;
use crate::tpm::{self, Objects, Tpm};
use crate::vault::{Keks, Vault};
use crate::verify::Jwk;

/// Format of `tpm.json`.
const OBJECTS_VERSION: u64 = 1;
/// Format of `issuing.json`. Format 1, with a single key, is read as well.
const RING_VERSION: u64 = 2;

/// `tpm.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Provisioned {
    objects: Objects,
}

pub(super) fn objects_file(state: &Path) -> PathBuf {
    state.join("tpm.json")
}

pub(super) fn key_file(state: &Path) -> PathBuf {
    state.join(KEY_FILE)
}

const KEY_FILE: &str = "issuing.json";

/// Reads the TPM's objects, for [`Tpm::open`].
pub fn stored_objects(state: &Path) -> Result<Option<Objects>, Error> {
    let objects = store::read::<Provisioned>(&objects_file(state), OBJECTS_VERSION)?.map(|file| file.objects);
    if objects.is_none() && key_file(state).exists() {
        // A new identity beside an old key would orphan the key without a word.
        let what = "is missing though issuing.json is there".to_owned();
        return Err(Error::Foreign { path: objects_file(state), what });
    }
    Ok(objects)
}

/// Writes the TPM's objects.
pub(super) fn write_objects(state: &Path, objects: &Objects) -> Result<(), store::Error> {
    store::write(&objects_file(state), OBJECTS_VERSION, &Provisioned { objects: objects.clone() })
}

/// How the host is to be called, as far as configuration says.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    pub trust_domain: Option<String>,
    pub issuer: Option<String>,
}

impl Naming {
    /// The host's names, once its id is known.
    pub fn host(&self, id: &str, software: bool) -> Host {
        let trust_domain = self.trust_domain.clone().unwrap_or_else(|| format!("{id}.internal"));
        let issuer = self.issuer.clone().unwrap_or_else(|| format!("https://{trust_domain}"));
        Host { id: id.to_owned(), trust_domain, issuer, software }
    }
}

/// The keys, and what happened to them on the way.
pub struct Established {
    pub keys: Keys,
    pub changes: Vec<Change>,
}

/// Loads what is there and makes what is missing. The first time on a host this makes its identity.
pub async fn establish(
    tpm: &Tpm,
    state: &Path,
    naming: &Naming,
    rotation: Rotation,
    pcrs: &[u8],
    clock: &Clock,
) -> Result<Established, Error> {
    let mut facts = tpm.facts().await?;
    let fresh = facts.host_key.is_none();
    if fresh {
        let objects = tpm.provision().await?;
        // On disk before first use: an identity that was used and lost would be worse than none.
        write_objects(state, &objects)?;
        tracing::info!(
            event = "host-provisioned",
            "made the host key and the AK in the TPM: host {}",
            facts.host_id
        );
        facts = tpm.facts().await?;
    }
    // A part of the file that is another TPM's shows now, and not at the next rotation.
    tpm.check_certification().await?;
    let point = facts.host_key.ok_or_else(|| Error::Key("the TPM shows no host key".into()))?;
    let host_key = Jwk::from_point(&point);
    let host = naming.host(&facts.host_id, facts.software);
    let first = stored_objects(state)?.ok_or(tpm::Error::NotProvisioned)?.kek;
    let file = key_file(state);
    let ring = read_ring(&file)?;
    let (vault, keks) = Vault::open(tpm, state, &first, pcrs, fresh, clock).await?;

    let mut changes = Vec::new();
    let ring = match ring {
        Some(ring) => ring,
        None => {
            let (key, sealed) = keys::make(tpm, &keks.latest, &host.id, &host_key, clock.now()).await?;
            let ring = Ring::first(sealed, clock.now());
            write_ring(&vault, &ring).await?;
            tracing::info!(event = "key-created", "made issuing key {}, endorsed by the host key", key.kid());
            changes.push(Change::Activated { kid: key.kid().to_owned() });
            ring
        }
    };
    let open = Opening { file: &file, keks: &keks, host_id: &host.id, host_key: &host_key };
    open.no_key_twice(&ring)?;
    let active = open.private(&ring.active().sealed)?;
    let next = ring.next().map(|next| open.private(&next.sealed)).transpose()?;
    let retired = ring.retired().iter().map(|old| open.public(&old.sealed)).collect::<Result<_, _>>()?;
    let clock = clock.clone();
    let vault = Arc::new(vault);
    let (rsa, unsure) = (None, false);
    let mut keys = Keys { vault, host, host_key, rotation, clock, ring, active, next, retired, rsa, unsure };
    // The keys are open all the same; the rotator tries again, and says what is in the way.
    let _ = keys.bind().await;
    Ok(Established { keys, changes })
}

pub(super) fn read_ring(file: &Path) -> Result<Option<Ring>, store::Error> {
    store::read_any(file, 1..=RING_VERSION, |format, state| match format {
        1 => serde_json::from_value::<Sealed>(state).map(Ring::of_format_1),
        _ => serde_json::from_value(state),
    })
}

/// Replaces `issuing.json`: on disk when this returns.
pub(super) async fn write_ring(vault: &Vault, ring: &Ring) -> Result<(), Error> {
    Ok(vault.write(KEY_FILE, RING_VERSION, ring).await?)
}

/// The same where there is no vault yet.
pub(super) fn write_ring_alone(file: &Path, ring: &Ring) -> Result<(), store::Error> {
    store::write(file, RING_VERSION, ring)
}

/// What it takes to believe a key on disk.
struct Opening<'a> {
    file: &'a Path,
    keks: &'a Keks,
    host_id: &'a str,
    host_key: &'a Jwk,
}

impl Opening<'_> {
    fn foreign(&self, what: &str) -> Error {
        Error::Foreign { path: self.file.to_owned(), what: what.to_owned() }
    }

    /// A key in two states would be retired and sign all the same.
    fn no_key_twice(&self, ring: &Ring) -> Result<(), Error> {
        let mut seen = HashSet::new();
        match ring.sealed().all(|sealed| seen.insert(&sealed.kid)) {
            true => Ok(()),
            false => Err(self.foreign("holds one key twice")),
        }
    }

    /// A key that signs, now or later.
    fn private(&self, sealed: &Sealed) -> Result<Arc<IssuingKey>, Error> {
        let pkcs8 = sealed.open(self.keks).ok_or_else(|| {
            self.foreign("does not open under this TPM's sealed key; it is another host's or was changed")
        })?;
        let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(sealed.created))?;
        if key.kid() != sealed.kid {
            return Err(self.foreign("names another key than it holds"));
        }
        endorsement::check(&sealed.endorsement, self.host_id, self.host_key, key.jwk())?;
        Ok(Arc::new(key))
    }

    /// A key that only verifies. Its secret stays closed: the endorsement says what its public half is.
    fn public(&self, sealed: &Sealed) -> Result<Jwk, Error> {
        let jwk = endorsement::endorsed(&sealed.endorsement, self.host_id, self.host_key)?;
        match jwk.kid == sealed.kid {
            true => Ok(jwk),
            false => Err(self.foreign("names another key than its endorsement")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_1_is_read_as_a_key_that_signs_since_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_file(dir.path());
        store::write(&file, 1, &Sealed::named("a", 1_700_000_000)).unwrap();
        let ring = read_ring(&file).unwrap().unwrap();
        assert_eq!(ring.active().sealed, Sealed::named("a", 1_700_000_000));
        assert_eq!(ring.active().activated, Timestamp::from_secs(1_700_000_000));
        assert!(ring.next().is_none() && ring.retired().is_empty() && ring.destroyed().is_empty());

        write_ring_alone(&file, &ring).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().contains("\"version\": 2"));
        assert_eq!(read_ring(&file).unwrap().unwrap(), ring);
    }

    #[test]
    fn a_later_format_and_one_that_is_torn_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_file(dir.path());
        store::write(&file, 3, &Sealed::named("a", 1)).unwrap();
        assert!(read_ring(&file).unwrap_err().to_string().contains("written in format 3"));
        store::write(&file, 2, &Sealed::named("a", 1)).unwrap();
        assert!(read_ring(&file).unwrap_err().to_string().contains("torn"));
    }
}
