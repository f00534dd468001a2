//! `rsa.json`: the RSA keys, which only this host's TPM loads, with their states.
//!
//! The file has nothing secret outside the TPM. The state manifest lists it, so that an older copy, in which a key
//! signs that is retired or destroyed, is not used. Both the keys and the manifest's entry are verified here and not
//! when the keystore is opened: a fault in this file affects RS256 alone.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::endorsement;
use super::error::Error;
use super::rsa::{HostKeyRef, public_key};
use super::rsa_schedule::{GeneratedRsaKey, RsaSchedule};
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::keystore::{ComponentFile, Keystore};
use crate::store;
use crate::tpm::{self, RsaKeyBlob, Tpm};
use crate::verify::Jwk;
use crate::verify::endorsement::verify_endorsement;

/// Format of `rsa.json`. Format 1, with a single key, is read as well, and replaced at the first change.
const VERSION: u64 = 2;

/// `rsa.json` in format 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RsaFileFormat1 {
    /// Seconds since the epoch.
    created: u64,
    key: RsaKeyBlob,
    /// A JWS by the host key.
    endorsement: String,
}

/// The content of `rsa.json`, which belongs to this host.
pub(super) struct VerifiedRsaFile {
    pub(super) schedule: RsaSchedule,
    /// The public halves of the retired keys, in the order of the schedule.
    pub(super) retired: Vec<Jwk>,
}

/// Reads `rsa.json`, and checks that this TPM has certified its keys and can load them, that the host key has endorsed
/// them, and that the file is the latest. No keys if it does not exist.
///
/// # Errors
/// [`Error::InvalidRsaKeyFile`] if a check fails; a TPM that is not available.
pub(super) async fn load(
    tpm: &Tpm,
    state_dir: &Path,
    keystore: &Keystore,
    host_key_ref: &HostKeyRef,
) -> Result<VerifiedRsaFile, Error> {
    let path = state_dir.join(ComponentFile::Rsa.name());
    let checks = FileChecks { path: &path, host_key_ref };
    let Some((schedule, digest, format)) = read(&path).await.map_err(|error| match error {
        Error::Store(store::Error::Corrupt { reason, .. }) => {
            checks.failed(format!("is corrupt or not ours ({reason})"))
        }
        other => other,
    })?
    else {
        keystore.accept_missing_file(ComponentFile::Rsa).await;
        return Ok(VerifiedRsaFile { schedule: RsaSchedule::default(), retired: Vec::new() });
    };
    checks.reject_duplicates(&schedule)?;
    if let Some(active) = schedule.active() {
        checks.verify_key(tpm, &active.kid, &active.key).await?;
        checks.verify_endorsement(&active.endorsement, &active.key)?;
    }
    if let Some(next) = schedule.next() {
        checks.verify_key(tpm, &next.kid, &next.key).await?;
        checks.verify_endorsement(&next.endorsement, &next.key)?;
    }
    if let Some(generated) = schedule.generated() {
        checks.verify_key(tpm, &generated.kid, &generated.key).await?;
    }
    let retired = schedule.retired().iter().map(|key| checks.retired_key(&key.kid, &key.endorsement));
    let retired = retired.collect::<Result<_, _>>()?;
    // Format 1 has one state only, so that there is no older copy of it, unless the manifest says otherwise.
    let verified = keystore.verify_file(ComponentFile::Rsa, &digest, format == 1).await;
    verified.map_err(|rollback| checks.failed(format!("is not the latest ({rollback})")))?;
    Ok(VerifiedRsaFile { schedule, retired })
}

/// Replaces `rsa.json`; it is on disk when this returns.
pub(super) async fn write(keystore: &Keystore, schedule: &RsaSchedule) -> Result<(), Error> {
    Ok(keystore.write_file(ComponentFile::Rsa.name(), VERSION, schedule).await?)
}

/// The schedule in the file, with the file's digest and format.
async fn read(path: &Path) -> Result<Option<(RsaSchedule, [u8; 32], u64)>, Error> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_blocking(&path));
    Ok(read.await??)
}

fn read_blocking(path: &Path) -> Result<Option<(RsaSchedule, [u8; 32], u64)>, store::Error> {
    let Some(raw) = store::read_raw(path)? else { return Ok(None) };
    let (schedule, format) = store::parse_versions(path, &raw, 1..=VERSION, |format, state| match format {
        1 => serde_json::from_value(state).map(|file| (from_format_1(file), format)),
        _ => serde_json::from_value(state).map(|schedule| (schedule, format)),
    })?;
    Ok(Some((schedule, sha256(&raw), format)))
}

fn from_format_1(file: RsaFileFormat1) -> RsaSchedule {
    let RsaFileFormat1 { created, key, endorsement } = file;
    let (kid, created) = (public_key(&key).kid, Timestamp::from_secs(created));
    RsaSchedule::from_format_1(GeneratedRsaKey { kid, created, key }, endorsement)
}

/// The checks of one file.
struct FileChecks<'a> {
    path: &'a PathBuf,
    host_key_ref: &'a HostKeyRef,
}

impl FileChecks<'_> {
    /// A key in two states would be retired and still sign.
    fn reject_duplicates(&self, schedule: &RsaSchedule) -> Result<(), Error> {
        let mut kids = std::collections::HashSet::new();
        match schedule.kids().all(|kid| kids.insert(kid)) {
            true => Ok(()),
            false => Err(self.failed("contains the same key twice".to_owned())),
        }
    }

    async fn verify_key(&self, tpm: &Tpm, kid: &str, key: &RsaKeyBlob) -> Result<(), Error> {
        if public_key(key).kid != kid {
            return Err(self.failed("names another key than it holds".to_owned()));
        }
        tpm.verify_rsa_key(std::sync::Arc::new(key.clone())).await.map_err(|error| match error {
            tpm::Error::InvalidObjects(reason) => self.failed(format!(
                "is another host's or was changed: this TPM's AK has not certified the key ({reason})"
            )),
            other => Error::Tpm(other),
        })
    }

    fn verify_endorsement(&self, endorsement: &str, key: &RsaKeyBlob) -> Result<(), Error> {
        let HostKeyRef { host_id, host_key } = self.host_key_ref;
        endorsement::verify(endorsement, host_id, host_key, &public_key(key))
            .map_err(|error| self.failed(format!("is not endorsed by this host's key ({error})")))
    }

    /// The public half of a retired key, which its endorsement has.
    fn retired_key(&self, kid: &str, endorsement: &str) -> Result<Jwk, Error> {
        let HostKeyRef { host_id, host_key } = self.host_key_ref;
        let jwk = verify_endorsement(endorsement, host_id, host_key)
            .map_err(|error| self.failed(format!("is not endorsed by this host's key ({error})")))?;
        match jwk.kid == kid {
            true => Ok(jwk),
            false => Err(self.failed("names another key than its endorsement".to_owned())),
        }
    }

    fn failed(&self, reason: String) -> Error {
        Error::InvalidRsaKeyFile { path: self.path.clone(), reason }
    }
}
