//! Element types that a run can hold, and their widening to `f32`.
//!
//! Owns the three names of `docs/format.md`; knows nothing of files or codecs.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Element type of a tensor, named as in safetensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of a binary32.
    BF16,
    /// IEEE 754 binary16.
    F16,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::BF16 | DType::F16 => 2,
        }
    }

    /// Unit roundoff `u`: half the distance from 1 to the next larger value.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            DType::F32 => 1.0 / (1u64 << 24) as f64,
            DType::F16 => 1.0 / (1u64 << 11) as f64,
            DType::BF16 => 1.0 / (1u64 << 8) as f64,
        }
    }

    /// Of two types, the one with the larger unit roundoff.
    pub fn coarser(self, other: DType) -> DType {
        if other.unit_roundoff() > self.unit_roundoff() { other } else { self }
    }

    /// The name used in safetensors headers and in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::BF16 => "BF16",
            DType::F16 => "F16",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Rounds to the nearest value of `dtype`, ties to even.
pub fn round(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
    }
}

/// Widens 16-bit patterns of `dtype` to `f32`, exactly. `bits` and `out` have the same length.
///
/// `dtype` must be one of the 16-bit types; for [`DType::F32`] the patterns are read as BF16.
pub fn widen(dtype: DType, bits: &[u16], out: &mut [f32]) {
    debug_assert_eq!(bits.len(), out.len());
    match dtype {
        DType::F16 => {
            for (o, &b) in out.iter_mut().zip(bits) {
                *o = f16::from_bits(b).to_f32();
            }
        }
        DType::BF16 | DType::F32 => {
            for (o, &b) in out.iter_mut().zip(bits) {
                *o = f32::from_bits(u32::from(b) << 16);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_is_exact() {
        let mut out = [0.0f32; 4];
        widen(DType::BF16, &[0x3f80, 0xc000, 0x8000, 0x0001], &mut out);
        assert_eq!(out.map(f32::to_bits), [0x3f80_0000, 0xc000_0000, 0x8000_0000, 0x0001_0000]);
        // 1, -2, -0 and the smallest subnormal 2^-24.
        widen(DType::F16, &[0x3c00, 0xc000, 0x8000, 0x0001], &mut out);
        assert_eq!(out.map(f32::to_bits), [0x3f80_0000, 0xc000_0000, 0x8000_0000, 0x3380_0000]);
    }
}
