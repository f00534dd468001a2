//! The clients of an attack: one process of another uid with many connections, which sends prepared bytes.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::common::callers::Credentials;
use crate::common::processes::Running;

/// The environment variable with a [`Load`] as JSON, for the process that runs it.
const LOAD_VARIABLE: &str = "HOSTBADGE_ATTACK_LOAD";
/// The uid of the attacker, which is no agent.
pub const STRANGER: u32 = 12_002;

/// What the clients send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Connections that are open at once.
    pub connections: usize,
    /// Sent on each new connection.
    pub first: Vec<u8>,
    /// Sent after each piece that was received; empty to send nothing more.
    pub again: Vec<u8>,
    /// Whether what arrives is read.
    pub reads: bool,
    /// Whether connections are closed at once and opened again, without a pause.
    pub reconnects: bool,
}

/// Running clients; dropped, they are killed.
pub struct Clients(Running);

impl Load {
    /// Clients that repeat one request of HTTP/1.1, `pipelined` times in advance.
    pub fn http(request: &[u8], connections: usize, pipelined: usize) -> Load {
        Load {
            connections,
            first: request.repeat(pipelined),
            again: request.repeat(pipelined.div_ceil(2)),
            reads: true,
            reconnects: false,
        }
    }

    /// Clients that send bytes and wait.
    pub fn held(first: Vec<u8>, connections: usize, reads: bool) -> Load {
        Load { connections, first, again: Vec::new(), reads, reconnects: false }
    }

    /// Starts the clients on `socket`, as `who`, until they are dropped or two minutes have passed.
    pub fn start(&self, socket: &Path, who: &Credentials) -> Clients {
        let file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&file, &(socket, self)).unwrap();
        let (_, path) = file.keep().unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "load::clients_of_an_attack", "--ignored", "--nocapture"]);
        command.env(LOAD_VARIABLE, path).stdout(Stdio::null());
        who.apply_to(&mut command);
        Clients(Running::start(command))
    }
}

impl Clients {
    /// Panics if the clients have failed.
    #[track_caller]
    pub fn assert_running(&mut self) {
        assert_eq!(self.0.exited(), None, "the attack's clients ended");
    }
}

/// Not a test: the process of [`Load::start`].
#[test]
#[ignore = "it is the client of the attacks, which they start"]
fn clients_of_an_attack() {
    let Some(file) = std::env::var_os(LOAD_VARIABLE) else { return };
    let (socket, load): (PathBuf, Load) = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let _ = fs::remove_file(&file);
    if load.reconnects {
        connect_again_and_again(&socket, &load.first);
    } else {
        hold_connections(&socket, &load);
    }
}

const LONGEST_ATTACK: Duration = Duration::from_secs(120);

fn connect_again_and_again(socket: &Path, first: &[u8]) {
    let end = Instant::now() + LONGEST_ATTACK;
    while Instant::now() < end {
        let Ok(mut stream) = UnixStream::connect(socket) else { continue };
        // An error means that the daemon has closed the connection.
        let _ = stream.write_all(first);
    }
}

/// One connection and what it has still to send.
struct Sending {
    stream: UnixStream,
    queue: VecDeque<u8>,
}

impl Sending {
    fn open(socket: &Path, first: &[u8]) -> Option<Sending> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_nonblocking(true).unwrap();
        Some(Sending { stream, queue: first.iter().copied().collect() })
    }

    /// Sends what can be sent; `None` if the server has closed the connection.
    fn send(&mut self) -> Option<()> {
        while !self.queue.is_empty() {
            match self.stream.write(self.queue.as_slices().0) {
                Ok(length) => drop(self.queue.drain(..length)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(_) => return None,
            }
        }
        Some(())
    }

    /// Reads what has arrived, once; `None` if the server has closed the connection.
    fn receive(&mut self, again: &[u8]) -> Option<()> {
        let mut received = [0; 65_536];
        match self.stream.read(&mut received) {
            Ok(0) => None,
            Ok(_) => {
                // A client that cannot send does not queue without limit.
                if self.queue.len() < 1 << 20 {
                    self.queue.extend(again);
                }
                Some(())
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Some(()),
            Err(_) => None,
        }
    }
}

fn hold_connections(socket: &Path, load: &Load) {
    let end = Instant::now() + LONGEST_ATTACK;
    let mut open: Vec<Option<Sending>> = (0..load.connections).map(|_| None).collect();
    while Instant::now() < end {
        // Connections that the server has closed are opened again, some at a time.
        for slot in open.iter_mut().filter(|slot| slot.is_none()).take(50) {
            *slot = Sending::open(socket, &load.first);
        }
        let wanted = |sending: &Sending| {
            let mut flags = PollFlags::POLLHUP;
            flags.set(PollFlags::POLLIN, load.reads);
            flags.set(PollFlags::POLLOUT, !sending.queue.is_empty());
            flags
        };
        let (indices, mut polled): (Vec<usize>, Vec<PollFd>) = open
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| {
                let sending = slot.as_ref()?;
                Some((index, PollFd::new(sending.stream.as_fd(), wanted(sending))))
            })
            .unzip();
        let timeout = if polled.len() < load.connections {
            PollTimeout::from(1_u16)
        } else {
            PollTimeout::from(100_u16)
        };
        if poll(&mut polled, timeout).is_err() {
            continue;
        }
        let ready: Vec<(usize, PollFlags)> = indices
            .into_iter()
            .zip(polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())))
            .filter(|(_, flags)| !flags.is_empty())
            .collect();
        for (index, flags) in ready {
            let Some(sending) = &mut open[index] else { continue };
            let hung_up = flags.contains(PollFlags::POLLHUP) && !flags.contains(PollFlags::POLLIN);
            let received =
                if flags.contains(PollFlags::POLLIN) { sending.receive(&load.again) } else { Some(()) };
            if hung_up || received.and_then(|()| sending.send()).is_none() {
                open[index] = None;
            }
        }
    }
}
