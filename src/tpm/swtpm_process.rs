//! swtpm as a child process: started on free ports, killed by the kernel when the daemon ends.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use ring::rand::SecureRandom;
use ring::rand::SystemRandom;

/// How long a new swtpm may take to listen. It takes milliseconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long swtpm may take to exit after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How many pairs of ports are tried.
const PORT_ATTEMPTS: u32 = 20;

/// A swtpm process with its pair of ports. Dropping it stops the process.
pub(super) struct SwtpmProcess {
    port: u16,
    child: Child,
    spawner: Spawner,
}

impl SwtpmProcess {
    /// Starts swtpm on a pair of free ports; its state is in `state`, relative to `dir`.
    pub(super) fn start(dir: &Path, state: &str) -> io::Result<SwtpmProcess> {
        let spawner = Spawner::start()?;
        let mut last_error = io::Error::other("no two adjacent ports are free between 20000 and 31999");
        for _ in 0..PORT_ATTEMPTS {
            let Some(port) = free_port_pair()? else { continue };
            match spawner.spawn(dir, state, port) {
                Ok(child) => return Ok(SwtpmProcess { port, child, spawner }),
                // Other ports do not help if swtpm is not installed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    /// Starts swtpm again on the same ports, after it has exited.
    pub(super) fn restart(&mut self, dir: &Path, state: &str) -> io::Result<()> {
        self.child = self.spawner.spawn(dir, state, self.port)?;
        Ok(())
    }

    pub(super) fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The port for commands; the control channel is on the next one.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
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

/// A thread that starts the processes: the kernel kills a process when the thread that started it ends
/// ([`kill_with_parent`]), and the caller's thread may end earlier.
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
        let thread_exited = || io::Error::other("the thread that starts swtpm has ended");
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

/// Paths are relative to the directory, since swtpm would split an absolute one that contains a comma.
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
        .stderr(Stdio::null())
        // Ctrl-C in a terminal signals the whole process group: swtpm would end at once, while requests in
        // progress and the daemon's last commands still need it.
        .process_group(0);
    kill_with_parent(&mut command);
    command
}

/// Makes the kernel kill the child when the thread that starts it ends, also after SIGKILL of the daemon, and
/// closes the daemon's file descriptors in it.
///
/// libtss2 opens its sockets and devices without close-on-exec. A child that inherits one keeps the
/// connection open, and swtpm, which serves one connection at a time, would wait for it without end.
pub(super) fn kill_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let in_child = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above took effect.
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // SAFETY: the system call takes numbers only. It closes no descriptor before exec, so the standard
        // library's pipe to the parent remains usable. Kernels before 5.11 reject the flag; the error is
        // ignored.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    // SAFETY: runs between fork and exec, where only async-signal-safe calls are allowed: all three are plain
    // system calls, and neither they nor the errors made here allocate.
    unsafe { command.pre_exec(in_child) };
}

/// Waits until the child listens. swtpm writes its pid once both its sockets listen, so a pid file with the
/// child's pid shows that this child, and not another process, has the ports.
fn wait_until_listening(child: &mut Child, pid_file: &Path) -> io::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    let pid = child.id().to_string();
    loop {
        if fs::read_to_string(pid_file).is_ok_and(|text| text.trim() == pid) {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("swtpm exited at once ({status})")));
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "swtpm does not start to listen"));
        }
        sleep_poll_interval();
    }
}

/// Sends SIGTERM, and SIGKILL if the child has not exited after [`STOP_TIMEOUT`].
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

/// Two adjacent free ports below the kernel's ephemeral range: a client that reconnects to a swtpm that
/// exited could otherwise be assigned that port itself and connect to itself. `None` if the random pair is
/// not free.
fn free_port_pair() -> io::Result<Option<u16>> {
    let mut random = [0; 2];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    let port = 20_000 + (u16::from_be_bytes(random) % 6_000) * 2;
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
    Ok(bind(port).zip(bind(port + 1)).map(|_| port))
}

/// Adds the path to an I/O error.
pub(super) fn with_path(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Adds the program to an I/O error, and how to install it if it is missing.
pub(super) fn with_install_hint(program: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => {
            let text = format!("there is no {program} on this machine; install swtpm and swtpm-tools");
            io::Error::new(io::ErrorKind::NotFound, text)
        }
        kind => io::Error::new(kind, format!("{program}: {error}")),
    }
}

/// The last line of a log, to be appended to an error.
pub(super) fn last_log_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!(": {} (more in {})", line.trim(), log.display()),
        None => String::new(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a pid file and a process's exit are polled for seconds at most"
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
