//! Reads a process's attributes from `/proc` through handles that stay bound to that process.
//!
//! The files are opened once for each connection and read again at each request. A read of an open file of
//! `/proc/PID` returns data of the process for which it was opened, or fails after that process has exited,
//! even if its pid was reused.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::cgroup::{CgroupNames, PeerCgroup};
use super::executable::Executable;
use super::groups::{Groups, MAX_GROUPS};
use super::invocation::Invocation;
use super::process_stat::ProcessStat;
use super::sys::{self, FileId};
use super::{Error, cgroup};

/// Maximum bytes read of `/proc/PID/cgroup`. It has one line for each controller, and hosts have fewer than
/// twenty.
const MAX_CGROUP_LEN: usize = 4 * 1024;

/// Maximum bytes read of `/proc/PID/status`: [`MAX_GROUPS`] numbers, and less than 2 KiB of other lines.
const MAX_STATUS_LEN: usize = 16 * 1024;

/// Open handles of one process.
#[derive(Debug)]
pub struct ProcessHandle {
    pidfd: Arc<OwnedFd>,
    /// `/proc/PID`, opened with O_PATH. The executable of a peer uses it too.
    dir: Arc<OwnedFd>,
    cgroup: File,
    /// `/proc/PID/status`, opened only if the kernel lacks PIDFD_GET_INFO.
    status: Option<File>,
}

/// The attributes that are compared at each request: if one changed, the peer is rebuilt.
#[derive(Debug, PartialEq, Eq)]
pub struct ProcessSnapshot {
    pub uid: u32,
    pub gid: u32,
    pub exe: Option<FileId>,
    /// The text of `/proc/PID/cgroup`.
    cgroup: Arc<[u8]>,
    /// `None` where the kernel does not report it.
    cgroup_id: Option<u64>,
}

/// Effective IDs, and the ID of the cgroup.
struct Credentials {
    uid: u32,
    gid: u32,
    cgroup_id: Option<u64>,
}

impl ProcessHandle {
    /// Opens the `/proc` files of the process of `pidfd`, whose number is `pid`.
    pub fn open(pidfd: Arc<OwnedFd>, pid: i32) -> Result<ProcessHandle, Error> {
        let process = ProcessHandle::open_files(pidfd.clone(), pid).map_err(|error| match error {
            // A process that runs and that `/proc` does not have, or does not let the daemon read.
            Error::Exited | Error::Kernel(Errno::EPERM | Errno::EACCES)
                if sys::is_alive(pidfd.as_fd()) == Ok(true) =>
            {
                Error::Hidden
            }
            error => error,
        })?;
        // The process is still alive, so the pid was not reused while the files were opened.
        process.ensure_alive()?;
        Ok(process)
    }

    fn open_files(pidfd: Arc<OwnedFd>, pid: i32) -> Result<ProcessHandle, Error> {
        let no_mode = Mode::empty();
        let dir = open(
            format!("/proc/{pid}").as_str(),
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            no_mode,
        )
        .map_err(proc_error)?;
        let open_file = |name: &str| {
            openat(&dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, no_mode)
                .map(File::from)
                .map_err(proc_error)
        };
        let cgroup = open_file("cgroup")?;
        let status = match sys::pidfd_info(pidfd.as_fd()) {
            Ok(Some(_)) => None,
            Ok(None) => Some(open_file("status")?),
            Err(errno) => return Err(proc_error(errno)),
        };
        Ok(ProcessHandle { pidfd, dir: Arc::new(dir), cgroup, status })
    }

    /// Reads the process's current attributes. What `previous` has and cannot have changed is not read again.
    pub fn snapshot(&self, previous: Option<&ProcessSnapshot>) -> Result<ProcessSnapshot, Error> {
        let Credentials { uid, gid, cgroup_id } = self.credentials()?;
        let cgroup = match previous.and_then(|previous| previous.cgroup_of(cgroup_id)) {
            Some(cgroup) => cgroup,
            None => self.read_cgroup()?,
        };
        let exe = sys::file_id(self.dir.as_fd(), c"exe").ok();
        self.ensure_alive()?;
        Ok(ProcessSnapshot { uid, gid, exe, cgroup, cgroup_id })
    }

