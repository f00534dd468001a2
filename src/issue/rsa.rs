//! The RSA key of the host: made in the TPM when a grant first asks for RS256, and kept in `rsa.json`.
//!
//! It stays when no grant asks any more: relying parties may hold it, and another would cost them an upload. Nothing of
//! it is secret outside the TPM. What is wrong with its file keeps nobody from ES256.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Error, endorsement};
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
    /// JWS by the host key.
    endorsement: String,
}

/// Who endorses: the host key of a host.
#[derive(Clone, Debug)]
pub struct HostKeyRef {
    pub host_id: String,
    pub host_key: Jwk,
}

/// A key that this host's TPM signs RS256 with.
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

    /// For [`Tpm::rsa_sign`].
    pub fn tpm_key(&self) -> &Arc<tpm::RsaKeyBlob> {
        &self.tpm_key
    }

    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    pub fn kid(&self) -> &str {
        &self.jwk.kid
    }

    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// The host key's word for it, a JWS.
    pub fn endorsement(&self) -> &str {
        &self.endorsement
    }
}

impl fmt::Debug for RsaSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaKey").field("kid", &self.jwk.kid).finish_non_exhaustive()
    }
}

fn rsa_key_path(state_dir: &Path) -> PathBuf {
    state_dir.join("rsa.json")
}

/// The key of an earlier start, once AK, host key and TPM have each said that it is this host's. None where there is none.
pub async fn load_rsa_key(
    tpm: &Tpm,
    state_dir: &Path,
    host_key_ref: &HostKeyRef,
) -> Result<Option<RsaSigningKey>, Error> {
    let file = rsa_key_path(state_dir);
    let invalid_file = |reason: String| Error::InvalidRsaKeyFile { path: file.clone(), reason };
    let path = file.clone();
    let stored = tokio::task::spawn_blocking(move || store::read::<RsaKeyFile>(&path, VERSION)).await;
    let stored = stored.map_err(|e| Error::Key(e.to_string()))?.map_err(|e| match e {
        store::Error::Corrupt { reason: why, .. } => invalid_file(format!("torn or not ours ({why})")),
        other => Error::Store(other),
    })?;
    let Some(stored) = stored else { return Ok(None) };
    let key = RsaSigningKey::from_file(stored);
    tpm.verify_rsa_key(key.tpm_key.clone()).await.map_err(|e| match e {
        tpm::Error::InvalidObjects(why) => {
            invalid_file(format!("is another host's or was changed: this TPM does not stand for it ({why})"))
        }
        other => Error::Tpm(other),
    })?;
    endorsement::verify(&key.endorsement, &host_key_ref.host_id, &host_key_ref.host_key, &key.jwk)
        .map_err(|e| invalid_file(format!("is not endorsed by this host's key ({e})")))?;
    Ok(Some(key))
}

/// Makes the key. On disk before first use, like the host's other keys.
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
    Ok(RsaSigningKey::from_file(result.await.map_err(|e| Error::Key(e.to_string()))??))
}
