//! `seal.json`: the key-encryption key as the TPM seals it and as the recovery key opens it.
//!
//! While a key is being replaced there are two: the new one encrypts, the old one still opens. Hosts without a recovery
//! key and without PCRs may have no such file; their key is the one in `tpm.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::cipher;
use super::error::Error;
use super::kek::{Kek, KekPair};
use super::recovery_key::RecoveryKey;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::store;
use crate::tpm::{self, KeyBlob, PcrValues, Tpm};

pub(super) const FILE_NAME: &str = "seal.json";
pub(super) const VERSION: u64 = 1;

/// What a wrapped key is, so that one cannot stand in for the other.
const KEK_AAD: &[u8] = b"hostbadge key-encryption key";
const WRAPPING_KEY_AAD: &[u8] = b"hostbadge recovery wrapping key";
const SUCCESSOR_AAD: &[u8] = b"hostbadge key-encryption key's successor";

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealFile {
    kek: SealedKek,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<SealedKek>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<RecoveryKeyRecord>,
}

/// A key-encryption key that the TPM opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedKek {
    /// Seconds since the epoch; 0 where it was not written down.
    made: u64,
    /// TPM2B_PUBLIC and TPM2B_PRIVATE in base64.
    public: String,
    private: String,
    /// The SHA-256 bank's values that it is sealed to, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pcrs: Option<BTreeMap<u8, String>>,
    /// The key before's word for this one: its digest, encrypted under that key. Whoever can use the TPM can seal a key of
    /// their own, and would have everything encrypted anew under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

/// What the recovery key opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoveryKeyRecord {
    made: u64,
    /// The wrapping key, encrypted under the key-encryption key: the next one can be wrapped without the paper.
    wrapping: String,
    /// The key-encryption keys, encrypted under the wrapping key; the latest first, at most two.
    keks: Vec<String>,
}

/// How the key-encryption key is guarded: for status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SealStatus {
    /// PCRs that it is sealed to; none means that this TPM opens it whatever was booted.
    pub pcrs: Vec<u8>,
    /// PCRs that it is to be sealed to, once there is a recovery key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<u8>,
    /// When the recovery key was made.
    pub recovery: Option<Timestamp>,
}

impl SealFile {
    /// Reads the file; a host that has none has the key of `tpm.json`.
    pub(super) fn read(dir: &Path, initial_kek: &KeyBlob) -> Result<SealFile, Error> {
        Ok(store::read(&seal_file_path(dir), VERSION)?.unwrap_or_else(|| SealFile {
            kek: SealedKek::from_blob(initial_kek, None, 0),
            previous: None,
            recovery: None,
        }))
    }

    /// The key-encryption keys that are in use, by the TPM.
    pub(super) async fn unseal(&self, tpm: &Tpm) -> Result<KekPair, Error> {
        let latest = self.kek.unseal(tpm).await?;
        let Some(previous) = &self.previous else { return Ok(KekPair { latest, previous: None }) };
        let previous_kek = previous.unseal(tpm).await?;
        let link =
            self.kek.link.as_ref().and_then(|link| cipher::decrypt(&previous_kek, SUCCESSOR_AAD, link));
        if link.is_none_or(|link| link.as_slice() != sha256(latest.as_slice())) {
            return Err(invalid_seal_file("has a key that this host did not make"));
        }
        Ok(KekPair { latest, previous: Some(previous_kek) })
    }

    /// The same by the recovery key.
    pub(super) fn recover(&self, key: &RecoveryKey) -> Result<KekPair, Error> {
        let Some(recovery) = &self.recovery else {
            return Err(Error::NoRecoveryKey);
        };
        let wrapping_key = key.wrapping_key()?;
        let mut opened =
            recovery.keks.iter().map_while(|kek| cipher::decrypt_key(&wrapping_key, KEK_AAD, kek));
        let (latest, previous) = (opened.next(), opened.next());
        match latest {
            Some(latest) if recovery.keks.len() == 1 + usize::from(previous.is_some()) => {
                Ok(KekPair { latest, previous })
            }
            _ => Err(Error::WrongRecoveryKey),
        }
    }

    /// With a fresh recovery key in place of the one before.
    pub(super) fn with_recovery_key(
        mut self,
        keks: &KekPair,
        key: &RecoveryKey,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let wrapping_key = key.wrapping_key()?;
        self.recovery = Some(RecoveryKeyRecord {
            made: now.as_secs(),
            wrapping: cipher::encrypt(&keks.latest, WRAPPING_KEY_AAD, wrapping_key.as_slice())?,
            keks: wrap_keks(&wrapping_key, keks)?,
        });
        Ok(self)
    }

    /// With a fresh key-encryption key, sealed to what `pcrs` are now; the one before stays until it is forgotten.
    pub(super) async fn with_new_kek(
        mut self,
        tpm: &Tpm,
        old: &Kek,
        pcrs: &[u8],
        now: Timestamp,
    ) -> Result<(Self, Kek), Error> {
        let mut kek = cipher::random_key()?;
        // The TPM's own random numbers too, so that a weakness of one source is not ours.
        let tpm_random = Zeroizing::new(tpm.random(kek.len()).await?);
        kek.iter_mut().zip(tpm_random.iter()).for_each(|(byte, other)| *byte ^= other);
        let mut sealed_kek = SealedKek::seal(tpm, &kek, pcrs, now).await?;
        sealed_kek.link = Some(cipher::encrypt(old, SUCCESSOR_AAD, &sha256(kek.as_slice()))?);
        if let Some(recovery) = &mut self.recovery {
            let wrapping_key = cipher::decrypt_key(old, WRAPPING_KEY_AAD, &recovery.wrapping)
                .ok_or_else(|| invalid_seal_file("has a recovery key that was changed"))?;
            recovery.wrapping = cipher::encrypt(&kek, WRAPPING_KEY_AAD, wrapping_key.as_slice())?;
            let keks = KekPair { latest: kek.clone(), previous: Some(old.clone()) };
            recovery.keks = wrap_keks(&wrapping_key, &keks)?;
        }
        self.previous = Some(std::mem::replace(&mut self.kek, sealed_kek));
        Ok((self, kek))
    }