    fn read_cgroup(&self) -> Result<Arc<[u8]>, Error> {
        let mut cgroup = [0; MAX_CGROUP_LEN];
        let length = self.cgroup.read_at(&mut cgroup, 0).map_err(read_error)?;
        Ok(cgroup[..length].into())
    }

    /// Returns the executable of a snapshot, without opening it. Returns `None` if permission is denied or if
    /// the executable changed since.
    pub fn executable(&self, snapshot: &ProcessSnapshot) -> Option<Executable> {
        Executable::from_process(&self.dir, snapshot.exe?, snapshot.uid)
    }

    /// Returns the process's start time in clock ticks since boot. It distinguishes the process from a later
    /// one with the same pid.
    pub fn start_time(&self) -> Result<u64, Error> {
        Ok(self.stat()?.start_time)
    }

    fn stat(&self) -> Result<ProcessStat, Error> {
        let stat = openat(&*self.dir, "stat", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(proc_error)?;
        ProcessStat::from_file(&File::from(stat)).ok_or(Error::Exited)
    }

    /// Returns what the cgroup of a snapshot says, and the invocation that the process is part of.
    pub fn names(&self, snapshot: &ProcessSnapshot) -> Result<(CgroupNames, Invocation), Error> {
        let names = cgroup::parse(&snapshot.cgroup);
        let invocation = Invocation::of_process(|| self.stat(), &snapshot.cgroup, &names)?;
        Ok((names, invocation))
    }

    /// Returns the supplementary groups that the process has now. More than [`MAX_GROUPS`] are not read.
    pub fn groups(&self) -> Result<Groups, Error> {
        let status = openat(&*self.dir, "status", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(proc_error)?;
        let mut text = vec![0; MAX_STATUS_LEN];
        let length = File::from(status).read_at(&mut text, 0).map_err(|_| Error::Exited)?;
        groups(&text[..length]).ok_or(Error::Exited)
    }

    fn ensure_alive(&self) -> Result<(), Error> {
        match sys::is_alive(self.pidfd.as_fd()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Exited),
            Err(errno) => Err(Error::Kernel(errno)),
        }
    }

    fn credentials(&self) -> Result<Credentials, Error> {
        let Some(status) = &self.status else {
            return match sys::pidfd_info(self.pidfd.as_fd()) {
                Ok(Some(info)) => {
                    Ok(Credentials { uid: info.euid, gid: info.egid, cgroup_id: info.cgroup_id() })
                }
                Ok(None) => Err(Error::Exited),
                Err(errno) => Err(proc_error(errno)),
            };
        };
        let mut text = [0; 4096];
        let length = status.read_at(&mut text, 0).map_err(read_error)?;
        let (uid, gid) = effective_ids(&text[..length]).ok_or(Error::Exited)?;
        Ok(Credentials { uid, gid, cgroup_id: None })
    }
}

impl ProcessSnapshot {
    /// The cgroups of the process in the unified hierarchy.
    pub fn unified_cgroup(&self) -> Option<PeerCgroup> {
        PeerCgroup::parse(&self.cgroup)
    }

