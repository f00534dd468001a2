//! Wrappers for the kernel calls that nix does not provide, one function each.

use std::ffi::CStr;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

use super::groups::{Groups, MAX_GROUPS};

/// Credentials of the process that connected. The kernel records them at connect(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process ID in the daemon's pid namespace; 0 if the peer is not visible there.
    pub pid: i32,
    /// Effective user ID.
    pub uid: u32,
    /// Effective group ID.
    pub gid: u32,
}

/// Reads SO_PEERCRED (unix(7)).
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<PeerCredentials, Errno> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(PeerCredentials { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
}

/// Reads SO_PEERPIDFD (Linux 6.5): a pidfd of the process that connected, immune to pid reuse.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    getsockopt(&socket, sockopt::PeerPidfd)
}

/// Reads SO_PEERGROUPS (Linux 4.13): the peer's supplementary groups at connect(2). More than [`MAX_GROUPS`]
/// are not copied from the kernel.
pub fn peer_groups(socket: BorrowedFd<'_>) -> Result<Groups, Errno> {
    // Most processes are in fewer than 64 groups.
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the buffer is writable for `length` bytes, and the kernel writes at most that many.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut length,
            )
        };
        // With ERANGE, the kernel stores the required buffer length in `length`.
        let count = length as usize / size_of::<u32>();
        match Errno::result(result) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(Groups::new(groups));
            }
            Err(Errno::ERANGE) if count > MAX_GROUPS => return Ok(Groups::TooMany),
            Err(Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// Calls pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers and accesses no memory of this process.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether the process of a pidfd is running. A zombie is not.
pub fn is_alive(pidfd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut polled = [nix::poll::PollFd::new(pidfd, nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).map(|ready| ready == 0)
}

/// `struct pidfd_info` in its first version (Linux 6.13), the argument of PIDFD_GET_INFO.
#[repr(C)]
#[derive(Default)]
pub struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pub pid: u32,
    pub tgid: u32,
    pub ppid: u32,
    pub ruid: u32,
    pub rgid: u32,
    pub euid: u32,
    pub egid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    exit_code: i32,
}

impl PidfdInfo {
    /// The ID of the process's cgroup in the unified hierarchy, which is never reused, or `None` where the
    /// kernel has no cgroups.
    pub fn cgroup_id(&self) -> Option<u64> {
        (self.mask & PIDFD_INFO_CGROUPID != 0).then_some(self.cgroup)
    }
}

const PIDFD_INFO_CREDS: u64 = 1 << 1;
const PIDFD_INFO_CGROUPID: u64 = 1 << 2;
nix::ioctl_readwrite!(pidfd_get_info_raw, 0xFF, 11, PidfdInfo);

/// Reads the current credentials of the process of a pidfd. Returns `None` if the kernel lacks
/// PIDFD_GET_INFO.
///
/// # Errors
/// ESRCH if the process has exited.
pub fn pidfd_info(pidfd: BorrowedFd<'_>) -> Result<Option<PidfdInfo>, Errno> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_CREDS | PIDFD_INFO_CGROUPID, ..PidfdInfo::default() };
    // SAFETY: the structure is the kernel's first version, whose size the request number encodes.
    match unsafe { pidfd_get_info_raw(pidfd.as_raw_fd(), &mut info) } {
        Ok(_) if info.mask & PIDFD_INFO_CREDS != 0 => Ok(Some(info)),
        Ok(_) | Err(Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Takes ownership of a descriptor that recvmsg(2) has just received.
pub fn own_received_fd(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just created this descriptor for the caller of recvmsg(2), and nothing else owns
    // it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The arguments of capget(2) and capset(2), version 3.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Gives up all capabilities of the calling thread.
pub fn drop_capabilities() -> Result<(), Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 has two elements, which the kernel writes.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) })?;
    // A unit without capabilities may also deny the call that would give them up.
    if data.iter().all(|held| held.permitted == 0) {
        return Ok(());
    }
    let none = [CapabilityData::default(); 2];
    // SAFETY: version 3 has two elements, which the kernel reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &mut header, none.as_ptr()) })?;
    Ok(())
}

/// From linux/stat.h; libc does not define it yet.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// Identifies a file and its version: a change of the content, or of whether the kernel protects it, changes at
/// least one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Unique mount ID, never reused (Linux 6.8): a file system that is mounted again may contain other
    /// content under the same inode numbers and times. On older kernels the reusable mount ID.
    pub mount: u64,
    pub device: (u32, u32),
    pub inode: u64,
    pub size: u64,
    pub mtime: (i64, u32),
    /// Programs cannot set ctime, so it changes even if a program changes the content and resets mtime.
    pub ctime: (i64, u32),
    /// Whether the file has fs-verity. Enabling it changes none of the times.
    pub has_verity: bool,
}

