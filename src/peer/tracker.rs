//! Tracks the process that opened a connection and re-reads its attributes at each request.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use super::cgroup::CgroupNames;
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

/// The pidfd of the caller, and how it was obtained.
#[derive(Debug)]
enum PidfdState {
    /// From SO_PEERPIDFD: certainly the process that connected.
    Pinned(Arc<OwnedFd>),
    /// From pidfd_open(2) with the pid of SO_PEERCRED, right after accept.
    ByPid(Arc<OwnedFd>),
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
    /// `Error::Kernel` if the credentials, the groups or a pidfd cannot be obtained, for example because the
    /// daemon has no free descriptor; the caller has to connect again. Other errors are returned by
    /// [`PeerTracker::current_peer`], because a request that fails gets an answer.
    pub fn from_socket(socket: impl AsFd) -> Result<PeerTracker, Error> {
        PeerTracker::from_socket_with(socket.as_fd(), sys::peer_pidfd)
    }

    fn from_socket_with(
        socket: std::os::fd::BorrowedFd<'_>,
        peer_pidfd: impl Fn(std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, Errno>,
    ) -> Result<PeerTracker, Error> {
        let credentials = sys::peer_credentials(socket).map_err(Error::Kernel)?;
        let groups = sys::peer_groups(socket).map_err(Error::Kernel)?;
        let is_temporary =
            |errno: &Errno| matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS);
        let pidfd_state = match peer_pidfd(socket) {
            _ if credentials.pid <= 0 => PidfdState::Failed(Error::OtherNamespace),
            Ok(pidfd) => PidfdState::Pinned(Arc::new(pidfd)),
            // A kernel before 6.5. On newer kernels, ESRCH and other errors mean that the process has exited.
            Err(Errno::ENOPROTOOPT) => match sys::pidfd_open(credentials.pid) {
                Ok(pidfd) => PidfdState::ByPid(Arc::new(pidfd)),
                Err(errno) if is_temporary(&errno) => return Err(Error::Kernel(errno)),
                Err(_) => PidfdState::Failed(Error::Exited),
            },
            Err(errno) if is_temporary(&errno) => return Err(Error::Kernel(errno)),
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
        tracked.peer = build_peer(self.credentials, &self.groups, pinned, &tracked.process, &snapshot)?;
        tracked.snapshot = snapshot;
        Ok(tracked.peer.clone())
    }

    /// Opens the process's handles and takes the first snapshot. After a failure the next request tries it
    /// again.
    fn open_process(&self) -> Result<TrackedProcess, Error> {
        let (pidfd, pinned) = match &self.pidfd_state {
            PidfdState::Pinned(pidfd) => (pidfd, true),
            PidfdState::ByPid(pidfd) => (pidfd, false),
            PidfdState::Failed(error) => return Err(*error),
        };
        let process = ProcessHandle::open(pidfd.clone(), self.credentials.pid)?;
        let start_time = process.start_time()?;
        let snapshot = process.snapshot(None)?;
        if snapshot.uid != self.credentials.uid || snapshot.gid != self.credentials.gid {
            return Err(Error::CredentialsChanged);
        }
        let peer = build_peer(self.credentials, &self.groups, pinned, &process, &snapshot)?;
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
) -> Result<Peer, Error> {
    let (CgroupNames { unit, user_unit, session, container }, invocation) = process.names(snapshot)?;
    let cgroup = snapshot.unified_cgroup();
    Ok(Peer(Arc::new(PeerInfo {
        pid: credentials.pid,
        uid: credentials.uid,
        gid: credentials.gid,
        groups: groups.clone(),
        pinned,
        unit,
        user_unit,
        session,
        container,
        cgroup,
        invocation: Some(invocation),
        is_future: false,
        exe: process.executable(snapshot).map(Arc::new),
        finding: Mutex::default(),
    })))
}

#[cfg(test)]
mod tests {
    use super::super::DigestCache;
    use super::*;
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use std::io::{BufRead, BufReader, Write};
    use std::os::fd::AsRawFd;
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

    #[test]
    fn a_request_without_a_free_descriptor_fails_and_the_next_one_identifies() {
        const CHILD_ENV: &str = "HOSTBADGE_TEST_DESCRIPTORS";
        if std::env::var_os(CHILD_ENV).is_none() {
            // The limit is one of the process, so this runs in a process of its own.
            let name = "peer::tracker::tests::\
                        a_request_without_a_free_descriptor_fails_and_the_next_one_identifies";
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", name, "--test-threads=1"]).env(CHILD_ENV, "1");
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let (_dir, listener, path) = listen();
        let _client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut tracker = PeerTracker::from_socket(&server).unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // The lowest free descriptor is beyond the limit.
        let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
        setrlimit(Resource::RLIMIT_NOFILE, free, hard).unwrap();
        assert_eq!(tracker.current_peer().unwrap_err(), Error::Kernel(Errno::EMFILE));
        let accepted = PeerTracker::from_socket(&server);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert_eq!(accepted.err(), Some(Error::Kernel(Errno::EMFILE)));
        assert_eq!(tracker.current_peer().unwrap().pid, std::process::id() as i32);
    }
}
