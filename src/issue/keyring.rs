//! Makes and keeps what the issuer stands on: the TPM's objects, and the issuing key sealed under them.
//!
//! Two files: `tpm.json` holds public and private areas that only this TPM can load; `issuing.json` holds the issuing
//! key, encrypted with AES-256-GCM under a key that only this TPM unseals, and the host key's endorsement of it.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::issuer::Host;
use super::{Error, IssuingKey, Standing, endorsement};
use crate::clock::{Clock, Timestamp};
use crate::store;
use crate::tpm::{Objects, Tpm};
use crate::verify::Jwk;

/// Format of both files.
const VERSION: u64 = 1;

/// `tpm.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Provisioned {
    objects: Objects,
}

/// `issuing.json`: the issuing key at rest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    kid: String,
    /// Seconds since the epoch.
    created: u64,
    /// Base64 of nonce and AES-256-GCM ciphertext of the PKCS#8 document; the `kid` is its associated data.
    key: String,
    /// JWS by the host key.
    endorsement: String,
}

fn objects_file(state: &Path) -> PathBuf {
    state.join("tpm.json")
}

fn key_file(state: &Path) -> PathBuf {
    state.join("issuing.json")
}

/// Reads the TPM's objects, for [`Tpm::open`].
pub fn stored_objects(state: &Path) -> Result<Option<Objects>, Error> {
    let objects = store::read::<Provisioned>(&objects_file(state), VERSION)?.map(|file| file.objects);
    if objects.is_none() && key_file(state).exists() {
        // A new identity beside an old key would orphan the key without a word.
        let what = "is missing though issuing.json is there".to_owned();
        return Err(Error::Foreign { path: objects_file(state), what });
    }
    Ok(objects)
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

/// Loads what is there and makes what is missing. The first time on a host this makes its identity.
pub async fn establish(tpm: &Tpm, state: &Path, naming: &Naming, clock: &Clock) -> Result<Standing, Error> {
    let mut facts = tpm.facts().await?;
    if facts.host_key.is_none() {
        let objects = tpm.provision().await?;
        // On disk before first use: an identity that was used and lost would be worse than none.
        store::write(&objects_file(state), VERSION, &Provisioned { objects })?;
        tracing::info!(
            event = "host-provisioned",
            "made the host key and the AK in the TPM: host {}",
            facts.host_id
        );
        facts = tpm.facts().await?;
    }
    let point = facts.host_key.ok_or_else(|| Error::Key("the TPM shows no host key".into()))?;
    let host_key = Jwk::from_point(&point);
    let kek = tpm.unseal_kek().await?;

    let path = key_file(state);
    let (key, endorsement) = match store::read::<Sealed>(&path, VERSION)? {
        Some(sealed) => {
            let foreign = |what: String| Error::Foreign { path: path.clone(), what };
            let pkcs8 = open(&kek, &sealed).ok_or_else(|| {
                foreign(
                    "does not open under this TPM's sealed key; it is another host's or was changed".into(),
                )
            })?;
            let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(sealed.created))?;
            if key.kid() != sealed.kid {
                return Err(foreign("names another key than it holds".into()));
            }
            endorsement::check(&sealed.endorsement, &facts.host_id, &host_key, key.jwk())?;
            (key, sealed.endorsement)
        }
        None => {
            let now = clock.now();
            let pkcs8 = IssuingKey::generate()?;
            let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(now.secs()))?;
            let endorsement = endorsement::endorse(tpm, &facts.host_id, &host_key, key.jwk(), now).await?;
            let sealed = seal(&kek, &key, &pkcs8, endorsement.clone())?;
            store::write(&path, VERSION, &sealed)?;
            tracing::info!(event = "key-created", "made issuing key {}, endorsed by the host key", key.kid());
            (key, endorsement)
        }
    };
    Standing::new(naming.host(&facts.host_id, facts.software), key, endorsement)
}

fn seal(kek: &[u8; 32], key: &IssuingKey, pkcs8: &[u8], endorsement: String) -> Result<Sealed, Error> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Random)?;
    // Grows by the tag; reserved now, so that no copy of the key is left behind by a reallocation.
    let mut text = Zeroizing::new(Vec::with_capacity(pkcs8.len() + AES_256_GCM.tag_len()));
    text.extend_from_slice(pkcs8);
    cipher(kek)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(key.kid().as_bytes()),
            &mut *text,
        )
        .map_err(|_| Error::Random)?;
    let mut bytes = nonce.to_vec();
    bytes.extend_from_slice(&text);
    Ok(Sealed {
        kid: key.kid().to_owned(),
        created: key.created().secs(),
        key: BASE64.encode(&bytes),
        endorsement,
    })
}

fn open(kek: &[u8; 32], sealed: &Sealed) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = BASE64.decode(sealed.key.as_bytes()).ok()?;
    let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>()?;
    let mut text = Zeroizing::new(text.to_vec());
    let aad = Aad::from(sealed.kid.as_bytes());
    let length =
        cipher(kek).ok()?.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

fn cipher(kek: &[u8; 32]) -> Result<LessSafeKey, Error> {
    UnboundKey::new(&AES_256_GCM, kek).map(LessSafeKey::new).map_err(|_| Error::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_opens_under_its_own_key_and_name_alone() {
        let pkcs8 = IssuingKey::generate().unwrap();
        let key = IssuingKey::from_pkcs8(&pkcs8, Timestamp::from_secs(1)).unwrap();
        let sealed = seal(&[7; 32], &key, &pkcs8, String::new()).unwrap();
        assert_eq!(*open(&[7; 32], &sealed).unwrap(), *pkcs8);
        assert!(open(&[8; 32], &sealed).is_none());
        assert!(open(&[7; 32], &Sealed { kid: "other".into(), ..sealed }).is_none());
    }
}
