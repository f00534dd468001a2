//! What has been revoked, and is therefore neither valid nor issued.
//!
//! There is one state for the whole host. Every decision, introspection, certificate and stream asks it, so a
//! revocation takes effect everywhere at once:
//!
//! - A [`Target`] (an agent, its owner, its tenant, a unit's invocation, an issuing key, or everything) is revoked
//!   by a [`Revocation`]. It has an *epoch*: a number that grows with each revocation of a target. A token carries
//!   the epoch at its issue, and is revoked if a revocation of one of its targets has a greater epoch. Nothing of
//!   this depends on the clock, so that setting it makes nothing valid again. While a revocation is blocking,
//!   nothing is issued in its target either.
//! - A single token is revoked, or used up ([`Revocations::use_once`]), by its `jti`. A nonce that this host made
//!   is used up in the same way ([`Revocations::use_nonce`]).
//!
//! A revocation takes effect in memory first, and is acknowledged once it is on disk. The database
//! `revocations.db` is compared with the state manifest at each start: revocations of targets are in the manifest
//! at once; single tokens and ended invocations at most [`BATCH_INTERVAL`] later, because each change of the
//! manifest increments the counter in the TPM.

mod changes;
#[cfg(test)]
mod ended_tests;
mod error;
mod handle;
mod nonces;
mod record;
mod set;
pub mod status;
mod storing;
#[cfg(test)]
mod suspension_tests;
mod target;
mod tokens;
mod writer;

use std::time::Duration;

pub use error::Error;
pub(crate) use handle::InEffect;
pub use handle::{NewRevocation, Outcome, Revocations};
pub use nonces::{InvalidNonce, NONCE_TTL};
pub use record::{EndedInvocation, Revocation, revoked_by_rule};
pub use set::{IssuedToken, RevocationSet};
pub use target::{Target, TargetKind};
pub use tokens::TokenKey;

/// How long single revoked tokens and ended invocations may be missing in the state manifest: an older copy of
/// `revocations.db` that is put back within this time after them is not detected.
pub const BATCH_INTERVAL: Duration = Duration::from_secs(600);
/// Revocations of targets that a host can have at once.
pub const MAX_REVOCATIONS: usize = 16_384;
/// Ended invocations that are revoked one by one at once. Beyond, what was issued to the agents of an invocation that
/// ends is revoked for all their invocations.
pub const MAX_ENDED: usize = 8192;
/// Single tokens that can be revoked or used up at once.
pub const MAX_TOKENS: usize = 262_144;
/// Longest reason of a revocation in bytes.
pub const MAX_REASON: usize = 512;
