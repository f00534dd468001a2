//! The TPM module's error types, and what a TSS response code says about the connection to the TPM.

use std::time::Duration;

use tss_esapi::constants::response_code::Tss2ResponseCode;

use super::counter_value::CounterValue;
use super::state::StateKind;
use crate::error_class::ErrorClass;

/// Why a TPM operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host has TPM objects, so [`super::Tpm::provision`] does not replace them.
    #[error("this host already has its TPM keys; move the stored TPM objects away to make new ones")]
    AlreadyProvisioned,
    /// The caller's deadline passed before the TPM answered, time in the queue included.
    #[error("the TPM has not answered within {} ms; try again later", .0.as_millis())]
    DeadlineExceeded(Duration),
    /// The operation needs TPM objects, and the host has none.
    #[error("this host has no TPM keys yet; provision it first")]
    NotProvisioned,
    /// The stored objects are malformed, do not belong together, or belong to another TPM; the text says
    /// which.
    #[error(
        "the stored TPM objects are not usable: {0}; restore them from a backup, or move them away and \
         enroll the host again"
    )]
    InvalidObjects(String),
    /// Data sealed to these PCRs cannot be unsealed, since they have other values now.
    #[error("sealed to PCRs that have changed: {}", join_numbers(.0))]
    PcrsChanged(Vec<u8>),
    /// Data sealed to this value of a counter cannot be unsealed, since the counter has another value now, or is
    /// gone.
    #[error("sealed to the value {} of the counter at {:#x}, which has another one now", .0.value, .0.index)]
    CounterMoved(CounterValue),
    /// The request queue is full.
    #[error("too many calls wait for the TPM; try again later")]
    QueueFull,
    /// The request cannot be served, although the connection to the TPM works.
    #[error(transparent)]
    RequestFailed(#[from] RequestError),
    /// The kernel's driver got no response from the TPM.
    #[error("the TPM does not answer its driver")]
    DriverTimeout,
    /// The TPM is in a state in which the operation is not possible.
    #[error("the TPM is {}: {}", .0, .0.remedy())]
    NotReady(StateKind),
    /// The TPM thread has ended: after [`super::Tpm::shutdown`], or by a panic.
    #[error("the TPM thread has exited; restart the daemon")]
    Stopped,
    /// A command failed, in the TPM or on the way to it.
    #[error("{command} failed: {text}")]
    CommandFailed {
        /// The command's name in the TPM 2.0 specification, or a description of the step.
        command: &'static str,
        /// The TSS response code with its layer, if there is one.
        code: Option<u32>,
        /// The response code in words.
        text: String,
    },
}

/// Why a request cannot be served by a TPM that works.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A request for more random bytes than one call returns.
    #[error("the TPM gives at most {max} random bytes at a time, not {requested}")]
    TooManyRandomBytes {
        /// The number of bytes requested.
        requested: usize,
        /// The maximum for one call.
        max: usize,
    },
    /// Data to seal that is empty or longer than a sealed object holds.
    #[error("a TPM seals 1 to {max} bytes, not {length}")]
    SealedDataLength {
        /// The length of the data in bytes.
        length: usize,
        /// The maximum length in bytes.
        max: usize,
    },
    /// A PCR selection that is empty, not in ascending order, or has a number above 23.
    #[error("PCRs are numbers from 0 to 23, each once, in ascending order")]
    InvalidPcrSelection,
    /// The TPM has no SHA-256 bank of PCRs allocated.
    #[error("this TPM has no SHA-256 bank of PCRs; enable it in the firmware")]
    NoSha256Bank,
    /// PCRs were extended during each attempt.
    #[error("the PCRs changed during each attempt; try again when the host is quiet")]
    PcrsUnstable,
    /// Parts of a credential that exceed the sizes of the TPM's structures.
    #[error("the credential's parts are longer than a TPM accepts")]
    CredentialTooLong,
    /// The TPM did not decrypt a credential; the text is its response code.
    #[error("the credential is for another TPM or another attestation key, or was damaged ({0})")]
    CredentialRejected(String),
    /// There is no counter at this NV index.
    #[error("the TPM has no counter at {0:#x} any more")]
    NoCounter(u32),
    /// The NV index of audit checkpoints has another value than expected, other attributes, or is gone.
    #[error("the NV index at {0:#x} was extended by another program, defined again or deleted")]
    AuditIndexMoved(u32),
    /// All NV indices of one kind that hostbadge uses are defined already.
    #[error(
        "the TPM's NV indices {first:#x} to {last:#x} are all taken: remove one that no system on this machine uses \
         (tpm2_getcap handles-nv-index, tpm2_nvundefine -C o INDEX)"
    )]
    NoFreeIndex {
        /// The first NV index.
        first: u32,
        /// The last NV index.
        last: u32,
    },
    /// `getrandom(2)` failed.
    #[error("the kernel gives no random numbers")]
    KernelRandom,
}