    /// The same keys, sealed anew: by another TPM, or to other values.
    pub(super) async fn resealed(
        mut self,
        tpm: &Tpm,
        keks: &KekPair,
        pcrs: &[u8],
        now: Timestamp,
    ) -> Result<Self, Error> {
        let link = self.kek.link.take();
        self.kek = SealedKek { link, ..SealedKek::seal(tpm, &keks.latest, pcrs, now).await? };
        self.previous = match &keks.previous {
            Some(kek) => Some(SealedKek::seal(tpm, kek, pcrs, now).await?),
            None => None,
        };
        Ok(self)
    }

    /// Without the key before.
    pub(super) fn without_previous(mut self) -> Self {
        self.previous = None;
        self.kek.link = None;
        if let Some(recovery) = &mut self.recovery {
            recovery.keks.truncate(1);
        }
        self
    }

    pub(super) fn has_previous(&self) -> bool {
        self.previous.is_some()
    }

    pub(super) fn has_recovery_key(&self) -> bool {
        self.recovery.is_some()
    }

    /// The PCRs that the latest key is sealed to, in their order.
    pub(super) fn pcrs(&self) -> Vec<u8> {
        self.kek.pcrs.iter().flat_map(|pcrs| pcrs.keys().copied()).collect()
    }

    /// How the keys are guarded, where they are to be sealed to `wanted`: while there are two, as the one before is.
    pub(super) fn status(&self, configured_pcrs: &[u8]) -> SealStatus {
        let weakest = self.previous.as_ref().unwrap_or(&self.kek);
        let pcrs: Vec<u8> = weakest.pcrs.iter().flat_map(|pcrs| pcrs.keys().copied()).collect();
        let pending_pcrs = if pcrs == configured_pcrs { Vec::new() } else { configured_pcrs.to_vec() };
        SealStatus {
            pcrs,
            waiting: pending_pcrs,
            recovery: self.recovery.as_ref().map(|r| Timestamp::from_secs(r.made)),
        }
    }
}

impl SealedKek {
    fn from_blob(blob: &KeyBlob, pcrs: Option<&PcrValues>, made: u64) -> SealedKek {
        SealedKek {
            made,
            public: BASE64.encode(&blob.public),
            private: BASE64.encode(&blob.private),
            pcrs: pcrs.map(|pcrs| pcrs.iter().map(|(n, value)| (*n, HEXLOWER.encode(value))).collect()),
            link: None,
        }
    }

    async fn seal(tpm: &Tpm, kek: &Kek, pcrs: &[u8], now: Timestamp) -> Result<SealedKek, Error> {
        let pcrs = (!pcrs.is_empty()).then(|| pcrs.to_vec());
        let (blob, values) = tpm.seal(Zeroizing::new(kek.to_vec()), pcrs).await?;
        Ok(SealedKek::from_blob(&blob, values.as_ref(), now.as_secs()))
    }

    async fn unseal(&self, tpm: &Tpm) -> Result<Kek, Error> {
        let pcrs = self.pcrs()?;
        let blob = KeyBlob {
            public: self.decode_base64(&self.public)?,
            private: self.decode_base64(&self.private)?,
        };
        let secret = tpm.unseal(blob, pcrs.clone()).await.map_err(|error| match (error, pcrs) {
            (tpm::Error::PcrsChanged(changed), Some(sealed_to)) => {
                Error::PcrsChanged { pcrs: changed, sealed_to }
            }
            (error, _) => error.into(),
        })?;
        let mut kek = Zeroizing::new([0; 32]);
        if secret.len() != kek.len() {
            return Err(self.corrupt("the sealed key has not 32 bytes"));
        }
        kek.copy_from_slice(&secret);
        Ok(kek)
    }

    fn pcrs(&self) -> Result<Option<PcrValues>, Error> {
        let Some(pcrs) = &self.pcrs else { return Ok(None) };
        let value = |text: &String| HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok();
        let pcrs: Option<PcrValues> = pcrs.iter().map(|(n, text)| Some((*n, value(text)?))).collect();
        pcrs.map(Some).ok_or_else(|| self.corrupt("a PCR's value is not 32 bytes in hexadecimal"))
    }

    fn decode_base64(&self, text: &str) -> Result<Vec<u8>, Error> {
        BASE64.decode(text.as_bytes()).map_err(|_| self.corrupt("a sealed key is not base64"))
    }

    fn corrupt(&self, reason: &str) -> Error {
        store::Error::Corrupt { path: FILE_NAME.into(), reason: reason.to_owned() }.into()
    }
}

fn wrap_keks(wrapping_key: &[u8; 32], keks: &KekPair) -> Result<Vec<String>, Error> {
    keks.iter().map(|kek| cipher::encrypt(wrapping_key, KEK_AAD, kek.as_slice())).collect()
}

fn invalid_seal_file(reason: &str) -> Error {
    Error::InvalidFile { path: FILE_NAME.into(), reason: reason.to_owned() }
}

fn seal_file_path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}
