//! `TPM2_GetCapability`: the handles that a TPM holds, and its properties.

use tss_esapi::Context;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::TpmHandle;
use tss_esapi::structures::CapabilityData;

use super::error::{Error, command_failed, unexpected_response};

/// The first handle of transient objects (TPM 2.0 Part 2, section 7.4, TPM_HC).
pub(super) const FIRST_TRANSIENT_HANDLE: u32 = 0x8000_0000;

/// The first handle of loaded sessions; the list has HMAC and policy sessions (TPM 2.0 Part 2, section 7.4).
pub(super) const FIRST_SESSION_HANDLE: u32 = 0x0200_0000;

/// One answer lists at most this many handles.
const MAX_HANDLES: u32 = 64;

/// The handles of one kind that the TPM holds, from `first` on; 64 at most.
pub(super) fn list_handles(context: &mut Context, first: u32) -> Result<Vec<TpmHandle>, Error> {
    let capability = context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::Handles, first, MAX_HANDLES)
        })
        .map_err(command_failed("TPM2_GetCapability"))?;
    match capability.0 {
        CapabilityData::Handles(list) => Ok(list.into_inner()),
        _ => Ok(Vec::new()),
    }
}

/// Property tags and values of `count` consecutive TPM properties, from the tag `first` on.
///
/// Each call sends the command: tss-esapi's `get_tpm_property` would answer from a cache without expiry.
pub(super) fn read_properties(
    context: &mut Context,
    first: u32,
    count: u32,
) -> Result<Vec<(u32, u32)>, Error> {
    let capability = context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::TpmProperties, first, count)
        })
        .map_err(command_failed("TPM2_GetCapability"))?;
    match capability.0 {
        CapabilityData::TpmProperties(list) => {
            Ok(list.into_iter().map(|property| (property.property().into(), property.value())).collect())
        }
        _ => Err(unexpected_response("TPM2_GetCapability")),
    }
}
