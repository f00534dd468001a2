//! Looks at a process that did not connect, by its pid, for administrators.
//!
//! A pidfd is opened first and held for the whole look. A pid that is reused meanwhile therefore makes the
//! look fail, and does not mix two processes.

use std::sync::Arc;

use nix::errno::Errno;

use super::cgroup::CgroupNames;
use super::process::{ProcessHandle, ProcessSnapshot};
use super::{Error, Peer, PeerInfo, sys};

/// A process as it was when it was inspected. It cannot be taken for another one while this value exists.
#[derive(Debug)]
pub struct InspectedProcess {
    process: ProcessHandle,
    snapshot: ProcessSnapshot,
    peer: Peer,
}

/// Why a process cannot be inspected. The text goes to the administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// There is no such process.
    #[error("there is no process {0}: it has ended, or {0} is a thread of another process")]
    NoProcess(i32),
    /// The process executed another program, or changed its user, group or unit.
    #[error("process {0} changed while it was inspected; try again")]
    Changed(i32),
    /// The daemon's `/proc` does not have the process, or does not let the daemon read it.
    #[error("process {0} cannot be seen in the daemon's /proc, as where that is mounted with hidepid")]
    Hidden(i32),
    /// A system call failed.
    #[error("process {0} cannot be inspected ({1})")]
    Kernel(i32, Errno),
}

impl InspectedProcess {
    /// Inspects the process `pid` of the daemon's pid namespace.
    ///
    /// # Errors
    /// An [`InspectError`] if there is no such process, or its files in `/proc` cannot be read.
    pub fn open(pid: i32) -> Result<InspectedProcess, InspectError> {
        // 0 and negative numbers mean other things to the kernel.
        if pid < 1 {
            return Err(InspectError::NoProcess(pid));
        }
        let pidfd = sys::pidfd_open(pid).map_err(|errno| match errno {
            // EINVAL and, since Linux 6.9, ENOENT: the number is that of a thread.
            Errno::ESRCH | Errno::EINVAL | Errno::ENOENT => InspectError::NoProcess(pid),
            errno => InspectError::Kernel(pid, errno),
        })?;
        let fault = |error| fault(pid, error);
        let process = ProcessHandle::open(Arc::new(pidfd), pid).map_err(fault)?;
        let snapshot = process.snapshot(None).map_err(fault)?;
        let groups = process.groups().map_err(fault)?;
        let (CgroupNames { unit, user_unit, session, container }, invocation) =
            process.names(&snapshot).map_err(fault)?;
        let peer = Peer(Arc::new(PeerInfo {
            pid,
            uid: snapshot.uid,
            gid: snapshot.gid,
            groups,
            pinned: true,
            unit,
            user_unit,
            session,
            container,
            cgroup: snapshot.unified_cgroup(),
            invocation: Some(invocation),
            is_future: false,
            exe: process.executable(&snapshot).map(Arc::new),
            finding: Default::default(),
        }));
        let inspected = InspectedProcess { process, snapshot, peer };
        inspected.ensure_unchanged()?;
        Ok(inspected)
    }

    /// The process as a caller would be identified.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Checks that the process still runs and is as it was. Call it after what was done with
    /// [`InspectedProcess::peer`].
    ///
    /// # Errors
    /// [`InspectError::NoProcess`] or [`InspectError::Changed`].
    pub fn ensure_unchanged(&self) -> Result<(), InspectError> {
        let pid = self.peer.pid;
        let now = self.process.snapshot(None).map_err(|error| fault(pid, error))?;
        if now == self.snapshot { Ok(()) } else { Err(InspectError::Changed(pid)) }
    }
}

fn fault(pid: i32, error: Error) -> InspectError {
    match error {
        Error::Exited | Error::OtherNamespace => InspectError::NoProcess(pid),
        Error::ConcurrentChange | Error::CredentialsChanged => InspectError::Changed(pid),
        Error::Hidden => InspectError::Hidden(pid),
        Error::Kernel(errno) => InspectError::Kernel(pid, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_inspected_while_it_runs() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let inspected = InspectedProcess::open(pid).unwrap();
        let peer = inspected.peer();
        assert_eq!((peer.pid, peer.uid), (pid, nix::unistd::geteuid().as_raw()));
        assert!(peer.in_group(nix::unistd::getegid().as_raw()) && !peer.has_too_many_groups());
        for gid in nix::unistd::getgroups().unwrap() {
            assert!(peer.in_group(gid.as_raw()), "{gid}");
        }
        assert_eq!(inspected.ensure_unchanged(), Ok(()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(inspected.ensure_unchanged(), Err(InspectError::NoProcess(pid)));
        assert_eq!(InspectedProcess::open(pid).unwrap_err(), InspectError::NoProcess(pid));
    }

    #[test]
    fn what_is_no_process_is_not_inspected() {
        for pid in [0, -1, i32::MIN, i32::MAX] {
            assert_eq!(InspectedProcess::open(pid).unwrap_err(), InspectError::NoProcess(pid));
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            sender.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = ended.recv();
        });
        let tid = receiver.recv().unwrap();
        assert_eq!(InspectedProcess::open(tid).unwrap_err(), InspectError::NoProcess(tid), "a thread");
        drop(end);
        thread.join().unwrap();
    }
}
