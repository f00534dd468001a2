//! A response stream as a state machine without a task or a queue: a message is made when the client can
//! receive one.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_util::sync::ReusableBoxFuture;
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

use crate::correlation::{self, RequestContext};

/// The state between two messages of a stream.
pub trait Step: Sized + Send + 'static {
    /// The protobuf message.
    type Message: Send + 'static;

    /// Waits for the next message. An error is the last item.
    fn next(self) -> impl Future<Output = StepResult<Self>> + Send;
}

/// The state after a message, `None` after the last one; and the message, `None` if the stream ends without.
pub type StepResult<S> = (Option<S>, Option<Result<<S as Step>::Message, Status>>);

/// The response stream of one call.
pub struct StepStream<S: Step> {
    next: ReusableBoxFuture<'static, StepResult<S>>,
    ended: bool,
    /// The call that opened the stream: what the stream records later has its ids.
    request: Option<RequestContext>,
}

impl<S: Step> StepStream<S> {
    /// A stream that begins in this state.
    pub fn new(state: S) -> StepStream<S> {
        StepStream {
            next: ReusableBoxFuture::new(state.next()),
            ended: false,
            request: correlation::current(),
        }
    }
}

impl<S: Step> Stream for StepStream<S> {
    type Item = Result<S::Message, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let request = self.request;
        let (state, item) = ready!(correlation::within(request, || self.next.poll(cx)));
        match state {
            Some(state) => self.next.set(state.next()),
            None => self.ended = true,
        }
        Poll::Ready(item)
    }
}
