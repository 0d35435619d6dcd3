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

/// Inputs g, x, x_next, x_0; sums g2, gx, x2, step2, init2.
struct Vectors;

impl Terms<4, 5> for Vectors {
    #[inline(always)]
    fn add([g, x, next, init]: [f64; 4], [g2, gx, x2, step2, init2]: [f64; 5]) -> [f64; 5] {
        let step = x - next;
        let moved = x - init;
        [
            g.mul_add(g, g2),
            g.mul_add(x, gx),
            x.mul_add(x, x2),
            step.mul_add(step, step2),
            moved.mul_add(moved, init2),
        ]
    }
}

/// Inputs g, x, x_next, r; sums dot, d2, dot_next.
struct Reference;

impl Terms<4, 3> for Reference {
    #[inline(always)]
    fn add([g, x, next, r]: [f64; 4], [dot, d2, dot_next]: [f64; 3]) -> [f64; 3] {
        let d = x - r;
        let d_next = next - r;
        [g.mul_add(d, dot), d.mul_add(d, d2), g.mul_add(d_next, dot_next)]
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

multi_isa! {
    fn vectors_body(input: [&[f32]; 4]) -> [f64; 5]
    => portable chunk::<Vectors, 4, 5, 4>,
       avx2 chunk::<Vectors, 4, 5, 4>,
       avx512 chunk::<Vectors, 4, 5, 32>
}

multi_isa! {
    fn reference_body(input: [&[f32]; 4]) -> [f64; 3]
    => portable chunk::<Reference, 4, 3, 4>,
       avx2 chunk::<Reference, 4, 3, 8>,
       avx512 chunk::<Reference, 4, 3, 32>
}

/// The sums of a chunk that need no reference. All inputs have the chunk's length, at most 65,536.
///
/// Where `x_next` or `x_0` is not recorded the caller passes `x` and ignores the sum.
pub fn vector_sums(isa: Isa, g: &[f32], x: &[f32], x_next: &[f32], x_0: &[f32]) -> VectorSums {
    let input = [g, x, x_next, x_0];
    let [g2, gx, x2, step2, init2] = match isa.kind() {
        Kind::Scalar => scalar::<Vectors, 4, 5>(input),
        _ => vectors_body(isa, input),
    };
    VectorSums { g2, gx, x2, step2, init2 }
}

/// The sums of a chunk against the reference `r`. All inputs have the chunk's length.
///
/// Where `x_next` is not recorded the caller passes `x` and ignores `dot_next`.
pub fn reference_sums(isa: Isa, g: &[f32], x: &[f32], x_next: &[f32], r: &[f32]) -> ReferenceSums {
    let input = [g, x, x_next, r];
    let [dot, d2, dot_next] = match isa.kind() {
        Kind::Scalar => scalar::<Reference, 4, 3>(input),
        _ => reference_body(isa, input),
    };
    ReferenceSums { dot, d2, dot_next }
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
                let got =
                    bits(&vector_sums(isa, &g, &x, &next, &init), &reference_sums(isa, &g, &x, &next, &r));
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
        let s = vector_sums(Isa::detect(), &g, &x, &g, &zero);
        let (sum, squares) = (49_995_000.0, 333_283_335_000.0);
        assert_eq!(
            s,
            VectorSums {
                g2: 40_000.0,
                gx: 2.0 * sum,
                x2: squares,
                step2: squares - 4.0 * sum + 40_000.0,
                init2: squares,
            }
        );
        let s = reference_sums(Isa::detect(), &g, &x, &zero, &zero);
        assert_eq!(s, ReferenceSums { dot: 2.0 * sum, d2: squares, dot_next: 0.0 });
    }
}
