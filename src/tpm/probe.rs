//! Periodic check that the TPM responds, is the same, and is neither locked out nor password-protected.

use std::time::Duration;

use super::connection::TpmConnection;
use super::error::{Error, unexpected_response};

/// How often a driver's TPM is asked whether it has this connection's SRK; each time the resource manager
/// loads and saves the SRK. A `TPM2_Clear` between requests is therefore detected within five seconds and a
/// probe interval.
const SRK_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// TPM_PT_PERMANENT (TPM 2.0 Part 2, section 6.13).
const PT_PERMANENT: u32 = 0x200;

// Bits of TPMA_PERMANENT.
const OWNER_AUTH_SET: u32 = 1;
const ENDORSEMENT_AUTH_SET: u32 = 1 << 1;
const IN_LOCKOUT: u32 = 1 << 9;

/// Reads TPM_PT_PERMANENT, and checks the SRK: every time for an emulator, every five seconds for a driver's
/// TPM.
///
/// The property is one of the cheapest for a TPM to report. The SRK is lost by a reset and by `TPM2_Clear`,
/// after which commands that need no SRK still succeed.
///
/// For a driver's TPM the property is read on the probe context, on which no object is loaded: before any
/// command the kernel's resource manager loads the context's objects, and waits up to two minutes for that.
/// For this command it waits less than a second.
///
/// # Errors
/// [`Error::DriverTimeout`] if the driver got no response.
pub(super) fn probe(connection: &mut TpmConnection) -> Result<TpmaPermanent, Error> {
    let emulator = connection.is_emulator();
    let permanent = connection.probe_properties(PT_PERMANENT, 1).map_err(|error| {
        // An error with a code of the TPM is a response.
        if error.is_no_response() && !emulator { Error::DriverTimeout } else { error }
    })?;
    if emulator || connection.since_srk_check() >= SRK_CHECK_INTERVAL {
        connection.check_srk()?;
    }
    match permanent[..] {
        [(PT_PERMANENT, bits)] => Ok(TpmaPermanent(bits)),
        _ => Err(unexpected_response("TPM2_GetCapability")),
    }
}

/// TPMA_PERMANENT (TPM 2.0 Part 2, section 8.6).
#[derive(Clone, Copy, Debug)]
pub(super) struct TpmaPermanent(pub(super) u32);

impl TpmaPermanent {
    /// Which of the owner and endorsement hierarchies have a password; empty if neither has.
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
