//! Decrypting credentials made for this TPM's endorsement key and its AK (`TPM2_ActivateCredential`).

use std::fmt;

use tss_esapi::structures::{EncryptedSecret, IdObject};
use zeroize::Zeroizing;

use super::connection::TpmConnection;
use super::error::{Error, RequestError, is_parameter_error, is_tpm_failure};
use super::objects::TpmObjects;
use super::{probe, templates};

/// The endorsement key that a credential is encrypted to (TCG EK Credential Profile, section B.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EkKind {
    /// ECC P-256, template L-2.
    P256,
    /// RSA-2048, template L-1.
    Rsa,
}

impl fmt::Display for EkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EkKind::P256 => "P-256",
            EkKind::Rsa => "RSA",
        })
    }
}

/// A secret that only a TPM with both the endorsement key and a key of a given Name can decrypt (TPM 2.0 Part
/// 1, section 24).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CredentialBlob {
    /// Contents of the TPM2B_ID_OBJECT: integrity HMAC and encrypted secret.
    pub id_object: Vec<u8>,
    /// Contents of the TPM2B_ENCRYPTED_SECRET: the seed, encrypted to the EK.
    pub seed: Vec<u8>,
}

/// Returns the secret, if this TPM has the EK and the credential is for the host's AK.
///
/// SRK, EK and AK are loaded for it: three transient objects, which is the capacity of most TPMs.
///
/// # Errors
/// [`RequestError::CredentialRejected`] and [`RequestError::CredentialTooLong`] for a credential that is not
/// for them.
pub(super) fn activate_credential(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    ek: EkKind,
    credential: &CredentialBlob,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let too_long = |_| RequestError::CredentialTooLong;
    let id_object = IdObject::try_from(credential.id_object.as_slice()).map_err(too_long)?;
    let seed = EncryptedSecret::try_from(credential.seed.as_slice()).map_err(too_long)?;
    let template = match ek {
        EkKind::P256 => templates::ek()?,
        EkKind::Rsa => templates::ek_rsa()?,
    };
    let result = connection.with_primary(template, |connection, ek, _| {
        connection.with_loaded(&objects.ak, |connection, ak| {
            connection.with_ek_policy_session(|connection, policy| {
                connection.run_with_second_session(policy, "TPM2_ActivateCredential", |context| {
                    context.activate_credential(ak, ek, id_object, seed)
                })
            })
        })
    });
    match result {
        Ok(secret) => Ok(Zeroizing::new(secret.value().to_vec())),
        // TPM_RC_INTEGRITY, TPM_RC_VALUE, TPM_RC_SIZE and the like.
        Err(error) if is_parameter_error(&error) => Err(wrong_credential(&error)),
        // Some TPMs return TPM_RC_FAILURE and keep working: libtpms does for seeds encrypted to another RSA
        // EK.
        Err(error) if is_tpm_failure(&error) && probe::probe(connection).is_ok() => {
            Err(wrong_credential(&error))
        }
        Err(error) => Err(error),
    }
}

fn wrong_credential(error: &Error) -> Error {
    RequestError::CredentialRejected(describe_code(error)).into()
}

fn describe_code(error: &Error) -> String {
    error.tpm_code().map_or_else(|| error.to_string(), |code| format!("TPM response code {code:#x}"))
}