    /// The text of `/proc/PID/cgroup` if the process is still in the same cgroup. A cgroup of the unified
    /// hierarchy cannot be renamed, so its ID stands for its path; where a process is in other hierarchies
    /// too, the text has to be read, which takes a lock of the whole kernel.
    fn cgroup_of(&self, cgroup_id: Option<u64>) -> Option<Arc<[u8]>> {
        let is_only_unified =
            self.cgroup.starts_with(b"0::") && self.cgroup.split(|b| *b == b'\n').count() == 2;
        (is_only_unified && cgroup_id.is_some() && cgroup_id == self.cgroup_id).then(|| self.cgroup.clone())
    }
}

fn proc_error(errno: Errno) -> Error {
    match errno {
        Errno::ENOENT | Errno::ESRCH => Error::Exited,
        errno => Error::Kernel(errno),
    }
}

/// A read of `/proc` fails with ESRCH after the process has exited.
fn read_error(error: io::Error) -> Error {
    error.raw_os_error().map_or(Error::Exited, |errno| proc_error(Errno::from_raw(errno)))
}

/// Returns the second number of the lines `Uid:` and `Gid:` of `/proc/PID/status`.
fn effective_ids(status: &[u8]) -> Option<(u32, u32)> {
    let effective_id = |name: &[u8]| -> Option<u32> {
        let line = status.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(name))?;
        std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some((effective_id(b"Uid:")?, effective_id(b"Gid:")?))
}

/// Returns the numbers of the line `Groups:` of `/proc/PID/status`. A line that does not end was cut off.
fn groups(status: &[u8]) -> Option<Groups> {
    let start = status.windows(8).position(|window| window == b"\nGroups:")? + 8;
    let Some(length) = status[start..].iter().position(|b| *b == b'\n') else { return Some(Groups::TooMany) };
    let line = std::str::from_utf8(&status[start..start + length]).ok()?;
    let groups: Vec<u32> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(if groups.len() > MAX_GROUPS { Groups::TooMany } else { Groups::new(groups) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_ids_are_second_column() {
        let status =
            b"Name:\tUid: 0 0\nState:\tS\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t1\n";
        assert_eq!(effective_ids(status), Some((1001, 6)));
        assert_eq!(effective_ids(b"Uid:\t1"), None);
    }

    #[test]
    fn supplementary_groups_are_bounded() {
        let status = |count: u32| {
            let numbers: Vec<String> = (0..count).map(|n| (4_294_000_000 + n).to_string()).collect();
            format!("Name:\tGroups:\nGroups:\t{} \nNStgid:\t1\n", numbers.join(" "))
        };
        let is_in = |count, gid| groups(status(count).as_bytes()).unwrap().contains(gid);
        assert!(is_in(1024, 4_294_001_023) && !is_in(1024, 4_294_001_024) && !is_in(0, 4_294_000_000));
        assert!(matches!(groups(status(1025).as_bytes()), Some(Groups::TooMany)));
        assert!(matches!(groups(&status(5000).as_bytes()[..MAX_STATUS_LEN]), Some(Groups::TooMany)));
        assert!(groups(b"Name:\tx\n").is_none());
    }

    #[test]
    fn cgroup_is_read_again_unless_its_id_proves_the_path() {
        let snapshot = |text: &str, cgroup_id| ProcessSnapshot {
            uid: 0,
            gid: 0,
            exe: None,
            cgroup: text.as_bytes().into(),
            cgroup_id,
        };
        let unified = "0::/system.slice/a.service\n";
        assert_eq!(snapshot(unified, Some(7)).cgroup_of(Some(7)).as_deref(), Some(unified.as_bytes()));
        assert_eq!(snapshot(unified, Some(7)).cgroup_of(Some(8)), None, "moved");
        assert_eq!(snapshot(unified, None).cgroup_of(None), None, "not reported");
        let hybrid = "1:name=systemd:/system.slice/a.service\n0::/\n";
        assert_eq!(snapshot(hybrid, Some(7)).cgroup_of(Some(7)), None);
        assert_eq!(snapshot("0::/\n1:name=systemd:/x\n", Some(7)).cgroup_of(Some(7)), None);
    }

    #[test]
    fn handle_fails_after_process_exit() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let process = ProcessHandle::open(Arc::new(sys::pidfd_open(pid).unwrap()), pid).unwrap();
        let first = process.snapshot(None).unwrap();
        assert_eq!(first, process.snapshot(Some(&first)).unwrap());
        assert_eq!(first.uid, nix::unistd::geteuid().as_raw());
        assert!(process.start_time().unwrap() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process.snapshot(None), Err(Error::Exited));
        assert_eq!(process.snapshot(Some(&first)), Err(Error::Exited));
    }
}
