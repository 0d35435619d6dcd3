//! The index record: 32 bytes that say how one chunk is stored.

use crate::codec::{Coding, Stated};

/// Bytes of a record.
pub(crate) const RECORD: usize = 32;
/// Payloads start at multiples of this inside `chunks`.
pub(crate) const PAYLOAD_ALIGN: u64 = 64;
// A chunk's planes lie side by side: one checksum, one bounds check, one place to read per chunk and step.
/// Flag: some pieces are absent.
const SOME_ABSENT: u32 = 4;

/// How and where one chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Offset of the payload inside the tensor `chunks`.
    pub offset: u64,
    /// Bytes of the payload.
    pub len: u32,
    /// The codec and its parameters.
    pub coding: Coding,
    /// Some of the chunk's pieces are absent, and some are not.
    pub some_absent: bool,
    /// xxh3_64 of the payload.
    pub xxh3: u64,
}

impl Record {
    /// The bytes of the record.
    pub fn to_bytes(self) -> [u8; RECORD] {
        let mut b = [0u8; RECORD];
        b[0..8].copy_from_slice(&self.offset.to_le_bytes());
        b[8..12].copy_from_slice(&self.len.to_le_bytes());
        let stated = self.coding.stated();
        b[12..16].copy_from_slice(&stated.plane_len.to_le_bytes());
        b[16..18].copy_from_slice(&stated.codec.to_le_bytes());
        b[18..20].copy_from_slice(&stated.predictor.to_le_bytes());
        let flags = stated.flags | if self.some_absent { SOME_ABSENT } else { 0 };
        b[20..24].copy_from_slice(&flags.to_le_bytes());
        b[24..32].copy_from_slice(&self.xxh3.to_le_bytes());
        b
    }

    /// Reads a record.
    ///
    /// # Errors
    /// What this version does not know, in words.
    pub fn from_bytes(b: &[u8; RECORD]) -> Result<Record, String> {
        let u16_at = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
        let (flags, some_absent) = (u32_at(20) & !SOME_ABSENT, u32_at(20) & SOME_ABSENT != 0);
        let stated = Stated { codec: u16_at(16), predictor: u16_at(18), flags, plane_len: u32_at(12) };
        let coding = Coding::read(stated)?;
        Ok(Record { offset: u64_at(0), len: u32_at(8), coding, some_absent, xxh3: u64_at(24) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Exponents, Plane};

    #[test]
    fn a_record_is_laid_out_as_documented() {
        let exponents = Plane { how: Exponents::Huffman, len: 0x0a0b };
        let coding = Coding::Planes { exponents, zero_blocks: true };
        let xxh3 = 0x1122_3344_5566_7788;
        let record = Record { offset: 0x1_0000_0040, len: 0x0c0d, coding, some_absent: false, xxh3 };
        let bytes = record.to_bytes();
        let expected = [
            0x40, 0, 0, 0, 1, 0, 0, 0, 0x0d, 0x0c, 0, 0, 0x0b, 0x0a, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0x88,
            0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(Record::from_bytes(&bytes), Ok(record));
        let some_absent = Record { some_absent: true, ..record };
        assert_eq!(some_absent.to_bytes()[20], 5);
        assert_eq!(Record::from_bytes(&some_absent.to_bytes()), Ok(some_absent));
        for at in [17, 18, 20, 21] {
            let mut changed = bytes;
            changed[at] ^= 0x82;
            assert!(Record::from_bytes(&changed).is_err(), "byte {at}");
        }
    }
}
