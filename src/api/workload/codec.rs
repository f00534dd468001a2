//! Messages to bytes and back, with buffers no larger than what is said here.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec, ProstCodec};

/// What a call allocates before it knows how much there is to say: a question fits, and answers grow it. A stream keeps
/// its buffer as long as it is open, and tonic's 8 KiB would be most of what it holds.
const INITIAL_BUFFER_SIZE: usize = 512;
/// Messages that are ready together are sent together up to this.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// tonic's codec but for the buffers' sizes.
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
