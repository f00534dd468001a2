//! A software TPM for development: swtpm, with its state in a directory, for as long as the daemon lives.
//!
//! It proves nothing about the host, which every statement made with it says. All functions here block; they belong
//! off the async runtime.

use std::fs;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use ring::rand::SecureRandom;
use ring::rand::SystemRandom;

use super::config::Tcti;
use super::swtpm_setup;

/// How long a new swtpm may take to listen. It takes milliseconds, but the machine may be busy.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long swtpm may take to end on SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How many pairs of ports are tried before giving up.
const PORT_ATTEMPTS: u32 = 20;

/// A running swtpm. Dropping it stops the process; the state stays in its directory.
///
/// The process dies with the daemon however that dies: the kernel kills it when the thread that started it ends, so
/// it is started by a thread of its own that lives as long as this value, whatever thread the caller is on.
pub struct SoftwareTpm {
    dir: PathBuf,
    process: SwtpmProcess,
    _lock: Flock<File>,
}

impl SoftwareTpm {
    /// Starts the TPM whose state is in `dir`, after making it with its EK certificates if there is none yet.
    ///
    /// Takes two to four seconds the first time (swtpm_setup makes RSA keys), a few milliseconds later.
    ///
    /// # Errors
    /// No swtpm or swtpm-tools on this machine; a directory that cannot be written or is in use; the programs' own
    /// failures, with the end of their log.
    pub fn start(dir: &Path) -> io::Result<SoftwareTpm> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(with_path(dir))?;
        let dir = dir.canonicalize().map_err(with_path(dir))?;
        let lock = lock_dir(&dir)?;
        if !dir.join(swtpm_setup::TPM_DIR).is_dir() {
            swtpm_setup::create(&dir)?;
        }
        let process = SwtpmProcess::start(&dir, &state_dir())?;
        Ok(SoftwareTpm { dir, process, _lock: lock })
    }

    /// Where it listens; the same for as long as this value lives.
    pub fn tcti(&self) -> Tcti {
        Tcti::Swtpm { host: Ipv4Addr::LOCALHOST, port: self.process.port }
    }

    /// The port of swtpm's control channel, for `swtpm_ioctl`.
    pub fn control_port(&self) -> u16 {
        self.process.port + 1
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Starts swtpm again if it has died, at the same ports. Returns whether it had to.
    ///
    /// # Errors
    /// As [`SoftwareTpm::start`]; also when another program has taken the ports in the meantime.
    pub fn ensure_running(&mut self) -> io::Result<bool> {
        let process = &mut self.process;
        if process.child.try_wait()?.is_none() {
            return Ok(false);
        }
        tracing::warn!(event = "swtpm-exited", "the software TPM died; starting it again");
        process.child = process.spawner.spawn(&self.dir, &state_dir(), process.port)?;
        Ok(true)
    }

    /// Stops swtpm: SIGTERM, and SIGKILL if that is not enough.
    pub fn stop(self) -> io::Result<()> {
        self.process.stop()
    }
}

/// Where a finished TPM's state is, relative to its directory.
fn state_dir() -> String {
    format!("{}/{}", swtpm_setup::TPM_DIR, swtpm_setup::STATE_DIR)
}

/// A swtpm process at ports of its own.
pub(super) struct SwtpmProcess {
    pub(super) port: u16,
    child: Child,
    spawner: Spawner,
}

