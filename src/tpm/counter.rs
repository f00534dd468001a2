//! A monotonic counter in the TPM's NV memory, which state on disk is held against.
//!
//! The index is a counter by its attributes, which cannot be set to a value: one that is removed and made anew starts
//! above all that any counter of this TPM ever had (TPM 2.0 Part 1, section 37.2.4.1). Anybody with the owner's
//! authorization may read it; only who knows its own authorization may increment it.

use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::constants::NvIndexType;
use tss_esapi::handles::NvIndexHandle;
use tss_esapi::handles::NvIndexTpmHandle;
use tss_esapi::handles::ObjectHandle;
use tss_esapi::handles::TpmHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::resource_handles::Provision;
use tss_esapi::structures::Auth;
use tss_esapi::structures::NvPublic;

use super::connection::TpmConnection;
use super::connection::unexpected_response;
use super::error::Error;
use super::error::command_failed;
use super::error::is_unknown_handle;

/// Where counters of ours may lie: in the owner's range (TCG Registry of Reserved TPM 2.0 Handles, section 2.2.2). More
/// than one where several systems on one machine have a daemon each.
pub(super) const FIRST_INDEX: u32 = 0x0180_4862;
pub(super) const INDEX_COUNT: u32 = 8;

/// Makes a counter in the first free slot, and gives its index and its value.
pub(super) fn create(connection: &mut TpmConnection, auth: &[u8; 32]) -> Result<(u32, u64), Error> {
    for index in FIRST_INDEX..FIRST_INDEX + INDEX_COUNT {
        if with_index(connection, index, |_, _| Ok(()))?.is_some() {
            continue;
        }
        let failed = command_failed("TPM2_NV_DefineSpace");
        let public = NvPublic::builder()
            .with_nv_index(NvIndexTpmHandle::new(index).map_err(&failed)?)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(counter_attributes(false)?)
            .with_data_area_size(8)
            .build()
            .map_err(&failed)?;
        let auth = auth_value(auth)?;
        let handle = connection.run("TPM2_NV_DefineSpace", |context| {
            context.nv_define_space(Provision::Owner, Some(auth), public)
        })?;
        let result = increment(connection, handle).and_then(|()| read_value(connection, handle));
        if result.is_err() {
            // The call may be done again, and is to find the slot free.
            let _ = undefine(connection, handle);
        }
        let closed = close_index(connection, handle);
        let value = result?;
        closed?;
        return Ok((index, value));
    }
    let last = FIRST_INDEX + INDEX_COUNT - 1;
    Err(Error::RequestFailed(format!(
        "the TPM's NV indices {FIRST_INDEX:#x} to {last:#x} are all taken; remove one that no system uses (tpm2_nvundefine)"
    )))
}

/// The value of the counter at an index; none where there is no counter of ours.
pub(super) fn read(connection: &mut TpmConnection, index: u32) -> Result<Option<u64>, Error> {
    if !(FIRST_INDEX..FIRST_INDEX + INDEX_COUNT).contains(&index) {
        return Ok(None);
    }
    let current = with_index(connection, index, |connection, handle| {
        match is_hostbadge_counter(connection, handle)? {
            true => read_value(connection, handle).map(Some),
            false => Ok(None),
        }
    })?;
    Ok(current.flatten())
}

/// Increments the counter at an index unless it has come to `wanted`, and gives its value. So it can be done again after
/// an answer that was lost.
pub(super) fn increment_to(
    connection: &mut TpmConnection,
    index: u32,
    auth: &[u8; 32],
    target: u64,
) -> Result<u64, Error> {
    let result = with_index(connection, index, |connection, handle| {
        let current = read_value(connection, handle)?;
        if current >= target {
            return Ok(current);
        }
        let auth = auth_value(auth)?;
        connection.run_without_session("setting an authorization", |context| {
            context.tr_set_auth(handle.into(), auth)
        })?;
        increment(connection, handle)?;
        read_value(connection, handle)
    })?;
    result.ok_or_else(|| Error::RequestFailed(format!("the TPM has no counter at {index:#x} any more")))
}

/// Removes the counter at an index, if it is ours.
pub(super) fn remove(connection: &mut TpmConnection, index: u32) -> Result<(), Error> {
    with_index(connection, index, |connection, handle| {
        if !is_hostbadge_counter(connection, handle)? {
            return Ok(());
        }
        undefine(connection, handle)
    })?;
    Ok(())
}

/// The indices with a counter of ours, or of another system's daemon on this machine.
pub(super) fn list_indices(connection: &mut TpmConnection) -> Result<Vec<u32>, Error> {
    let mut indices = Vec::new();
    for index in FIRST_INDEX..FIRST_INDEX + INDEX_COUNT {
        if with_index(connection, index, is_hostbadge_counter)? == Some(true) {
            indices.push(index);
        }
    }
    Ok(indices)
}

fn counter_attributes(written: bool) -> Result<NvIndexAttributes, Error> {
    NvIndexAttributesBuilder::new()
        .with_written(written)
        .with_nv_index_type(NvIndexType::Counter)
        .with_auth_write(true)
        .with_owner_read(true)
        .with_no_da(true)
        .build()
        .map_err(command_failed("TPM2_NV_DefineSpace"))
}

fn auth_value(auth: &[u8; 32]) -> Result<Auth, Error> {
    // A TPM drops trailing zeros; an authorization that has none is the same to everybody.
    let mut auth = zeroize::Zeroizing::new(*auth);
    auth[31] |= 1;
    Auth::try_from(auth.as_slice()).map_err(command_failed("setting an authorization"))
}

/// A counter by all its attributes; whether it was written yet does not matter.
fn is_hostbadge_counter(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<bool, Error> {
    let (public, _) = connection.run("TPM2_NV_ReadPublic", |context| context.nv_read_public(handle))?;
    let attributes = public.attributes();
    Ok(public.data_size() == 8
        && [counter_attributes(false)?, counter_attributes(true)?].contains(&attributes))
}

fn increment(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<(), Error> {
    connection.run("TPM2_NV_Increment", |context| context.nv_increment(NvAuth::NvIndex(handle), handle))
}

fn undefine(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<(), Error> {
    connection.run("TPM2_NV_UndefineSpace", |context| context.nv_undefine_space(Provision::Owner, handle))
}

fn read_value(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<u64, Error> {
    let bytes = connection.run("TPM2_NV_Read", |context| context.nv_read(NvAuth::Owner, handle, 8, 0))?;
    let bytes = bytes.value().try_into().map_err(|_| unexpected_response("TPM2_NV_Read"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Runs `f` with an index; none where the TPM has nothing at it. Nothing stays open.
fn with_index<T>(
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
    // An index that `f` removed is closed already.
    let closed = close_index(connection, handle);
    let value = outcome?;
    let _ = closed;
    Ok(Some(value))
}

fn close_index(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<(), Error> {
    connection.run_without_session("closing an NV index", |context| {
        context.tr_close(&mut ObjectHandle::from(handle))
    })
}
