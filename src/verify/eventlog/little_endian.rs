//! Little-endian fields read off hostile bytes, none of them beyond the end.

pub(super) struct LittleEndianReader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> LittleEndianReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> LittleEndianReader<'a> {
        LittleEndianReader { bytes, offset: 0 }
    }

    /// How many bytes have been read.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.offset..]
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.rest().get(..length)?;
        self.offset += length;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length of 64 bits; nothing that long is there, so one that does not fit is beyond the end.
    pub(super) fn u64_length(&mut self) -> Option<usize> {
        usize::try_from(self.array().map(u64::from_le_bytes)?).ok()
    }
}
