//! Element types that a run can hold, and their widening to `f32`.
//!
//! Owns the three names of `docs/format.md`; knows nothing of files or codecs.

use half::f16;
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

/// The pattern of the largest size of a value: that of infinity or more where one is not finite.
#[inline]
pub fn largest(values: &[f32]) -> u32 {
    values.iter().fold(0, |most, v| most.max(v.to_bits() & 0x7fff_ffff))
}

/// Rounds to the nearest value of `dtype`, ties to even.
pub fn round(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::BF16 | DType::F16 => widen_one(dtype, narrow(dtype, value)),
    }
}

/// Rounds to the nearest value of a 16-bit type, ties to even. What [`widen_one`] gives comes back bit
/// for bit, NaN payloads included. For [`DType::F32`] the upper half is taken.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
pub fn narrow(dtype: DType, value: f32) -> u16 {
    let bits = value.to_bits();
    // The shifts leave 16 bits.
    match dtype {
        DType::F16 if value.is_nan() => {
            let payload = (bits >> 13) as u16 & 0x3ff;
            (bits >> 16) as u16 & 0x8000 | 0x7c00 | if payload == 0 { 1 } else { payload }
        }
        DType::F16 => f16::from_f32(value).to_bits(),
        DType::BF16 | DType::F32 if value.is_nan() => {
            (bits >> 16) as u16 | u16::from(bits & 0x007f_0000 == 0)
        }
        DType::BF16 | DType::F32 => ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16,
    }
}

/// Widens a pattern of a 16-bit type exactly, NaN payloads included. For [`DType::F32`] it is read as
/// BF16.
#[inline(always)]
pub fn widen_one(dtype: DType, bits: u16) -> f32 {
    let wide = u32::from(bits);
    match dtype {
        DType::F16 if bits & 0x7c00 == 0x7c00 => {
            f32::from_bits((wide & 0x8000) << 16 | 0x7f80_0000 | (wide & 0x3ff) << 13)
        }
        DType::F16 => f16::from_bits(bits).to_f32(),
        DType::BF16 | DType::F32 => f32::from_bits(wide << 16),
    }
}

/// Widens 16-bit patterns of `dtype` to `f32`, as [`widen_one`]. `bits` and `out` have the same length.
pub fn widen(dtype: DType, bits: &[u16], out: &mut [f32]) {
    debug_assert_eq!(bits.len(), out.len());
    for (o, &b) in out.iter_mut().zip(bits) {
        *o = widen_one(dtype, b);
    }
}

/// The values of little-endian `bytes` of `dtype`, which fill `out`.
pub fn values(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    if dtype == DType::F32 {
        for (o, word) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *o = f32::from_le_bytes(*word);
        }
    } else {
        for (o, word) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *o = widen_one(dtype, u16::from_le_bytes(*word));
        }
    }
}

/// Appends values as little-endian elements of `dtype`. The values are of that type.
pub fn push_bytes(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + values.len() * dtype.size(), 0);
    put_bytes(dtype, values, &mut out[at..]);
}

/// The same into `out`, which they fill.
pub fn put_bytes(dtype: DType, values: &[f32], out: &mut [u8]) {
    if dtype == DType::F32 {
        for (word, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *word = v.to_bits().to_le_bytes();
        }
    } else {
        for (word, &v) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            *word = narrow(dtype, v).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_comes_back() {
        for dtype in [DType::BF16, DType::F16] {
            for bits in 0..=u16::MAX {
                assert_eq!(narrow(dtype, widen_one(dtype, bits)), bits, "{dtype}");
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let value = f32::from_bits(bits);
            if !value.is_nan() {
                assert_eq!(narrow(DType::BF16, value), half::bf16::from_f32(value).to_bits());
                assert_eq!(narrow(DType::F16, value), f16::from_f32(value).to_bits());
            }
        }
    }

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
