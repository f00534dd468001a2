//! How a TPM is reached: the device looked at, what was left behind flushed, the SRK derived.

use nix::unistd::AccessFlags;
use tss_esapi::Context;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::KeyHandle;
use tss_esapi::handles::TpmHandle;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::CapabilityData;
use tss_esapi::structures::Public;

use super::config::Tcti;
use super::connection::unexpected_response;
use super::error::Error;
use super::error::command_failed;
use super::templates;

/// Flushes what an earlier connection left behind when it broke. The kernel's resource manager does this by itself, but
/// swtpm knows nothing of connections. A software TPM is this daemon's alone, so nobody else can need it.
pub(super) fn flush_stale_handles(context: &mut Context) -> Result<(), Error> {
    for first in [FIRST_TRANSIENT_HANDLE, FIRST_SESSION_HANDLE] {
        let stale = match list_handles(context, first).map_err(command_failed("TPM2_GetCapability")) {
            Err(error) if error.tpm_code().is_none() => return Err(error),
            // A TPM that is not started up yet has nothing to sweep, and whatever else is wrong shows right after.
            outcome => outcome.unwrap_or_default(),
        };
        for handle in stale {
            let flushed = context.tr_from_tpm_public(handle).and_then(|object| context.flush_context(object));
            if let Err(error) = flushed {
                tracing::debug!(event = "tpm-flush-failed", %error, "cannot flush what an earlier connection left");
            }
        }
    }
    Ok(())
}

/// The handles that the TPM holds of a kind, given the first handle of that kind.
pub(super) fn list_handles(context: &mut Context, first: u32) -> tss_esapi::Result<Vec<TpmHandle>> {
    match context.get_capability(CapabilityType::Handles, first, 64)?.0 {
        CapabilityData::Handles(list) => Ok(list.into_inner()),
        _ => Ok(Vec::new()),
    }
}

/// TPM 2.0 Part 2, section 7.4 (TPM_HC); the handle type of loaded sessions lists HMAC and policy sessions both.
pub(super) const FIRST_TRANSIENT_HANDLE: u32 = 0x8000_0000;
pub(super) const FIRST_SESSION_HANDLE: u32 = 0x0200_0000;

pub(super) fn create_srk(context: &mut Context) -> Result<(KeyHandle, Public), Error> {
    let template = templates::srk()?;
    let created = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Owner, template, None, None, None, None)
        })
        .map_err(command_failed("TPM2_CreatePrimary"))
        .map_err(add_hierarchy("owner"))?;
    // A primary of another kind would be another key; on error the context's drop flushes it.
    match templates::matches_template(&created.out_public, &templates::srk()?) {
        true => Ok((created.key_handle, created.out_public)),
        false => Err(unexpected_response("TPM2_CreatePrimary")),
    }
}

/// Says whose password it is.
pub(super) fn add_hierarchy(hierarchy: &'static str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::CommandFailed { command, code, text } => {
            Error::CommandFailed { command, code, text: format!("{text}; in the {hierarchy} hierarchy") }
        }
        other => other,
    }
}

/// Says in plain words what libtss2 would only call an I/O error.
pub(super) fn check_device_access(tcti: &Tcti) -> Result<(), Error> {
    let Tcti::Device(path) = tcti else { return Ok(()) };
    nix::unistd::access(path, AccessFlags::R_OK | AccessFlags::W_OK).map_err(|error| Error::CommandFailed {
        command: "opening the device",
        code: Some(TCTI_IO_ERROR),
        text: format!("{}: {}", path.display(), error.desc()),
    })
}

/// TSS2_TCTI_RC_IO_ERROR
pub(super) const TCTI_IO_ERROR: u32 = 0x000A_000A;
