//! The index record: 32 bytes that say how one chunk is stored.

use crate::codec::{Codec, Coding, Predictor};

/// Bytes of a record.
pub(crate) const RECORD: usize = 32;
/// Payloads start at multiples of this inside `chunks`.
pub(crate) const PAYLOAD_ALIGN: u64 = 64;
/// Flag: zero blocks were left out.
const ZERO_BLOCKS: u32 = 1;
/// Flag: the plane of a lossy codec is packed.
const PACKED: u32 = 2;

/// How and where one chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Offset of the payload inside the tensor `chunks`.
    pub offset: u64,
    /// Bytes of the payload.
    pub len: u32,
    /// The codec and its parameters.
    pub coding: Coding,
    /// xxh3_64 of the payload.
    pub xxh3: u64,
}

impl Record {
    /// The bytes of the record.
    pub fn to_bytes(self) -> [u8; RECORD] {
        let mut b = [0u8; RECORD];
        b[0..8].copy_from_slice(&self.offset.to_le_bytes());
        b[8..12].copy_from_slice(&self.len.to_le_bytes());
        b[12..16].copy_from_slice(&self.coding.plane_len.to_le_bytes());
        b[16..18].copy_from_slice(&self.coding.codec.id().to_le_bytes());
        b[18..20].copy_from_slice(&self.coding.predictor.id().to_le_bytes());
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let flags = flag(self.coding.zero_blocks, ZERO_BLOCKS) | flag(self.coding.packed, PACKED);
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
        let codec = Codec::from_id(u16_at(16)).ok_or_else(|| format!("unknown codec {}", u16_at(16)))?;
        let predictor =
            Predictor::from_id(u16_at(18)).ok_or_else(|| format!("unknown predictor {}", u16_at(18)))?;
        let fits = match codec {
            Codec::Residual => predictor != Predictor::None,
            Codec::Delta => predictor == Predictor::Previous,
            _ => predictor == Predictor::None,
        };
        if !fits {
            return Err(format!("predictor {} with codec {}", predictor.name(), codec.name()));
        }
        let flags = u32_at(20);
        if flags & !(ZERO_BLOCKS | PACKED) != 0 {
            return Err(format!("unknown flags {flags:#x}"));
        }
        let (zero_blocks, packed, plane_len) = (flags & ZERO_BLOCKS != 0, flags & PACKED != 0, u32_at(12));
        let blocks = matches!(codec, Codec::Planes | Codec::Packed | Codec::Rounded);
        if (zero_blocks && !blocks) || (packed && !codec.is_lossy()) {
            return Err(format!("flags {flags:#x} with codec {}", codec.name()));
        }
        if plane_len != 0 && !blocks && !codec.is_lossy() {
            return Err(format!("a compressed plane with codec {}", codec.name()));
        }
        let coding = Coding { codec, predictor, zero_blocks, packed, plane_len };
        Ok(Record { offset: u64_at(0), len: u32_at(8), coding, xxh3: u64_at(24) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_laid_out_as_documented() {
        let coding = Coding { zero_blocks: true, plane_len: 0x0a0b, ..Coding::plain(Codec::Planes) };
        let record = Record { offset: 0x1_0000_0040, len: 0x0c0d, coding, xxh3: 0x1122_3344_5566_7788 };
        let bytes = record.to_bytes();
        let expected = [
            0x40, 0, 0, 0, 1, 0, 0, 0, 0x0d, 0x0c, 0, 0, 0x0b, 0x0a, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0x88,
            0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(Record::from_bytes(&bytes), Ok(record));
        for at in [17, 18, 20, 21] {
            let mut changed = bytes;
            changed[at] ^= 0x82;
            assert!(Record::from_bytes(&changed).is_err(), "byte {at}");
        }
    }
}
