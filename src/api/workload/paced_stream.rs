//! A connection whose client is charged for what it sends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::api::client_stream::ClientStream;
use crate::api::pace::{Cost, Pace};

/// Bytes that cost one unit: some fifty frames without payload, which the HTTP/2 library answers by itself,
/// or the headers of two calls.
const BYTES_PER_UNIT: usize = 512;

/// Charges a uid for the bytes that it sends, reads no more while it has used up its budget, and lets other
/// tasks have their turn after each read. Otherwise one client's PING and SETTINGS frames would occupy a
/// worker. Writes pass unchanged.
pub struct PacedStream {
    stream: ClientStream,
    pace: Arc<Pace>,
    uid: u32,
    uncharged_bytes: usize,
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether a read was made in this turn.
    has_read: bool,
}

impl PacedStream {
    /// A connection of `uid`.
    pub fn new(stream: ClientStream, pace: Arc<Pace>, uid: u32) -> PacedStream {
        PacedStream { stream, pace, uid, uncharged_bytes: 0, pause: None, has_read: false }
    }

    fn charge(&mut self, bytes: usize) {
        self.uncharged_bytes += bytes;
        let units = self.uncharged_bytes / BYTES_PER_UNIT;
        self.uncharged_bytes %= BYTES_PER_UNIT;
        if units == 0 {
            return;
        }
        let cost = Cost::Units(u32::try_from(units).unwrap_or(u32::MAX));
        let delay = self.pace.delay(self.uid, cost, Instant::now());
        if !delay.is_zero() {
            self.pause = Some(Box::pin(sleep(delay)));
        }
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if std::mem::take(&mut self.has_read) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.has_read = true;
        self.charge(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn client_that_sends_more_than_its_budget_is_not_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // Four units at once, then one a second, which is longer than the wait below.
        let pace = Arc::new(Pace::new(1, 4));
        let mut stream = PacedStream::new(ClientStream::plain(ours), pace.clone(), 7);
        theirs.write_all(&[0; 8 * BYTES_PER_UNIT]).await.unwrap();
        let mut bytes = [0; 4 * BYTES_PER_UNIT];
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(stream.pause.is_none(), "within the burst");
        let mut more = [0; BYTES_PER_UNIT];
        stream.read_exact(&mut more).await.unwrap();
        assert!(stream.pause.is_some());
        assert!(timeout(Duration::from_millis(50), stream.read_u8()).await.is_err());
        assert_eq!(
            pace.charge(8, Cost::Unit, Instant::now()),
            Some(Duration::ZERO),
            "the budget of another uid is full"
        );
    }

    #[tokio::test]
    async fn other_tasks_have_their_turn_between_reads() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = PacedStream::new(ClientStream::plain(ours), Arc::new(Pace::new(1000, 1000)), 7);
        theirs.write_all(b"ab").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut stream).poll_read(&mut context, &mut buffer).is_pending());
        assert!(Pin::new(&mut stream).poll_read(&mut context, &mut buffer).is_ready());
    }
}