impl Error {
    /// What this failure means for the caller of a request that needed the TPM.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::AlreadyProvisioned | Error::CounterMoved(_) => ErrorClass::Conflict,
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

    /// Whether the TPM's response to a command did not arrive, or cannot be parsed.
    pub(super) fn is_no_response(&self) -> bool {
        self.fault_class() == FaultClass::Transport && self.tpm_code().is_none()
    }

    /// The TPM's own response code (layer 0, or passed on by a resource manager).
    pub(super) fn tpm_code(&self) -> Option<u32> {
        match self {
            Error::CommandFailed { code: Some(code), .. } if is_from_tpm(*code) => Some(code & 0xFFF),
            _ => None,
        }
    }
}

/// Converts a tss-esapi error, adding the command's name: `.map_err(command_failed("TPM2_Sign"))`.
pub(super) fn command_failed(command: &'static str) -> impl Fn(tss_esapi::Error) -> Error {
    move |error| {
        let code = raw_code(error);
        let text = match code {
            Some(code) if is_from_tpm(code) => format!("{error} ({code:#x})"),
            // tss-esapi drops the layer, so its text for these would name an unrelated TPM error.
            Some(code) => format!("{} ({code:#x})", describe_layer(code)),
            None => error.to_string(),
        };
        Error::CommandFailed { command, code, text }
    }
}

/// A response code of libtss2, other than success, to a command that tss-esapi does not wrap.
pub(super) fn response_failed(command: &'static str, code: u32) -> Error {
    let text = match is_from_tpm(code) {
        true => format!("response code {code:#x}"),
        false => format!("{} ({code:#x})", describe_layer(code)),
    };
    Error::CommandFailed { command, code: Some(code), text }
}

/// A response that does not match its command.
pub(super) fn unexpected_response(command: &'static str) -> Error {
    Error::CommandFailed { command, code: None, text: "the TPM's response does not match the command".into() }
}

/// What a failed command says about the connection and the TPM; the actor's recovery depends on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FaultClass {
    /// A hierarchy or an NV index has another authorization than the command was sent with.
    Authorization,
    /// Only this request failed; the connection is usable.
    Request,
    /// The TPM has no memory for an object or a session (TPM_RC_*_MEMORY, TPM_RC_*_HANDLES).
    OutOfMemory,
    /// The TPM cannot run the command now (TPM_RC_RETRY, TPM_RC_TESTING, TPM_RC_NV_RATE and the like).
    RetryLater,
    /// The connection to the TPM failed; the context cannot be used again.
    Transport,
    /// Dictionary attack lockout.
    Lockout,
    /// The TPM no longer has this connection's session or SRK.
    Reset,
}

impl FaultClass {
    /// Whether the same command may succeed a moment later on the same connection.
    pub(super) fn is_transient(self) -> bool {
        matches!(self, FaultClass::OutOfMemory | FaultClass::RetryLater)
    }

