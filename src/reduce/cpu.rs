//! The reductions on a CPU: one body for every instruction set, and the definition beside it.
//!
//! The body walks a block several times, a tile of lanes at a time, so that all accumulators of the
//! tile stay in registers. Lanes are independent, so the width of the tile changes no bit.

use super::order::{BLOCK, LANES, fold_lanes};
use super::{ReferenceSums, VectorSums};
use crate::isa::{Isa, Kind, multi_isa};

/// Rows of [`LANES`] elements that the tiles pass over before going on.
const CACHED_ROWS: usize = 32;

/// The terms that one element adds to `SUMS` accumulators, from `INPUTS` widened inputs.
trait Terms<const INPUTS: usize, const SUMS: usize> {
    fn add(input: [f64; INPUTS], acc: [f64; SUMS]) -> [f64; SUMS];
}

/// All sums of one step against one reference: each input is widened once for all of them.
struct Step;

impl Terms<5, 8> for Step {
    #[inline(always)]
    fn add([g, x, next, init, r]: [f64; 5], acc: [f64; 8]) -> [f64; 8] {
        let [g2, gx, x2, step2, init2, dot, d2, dot_next] = acc;
        let (step, moved) = (x - next, x - init);
        let (d, d_next) = (x - r, next - r);
        [
            g.mul_add(g, g2),
            g.mul_add(x, gx),
            x.mul_add(x, x2),
            step.mul_add(step, step2),
            moved.mul_add(moved, init2),
            g.mul_add(d, dot),
            d.mul_add(d, d2),
            g.mul_add(d_next, dot_next),
        ]
    }
}

/// One block, `TILE` lanes at a time.
// The lanes of several arrays are walked in step, which indices say best, to the compiler too.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn block<T, const INPUTS: usize, const SUMS: usize, const TILE: usize>(input: [&[f32]; INPUTS]) -> [f64; SUMS]
where
    T: Terms<INPUTS, SUMS>,
{
    let split = input.map(|v| v.as_chunks::<LANES>());
    let rows = split.iter().map(|(rows, _)| rows.len()).min().unwrap_or(0);
    let rows_of = split.map(|(r, _)| &r[..rows]);
    let mut lanes = [[0.0f64; LANES]; SUMS];
    // So many rows of all inputs stay in the first-level cache while the tiles pass over them.
    for from in (0..rows).step_by(CACHED_ROWS) {
        let rows_of = rows_of.map(|r| &r[from..rows.min(from + CACHED_ROWS)]);
        for tile in 0..LANES / TILE {
            let mut acc: [[f64; TILE]; SUMS] =
                std::array::from_fn(|k| std::array::from_fn(|l| lanes[k][tile * TILE + l]));
            for row in 0..rows_of[0].len() {
                for l in 0..TILE {
                    let value = std::array::from_fn(|i| f64::from(rows_of[i][row][tile * TILE + l]));
                    let new = T::add(value, std::array::from_fn(|k| acc[k][l]));
                    for k in 0..SUMS {
                        acc[k][l] = new[k];
                    }
                }
            }
            for k in 0..SUMS {
                lanes[k][tile * TILE..(tile + 1) * TILE].copy_from_slice(&acc[k]);
            }
        }
    }
    let tails = split.map(|(_, tail)| tail);
    for l in 0..tails.iter().map(|t| t.len()).min().unwrap_or(0) {
        let value = std::array::from_fn(|i| f64::from(tails[i][l]));
        let new = T::add(value, std::array::from_fn(|k| lanes[k][l]));
        for k in 0..SUMS {
            lanes[k][l] = new[k];
        }
    }
    lanes.map(fold_lanes)
}

/// A chunk: its blocks folded in order.
#[inline(always)]
fn chunk<T, const INPUTS: usize, const SUMS: usize, const TILE: usize>(input: [&[f32]; INPUTS]) -> [f64; SUMS]
where
    T: Terms<INPUTS, SUMS>,
{
    let n = input.iter().map(|v| v.len()).min().unwrap_or(0);
    let mut sums = [0.0; SUMS];
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        let part = block::<T, INPUTS, SUMS, TILE>(input.map(|v| &v[start..end]));
        for k in 0..SUMS {
            sums[k] += part[k];
        }
    }
    sums
}

