//! Splitting words into planes and merging them again: the hot loops of the codec.
//!
//! A binary32 is cut into its exponent byte, a byte of sign and upper mantissa, and the lower 16
//! bits. A bfloat16 is cut alike, without the lower bits. A binary16 is cut into its two bytes.

use super::ZERO_BLOCK;
use crate::dtype::DType;
use crate::isa::multi_isa;

/// Bytes of a zero-block bitmap for `n` elements.
pub(super) fn bitmap_len(n: usize) -> usize {
    n.div_ceil(ZERO_BLOCK).div_ceil(8)
}

/// Whether block `b` is stored.
#[inline(always)]
pub(super) fn is_kept(bitmap: &[u8], b: usize) -> bool {
    bitmap[b / 8] >> (b % 8) & 1 == 1
}

/// The elements that a bitmap keeps, or `None` where it marks a block beyond `n` elements.
pub(super) fn kept_elements(bitmap: &[u8], n: usize) -> Option<usize> {
    let blocks = n.div_ceil(ZERO_BLOCK);
    let ones: usize = bitmap.iter().map(|b| b.count_ones() as usize).sum();
    let inside = (0..blocks).filter(|&b| is_kept(bitmap, b)).count();
    if ones != inside {
        return None;
    }
    let short = blocks > 0 && is_kept(bitmap, blocks - 1);
    Some(inside * ZERO_BLOCK - if short { blocks * ZERO_BLOCK - n } else { 0 })
}

/// Cuts a binary32 into (exponent, sign and upper mantissa, lower mantissa).
#[inline(always)]
pub(super) fn split32(bits: u32) -> (u8, u8, u16) {
    let [b0, b1, b2, b3] = bits.to_le_bytes();
    let exponent = (b3 << 1) | (b2 >> 7);
    (exponent, (b3 & 0x80) | (b2 & 0x7f), u16::from_le_bytes([b0, b1]))
}

/// Cuts a 16-bit word into (exponent or high byte, the rest).
#[inline(always)]
pub(super) fn split16(dtype: DType, bits: u16) -> (u8, u8) {
    let [low, high] = bits.to_le_bytes();
    match dtype {
        DType::F16 => (high, low),
        DType::BF16 | DType::F32 => ((high << 1) | (low >> 7), (high & 0x80) | (low & 0x7f)),
    }
}

#[inline(always)]
fn merge32_run(exponent: &[u8], high: &[u8], low: &[[u8; 2]], out: &mut [f32]) {
    let n = out.len();
    let (exponent, high, low) = (&exponent[..n], &high[..n], &low[..n]);
    for i in 0..n {
        let h = u32::from(high[i]);
        let bits = (h & 0x80) << 24
            | u32::from(exponent[i]) << 23
            | (h & 0x7f) << 16
            | u32::from(u16::from_le_bytes(low[i]));
        out[i] = f32::from_bits(bits);
    }
}

#[inline(always)]
fn merge32_body(exponent: &[u8], high: &[u8], low: &[u8], bitmap: &[u8], out: &mut [f32]) {
    let low = low.as_chunks::<2>().0;
    if bitmap.is_empty() {
        return merge32_run(exponent, high, low, out);
    }
    let mut at = 0;
    for (b, block) in out.chunks_mut(ZERO_BLOCK).enumerate() {
        if is_kept(bitmap, b) {
            let end = at + block.len();
            merge32_run(&exponent[at..end], &high[at..end], &low[at..end], block);
            at = end;
        } else {
            block.fill(0.0);
        }
    }
}

#[inline(always)]
fn merge16_run(f16: bool, exponent: &[u8], rest: &[u8], out: &mut [u16]) {
    let n = out.len();
    let (exponent, rest) = (&exponent[..n], &rest[..n]);
    if f16 {
        for i in 0..n {
            out[i] = u16::from(exponent[i]) << 8 | u16::from(rest[i]);
        }
    } else {
        for i in 0..n {
            let r = u16::from(rest[i]);
            out[i] = (r & 0x80) << 8 | u16::from(exponent[i]) << 7 | (r & 0x7f);
        }
    }
}

#[inline(always)]
fn merge16_body(f16: bool, exponent: &[u8], rest: &[u8], bitmap: &[u8], out: &mut [u16]) {
    if bitmap.is_empty() {
        return merge16_run(f16, exponent, rest, out);
    }
    let mut at = 0;
    for (b, block) in out.chunks_mut(ZERO_BLOCK).enumerate() {
        if is_kept(bitmap, b) {
            let end = at + block.len();
            merge16_run(f16, &exponent[at..end], &rest[at..end], block);
            at = end;
        } else {
            block.fill(0);
        }
    }
}

multi_isa! {
    /// Merges the planes of a binary32 chunk. The planes hold the kept elements; `bitmap` is empty
    /// where all are kept. The caller has checked every length.
    pub(super) fn merge32(exponent: &[u8], high: &[u8], low: &[u8], bitmap: &[u8], out: &mut [f32])
    => portable merge32_body, avx2 merge32_body, avx512 merge32_body
}

multi_isa! {
    /// Merges the planes of a 16-bit chunk, as [`merge32`] does.
    pub(super) fn merge16(f16: bool, exponent: &[u8], rest: &[u8], bitmap: &[u8], out: &mut [u16])
    => portable merge16_body, avx2 merge16_body, avx512 merge16_body
}
