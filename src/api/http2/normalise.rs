//! The filter over what a client sends: frames (RFC 9113, section 4) in, frames out.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Malformed;
use super::hpack::{self, Decoder, Field};

/// Section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
/// The largest frame that a client may send without being told otherwise (section 6.5.2).
const FRAME_MOST: usize = 16_384;
/// The longest header block, over all its frames.
const BLOCK_MOST: usize = 32 * 1024;
/// Output that is to be read before more is made.
const ENOUGH: usize = 64 * 1024;
/// Frames that one header block may come in.
const PIECES_MOST: u32 = 16;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What has been seen of a connection.
#[derive(Default)]
pub struct Filter {
    /// Bytes of the preface that were seen.
    preface: usize,
    /// Bytes of the present frame that still pass.
    passing: usize,
    decoder: Decoder,
    block: Option<Block>,
    scratch: Vec<u8>,
}

/// A header block that is not whole yet.
struct Block {
    stream: [u8; 4],
    end_stream: u8,
    bytes: Vec<u8>,
    pieces: u32,
}

impl Filter {
    /// Moves what is whole from `input` to `output`; the rest stays for the next time. So does what comes after enough:
    /// a few bytes may name fields of many.
    pub fn feed(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<(), Malformed> {
        while output.len() < ENOUGH {
            if self.preface < PREFACE.len() {
                let most = input.len().min(PREFACE.len() - self.preface);
                if input[..most] != PREFACE[self.preface..self.preface + most] {
                    return Err(Malformed);
                }
                self.preface += most;
                pass(input, most, output);
                if self.preface < PREFACE.len() {
                    return Ok(());
                }
            }
            let most = self.passing.min(input.len());
            pass(input, most, output);
            self.passing -= most;
            if self.passing > 0 || input.len() < HEAD {
                return Ok(());
            }
            let length = usize::from(input[0]) << 16 | usize::from(input[1]) << 8 | usize::from(input[2]);
            let kind = input[3];
            if !matches!(kind, HEADERS | CONTINUATION) {
                // Section 6.10: nothing comes between the frames of a header block.
                if self.block.is_some() {
                    return Err(Malformed);
                }
                self.passing = HEAD + length;
                continue;
            }
            if length > FRAME_MOST {
                return Err(Malformed);
            }
            if input.len() < HEAD + length {
                return Ok(());
            }
            let frame = input.split_to(HEAD + length);
            self.piece(&frame)?;
            self.finish(output)?;
        }
        Ok(())
    }

    /// Takes a HEADERS or CONTINUATION frame in.
    fn piece(&mut self, frame: &[u8]) -> Result<(), Malformed> {
        let (kind, flags, payload) = (frame[3], frame[4], &frame[HEAD..]);
        let stream = [frame[5], frame[6], frame[7], frame[8]];
        match (kind, &mut self.block) {
            (HEADERS, None) => {
                let bytes = fragment(flags, payload)?.to_vec();
                self.block = Some(Block { stream, end_stream: flags & END_STREAM, bytes, pieces: 1 });
            }
            (CONTINUATION, Some(block)) if block.stream == stream => {
                block.pieces += 1;
                block.bytes.extend_from_slice(payload);
                if block.bytes.len() > BLOCK_MOST || block.pieces > PIECES_MOST {
                    return Err(Malformed);
                }
            }
            _ => return Err(Malformed),
        }
        if flags & END_HEADERS == 0 {
            return Ok(());
        }
        // Marks it as whole.
        if let Some(block) = &mut self.block {
            block.pieces = 0;
        }
        Ok(())
    }

    /// Writes a block that is whole.
    fn finish(&mut self, output: &mut BytesMut) -> Result<(), Malformed> {
        let Some(block) = self.block.take_if(|block| block.pieces == 0) else { return Ok(()) };
        let mut fields = self.decoder.decode(&block.bytes)?;
        fields.iter_mut().for_each(normalise);
        self.scratch.clear();
        hpack::encode(&fields, &mut self.scratch);
        let mut pieces = self.scratch.chunks(FRAME_MOST).peekable();
        let mut kind = HEADERS;
        // A block without fields is a frame without payload.
        let mut next = Some(pieces.next().unwrap_or_default());
        while let Some(piece) = next {
            next = pieces.next();
            let end_stream = if kind == HEADERS { block.end_stream } else { 0 };
            let end_headers = if next.is_none() { END_HEADERS } else { 0 };
            let length = (piece.len() as u32).to_be_bytes();
            output.extend_from_slice(&length[1..]);
            output.extend_from_slice(&[kind, end_stream | end_headers]);
            output.extend_from_slice(&block.stream);
            output.extend_from_slice(piece);
            kind = CONTINUATION;
        }
        Ok(())
    }
}

/// The fragment of a HEADERS frame (section 6.2): without padding, and without the priority that nobody uses any more.
fn fragment(flags: u8, mut payload: &[u8]) -> Result<&[u8], Malformed> {
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first().ok_or(Malformed)?;
        payload = rest.get(..rest.len().wrapping_sub(usize::from(*padding))).ok_or(Malformed)?;
    }
    match flags & PRIORITY {
        0 => Ok(payload),
        _ => payload.get(5..).ok_or(Malformed),
    }
}

