//! `seal.json`: the key-encryption key, sealed by the TPM and encrypted under the recovery key.
//!
//! While a key is being replaced the file has two: the new one encrypts, the previous one still decrypts. A
//! host that never had a recovery key or PCRs has no such file; its key is the one in `tpm.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::cipher;
use super::error::Error;
use super::kek::{Kek, KekPair};
use super::kek_report::{KekReport, KekUse};
use super::recovery_key::RecoveryKey;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::store;
use crate::tpm::{self, KeyBlob, PcrValues, Tpm};

pub(super) const FILE_NAME: &str = "seal.json";
pub(super) const VERSION: u64 = 1;

// The associated data names the purpose of each ciphertext, so that one cannot be substituted for another.
const KEK_AAD: &[u8] = b"hostbadge key-encryption key";
const WRAPPING_KEY_AAD: &[u8] = b"hostbadge recovery wrapping key";
const SUCCESSOR_AAD: &[u8] = b"hostbadge key-encryption key's successor";

/// `seal.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealFile {
    kek: SealedKek,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<SealedKek>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<RecoveryKeyRecord>,
}

/// A key-encryption key that the TPM unseals.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedKek {
    /// Seconds since the epoch; 0 for the key of `tpm.json`, which has no time.
    made: u64,
    /// TPM2B_PUBLIC and TPM2B_PRIVATE in base64.
    public: String,
    private: String,
    /// The PCR values of the SHA-256 bank that it is sealed to, in hexadecimal. `None` means no PCRs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pcrs: Option<BTreeMap<u8, String>>,
    /// While there is a previous key: the SHA-256 of this key, encrypted under the previous one. Without this
    /// proof an attacker who can use the TPM could seal a key of their own, and have the secrets encrypted
    /// again under it.
    #[serde(rename = "link", default, skip_serializing_if = "Option::is_none")]
    predecessor_proof: Option<String>,
}

/// The key-encryption keys under the recovery key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoveryKeyRecord {
    made: u64,
    /// The wrapping key, which is derived from the recovery key, encrypted under the latest key-encryption
    /// key. With it the next key-encryption key can be wrapped without the recovery key.
    wrapping: String,
    /// The key-encryption keys, encrypted under the wrapping key; the latest first, at most two.
    keks: Vec<String>,
}

/// How the key-encryption key is sealed, for `hostbadge status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealStatus {
    /// The PCRs that it is sealed to. Empty means none: this TPM unseals it whatever was booted.
    pub pcrs: Vec<u8>,
    /// The configured PCRs, if it is not sealed to them: it is sealed to them once there is a recovery key.
    pub pending_pcrs: Vec<u8>,
    /// When the recovery key was made; `None` if there is none.
    pub recovery: Option<Timestamp>,
}

impl SealFile {
    /// Reads the file. Without a file the key is `initial_kek`, from `tpm.json`.
    pub(super) fn read(dir: &Path, initial_kek: &KeyBlob) -> Result<SealFile, Error> {
        Ok(store::read(&seal_file_path(dir), VERSION)?.unwrap_or_else(|| SealFile {
            kek: SealedKek::from_blob(initial_kek, None, 0),
            previous: None,
            recovery: None,
        }))
    }

    /// Has the TPM unseal the key-encryption keys.
    ///
    /// # Errors
    /// [`Error::PcrsChanged`], a TPM that is not available, a file that was changed.
    pub(super) async fn unseal(&self, tpm: &Tpm) -> Result<KekPair, Error> {
        let latest = self.kek.unseal(tpm).await?;
        let Some(previous) = &self.previous else { return Ok(KekPair { latest, previous: None }) };
        let previous_kek = previous.unseal(tpm).await?;
        let proof = self.kek.predecessor_proof.as_ref();
        let proof = proof.and_then(|proof| cipher::decrypt(&previous_kek, SUCCESSOR_AAD, proof));
        if proof.is_none_or(|proof| proof.as_slice() != sha256(latest.as_slice())) {
            return Err(invalid_seal_file("has a key that this host did not make"));
        }
        Ok(KekPair { latest, previous: Some(previous_kek) })
    }