/// The definition, read off `docs/numerics.md` one element at a time.
fn scalar<T, const INPUTS: usize, const SUMS: usize>(input: [&[f32]; INPUTS]) -> [f64; SUMS]
where
    T: Terms<INPUTS, SUMS>,
{
    let n = input[0].len();
    let mut sums = [0.0; SUMS];
    for start in (0..n).step_by(BLOCK) {
        let mut lanes = [[0.0; LANES]; SUMS];
        for i in start..(start + BLOCK).min(n) {
            let l = (i - start) % LANES;
            let value = input.map(|v| f64::from(v[i]));
            let new = T::add(value, std::array::from_fn(|k| lanes[k][l]));
            for k in 0..SUMS {
                lanes[k][l] = new[k];
            }
        }
        for k in 0..SUMS {
            sums[k] += fold_lanes(lanes[k]);
        }
    }
    sums
}

// Eight accumulators a lane: 4 lanes fill half of the registers of AVX2 and leave room for inputs.
multi_isa! {
    fn step_body(input: [&[f32]; 5]) -> [f64; 8]
    => portable chunk::<Step, 5, 8, 4>, avx2 chunk::<Step, 5, 8, 4>, avx512 chunk::<Step, 5, 8, 8>
}

/// The sums of a chunk at one step against the reference `r`. All inputs have the chunk's length,
/// at most 65,536.
///
/// Where `x_next` or `x_0` is not recorded the caller passes `x` and ignores the sums that hold it.
pub fn step_sums(
    isa: Isa,
    g: &[f32],
    x: &[f32],
    x_next: &[f32],
    x_0: &[f32],
    r: &[f32],
) -> (VectorSums, ReferenceSums) {
    let input = [g, x, x_next, x_0, r];
    let [g2, gx, x2, step2, init2, dot, d2, dot_next] = match isa.kind() {
        Kind::Scalar => scalar::<Step, 5, 8>(input),
        _ => step_body(isa, input),
    };
    (VectorSums { g2, gx, x2, step2, init2 }, ReferenceSums { dot, d2, dot_next })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reproducible vector of awkward values: 24-bit mantissas over 20 binades, both signs.
    fn awkward(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let exponent = 110 + (state >> 24) % 20;
                f32::from_bits((state & 0x807f_ffff) | (exponent << 23))
            })
            .collect()
    }

    fn bits(v: &VectorSums, r: &ReferenceSums) -> [u64; 8] {
        [v.g2, v.gx, v.x2, v.step2, v.init2, r.dot, r.d2, r.dot_next].map(f64::to_bits)
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        for n in [0, 1, 31, 32, 33, 127, 4095, 4096, 4097, 8192, 10_000, 65_535, 65_536] {
            let [g, x, next, init, r] = [1, 2, 3, 4, 5].map(|seed| awkward(n, seed));
            let mut expected = None;
            for isa in Isa::available() {
                let (v, against) = step_sums(isa, &g, &x, &next, &init, &r);
                let got = bits(&v, &against);
                assert_eq!(got, *expected.get_or_insert(got), "n = {n}, {}", isa.name());
            }
        }
    }

    #[test]
    fn small_integers_sum_exactly() {
        // Closed forms: all terms and partial sums are integers below 2^53.
        let n = 10_000u32;
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let g = vec![2.0f32; n as usize];
        let zero = vec![0.0f32; n as usize];
        // x_next is g, and both x_0 and r are 0.
        let (v, r) = step_sums(Isa::detect(), &g, &x, &g, &zero, &zero);
        let (sum, squares) = (49_995_000.0, 333_283_335_000.0);
        let expected = VectorSums {
            g2: 40_000.0,
            gx: 2.0 * sum,
            x2: squares,
            step2: squares - 4.0 * sum + 40_000.0,
            init2: squares,
        };
        assert_eq!(v, expected);
        assert_eq!(r, ReferenceSums { dot: 2.0 * sum, d2: squares, dot_next: 40_000.0 });
    }
}
