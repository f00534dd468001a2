//! A connection of HTTP/1.1 that counts as receiving while it waits for the rest of a request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_connection::ClientConnection;
use super::write_deadline::WriteDeadline;

/// Most bytes of one read. What follows a complete request in the same read stays in the HTTP library's
/// buffer and is not noticed here.
const READ_SIZE: usize = 2048;

/// Reports to the connection's [`ClientConnection`] what arrives, and when reading has to wait. The HTTP
/// library tells neither for a head, a body's chunks or trailers, for which it has buffers of its own.
pub struct ReceivingStream {
    stream: WriteDeadline,
    client: Arc<ClientConnection>,
    /// Completes when a request may be read.
    wait: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl ReceivingStream {
    /// The stream of `client`'s connection.
    pub fn new(stream: WriteDeadline, client: Arc<ClientConnection>) -> ReceivingStream {
        ReceivingStream { stream, client, wait: None }
    }
}

impl AsyncRead for ReceivingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.wait.is_none() {
            self.wait = self.client.wait_before_reading().map(|wait| Box::pin(wait) as Pin<Box<_>>);
        }
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(READ_SIZE.min(buf.remaining())));
        let result = Pin::new(&mut self.stream).poll_read(cx, &mut part);
        let length = part.filled().len();
        buf.advance(length);
        if result.is_pending() {
            self.client.mark_waiting_for_bytes();
        } else if length > 0 {
            self.client.mark_bytes_received();
        }
        result
    }
}

impl AsyncWrite for ReceivingStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.client.head_deadline().mark_flushed(Instant::now());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
