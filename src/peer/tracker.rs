//! Tracks the process that opened a connection and re-reads its attributes at each request.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::groups::Groups;
use super::process::{ProcessHandle, ProcessSnapshot};
use super::sys::{self, PeerCredentials};
use super::{Error, Peer, PeerInfo, PeerLookup};

/// Identifies the process that opened a connection, for the lifetime of the connection.
#[derive(Debug)]
pub struct PeerTracker {
    credentials: PeerCredentials,
    groups: Groups,
    pidfd_state: PidfdState,
    tracked: Option<TrackedProcess>,
}

/// The pidfd of the caller until the first request, and how it was obtained.
#[derive(Debug)]
enum PidfdState {
    /// From SO_PEERPIDFD: certainly the process that connected.
    Pinned(OwnedFd),
    /// From pidfd_open(2) with the pid of SO_PEERCRED, right after accept.
    ByPid(OwnedFd),
    /// Moved into the [`TrackedProcess`]; a first request that failed leaves this state.
    Taken { pinned: bool },
    /// There is no pidfd; each request fails with this error.
    Failed(Error),
}

#[derive(Debug)]
struct TrackedProcess {
    process: ProcessHandle,
    start_time: u64,
    snapshot: ProcessSnapshot,
    peer: Peer,
}

impl PeerTracker {
    /// Reads the credentials of the peer of `socket`. Call it right after accept, before the peer can exit.
    ///
    /// # Errors
    /// `Error::Kernel` if the credentials or groups cannot be read. Other errors are returned by
    /// [`PeerTracker::current_peer`], because a request that fails gets an answer.
    pub fn from_socket(socket: impl AsFd) -> Result<PeerTracker, Error> {
        PeerTracker::from_socket_with(socket.as_fd(), sys::peer_pidfd)
    }

