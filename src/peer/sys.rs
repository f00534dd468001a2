//! The few kernel calls that nix does not wrap, each alone in its wrapper.

use std::ffi::CStr;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

/// Who connected, fixed by the kernel at connect(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// 0 where the peer's pid namespace is not below ours.
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// SO_PEERCRED, unix(7).
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<PeerCredentials, Errno> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(PeerCredentials { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
}

/// SO_PEERPIDFD (Linux 6.5): a handle on the very process that connected.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    getsockopt(&socket, sockopt::PeerPidfd)
}

/// SO_PEERGROUPS (Linux 4.13): the supplementary groups at connect(2).
pub fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    // NGROUPS_MAX is 65536; nearly everybody has a handful.
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
        let count = length as usize / size_of::<u32>();
        match Errno::result(result) {
            Ok(_) => {
                groups.truncate(count);
                groups.shrink_to_fit();
                return Ok(groups);
            }
            // The kernel wrote how much room it wants.
            Err(Errno::ERANGE) if count > groups.len() && count <= 65_536 => groups.resize(count, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether the process behind a pidfd is still there; a zombie is not.
pub fn is_alive(pidfd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut polled = [nix::poll::PollFd::new(pidfd, nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).map(|ready| ready == 0)
}

/// PIDFD_GET_INFO (Linux 6.13), first version of its structure.
#[repr(C)]
#[derive(Default)]
pub struct PidfdInfo {
    mask: u64,
    pub cgroup: u64,
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

const PIDFD_INFO_CREDS: u64 = 1 << 1;
nix::ioctl_readwrite!(pidfd_get_info_raw, 0xFF, 11, PidfdInfo);

/// What the process behind a pidfd is now. None where the kernel cannot tell; ESRCH where the process is gone.
pub fn pidfd_info(pidfd: BorrowedFd<'_>) -> Result<Option<PidfdInfo>, Errno> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_CREDS, ..PidfdInfo::default() };
    // SAFETY: the structure is the kernel's first version, whose size the request's number carries.
    match unsafe { pidfd_get_info_raw(pidfd.as_raw_fd(), &mut info) } {
        Ok(_) if info.mask & PIDFD_INFO_CREDS != 0 => Ok(Some(info)),
        Ok(_) | Err(Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Not in libc yet; linux/stat.h.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// What tells two files, or two versions of one, apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Never used again where the kernel has unique ones (Linux 6.8): a file system mounted anew may hold other bytes
    /// under the same numbers and times.
    pub mount: u64,
    pub device: (u32, u32),
    pub inode: u64,
    pub size: u64,
    pub mtime: (i64, u32),
    /// Cannot be set by a program, so a file that was changed and dated back shows.
    pub ctime: (i64, u32),
}

/// statx(2) of a name below `dir` (the empty name: of `dir` itself), never waiting for a network or FUSE server: it
/// answers from what the kernel has.
pub fn file_id(dir: BorrowedFd<'_>, name: &CStr) -> Result<FileId, Errno> {
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `name` ends in NUL and `buffer` has the room that the kernel fills.
    Errno::result(unsafe {
        libc::statx(
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_BASIC_STATS | STATX_MNT_ID_UNIQUE | libc::STATX_MNT_ID,
            buffer.as_mut_ptr(),
        )
    })?;
    // SAFETY: all-zero is a valid statx, and the kernel has filled it.
    let stat = unsafe { buffer.assume_init() };
    Ok(FileId {
        mount: stat.stx_mnt_id,
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
    })
}
