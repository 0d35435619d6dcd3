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

/// Unit directions of a third, as far as a piece goes.
#[derive(Debug, Default)]
struct OfPiece {
    /// The third that is being summed; those before are over.
    third: usize,
    sum: Vec<f64>,
    /// Of the sums that are over: `||sum||^2`.
    squares: [f64; 3],
}

impl OfPiece {
    /// Adds elements of a direction of such a length.
    fn add(&mut self, third: usize, direction: &[f32], norm: f64) {
        if third != self.third {
            self.squares[self.third] = square(&self.sum);
            self.third = third;
            self.sum.clear();
        }
        self.sum.resize(direction.len(), 0.0);
        for (sum, v) in self.sum.iter_mut().zip(direction) {
            *sum += f64::from(*v) / norm;
        }
    }

    /// `||sum||^2` of each third.
    fn squares(&self) -> [f64; 3] {
        let mut all = self.squares;
        all[self.third] = square(&self.sum);
        all
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

/// The lengths of directions at the steps of a window, by direction and row; `None` where there is none to divide by.
#[derive(Debug)]
pub(crate) struct Norms(Vec<Vec<Option<f64>>>);

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
        Norms(norms)
    }

    /// Adds what a piece has of a direction at a step of the window, by its row there.
    pub(crate) fn add(
        &self,
        norms: &Norms,
        piece: &Piece,
        (d, step, row): (usize, u64, usize),
        values: &[f32],
    ) {
        let Some(norm) = norms.0[d][row].filter(|_| self.judged[piece.tensor]) else { return };
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

    /// Two pieces of two elements each, of one tensor; the scalar of a step is the square of its direction.
    fn in_thirds(directions: &[[f32; 4]], lengths: &[u64]) -> Vec<(u64, [f64; 3])> {
        let piece = |number| Piece { number, tensor: 0, begin: 2 * number as u64, len: 2, skip: 0, at: 0 };
        let sums = || Mutex::new(lengths.iter().map(|_| OfPiece::default()).collect());
        let common = Common {
            first: 10,
            lengths: lengths.to_vec(),
            squares: vec![vec!["square".to_owned()]],
            judged: vec![true],
            pieces: vec![sums(), sums()],
            counts: Mutex::new(vec![[0; 3]; lengths.len()]),
        };
        let square =
            |direction: [f32; 4]| direction.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        for window in [0..directions.len() / 2, directions.len() / 2..directions.len()] {
            let steps: Vec<u64> = window.map(|i| 10 + i as u64).collect();
            let of = |step: u64| directions[usize::try_from(step - 10).unwrap()];
            let norms = common.begin(&steps, |step, _| Some(square(of(step))));
            for (row, &step) in steps.iter().enumerate() {
                let g = of(step);
                common.add(&norms, &piece(1), (0, step, row), &g[2..]);
                common.add(&norms, &piece(0), (0, step, row), &g[..2]);
            }
        }
        common.in_thirds(0)
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
