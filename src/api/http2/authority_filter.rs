//! The filter on the bytes that a client sends: frames (RFC 9113 section 4) in, frames out.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hpack::{self, HeaderField, HpackDecoder};
use super::malformed::Malformed;

/// The client's connection preface (section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_LEN: usize = 9;
/// Largest payload of a frame in bytes: the initial SETTINGS_MAX_FRAME_SIZE (section 6.5.2).
const MAX_FRAME_SIZE: usize = 16_384;
/// Longest header block in bytes, over all its frames.
const MAX_BLOCK_SIZE: usize = 32 * 1024;
/// Bytes of output from which no further input is processed until the output has been read.
const MAX_BUFFERED_OUTPUT: usize = 64 * 1024;
/// Most frames of one header block.
const MAX_BLOCK_FRAMES: u32 = 16;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Rewrites the header blocks of one connection. It keeps at most one incomplete header block and the HPACK
/// state.
#[derive(Default)]
pub struct HeaderRewriter {
    /// Bytes of the preface that were received.
    preface_seen: usize,
    /// Bytes of the current frame that are still to be passed on.
    forward_remaining: usize,
    decoder: HpackDecoder,
    block: Option<HeaderBlock>,
    scratch: Vec<u8>,
}

/// A header block that is being received.
struct HeaderBlock {
    stream_id: [u8; 4],
    end_stream: u8,
    fragments: Vec<u8>,
    frame_count: u32,
    /// Whether END_HEADERS was received.
    complete: bool,
}