    fn from_socket_with(
        socket: std::os::fd::BorrowedFd<'_>,
        peer_pidfd: impl Fn(std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, nix::errno::Errno>,
    ) -> Result<PeerTracker, Error> {
        let credentials = sys::peer_credentials(socket).map_err(Error::Kernel)?;
        let groups = sys::peer_groups(socket).map_err(Error::Kernel)?;
        let pidfd_state = match peer_pidfd(socket) {
            _ if credentials.pid <= 0 => PidfdState::Failed(Error::OtherNamespace),
            Ok(pidfd) => PidfdState::Pinned(pidfd),
            // A kernel before 6.5. On newer kernels, ESRCH and other errors mean that the process has exited.
            Err(nix::errno::Errno::ENOPROTOOPT) => match sys::pidfd_open(credentials.pid) {
                Ok(pidfd) => PidfdState::ByPid(pidfd),
                Err(_) => PidfdState::Failed(Error::Exited),
            },
            Err(_) => PidfdState::Failed(Error::Exited),
        };
        Ok(PeerTracker { credentials, groups, pidfd_state, tracked: None })
    }

    /// Returns the uid at connect(2), for limits that apply before the first request.
    pub fn uid(&self) -> u32 {
        self.credentials.uid
    }

    /// Identifies the caller for one request.
    pub fn lookup(&mut self) -> PeerLookup {
        PeerLookup { uid: self.credentials.uid, peer: self.current_peer() }
    }

    /// Returns the process's current attributes. Call it for each request; while nothing changed, it returns
    /// a clone of the same [`Peer`].
    ///
    /// # Errors
    /// An `Error` if the process has exited, changed its credentials, or cannot be identified reliably.
    pub fn current_peer(&mut self) -> Result<Peer, Error> {
        if self.tracked.is_none() {
            self.tracked = Some(self.open_process()?);
        }
        // The value was set above.
        let Some(tracked) = &mut self.tracked else { return Err(Error::Exited) };
        let snapshot = tracked.process.snapshot(Some(&tracked.snapshot))?;
        if snapshot.uid != self.credentials.uid || snapshot.gid != self.credentials.gid {
            return Err(Error::CredentialsChanged);
        }
        if snapshot == tracked.snapshot {
            return Ok(tracked.peer.clone());
        }
        let pinned = tracked.peer.pinned;
        if !pinned && tracked.process.start_time()? != tracked.start_time {
            return Err(Error::ConcurrentChange);
        }
        tracked.peer = build_peer(self.credentials, &self.groups, pinned, &tracked.process, &snapshot);
        tracked.snapshot = snapshot;
        Ok(tracked.peer.clone())
    }

    /// Opens the process's handles and takes the first snapshot.
    fn open_process(&mut self) -> Result<TrackedProcess, Error> {
        let pinned = matches!(self.pidfd_state, PidfdState::Pinned(_) | PidfdState::Taken { pinned: true });
        let pidfd = match std::mem::replace(&mut self.pidfd_state, PidfdState::Taken { pinned }) {
            PidfdState::Pinned(pidfd) | PidfdState::ByPid(pidfd) => pidfd,
            PidfdState::Taken { .. } => return Err(Error::Exited),
            PidfdState::Failed(error) => {
                self.pidfd_state = PidfdState::Failed(error);
                return Err(error);
            }
        };
        let process = ProcessHandle::open(pidfd, self.credentials.pid)?;
        let start_time = process.start_time()?;
        let snapshot = process.snapshot(None)?;
        if snapshot.uid != self.credentials.uid || snapshot.gid != self.credentials.gid {
            return Err(Error::CredentialsChanged);
        }
        let peer = build_peer(self.credentials, &self.groups, pinned, &process, &snapshot);
        // An equal start time proves that everything between the two reads came from one process.
        if process.start_time()? != start_time {
            return Err(Error::ConcurrentChange);
        }
        Ok(TrackedProcess { process, start_time, snapshot, peer })
    }
}

fn build_peer(
    credentials: PeerCredentials,
    groups: &Groups,
    pinned: bool,
    process: &ProcessHandle,
    snapshot: &ProcessSnapshot,
) -> Peer {
    let (unit, invocation) = snapshot.unit_and_invocation();
    Peer(Arc::new(PeerInfo {
        pid: credentials.pid,
        uid: credentials.uid,
        gid: credentials.gid,
        groups: groups.clone(),
        pinned,
        unit,
        invocation,
        exe: process.executable(snapshot).map(Arc::new),
        finding: Mutex::default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::DigestCache;
    use super::*;
    use nix::errno::Errno;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Child, Command, Stdio};

    /// A process that connects to `path`, then runs the shell commands written to its standard input.
    fn connect(path: &std::path::Path) -> Child {
        let script = format!(
            "import socket,os,sys\n\
             s=socket.socket(socket.AF_UNIX);s.connect({path:?});os.set_inheritable(s.fileno(),True)\n\
             print('ok',flush=True)\n\
             for line in sys.stdin: exec(line)\n"
        );
        let mut child = Command::new("python3")
            .args(["-u", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ok\n");
        child
    }

    fn run_python(child: &mut Child, python: &str) {
        writeln!(child.stdin.as_mut().unwrap(), "{python}").unwrap();
    }

    fn listen() -> (tempfile::TempDir, UnixListener, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        (dir, UnixListener::bind(&path).unwrap(), path)
    }

    /// Waits until `condition` holds, at most 5 s.
    fn wait_until(mut condition: impl FnMut() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        panic!("did not happen within 5 s");
    }

    fn kill(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn identifies_own_process() {
        let (_dir, listener, path) = listen();
        let stream = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let peer = PeerTracker::from_socket(&server).unwrap().current_peer().unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.exe().unwrap().ends_with(std::env::current_exe().unwrap().file_name().unwrap()));
        drop(stream);
    }

    #[tokio::test]
    async fn detects_exec_between_requests() {
        let (_dir, listener, path) = listen();
        let mut child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        let mut tracker = PeerTracker::from_socket(&server).unwrap();
        let before = tracker.current_peer().unwrap();
        let digests = DigestCache::default();
        let python = before.compute_exe_sha256(&digests).await.unwrap();
        run_python(&mut child, "os.execv('/bin/sleep', ['sleep', '60'])");
        wait_until(|| tracker.current_peer().unwrap().exe().unwrap().ends_with("sleep"));
        let after = tracker.current_peer().unwrap();
        assert_eq!(after.pid, before.pid);
        assert_ne!(after.compute_exe_sha256(&digests).await.unwrap(), python);
        kill(child);
    }

    #[test]
    fn rejects_exited_process_with_open_connection() {
        let (_dir, listener, path) = listen();
        let mut child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        let mut tracker = PeerTracker::from_socket(&server).unwrap();
        tracker.current_peer().unwrap();
        // A grandchild inherits the connection, then the process that opened it exits.
        run_python(&mut child, "import subprocess;subprocess.Popen(['sleep','2'],pass_fds=[s.fileno()])");
        run_python(&mut child, "os._exit(0)");
        child.wait().unwrap();
        assert_eq!(tracker.current_peer().unwrap_err(), Error::Exited);
        // Another process exits before its first request.
        let mut child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        run_python(&mut child, "os._exit(0)");
        child.wait().unwrap();
        assert_eq!(PeerTracker::from_socket(&server).unwrap().current_peer().unwrap_err(), Error::Exited);
    }

    #[test]
    fn rejects_process_after_setuid() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (_dir, listener, path) = listen();
        let mut child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        let mut tracker = PeerTracker::from_socket(&server).unwrap();
        assert_eq!(tracker.current_peer().unwrap().uid, 0);
        run_python(&mut child, "os.setuid(65534)");
        wait_until(|| tracker.current_peer().is_err());
        assert_eq!(tracker.current_peer().unwrap_err(), Error::CredentialsChanged);
        kill(child);
    }

    #[test]
    fn peer_is_unpinned_without_so_peerpidfd() {
        let (_dir, listener, path) = listen();
        let child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        let mut tracker = PeerTracker::from_socket_with(server.as_fd(), |_| Err(Errno::ENOPROTOOPT)).unwrap();
        let peer = tracker.current_peer().unwrap();
        assert!(!peer.pinned);
        assert_eq!(peer.pid, child.id() as i32);
        kill(child);
        assert_eq!(tracker.current_peer().unwrap_err(), Error::Exited);
    }
}
