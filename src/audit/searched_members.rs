//! The members of a record by which it is searched, in the file itself and for the index.

use std::borrow::Cow;

use serde::Deserialize;

/// What a search compares beside the members that each reader needs ([`super::line::LineMembers`]).
#[derive(Default, Deserialize)]
pub(super) struct SearchedMembers<'a> {
    #[serde(borrow, default)]
    pub(super) owner: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) audience: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) correlation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) peer: Option<SearchedPeer<'a>>,
}

/// The process that a record is about.
#[derive(Deserialize)]
pub(super) struct SearchedPeer<'a> {
    #[serde(default)]
    pub(super) pid: i64,
    #[serde(borrow, default)]
    pub(super) unit: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) invocation: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) exe_sha256: Option<Cow<'a, str>>,
}

impl SearchedPeer<'_> {
    /// What identifies the process in a search: pid, unit, invocation and digest of the executable.
    pub(super) fn ids(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let texts = [&self.unit, &self.invocation, &self.exe_sha256];
        let texts = texts.into_iter().flatten().map(|text| Cow::Borrowed(&**text));
        std::iter::once(Cow::Owned(self.pid.to_string())).chain(texts)
    }
}
