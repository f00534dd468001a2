//! Secrets sealed under the SRK to one value of a counter, by `TPM2_PolicyNV`.
//!
//! A counter never returns to a value, also if it is deleted and created again, and its Name, which is in the
//! policy, says that it is a counter. Once it is incremented, the TPM therefore never unseals such a secret again,
//! whatever copy of the disk it is given.

use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::connection::TpmConnection;
use super::counter_value::CounterValue;
use super::error::{Error, RequestError, is_policy_failure, is_policy_mismatch};
use super::esys::OPERATION_EQUAL;
use super::nv_index::with_index;
use super::objects::KeyBlob;
use super::seal::check_length;
use super::{counter, templates};

/// TPM_CC_PolicyNV
const TPM_CC_POLICY_NV: u32 = 0x0000_0149;

/// Seals 1 to 128 bytes: the TPM unseals them only while the counter has this value.
pub(super) fn seal(
    connection: &mut TpmConnection,
    secret: &[u8],
    at: CounterValue,
) -> Result<KeyBlob, Error> {
    let secret = check_length(secret)?;
    let name = with_index(connection, at.index, |connection, handle| {
        if !counter::is_hostbadge_counter(connection, handle)? {
            return Ok(None);
        }
        let (_, name) = connection.run("TPM2_NV_ReadPublic", |context| context.nv_read_public(handle))?;
        Ok(Some(name.value().to_vec()))
    })?;
    let name = name.flatten().ok_or(RequestError::NoCounter(at.index))?;
    let template = templates::sealed_data_with_policy(&policy_digest(&name, at.value))?;
    connection.create_object(template, Some(secret))
}

/// Unseals what [`seal`] made for the same value.
///
/// # Errors
/// [`Error::CounterMoved`] if the counter has another value or is gone.
pub(super) fn unseal(
    connection: &mut TpmConnection,
    blob: &KeyBlob,
    at: CounterValue,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    connection.with_loaded(blob, |connection, object| {
        let unsealed = with_index(connection, at.index, |connection, counter| {
            connection.with_encrypting_policy_session(|connection, session| {
                connection.policy_nv(session, counter, &at.value.to_be_bytes())?;
                let secret = connection
                    .run_with_session(session, "TPM2_Unseal", |context| context.unseal(object.into()))?;
                Ok(Zeroizing::new(secret.value().to_vec()))
            })
        });
        match unsealed {
            Ok(Some(secret)) => Ok(secret),
            Ok(None) => Err(Error::CounterMoved(at)),
            Err(error) if is_policy_mismatch(&error) || is_policy_failure(&error) => {
                Err(Error::CounterMoved(at))
            }
            Err(error) => Err(error),
        }
    })
}

/// The digest of a policy of `TPM2_PolicyNV` alone, for a counter of this Name that has exactly this value
/// (TPM 2.0 Part 3, section 23.9).
fn policy_digest(name: &[u8], value: u64) -> [u8; 32] {
    const OFFSET: u16 = 0;
    let mut arguments = value.to_be_bytes().to_vec();
    arguments.extend_from_slice(&OFFSET.to_be_bytes());
    arguments.extend_from_slice(&OPERATION_EQUAL.to_be_bytes());
    let mut policy = vec![0; 32];
    policy.extend_from_slice(&TPM_CC_POLICY_NV.to_be_bytes());
    policy.extend_from_slice(digest(&SHA256, &arguments).as_ref());
    policy.extend_from_slice(name);
    let mut output = [0; 32];
    output.copy_from_slice(digest(&SHA256, &policy).as_ref());
    output
}
