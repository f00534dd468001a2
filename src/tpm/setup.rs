//! The steps of connecting before the first session: open the context, flush stale handles, create the SRK.

use nix::unistd::AccessFlags;
use tss_esapi::Context;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::Public;

use super::capabilities::{FIRST_SESSION_HANDLE, FIRST_TRANSIENT_HANDLE, list_handles};
use super::config::Tcti;
use super::error::{Error, command_failed, unexpected_response};
use super::esys::EsysContext;
use super::{esys, templates};

/// TSS2_TCTI_RC_IO_ERROR
const TCTI_IO_ERROR: u32 = 0x000A_000A;

/// Opens a context on the TPM at `tcti`. For a device, the error names the likely cause.
pub(super) fn open_context(tcti: &Tcti) -> Result<(Context, Option<EsysContext>), Error> {
    check_device_access(tcti)?;
    let name_conf = tcti.to_name_conf().map_err(command_failed("reading the TPM's address"))?;
    esys::open(name_conf).map_err(command_failed("connecting")).map_err(|error| match error {
        _ if tcti.is_emulator() => error,
        // The device exists and may be opened, but its driver got no response from the TPM.
        Error::CommandFailed { code: Some(TCTI_IO_ERROR), .. } => Error::DriverTimeout,
        Error::CommandFailed { command, code, text } => {
            let hint = "libtss2's TCTI for devices may be missing: install libtss2-tcti-device0, or tpm2-tss";
            Error::CommandFailed { command, code, text: format!("{text}; {hint}") }
        }
        other => other,
    })
}

/// Opens a second context for probes, if the TPM accepts one: a device without a resource manager has a
/// single client.
pub(super) fn open_probe_context(tcti: &Tcti) -> Option<Context> {
    Context::new(tcti.to_name_conf().ok()?).ok()
}

/// Checks that a TPM behind a driver responds.
///
/// The driver waits two seconds for `TPM2_GetRandom` and up to five minutes for other commands, during which
/// the process cannot even be killed. So this command is the first on each new connection.
pub(super) fn check_responsive(context: &mut Context) -> Result<(), Error> {
    match context
        .execute_without_session(|context| context.get_random(8))
        .map_err(command_failed("TPM2_GetRandom"))
    {
        Err(error) if error.is_no_response() => Err(Error::DriverTimeout),
        // Any response of the TPM, an error code too, shows that it responds; later commands get the same
        // error.
        _ => Ok(()),
    }
}

/// Flushes the objects and sessions that an interrupted connection left in the TPM.
///
/// The kernel's resource manager does this by itself; swtpm does not track connections. A software TPM serves
/// this daemon alone, so no other program uses these handles.
pub(super) fn flush_stale_handles(context: &mut Context) -> Result<(), Error> {
    for first in [FIRST_TRANSIENT_HANDLE, FIRST_SESSION_HANDLE] {
        let stale = match list_handles(context, first) {
            Err(error) if error.tpm_code().is_none() => return Err(error),
            // A TPM before TPM2_Startup holds no handles, and any other error shows up again at the next
            // command.
            outcome => outcome.unwrap_or_default(),
        };
        for handle in stale {
            let flushed = context.tr_from_tpm_public(handle).and_then(|object| context.flush_context(object));
            if let Err(error) = flushed {
                tracing::debug!(
                    event = "tpm-flush-failed",
                    %error,
                    "cannot flush a handle that an earlier connection left in the TPM"
                );
            }
        }
    }
    Ok(())
}

/// Derives the SRK and leaves it loaded.
pub(super) fn create_srk(context: &mut Context) -> Result<(KeyHandle, Public), Error> {
    let template = templates::srk()?;
    let created = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Owner, template, None, None, None, None)
        })
        .map_err(command_failed("TPM2_CreatePrimary"))
        .map_err(add_hierarchy("owner"))?;
    // A primary of another template would be another key. On error the context's drop flushes it.
    if !templates::matches_template(&created.out_public, &templates::srk()?) {
        return Err(unexpected_response("TPM2_CreatePrimary"));
    }
    Ok((created.key_handle, created.out_public))
}

/// Adds to a failed command's error which hierarchy's authorization it used.
pub(super) fn add_hierarchy(hierarchy: &'static str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::CommandFailed { command, code, text } => {
            Error::CommandFailed { command, code, text: format!("{text}; in the {hierarchy} hierarchy") }
        }
        other => other,
    }
}

/// Checks the device before libtss2 opens it, which reports a missing file or permission as an I/O error
/// alone.
fn check_device_access(tcti: &Tcti) -> Result<(), Error> {
    let Tcti::Device(path) = tcti else { return Ok(()) };
    nix::unistd::access(path, AccessFlags::R_OK | AccessFlags::W_OK).map_err(|error| Error::CommandFailed {
        command: "opening the device",
        code: Some(TCTI_IO_ERROR),
        text: format!("{}: {}", path.display(), error.desc()),
    })
}
