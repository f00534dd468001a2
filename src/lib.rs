//! hostbadge vouches for the AI agents on a Linux host.
pub mod tpm;
