//! Closes client connections on a thread of its own, where closing one can take long.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

use crate::critical::spawn_critical;

/// Bytes. The thread calls close(2) and timer_settime(2) only.
const STACK_SIZE: usize = 64 * 1024;
/// How long one connection may take, and how often the thread is interrupted after that. Closing one takes
/// less than 10 us otherwise.
const CLOSE_TIMEOUT: Duration = Duration::from_micros(100);
/// Connections that wait to be closed. A thread that closes a further one waits, as it would if it closed it
/// itself.
const MAX_WAITING: usize = 128;
/// Nothing else of the daemon uses it.
const INTERRUPT: Signal = Signal::SIGALRM;

/// Passes connections to the thread that closes them.
///
/// A client can attach descriptors to what it sends. When a connection is closed, the kernel drops the last
/// references to those that were not received, and some make the thread that closes it wait, such as a TCP
/// socket whose SO_LINGER is an hour. The wait of a socket ends when a signal is pending, so a timer
/// interrupts this thread. A file of a file system that its user serves can wait in a way that no signal
/// ends.
#[derive(Clone, Debug)]
pub struct Closer(SyncSender<OwnedFd>);

impl Closer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel gives no thread, timer or signal handler.
    pub fn start() -> io::Result<Closer> {
        let (sender, connections) = mpsc::sync_channel(MAX_WAITING);
        let (started, result) = mpsc::channel();
        spawn_critical(thread::Builder::new().stack_size(STACK_SIZE), "closer", move || {
            // The receiver waits for one result, so that sending it cannot fail.
            match interrupt_timer() {
                Ok(timer) => {
                    let _ = started.send(Ok(()));
                    close_all(&connections, timer);
                }
                Err(e) => drop(started.send(Err(e))),
            }
        })?;
        let started = result.recv().map_err(io::Error::other)?;
        started
            .map_err(|e| io::Error::other(format!("the timer of the thread that closes connections: {e}")))?;
        Ok(Closer(sender))
    }

    /// Closes a connection soon.
    pub fn close(&self, connection: OwnedFd) {
        // It fails only when the process ends.
        let _ = self.0.send(connection);
    }
}

/// A timer that sends [`INTERRUPT`] to the calling thread.
fn interrupt_timer() -> nix::Result<Timer> {
    extern "C" fn do_nothing(_: libc::c_int) {}
    // Without SA_RESTART and with a handler, since a signal that is ignored interrupts nothing.
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe at any point of any thread.
    unsafe { sigaction(INTERRUPT, &action) }?;
    let event = SigEvent::new(SigevNotify::SigevThreadId {
        signal: INTERRUPT,
        thread_id: gettid().as_raw(),
        si_value: 0,
    });
    Timer::new(ClockId::CLOCK_MONOTONIC, event)
}

fn close_all(connections: &Receiver<OwnedFd>, mut timer: Timer) {
    let interval = TimeSpec::from_duration(CLOSE_TIMEOUT);
    let (every, never) =
        (Expiration::IntervalDelayed(interval, interval), Expiration::OneShot(TimeSpec::new(0, 0)));
    while let Ok(connection) = connections.recv() {
        // Setting a timer that exists to a valid time does not fail (timer_settime(2)).
        let _ = timer.set(every, TimerSetTimeFlags::empty());
        drop(connection);
        let _ = timer.set(never, TimerSetTimeFlags::empty());
    }
}
