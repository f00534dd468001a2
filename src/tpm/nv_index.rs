//! Reading NV indices, also those that the TPM's manufacturer or another program defined.
//!
//! The attributes of an index are read first, and decide which authorizations are tried. An authorization
//! whose failure the TPM counts towards its lockout is never tried: the daemon does not know the index's
//! authorization value, and a retry would lock out every program on the host.

use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::resource_handles::NvAuth;

use super::connection::TpmConnection;
use super::error::{Error, FaultClass, command_failed, is_unknown_handle};
use super::objects::{Certification, TpmObjects};

/// Bytes for each NV read and write: no TPM has a smaller NV_BUFFER_MAX.
pub(super) const NV_CHUNK_SIZE: usize = 512;

/// Why the TPM does not let the daemon read an NV index.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NvReadFault {
    /// TPMA_NV_WRITTEN is clear.
    #[error("it was never written")]
    Unwritten,
    /// TPMA_NV_READLOCKED is set.
    #[error("it is locked against reading until the TPM's next reset")]
    ReadLocked,
    /// Neither TPMA_NV_OWNERREAD nor TPMA_NV_AUTHREAD is set.
    #[error("only the platform's firmware, or a policy, may read it")]
    NotReadable,
    /// The index's own authorization is the only way, and TPMA_NV_NO_DA is clear.
    #[error(
        "only its own authorization may read it, and a failure of that would count towards the TPM's lockout \
         (TPMA_NV_NO_DA is clear), so it was not tried"
    )]
    CountedAuthorization,
    /// The TPM refuses authorizations for a time, after failed ones of other programs.
    #[error("the TPM is in lockout")]
    LockedOut,
    /// The TPM did not execute the command; the text is its response.
    #[error("{0}")]
    Refused(String),
}

/// The bytes of an index, as many as `needed` says. That gets the size of the index, and its first bytes.
/// `None` if the index is not defined.
///
/// # Errors
/// Faults of the connection, and of a TPM that cannot execute the command now. What the TPM refuses for this
/// index is the inner error.
pub(super) fn read(
    connection: &mut TpmConnection,
    index: u32,
    needed: impl Fn(usize, &[u8]) -> usize,
) -> Result<Option<Result<Vec<u8>, NvReadFault>>, Error> {
    let outcome = with_index(connection, index, |connection, handle| {
        let (public, _) = connection.run("TPM2_NV_ReadPublic", |context| context.nv_read_public(handle))?;
        let authorizations = match usable_authorizations(public.attributes(), handle) {
            Ok(authorizations) => authorizations,
            Err(fault) => return Ok(Err(fault)),
        };
        let mut refusals = Vec::new();
        let mut locked_out = false;
        for authorization in authorizations {
            match read_bytes(connection, (authorization, handle), public.data_size(), &needed) {
                Err(error) if is_refusal(&error) => {
                    locked_out |= error.fault_class() == FaultClass::Lockout;
                    refusals.push(error.to_string());
                }
                outcome => return outcome.map(Ok),
            }
        }
        Ok(Err(match locked_out {
            true => NvReadFault::LockedOut,
            false => NvReadFault::Refused(refusals.join("; ")),
        }))
    });
    match outcome {
        Err(error) if is_refusal(&error) => Ok(Some(Err(NvReadFault::Refused(error.to_string())))),
        outcome => outcome,
    }
}

/// Runs `f` with the handle of an index and closes the handle; `None` if the index is not defined.
pub(super) fn with_index<T>(
    connection: &mut TpmConnection,
    index: u32,
    f: impl FnOnce(&mut TpmConnection, NvIndexHandle) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let handle = NvIndexTpmHandle::new(index).map_err(command_failed("opening an NV index"))?;
    let opened =
        connection.run("TPM2_NV_ReadPublic", |context| context.tr_from_tpm_public(TpmHandle::from(handle)));
    let handle = match opened {
        Err(error) if is_unknown_handle(&error) => return Ok(None),
        outcome => NvIndexHandle::from(outcome?),
    };
    let outcome = f(connection, handle);
    // This fails if `f` deleted the index, which closes the handle.
    let _ = close_index(connection, handle);
    outcome.map(Some)
}

