//! Payloads of every codec and predictor, decoded with every instruction set.
//!
//! The first 16 bytes say how it is stored and how many elements it is of; the payload follows.

use lpa::DType;
use lpa::internals::{Coding, Decoder, Exponents, Past, Pieces, Plane, Predictor};

use crate::codecs::decoded;

const HEAD: usize = 16;
/// A zero block, and elements of which one step speaks.
const ZERO_BLOCK: usize = 64;
const STEP_BLOCK: usize = 256;

/// What the head of an input says.
struct Head {
    dtype: DType,
    coding: Coding,
    n: usize,
    pieces: Vec<usize>,
    at_rest: Vec<u8>,
    seed: u32,
}

impl Head {
    /// Bytes: type; codec; 1 packed, 2 zero blocks, 4 a plane of the length that the rest leaves, 8 many elements; pieces;
    /// length of the plane (4); elements (4); those at rest; a seed of the past (3).
    fn read(head: &[u8; HEAD], payload: &[u8]) -> Head {
        let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let has = |bit: u8| head[2] & bit != 0;
        let dtype = [DType::F32, DType::BF16, DType::F16][usize::from(head[0] % 3)];
        let n = word(8) as usize % if has(8) { 65_537 } else { 2049 };
        let (how, zero_blocks) = (if has(1) { Exponents::Packed } else { Exponents::Huffman }, has(2));
        let fits = |size: usize, before: usize| {
            let bitmap = if zero_blocks { n.div_ceil(ZERO_BLOCK).div_ceil(8) } else { 0 };
            let bits = &payload[payload.len().saturating_sub(bitmap)..];
            let blocks = (0..n.div_ceil(ZERO_BLOCK))
                .filter(|b| bits.get(b / 8).is_some_and(|byte| byte >> (b % 8) & 1 == 1));
            let in_blocks = blocks.map(|b| ZERO_BLOCK.min(n - b * ZERO_BLOCK)).sum();
            let kept: usize = if zero_blocks { in_blocks } else { n };
            payload.len().saturating_sub(before + bitmap + kept * (size - 1)) as u32
        };
        let len = |size: usize, before: usize| if has(4) { fits(size, before) } else { word(4) };
        let steps = 2 * n.div_ceil(STEP_BLOCK);
        let multiples = |before: usize| match has(4) {
            true => payload.len().saturating_sub(before + steps) as u32,
            false => word(4),
        };
        let coding = match head[1] % 11 {
            0 => Coding::Raw,
            1 => Coding::Zero,
            2 => Coding::Absent,
            3 | 4 => Coding::Planes { exponents: Plane { how, len: len(dtype.size(), 0) }, zero_blocks },
            5 => Coding::Residual(Predictor::Previous),
            6 => Coding::Residual(Predictor::Linear),
            7 => Coding::Residual(if has(1) { Predictor::Sgd } else { Predictor::Adam }),
            8 => Coding::Quantized(Plane { how, len: multiples(8) }),
            9 => Coding::Delta(Plane { how, len: multiples(0) }),
            _ => Coding::Rounded { exponents: Plane { how, len: len(2, 8) }, zero_blocks },
        };
        let count = 1 + usize::from(head[3] % 8);
        let pieces: Vec<usize> = (1..=count).map(|i| n * i / count).collect();
        let at_rest = if count > 1 && head[12] != 0 { vec![head[12]] } else { Vec::new() };
        Head { dtype, coding, n, pieces, at_rest, seed: word(12) >> 8 }
    }
}

/// Bits of any numbers, most of them near 1 where `seed` is even.
pub(super) fn drawn(seed: u32, salt: u32, n: usize) -> Vec<f32> {
    let mut state = (u64::from(seed) << 32 | u64::from(salt)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = (state >> 32) as u32;
        f32::from_bits(if seed.is_multiple_of(2) { word >> 9 | 0x3f00_0000 } else { word })
    };
    (0..n).map(|_| number()).collect()
}

pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Bits, but those of NaNs: which NaN a moment becomes is the processor's choice.
fn bits_but_nan(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }).collect()
}

/// A payload is refused, or is the same numbers with every instruction set.
pub(crate) fn run(input: &[u8]) {
    let Some((head, payload)) = input.split_first_chunk::<HEAD>() else { return };
    let head = Head::read(head, payload);
    let outcome = decoded(|decoder| decode(decoder, &head, payload));
    let is_predicted = decoded(|decoder| {
        decoder.check_predicted(head.dtype, head.coding, payload, (head.n, head.pieces.len())).is_ok()
    });
    assert_eq!(is_predicted, outcome.is_ok() && head.coding.follows(), "what is checked decodes");
}

/// Values, widths and the sum of squares; or the reason why there are none.
type Decoded = Result<(Vec<u32>, Vec<u32>, Option<u64>), String>;

fn decode(decoder: &mut Decoder, head: &Head, payload: &[u8]) -> Decoded {
    let n = head.n;
    let mut out = vec![f32::NAN; n];
    if head.coding.follows() {
        let [x, before, g, mut momentum, mut second] = [1, 2, 3, 4, 5].map(|salt| drawn(head.seed, salt, n));
        let mut past = Past { x: &x, before: &before, g: &g, momentum: &mut momentum, second: &mut second };
        let pieces = Pieces { ends: &head.pieces, at_rest: &head.at_rest };
        let mut missed = Vec::new();
        decoder
            .decode_predicted(head.dtype, head.coding, payload, (&mut past, pieces), &mut out, |i, _| {
                missed.push(i)
            })
            .map_err(|e| e.to_string())?;
        assert!(missed.iter().all(|&i| i < n));
        let mut widths = vec![f32::NAN; n];
        let g2 = Decoder::widths(head.coding, payload, &out, &mut widths).map_err(|e| e.to_string())?;
        let moments = [bits_but_nan(&momentum), bits_but_nan(&second)].concat();
        return Ok((bits(&out), [bits_but_nan(&widths), moments].concat(), g2.map(f64::to_bits)));
    }
    decoder.decode(head.dtype, head.coding, payload, &mut out).map_err(|e| e.to_string())?;
    let kept = decoder.exponents().to_vec();
    for exponents in [&kept[..], &[], &kept[kept.len().min(1)..]] {
        let mut again = vec![f32::NAN; n];
        decoder.decode_again(head.dtype, head.coding, payload, exponents, &mut again).unwrap();
        assert_eq!(bits(&again), bits(&out));
    }
    let mut widths = vec![f32::NAN; n];
    let g2 = Decoder::widths(head.coding, payload, &out, &mut widths).map_err(|e| e.to_string())?;
    Ok((bits(&out), bits_but_nan(&widths), g2.map(f64::to_bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_can_be_said() {
        let said = |codec: u8| {
            let mut head = [0; HEAD];
            (head[1], head[8]) = (codec, 4);
            format!("{:?}", Head::read(&head, &[0; 16]).coding.codec())
        };
        let all: std::collections::BTreeSet<String> = (0..11).map(said).collect();
        assert_eq!(all.len(), 8, "{all:?}");
    }
}
