//! The calling process in a record.

use serde::Serializer;
use serde::ser::SerializeStruct;

use super::super::text::{BoundedText, MAX_EXE_PATH};
use super::{from_caller, name};
use crate::peer::Peer;

/// Writes the member `peer`.
pub(super) fn serialize<S: Serializer>(peer: &Option<&Peer>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(peer) = peer else { return serializer.serialize_none() };
    let exe = peer.exe().map(|path| path.to_string_lossy());
    let mut out = serializer.serialize_struct("peer", 8)?;
    out.serialize_field("pid", &peer.pid)?;
    out.serialize_field("uid", &peer.uid)?;
    out.serialize_field("gid", &peer.gid)?;
    out.serialize_field("unit", &peer.unit.as_deref().map(from_caller))?;
    out.serialize_field("invocation", &peer.invocation.as_deref().map(name))?;
    out.serialize_field("exe", &exe.as_deref().map(|path| BoundedText::new(path, MAX_EXE_PATH)))?;
    out.serialize_field("exe_sha256", &peer.exe_sha256())?;
    out.serialize_field("pinned", &peer.pinned)?;
    out.end()
}
