//! The loops of the encoder that a compiler does not see through, in AVX2: the same bits as the portable ones.

use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_max_epu8, _mm256_min_epu8,
    _mm256_movemask_epi8, _mm256_or_si256, _mm256_packus_epi16, _mm256_packus_epi32,
    _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32, _mm256_sad_epu8, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_srli_epi16,
    _mm256_srli_epi32, _mm256_storeu_si256, _mm256_sub_epi8,
};
use std::mem::MaybeUninit;

/// Bytes of a register.
pub(super) const LANES: usize = 32;

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; LANES]) -> __m256i {
    // SAFETY: as many bytes are read as there are; they need no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(value: __m256i, bytes: &mut [MaybeUninit<u8>; LANES]) {
    // SAFETY: as many bytes are written as there are; they need no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes_of(value: __m256i) -> [u8; LANES] {
    let mut bytes = [0; LANES];
    // SAFETY: as above.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) };
    bytes
}

/// The quarters of a register in the order from which packing took them apart.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(packed: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
}

/// Upper halves of 32 words, as packing takes them apart: their exponents, sign and upper mantissa.
#[inline]
#[target_feature(enable = "avx2")]
fn exponent(upper: __m256i) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi16::<7>(upper), _mm256_set1_epi16(0xff))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mantissa(upper: __m256i) -> __m256i {
    let sign = _mm256_and_si256(_mm256_srli_epi16::<8>(upper), _mm256_set1_epi16(0x80));
    _mm256_or_si256(sign, _mm256_and_si256(upper, _mm256_set1_epi16(0x7f)))
}

/// Splits 32 binary32 elements into exponents, upper and lower mantissas.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn split32_row(
    words: &[[u8; LANES]; 4],
    exponents: &mut [u8; LANES],
    high: &mut [MaybeUninit<u8>; LANES],
    low: &mut [[MaybeUninit<u8>; LANES]; 2],
) {
    let [a, b, c, d] = [load(&words[0]), load(&words[1]), load(&words[2]), load(&words[3])];
    let m = _mm256_set1_epi32(0xffff);
    let first = _mm256_packus_epi32(_mm256_and_si256(a, m), _mm256_and_si256(b, m));
    let second = _mm256_packus_epi32(_mm256_and_si256(c, m), _mm256_and_si256(d, m));
    store(in_order(first), &mut low[0]);
    store(in_order(second), &mut low[1]);
    let first = _mm256_packus_epi32(_mm256_srli_epi32::<16>(a), _mm256_srli_epi32::<16>(b));
    let second = _mm256_packus_epi32(_mm256_srli_epi32::<16>(c), _mm256_srli_epi32::<16>(d));
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let packed = _mm256_packus_epi16(exponent(first), exponent(second));
    *exponents = bytes_of(_mm256_permutevar8x32_epi32(packed, order));
    let packed = _mm256_packus_epi16(mantissa(first), mantissa(second));
    store(_mm256_permutevar8x32_epi32(packed, order), high);
}

/// The least and the largest byte of some rows.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn extremes(rows: &[[u8; LANES]]) -> (u8, u8) {
    let (mut least, mut most) = (_mm256_set1_epi8(-1), _mm256_setzero_si256());
    for row in rows {
        let row = load(row);
        (least, most) = (_mm256_min_epu8(least, row), _mm256_max_epu8(most, row));
    }
    let (least, most) = (bytes_of(least), bytes_of(most));
    (least.into_iter().fold(u8::MAX, u8::min), most.into_iter().fold(0, u8::max))
}

/// How many bytes of fewer than 256 rows have a value.
#[inline]
#[target_feature(enable = "avx2")]
#[allow(clippy::cast_possible_wrap)]
pub(super) fn count(rows: &[[u8; LANES]], value: u8) -> u16 {
    let (value, mut equal) = (_mm256_set1_epi8(value as i8), _mm256_setzero_si256());
    for row in rows {
        equal = _mm256_sub_epi8(equal, _mm256_cmpeq_epi8(load(row), value));
    }
    let sums = bytes_of(_mm256_sad_epu8(equal, _mm256_setzero_si256()));
    let sum = |at: usize| u16::from_le_bytes([sums[at], sums[at + 1]]);
    sum(0) + sum(8) + sum(16) + sum(24)
}

/// A bit for each byte of a row that is more than `largest` below `base`.
#[inline]
#[target_feature(enable = "avx2")]
#[allow(clippy::cast_possible_wrap)]
pub(super) fn far(row: &[u8; LANES], base: u8, largest: u8) -> u32 {
    let below = _mm256_sub_epi8(_mm256_set1_epi8(base as i8), load(row));
    let largest = _mm256_set1_epi8(largest as i8);
    !_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(below, largest), largest)).cast_unsigned()
}
