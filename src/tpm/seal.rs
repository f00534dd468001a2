//! The key-encryption key, and the TPM's random numbers.

use ring::rand::SecureRandom;
use ring::rand::SystemRandom;
use tss_esapi::structures::SensitiveData;
use zeroize::Zeroizing;

use super::connection::Connection;
use super::connection::odd_answer;
use super::error::Error;
use super::error::tpm;
use super::keys;
use super::objects::KeyBlob;
use super::objects::Objects;
use super::templates;

/// The most random bytes one call may ask for; a TPM makes a few kilobytes a second.
pub(super) const MOST_RANDOM: usize = 1024;

/// Every TPM gives this many in one answer: the size of its largest digest is at least SHA-256's.
const RANDOM_AT_ONCE: usize = 32;

/// 32 random bytes, from the TPM and the kernel both, so that a weakness of one is not ours, sealed under the SRK.
pub(super) fn make_kek(connection: &mut Connection) -> Result<KeyBlob, Error> {
    let mut kek = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(kek.as_mut_slice())
        .map_err(|_| Error::Request("the kernel gives no random numbers".into()))?;
    let mine = Zeroizing::new(random(connection, kek.len())?);
    for (byte, other) in kek.iter_mut().zip(mine.iter()) {
        *byte ^= other;
    }
    let secret = SensitiveData::try_from(kek.as_slice()).map_err(tpm("TPM2_Create"))?;
    keys::create(connection, templates::sealed()?, Some(secret))
}

/// `TPM2_Unseal` of the key-encryption key. On the wire it is encrypted by the session.
pub(super) fn unseal_kek(
    connection: &mut Connection,
    objects: &Objects,
) -> Result<Zeroizing<[u8; 32]>, Error> {
    let secret = connection.with_loaded(&objects.kek, |connection, kek| {
        connection.run("TPM2_Unseal", |context| context.unseal(kek.into()))
    })?;
    let mut kek = Zeroizing::new([0; 32]);
    if secret.value().len() != kek.len() {
        return Err(Error::Objects("the sealed key-encryption key has not 32 bytes".into()));
    }
    kek.copy_from_slice(secret.value());
    Ok(kek)
}

/// `n` random bytes of the TPM, at most [`MOST_RANDOM`].
pub(super) fn random(connection: &mut Connection, n: usize) -> Result<Vec<u8>, Error> {
    if n > MOST_RANDOM {
        return Err(Error::Request(format!(
            "the TPM gives at most {MOST_RANDOM} random bytes at a time, not {n}"
        )));
    }
    let mut bytes = Vec::with_capacity(n);
    while bytes.len() < n {
        let want = RANDOM_AT_ONCE.min(n - bytes.len());
        let some = connection.run("TPM2_GetRandom", |context| context.get_random(want))?;
        // It may give fewer than asked, but one that gives none would keep us here for ever.
        match some.value() {
            [] => return Err(odd_answer("TPM2_GetRandom")),
            some => bytes.extend_from_slice(&some[..want.min(some.len())]),
        }
    }
    Ok(bytes)
}
