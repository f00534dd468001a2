//! Secrets sealed under the SRK, with and without a PCR policy, and the TPM's random numbers.

use std::collections::BTreeMap;

use ring::digest::SHA256;
use ring::digest::digest;
use ring::rand::SecureRandom;
use ring::rand::SystemRandom;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::SessionHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::Digest;
use tss_esapi::structures::SensitiveData;
use tss_esapi::structures::SymmetricDefinition;
use zeroize::Zeroizing;

use super::connection::TpmConnection;
use super::connection::unexpected_response;
use super::error::Error;
use super::error::command_failed;
use super::error::is_pcr_changed;
use super::error::is_policy_failure;
use super::keys;
use super::objects::KeyBlob;
use super::objects::TpmObjects;
use super::quote;
use super::templates;

/// The most random bytes one call may ask for; a TPM makes a few kilobytes a second.
pub(super) const MAX_RANDOM_LEN: usize = 1024;

/// Every TPM gives this many in one answer: the size of its largest digest is at least SHA-256's.
const RANDOM_CHUNK_LEN: usize = 32;

/// The most that a TPM seals at once (TPM 2.0 Part 2, section 11.1.14: MAX_SYM_DATA).
pub(super) const MAX_SEALED_LEN: usize = 128;

/// A PCR can be extended in the middle of sealing or opening; then it is done again, so often at most.
const MAX_SEAL_ATTEMPTS: usize = 5;

/// PCR values of the SHA-256 bank, by number.
pub type PcrValues = BTreeMap<u8, [u8; 32]>;

/// 32 random bytes, from the TPM and the kernel both, so that a weakness of one is not ours, sealed under the SRK.
pub(super) fn create_sealed_kek(connection: &mut TpmConnection) -> Result<KeyBlob, Error> {
    let kek = mixed_random(connection)?;
    seal(connection, kek.as_slice(), None)
}

/// 32 random bytes of the TPM and the kernel both.
pub(super) fn mixed_random(connection: &mut TpmConnection) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(bytes.as_mut_slice())
        .map_err(|_| Error::RequestFailed("the kernel gives no random numbers".into()))?;
    let tpm_random = Zeroizing::new(random(connection, bytes.len())?);
    for (byte, tpm_byte) in bytes.iter_mut().zip(tpm_random.iter()) {
        *byte ^= tpm_byte;
    }
    Ok(bytes)
}

/// `TPM2_Unseal` of the key-encryption key. On the wire it is encrypted by the session.
pub(super) fn unseal_kek(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
) -> Result<Zeroizing<[u8; 32]>, Error> {
    let secret = unseal(connection, &objects.kek, None)?;
    let mut kek = Zeroizing::new([0; 32]);
    if secret.len() != kek.len() {
        return Err(Error::InvalidObjects("the sealed key-encryption key has not 32 bytes".into()));
    }
    kek.copy_from_slice(&secret);
    Ok(kek)
}

/// Seals at most [`MOST_SEALED`] bytes under the SRK. With `pcrs`, this TPM opens them only while these PCRs have these
/// values.
pub(super) fn seal(
    connection: &mut TpmConnection,
    secret: &[u8],
    pcrs: Option<&PcrValues>,
) -> Result<KeyBlob, Error> {
    if secret.is_empty() || secret.len() > MAX_SEALED_LEN {
        return Err(Error::RequestFailed(format!(
            "a TPM seals 1 to {MAX_SEALED_LEN} bytes, not {}",
            secret.len()
        )));
    }
    let template = match pcrs {
        None => templates::sealed_data()?,
        Some(pcrs) => templates::sealed_data_with_policy(&pcr_policy_digest(pcrs)?)?,
    };
    let secret = SensitiveData::try_from(secret).map_err(command_failed("TPM2_Create"))?;
    keys::create(connection, template, Some(secret))
}