/// On a Unix socket the authority is nobody's name.
fn normalise(field: &mut Field) {
    if field.name == b":authority" && Authority::try_from(field.value.as_slice()).is_err() {
        field.value = b"localhost".to_vec();
    }
}

fn pass(input: &mut BytesMut, most: usize, output: &mut BytesMut) {
    output.extend_from_slice(&input[..most]);
    input.advance(most);
}

/// A connection whose header blocks are normalised as they are read.
pub struct Normalised<S> {
    stream: S,
    filter: Filter,
    input: BytesMut,
    output: BytesMut,
}

impl<S> Normalised<S> {
    pub fn new(stream: S) -> Normalised<S> {
        Normalised { stream, filter: Filter::default(), input: BytesMut::new(), output: BytesMut::new() }
    }
}

/// What is read at once.
const READ: usize = 4096;

impl<S: AsyncRead + Unpin> AsyncRead for Normalised<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let malformed = |e: Malformed| io::Error::new(io::ErrorKind::InvalidData, e);
        if this.output.is_empty() {
            this.filter.feed(&mut this.input, &mut this.output).map_err(malformed)?;
        }
        while this.output.is_empty() {
            let mut bytes = [MaybeUninit::uninit(); READ];
            let mut read = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.input.extend_from_slice(read.filled());
            this.filter.feed(&mut this.input, &mut this.output).map_err(malformed)?;
        }
        let most = this.output.len().min(buf.remaining());
        buf.put_slice(&this.output[..most]);
        this.output.advance(most);
        if this.output.is_empty() && this.input.is_empty() {
            // An idle connection holds no buffers.
            this.output = BytesMut::new();
            this.input = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Normalised<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    // Nor are writes vectored, which they are not by default: h2 then copies what is shorter than a KiB, a token say, and
    // sends it in one write with the trailers, which wakes the client once and not twice.

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn block(authority: &str) -> Vec<u8> {
        let field = |name: &str, value: &str| Field { name: name.into(), value: value.into() };
        let mut block = Vec::new();
        hpack::encode(
            &[field(":path", "/x"), field(":authority", authority), field("te", "trailers")],
            &mut block,
        );
        block
    }

    fn filtered(input: &[u8]) -> Result<Vec<u8>, Malformed> {
        let (mut filter, mut output) = (Filter::default(), BytesMut::new());
        filter.feed(&mut BytesMut::from(input), &mut output)?;
        Ok(output.to_vec())
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE, &frames.concat()].concat()
    }

    #[test]
    fn only_an_authority_that_is_none_is_changed() {
        for (sent, wanted) in [
            ("localhost", "localhost"),
            ("example.org:80", "example.org:80"),
            ("%2Frun%2Fhostbadge%2Fworkload.sock", "localhost"),
            ("/run/hostbadge/workload.sock", "localhost"),
            ("", "localhost"),
        ] {
            let frames = [frame(4, 0, 0, &[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(sent))];
            let expected = [frame(4, 0, 0, &[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(wanted))];
            assert_eq!(filtered(&connection(&frames)).unwrap(), connection(&expected), "{sent:?}");
        }
    }

    /// However the bytes are cut on their way, the same comes out.
    #[test]
    fn any_cut_gives_the_same() {
        let whole = block("%2Fa");
        let padded = [&[3][..], &whole[..7], &[0, 0, 0]].concat();
        let frames = [
            frame(4, 0, 0, &[1; 12]),
            frame(HEADERS, PADDED, 1, &padded),
            frame(CONTINUATION, 0, 1, &whole[7..9]),
            frame(CONTINUATION, END_HEADERS, 1, &whole[9..]),
            frame(0, 1, 1, &[5; 700]),
            frame(HEADERS, END_HEADERS | PRIORITY, 3, &[&[0; 5], &whole[..]].concat()),
        ];
        let input = connection(&frames);
        let wanted = filtered(&input).unwrap();
        let expected = frame(HEADERS, END_HEADERS, 1, &block("localhost"));
        assert!(wanted.windows(expected.len()).any(|part| part == expected));
        for step in [1, 2, 3, 7, 11, 100] {
            let (mut filter, mut rest, mut output) = (Filter::default(), BytesMut::new(), BytesMut::new());
            for piece in input.chunks(step) {
                rest.extend_from_slice(piece);
                filter.feed(&mut rest, &mut output).unwrap();
            }
            assert_eq!(output.to_vec(), wanted, "{step}");
        }
    }

    #[test]
    fn what_breaks_the_rules_of_framing_is_refused() {
        let whole = block("localhost");
        let started = frame(HEADERS, 0, 1, &whole[..4]);
        for frames in [
            vec![frame(CONTINUATION, END_HEADERS, 1, &whole)],
            vec![started.clone(), frame(0, 0, 1, b"x")],
            vec![started.clone(), frame(HEADERS, END_HEADERS, 3, &whole)],
            vec![started.clone(), frame(CONTINUATION, END_HEADERS, 3, &whole[4..])],
            vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])],
            vec![frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4])],
            vec![frame(HEADERS, END_HEADERS, 1, &[0x80])],
            [vec![started.clone()], vec![frame(CONTINUATION, 0, 1, &[]); 20]].concat(),
            [vec![started], vec![frame(CONTINUATION, 0, 1, &[0; FRAME_MOST]); 3]].concat(),
        ] {
            assert_eq!(filtered(&connection(&frames)), Err(Malformed), "{frames:?}");
        }
        assert_eq!(filtered(b"GET / HTTP/1.1\r\n\r\n"), Err(Malformed));
    }

    #[test]
    fn little_that_names_much_is_made_bit_by_bit() {
        let large = Field { name: b"a".to_vec(), value: vec![b'x'; 3900] };
        let mut first = Vec::new();
        hpack::encode(&[large], &mut first);
        // With indexing, and then by its index, six times to a frame.
        first[0] = 0x40;
        let mut input = BytesMut::from(&connection(&[frame(HEADERS, END_HEADERS, 1, &first)])[..]);
        for _ in 0..250 {
            input.extend_from_slice(&frame(HEADERS, END_HEADERS, 3, &[0xbe; 6]));
        }
        let (mut filter, mut output, mut rounds) = (Filter::default(), BytesMut::new(), 0);
        while !input.is_empty() {
            filter.feed(&mut input, &mut output).unwrap();
            assert!(output.len() < ENOUGH + 2 * BLOCK_MOST);
            output.clear();
            rounds += 1;
        }
        assert!(rounds > 80);
    }

    #[test]
    fn long_blocks_are_cut_into_frames() {
        let field = Field { name: b"x".to_vec(), value: vec![b'v'; 20_000] };
        let mut long = Vec::new();
        hpack::encode(&[field], &mut long);
        let frames = [
            frame(HEADERS, END_STREAM, 1, &long[..FRAME_MOST]),
            frame(CONTINUATION, END_HEADERS, 1, &long[FRAME_MOST..]),
        ];
        let input = connection(&frames);
        assert_eq!(filtered(&input).unwrap(), input);
    }
}
