//! Signals to this process as events, so that they can be passed on to another one.
//!
//! What a terminal sends goes to each process of its foreground job, so only what another process sent is passed on.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::resource::{Resource, rlim_t, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Signals that are passed on, and that of an ended child.
const SIGNALS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
];

/// The signals of this process from its creation on. They have no other effect, until the process ends. Children inherit
/// this, unless [`restore_in`] is called for them.
pub(super) struct Signals {
    fd: AsyncFd<SignalFd>,
}

/// Lets signals have their effect in the process that `command` starts, and gives it this limit on core files, soft and
/// hard.
pub(super) fn restore_in(command: &mut Command, core_limit: (rlim_t, rlim_t)) {
    let restore = move || {
        setrlimit(Resource::RLIMIT_CORE, core_limit.0, core_limit.1)?;
        Ok(signal_set().thread_unblock()?)
    };
    // SAFETY: between fork and exec, these are two system calls, which allocate nothing.
    unsafe { command.pre_exec(restore) };
}

fn signal_set() -> SigSet {
    let mut set = SigSet::empty();
    SIGNALS.into_iter().for_each(|signal| set.add(signal));
    set
}

/// Whether the signal has no effect on this process.
fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the kernel only writes the present one, for which there is room; all zeros are one too.
    let action = unsafe {
        libc::sigaction(signal as libc::c_int, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// What a signal is to the process.
pub(super) enum SignalEvent {
    /// A child may have ended.
    Child,
    /// Another process sent it.
    PassOn(Signal),
    /// The kernel sent it to each process of the foreground job.
    OfTerminal(Signal),
}

impl Signals {
    /// Blocks the signals in this thread, which has to be the only one, or the one that all others come from. Signals that
    /// are ignored since before, as SIGHUP by nohup(1), stay so. SIGCHLD has its default effect from here on: where it is
    /// ignored, the kernel tells neither that a child has ended nor its status.
    ///
    /// # Errors
    /// The kernel has no descriptor for them.
    pub(super) fn listen() -> io::Result<Signals> {
        // SAFETY: the default is no handler, so there is no code that it could call.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
        let mut set = signal_set();
        SIGNALS.into_iter().filter(|signal| is_ignored(*signal)).for_each(|signal| set.remove(signal));
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // SAFETY: a `SignalFd` is an open descriptor, always the same one, and the `AsyncFd` owns it until it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Signals { fd })
    }

    /// The next signal that means something to the process.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub(super) async fn next(&mut self) -> io::Result<SignalEvent> {
        loop {
            let mut ready = self.fd.readable_mut().await?;
            let Some(info) = ready.get_inner_mut().read_signal()? else {
                ready.clear_ready();
                continue;
            };
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            match signal {
                Some(Signal::SIGCHLD) => return Ok(SignalEvent::Child),
                Some(signal) if info.ssi_code <= 0 => return Ok(SignalEvent::PassOn(signal)),
                Some(signal) => return Ok(SignalEvent::OfTerminal(signal)),
                None => {}
            }
        }
    }

    /// The next signal that is to end the process, while there is no other one to pass it on to.
    ///
    /// # Errors
    /// As [`Signals::next`].
    pub(super) async fn next_of_any_origin(&mut self) -> io::Result<Signal> {
        loop {
            match self.next().await? {
                SignalEvent::PassOn(signal) | SignalEvent::OfTerminal(signal) => return Ok(signal),
                SignalEvent::Child => {}
            }
        }
    }
}
