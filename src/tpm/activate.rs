//! Opening what was encrypted to this TPM's endorsement key for its AK (`TPM2_ActivateCredential`).

use tss_esapi::structures::EncryptedSecret;
use tss_esapi::structures::IdObject;
use zeroize::Zeroizing;

use super::connection::TpmConnection;
use super::error::Error;
use super::error::is_parameter_error;
use super::error::is_tpm_failure;
use super::objects::TpmObjects;
use super::templates;

/// Which endorsement key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EkKind {
    /// Template L-2.
    P256,
    /// Template L-1.
    Rsa,
}

/// A secret for whoever has both an endorsement key and a key of a certain Name (TPM 2.0 Part 1, section 24).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CredentialBlob {
    /// Contents of the TPM2B_ID_OBJECT: integrity value and encrypted secret.
    pub id_object: Vec<u8>,
    /// Contents of the TPM2B_ENCRYPTED_SECRET: the seed, encrypted to the EK.
    pub seed: Vec<u8>,
}

/// The secret, if this TPM has the EK and the credential is for our AK.
///
/// SRK, EK and AK fill the three places that most TPMs have for objects.
pub(super) fn activate_credential(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    ek: EkKind,
    credential: &CredentialBlob,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let too_long = |_| Error::RequestFailed("the credential's parts are longer than a TPM takes".into());
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
        // TPM_RC_INTEGRITY, TPM_RC_VALUE, TPM_RC_SIZE and their like.
        Err(error) if is_parameter_error(&error) => Err(wrong_credential(&error)),
        // Some TPMs call it a failure of theirs (libtpms does, of another RSA EK's seeds), and work on.
        Err(error) if is_tpm_failure(&error) && connection.probe().is_ok() => Err(wrong_credential(&error)),
        Err(error) => Err(error),
    }
}

fn wrong_credential(error: &Error) -> Error {
    Error::RequestFailed(format!(
        "the credential is for another TPM or another attestation key, or was damaged ({})",
        describe_code(error)
    ))
}

fn describe_code(error: &Error) -> String {
    error.tpm_code().map_or_else(|| error.to_string(), |code| format!("the TPM says {code:#x}"))
}
