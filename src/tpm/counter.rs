//! Monotonic counters in the TPM's NV memory: one against which the generation of the state on disk is checked,
//! and one to whose value the keys of agents' own credentials are sealed.
//!
//! The index has the attribute TPM_NT_COUNTER, so its value cannot be set: a counter that is deleted and
//! created again starts above the highest value that any counter of this TPM had (TPM 2.0 Part 1, section
//! 37.2.4.1). The owner's authorization is needed to read it, and the index's own authorization to increment
//! it.

use std::ops::Range;

use tss_esapi::attributes::{NvIndexAttributes, NvIndexAttributesBuilder};
use tss_esapi::constants::NvIndexType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{Auth, NvPublic};

use super::connection::TpmConnection;
use super::error::{Error, RequestError, command_failed, unexpected_response};
use super::nv_index::{certify_index, close_index, with_index};
use super::objects::{Certification, TpmObjects};

/// How many NV indices each kind has: several systems on one machine have a daemon and its counters each.
const INDEX_COUNT: u32 = 8;

/// The size of a counter in bytes (TPM 2.0 Part 2, section 13.2).
const COUNTER_SIZE: usize = 8;

/// What a counter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterKind {
    /// The generation of the state directory.
    State,
    /// The erasures of agents' own credentials.
    Erasure,
}

impl CounterKind {
    /// The NV indices of this kind, in the owner's range (TCG Registry of Reserved TPM 2.0 Handles, section
    /// 2.2.2).
    fn indices(self) -> Range<u32> {
        let first = match self {
            CounterKind::State => 0x0180_4862,
            CounterKind::Erasure => 0x0180_4872,
        };
        first..first + INDEX_COUNT
    }
}

/// Creates a counter at the first free index of its kind, increments it once, and returns its index and value.
pub(super) fn create(
    connection: &mut TpmConnection,
    kind: CounterKind,
    auth: &[u8; 32],
) -> Result<(u32, u64), Error> {
    let indices = kind.indices();
    for index in indices.clone() {
        if with_index(connection, index, |_, _| Ok(()))?.is_some() {
            continue;
        }
        let failed = command_failed("TPM2_NV_DefineSpace");
        let public = NvPublic::builder()
            .with_nv_index(NvIndexTpmHandle::new(index).map_err(&failed)?)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(counter_attributes(false)?)
            .with_data_area_size(COUNTER_SIZE)
            .build()
            .map_err(&failed)?;
        let auth = auth_value(auth)?;
        let handle = connection.run("TPM2_NV_DefineSpace", |context| {
            context.nv_define_space(Provision::Owner, Some(auth), public)
        })?;
        let result = increment(connection, handle).and_then(|()| read_value(connection, handle));
        if result.is_err() {
            // The request may be retried, and should find the index free.
            let _ = undefine(connection, handle);
        }
        let closed = close_index(connection, handle);
        let value = result?;
        closed?;
        return Ok((index, value));
    }
    let (first, last) = (indices.start, indices.end - 1);
    Err(RequestError::NoFreeIndex { first, last }.into())
}

/// The value of the counter at an index; `None` if there is no hostbadge counter at it.
pub(super) fn read(connection: &mut TpmConnection, index: u32) -> Result<Option<u64>, Error> {
    if ![CounterKind::State, CounterKind::Erasure].iter().any(|kind| kind.indices().contains(&index)) {
        return Ok(None);
    }
    let current = with_index(connection, index, |connection, handle| {
        if !is_hostbadge_counter(connection, handle)? {
            return Ok(None);
        }
        read_value(connection, handle).map(Some)
    })?;
    Ok(current.flatten())
}

/// Increments the counter at an index unless its value is `target` or more, and returns the value. It is
/// therefore safe to retry after a lost response.
///
/// Another program may have defined the index again. The authorization is not tried on such an index: the TPM
/// might count the failure towards its lockout.
pub(super) fn increment_to(
    connection: &mut TpmConnection,
    index: u32,
    auth: &[u8; 32],
    target: u64,
) -> Result<u64, Error> {
    let result = with_index(connection, index, |connection, handle| {
        if !is_hostbadge_counter(connection, handle)? {
            return Ok(None);
        }
        let current = read_value(connection, handle)?;
        if current >= target {
            return Ok(Some(current));
        }
        let auth = auth_value(auth)?;
        connection.run_without_session("setting an authorization", |context| {
            context.tr_set_auth(handle.into(), auth)
        })?;
        increment(connection, handle)?;
        read_value(connection, handle).map(Some)
    })?;
    result.flatten().ok_or_else(|| RequestError::NoCounter(index).into())
}

/// Has the AK sign the present value of the counter at an index, and the qualifying data (`TPM2_NV_Certify`).
pub(super) fn certify(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    index: u32,
    qualifying_data: &[u8; 32],
) -> Result<Certification, Error> {
    certify_index(connection, objects, index, COUNTER_SIZE as u16, qualifying_data, is_hostbadge_counter)?
        .ok_or_else(|| RequestError::NoCounter(index).into())
}

/// Deletes the counter at an index, if it is a hostbadge counter.
pub(super) fn remove(connection: &mut TpmConnection, index: u32) -> Result<(), Error> {
    with_index(connection, index, |connection, handle| {
        if !is_hostbadge_counter(connection, handle)? {
            return Ok(());
        }
        undefine(connection, handle)
    })?;
    Ok(())
}

/// The indices with a hostbadge counter of this kind, of this system or another one on this machine.
pub(super) fn list_indices(connection: &mut TpmConnection, kind: CounterKind) -> Result<Vec<u32>, Error> {
    let mut indices = Vec::new();
    for index in kind.indices() {
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
    // A TPM strips trailing zeros of an authorization value. Setting the last bit leaves none to strip.
    let mut auth = zeroize::Zeroizing::new(*auth);
    auth[31] |= 1;
    Auth::try_from(auth.as_slice()).map_err(command_failed("setting an authorization"))
}

/// Whether the index has the size and attributes of a hostbadge counter, incremented already or not.
pub(super) fn is_hostbadge_counter(
    connection: &mut TpmConnection,
    handle: NvIndexHandle,
) -> Result<bool, Error> {
    let (public, _) = connection.run("TPM2_NV_ReadPublic", |context| context.nv_read_public(handle))?;
    let attributes = public.attributes();
    Ok(public.data_size() == COUNTER_SIZE
        && [counter_attributes(false)?, counter_attributes(true)?].contains(&attributes))
}

fn increment(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<(), Error> {
    connection.run("TPM2_NV_Increment", |context| context.nv_increment(NvAuth::NvIndex(handle), handle))
}

fn undefine(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<(), Error> {
    connection.run("TPM2_NV_UndefineSpace", |context| context.nv_undefine_space(Provision::Owner, handle))
}

fn read_value(connection: &mut TpmConnection, handle: NvIndexHandle) -> Result<u64, Error> {
    let bytes = connection
        .run("TPM2_NV_Read", |context| context.nv_read(NvAuth::Owner, handle, COUNTER_SIZE as u16, 0))?;
    let bytes = bytes.value().try_into().map_err(|_| unexpected_response("TPM2_NV_Read"))?;
    Ok(u64::from_be_bytes(bytes))
}
