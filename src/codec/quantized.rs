//! Values in a few steps of a block's own size, rounded up or down at random: the lossy codecs.
//!
//! The chance of either neighbour is such that the mean of what is stored is the value itself. So the
//! errors of a sum cancel and have a bound that is known (`docs/numerics.md`); rounding to the nearest
//! would push all small values of a block to 0, which is a bias. Steps are bfloat16, so that a
//! multiple of up to 127 is a binary32 exactly.

use crate::dtype::largest;
use crate::isa::{Isa, multi_isa};

// A rounding that is right on the average lets errors cancel in sums, and its own step sizes bound them,
// far tighter than the norm of all errors would: a lossy run gives intervals, not another set of numbers of
// unknown worth. Iterates are never rounded themselves, only their differences: late in a training ||x -
// x*|| is less than what bfloat16 can tell apart.
/// Elements that share a step.
pub(super) const BLOCK: usize = 256;
/// The largest multiple of a step.
const LEVELS: f64 = 127.0;
/// The smallest pattern of a step of which 127 are not finite.
pub(super) const TOO_LARGE: u16 = 0x7c02;
/// The byte that is no level: there is none as far on the other side.
pub(super) const NO_LEVEL: u8 = 0x80;
/// 31 random bits decide, as a fraction.
const CHANCE: f64 = 1.0 / 2_147_483_648.0;

/// How many blocks `n` elements have.
pub(super) fn blocks(n: usize) -> usize {
    n.div_ceil(BLOCK)
}

/// A step as it is stored.
#[inline(always)]
pub(super) fn step_value(step: u16) -> f32 {
    f32::from_bits(u32::from(step) << 16)
}

/// The smallest step of which 127 reach `most`; `None` where that is no number, or beyond all numbers.
fn step_for(most: f64) -> Option<u16> {
    let reaches = |step: u16| f64::from(step_value(step)) * LEVELS >= most;
    // A value near the right one; the comparison above is exact.
    #[allow(clippy::cast_possible_truncation)]
    let near = ((most / LEVELS) as f32).to_bits() >> 16;
    let near = u16::try_from(near).unwrap_or(u16::MAX);
    let step = (near.saturating_sub(1)..=near.saturating_add(1)).find(|&s| reaches(s))?;
    (step < TOO_LARGE).then_some(step)
}

/// The largest distance between two vectors of finite values, elementwise.
#[inline(always)]
fn most_body(values: &[f32], before: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0f64; LANES];
    let larger = |most: f64, v: f32, b: f32| {
        let distance = (f64::from(v) - f64::from(b)).abs();
        if distance > most { distance } else { most }
    };
    let (rows, rest) = values.as_chunks::<LANES>();
    let (rows_before, rest_before) = before.as_chunks::<LANES>();
    for (row, row_before) in rows.iter().zip(rows_before) {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], row[lane], row_before[lane]);
        }
    }
    let last = rest.iter().zip(rest_before).fold(0.0, |most, (v, b)| larger(most, *v, *b));
    lanes.iter().fold(last, |most, v| v.max(most))
}

multi_isa! {
    fn most(values: &[f32], before: &[f32]) -> f64
    => portable most_body, avx2 most_body, avx512 most_body
}

/// The steps of the blocks of `values - before`; false where some value is not finite, or so large that
/// its neighbour might not be.
pub(super) fn steps(isa: Isa, values: &[f32], before: &[f32], out: &mut Vec<u16>) -> bool {
    out.clear();
    if largest(values).max(largest(before)) > (f32::MAX / 2.0).to_bits() {
        return false;
    }
    for (values, before) in values.chunks(BLOCK).zip(before.chunks(BLOCK)) {
        match step_for(most(isa, values, before)) {
            Some(step) => out.push(step),
            None => return false,
        }
    }
    true
}

