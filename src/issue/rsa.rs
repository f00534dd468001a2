//! The RSA key of the host, for RS256. The TPM makes it when a grant first needs RS256; `rsa.json` stores it.
//!
//! The key stays when no grant needs RS256 any more, because relying parties may hold its public key. The
//! file has nothing secret outside the TPM. A fault in it affects RS256 alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::endorsement;
use super::error::Error;
use crate::clock::{Clock, Timestamp};
use crate::store;
use crate::tpm::{self, Tpm};
use crate::verify::Jwk;

/// Format of `rsa.json`.
const VERSION: u64 = 1;

/// `rsa.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RsaKeyFile {
    /// Seconds since the epoch.
    created: u64,
    key: tpm::RsaKeyBlob,
    /// A JWS by the host key.
    endorsement: String,
}

/// The host key of a host, which endorses its other keys.
#[derive(Clone, Debug)]
pub struct HostKeyRef {
    /// The host's id.
    pub host_id: String,
    /// The public key.
    pub host_key: Jwk,
}

/// An RSA key with which this host's TPM signs RS256.
pub struct RsaSigningKey {
    tpm_key: Arc<tpm::RsaKeyBlob>,
    jwk: Jwk,
    created: Timestamp,
    endorsement: String,
}

impl RsaSigningKey {
    fn from_file(file: RsaKeyFile) -> RsaSigningKey {
        let (modulus, exponent) = file.key.modulus_and_exponent();
        let jwk = Jwk::from_rsa(modulus, exponent);
        let created = Timestamp::from_secs(file.created);
        RsaSigningKey { jwk, created, tpm_key: Arc::new(file.key), endorsement: file.endorsement }
    }

    /// The key's areas, for [`Tpm::rsa_sign`].
    pub fn tpm_key(&self) -> &Arc<tpm::RsaKeyBlob> {
        &self.tpm_key
    }

    /// The public key.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// The RFC 7638 thumbprint of the public key.
    pub fn kid(&self) -> &str {
        &self.jwk.kid
    }

    /// When the TPM made the key.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// The host key's endorsement, a JWS.
    pub fn endorsement(&self) -> &str {
        &self.endorsement
    }
}

impl fmt::Debug for RsaSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaSigningKey").field("kid", &self.jwk.kid).finish_non_exhaustive()
    }
}

/// Reads the RSA key, and checks the AK's certification, the host key's endorsement, and that the TPM can
/// load it. `None` if `rsa.json` does not exist.
///
/// # Errors
/// [`Error::InvalidRsaKeyFile`] if a check fails; a TPM that is not available.
pub async fn load_rsa_key(
    tpm: &Tpm,
    state_dir: &Path,
    host_key_ref: &HostKeyRef,
) -> Result<Option<RsaSigningKey>, Error> {
    let file = rsa_key_path(state_dir);
    let invalid_file = |reason: String| Error::InvalidRsaKeyFile { path: file.clone(), reason };
    let path = file.clone();
    let stored = tokio::task::spawn_blocking(move || store::read::<RsaKeyFile>(&path, VERSION)).await?;
    let stored = stored.map_err(|error| match error {
        store::Error::Corrupt { reason, .. } => invalid_file(format!("is corrupt or not ours ({reason})")),
        other => Error::Store(other),
    })?;
    let Some(stored) = stored else { return Ok(None) };
    let key = RsaSigningKey::from_file(stored);
    tpm.verify_rsa_key(key.tpm_key.clone()).await.map_err(|error| match error {
        tpm::Error::InvalidObjects(reason) => invalid_file(format!(
            "is another host's or was changed: this TPM's AK has not certified the key ({reason})"
        )),
        other => Error::Tpm(other),
    })?;
    endorsement::verify(&key.endorsement, &host_key_ref.host_id, &host_key_ref.host_key, &key.jwk)
        .map_err(|error| invalid_file(format!("is not endorsed by this host's key ({error})")))?;
    Ok(Some(key))
}

/// Has the TPM make the key, which takes up to a minute, and the host key endorse it. It is on disk when this
/// returns.
pub async fn create_rsa_key(
    tpm: &Tpm,
    state_dir: &Path,
    host_key_ref: &HostKeyRef,
    clock: &Clock,
) -> Result<RsaSigningKey, Error> {
    let key = tpm.create_rsa_key().await?;
    let (modulus, exponent) = key.modulus_and_exponent();
    let jwk = Jwk::from_rsa(modulus, exponent);
    let now = clock.now();
    let endorsement =
        endorsement::endorse(tpm, &host_key_ref.host_id, &host_key_ref.host_key, &jwk, now).await?;
    let stored = RsaKeyFile { created: now.as_secs(), key, endorsement };
    let file = rsa_key_path(state_dir);
    let result = tokio::task::spawn_blocking(move || store::write(&file, VERSION, &stored).map(|()| stored));
    Ok(RsaSigningKey::from_file(result.await??))
}

fn rsa_key_path(state_dir: &Path) -> PathBuf {
    state_dir.join("rsa.json")
}
