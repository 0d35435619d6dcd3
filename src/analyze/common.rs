//! How much the directions of a third of the path have in common, where they are known by sketches.
//!
//! Of a sketch, the errors at two steps are as much the same as the directions are, since distances change little
//! from step to step. So the mean over many steps is off by as much of what a step is as the mean of the unit
//! directions is long (`docs/numerics.md`, Sketches). Owns the sums of unit directions, which are taken while the run is
//! measured: from any thread, each piece in the order of its steps.

use std::sync::{Mutex, PoisonError};

use crate::group::Group;
use crate::run::Run;
use crate::run::format::chunk::Piece;
use crate::run::format::squares::square_name;
use crate::stream::{Form, Measured};

/// Unit directions of each third, as far as a piece goes: their sums. None where there is none.
#[derive(Debug, Default)]
struct OfPiece([Vec<f64>; 3]);

/// Rounds to a multiple of 2^-26, to nearest. Sums of such numbers are exact below 2^27, so that they are the same
/// however they are taken in parts.
fn on_grid(v: f64) -> f64 {
    const MAGIC: f64 = 1.5 * (1u64 << 26) as f64;
    v + MAGIC - MAGIC
}

impl OfPiece {
    /// Adds elements of a direction of such a length.
    fn add(&mut self, third: usize, direction: &[f32], norm: f64) {
        let sums = &mut self.0[third];
        sums.resize(direction.len(), 0.0);
        for (sum, v) in sums.iter_mut().zip(direction) {
            *sum += on_grid(f64::from(*v) / norm);
        }
    }

    /// `||sum||^2` of each third.
    fn squares(&self) -> [f64; 3] {
        self.0.each_ref().map(|sums| square(sums))
    }
}

fn square(of: &[f64]) -> f64 {
    of.iter().map(|v| v * v).sum()
}

/// How long the mean of so many unit vectors is whose sum has such a square; that of independent ones at least, and 1
/// where there are none.
fn mean(square: f64, count: u32) -> f64 {
    let count = f64::from(count);
    (square.sqrt() / count).max(count.sqrt().recip()).min(1.0)
}

/// What is summed, and what was.
#[derive(Debug)]
pub(crate) struct Common {
    /// The first step, and numbers of steps from there on whose thirds are asked for.
    first: u64,
    lengths: Vec<u64>,
    /// By direction: the scalars that are the squares of the tensors that are judged; none where it is not stored as it
    /// is.
    squares: Vec<Vec<String>>,
    /// By tensor: whether it is judged.
    judged: Vec<bool>,
    /// By piece, then direction and number of steps.
    pieces: Vec<Mutex<Vec<OfPiece>>>,
    /// By direction, number of steps and third: how many directions.
    counts: Mutex<Vec<[u32; 3]>>,
}

/// The lengths of directions at the steps of a window.
#[derive(Debug)]
pub(crate) struct Norms {
    /// Ascending.
    steps: Vec<u64>,
    /// By direction and place in the steps; `None` where there is none to divide by.
    all: Vec<Vec<Option<f64>>>,
}

impl Norms {
    fn at(&self, direction: usize, step: u64) -> Option<f64> {
        self.steps.binary_search(&step).ok().and_then(|at| self.all[direction][at])
    }
}

impl Common {
    /// Of the tensors of a group of a run of sketches, for the thirds of each of `lengths` of steps from `first` on.
    pub(crate) fn new(
        run: &Run,
        directions: &[Measured],
        group: &Group,
        first: u64,
        lengths: Vec<u64>,
    ) -> Common {
        let names = |m: &Measured| match m.recorded.filter(|_| m.form == Form::Stored) {
            Some(id) => group.tensors.iter().map(|t| square_name(run.manifest.stream_name(id), *t)).collect(),
            None => Vec::new(),
        };
        let mut judged = vec![false; run.manifest.tensors.len()];
        group.tensors.iter().for_each(|t| judged[*t] = true);
        let pairs = directions.len() * lengths.len();
        let piece = |_: &Piece| Mutex::new((0..pairs).map(|_| OfPiece::default()).collect());
        Common {
            first,
            squares: directions.iter().map(names).collect(),
            judged,
            pieces: run.table.pieces().map(piece).collect(),
            counts: Mutex::new(vec![[0; 3]; pairs]),
            lengths,
        }
    }