/// One block whose step is not 0: multiples of the step above `before`, and the values that they give.
///
/// A pass a quantity, each of which becomes vector code.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
fn round_body(
    step: f32,
    values: &[f32],
    before: &[f32],
    random: &[u32],
    levels: &mut [u8],
    decoded: &mut [f32],
) {
    let n = values.len().min(BLOCK);
    let (values, before, random) = (&values[..n], &before[..n], &random[..n]);
    let (levels, decoded) = (&mut levels[..n], &mut decoded[..n]);
    let wide = f64::from(step);
    let (mut lower, mut chosen) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
    for i in 0..n {
        let multiple = ((f64::from(values[i]) - f64::from(before[i])) / wide).floor();
        lower[i] = multiple.clamp(-LEVELS, LEVELS) as f32;
    }
    for i in 0..n {
        // What a reader makes of either neighbour.
        let upper = (lower[i] + 1.0).min(LEVELS as f32);
        let (low, high) = (before[i] + lower[i] * step, before[i] + upper * step);
        let gap = f64::from(high) - f64::from(low);
        let chance = f64::from((random[i] >> 1) as i32) * CHANCE;
        let up = chance * gap < f64::from(values[i]) - f64::from(low);
        decoded[i] = if up { high } else { low };
        chosen[i] = if up { upper } else { lower[i] };
    }
    for i in 0..n {
        // Between -127 and 127.
        levels[i] = chosen[i] as i32 as u8;
    }
}

multi_isa! {
    fn round(step: f32, values: &[f32], before: &[f32], random: &[u32], levels: &mut [u8], decoded: &mut [f32])
    => portable round_body, avx2 round_body, avx512 round_body
}

/// Rounds `values` to multiples of the steps above `before`. Appends the multiples of blocks whose step
/// is not 0 to `levels`, and puts what a reader will see into `decoded`.
pub(super) fn quantize(
    isa: Isa,
    steps: &[u16],
    values: &[f32],
    before: &[f32],
    random: &[u32],
    levels: &mut Vec<u8>,
    decoded: &mut [f32],
) {
    levels.clear();
    for (b, &step) in steps.iter().enumerate() {
        let range = b * BLOCK..values.len().min((b + 1) * BLOCK);
        if step == 0 {
            decoded[range.clone()].copy_from_slice(&before[range]);
            continue;
        }
        let at = levels.len();
        levels.resize(at + range.len(), 0);
        let (values, before, random) =
            (&values[range.clone()], &before[range.clone()], &random[range.clone()]);
        round(isa, step_value(step), values, before, random, &mut levels[at..], &mut decoded[range]);
    }
}

#[inline(always)]
fn restore_body(step: f32, levels: &[u8], before: &[f32], out: &mut [f32]) {
    let n = out.len();
    let (levels, before) = (&levels[..n], &before[..n]);
    for i in 0..n {
        out[i] = before[i] + f32::from(levels[i].cast_signed()) * step;
    }
}

multi_isa! {
    fn restore(step: f32, levels: &[u8], before: &[f32], out: &mut [f32])
    => portable restore_body, avx2 restore_body, avx512 restore_body
}

/// How many multiples blocks with these steps have, of `n` elements.
pub(super) fn level_count(steps: &[[u8; 2]], n: usize) -> usize {
    let of_block = |b: usize| BLOCK.min(n - b * BLOCK);
    steps.iter().enumerate().filter(|(_, s)| **s != [0, 0]).map(|(b, _)| of_block(b)).sum()
}

/// Puts the values together again.
pub(super) fn dequantize(isa: Isa, steps: &[[u8; 2]], levels: &[u8], before: &[f32], out: &mut [f32]) {
    let mut rest = levels;
    for ((step, before), out) in steps.iter().zip(before.chunks(BLOCK)).zip(out.chunks_mut(BLOCK)) {
        let step = u16::from_le_bytes(*step);
        if step == 0 {
            out.copy_from_slice(before);
            continue;
        }
        let (own, others) = rest.split_at(out.len());
        rest = others;
        restore(isa, step_value(step), own, before, out);
    }
}

