//! Who is calling, as the kernel tells it.
//!
//! A [`Caller`] is one connection. It is taken apart at accept, when nothing of the request has been read, and looked
//! at afresh at each request: a process can exec, change its user or die between two of them. What comes out is a
//! [`Peer`], the first step of the road, and nothing but this room can make one.
//!
//! Where the kernel has SO_PEERPIDFD (6.5) the process is pinned: the pid cannot be another's while facts about it
//! are read. Elsewhere a pidfd is opened by number, start time and uid are compared before and after, and the peer is
//! marked unpinned.

mod cgroup;
mod executable;
mod process;
mod sys;
mod tracker;

use std::path::PathBuf;
use std::sync::Arc;

pub use executable::{DigestCache, Sha256Digest};
pub use sys::PeerCredentials;
pub use tracker::PeerTracker;

/// The process at the other end of the socket, looked at once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer(Arc<PeerInfo>);

impl std::ops::Deref for Peer {
    type Target = PeerInfo;

    fn deref(&self) -> &PeerInfo {
        &self.0
    }
}

/// What is known of a peer.
#[derive(Debug)]
pub struct PeerInfo {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups at connect.
    pub groups: Vec<u32>,
    /// Whether the kernel pinned the process (SO_PEERPIDFD).
    pub pinned: bool,
    /// System unit, such as `researcher.service`.
    pub unit: Option<String>,
    /// The unit's invocation, 32 hexadecimal digits.
    pub invocation: Option<String>,
    /// None where we lack the right to read it.
    exe: Option<executable::Executable>,
}

impl PeerInfo {
    /// Path of the executable as the kernel shows it; decoration, since a mount namespace can name files at will.
    pub fn exe(&self) -> Option<&PathBuf> {
        self.exe.as_ref().map(|exe| &exe.path)
    }

    /// SHA-256 of the executable, if it was computed before.
    pub fn exe_sha256(&self) -> Option<Sha256Digest> {
        self.exe.as_ref().and_then(|exe| exe.cached_digest())
    }

    /// SHA-256 of the executable that really runs: read from the open `/proc/PID/exe`, never from its path.
    pub async fn compute_exe_sha256(&self, cache: &DigestCache) -> Option<Sha256Digest> {
        match &self.exe {
            Some(exe) => exe.digest(cache).await,
            None => None,
        }
    }

    /// Whether the peer is in group `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// One look at a caller.
#[derive(Debug)]
pub struct PeerLookup {
    /// Who connected: known even where nothing else is.
    pub uid: u32,
    pub peer: Result<Peer, Error>,
}

/// Why a caller cannot be told. All of them are refusals, and the text goes to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the process that opened this connection has ended")]
    Exited,
    #[error("the process changed while it was looked at; ask again")]
    ConcurrentChange,
    #[error("the process changed its user or group after it connected; connect again")]
    CredentialsChanged,
    #[error(
        "the process is in a pid namespace that this host cannot see into; call from the host or from a child namespace"
    )]
    OtherNamespace,
    #[error("the kernel would not say who is calling ({0})")]
    Kernel(nix::errno::Errno),
}

/// As agents and records see it.
impl serde::Serialize for PeerInfo {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("peer", 8)?;
        out.serialize_field("pid", &self.pid)?;
        out.serialize_field("uid", &self.uid)?;
        out.serialize_field("gid", &self.gid)?;
        out.serialize_field("unit", &self.unit)?;
        out.serialize_field("invocation", &self.invocation)?;
        out.serialize_field("exe", &self.exe().map(|path| path.to_string_lossy()))?;
        out.serialize_field("exe_sha256", &self.exe_sha256())?;
        out.serialize_field("pinned", &self.pinned)?;
        out.end()
    }
}
