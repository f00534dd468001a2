//! Identifies the process at the other end of a Unix socket from kernel credentials.
//!
//! A [`PeerTracker`] belongs to one connection. It reads the kernel's credentials right after accept, before
//! any byte of a request, and re-reads the process's attributes at each request, because a process can
//! execute another program, change its uid or exit between two requests. The result is a [`Peer`], the first
//! step of the request path; only this module can construct one.
//!
//! On kernels with SO_PEERPIDFD (6.5) the process is pinned: its pid cannot be reused while its attributes
//! are read. On older kernels the tracker opens a pidfd by pid, compares start time and uid before and after
//! reading, and marks the peer as not pinned.
//!
//! Nothing here waits for a file system that a user can serve: an executable is identified by the attributes
//! that the kernel has cached, and read by another process ([`Readers`]) where a condition needs its digest.

mod bus_message;
mod cgroup;
mod cgroup_dir;
#[cfg(test)]
mod cgroup_paths;
mod content_cache;
mod digest_cache;
mod digest_error;
mod executable;
mod groups;
mod inspect;
mod invocation;
mod login_uid;
mod process;
mod process_stat;
mod read_turns;
mod reader;
mod root_file;
mod service_manager;
mod sha256_digest;
mod sys;
mod tracker;
mod unit_files;
mod unit_peer;
mod visibility;

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

#[cfg(test)]
pub(crate) use cgroup::CgroupNames;
pub use cgroup::{
    Container, INVOCATION_LINK_PREFIX, INVOCATION_LINKS_DIR, PeerCgroup, Session, UserUnit,
    read_invocation_id,
};
pub use cgroup_dir::{Boundary, Cgroup, CgroupError, is_at_or_below, slice_path, unified_mount};
pub use content_cache::ContentCache;
pub use digest_cache::DigestCache;
pub use digest_error::DigestError;
pub use groups::{Groups, MAX_GROUPS};
pub use inspect::{InspectError, InspectedProcess};
pub use invocation::{
    Invocation, InvocationEnd, boot_id, is_invocation_of_unit, is_leader_running, leader_pidfd,
};
pub use login_uid::login_uid;
pub use reader::{READER_ARGUMENT, Readers, serve_reader};
pub use root_file::{FileDigest, FileError, check_root_file};
pub use service_manager::ServiceManager;
pub use sha256_digest::{ParseDigestError, Sha256Digest};
pub use sys::own_received_fd;
pub use tracker::PeerTracker;
pub use unit_files::{UNIT_DIRS, UnitFilesError, UnitNames, unit_digest, unit_files};
pub use visibility::hidden_processes;

use crate::mutex::lock;

/// The process at the other end of a socket, as identified for one request. Clones share the data.
#[derive(Clone, Debug)]
pub struct Peer(Arc<PeerInfo>);

impl Peer {
    /// The same process in another invocation, that of a cgroup which was delegated.
    pub fn in_invocation(&self, invocation: Invocation) -> Peer {
        Peer(Arc::new(self.0.in_invocation(invocation)))
    }
}

#[cfg(test)]
impl Peer {
    /// A process with these attributes, which did not connect.
    pub(crate) fn of_test(info: PeerInfo) -> Peer {
        Peer(Arc::new(info))
    }
}

impl std::ops::Deref for Peer {
    type Target = PeerInfo;

    fn deref(&self) -> &PeerInfo {
        &self.0
    }
}

/// Attributes of a peer.
#[derive(Debug)]
pub struct PeerInfo {
    /// Process ID in the daemon's pid namespace.
    pub pid: i32,
    /// Effective user ID at connect(2); a request from a process that changed it since is refused.
    pub uid: u32,
    /// Effective group ID at connect(2); a request from a process that changed it since is refused.
    pub gid: u32,
    /// Supplementary groups at connect(2).
    pub groups: Groups,
    /// Whether the process is pinned by a pidfd from the kernel (SO_PEERPIDFD).
    pub pinned: bool,
    /// systemd system unit, such as `researcher.service`.
    pub unit: Option<String>,
    /// The unit in a user's own service manager.
    pub user_unit: Option<UserUnit>,
    /// The login session.
    pub session: Option<Session>,
    /// The container.
    pub container: Option<Container>,
    /// The cgroups of the process in the unified hierarchy.
    pub cgroup: Option<PeerCgroup>,
    /// The invocation that the process is part of. The kernel and systemd tell it of every process; tests may
    /// have none.
    pub invocation: Option<Invocation>,
    /// Whether the process does not run yet ([`Peer::future_process`]): `pid` is that of the service
    /// manager's child, and user and groups are as the service manager reports them.
    pub is_future: bool,
    /// `None` if the daemon has no permission to read it.
    exe: Option<Arc<executable::Executable>>,
    finding: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

impl PeerInfo {
    /// A process with these attributes, to compare it with agents.
    #[cfg(test)]
    pub(crate) fn of_test(
        uid: u32,
        gid: u32,
        groups: Option<Vec<u32>>,
        cgroup: CgroupNames,
        exe: Option<PathBuf>,
    ) -> PeerInfo {
        PeerInfo {
            pid: 1,
            uid,
            gid,
            groups: groups.map_or(Groups::TooMany, Groups::new),
            pinned: true,
            unit: cgroup.unit,
            user_unit: cgroup.user_unit,
            session: cgroup.session,
            container: cgroup.container,
            cgroup: None,
            invocation: None,
            is_future: false,
            exe: exe.map(|path| Arc::new(executable::Executable::of_test(path))),
            finding: Mutex::default(),
        }
    }