    /// TCG TPM 2.0 Part 2, section 6.6.3 (TPM_RC); TSS 2.0 Overview, section 3.5 (layers).
    fn from_response_code(command: &str, code: u32) -> FaultClass {
        if !is_from_tpm(code) {
            return FaultClass::Transport;
        }
        // An object that could not be flushed remains in the TPM until the connection ends.
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

    /// The host's objects have no password, so an authorization failure concerns a hierarchy's password, that
    /// of an NV index, or a session that the TPM no longer has.
    fn from_format_one(command: &str, rc: u32) -> FaultClass {
        let number = rc & 0x3F;
        let about_session = rc & 0x40 == 0 && rc & 0x800 != 0;
        let about_handle = rc & 0x40 == 0 && rc & 0x800 == 0;
        match number {
            AUTH_FAIL | BAD_AUTH if uses_foreign_authorization(command) => FaultClass::Authorization,
            // An unsatisfied policy is reported for its session, although the session is intact.
            POLICY_FAIL => FaultClass::Request,
            _ if about_session => FaultClass::Reset,
            HANDLE if about_handle => FaultClass::Reset,
            _ => FaultClass::Request,
        }
    }
}

/// Whether the command is authorized by a hierarchy or an NV index, whose passwords others may set.
fn uses_foreign_authorization(command: &str) -> bool {
    matches!(command, "TPM2_CreatePrimary" | "TPM2_PolicySecret" | "TPM2_PolicyNV")
        || command.starts_with("TPM2_NV_")
}

const INITIALIZE: u32 = 0x100;
const FAILURE: u32 = 0x101;
const POLICY: u32 = 0x126;
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

/// Whether the TPM requires `TPM2_Startup` first (TPM_RC_INITIALIZE).
pub(super) fn needs_startup(error: &Error) -> bool {
    error.tpm_code() == Some(INITIALIZE)
}

/// Whether the TPM has no object or NV index at the handle (TPM_RC_HANDLE).
pub(super) fn is_unknown_handle(error: &Error) -> bool {
    error.tpm_code().is_some_and(|rc| is_format_one(rc) && rc & 0x7F == HANDLE)
}

/// Whether a policy session does not satisfy the object's policy (TPM_RC_POLICY_FAIL).
pub(super) fn is_policy_failure(error: &Error) -> bool {
    error.tpm_code().is_some_and(|rc| is_format_one(rc) && rc & 0x3F == POLICY_FAIL)
}

/// Whether an NV index does not have the value that a policy requires (TPM_RC_POLICY).
pub(super) fn is_policy_mismatch(error: &Error) -> bool {
    matches!(error, Error::CommandFailed { command: "TPM2_PolicyNV", .. }) && error.tpm_code() == Some(POLICY)
}

/// Whether a PCR was extended after `TPM2_PolicyPCR` (TPM_RC_PCR_CHANGED).
pub(super) fn is_pcr_changed(error: &Error) -> bool {
    error.tpm_code() == Some(PCR_CHANGED)
}

fn join_numbers(numbers: &[u8]) -> String {
    numbers.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether the TPM rejected a parameter of the command (format one, parameter error).
pub(super) fn is_parameter_error(error: &Error) -> bool {
    error.tpm_code().is_some_and(|rc| is_format_one(rc) && rc & 0x40 != 0)
}

/// Whether the response is TPM_RC_FAILURE: either this command failed, or the TPM is in failure mode until
/// reset.
pub(super) fn is_tpm_failure(error: &Error) -> bool {
    error.tpm_code() == Some(FAILURE)
}

fn is_format_one(rc: u32) -> bool {
    rc & 0x80 != 0
}

/// Layer 0 is the TPM; 11 and 12 are resource managers, which pass on the TPM's codes.
fn is_from_tpm(code: u32) -> bool {
    matches!(code >> 16, 0 | 11 | 12)
}

fn describe_layer(code: u32) -> &'static str {
    match code >> 16 {
        7 => "the TSS library is out of step with the TPM",
        8 | 9 => "the TSS library could not parse the TPM's response",
        10 => "the TPM cannot be reached",
        _ => "the TSS library failed",
    }
}

/// The complete response code. tss-esapi 7 keeps it private; only its `Display` text contains it.
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
            (0x9A2, "TPM2_NV_Read", FaultClass::Authorization),
            (0x98E, "TPM2_NV_Read", FaultClass::Authorization),
            (0x98E, "TPM2_PolicySecret", FaultClass::Authorization),
            (0x9A2, "TPM2_PolicyNV", FaultClass::Authorization),
            (0x126, "TPM2_PolicyNV", FaultClass::Request),
            (0x918, "TPM2_NV_Read", FaultClass::Reset),
            (0x149, "TPM2_NV_Read", FaultClass::Request),
            (0x14A, "TPM2_NV_Read", FaultClass::Request),
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
