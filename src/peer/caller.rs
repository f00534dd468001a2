//! One connection's caller, looked at afresh at each request.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::process::{Process, Sighting};
use super::sys::{self, Credentials};
use super::{Error, Facts, Look, Peer};

/// The process that opened a connection.
#[derive(Debug)]
pub struct Caller {
    credentials: Credentials,
    groups: Vec<u32>,
    pidfd: Hold,
    seen: Option<Seen>,
}

/// How firmly the process is held.
#[derive(Debug)]
enum Hold {
    /// By the kernel's own word (SO_PEERPIDFD).
    Pinned(OwnedFd),
    /// By number, right after accept.
    Numbered(OwnedFd),
    /// Handed on to `Seen`.
    Moved {
        pinned: bool,
    },
    Lost(Error),
}

#[derive(Debug)]
struct Seen {
    process: Process,
    start_time: u64,
    sighting: Sighting,
    peer: Peer,
}

impl Caller {
    /// Takes what the kernel says of the other end of `socket`. To be called right after accept.
    pub fn of(socket: impl AsFd) -> Result<Caller, Error> {
        Caller::with(socket.as_fd(), sys::peer_pidfd)
    }

    fn with(
        socket: std::os::fd::BorrowedFd<'_>,
        peer_pidfd: impl Fn(std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, nix::errno::Errno>,
    ) -> Result<Caller, Error> {
        let credentials = sys::peer_credentials(socket).map_err(Error::Kernel)?;
        let groups = sys::peer_groups(socket).map_err(Error::Kernel)?;
        let pidfd = match peer_pidfd(socket) {
            _ if credentials.pid <= 0 => Hold::Lost(Error::OtherNamespace),
            Ok(pidfd) => Hold::Pinned(pidfd),
            // An older kernel. ESRCH and its like from a newer one mean that the process has gone.
            Err(nix::errno::Errno::ENOPROTOOPT) => match sys::pidfd_open(credentials.pid) {
                Ok(pidfd) => Hold::Numbered(pidfd),
                Err(_) => Hold::Lost(Error::Gone),
            },
            Err(_) => Hold::Lost(Error::Gone),
        };
        Ok(Caller { credentials, groups, pidfd, seen: None })
    }

    /// Who connected, for bounds that come before any request.
    pub fn uid(&self) -> u32 {
        self.credentials.uid
    }

    /// One look at the caller, for one request.
    pub fn look(&mut self) -> Look {
        Look { uid: self.credentials.uid, peer: self.peer() }
    }

    /// The process as it is now. Asked at each request; the same [`Peer`] comes back while nothing has changed.
    pub fn peer(&mut self) -> Result<Peer, Error> {
        if self.seen.is_none() {
            self.seen = Some(self.take_hold()?);
        }
        // Just set.
        let Some(seen) = &mut self.seen else { return Err(Error::Gone) };
        let now = seen.process.look()?;
        if now.uid != self.credentials.uid || now.gid != self.credentials.gid {
            return Err(Error::Changed);
        }
        if now == seen.sighting {
            return Ok(seen.peer.clone());
        }
        let pinned = seen.peer.pinned;
        if !pinned && seen.process.start_time()? != seen.start_time {
            return Err(Error::Raced);
        }
        seen.peer = describe(self.credentials, &self.groups, pinned, &seen.process, &now);
        seen.sighting = now;
        Ok(seen.peer.clone())
    }

    /// The first look: opens what later looks read.
    fn take_hold(&mut self) -> Result<Seen, Error> {
        let pinned = matches!(self.pidfd, Hold::Pinned(_) | Hold::Moved { pinned: true });
        let pidfd = match std::mem::replace(&mut self.pidfd, Hold::Moved { pinned }) {
            Hold::Pinned(pidfd) | Hold::Numbered(pidfd) => pidfd,
            Hold::Moved { .. } => return Err(Error::Gone),
            Hold::Lost(error) => {
                self.pidfd = Hold::Lost(error);
                return Err(error);
            }
        };
        let process = Process::open(pidfd, self.credentials.pid)?;
        let start_time = process.start_time()?;
        let sighting = process.look()?;
        if sighting.uid != self.credentials.uid || sighting.gid != self.credentials.gid {
            return Err(Error::Changed);
        }
        let peer = describe(self.credentials, &self.groups, pinned, &process, &sighting);
        // What was read in between belongs to one process only if it began when it began.
        if process.start_time()? != start_time {
            return Err(Error::Raced);
        }
        Ok(Seen { process, start_time, sighting, peer })
    }
}

fn describe(
    credentials: Credentials,
    groups: &[u32],
    pinned: bool,
    process: &Process,
    sighting: &Sighting,
) -> Peer {
    let (unit, invocation) = sighting.unit();
    Peer(Arc::new(Facts {
        pid: credentials.pid,
        uid: credentials.uid,
        gid: credentials.gid,
        groups: groups.to_vec(),
        pinned,
        unit,
        invocation,
        exe: process.executable(sighting),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::Digests;
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

    fn tell(child: &mut Child, python: &str) {
        writeln!(child.stdin.as_mut().unwrap(), "{python}").unwrap();
    }

    fn listen() -> (tempfile::TempDir, UnixListener, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        (dir, UnixListener::bind(&path).unwrap(), path)
    }

    /// Waits, bounded, until `seen` holds.
    fn until(mut seen: impl FnMut() -> bool) {
        for _ in 0..500 {
            if seen() {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        panic!("did not happen within 5 s");
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_kernel_says_who() {
        let (_dir, listener, path) = listen();
        let stream = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let peer = Caller::of(&server).unwrap().peer().unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.exe().unwrap().ends_with(std::env::current_exe().unwrap().file_name().unwrap()));
        drop(stream);
    }

    #[tokio::test]
    async fn an_exec_between_two_requests_is_seen() {
        let (_dir, listener, path) = listen();
        let mut child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        let mut caller = Caller::of(&server).unwrap();
        let before = caller.peer().unwrap();
        let digests = Digests::default();
        let python = before.compute_exe_sha256(&digests).await.unwrap();
        tell(&mut child, "os.execv('/bin/sleep', ['sleep', '60'])");
        until(|| caller.peer().unwrap().exe().unwrap().ends_with("sleep"));
        let after = caller.peer().unwrap();
        assert_eq!(after.pid, before.pid);
        assert_ne!(after.compute_exe_sha256(&digests).await.unwrap(), python);
        end(child);
    }

    #[test]
    fn a_dead_process_is_refused_even_while_its_connection_lives() {
        let (_dir, listener, path) = listen();
        let mut child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        let mut caller = Caller::of(&server).unwrap();
        caller.peer().unwrap();
        // The connection is handed on to a grandchild, then the one who opened it dies.
        tell(&mut child, "import subprocess;subprocess.Popen(['sleep','2'],pass_fds=[s.fileno()])");
        tell(&mut child, "os._exit(0)");
        child.wait().unwrap();
        assert_eq!(caller.peer().unwrap_err(), Error::Gone);
        // And one who died before it was ever looked at.
        let mut child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        tell(&mut child, "os._exit(0)");
        child.wait().unwrap();
        assert_eq!(Caller::of(&server).unwrap().peer().unwrap_err(), Error::Gone);
    }

    #[test]
    fn a_process_that_changes_its_user_must_connect_again() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (_dir, listener, path) = listen();
        let mut child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        let mut caller = Caller::of(&server).unwrap();
        assert_eq!(caller.peer().unwrap().uid, 0);
        tell(&mut child, "os.setuid(65534)");
        until(|| caller.peer().is_err());
        assert_eq!(caller.peer().unwrap_err(), Error::Changed);
        end(child);
    }

    #[test]
    fn without_so_peerpidfd_the_peer_is_marked_unpinned() {
        let (_dir, listener, path) = listen();
        let child = connect(&path);
        let (server, _) = listener.accept().unwrap();
        let mut caller = Caller::with(server.as_fd(), |_| Err(Errno::ENOPROTOOPT)).unwrap();
        let peer = caller.peer().unwrap();
        assert!(!peer.pinned);
        assert_eq!(peer.pid, child.id() as i32);
        end(child);
        assert_eq!(caller.peer().unwrap_err(), Error::Gone);
    }
}