impl HeaderRewriter {
    /// Moves complete frames from `input` to `output`, and leaves incomplete ones in `input`. Stops after 64
    /// KiB of output, because a few bytes of HPACK can stand for many bytes of fields.
    ///
    /// # Errors
    /// [`Malformed`] where a frame, a header block or its HPACK code violates its RFC or exceeds a bound.
    pub fn feed(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<(), Malformed> {
        self.feed_blocks(input, output, &mut { u32::MAX })
    }

    /// As [`HeaderRewriter::feed`]; stops also after `blocks_left` header blocks, which it counts down.
    fn feed_blocks(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
        blocks_left: &mut u32,
    ) -> Result<(), Malformed> {
        while output.len() < MAX_BUFFERED_OUTPUT && *blocks_left > 0 {
            if self.preface_seen < PREFACE.len() {
                let len = input.len().min(PREFACE.len() - self.preface_seen);
                if input[..len] != PREFACE[self.preface_seen..self.preface_seen + len] {
                    return Err(Malformed);
                }
                self.preface_seen += len;
                forward(input, len, output);
                if self.preface_seen < PREFACE.len() {
                    return Ok(());
                }
            }
            let len = self.forward_remaining.min(input.len());
            forward(input, len, output);
            self.forward_remaining -= len;
            if self.forward_remaining > 0 || input.len() < FRAME_HEADER_LEN {
                return Ok(());
            }
            let length = usize::from(input[0]) << 16 | usize::from(input[1]) << 8 | usize::from(input[2]);
            let frame_type = input[3];
            if !matches!(frame_type, HEADERS | CONTINUATION) {
                // Section 6.10: nothing comes between the frames of a header block.
                if self.block.is_some() {
                    return Err(Malformed);
                }
                self.forward_remaining = FRAME_HEADER_LEN + length;
                continue;
            }
            if length > MAX_FRAME_SIZE {
                return Err(Malformed);
            }
            if input.len() < FRAME_HEADER_LEN + length {
                return Ok(());
            }
            let frame = input.split_to(FRAME_HEADER_LEN + length);
            self.push_fragment(&frame)?;
            if self.block.as_ref().is_some_and(|block| block.complete) {
                *blocks_left -= 1;
            }
            self.write_block(output)?;
        }
        Ok(())
    }

    /// Adds a HEADERS or CONTINUATION frame to the header block.
    fn push_fragment(&mut self, frame: &[u8]) -> Result<(), Malformed> {
        let (frame_type, flags, payload) = (frame[3], frame[4], &frame[FRAME_HEADER_LEN..]);
        let stream_id = [frame[5], frame[6], frame[7], frame[8]];
        match (frame_type, &mut self.block) {
            (HEADERS, None) => {
                let fragments = fragment(flags, payload)?.to_vec();
                self.block = Some(HeaderBlock {
                    stream_id,
                    end_stream: flags & END_STREAM,
                    fragments,
                    frame_count: 1,
                    complete: flags & END_HEADERS != 0,
                });
            }
            (CONTINUATION, Some(block)) if block.stream_id == stream_id => {
                block.frame_count += 1;
                block.complete = flags & END_HEADERS != 0;
                block.fragments.extend_from_slice(payload);
                if block.fragments.len() > MAX_BLOCK_SIZE || block.frame_count > MAX_BLOCK_FRAMES {
                    return Err(Malformed);
                }
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// Writes the header block if it is complete.
    fn write_block(&mut self, output: &mut BytesMut) -> Result<(), Malformed> {
        let Some(block) = self.block.take_if(|block| block.complete) else { return Ok(()) };
        let mut fields = self.decoder.decode(&block.fragments)?;
        fields.iter_mut().for_each(replace_invalid_authority);
        self.scratch.clear();
        hpack::encode(&fields, &mut self.scratch);
        let mut payloads = self.scratch.chunks(MAX_FRAME_SIZE).peekable();
        let mut frame_type = HEADERS;
        // A block without fields is one frame without payload.
        let mut next = Some(payloads.next().unwrap_or_default());
        while let Some(payload) = next {
            next = payloads.next();
            let end_stream = if frame_type == HEADERS { block.end_stream } else { 0 };
            let end_headers = if next.is_none() { END_HEADERS } else { 0 };
            let length = (payload.len() as u32).to_be_bytes();
            output.extend_from_slice(&length[1..]);
            output.extend_from_slice(&[frame_type, end_stream | end_headers]);
            output.extend_from_slice(&block.stream_id);
            output.extend_from_slice(payload);
            frame_type = CONTINUATION;
        }
        Ok(())
    }
}

/// The fragment of a HEADERS frame (section 6.2): without padding, and without the priority, which is
/// deprecated.
fn fragment(flags: u8, mut payload: &[u8]) -> Result<&[u8], Malformed> {
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first().ok_or(Malformed)?;
        payload = rest.get(..rest.len().wrapping_sub(usize::from(*padding))).ok_or(Malformed)?;
    }
    if flags & PRIORITY != 0 {
        payload = payload.get(5..).ok_or(Malformed)?;
    }
    Ok(payload)
}

fn replace_invalid_authority(field: &mut HeaderField) {
    if field.name == b":authority" && Authority::try_from(field.value.as_slice()).is_err() {
        field.value = b"localhost".to_vec();
    }
}

fn forward(input: &mut BytesMut, count: usize, output: &mut BytesMut) {
    output.extend_from_slice(&input[..count]);
    input.advance(count);
}

/// A connection whose header blocks are rewritten as they are read. Writes pass unchanged.
pub struct AuthorityFilter<S> {
    stream: S,
    rewriter: HeaderRewriter,
    input: BytesMut,
    output: BytesMut,
    /// Header blocks that are passed on before other tasks get a turn.
    blocks_left: u32,
}

impl<S> AuthorityFilter<S> {
    /// A filter at the beginning of a connection: `stream` has not been read from.
    pub fn new(stream: S) -> AuthorityFilter<S> {
        AuthorityFilter {
            stream,
            rewriter: HeaderRewriter::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            blocks_left: BLOCKS_PER_TURN,
        }
    }
}

/// Header blocks that are passed on at once. The HTTP/2 library takes all that it can read before the calls
/// begin, and holds the fields of each until then, which take up to ten times their bytes.
const BLOCKS_PER_TURN: u32 = 4;
/// Bytes that are read at once.
const READ_SIZE: usize = 4096;

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityFilter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let malformed = |e: Malformed| io::Error::new(io::ErrorKind::InvalidData, e);
        let Self { rewriter, input, output, blocks_left, .. } = this;
        if output.is_empty() {
            if *blocks_left == 0 {
                *blocks_left = BLOCKS_PER_TURN;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            rewriter.feed_blocks(input, output, blocks_left).map_err(malformed)?;
        }
        while this.output.is_empty() {
            let mut bytes = [MaybeUninit::uninit(); READ_SIZE];
            let mut read = ReadBuf::uninit(&mut bytes);
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut read);
            if polled.is_pending() {
                this.blocks_left = BLOCKS_PER_TURN;
            }
            ready!(polled)?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.input.extend_from_slice(read.filled());
            this.rewriter
                .feed_blocks(&mut this.input, &mut this.output, &mut this.blocks_left)
                .map_err(malformed)?;
        }
        let len = this.output.len().min(buf.remaining());
        buf.put_slice(&this.output[..len]);
        this.output.advance(len);
        if this.output.is_empty() && this.input.is_empty() {
            // An idle connection keeps no buffers.
            this.output = BytesMut::new();
            this.input = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityFilter<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    // Writes are not vectored, which is the default: h2 then copies a short message into its buffer and sends
    // it in one write with the trailers, so that the client wakes once.

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
