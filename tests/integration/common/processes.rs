//! Child processes that do not outlive the tests.

use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Runs a command with this standard input. A command that does not read it may have ended before.
pub fn output_with(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// A child process, killed on drop, and by the kernel when the test process dies.
pub struct Running(Child);

type SpawnRequest = (Command, Sender<io::Result<Child>>);

impl Running {
    #[track_caller]
    pub fn start(mut command: Command) -> Running {
        let program = command.get_program().to_owned();
        // SAFETY: prctl is a plain system call, and nothing here allocates.
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let (reply, started) = channel();
        spawner().lock().unwrap().send((command, reply)).unwrap();
        let child = started.recv().unwrap();
        Running(child.unwrap_or_else(|e| panic!("{} cannot be started: {e}", program.to_string_lossy())))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    /// The exit status, once the process has exited.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The thread that spawns all children. The kernel sends the parent-death signal when the *thread* that
/// spawned a child exits, and each test is a thread of its own.
fn spawner() -> &'static Mutex<Sender<SpawnRequest>> {
    static SPAWNER: OnceLock<Mutex<Sender<SpawnRequest>>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, reply) in requests {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    })
}
