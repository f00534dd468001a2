//! A stream of whole states: each message is all that holds now, and one that says nothing new is not sent.
//!
//! A message is made when its reader has room for it, so a slow reader gets the latest, and nothing is kept for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Code, Status};

use super::presence::Seen;
use super::status::no_identity;
use crate::agents::Agent;

/// Makes a message for the agents that a caller is.
pub type Compose<T> = Arc<dyn Fn(&[Agent]) -> Result<T, Status> + Send + Sync>;

/// One caller's stream.
pub struct Updates<T> {
    next: ReusableBoxFuture<'static, Turn<T>>,
    ended: bool,
}

/// A message, and what the next one comes from; nothing after the last.
type Turn<T> = (Option<Feed<T>>, Option<Result<T, Status>>);

struct Feed<T> {
    seen: watch::Receiver<Seen>,
    compose: Compose<T>,
    last: Option<T>,
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Updates<T> {
    pub fn new(seen: watch::Receiver<Seen>, compose: Compose<T>) -> Updates<T> {
        let feed = Feed { seen, compose, last: None };
        Updates { next: ReusableBoxFuture::new(feed.next()), ended: false }
    }
}

impl<T: Clone + PartialEq> Feed<T> {
    /// The next message, and what comes after it; nothing comes after an error.
    async fn next(mut self) -> Turn<T> {
        loop {
            let seen = self.seen.borrow_and_update().clone();
            let made = match seen {
                Seen::Nobody => None,
                Seen::Agents(agents) => Some((self.compose)(&agents)),
                Seen::Gone => Some(Err(no_identity())),
                Seen::Closing => Some(Err(Status::unavailable("hostbadged ends; call again"))),
            };
            match made {
                Some(Ok(message)) if self.last.as_ref() != Some(&message) => {
                    self.last = Some(message.clone());
                    return (Some(self), Some(Ok(message)));
                }
                // What cannot be told now was told before, and will be again.
                Some(Err(status)) if self.last.is_none() || is_final(&status) => {
                    return (None, Some(Err(status)));
                }
                _ => {}
            }
            if self.seen.changed().await.is_err() {
                return (None, None);
            }
        }
    }
}

fn is_final(status: &Status) -> bool {
    status.code() == Code::PermissionDenied || status.message() == "hostbadged ends; call again"
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Stream for Updates<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let (feed, item) = ready!(self.next.poll(cx));
        match feed {
            Some(feed) => self.next.set(feed.next()),
            None => self.ended = true,
        }
        Poll::Ready(item)
    }
}
