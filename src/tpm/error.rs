//! The room's one error, and what a TSS response code says about the TPM behind it.

use std::time::Duration;

use tss_esapi::constants::response_code::Tss2ResponseCode;

use super::state::StateKind;
use crate::error_class::ErrorClass;

/// Why the TPM room could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("this host already has its TPM keys; move the stored TPM objects away to make new ones")]
    AlreadyProvisioned,
    #[error("the TPM has not answered within {} ms; try again later", .0.as_millis())]
    DeadlineExceeded(Duration),
    #[error("this host has no TPM keys yet; provision it first")]
    NotProvisioned,
    #[error(
        "the stored TPM objects are not usable: {0}; restore them from a backup, or move them away and enroll the host anew"
    )]
    InvalidObjects(String),
    /// What was sealed to these PCRs does not open, since they have other values now.
    #[error("sealed to PCRs that have changed: {}", join_numbers(.0))]
    PcrsChanged(Vec<u8>),
    #[error("too many calls wait for the TPM; try again later")]
    QueueFull,
    #[error("{0}")]
    RequestFailed(String),
    /// The kernel's driver waited in vain.
    #[error("the TPM does not answer its driver")]
    DriverTimeout,
    #[error("the TPM is {}: {}", .0, .0.remedy())]
    NotReady(StateKind),
    #[error("the TPM room has stopped; restart the daemon")]
    Stopped,
    /// A command failed, in the TPM or on the way to it. `code` is the TSS response code with its layer, where there is one.
    #[error("{command} failed: {text}")]
    CommandFailed { command: &'static str, code: Option<u32>, text: String },
}

impl Error {
    /// What this failure means for the caller of a request that needed the TPM.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::AlreadyProvisioned => ErrorClass::Conflict,
            Error::InvalidObjects(_) => ErrorClass::Internal,
            Error::CommandFailed { .. } if self.fault_class() == FaultClass::Request => ErrorClass::Internal,
            _ => ErrorClass::Unavailable,
        }
    }

    /// What this failure says about the connection to the TPM.
    pub(super) fn fault_class(&self) -> FaultClass {
        match self {
            Error::DriverTimeout => FaultClass::Transport,
            Error::CommandFailed { command, code: Some(code), .. } => {
                FaultClass::from_response_code(command, *code)
            }
            _ => FaultClass::Request,
        }
    }

    /// The TPM's own response code (layer 0, or passed on by a resource manager).
    pub(super) fn tpm_code(&self) -> Option<u32> {
        match self {
            Error::CommandFailed { code: Some(code), .. } if is_from_tpm(*code) => Some(code & 0xFFF),
            _ => None,
        }
    }
}

/// Turns a tss-esapi error into ours, with the name of the command: `.map_err(tpm("TPM2_Sign"))`.
pub(super) fn command_failed(command: &'static str) -> impl Fn(tss_esapi::Error) -> Error {
    move |error| {
        let code = raw_code(error);
        let text = match code {
            Some(code) if is_from_tpm(code) => format!("{error} ({code:#x})"),
            // tss-esapi forgets the layer, so its text for these would name a TPM error that is none.
            Some(code) => format!("{} ({code:#x})", describe_layer(code)),
            None => error.to_string(),
        };
        Error::CommandFailed { command, code, text }
    }
}

/// What must be done about the connection after a failed command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FaultClass {
    /// A hierarchy wants a password.
    Authorization,
    /// Only this call failed.
    Request,
    /// The TPM has no room for an object or a session.
    OutOfMemory,
    /// The TPM has no time now.
    RetryLater,
    /// The way to the TPM broke; the context is of no more use.
    Transport,
    /// Dictionary attack lockout.
    Lockout,
    /// The TPM lost our session or our SRK.
    Reset,
}

impl FaultClass {
    /// Whether the TPM may do the same a moment later.
    pub(super) fn is_transient(self) -> bool {
        matches!(self, FaultClass::OutOfMemory | FaultClass::RetryLater)
    }

    /// TCG TPM 2.0 Part 2, section 6.6.3 (TPM_RC); TSS 2.0 Overview, section 3.5 (layers).
    fn from_response_code(command: &str, code: u32) -> FaultClass {
        if !is_from_tpm(code) {
            return FaultClass::Transport;
        }
        // What could not be flushed stays in the TPM until the connection ends.
        if command == "TPM2_FlushContext" {
            return FaultClass::Transport;
        }
        match code & 0xFFF {
            INITIALIZE | CONTEXT_GAP | REFERENCE_H0..=REFERENCE_S6 => FaultClass::Reset,
            FAILURE => FaultClass::Transport,
            OBJECT_MEMORY..=SESSION_HANDLES => FaultClass::OutOfMemory,
            YIELDED | TESTING | NV_RATE | RETRY | NV_UNAVAILABLE => FaultClass::RetryLater,
            LOCKOUT => FaultClass::Lockout,
            rc if is_format_one(rc) => FaultClass::from_format_one(command, rc),
            _ => FaultClass::Request,
        }
    }

    /// Our objects have no password, so a failed authorization is a hierarchy's, or a session the TPM no longer has.
    fn from_format_one(command: &str, rc: u32) -> FaultClass {
        let number = rc & 0x3F;
        let about_session = rc & 0x40 == 0 && rc & 0x800 != 0;
        let about_handle = rc & 0x40 == 0 && rc & 0x800 == 0;
        match number {
            AUTH_FAIL | BAD_AUTH if command == "TPM2_CreatePrimary" => FaultClass::Authorization,
            // A policy that does not hold is told of its session, which is well.
            POLICY_FAIL => FaultClass::Request,
            _ if about_session => FaultClass::Reset,
            HANDLE if about_handle => FaultClass::Reset,
            _ => FaultClass::Request,
        }
    }
}

