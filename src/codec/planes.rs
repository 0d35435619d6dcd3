//! Splitting words into planes and merging them again: the hot loops of the codec.
//!
//! A binary32 is cut into its exponent byte, a byte of sign and upper mantissa, and the lower 16
//! bits. A bfloat16 is cut alike, without the lower bits. A binary16 is cut into its two bytes.

use std::mem::MaybeUninit;

use crate::codec::ZERO_BLOCK;
#[cfg(target_arch = "x86_64")]
use crate::codec::avx2::{LANES, split32_row};
use crate::isa::multi_isa;

// Only the exponent is compressed. A dense float32 gradient has 27 bits of noise; the mantissa has no
// structure. zstd finds no matches among exponents either, so its match finder is switched off and Huffman
// coding is left: the same size or less, and faster to decode.
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

#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
fn split32_body(
    words: &[u8],
    exponent: &mut [u8],
    high: &mut [MaybeUninit<u8>],
    low: &mut [MaybeUninit<u8>],
) {
    let words = words.as_chunks::<4>().0;
    let n = words.len();
    let (exponent, high) = (&mut exponent[..n], &mut high[..n]);
    let low = &mut low.as_chunks_mut::<2>().0[..n];
    for i in 0..n {
        let bits = u32::from_le_bytes(words[i]);
        // The truncations keep the byte, or the two, that the plane holds.
        exponent[i] = (bits >> 23) as u8;
        high[i].write((bits >> 24) as u8 & 0x80 | (bits >> 16) as u8 & 0x7f);
        low[i] = (bits as u16).to_le_bytes().map(MaybeUninit::new);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn split32_avx2(
    words: &[u8],
    exponent: &mut [u8],
    high: &mut [MaybeUninit<u8>],
    low: &mut [MaybeUninit<u8>],
) {
    let (rows, words) = words.as_chunks::<{ 4 * LANES }>();
    let (exponents, exponent) = exponent.split_at_mut(rows.len() * LANES);
    let (highs, high) = high.split_at_mut(rows.len() * LANES);
    let (lows, low) = low.split_at_mut(rows.len() * 2 * LANES);
    let planes = exponents.as_chunks_mut().0.iter_mut().zip(highs.as_chunks_mut().0);
    let lows = lows.as_chunks_mut().0.as_chunks_mut().0;
    for (row, ((exponent, high), low)) in rows.iter().zip(planes.zip(lows)) {
        if let Some(row) = row.as_chunks().0.first_chunk() {
            split32_row(row, exponent, high, low);
        }
    }
    split32_body(words, exponent, high, low);
}

#[inline(always)]
fn split16_body(f16: bool, words: &[u8], exponent: &mut [u8], rest: &mut [MaybeUninit<u8>]) {
    let words = words.as_chunks::<2>().0;
    let n = words.len();
    let (exponent, rest) = (&mut exponent[..n], &mut rest[..n]);
    for i in 0..n {
        let [low, high] = words[i];
        let (first, second) =
            if f16 { (high, low) } else { ((high << 1) | (low >> 7), (high & 0x80) | (low & 0x7f)) };
        exponent[i] = first;
        rest[i].write(second);
    }
}

multi_isa! {
    /// Splits binary32 elements into planes of the same count, which are written from end to end. They are long enough.
    pub(super) fn split32(words: &[u8], exponent: &mut [u8], high: &mut [MaybeUninit<u8>], low: &mut [MaybeUninit<u8>])
    => portable split32_body, avx2 split32_avx2, avx512 split32_avx2
}

multi_isa! {
    /// Splits 16-bit elements into two planes of the same count, as [`split32`] does.
    pub(super) fn split16(f16: bool, words: &[u8], exponent: &mut [u8], rest: &mut [MaybeUninit<u8>])
    => portable split16_body, avx2 split16_body, avx512 split16_body
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
