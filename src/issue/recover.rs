//! The way back by the recovery key: after this TPM's PCRs changed, and onto another TPM.

use std::fs;
use std::path::Path;

use super::keyring::{key_file, objects_file, read_ring, stored_objects, write_objects, write_ring_alone};
use super::sealed::Sealed;
use super::{Error, IssuingKey, Naming, endorsement};
use crate::clock::{Clock, Timestamp};
use crate::store;
use crate::tpm::{self, Objects, Tpm};
use crate::vault::{self, RecoveryKey, Rescue};
use crate::verify::Jwk;

/// Files that mean nothing with another TPM, and are kept aside for whoever wants to look at them.
const OLD: [&str; 7] =
    ["ledger.json", "rsa.json", "ca.json", "signing.json", "certificate.json", "baseline.json", "tpm.json"];

/// Whether the recovery key opens this state.
pub fn opens(state: &Path, way: (&RecoveryKey, bool)) -> Result<(), Error> {
    Rescue::open(state, &stored(state)?.kek, way).map(drop).map_err(Error::from)
}

/// Opens the state with the recovery key and seals it to what this TPM is and has measured now.
///
/// The `way` is the key, and whether the state is to be taken even if it is not the latest. `tpm` has been opened with
/// the stored objects if they are this TPM's, and else with none: then it is given new ones, every issuing key gets the new
/// host key's word, and the host has another id.
pub async fn recover(
    tpm: &Tpm,
    state: &Path,
    naming: &Naming,
    pcrs: &[u8],
    way: (&RecoveryKey, bool),
    clock: &Clock,
) -> Result<(), Error> {
    let stored = stored(state)?;
    match tpm.facts().await?.host_key {
        Some(_) => Ok(vault::reseal(tpm, state, &stored.kek, pcrs, way, clock).await?),
        None => elsewhere(tpm, state, naming, pcrs, Rescue::open(state, &stored.kek, way)?, clock).await,
    }
}

fn stored(state: &Path) -> Result<Objects, Error> {
    stored_objects(state)?.ok_or_else(|| Error::Key("there is nothing to recover".into()))
}

/// Each step leaves a state that the same recovery key opens again, until the last makes it this TPM's own.
async fn elsewhere(
    tpm: &Tpm,
    state: &Path,
    naming: &Naming,
    pcrs: &[u8],
    mut rescue: Rescue,
    clock: &Clock,
) -> Result<(), Error> {
    let file = key_file(state);
    let ring = read_ring(&file)?.ok_or_else(|| Error::Key("issuing.json is missing".into()))?;
    let objects = tpm.provision().await?;
    let facts = tpm.facts().await?;
    let host = naming.host(&facts.host_id, facts.software);
    let point = facts.host_key.ok_or(tpm::Error::NotProvisioned)?;
    let host_key = Jwk::from_point(&point);

    let mut endorsed = Vec::new();
    for sealed in ring.sealed() {
        let pkcs8 = sealed.open(rescue.keks()).ok_or_else(|| {
            let what = "does not open under this recovery key".to_owned();
            Error::Foreign { path: file.clone(), what }
        })?;
        let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(sealed.created))?;
        if key.kid() != sealed.kid {
            let what = "names another key than it holds".to_owned();
            return Err(Error::Foreign { path: file, what });
        }
        let word = endorsement::endorse(tpm, &host.id, &host_key, key.jwk(), clock.now()).await?;
        endorsed.push(sealed.endorsed_anew(word));
    }
    let again = |sealed: &Sealed| {
        let found = endorsed.iter().find(|new| new.kid == sealed.kid).cloned();
        found.ok_or_else(|| Error::Key("a key has no endorsement".into()))
    };
    let ring = ring.try_map(again)?;

    // First the ledger, which would refuse what comes now.
    for name in OLD.iter().map(|name| state.join(name)).filter(|path| path.exists()) {
        let mut aside = name.clone().into_os_string();
        aside.push(".replaced");
        let io = |source| store::Error::Io { path: name.clone(), source };
        // The last of them is what says whose state this is, and is replaced rather than missing for a moment.
        match name == objects_file(state) {
            true => fs::copy(&name, &aside).map(drop),
            false => fs::rename(&name, &aside),
        }
        .map_err(io)?;
    }
    rescue.reseal(tpm, pcrs, clock).await?;
    write_ring_alone(&file, &ring)?;
    write_objects(state, &objects)?;
    Ok(rescue.finish(tpm).await?)
}