    /// Decrypts the key-encryption keys with the recovery key.
    ///
    /// # Errors
    /// [`Error::NoRecoveryKey`], [`Error::WrongRecoveryKey`]
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

    /// Replaces the recovery key.
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

    /// Makes a new key-encryption key, sealed to the current values of `pcrs`. The old one stays as the
    /// previous key.
    pub(super) async fn with_new_kek(
        mut self,
        tpm: &Tpm,
        old: &Kek,
        pcrs: &[u8],
        now: Timestamp,
    ) -> Result<(Self, Kek), Error> {
        let kek = tpm.mixed_random().await?;
        let mut sealed_kek = SealedKek::seal(tpm, &kek, pcrs, now).await?;
        sealed_kek.predecessor_proof = Some(cipher::encrypt(old, SUCCESSOR_AAD, &sha256(kek.as_slice()))?);
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

    /// Seals the same keys again: by another TPM, or to the current values of `pcrs`.
    pub(super) async fn resealed(
        mut self,
        tpm: &Tpm,
        keks: &KekPair,
        pcrs: &[u8],
        now: Timestamp,
    ) -> Result<Self, Error> {
        let predecessor_proof = self.kek.predecessor_proof.take();
        self.kek = SealedKek { predecessor_proof, ..SealedKek::seal(tpm, &keks.latest, pcrs, now).await? };
        self.previous = match &keks.previous {
            Some(kek) => Some(SealedKek::seal(tpm, kek, pcrs, now).await?),
            None => None,
        };
        Ok(self)
    }

    /// Drops the previous key.
    pub(super) fn without_previous(mut self) -> Self {
        self.previous = None;
        self.kek.predecessor_proof = None;
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

    /// The PCRs that the latest key is sealed to, in ascending order.
    pub(super) fn pcrs(&self) -> Vec<u8> {
        self.kek.pcrs.iter().flat_map(|pcrs| pcrs.keys().copied()).collect()
    }

    /// The keys: the latest, and the previous one while there is one. `unknown` is when the key of `tpm.json` was
    /// made, which has no time.
    pub(super) fn reports(&self, unknown: Option<Timestamp>) -> Vec<KekReport> {
        let report = |kek: &SealedKek, used_for| {
            let made = Some(Timestamp::from_secs(kek.made)).filter(|_| kek.made > 0);
            KekReport::new(kek.public.as_bytes(), used_for, made.or(unknown))
        };
        let previous = self.previous.iter().map(|kek| report(kek, KekUse::HostPrevious));
        std::iter::once(report(&self.kek, KekUse::Host)).chain(previous).collect()
    }

    /// How the keys are sealed, and whether to the configured PCRs. While there are two keys, this is about
    /// the previous one, which is the weaker protection.
    pub(super) fn status(&self, configured_pcrs: &[u8]) -> SealStatus {
        let weakest = self.previous.as_ref().unwrap_or(&self.kek);
        let pcrs: Vec<u8> = weakest.pcrs.iter().flat_map(|pcrs| pcrs.keys().copied()).collect();
        let pending_pcrs = if pcrs == configured_pcrs { Vec::new() } else { configured_pcrs.to_vec() };
        SealStatus {
            pcrs,
            pending_pcrs,
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
            predecessor_proof: None,
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
            return Err(self.corrupt("the sealed key is not 32 bytes long"));
        }
        kek.copy_from_slice(&secret);
        Ok(kek)
    }

    fn pcrs(&self) -> Result<Option<PcrValues>, Error> {
        let Some(pcrs) = &self.pcrs else { return Ok(None) };
        let value = |text: &String| HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok();
        let pcrs: Option<PcrValues> = pcrs.iter().map(|(n, text)| Some((*n, value(text)?))).collect();
        pcrs.map(Some).ok_or_else(|| self.corrupt("a PCR value is not 32 bytes in hexadecimal"))
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
