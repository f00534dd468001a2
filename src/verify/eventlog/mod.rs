//! The boot event log: what firmware and boot loaders measured into the PCRs.
//!
//! The format is the crypto-agile one of the TCG PC Client Platform Firmware Profile (section 10), as Linux
//! exports it in `binary_bios_measurements`. Sections are those of the profile unless another document is
//! named.
//!
//! The log is untrusted. Proven are only the digests that replay to a quoted PCR, and data that has such a
//! digest. No digest covers an event's type: what is proven is therefore interpreted without it, and what
//! depends on it is called a claim.

mod describe;
mod diff;
mod event;
mod event_types;
mod log;
mod parse;
#[cfg(test)]
mod sample_log;
mod uefi;

pub use describe::{describe_event, pcr_usage};
pub use diff::{EventChange, diff};
pub use event::{BootEvent, EventContent};
pub use log::EventLog;
#[cfg(test)]
pub(crate) use sample_log::sample_boot_log;
pub use uefi::UefiVariable;
