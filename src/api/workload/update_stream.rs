//! A stream of whole states: each message is all that holds now, and one that says nothing new is not sent.
//!
//! A message is made when its reader has room for it, so a slow reader gets the latest, and nothing is kept for it but
//! the digest of what it was told.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prost::Message;
use ring::digest::{SHA256, digest};
use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::caller_watcher::CallerState;
use super::grpc_status::no_identity;
use crate::api::connection_limits::StreamPermit;
use crate::service::AuthenticatedAgent;

/// What a stream tells.
pub trait UpdateSource: Send + 'static {
    type Message: Message;

    /// All that holds now for the agents that the caller is.
    fn build(
        &mut self,
        agents: &[AuthenticatedAgent],
    ) -> impl Future<Output = Result<Self::Message, Status>> + Send;

    /// When to look again though nothing changed around it; none where that is never.
    fn next_refresh(&self) -> Option<Duration> {
        None
    }

    /// Whether what was told last is still of use where nothing can be told now.
    fn still_valid(&self) -> bool {
        true
    }
}

/// One caller's stream.
pub struct UpdateStream<S: UpdateSource> {
    next: ReusableBoxFuture<'static, StreamStep<S>>,
    ended: bool,
    _permit: StreamPermit,
}

/// A message, and what the next one comes from; nothing after the last.
type StreamStep<S> = (Option<StreamState<S>>, Option<Result<<S as UpdateSource>::Message, Status>>);

struct StreamState<S> {
    caller_state: watch::Receiver<CallerState>,
    source: S,
    /// SHA-256 of the message that was sent last.
    last_digest: Option<[u8; 32]>,
}

impl<S: UpdateSource> UpdateStream<S> {
    pub fn new(
        caller_state: watch::Receiver<CallerState>,
        permit: StreamPermit,
        source: S,
    ) -> UpdateStream<S> {
        let state = StreamState { caller_state, source, last_digest: None };
        UpdateStream { next: ReusableBoxFuture::new(state.next()), ended: false, _permit: permit }
    }
}

impl<S: UpdateSource> StreamState<S> {
    /// The next message, and what comes after it; nothing comes after an error.
    async fn next(mut self) -> StreamStep<S> {
        loop {
            let caller_state = self.caller_state.borrow_and_update().clone();
            let built = match caller_state {
                CallerState::Unknown => None,
                CallerState::Agents(agents) => Some(self.source.build(&agents).await),
                CallerState::Gone => Some(Err(no_identity())),
                CallerState::ShuttingDown => {
                    return (None, Some(Err(Status::unavailable("hostbadged ends; call again"))));
                }
            };
            match built {
                Some(Ok(message)) => {
                    let message_digest = Some(digest_of(&message));
                    if self.last_digest != message_digest {
                        self.last_digest = message_digest;
                        return (Some(self), Some(Ok(message)));
                    }
                }
                // What cannot be told now was told before, and will be again.
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

fn digest_of(message: &impl Message) -> [u8; 32] {
    // There may be a private key in it.
    let mut bytes = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
    message.encode_raw(&mut *bytes);
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    sum
}

impl<S: UpdateSource> Stream for UpdateStream<S> {
    type Item = Result<S::Message, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let (state, item) = ready!(self.next.poll(cx));
        match state {
            Some(state) => self.next.set(state.next()),
            None => self.ended = true,
        }
        Poll::Ready(item)
    }
}
