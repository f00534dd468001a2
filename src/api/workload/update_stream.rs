//! A stream of complete states: each message replaces the previous one, and a message equal to it is not
//! sent.
//!
//! A message is built when the client has room for it, so a slow client gets the latest state, and between
//! messages a stream keeps only the digest of the last one.

use std::future::Future;
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::caller_watcher::CallerState;
use super::grpc_status::no_identity;
use super::shared_updates::Update;
use super::step_stream::{Step, StepResult, StepStream};
use crate::service::AuthenticatedAgent;

/// Builds the messages of a stream.
pub trait UpdateSource: Send + 'static {
    /// The protobuf message.
    type Message: Message;

    /// The complete state for the caller's agents.
    fn build(
        &mut self,
        agents: &[AuthenticatedAgent],
    ) -> impl Future<Output = Result<Update<Self::Message>, Status>> + Send;

    /// Delay after which the message is built again although the caller did not change; `None` means never.
    fn next_refresh(&self) -> Option<Duration> {
        None
    }

    /// Whether the last message is still useful while no new one can be built.
    fn still_valid(&self) -> bool {
        true
    }
}

/// The response stream of one call.
pub type UpdateStream<S> = StepStream<UpdateState<S>>;

/// A stream between two messages.
pub struct UpdateState<S> {
    caller_state: watch::Receiver<CallerState>,
    source: S,
    /// Digest of the message that was sent last.
    last_digest: Option<[u8; 32]>,
}

impl<S: UpdateSource> UpdateState<S> {
    /// The state of a stream that sends its first message as soon as the caller's agents are known.
    pub fn new(caller_state: watch::Receiver<CallerState>, source: S) -> UpdateState<S> {
        UpdateState { caller_state, source, last_digest: None }
    }
}

impl<S: UpdateSource> Step for UpdateState<S> {
    type Message = S::Message;

    async fn next(mut self) -> StepResult<UpdateState<S>> {
        loop {
            let caller_state = self.caller_state.borrow_and_update().clone();
            let built = match caller_state {
                CallerState::Unknown => None,
                CallerState::Agents(agents) => Some(self.source.build(&agents).await),
                CallerState::Gone => Some(Err(no_identity())),
                CallerState::ShuttingDown => {
                    return (None, Some(Err(Status::unavailable("hostbadged is shutting down; call again"))));
                }
            };
            match built {
                Some(Ok(Update { message, digest })) if self.last_digest != Some(digest) => {
                    self.last_digest = Some(digest);
                    return (Some(self), Some(Ok(message)));
                }
                // The stream ends if no message was sent, or the caller lost its identity, or the last
                // message is no longer valid. Otherwise the last message stays in effect until another can be
                // built.
                Some(Err(status))
                    if self.last_digest.is_none() || is_final(&status) || !self.source.still_valid() =>
                {
                    return (None, Some(Err(status)));
                }
                _ => {}
            }
            let next_refresh = self.source.next_refresh();
            tokio::select! {
                changed = self.caller_state.changed() => if changed.is_err() {
                    return (None, None);
                },
                () = tokio::time::sleep(next_refresh.unwrap_or_default()), if next_refresh.is_some() => {}
            }
        }
    }
}

fn is_final(status: &Status) -> bool {
    status.code() == Code::PermissionDenied
}
