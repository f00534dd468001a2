//! A bounded reader for the binary formats of TPMs, firmware and the kernel.

/// The order of the bytes in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant byte first: firmware event logs, and IMA lists of most hosts.
    Little,
    /// Most significant byte first: TPM structures, and IMA lists of big-endian hosts.
    Big,
}

/// Reads untrusted bytes from the front. Each method returns `None`, and consumes nothing, where too few
/// bytes are left.
#[derive(Clone, Debug)]
pub(super) struct ByteReader<'a> {
    bytes: &'a [u8],
    offset: usize,
    order: ByteOrder,
}

impl<'a> ByteReader<'a> {
    pub(super) fn new(bytes: &'a [u8], order: ByteOrder) -> ByteReader<'a> {
        ByteReader { bytes, offset: 0, order }
    }

    /// How many bytes were read.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// The bytes that were not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.offset..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.rest().get(..len)?;
        self.offset += len;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let bytes = self.array()?;
        Some(match self.order {
            ByteOrder::Little => u16::from_le_bytes(bytes),
            ByteOrder::Big => u16::from_be_bytes(bytes),
        })
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let bytes = self.array()?;
        Some(match self.order {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        })
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let bytes = self.array()?;
        Some(match self.order {
            ByteOrder::Little => u64::from_le_bytes(bytes),
            ByteOrder::Big => u64::from_be_bytes(bytes),
        })
    }

    /// A length of 64 bits. One that does not fit a `usize` is beyond the end of any input.
    pub(super) fn u64_length(&mut self) -> Option<usize> {
        usize::try_from(self.u64()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_byte_order() {
        let bytes = [1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        let mut little = ByteReader::new(&bytes, ByteOrder::Little);
        assert_eq!((little.u16(), little.u32(), little.u64()), (Some(1), Some(2), Some(3)));
        let mut big = ByteReader::new(&bytes, ByteOrder::Big);
        assert_eq!((big.u16(), big.u32(), big.u64()), (Some(0x100), Some(0x200_0000), Some(3 << 56)));
        assert!(little.is_empty() && big.is_empty());
    }

    #[test]
    fn reading_past_the_end_consumes_nothing() {
        let mut reader = ByteReader::new(&[7, 8, 9], ByteOrder::Big);
        assert_eq!(
            (reader.u8(), reader.u32(), reader.take(3), reader.u64_length()),
            (Some(7), None, None, None)
        );
        assert_eq!((reader.offset(), reader.rest()), (1, &[8, 9][..]));
        assert_eq!((reader.u16(), reader.take(0), reader.u8()), (Some(0x809), Some(&[][..]), None));
    }
}
