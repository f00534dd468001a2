//! Requests in the queue of the TPM thread.

use std::time::Instant;

use tokio::sync::oneshot;

use super::connected_tpm::ConnectedTpm;
use super::error::{Error, FaultClass};

/// A request in the queue.
pub(super) trait TpmRequest: Send {
    /// Whether the caller has stopped waiting.
    fn is_cancelled(&self) -> bool;
    /// Runs the request and replies. A fault of the TPM or the connection is returned instead, without a
    /// reply.
    fn try_run(&mut self, tpm: &mut ConnectedTpm) -> Result<(), Error>;
    /// Replies with an error.
    fn fail(&mut self, error: Error);
    /// When it was put into the queue.
    fn queued_at(&self) -> Instant;
}

/// An operation, the channel for its result, and the caller's deadline.
pub(super) struct PendingRequest<T, F> {
    operation: F,
    reply: Option<oneshot::Sender<Result<T, Error>>>,
    deadline: Instant,
    queued_at: Instant,
}

impl<T, F> PendingRequest<T, F>
where
    T: Send,
    F: FnMut(&mut ConnectedTpm) -> Result<T, Error> + Send,
{
    pub(super) fn new(operation: F, reply: oneshot::Sender<Result<T, Error>>, deadline: Instant) -> Self {
        PendingRequest { operation, reply: Some(reply), deadline, queued_at: Instant::now() }
    }

    fn respond(&mut self, result: Result<T, Error>) {
        if let Some(reply) = self.reply.take() {
            // The receiver is gone if the caller stopped waiting.
            let _ = reply.send(result);
        }
    }
}

impl<T, F> TpmRequest for PendingRequest<T, F>
where
    T: Send,
    F: FnMut(&mut ConnectedTpm) -> Result<T, Error> + Send,
{
    fn is_cancelled(&self) -> bool {
        Instant::now() >= self.deadline || self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn try_run(&mut self, tpm: &mut ConnectedTpm) -> Result<(), Error> {
        match (self.operation)(tpm) {
            Err(error) if error.fault_class() != FaultClass::Request => Err(error),
            result => {
                self.respond(result);
                Ok(())
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.respond(Err(error));
    }

    fn queued_at(&self) -> Instant {
        self.queued_at
    }
}