impl SwtpmProcess {
    /// Starts swtpm on a pair of free ports; `state` is relative to `dir`.
    pub(super) fn start(dir: &Path, state: &str) -> io::Result<SwtpmProcess> {
        let spawner = Spawner::start()?;
        let mut last_error = io::Error::other("no two neighbouring ports are free between 20000 and 31999");
        for _ in 0..PORT_ATTEMPTS {
            let Some(port) = free_port_pair()? else { continue };
            match spawner.spawn(dir, state, port) {
                Ok(child) => return Ok(SwtpmProcess { port, child, spawner }),
                // Somebody may have taken the ports since; swtpm missing will not be mended by other ports.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    pub(super) fn stop(mut self) -> io::Result<()> {
        terminate(&mut self.child)
    }
}

impl Drop for SwtpmProcess {
    fn drop(&mut self) {
        if let Err(error) = terminate(&mut self.child) {
            tracing::warn!(event = "swtpm-stop-failed", %error, "cannot stop the software TPM");
        }
    }
}

/// The thread that starts the processes, so that they die with it and not with a passing thread of the caller.
struct Spawner {
    requests: mpsc::Sender<SpawnRequest>,
}

struct SpawnRequest {
    command: Command,
    reply: mpsc::Sender<io::Result<Child>>,
}

impl Spawner {
    fn start() -> io::Result<Spawner> {
        let (requests, queue) = mpsc::channel::<SpawnRequest>();
        thread::Builder::new().name("swtpm".into()).spawn(move || {
            for mut request in queue {
                let _ = request.reply.send(request.command.spawn());
            }
        })?;
        Ok(Spawner { requests })
    }

    /// Starts swtpm and waits until it listens on both ports.
    fn spawn(&self, dir: &Path, state: &str, port: u16) -> io::Result<Child> {
        let pid_file = dir.join(PID_FILE);
        match fs::remove_file(&pid_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(with_path(&pid_file)(error)),
            _ => {}
        }
        let (reply, started) = mpsc::channel();
        let thread_exited = || io::Error::other("the thread that starts swtpm is gone");
        self.requests
            .send(SpawnRequest { command: swtpm_command(dir, state, port), reply })
            .map_err(|_| thread_exited())?;
        let mut child = started.recv().map_err(|_| thread_exited())?.map_err(with_install_hint("swtpm"))?;
        match wait_until_listening(&mut child, &pid_file) {
            Ok(()) => Ok(child),
            Err(error) => {
                let _ = terminate(&mut child);
                Err(io::Error::other(format!("{error}{}", last_log_line(&dir.join(LOG_FILE)))))
            }
        }
    }
}

const PID_FILE: &str = "swtpm.pid";
const LOG_FILE: &str = "swtpm.log";

/// Paths are relative to the directory, since swtpm would split an absolute one at its commas.
fn swtpm_command(dir: &Path, state: &str, port: u16) -> Command {
    let control_port = port + 1;
    let mut command = Command::new("swtpm");
    command
        .current_dir(dir)
        .args(["socket", "--tpm2"])
        .args(["--tpmstate", &format!("dir={state}")])
        .args(["--server", &format!("type=tcp,port={port},bindaddr=127.0.0.1")])
        .args(["--ctrl", &format!("type=tcp,port={control_port},bindaddr=127.0.0.1")])
        .args(["--flags", "not-need-init,startup-clear"])
        .args(["--log", &format!("file={LOG_FILE},level=1,truncate")])
        .args(["--pid", &format!("file={PID_FILE}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    kill_with_parent(&mut command);
    command
}

/// Makes a child die with the thread that starts it, also after a `kill -9` of the daemon, and leaves it none of the
/// daemon's files.
///
/// libtss2 opens its sockets and devices without close-on-exec. A child that inherits one keeps the connection open
/// behind our back, and swtpm, which serves one connection at a time, would wait for it for ever.
pub(super) fn kill_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let in_child = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above took effect.
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // SAFETY: a system call on numbers only. It closes nothing yet, so that the standard library's own pipe to
        // the parent stays usable until exec; kernels before 5.11 refuse the flag, which is no reason to stop.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    // SAFETY: runs between fork and exec, where only async-signal-safe calls are allowed: all three are plain system
    // calls, and neither they nor the errors made here allocate.
    unsafe { command.pre_exec(in_child) };
}

/// swtpm writes its pid only once both its sockets listen, so a pid file with the child's own pid means that it is
/// this child that answers there, and no neighbour that was quicker.
fn wait_until_listening(child: &mut Child, pid_file: &Path) -> io::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    let pid = child.id().to_string();
    loop {
        if fs::read_to_string(pid_file).is_ok_and(|text| text.trim() == pid) {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("swtpm ended at once ({status})")));
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "swtpm does not begin to listen"));
        }
        sleep_poll_interval();
    }
}

fn terminate(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    let pid = Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM)?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        sleep_poll_interval();
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Two neighbouring free ports below those that the kernel gives out by itself: a client of a dead swtpm could
/// otherwise be given that very port and end up connected with itself.
fn free_port_pair() -> io::Result<Option<u16>> {
    let mut random = [0; 2];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    let port = 20_000 + (u16::from_be_bytes(random) % 6_000) * 2;
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
    Ok(bind(port).zip(bind(port + 1)).map(|_| port))
}

/// One daemon at a time in a directory.
fn lock_dir(dir: &Path) -> io::Result<Flock<File>> {
    let path = dir.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(with_path(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        let text = format!("{}: another daemon uses this software TPM ({error})", dir.display());
        io::Error::new(io::ErrorKind::WouldBlock, text)
    })
}

pub(super) fn with_path(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Says how to come by a program that is not there.
pub(super) fn with_install_hint(program: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => {
            let text = format!("there is no {program} on this machine; install swtpm and swtpm-tools");
            io::Error::new(io::ErrorKind::NotFound, text)
        }
        kind => io::Error::new(kind, format!("{program}: {error}")),
    }
}

/// The last line of a log, to be put behind an error.
pub(super) fn last_log_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!(": {} (more in {})", line.trim(), log.display()),
        None => String::new(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process's start and end can only be polled for, and briefly"
)]
fn sleep_poll_interval() {
    thread::sleep(Duration::from_millis(5));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_error_has_install_hint() {
        let error =
            Command::new("/nonexistent/swtpm").spawn().map_err(with_install_hint("swtpm")).unwrap_err();
        assert_eq!(error.to_string(), "there is no swtpm on this machine; install swtpm and swtpm-tools");
    }

    #[test]
    fn ports_are_outside_the_ephemeral_range() {
        let ports: Vec<u16> = (0..50).filter_map(|_| free_port_pair().unwrap()).collect();
        assert!(ports.iter().all(|port| (20_000..32_000).contains(port) && port % 2 == 0));
        assert!(ports.iter().any(|port| port != &ports[0]), "two hosts would meet at {}", ports[0]);
    }
}