/// Rounds to the upper halves of binary32 patterns: bfloat16. False where some value is not finite, or
/// would not be. `decoded` is what a reader will see.
pub(super) fn halve(values: &[f32], random: &[u32], decoded: &mut [f32]) -> bool {
    const LARGEST: u32 = 0x7f7f_0000;
    for ((v, r), out) in values.iter().zip(random).zip(decoded.iter_mut()) {
        // The lower half is exactly the chance that the upper one is passed on to the next.
        *out = f32::from_bits(v.to_bits().wrapping_add(r >> 16) & 0xffff_0000);
    }
    largest(values) <= LARGEST
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    fn run(values: &[f32], before: &[f32], seed: u64) -> (Vec<u16>, Vec<f32>) {
        let isa = Isa::detect();
        let (mut steps_of, mut levels) = (Vec::new(), Vec::new());
        assert!(steps(isa, values, before, &mut steps_of));
        let mut random = vec![0; values.len()];
        crate::codec::Noise { seed, step: 0, stream: 1, chunk: 0 }.fill(isa, &mut random);
        let mut decoded = vec![0.0; values.len()];
        quantize(isa, &steps_of, values, before, &random, &mut levels, &mut decoded);
        let bytes: Vec<[u8; 2]> = steps_of.iter().map(|s| s.to_le_bytes()).collect();
        assert_eq!(levels.len(), level_count(&bytes, values.len()));
        for isa in Isa::available() {
            let mut again = vec![f32::NAN; values.len()];
            dequantize(isa, &bytes, &levels, before, &mut again);
            assert!(again.iter().zip(&decoded).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        (steps_of, decoded)
    }

    #[test]
    fn a_step_is_the_smallest_that_reaches() {
        for most in [0.0, 1e-45, 1.0, 127.0, 128.0, 3.3e-39, 1e30, 0.1] {
            let step = step_for(most).unwrap();
            assert!(f64::from(step_value(step)) * 127.0 >= most, "{most}");
            assert!(step == 0 || f64::from(step_value(step - 1)) * 127.0 < most, "{most}");
        }
        assert!(
            (step_value(TOO_LARGE - 1) * 127.0).is_finite() && !(step_value(TOO_LARGE) * 127.0).is_finite()
        );
        assert_eq!((step_for(f64::INFINITY), step_for(f32::MAX.into())), (None, None));
    }

    #[test]
    fn an_error_is_below_a_step_and_its_mean_is_zero() {
        // 0.3 steps above a multiple: rounded up in 30 of 100 cases, whatever the sign.
        let mut values = vec![0.3f32 / 127.0; 256];
        values[0] = 1.0;
        values[1] = -40.7 / 127.0;
        let zeros = vec![0.0; 256];
        let (mut sums, trials) = ([0.0f64; 2], 4000);
        for seed in 0..trials {
            let (steps, decoded) = run(&values, &zeros, seed);
            let step = step_value(steps[0]);
            assert!(values.iter().zip(&decoded).all(|(v, d)| (v - d).abs() < step));
            for (sum, i) in sums.iter_mut().zip([5, 1]) {
                *sum += (f64::from(decoded[i]) - f64::from(values[i])) / f64::from(step);
            }
        }
        // A mean of 4000 errors below 1 is within 0.05 of 0 but for one case in 10^8 (Hoeffding).
        assert!(sums.iter().all(|s| (s / trials as f64).abs() < 0.05), "{sums:?}");
    }

    #[test]
    fn what_cannot_be_told_apart_from_the_value_before_stays() {
        let before = vec![1.0f32; 300];
        let mut values = before.clone();
        values[299] = 1.0 + f32::EPSILON;
        let (steps, decoded) = run(&values, &before, 3);
        assert_eq!(steps[0], 0);
        assert_eq!(decoded[..256], before[..256]);
        // Steps smaller than what binary32 can tell apart: one of the two neighbours, of which the
        // value is one.
        assert_eq!(decoded[299], values[299]);
    }

    #[test]
    fn what_is_not_finite_is_not_quantized() {
        let mut steps_of = Vec::new();
        for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
            let values = [1.0, bad];
            assert!(!steps(Isa::detect(), &values, &[0.0, 0.0], &mut steps_of), "{bad}");
        }
        let mut out = [0.0; 2];
        assert!(!halve(&[1.0, f32::MAX], &[0, 0], &mut out));
        assert!(halve(&[1.5, -2.0], &[u32::MAX, u32::MAX], &mut out));
        assert_eq!(out, [1.5, -2.0]);
    }
}