/// Seals to the values that these PCRs have now, and opens it once as the proof.
pub(super) fn seal_to_current_pcrs(
    connection: &mut TpmConnection,
    secret: &[u8],
    pcrs: &[u8],
) -> Result<(KeyBlob, PcrValues), Error> {
    for _ in 0..MAX_SEAL_ATTEMPTS {
        let values = quote::read_pcrs(connection, pcrs)?;
        let blob = seal(connection, secret, Some(&values))?;
        match unseal(connection, &blob, Some(&values)) {
            Ok(opened) if opened.as_slice() == secret => return Ok((blob, values)),
            Ok(_) => return Err(unexpected_response("TPM2_Unseal")),
            // A PCR was extended since it was read.
            Err(Error::PcrsChanged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(pcrs_keep_changing())
}

/// Opens what was sealed; `pcrs` are those that it was sealed to.
///
/// # Errors
/// [`Error::PcrsChanged`], with the numbers, if they have other values now.
pub(super) fn unseal(
    connection: &mut TpmConnection,
    blob: &KeyBlob,
    pcrs: Option<&PcrValues>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let Some(sealed_to) = pcrs else {
        return connection.with_loaded(blob, |connection, object| {
            let secret = connection.run("TPM2_Unseal", |context| context.unseal(object.into()))?;
            Ok(Zeroizing::new(secret.value().to_vec()))
        });
    };
    for _ in 0..MAX_SEAL_ATTEMPTS {
        match unseal_under_policy(connection, blob, sealed_to) {
            Err(error) if is_pcr_changed(&error) => {}
            Err(error) if is_policy_failure(&error) => {
                let current = quote::read_pcrs(connection, &sealed_to.keys().copied().collect::<Vec<_>>())?;
                let changed = sealed_to.iter().filter(|(n, value)| current.get(n) != Some(value));
                return Err(Error::PcrsChanged(changed.map(|(n, _)| *n).collect()));
            }
            outcome => return outcome,
        }
    }
    Err(pcrs_keep_changing())
}

fn unseal_under_policy(
    connection: &mut TpmConnection,
    blob: &KeyBlob,
    pcrs: &PcrValues,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    connection.with_loaded(blob, |connection, object| {
        with_policy_session(connection, |connection, session| {
            let slots = quote::pcr_slots(&pcrs.keys().copied().collect::<Vec<_>>())?;
            // The values that the TPM holds at this moment, whatever they are: the object's own policy compares them.
            connection.run_without_session("TPM2_PolicyPCR", |context| {
                let policy = PolicySession::try_from(session)?;
                context.policy_pcr(policy, Digest::default(), quote::pcr_selection(&slots)?)
            })?;
            let secret = connection.run_without_session("TPM2_Unseal", |context| {
                context.execute_with_session(Some(session), |context| context.unseal(object.into()))
            })?;
            Ok(Zeroizing::new(secret.value().to_vec()))
        })
    })
}

/// A policy session salted with the SRK, which encrypts what is unsealed within it; ended in any case.
fn with_policy_session<T>(
    connection: &mut TpmConnection,
    f: impl FnOnce(&mut TpmConnection, AuthSession) -> Result<T, Error>,
) -> Result<T, Error> {
    let srk = connection.srk();
    let session = connection
        .run_without_session("TPM2_StartAuthSession", |context| {
            let cipher = SymmetricDefinition::AES_128_CFB;
            let kind = SessionType::Policy;
            context.start_auth_session(Some(srk), None, None, kind, cipher, HashingAlgorithm::Sha256)
        })?
        .ok_or_else(|| unexpected_response("TPM2_StartAuthSession"))?;
    let (attributes, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
    let outcome = connection
        .run_without_session("setting the session's attributes", |context| {
            context.tr_sess_set_attributes(session, attributes, mask)
        })
        .and_then(|()| f(connection, session));
    let flushed = connection.run_without_session("TPM2_FlushContext", |context| {
        context.flush_context(SessionHandle::from(session).into())
    });
    let value = outcome?;
    flushed?;
    Ok(value)
}

/// The digest of a policy of `TPM2_PolicyPCR` alone (TPM 2.0 Part 3, section 23.7), for these values.
fn pcr_policy_digest(pcrs: &PcrValues) -> Result<[u8; 32], Error> {
    quote::pcr_slots(&pcrs.keys().copied().collect::<Vec<_>>())?;
    let mut bitmap = [0u8; 3];
    for number in pcrs.keys() {
        bitmap[usize::from(number / 8)] |= 1 << (number % 8);
    }
    let values: Vec<u8> = pcrs.values().flatten().copied().collect();
    let mut policy_data = vec![0; 32];
    policy_data.extend_from_slice(&TPM_CC_POLICY_PCR.to_be_bytes());
    // TPML_PCR_SELECTION: one bank, and its bitmap.
    policy_data.extend_from_slice(&1u32.to_be_bytes());
    policy_data.extend_from_slice(&templates::SHA256_ID);
    policy_data.push(bitmap.len() as u8);
    policy_data.extend_from_slice(&bitmap);
    policy_data.extend_from_slice(digest(&SHA256, &values).as_ref());
    let mut policy = [0; 32];
    policy.copy_from_slice(digest(&SHA256, &policy_data).as_ref());
    Ok(policy)
}

const TPM_CC_POLICY_PCR: u32 = 0x0000_017F;

fn pcrs_keep_changing() -> Error {
    Error::RequestFailed("the PCRs change all the time; try again when the host is quiet".into())
}

/// `n` random bytes of the TPM, at most [`MOST_RANDOM`].
pub(super) fn random(connection: &mut TpmConnection, n: usize) -> Result<Vec<u8>, Error> {
    if n > MAX_RANDOM_LEN {
        return Err(Error::RequestFailed(format!(
            "the TPM gives at most {MAX_RANDOM_LEN} random bytes at a time, not {n}"
        )));
    }
    let mut bytes = Vec::with_capacity(n);
    while bytes.len() < n {
        let count = RANDOM_CHUNK_LEN.min(n - bytes.len());
        let chunk = connection.run("TPM2_GetRandom", |context| context.get_random(count))?;
        // It may give fewer than asked, but one that gives none would keep us here for ever.
        match chunk.value() {
            [] => return Err(unexpected_response("TPM2_GetRandom")),
            received => bytes.extend_from_slice(&received[..count.min(received.len())]),
        }
    }
    Ok(bytes)
}
