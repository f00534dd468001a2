//! The signals that the daemon handles.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers for SIGHUP, SIGTERM and SIGINT. Installed before the daemon reports that it is ready: until then
/// the default action of each signal ends the process at once.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What a signal requests.
pub(super) enum Request {
    /// SIGHUP: reload the agents.
    Reload,
    /// SIGTERM or SIGINT: stop the daemon.
    Stop,
}

impl Signals {
    /// Installs the handlers. Call it inside the runtime.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal. Cancel-safe.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
        }
    }
}
