//! The protobuf codec with smaller buffers than tonic's default.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Initial buffer of a call in bytes: a request fits, and a response grows it. A stream keeps its buffer
/// while it is open, so tonic's 8 KiB would be most of the memory of a stream.
const INITIAL_BUFFER_SIZE: usize = 512;
/// Messages that are ready at once are sent together up to this number of bytes.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// tonic's codec with these sizes of buffers.
pub struct SmallBufferCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBufferCodec<T, U> {
    fn default() -> SmallBufferCodec<T, U> {
        SmallBufferCodec(PhantomData)
    }
}

impl<T, U> Codec for SmallBufferCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(INITIAL_BUFFER_SIZE, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(INITIAL_BUFFER_SIZE, YIELD_THRESHOLD))
    }
}
