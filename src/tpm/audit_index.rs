//! NV indices of type extend, which have the checkpoints of audit logs.
//!
//! The index has the attribute TPM_NT_EXTEND: a write replaces its value by the digest of the value and what is
//! written (TPM 2.0 Part 3, section 31.9), so that no value can be set. The owner's authorization, which is empty,
//! extends and reads it. Who has it can delete the index and define it again, after which it has no value: its first
//! extension by this module gives it one that shows that it is new.
//!
//! The caller writes down which index is created before it is, so that none is forgotten in the TPM.

use tss_esapi::attributes::{NvIndexAttributes, NvIndexAttributesBuilder};
use tss_esapi::constants::NvIndexType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::NvPublic;

use super::connection::TpmConnection;
use super::error::{Error, RequestError, command_failed, unexpected_response};
use super::nv_index::{certify_index, close_index, with_index};
use super::objects::{Certification, TpmObjects};
use crate::verify::audit::{
    AUDIT_INDEX_SIZE, AUDIT_INDICES, audit_index_name, extended, first_extension, first_value,
};

/// What is at an NV index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditIndexState {
    /// The index is not defined.
    Absent,
    /// The index has other attributes, another policy or another size.
    Foreign,
    /// The index was defined and never extended.
    Unwritten,
    /// The index has this value.
    Value([u8; 32]),
}

/// The first handle at which no index is defined.
pub(super) fn first_free(connection: &mut TpmConnection) -> Result<u32, Error> {
    for index in AUDIT_INDICES {
        if with_index(connection, index, |_, _| Ok(()))?.is_none() {
            return Ok(index);
        }
    }
    let (first, last) = (AUDIT_INDICES.start, AUDIT_INDICES.end - 1);
    Err(RequestError::NoFreeIndex { first, last }.into())
}

/// Defines an index and extends it for the first time. What an interrupted attempt has done already is not repeated. An
/// index of another program, or one that has checkpoints, stays as it is, which is an error.
pub(super) fn create(connection: &mut TpmConnection, index: u32) -> Result<(), Error> {
    let extended_first = match state(connection, index)? {
        AuditIndexState::Absent => {
            let handle = define(connection, index)?;
            let result = connection.nv_extend(handle, &first_extension());
            let closed = close_index(connection, handle);
            result.and(closed)?;
            Some(())
        }
        AuditIndexState::Unwritten => with_index(connection, index, |connection, handle| {
            connection.nv_extend(handle, &first_extension())
        })?,
        AuditIndexState::Value(value) if value == first_value() => Some(()),
        AuditIndexState::Value(_) | AuditIndexState::Foreign => None,
    };
    extended_first.ok_or_else(|| RequestError::AuditIndexMoved(index).into())
}

fn define(connection: &mut TpmConnection, index: u32) -> Result<NvIndexHandle, Error> {
    let failed = command_failed("TPM2_NV_DefineSpace");
    let public = NvPublic::builder()
        .with_nv_index(NvIndexTpmHandle::new(index).map_err(&failed)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes()?)
        .with_data_area_size(AUDIT_INDEX_SIZE.into())
        .build()
        .map_err(&failed)?;
    connection.run("TPM2_NV_DefineSpace", |context| context.nv_define_space(Provision::Owner, None, public))
}

/// What is at an index.
pub(super) fn state(connection: &mut TpmConnection, index: u32) -> Result<AuditIndexState, Error> {
    let state = with_index(connection, index, |connection, handle| state_of(connection, index, handle))?;
    Ok(state.unwrap_or(AuditIndexState::Absent))
}

/// Extends an index that has the value `before`, and returns its value. An index that was extended already, as where
/// the response of the TPM was lost, stays as it is.
pub(super) fn extend(
    connection: &mut TpmConnection,
    index: u32,
    before: &[u8; 32],
    data: &[u8; 32],
) -> Result<[u8; 32], Error> {
    let after = extended(before, data);
    let moved = || RequestError::AuditIndexMoved(index);
    let done =
        with_index(connection, index, |connection, handle| match state_of(connection, index, handle)? {
            AuditIndexState::Value(value) if value == after => Ok(()),
            AuditIndexState::Value(value) if value == *before => connection.nv_extend(handle, data),
            _ => Err(moved().into()),
        })?;
    done.ok_or_else(moved)?;
    Ok(after)
}

/// Has the AK sign the present value of an index, and the qualifying data (`TPM2_NV_Certify`).
pub(super) fn certify(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    index: u32,
    qualifying_data: &[u8; 32],
) -> Result<Certification, Error> {
    let is_extended = |connection: &mut TpmConnection, handle| {
        Ok(matches!(state_of(connection, index, handle)?, AuditIndexState::Value(_)))
    };
    certify_index(connection, objects, index, AUDIT_INDEX_SIZE, qualifying_data, is_extended)?
        .ok_or_else(|| RequestError::AuditIndexMoved(index).into())
}

fn state_of(
    connection: &mut TpmConnection,
    index: u32,
    handle: NvIndexHandle,
) -> Result<AuditIndexState, Error> {
    let (_, name) = connection.run("TPM2_NV_ReadPublic", |context| context.nv_read_public(handle))?;
    // The Name is a digest of all attributes, the size and the policy.
    if name.value() == audit_index_name(index, false) {
        return Ok(AuditIndexState::Unwritten);
    }
    if name.value() != audit_index_name(index, true) {
        return Ok(AuditIndexState::Foreign);
    }
    let bytes = connection
        .run("TPM2_NV_Read", |context| context.nv_read(NvAuth::Owner, handle, AUDIT_INDEX_SIZE, 0))?;
    let value = bytes.value().try_into().map_err(|_| unexpected_response("TPM2_NV_Read"))?;
    Ok(AuditIndexState::Value(value))
}

fn attributes() -> Result<NvIndexAttributes, Error> {
    NvIndexAttributesBuilder::new()
        .with_nv_index_type(NvIndexType::Extend)
        .with_owner_write(true)
        .with_owner_read(true)
        .with_no_da(true)
        .build()
        .map_err(command_failed("TPM2_NV_DefineSpace"))
}
