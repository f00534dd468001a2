//! The stream of a client's connection, and what is done about descriptors that its client attaches.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, UnixAddr, getpeername, getsockopt, recv, recvmsg, setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use super::closer::Closer;
use super::listen::may_carry_descriptors;

/// An accepted connection that no runtime serves yet.
pub struct ClientSocket {
    /// `None` only when it was registered.
    stream: Option<StdStream>,
    closer: Option<Closer>,
}

/// A connection that a runtime serves.
///
/// Where it has a [`Closer`], its client can attach descriptors to what it sends. A read would drop them,
/// which can make the thread wait. Each read therefore checks first whether there are any; they end the
/// connection, and the closer's thread closes it.
pub struct ClientStream {
    /// `None` only while it is dropped.
    stream: Option<UnixStream>,
    closer: Option<Closer>,
}

impl ClientSocket {
    /// A connection that was just accepted.
    pub fn new(stream: StdStream, closer: &Closer) -> ClientSocket {
        let closer = may_carry_descriptors(&stream).then(|| closer.clone());
        if closer.is_some() {
            // Reading past a byte out of band would drop it with its descriptors. As a byte of the stream it
            // is seen as the others are. An error means that the kernel has no such bytes.
            let _ = setsockopt(&stream, sockopt::OobInline, &true);
        }
        ClientSocket { stream: Some(stream), closer }
    }

    /// The uid at connect(2).
    pub fn uid(&self) -> Option<u32> {
        let credentials = getsockopt(self.get()?, sockopt::PeerCredentials).ok()?;
        Some(credentials.uid())
    }

    /// The socket.
    pub fn get(&self) -> Option<&StdStream> {
        self.stream.as_ref()
    }

    /// Registers the descriptor with the poller of this thread's runtime.
    ///
    /// # Errors
    /// The kernel cannot do so.
    pub fn register(mut self) -> io::Result<ClientStream> {
        self.stream.as_ref().ok_or_else(closed)?.set_nonblocking(true)?;
        let stream = self.stream.take().ok_or_else(closed)?;
        Ok(ClientStream { stream: Some(UnixStream::from_std(stream)?), closer: self.closer.take() })
    }
}

impl ClientStream {
    /// A stream whose client cannot attach descriptors.
    #[cfg(test)]
    pub fn plain(stream: UnixStream) -> ClientStream {
        ClientStream { stream: Some(stream), closer: None }
    }

    /// Writes what fits without waiting.
    ///
    /// # Errors
    /// As of write(2).
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.as_ref().ok_or_else(closed)?.try_write(bytes)
    }

    /// The abstract address (unix(7)) to which the client has bound its socket, without the leading NUL;
    /// `None` where it has a path or no address.
    pub fn abstract_peer_address(&self) -> Option<Vec<u8>> {
        let address = getpeername::<UnixAddr>(self.stream.as_ref()?.as_raw_fd()).ok()?;
        address.as_abstract().map(<[u8]>::to_vec)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut UnixStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(closed)
    }
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Receives bytes to which no descriptors are attached.
///
/// With MSG_PEEK and without room for control data, recvmsg(2) reports descriptors as MSG_CTRUNC, and ends
/// with the bytes that they are attached to. No other thread reads the connection, so the same bytes are
/// received afterwards.
fn receive_plain_bytes(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = stream.as_raw_fd();
    let mut buffers = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let seen = recvmsg::<()>(fd, &mut buffers, None, flags)?;
    if seen.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client attached descriptors"));
    }
    match seen.bytes {
        0 => Ok(0),
        length => Ok(recv(fd, &mut buffer[..length], MsgFlags::MSG_DONTWAIT)?),
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        if let (Some(stream), Some(closer)) = (self.stream.take(), &self.closer) {
            closer.close(stream.into());
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let (Some(stream), Some(closer)) = (self.stream.take(), &self.closer) else { return };
        // An error means that the poller does not have it; it is closed at once.
        if let Ok(stream) = stream.into_std() {
            closer.close(stream.into());
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream_may_carry_descriptors = self.closer.is_some();
        let stream = self.stream()?;
        if !stream_may_carry_descriptors || buf.remaining() == 0 {
            return stream.poll_read(cx, buf);
        }
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match stream.try_io(Interest::READABLE, || receive_plain_bytes(&stream, unfilled)) {
                Ok(length) => {
                    buf.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use nix::sys::socket::{ControlMessage, sendmsg};
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A connection whose last close waits for an hour, and its peer, which does not read.
    fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.accept().unwrap().0;
        let linger = libc::linger { l_onoff: 1, l_linger: 3600 };
        setsockopt(&stream, sockopt::Linger, &linger).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 65_536]).is_ok() {}
        (stream, peer)
    }

    /// Sends `bytes` with a descriptor; afterwards the message has the only reference to it.
    fn send_with_descriptor(client: &StdStream, bytes: &[u8], flags: MsgFlags, descriptor: TcpStream) {
        let descriptors = [descriptor.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        let sent = sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(bytes)], &message, flags, None);
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Waits until the daemon's side of the connection is closed.
    fn wait_for_close(mut client: StdStream) {
        client.set_nonblocking(false).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        match client.read(&mut [0; 1]) {
            Ok(length) => assert_eq!(length, 0),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
        }
    }

    #[tokio::test]
    async fn descriptors_end_a_connection_and_delay_no_other() {
        let closer = Closer::start().unwrap();
        let mut peers = Vec::new();
        for flags in [MsgFlags::empty(), MsgFlags::MSG_OOB] {
            let (ours, client) = StdStream::pair().unwrap();
            let mut stream = ClientSocket::new(ours, &closer).register().unwrap();
            (&client).write_all(b"first").unwrap();
            let mut bytes = [0; 100];
            assert_eq!(stream.read(&mut bytes).await.unwrap(), 5);
            let (descriptor, peer) = lingering();
            peers.push(peer);
            (&client).write_all(b"second").unwrap();
            send_with_descriptor(&client, b"x", flags, descriptor);
            let error = loop {
                // Bytes before one out of band are received as usual.
                match stream.read(&mut bytes).await {
                    Ok(length) => assert_eq!(&bytes[..length], b"second"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{flags:?}");
            drop(stream);
            wait_for_close(client);
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_not_read_is_closed_by_the_closer() {
        let closer = Closer::start().unwrap();
        let clients = [(); 3].map(|()| {
            let (ours, client) = StdStream::pair().unwrap();
            let (descriptor, peer) = lingering();
            send_with_descriptor(&client, b"x", MsgFlags::empty(), descriptor);
            (ClientSocket::new(ours, &closer), client, peer)
        });
        // The peers are kept, because a reset would end the wait.
        let mut peers = Vec::new();
        for (index, (socket, client, peer)) in clients.into_iter().enumerate() {
            if index == 0 {
                drop(socket);
            } else {
                drop(socket.register().unwrap());
            }
            wait_for_close(client);
            peers.push(peer);
        }
    }

    #[tokio::test]
    async fn bytes_without_descriptors_are_received_as_sent() {
        let closer = Closer::start().unwrap();
        let (ours, mut client) = StdStream::pair().unwrap();
        let mut stream = ClientSocket::new(ours, &closer).register().unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|index| (index % 251) as u8).collect();
        let expected = sent.clone();
        let sender = std::thread::spawn(move || {
            client.write_all(&sent).unwrap();
            client
        });
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).await.unwrap();
        assert!(received == expected);
        drop(sender.join().unwrap());
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
