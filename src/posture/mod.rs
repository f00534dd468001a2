//! Host posture: compares the quoted PCRs with a baseline that an administrator accepted, and reads which
//! programs IMA measured.
//!
//! No request waits for the TPM. The posture monitor in `daemon` reads the PCRs and stores a
//! [`PostureSnapshot`] in [`PostureState`]; a decision evaluates the snapshot, as long as it is fresh.

pub(crate) mod baseline;
mod commands;
mod error;
mod event_log;
mod ima_digests;
mod ima_error;
mod ima_list;
mod kind;
mod pcr_diff;
mod state;
mod verified_list;

pub use crate::config::PostureMode;
pub use crate::tpm::PcrValues;
pub(crate) use baseline::pcr_digest;
pub use baseline::{Acceptance, Baseline};
pub use commands::{
    PostureAction, PostureCommand, PostureCommandError, PostureCommandReceiver, PostureCommandSender,
    command_channel,
};
pub use error::Error;
pub use event_log::EventLogFile;
pub use ima_digests::ImaDigests;
pub use ima_error::{ImaError, ImaListError, ImaListOmitted};
pub use ima_list::ImaListFile;
pub use kind::Posture;
pub(crate) use pcr_diff::{changed_pcrs, describe_pcr_changes};
pub use state::{PcrReading, PostureAtDecision, PostureSnapshot, PostureState};
