//! hostbadge vouches for the AI agents on a Linux host.
pub mod agents;
pub mod api;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod enroll;
pub mod issue;
pub mod peer;
pub mod policy;
pub mod posture;
pub mod road;
pub mod store;
pub mod tpm;
pub mod vault;
pub mod verify;