/// Has the AK sign the present value of an index and the qualifying data (`TPM2_NV_Certify`), if `is_expected` says that
/// the index is the one that is meant; `None` if it is not, or is not defined.
pub(super) fn certify_index(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    index: u32,
    size: u16,
    qualifying_data: &[u8; 32],
    is_expected: impl FnOnce(&mut TpmConnection, NvIndexHandle) -> Result<bool, Error>,
) -> Result<Option<Certification>, Error> {
    let certified = connection.with_loaded(&objects.ak, |connection, ak| {
        with_index(connection, index, |connection, handle| {
            if !is_expected(connection, handle)? {
                return Ok(None);
            }
            connection.nv_certify(ak, handle, size, qualifying_data).map(Some)
        })
    })?;
    Ok(certified.flatten())
}

/// Closes the handle of an index, without a command to the TPM.
pub(super) fn close_index(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<(), Error> {
    connection.run_without_session("closing an NV index", |context| {
        context.tr_close(&mut ObjectHandle::from(handle))
    })
}

/// The authorizations by which an index can be read with an empty password, and without a failure that
/// counts (TPM 2.0 Part 2, section 13.4, TPMA_NV).
///
/// The owner's comes first: the daemon has used it to derive the SRK, so it is empty, and the TPM counts no
/// failures of a hierarchy (TPM 2.0 Part 1, section 19.8).
fn usable_authorizations(
    attributes: NvIndexAttributes,
    handle: NvIndexHandle,
) -> Result<Vec<NvAuth>, NvReadFault> {
    if !attributes.written() {
        return Err(NvReadFault::Unwritten);
    }
    if attributes.read_locked() {
        return Err(NvReadFault::ReadLocked);
    }
    let owner = attributes.owner_read().then_some(NvAuth::Owner);
    let own = (attributes.auth_read() && attributes.no_da()).then_some(NvAuth::NvIndex(handle));
    let usable: Vec<NvAuth> = owner.into_iter().chain(own).collect();
    match (usable.is_empty(), attributes.auth_read()) {
        (false, _) => Ok(usable),
        (true, true) => Err(NvReadFault::CountedAuthorization),
        (true, false) => Err(NvReadFault::NotReadable),
    }
}

fn read_bytes(
    connection: &mut TpmConnection,
    (authorization, index): (NvAuth, NvIndexHandle),
    size: usize,
    needed: impl Fn(usize, &[u8]) -> usize,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut end = size.min(NV_CHUNK_SIZE);
    while bytes.len() < end {
        let (offset, length) = (bytes.len() as u16, NV_CHUNK_SIZE.min(end - bytes.len()) as u16);
        let chunk = connection
            .run("TPM2_NV_Read", |context| context.nv_read(authorization, index, length, offset))?;
        if chunk.value().is_empty() {
            break;
        }
        bytes.extend_from_slice(chunk.value());
        end = size.min(needed(size, &bytes));
    }
    Ok(bytes)
}

/// Whether the TPM refuses this index alone: the connection works, and the same command would fail again.
fn is_refusal(error: &Error) -> bool {
    matches!(error.fault_class(), FaultClass::Authorization | FaultClass::Lockout | FaultClass::Request)
}

#[cfg(test)]
mod tests {
    use tss_esapi::attributes::NvIndexAttributesBuilder;

    use super::*;

    #[test]
    fn attributes_decide_what_is_tried() {
        let handle = NvIndexHandle::from(0x4000_0000);
        let written = || NvIndexAttributesBuilder::new().with_written(true).with_pp_write(true);
        let usable = |builder: NvIndexAttributesBuilder| {
            usable_authorizations(builder.build().unwrap(), handle).map(|list| list.len())
        };
        let unwritten = NvIndexAttributesBuilder::new().with_pp_write(true).with_owner_read(true);
        assert_eq!(usable(unwritten), Err(NvReadFault::Unwritten));
        let locked = written().with_owner_read(true).with_read_stclear(true).with_read_locked(true);
        assert_eq!(usable(locked), Err(NvReadFault::ReadLocked));
        assert_eq!(usable(written().with_pp_read(true)), Err(NvReadFault::NotReadable));
        assert_eq!(usable(written().with_policy_read(true)), Err(NvReadFault::NotReadable));
        assert_eq!(usable(written().with_auth_read(true)), Err(NvReadFault::CountedAuthorization));
        assert_eq!(usable(written().with_auth_read(true).with_no_da(true)), Ok(1));
        // The owner's authorization alone.
        assert_eq!(usable(written().with_auth_read(true).with_owner_read(true)), Ok(1));
        assert_eq!(usable(written().with_auth_read(true).with_owner_read(true).with_no_da(true)), Ok(2));
    }
}
