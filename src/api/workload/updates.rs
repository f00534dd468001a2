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

use super::presence::Seen;
use super::status::no_identity;
use crate::agents::Agent;
use crate::api::crowd::Following;

/// What a stream tells.
pub trait Source: Send + 'static {
    type Message: Message;

    /// All that holds now for the agents that the caller is.
    fn compose(&mut self, agents: &[Agent]) -> impl Future<Output = Result<Self::Message, Status>> + Send;

    /// When to look again though nothing changed around it; none where that is never.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// Whether what was told last is still of use where nothing can be told now.
    fn lasts(&self) -> bool {
        true
    }
}

/// One caller's stream.
pub struct Updates<S: Source> {
    next: ReusableBoxFuture<'static, Turn<S>>,
    ended: bool,
    _place: Following,
}

/// A message, and what the next one comes from; nothing after the last.
type Turn<S> = (Option<Feed<S>>, Option<Result<<S as Source>::Message, Status>>);

struct Feed<S> {
    seen: watch::Receiver<Seen>,
    source: S,
    /// SHA-256 of the message that was sent last.
    last: Option<[u8; 32]>,
}

impl<S: Source> Updates<S> {
    pub fn new(seen: watch::Receiver<Seen>, place: Following, source: S) -> Updates<S> {
        let feed = Feed { seen, source, last: None };
        Updates { next: ReusableBoxFuture::new(feed.next()), ended: false, _place: place }
    }
}

impl<S: Source> Feed<S> {
    /// The next message, and what comes after it; nothing comes after an error.
    async fn next(mut self) -> Turn<S> {
        loop {
            let seen = self.seen.borrow_and_update().clone();
            let made = match seen {
                Seen::Nobody => None,
                Seen::Agents(agents) => Some(self.source.compose(&agents).await),
                Seen::Gone => Some(Err(no_identity())),
                Seen::Closing => {
                    return (None, Some(Err(Status::unavailable("hostbadged ends; call again"))));
                }
            };
            match made {
                Some(Ok(message)) => {
                    let told = Some(digest_of(&message));
                    if self.last != told {
                        self.last = told;
                        return (Some(self), Some(Ok(message)));
                    }
                }
                // What cannot be told now was told before, and will be again.
                Some(Err(status)) if self.last.is_none() || is_final(&status) || !self.source.lasts() => {
                    return (None, Some(Err(status)));
                }
                _ => {}
            }
            let due = self.source.due();
            tokio::select! {
                changed = self.seen.changed() => if changed.is_err() {
                    return (None, None);
                },
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
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

impl<S: Source> Stream for Updates<S> {
    type Item = Result<S::Message, Status>;

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
