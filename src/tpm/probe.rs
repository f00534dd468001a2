//! Whether the TPM is there and well, asked again and again for as long as the daemon lives: with what costs the TPM least.

use std::time::Duration;
use std::time::Instant;

use tss_esapi::Context;
use tss_esapi::constants::CapabilityType;
use tss_esapi::structures::CapabilityData;

use super::config::Tcti;
use super::connection::TpmConnection;
use super::connection::unexpected_response;
use super::error::Error;
use super::error::FaultClass;
use super::error::command_failed;

/// How often a driver's TPM is asked whether it has our SRK; the resource manager has to load and save it for that. So a
/// TPM that is cleared while nobody calls is named before the usual deadline of five seconds and two more.
const SRK_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// TPMA_PERMANENT (TPM 2.0 Part 2, section 8.6).
#[derive(Clone, Copy, Debug)]
pub(super) struct TpmaPermanent(pub(super) u32);

impl TpmaPermanent {
    /// The hierarchies we use that a password keeps from us.
    pub(super) fn locked_hierarchies(self) -> &'static str {
        match (self.0 & OWNER_AUTH_SET != 0, self.0 & ENDORSEMENT_AUTH_SET != 0) {
            (false, false) => "",
            (true, false) => "owner",
            (false, true) => "endorsement",
            (true, true) => "owner and endorsement",
        }
    }

    pub(super) fn is_locked_out(self) -> bool {
        self.0 & IN_LOCKOUT != 0
    }
}

/// TPM 2.0 Part 2, section 6.13
const PT_PERMANENT: u32 = 0x200;
const OWNER_AUTH_SET: u32 = 1;
const ENDORSEMENT_AUTH_SET: u32 = 1 << 1;
const IN_LOCKOUT: u32 = 1 << 9;

impl TpmConnection {
    /// Asks for TPM_PT_PERMANENT (TPM 2.0 Part 2, section 8.6), which says whether the TPM is locked out or has
    /// passwords. It takes the TPM about as little as anything can. Now and then it is asked for our SRK as well, which it
    /// loses by a reset and by `TPM2_Clear`, after which all that needs no SRK goes on.
    ///
    /// A driver's TPM is asked where we have nothing loaded: before any command the kernel's resource manager loads what
    /// we have, and waits two minutes for that. For this command it waits less than a second.
    pub(super) fn probe(&mut self) -> Result<TpmaPermanent, Error> {
        let context = self.probe_context.as_mut().unwrap_or(&mut self.context);
        let permanent = properties(context, PT_PERMANENT, 1).map_err(|error| match error {
            // The driver waited in vain. Only an answer has a code of the TPM.
            _ if !self.is_emulator()
                && error.fault_class() == FaultClass::Transport
                && error.tpm_code().is_none() =>
            {
                Error::DriverTimeout
            }
            error => error,
        })?;
        if self.is_emulator() || self.srk_checked_at.elapsed() >= SRK_CHECK_INTERVAL {
            self.check_srk()?;
        }
        match permanent[..] {
            [(PT_PERMANENT, bits)] => Ok(TpmaPermanent(bits)),
            _ => Err(unexpected_response("TPM2_GetCapability")),
        }
    }

    fn check_srk(&mut self) -> Result<(), Error> {
        let srk = self.srk();
        let (_, name, _) = self.run_without_session("TPM2_ReadPublic", |context| context.read_public(srk))?;
        self.srk_checked_at = Instant::now();
        match name.value() == self.identity().srk_name {
            true => Ok(()),
            false => Err(unexpected_response("TPM2_ReadPublic")),
        }
    }
}

/// Sees whether a TPM behind a driver answers at all.
///
/// The driver waits two seconds for this command and up to five minutes for others, in which the process cannot even be
/// killed. So it goes first wherever the TPM was not heard of for a while.
pub(super) fn check_responsive(context: &mut Context) -> Result<(), Error> {
    match context
        .execute_without_session(|context| context.get_random(8))
        .map_err(command_failed("TPM2_GetRandom"))
    {
        Err(error) if error.fault_class() == FaultClass::Transport && error.tpm_code().is_none() => {
            Err(Error::DriverTimeout)
        }
        // Whatever else it says is an answer, and the commands to come will hear the same.
        _ => Ok(()),
    }
}

/// Values of consecutive TPM properties, from the first one on.
pub(super) fn properties(context: &mut Context, first: u32, count: u32) -> Result<Vec<(u32, u32)>, Error> {
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

/// A context of its own; a device without a resource manager has place for one alone.
pub(super) fn open_probe_context(tcti: &Tcti) -> Option<Context> {
    Context::new(tcti.to_name_conf().ok()?).ok()
}
