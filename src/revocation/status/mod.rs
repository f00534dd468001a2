//! Status lists (Token Status List): which index each token has, and what decides whether it is revoked.
//!
//! A list is a number of indices. A token gets a random one that no other token has, for as long as it lives and
//! for as long as the clock may be set back. The table has no bits: whether an index is revoked follows from the
//! one state of revocations and from the registered agents, whenever a list is signed.
//!
//! The table is in `status-lists.db`, which is written every few seconds and not before a token is returned. A
//! daemon that ended without writing it does not know the last tokens: all indices of its lists that no known
//! token has are therefore revoked, and its lists get no further tokens.

mod assigned;
mod handle;
#[cfg(test)]
mod lifecycle_tests;
mod list;
mod storage;
mod subject;
mod table;

use std::time::Duration;

use crate::agents::MAX_TOKEN_TTL;

pub use handle::{StatusLists, StatusReport, TokenStatus};
pub use list::{Entry, ListSnapshot};
pub use subject::{NewSubject, Subject};
pub use table::{AssignError, StatusIndex};

/// Lists of one issuer, the host or a tenant.
pub const MAX_LISTS: usize = 64;
/// Tokens of the whole host that have an index. An issuer may not have more of them than are free, so that one
/// alone has at most half, and leaves some for others.
pub const MAX_INDICES: usize = 1 << 21;
/// Indices of the first list of an issuer, of its second, and of each further one.
const CAPACITIES: [u32; 3] = [1 << 13, 1 << 16, 1 << 20];
/// How long an unknown token may live after the daemon that issued it ended.
const LONGEST_TOKEN: Duration = Duration::from_secs(MAX_TOKEN_TTL.as_secs() + 60);
