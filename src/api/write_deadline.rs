//! A stream with a deadline for what is written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::client_stream::ClientStream;

/// A connection whose client has to receive each reply completely within a time. A timeout of each write
/// would not bound the time that a reply is in memory, because a client can read one byte now and then.
pub struct WriteDeadline {
    stream: ClientStream,
    timeout: Duration,
    /// Runs from the first write that has to wait until everything is written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl WriteDeadline {
    /// A deadline of `timeout` for each reply on `stream`.
    pub fn new(stream: ClientStream, timeout: Duration) -> WriteDeadline {
        WriteDeadline { stream, timeout, deadline: None }
    }

    fn enforce<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_pending() || self.deadline.is_some() {
            let timeout = self.timeout;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
            if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        result
    }
}

impl AsyncRead for WriteDeadline {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for WriteDeadline {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.enforce(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.enforce(cx, result)
    }

    /// Without vectored writes hyper would copy large replies once more.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written everything.
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
    use tokio::net::UnixStream;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn stalled_or_slow_reader_times_out() {
        run(async {
            for slow_reader in [false, true] {
                let (server, mut client) = UnixStream::pair().unwrap();
                let reader = tokio::spawn(async move {
                    while slow_reader && client.read_u8().await.is_ok() {
                        sleep(Duration::from_millis(1)).await;
                    }
                    // Kept open, because the writer would otherwise get EPIPE.
                    sleep(Duration::from_secs(600)).await;
                    drop(client);
                });
                let mut server = WriteDeadline::new(ClientStream::plain(server), Duration::from_millis(200));
                let error = server.write_all(&vec![0; 16 << 20]).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{slow_reader}");
                reader.abort();
            }
        });
    }

    #[test]
    fn flush_resets_the_deadline() {
        run(async {
            let (server, mut client) = UnixStream::pair().unwrap();
            let mut server = WriteDeadline::new(ClientStream::plain(server), Duration::from_secs(600));
            tokio::spawn(async move {
                let mut received = Vec::new();
                client.read_to_end(&mut received).await
            });
            server.write_all(&vec![0; 16 << 20]).await.unwrap();
            assert!(server.deadline.is_some());
            server.flush().await.unwrap();
            assert!(server.deadline.is_none());
        });
    }
}
