//! Secrets sealed under the SRK, with and without a PCR policy.

use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{Digest, SensitiveData};
use zeroize::Zeroizing;

use super::connection::TpmConnection;
use super::error::{
    Error, RequestError, command_failed, is_pcr_changed, is_policy_failure, unexpected_response,
};
use super::objects::{KeyBlob, TpmObjects};
use super::pcrs::PcrValues;
use super::{pcrs, random, templates};

/// The longest secret that a TPM seals, in bytes (TPM 2.0 Part 2, section 11.1.14: MAX_SYM_DATA).
const MAX_SEALED_LEN: usize = 128;

/// How often sealing to PCRs, and unsealing, are tried: a PCR can be extended between their commands.
const MAX_SEAL_ATTEMPTS: usize = 5;

/// Seals a fresh key-encryption key: 32 random bytes of the TPM and the kernel.
pub(super) fn create_sealed_kek(connection: &mut TpmConnection) -> Result<KeyBlob, Error> {
    let kek = random::mixed_random(connection)?;
    seal(connection, kek.as_slice(), None)
}

/// `TPM2_Unseal` of the key-encryption key; the session encrypts it on the wire.
pub(super) fn unseal_kek(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
) -> Result<Zeroizing<[u8; 32]>, Error> {
    let secret = unseal(connection, &objects.kek, None)?;
    let mut kek = Zeroizing::new([0; 32]);
    if secret.len() != kek.len() {
        return Err(Error::InvalidObjects("the sealed key-encryption key does not have 32 bytes".into()));
    }
    kek.copy_from_slice(&secret);
    Ok(kek)
}

/// Seals 1 to 128 bytes under the SRK. With `sealed_to`, the TPM unseals them only while these PCRs have
/// these values.
pub(super) fn seal(
    connection: &mut TpmConnection,
    secret: &[u8],
    sealed_to: Option<&PcrValues>,
) -> Result<KeyBlob, Error> {
    let secret = check_length(secret)?;
    let template = match sealed_to {
        None => templates::sealed_data()?,
        Some(values) => templates::sealed_data_with_policy(&pcrs::policy_digest(values)?)?,
    };
    connection.create_object(template, Some(secret))
}

/// The secret as a TPM takes it, if it has 1 to 128 bytes.
pub(super) fn check_length(secret: &[u8]) -> Result<SensitiveData, Error> {
    if secret.is_empty() || secret.len() > MAX_SEALED_LEN {
        return Err(RequestError::SealedDataLength { length: secret.len(), max: MAX_SEALED_LEN }.into());
    }
    SensitiveData::try_from(secret).map_err(command_failed("TPM2_Create"))
}

/// Seals to the current values of `numbers`, and unseals the result once to check it.
pub(super) fn seal_to_current_pcrs(
    connection: &mut TpmConnection,
    secret: &[u8],
    numbers: &[u8],
) -> Result<(KeyBlob, PcrValues), Error> {
    for _ in 0..MAX_SEAL_ATTEMPTS {
        let values = pcrs::read(connection, numbers)?;
        let blob = seal(connection, secret, Some(&values))?;
        match unseal(connection, &blob, Some(&values)) {
            Ok(unsealed) if unsealed.as_slice() == secret => return Ok((blob, values)),
            Ok(_) => return Err(unexpected_response("TPM2_Unseal")),
            // A PCR was extended since it was read.
            Err(Error::PcrsChanged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(RequestError::PcrsUnstable.into())
}

/// Unseals what [`seal`] made; `sealed_to` are the PCR values that it was given.
///
/// # Errors
/// [`Error::PcrsChanged`] with the numbers of those PCRs that have other values now.
pub(super) fn unseal(
    connection: &mut TpmConnection,
    blob: &KeyBlob,
    sealed_to: Option<&PcrValues>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let Some(sealed_to) = sealed_to else {
        return connection.with_loaded(blob, |connection, object| {
            let secret = connection.run("TPM2_Unseal", |context| context.unseal(object.into()))?;
            Ok(Zeroizing::new(secret.value().to_vec()))
        });
    };
    for _ in 0..MAX_SEAL_ATTEMPTS {
        match unseal_under_policy(connection, blob, sealed_to) {
            Err(error) if is_pcr_changed(&error) => {}
            Err(error) if is_policy_failure(&error) => {
                let current = pcrs::read(connection, &pcrs::numbers(sealed_to))?;
                let changed = sealed_to.iter().filter(|(number, value)| current.get(number) != Some(value));
                return Err(Error::PcrsChanged(changed.map(|(number, _)| *number).collect()));
            }
            outcome => return outcome,
        }
    }
    Err(RequestError::PcrsUnstable.into())
}

fn unseal_under_policy(
    connection: &mut TpmConnection,
    blob: &KeyBlob,
    sealed_to: &PcrValues,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    connection.with_loaded(blob, |connection, object| {
        connection.with_encrypting_policy_session(|connection, session| {
            let slots = pcrs::slots(&pcrs::numbers(sealed_to))?;
            // An empty digest means the current values; the TPM compares the result with the object's policy.
            connection.run_without_session("TPM2_PolicyPCR", |context| {
                let policy = PolicySession::try_from(session)?;
                context.policy_pcr(policy, Digest::default(), pcrs::selection(&slots)?)
            })?;
            let secret = connection
                .run_with_session(session, "TPM2_Unseal", |context| context.unseal(object.into()))?;
            Ok(Zeroizing::new(secret.value().to_vec()))
        })
    })
}
