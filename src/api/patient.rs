//! A stream whose other end has to take what it asked for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

/// A connection that is given this long to take what is to be written, all of it. Whoever takes a byte now and then would
/// otherwise keep a large answer in memory for as long as it likes.
pub struct Patient {
    stream: UnixStream,
    patience: Duration,
    /// Runs from the first write that has to wait until all is written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub fn new(stream: UnixStream, patience: Duration) -> Patient {
        Patient { stream, patience, deadline: None }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() || self.deadline.is_some() {
            let patience = self.patience;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(patience)));
            if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        written
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }

    /// Without this hyper would copy large answers once more.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper asks for this once nothing waits to be written any more.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.deadline = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn whoever_takes_nothing_or_too_little_is_let_go() {
        run(async {
            for drips in [false, true] {
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                let reader = tokio::spawn(async move {
                    while drips && theirs.read_u8().await.is_ok() {
                        sleep(Duration::from_millis(1)).await;
                    }
                    // Kept open, or the writer would be told that nobody is there.
                    sleep(Duration::from_secs(600)).await;
                    drop(theirs);
                });
                let mut ours = Patient::new(ours, Duration::from_millis(200));
                let refused = ours.write_all(&vec![0; 16 << 20]).await.unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::TimedOut, "{drips}");
                reader.abort();
            }
        });
    }

    #[test]
    fn each_answer_has_its_own_time() {
        run(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut ours = Patient::new(ours, Duration::from_secs(600));
            tokio::spawn(async move {
                let mut all = Vec::new();
                theirs.read_to_end(&mut all).await
            });
            ours.write_all(&vec![0; 16 << 20]).await.unwrap();
            assert!(ours.deadline.is_some());
            ours.flush().await.unwrap();
            assert!(ours.deadline.is_none());
        });
    }
}
