//! The members of a record that say what an agent used.

use std::borrow::Cow;

use serde::Deserialize;

use crate::clock::Timestamp;

/// The members of a line that count.
#[derive(Debug, Deserialize)]
pub(super) struct UsedRecord<'a> {
    #[serde(default)]
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) agent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) audience: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) scope: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) credential: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) exp: Option<u64>,
    #[serde(borrow, default)]
    pub(super) jti: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) kid: Option<Cow<'a, str>>,
    /// How far the kernel trusts the clock; absent if it is synchronized.
    #[serde(borrow, default)]
    pub(super) clock: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) boot_id: Option<Cow<'a, str>>,
    /// The time since the boot.
    #[serde(default)]
    pub(super) monotonic_us: Option<u64>,
    #[serde(borrow, default)]
    pub(super) detail: Option<Cow<'a, str>>,
    /// Refusals before this one that have no record.
    #[serde(default)]
    pub(super) suppressed: u64,
    #[serde(borrow, default)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) peer: Option<UsedPeer<'a>>,
}

/// The process that asked.
#[derive(Debug, Deserialize)]
pub(super) struct UsedPeer<'a> {
    pub(super) uid: u32,
    #[serde(borrow, default)]
    pub(super) unit: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) invocation: Option<Cow<'a, str>>,
}
