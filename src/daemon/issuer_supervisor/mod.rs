//! Supervises the issuer: opens the TPM, loads or recovers the keys, rotates them, and executes
//! administrators' key commands.
//!
//! One task is the state machine. It is in one of three phases:
//!
//! | phase | left when | key commands accepted |
//! |---|---|---|
//! | open the TPM | the objects file `tpm.json` is readable | - (they wait) |
//! | load the keys | the keystore opens and the issuer is ready | accept state, recover |
//! | rotate the keys | the daemon stops | rotate, create recovery key |
//!
//! A step that fails is retried after 2 s, in the last phase after 10 s where the active key keeps signing;
//! [`IssuerHandle`] publishes the cause.

mod context;
mod key_changes;
mod recovery;
mod rotation;
mod rsa_creation;
mod rsa_key;
mod startup;
mod supervisor;

pub(super) use context::IssuerDeps;
pub(super) use supervisor::{IssuerHandle, spawn};