    /// Forgets all sums.
    pub(crate) fn clear(&self) {
        for piece in &self.pieces {
            let mut sums = piece.lock().unwrap_or_else(PoisonError::into_inner);
            sums.iter_mut().for_each(|of| *of = OfPiece::default());
        }
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).fill([0; 3]);
    }

    /// All sums, as words: how many directions there are, then piece, pair, third, length and numbers of each sum.
    pub(crate) fn to_words(&self) -> Vec<u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words: Vec<u64> = counts.iter().flatten().map(|n| u64::from(*n)).collect();
        for (number, piece) in self.pieces.iter().enumerate() {
            let sums = piece.lock().unwrap_or_else(PoisonError::into_inner);
            for (pair, OfPiece(thirds)) in sums.iter().enumerate() {
                for (third, sums) in thirds.iter().enumerate().filter(|(_, sums)| !sums.is_empty()) {
                    words.extend([number, pair, third, sums.len()].map(|n| n as u64));
                    words.extend(sums.iter().map(|v| v.to_bits()));
                }
            }
        }
        words
    }

    /// Adds the sums of another process, of other steps; false where they are of other directions or pieces.
    pub(crate) fn add_words(&self, words: &[u64]) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((of_counts, mut rest)) = words.split_at_checked(3 * counts.len()) else { return false };
        for (count, more) in counts.iter_mut().flatten().zip(of_counts) {
            *count = count.saturating_add(u32::try_from(*more).unwrap_or(u32::MAX));
        }
        while let Some((head, after)) = rest.split_first_chunk::<4>() {
            let [number, pair, third, len] = head.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            let (Some(piece), Some((more, after))) = (self.pieces.get(number), after.split_at_checked(len))
            else {
                return false;
            };
            let mut pairs = piece.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(sums) = pairs.get_mut(pair).and_then(|OfPiece(thirds)| thirds.get_mut(third)) else {
                return false;
            };
            sums.resize(len, 0.0);
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += f64::from_bits(*more));
            rest = after;
        }
        rest.is_empty()
    }

    /// The third of a step, by number of steps; `None` behind these.
    fn third(&self, step: u64, length: u64) -> Option<usize> {
        let offset = step.checked_sub(self.first).filter(|offset| *offset < length)?;
        // The quotient is below 3.
        Some(usize::try_from(u128::from(offset) * 3 / u128::from(length)).unwrap_or(0))
    }

    /// Looks how long directions are at `steps`, which come once each, and counts them. A scalar of a step is asked for
    /// by its name.
    pub(crate) fn begin(&self, steps: &[u64], scalar: impl Fn(u64, &str) -> Option<f64>) -> Norms {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut norms = Vec::new();
        for (d, names) in self.squares.iter().enumerate() {
            let norm = |step: &u64| {
                let square: f64 = names.iter().filter_map(|name| scalar(*step, name)).sum();
                Some(square.sqrt()).filter(|norm| norm.is_finite() && *norm > 0.0)
            };
            let of_steps: Vec<Option<f64>> = steps.iter().map(norm).collect();
            for (step, _) in steps.iter().zip(&of_steps).filter(|(_, norm)| norm.is_some()) {
                for (l, length) in self.lengths.iter().enumerate() {
                    if let Some(third) = self.third(*step, *length) {
                        counts[d * self.lengths.len() + l][third] += 1;
                    }
                }
            }
            norms.push(of_steps);
        }
        Norms { steps: steps.to_vec(), all: norms }
    }

    /// Adds what a piece has of a direction at a step of the window.
    pub(crate) fn add(&self, norms: &Norms, piece: &Piece, (d, step): (usize, u64), values: &[f32]) {
        let Some(norm) = norms.at(d, step).filter(|_| self.judged[piece.tensor]) else { return };
        let mut sums = self.pieces[piece.number].lock().unwrap_or_else(PoisonError::into_inner);
        for (l, length) in self.lengths.iter().enumerate() {
            if let Some(third) = self.third(step, *length) {
                sums[d * self.lengths.len() + l].add(third, values, norm);
            }
        }
    }

    /// By number of steps: how long the mean of the unit directions of each third is. Nothing of a direction that is not
    /// stored as it is.
    pub(crate) fn in_thirds(&self, d: usize) -> Vec<(u64, [f64; 3])> {
        if self.squares[d].is_empty() {
            return Vec::new();
        }
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_length = |(l, length): (usize, &u64)| {
            let pair = d * self.lengths.len() + l;
            let mut squares = [0.0; 3];
            for piece in &self.pieces {
                let sums = piece.lock().unwrap_or_else(PoisonError::into_inner);
                squares.iter_mut().zip(sums[pair].squares()).for_each(|(all, own)| *all += own);
            }
            (*length, std::array::from_fn(|third| mean(squares[third], counts[pair][third])))
        };
        self.lengths.iter().enumerate().map(of_length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of nothing yet: two pieces of two elements each, of one tensor.
    fn nothing(lengths: &[u64]) -> Common {
        let sums = || Mutex::new((0..lengths.len()).map(|_| OfPiece::default()).collect());
        Common {
            first: 10,
            lengths: lengths.to_vec(),
            squares: vec![vec!["square".to_owned()]],
            judged: vec![true],
            pieces: vec![sums(), sums()],
            counts: Mutex::new(vec![[0; 3]; lengths.len()]),
        }
    }

    /// Of some of these directions, in two windows; the scalar of a step is the square of its direction.
    fn common(directions: &[[f32; 4]], some: std::ops::Range<usize>, lengths: &[u64]) -> Common {
        let piece = |number| Piece { number, tensor: 0, begin: 2 * number as u64, len: 2, skip: 0, at: 0 };
        let (common, half) = (nothing(lengths), some.start + some.len() / 2);
        let square =
            |direction: [f32; 4]| direction.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        for window in [some.start..half, half..some.end] {
            let steps: Vec<u64> = window.map(|i| 10 + i as u64).collect();
            let of = |step: u64| directions[usize::try_from(step - 10).unwrap()];
            let norms = common.begin(&steps, |step, _| Some(square(of(step))));
            for &step in &steps {
                let g = of(step);
                common.add(&norms, &piece(1), (0, step), &g[2..]);
                common.add(&norms, &piece(0), (0, step), &g[..2]);
            }
        }
        common
    }

    fn in_thirds(directions: &[[f32; 4]], lengths: &[u64]) -> Vec<(u64, [f64; 3])> {
        common(directions, 0..directions.len(), lengths).in_thirds(0)
    }

    #[test]
    fn parts_have_the_bits_of_the_whole() {
        let element = |i: u32| f32::from_bits(0x3f00_0000 | i.wrapping_mul(2_654_435_761) >> 9) - 0.7;
        let all: Vec<[f32; 4]> = (0..60).map(|t| [0, 1, 2, 3].map(|i| element(4 * t + i))).collect();
        let lengths = [60, 31];
        let expected = common(&all, 0..60, &lengths).to_words();
        for cuts in [vec![0, 60], vec![0, 7, 60], vec![0, 20, 21, 40, 59, 60]] {
            let merged = nothing(&lengths);
            // The last part first.
            for cut in cuts.windows(2).rev() {
                assert!(merged.add_words(&common(&all, cut[0]..cut[1], &lengths).to_words()));
            }
            assert!(merged.to_words() == expected, "{cuts:?}");
        }
        assert!(!nothing(&[60]).add_words(&common(&all, 0..60, &lengths).to_words()));
        assert!(!nothing(&lengths).add_words(&[1, 2]));
    }

    #[test]
    fn a_mean_is_as_long_as_what_is_shared() {
        let near = |found: &[(u64, [f64; 3])], expected: &[(u64, [f64; 3])]| {
            assert_eq!(found.len(), expected.len());
            for ((length, found), (of, expected)) in found.iter().zip(expected) {
                assert_eq!(length, of);
                found.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{found:?}"));
            }
        };
        let (x, y, z) = ([3.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]);
        let back = [-1.0, 0.0, 0.0, 0.0];
        let half = 0.5f64.sqrt();
        // Parallel, orthogonal, and what cancels, which counts as independent.
        near(&in_thirds(&[x, y, x, z, x, back], &[6]), &[(6, [1.0, half, half])]);
        // A direction of length 0 counts for none, and where there are none all is shared; a part of the steps.
        near(&in_thirds(&[x, [0.0; 4], x, z, x], &[6, 3]), &[(6, [1.0, half, 1.0]), (3, [1.0, 1.0, 1.0])]);
        near(&in_thirds(&[], &[3]), &[(3, [1.0; 3])]);
    }
}
