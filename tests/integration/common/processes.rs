//! Processes that never outlive the tests, however these end.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A process of a test: killed when this is dropped, and by the kernel when the test program dies.
pub struct Running(Child);

type Order = (Command, Sender<io::Result<Child>>);

impl Running {
    #[track_caller]
    pub fn start(mut command: Command) -> Running {
        let program = command.get_program().to_owned();
        // SAFETY: prctl is a plain system call, and nothing here allocates.
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let (done, started) = channel();
        keeper().lock().unwrap().send((command, done)).unwrap();
        let child = started.recv().unwrap();
        Running(child.unwrap_or_else(|e| panic!("{} cannot be started: {e}", program.to_string_lossy())))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    /// How it ended, if it did.
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

/// The kernel's death signal comes when the *thread* that started a process ends, and a test is a thread; so a thread
/// that never ends starts them all.
fn keeper() -> &'static Mutex<Sender<Order>> {
    static KEEPER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    KEEPER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, done) in orders {
                let _ = done.send(command.spawn());
            }
        });
        Mutex::new(sender)
    })
}
