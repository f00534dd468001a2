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
struct Stored {
    /// Seconds since the epoch.
    created: u64,
    key: tpm::RsaKey,
    /// JWS by the host key.
    endorsement: String,
}

/// Who endorses: the host key of a host.
#[derive(Clone, Debug)]
pub struct Endorser {
    pub host_id: String,
    pub host_key: Jwk,
}

/// A key that this host's TPM signs RS256 with.
pub struct RsaKey {
    key: Arc<tpm::RsaKey>,
    jwk: Jwk,
    created: Timestamp,
    endorsement: String,
}

impl RsaKey {
    fn new(stored: Stored) -> RsaKey {
        let (modulus, exponent) = stored.key.numbers();
        let jwk = Jwk::from_modulus(modulus, exponent);
        let created = Timestamp::from_secs(stored.created);
        RsaKey { jwk, created, key: Arc::new(stored.key), endorsement: stored.endorsement }
    }

    /// For [`Tpm::rsa_sign`].
    pub fn in_tpm(&self) -> &Arc<tpm::RsaKey> {
        &self.key
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

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaKey").field("kid", &self.jwk.kid).finish_non_exhaustive()
    }
}

fn file(state: &Path) -> PathBuf {
    state.join("rsa.json")
}

/// The key of an earlier start, once AK, host key and TPM have each said that it is this host's. None where there is none.
pub async fn load_rsa_key(tpm: &Tpm, state: &Path, by: &Endorser) -> Result<Option<RsaKey>, Error> {
    let file = file(state);
    let foreign = |what: String| Error::Rsa { path: file.clone(), what };
    let path = file.clone();
    let stored = tokio::task::spawn_blocking(move || store::read::<Stored>(&path, VERSION)).await;
    let stored = stored.map_err(|e| Error::Key(e.to_string()))?.map_err(|e| match e {
        store::Error::Torn { why, .. } => foreign(format!("torn or not ours ({why})")),
        other => Error::Store(other),
    })?;
    let Some(stored) = stored else { return Ok(None) };
    let key = RsaKey::new(stored);
    tpm.admit_rsa_key(key.key.clone()).await.map_err(|e| match e {
        tpm::Error::Objects(why) => {
            foreign(format!("is another host's or was changed: this TPM does not stand for it ({why})"))
        }
        other => Error::Tpm(other),
    })?;
    endorsement::check(&key.endorsement, &by.host_id, &by.host_key, &key.jwk)
        .map_err(|e| foreign(format!("is not endorsed by this host's key ({e})")))?;
    Ok(Some(key))
}

/// Makes the key. On disk before first use, like the host's other keys.
pub async fn make_rsa_key(tpm: &Tpm, state: &Path, by: &Endorser, clock: &Clock) -> Result<RsaKey, Error> {
    let key = tpm.make_rsa_key().await?;
    let (modulus, exponent) = key.numbers();
    let jwk = Jwk::from_modulus(modulus, exponent);
    let now = clock.now();
    let endorsement = endorsement::endorse(tpm, &by.host_id, &by.host_key, &jwk, now).await?;
    let stored = Stored { created: now.secs(), key, endorsement };
    let file = file(state);
    let written = tokio::task::spawn_blocking(move || store::write(&file, VERSION, &stored).map(|()| stored));
    Ok(RsaKey::new(written.await.map_err(|e| Error::Key(e.to_string()))??))
}