    /// Returns the path of the executable as the kernel reports it. It is informational: in its own mount
    /// namespace, a user can place any file at any path.
    pub fn exe(&self) -> Option<&PathBuf> {
        self.exe.as_ref().map(|exe| &exe.path)
    }

    /// Returns what distinguishes the executable's file from another one at the same path: a digest of its inode, its
    /// size and its times, without its content. It is the same after a start of the host.
    pub fn exe_file_id(&self) -> Option<[u8; 8]> {
        self.exe.as_ref().map(|exe| exe.file_digest())
    }

    /// Returns what identifies the executable's file until the host is started again: a digest of its device, its
    /// inode, its size and the time of its content. It stays the same when the file's name is removed.
    pub fn exe_lasting_id(&self) -> Option<[u8; 8]> {
        self.exe.as_ref().map(|exe| exe.lasting_digest())
    }

    /// Returns the SHA-256 digest of the executable if one of the two methods below has returned it.
    pub fn exe_sha256(&self) -> Option<Sha256Digest> {
        self.exe.as_ref().and_then(|exe| exe.digest())
    }

    /// Returns the SHA-256 digest of the executable if it was computed before, for this process or another
    /// one. Otherwise the file is read in the background, for later requests.
    pub fn known_exe_sha256(&self, cache: &DigestCache) -> Option<Sha256Digest> {
        self.exe.as_ref().and_then(|exe| cache.known(exe))
    }

    /// Returns the SHA-256 digest of the running executable, which is read through `/proc/PID/exe` and not
    /// through its path.
    ///
    /// # Errors
    /// A [`DigestError`] if the file may not be read, is on a file system that its user can serve, exceeds
    /// 2 GiB, or takes longer than 10 s to read.
    pub async fn compute_exe_sha256(&self, cache: &DigestCache) -> Result<Sha256Digest, DigestError> {
        match &self.exe {
            Some(exe) => cache.digest(exe).await,
            None => Err(DigestError::NoPermission),
        }
    }

    /// Whether the digest is known without reading the file, or there is no executable to read.
    pub fn has_known_digest(&self, cache: &DigestCache) -> bool {
        self.exe.as_ref().is_none_or(|exe| cache.has(exe))
    }

    /// Returns what a later step found out about this process and stored by [`PeerInfo::store_finding`]. It
    /// is lost when an attribute of the process changes, because that makes another peer.
    pub fn finding<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        lock(&self.finding).clone()?.downcast().ok()
    }

    /// Stores what a later step found out about this process, in place of the last finding. It must not
    /// contain the peer, which would never be dropped.
    pub fn store_finding<T: Any + Send + Sync>(&self, finding: Arc<T>) {
        *lock(&self.finding) = Some(finding);
    }

    /// The unit in the service manager of the peer's own user.
    pub fn own_user_unit(&self) -> Option<&str> {
        self.user_unit.as_ref().filter(|unit| unit.uid == self.uid).map(|unit| unit.name.as_str())
    }

    /// The same process in another invocation, that of a cgroup which was delegated.
    fn in_invocation(&self, invocation: Invocation) -> PeerInfo {
        PeerInfo {
            pid: self.pid,
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
            pinned: self.pinned,
            unit: self.unit.clone(),
            user_unit: self.user_unit.clone(),
            session: self.session.clone(),
            container: self.container.clone(),
            cgroup: self.cgroup.clone(),
            invocation: Some(invocation),
            is_future: self.is_future,
            exe: self.exe.clone(),
            finding: Mutex::default(),
        }
    }

    /// Whether the peer is in a login session of its own user.
    pub fn is_in_own_session(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.uid == self.uid)
    }

    /// The container, if root created it or it is in the service manager of the peer's own user.
    pub fn own_container(&self) -> Option<&Container> {
        self.container.as_ref().filter(|one| one.owner.is_none_or(|owner| owner == self.uid))
    }

    /// Whether `gid` is the peer's primary group or one of its supplementary groups. If the process is in
    /// more than [`MAX_GROUPS`], only the primary one counts.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(gid)
    }

    /// Whether the process is in more than [`MAX_GROUPS`] supplementary groups.
    pub fn has_too_many_groups(&self) -> bool {
        matches!(self.groups, Groups::TooMany)
    }
}

/// The result of identifying a caller for one request.
#[derive(Debug)]
pub struct PeerLookup {
    /// User ID at connect(2), known even if the rest is not.
    pub uid: u32,
    /// The peer, or why it could not be identified.
    pub peer: Result<Peer, Error>,
}

/// Why a peer cannot be identified. The request is refused, and the caller receives the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The process that connected has exited; another process may hold the connection.
    #[error("the process that opened this connection has exited")]
    Exited,
    /// The process changed while its attributes were read.
    #[error("the process changed while it was being identified; retry")]
    ConcurrentChange,
    /// The effective uid or gid is not the one at connect(2).
    #[error("the process changed its user or group after it connected; reconnect")]
    CredentialsChanged,
    /// SO_PEERCRED reports pid 0: the daemon's pid namespace does not contain the process.
    #[error(
        "the process is in a pid namespace that this host cannot inspect; \
         call from the host or from a child namespace"
    )]
    OtherNamespace,
    /// The process runs, but the daemon's `/proc` does not have it, or does not let the daemon read it.
    #[error(
        "this process cannot be identified: the daemon may not see it in /proc, as where that is mounted with \
         hidepid; the journal of hostbadged has the way out"
    )]
    Hidden,
    /// A system call failed.
    #[error("cannot read the peer's credentials ({0})")]
    Kernel(nix::errno::Errno),
}
