//! Element types that a run can hold, and their widening to `f32`.
//!
//! Owns the three names of `docs/format.md`; knows nothing of files or codecs.

use serde::{Deserialize, Serialize};

use crate::isa::multi_isa;

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
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> u32 {
    values.iter().fold(0, |most, v| most.max(v.to_bits() & 0x7fff_ffff))
}

#[inline(always)]
fn are_finite_body(values: &[f32]) -> bool {
    largest(values) < f32::INFINITY.to_bits()
}

multi_isa! {
    /// Whether all values are finite.
    pub(crate) fn are_finite(values: &[f32]) -> bool
    => portable are_finite_body, avx2 are_finite_body, avx512 are_finite_body
}

/// Rounds to the nearest value of `dtype`, ties to even.
pub(crate) fn round(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::BF16 | DType::F16 => widen_one(dtype, narrow(dtype, value)),
    }
}

/// Rounds to the nearest value of a 16-bit type, ties to even. What [`widen_one`] gives comes back bit
/// for bit, NaN payloads included. For [`DType::F32`] the upper half is taken.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn narrow(dtype: DType, value: f32) -> u16 {
    let bits = value.to_bits();
    // The shifts leave 16 bits.
    match dtype {
        DType::F16 => ((bits >> 16 & 0x8000) | magnitude_f16(bits & 0x7fff_ffff)) as u16,
        DType::BF16 | DType::F32 if value.is_nan() => {
            (bits >> 16) as u16 | u16::from(bits & 0x007f_0000 == 0)
        }
        DType::BF16 | DType::F32 => ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16,
    }
}

/// Widens a pattern of a 16-bit type exactly, NaN payloads included. For [`DType::F32`] it is read as
/// BF16.
#[inline(always)]
pub(crate) fn widen_one(dtype: DType, bits: u16) -> f32 {
    let wide = u32::from(bits);
    match dtype {
        DType::F16 => f32::from_bits((wide & 0x8000) << 16 | magnitude_of_f16(wide & 0x7fff)),
        DType::BF16 | DType::F32 => f32::from_bits(wide << 16),
    }
}

/// The smallest normal binary16, 2^-14, as binary32.
const LEAST_NORMAL: u32 = 113 << 23;
/// What exponents of binary32 are larger by.
const EXPONENTS: u32 = 112 << 23;

/// The binary16 nearest to a binary32 that is not negative, ties to even; of a NaN, its payload. Without
/// branches, and without instructions that only some processors have.
#[inline(always)]
fn magnitude_f16(bits: u32) -> u32 {
    // Values next to 0.5 are multiples of 2^-24, as subnormal ones of binary16 are: the addition rounds.
    let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    // Of a smaller one it is not looked at.
    let normal = bits.wrapping_sub(EXPONENTS).wrapping_add(0xfff + (bits >> 13 & 1));
    let payload = (bits >> 13 & 0x3ff).max(1);
    let finite = if bits < LEAST_NORMAL { subnormal } else { normal >> 13 };
    let known = if bits >= 65_536.0f32.to_bits() { 0x7c00 } else { finite };
    if bits > f32::INFINITY.to_bits() { 0x7c00 | payload } else { known }
}

/// Its inverse.
#[inline(always)]
fn magnitude_of_f16(bits: u32) -> u32 {
    let shifted = bits << 13;
    let subnormal = f32::from_bits(shifted + LEAST_NORMAL) - f32::from_bits(LEAST_NORMAL);
    let finite = if bits < 0x400 { subnormal.to_bits() } else { shifted + EXPONENTS };
    if bits < 0x7c00 { finite } else { shifted | f32::INFINITY.to_bits() }
}

/// Widens 16-bit patterns of `dtype` to `f32`, as [`widen_one`]. `bits` and `out` have the same length.
pub(crate) fn widen(dtype: DType, bits: &[u16], out: &mut [f32]) {
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

/// The values of little-endian `bytes` of `dtype`: these themselves where they lie as the processor has them, else in
/// `out`.
pub(crate) fn values_of<'a>(dtype: DType, bytes: &'a [u8], out: &'a mut Vec<f32>) -> &'a [f32] {
    if dtype == DType::F32 && cfg!(target_endian = "little") {
        // SAFETY: every pattern of 32 bits is a binary32, and the middle part is aligned.
        let (before, own, after) = unsafe { bytes.align_to::<f32>() };
        if before.is_empty() && after.is_empty() {
            return own;
        }
    }
    out.resize(bytes.len() / dtype.size(), 0.0);
    values(dtype, bytes, out);
    out
}

/// Appends values as little-endian elements of `dtype`. The values are of that type.
pub fn push_bytes(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + values.len() * dtype.size(), 0);
    put_bytes(dtype, values, &mut out[at..]);
}

/// The same into `out`, which they fill.
pub(crate) fn put_bytes(dtype: DType, values: &[f32], out: &mut [u8]) {
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

/// Rounded to binary32.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn single(v: f64) -> f32 {
    v as f32
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
                assert_eq!(narrow(DType::F16, value), half::f16::from_f32(value).to_bits());
            }
        }
    }

    #[test]
    fn between_neighbours_the_nearer_one_or_the_even_one_is_taken() {
        // The next after the largest number is infinity, in the place of 65536.
        for bits in 0..0x7c00u16 {
            let of = |bits: u16| if bits == 0x7c00 { 65_536.0 } else { half::f16::from_bits(bits).to_f32() };
            let middle = f32::midpoint(of(bits), of(bits + 1));
            for (value, nearest) in
                [(middle.next_down(), bits), (middle, bits + bits % 2), (middle.next_up(), bits + 1)]
            {
                assert_eq!(narrow(DType::F16, value), nearest, "{value:e}");
                assert_eq!(narrow(DType::F16, -value), nearest | 0x8000, "-{value:e}");
            }
        }
    }

    #[test]
    fn widening_is_what_another_library_makes_it() {
        for bits in 0..=u16::MAX {
            let (wide, expected) = (widen_one(DType::F16, bits), half::f16::from_bits(bits).to_f32());
            assert!(wide.to_bits() == expected.to_bits() || wide.is_nan() && expected.is_nan(), "{bits:x}");
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