/// Calls statx(2) for a name below `dir`, or for `dir` itself if the name is empty. The call uses the
/// attributes that the kernel has cached (AT_STATX_DONT_SYNC): FUSE sends no request, also below an overlay,
/// which passes the flag on. A network file system that only root can mount may ask its server all the same,
/// when the kernel follows a link of `/proc` to it.
pub fn file_id(dir: BorrowedFd<'_>, name: &CStr) -> Result<FileId, Errno> {
    let mask = libc::STATX_BASIC_STATS | STATX_MNT_ID_UNIQUE | libc::STATX_MNT_ID;
    let stat = statx(dir, name, mask)?;
    Ok(FileId {
        mount: stat.stx_mnt_id,
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        has_verity: stat.stx_attributes & u64::from(libc::STATX_ATTR_VERITY.unsigned_abs()) != 0,
    })
}

/// The mode with the type of a file, and its owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Returns the owners of an open file, from the kernel's cache.
pub fn ownership(file: BorrowedFd<'_>) -> Result<Ownership, Errno> {
    let stat = statx(file, c"", libc::STATX_BASIC_STATS)?;
    Ok(Ownership { mode: u32::from(stat.stx_mode), uid: stat.stx_uid, gid: stat.stx_gid })
}

/// The argument of FS_IOC_MEASURE_VERITY (linux/fsverity.h): two numbers, then room for the digest.
#[repr(C)]
pub struct VerityDigest {
    algorithm: u16,
    size: u16,
    digest: [u8; 64],
}

/// `_IOWR('f', 134, struct fsverity_digest)`, whose size is that of the two numbers.
const FS_IOC_MEASURE_VERITY: libc::c_ulong = 0xc004_6686;

/// Whether an open file has fs-verity: the kernel then compares each page that it reads with a digest of the
/// file, which cannot be changed.
pub fn has_verity(file: BorrowedFd<'_>) -> bool {
    let mut digest = VerityDigest { algorithm: 0, size: 64, digest: [0; 64] };
    // SAFETY: the kernel writes the two numbers and at most `size` bytes after them, which are there.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_MEASURE_VERITY as _, &mut digest) };
    result == 0 && digest.algorithm != 0 && digest.size > 0 && digest.digest.iter().any(|byte| *byte != 0)
}

/// Returns the mount ID of an open file as it is in `/proc/PID/mountinfo`. The open file keeps the mount, so
/// the ID is not reused meanwhile.
pub fn mount_id(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let stat = statx(file, c"", libc::STATX_MNT_ID)?;
    if stat.stx_mask & libc::STATX_MNT_ID == 0 { Err(Errno::ENOSYS) } else { Ok(stat.stx_mnt_id) }
}

fn statx(dir: BorrowedFd<'_>, name: &CStr, mask: u32) -> Result<libc::statx, Errno> {
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: `name` ends in NUL, and `buffer` has the size of the structure that the kernel writes.
    Errno::result(unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, mask, buffer.as_mut_ptr()) })?;
    // SAFETY: all-zero is a valid statx, and the kernel has filled it.
    Ok(unsafe { buffer.assume_init() })
}