const INITIALIZE: u32 = 0x100;
const FAILURE: u32 = 0x101;
const PCR_CHANGED: u32 = 0x128;
const CONTEXT_GAP: u32 = 0x901;
const OBJECT_MEMORY: u32 = 0x902;
const SESSION_HANDLES: u32 = 0x905;
const YIELDED: u32 = 0x908;
const TESTING: u32 = 0x90A;
const REFERENCE_H0: u32 = 0x910;
const REFERENCE_S6: u32 = 0x91E;
const NV_RATE: u32 = 0x920;
const LOCKOUT: u32 = 0x921;
const RETRY: u32 = 0x922;
const NV_UNAVAILABLE: u32 = 0x923;
// Format one: the low six bits.
const HANDLE: u32 = 0x0B;
const AUTH_FAIL: u32 = 0x0E;
const POLICY_FAIL: u32 = 0x1D;
const BAD_AUTH: u32 = 0x22;

/// Whether the TPM says that it needs `TPM2_Startup`.
pub(super) fn needs_startup(error: &Error) -> bool {
    error.tpm_code() == Some(INITIALIZE)
}

/// Whether the TPM says that it has nothing at this handle.
pub(super) fn is_unknown_handle(error: &Error) -> bool {
    error.tpm_code().is_some_and(|rc| is_format_one(rc) && rc & 0x7F == HANDLE)
}

/// Whether the TPM says that a policy does not hold.
pub(super) fn is_policy_failure(error: &Error) -> bool {
    error.tpm_code().is_some_and(|rc| is_format_one(rc) && rc & 0x3F == POLICY_FAIL)
}

/// Whether the TPM says that PCRs were extended in the middle.
pub(super) fn is_pcr_changed(error: &Error) -> bool {
    error.tpm_code() == Some(PCR_CHANGED)
}

fn join_numbers(numbers: &[u8]) -> String {
    numbers.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether the TPM says that a parameter of the command is wrong.
pub(super) fn is_parameter_error(error: &Error) -> bool {
    error.tpm_code().is_some_and(|rc| is_format_one(rc) && rc & 0x40 != 0)
}

/// Whether the TPM says that it failed: this once, or for good until it is reset.
pub(super) fn is_tpm_failure(error: &Error) -> bool {
    error.tpm_code() == Some(FAILURE)
}

fn is_format_one(rc: u32) -> bool {
    rc & 0x80 != 0
}

/// Layer 0 is the TPM; 11 and 12 are a resource manager that speaks in its name.
fn is_from_tpm(code: u32) -> bool {
    matches!(code >> 16, 0 | 11 | 12)
}

fn describe_layer(code: u32) -> &'static str {
    match code >> 16 {
        7 => "the TSS library lost its place with the TPM",
        8 | 9 => "the TSS library could not read the TPM's answer",
        10 => "the TPM cannot be reached",
        _ => "the TSS library failed",
    }
}

/// The whole response code. tss-esapi 7 keeps it private and shows it only in this text.
fn raw_code(error: tss_esapi::Error) -> Option<u32> {
    let tss_esapi::Error::Tss2Error(code) = error else { return None };
    let text = match code {
        Tss2ResponseCode::Success => return None,
        Tss2ResponseCode::FormatZero(code) => code.to_string(),
        Tss2ResponseCode::FormatOne(code) => code.to_string(),
    };
    let (_, digits) = text.rsplit_once("0x")?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_codes_map_to_fault_classes() {
        let cases = [
            (0x000A_000A, "TPM2_Sign", FaultClass::Transport),
            (0x0007_0007, "TPM2_Sign", FaultClass::Transport),
            (0x0009_0006, "TPM2_Sign", FaultClass::Transport),
            (0x922, "TPM2_FlushContext", FaultClass::Transport),
            (0x101, "TPM2_Sign", FaultClass::Transport),
            (0x100, "TPM2_Sign", FaultClass::Reset),
            (0x000B_0100, "TPM2_Sign", FaultClass::Reset),
            (0x901, "TPM2_Sign", FaultClass::Reset),
            (0x910, "TPM2_Load", FaultClass::Reset),
            (0x918, "TPM2_Load", FaultClass::Reset),
            (0x18B, "TPM2_Load", FaultClass::Reset),
            (0x98E, "TPM2_Load", FaultClass::Reset),
            (0x9A2, "TPM2_CreatePrimary", FaultClass::Authorization),
            (0x98E, "TPM2_CreatePrimary", FaultClass::Authorization),
            (0x921, "TPM2_Load", FaultClass::Lockout),
            (0x902, "TPM2_Load", FaultClass::OutOfMemory),
            (0x922, "TPM2_Load", FaultClass::RetryLater),
            (0x1DF, "TPM2_Load", FaultClass::Request),
            (0x000B_0143, "TPM2_Load", FaultClass::Request),
        ];
        for (code, command, fault) in cases {
            assert_eq!(FaultClass::from_response_code(command, code), fault, "{code:#x} {command}");
        }
    }

    #[test]
    fn raw_code_survives_tss_esapi() {
        let unreachable = super::super::config::Tcti::Swtpm { host: std::net::Ipv4Addr::LOCALHOST, port: 1 };
        let error = tss_esapi::Context::new(unreachable.to_name_conf().unwrap())
            .map_err(command_failed("connecting"))
            .unwrap_err();
        assert_eq!(error.fault_class(), FaultClass::Transport, "{error}");
        assert!(
            matches!(error, Error::CommandFailed { code: Some(code), .. } if code >> 16 == 10),
            "{error:?}"
        );
    }
}
