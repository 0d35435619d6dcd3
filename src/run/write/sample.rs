//! A sample of a chunk, on which predictors are fitted and compared.

use std::ops::Range;

use crate::codec::{Encoder, Past, Prediction, Predictor, predict};
use crate::dtype::DType;
use crate::isa::Isa;

/// Elements of a sample.
const SAMPLE: usize = 4096;
/// Pieces that it comes in, spread over the chunk.
const PIECES: usize = 4;
/// Bits an element below which no other predictor is tried.
const GOOD_BITS: f64 = 0.5;
/// Bits an element below which a residual is no larger than a quantized difference.
const CLOSE_BITS: f64 = 6.0;

/// Elements of a chunk: the values to predict, and what predictions look at.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    values: Vec<f32>,
    x: Vec<f32>,
    before: Vec<f32>,
    gradient: Vec<f32>,
    moments: [Vec<f32>; 2],
    /// Moments that a prediction may change.
    scratch: [Vec<f32>; 2],
    predicted: Vec<f32>,
}

/// The elements of a sample of a chunk of `n` elements, without those that are `left_out`, ascending.
fn draw(n: usize, left_out: &[Range<usize>]) -> Vec<Range<usize>> {
    let begins = std::iter::once(0).chain(left_out.iter().map(|r| r.end));
    let moving: Vec<Range<usize>> =
        begins.zip(left_out.iter().map(|r| r.start).chain([n])).map(|(b, e)| b..e).collect();
    let count = moving.iter().map(Range::len).sum::<usize>();
    if count <= SAMPLE {
        return moving;
    }
    let mut drawn = Vec::new();
    for start in (0..PIECES).map(|p| p * (count - SAMPLE / PIECES) / (PIECES - 1)) {
        let (mut from, mut to) = (start, start + SAMPLE / PIECES);
        for range in &moving {
            let len = range.len();
            if from < len && to > 0 {
                drawn.push(range.start + from..range.start + to.min(len));
            }
            (from, to) = (from.saturating_sub(len), to.saturating_sub(len));
        }
    }
    drawn
}

impl Sample {
    /// Takes the sample of `values` of a chunk, and of what they are predicted from, without some elements.
    pub(crate) fn take(&mut self, values: &[f32], past: &Past<'_>, left_out: &[Range<usize>]) {
        let drawn = draw(values.len(), left_out);
        let [momentum, second] = &mut self.moments;
        for (from, to) in [
            (values, &mut self.values),
            (past.x, &mut self.x),
            (past.before, &mut self.before),
            (past.g, &mut self.gradient),
            (&*past.momentum, momentum),
            (&*past.second, second),
        ] {
            to.clear();
            // Moments that there are not are empty.
            drawn.iter().for_each(|range| to.extend_from_slice(from.get(range.clone()).unwrap_or_default()));
        }
    }

    /// The linear predictor that leaves the least squares; `None` where there is nothing to go by.
    pub(crate) fn fit(&self) -> Option<Prediction> {
        let (mut normal, mut right) = ([[0.0f64; 3]; 3], [0.0f64; 3]);
        for i in 0..self.values.len() {
            let x = f64::from(self.x[i]);
            let terms = [x - f64::from(self.before[i]), x, f64::from(self.gradient[i])];
            let moved = f64::from(self.values[i]) - x;
            for (a, row) in normal.iter_mut().enumerate() {
                for (b, cell) in row.iter_mut().enumerate() {
                    *cell += terms[a] * terms[b];
                }
                right[a] += terms[a] * moved;
            }
        }
        let solved = solve(normal, right)?;
        // A coefficient is rounded once.
        #[allow(clippy::cast_possible_truncation)]
        let coefficients = solved.map(|c| c as f32);
        let finite = coefficients.iter().all(|c| c.is_finite());
        finite.then(|| Prediction::new(Predictor::Linear, 0, &coefficients))
    }
}

/// Solves normal equations by elimination. Unknowns that the equations do not determine are 0.
fn solve(mut a: [[f64; 3]; 3], mut b: [f64; 3]) -> Option<[f64; 3]> {
    let scale: [f64; 3] = std::array::from_fn(|i| a[i][i]);
    let mut used = [false; 3];
    for i in 0..3 {
        // What is left of a column after the others are taken out of it.
        used[i] = a[i][i] > 1e-12 * scale[i];
        if !used[i] {
            continue;
        }
        let pivot = a[i];
        for row in 0..3 {
            if row != i {
                let factor = a[row][i] / pivot[i];
                a[row].iter_mut().zip(pivot).for_each(|(cell, p)| *cell -= factor * p);
                b[row] -= factor * b[i];
            }
        }
    }
    used.iter().any(|u| *u).then(|| std::array::from_fn(|i| if used[i] { b[i] / a[i][i] } else { 0.0 }))
}

/// Predictions tried on a sample.
pub(crate) struct Trial<'a> {
    pub(crate) isa: Isa,
    pub(crate) dtype: DType,
    pub(crate) sample: &'a mut Sample,
    pub(crate) encoder: &'a mut Encoder,
}

impl Trial<'_> {
    /// Keeps `prediction` as the best where it takes fewer bits than that.
    pub(crate) fn compare(&mut self, prediction: Prediction, best: &mut (u64, Prediction)) {
        let s = &mut *self.sample;
        for (scratch, moments) in s.scratch.iter_mut().zip(&s.moments) {
            scratch.clone_from(moments);
        }
        s.predicted.resize(s.values.len(), 0.0);
        let [momentum, second] = &mut s.scratch;
        let mut past = Past { x: &s.x, before: &s.before, g: &s.gradient, momentum, second };
        predict(self.isa, &prediction, &mut past, &mut s.predicted);
        let bits = self.encoder.residual_bits(self.dtype, &s.values, &s.predicted);
        if bits < best.0 {
            *best = (bits, prediction);
        }
    }

    /// So few bits that no other predictor need be tried.
    pub(crate) fn is_good(&self, bits: u64) -> bool {
        (bits as f64) < GOOD_BITS * self.sample.values.len() as f64
    }

    /// Whether a residual of so many bits on the sample is as small as what loses something.
    pub(crate) fn is_close(&self, bits: u64) -> bool {
        (bits as f64) < CLOSE_BITS * self.sample.values.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_drawn_from_what_is_not_left_out() {
        let whole = draw(10, &[]);
        assert_eq!((whole.len(), whole[0].clone()), (1, 0..10));
        assert_eq!(draw(10, &[0..2, 2..3, 9..10]), [0..0, 2..2, 3..9, 10..10]);
        let windows = [0..1024, 20_138..21_162, 40_277..41_301, 60_416..61_440];
        assert_eq!(draw(61_440, &[]), windows);
        // The same of the elements that are left, wherever they lie.
        let apart = [0..1000, 4000..4024, 23_138..24_162, 43_277..44_301, 63_416..64_440];
        assert_eq!(draw(64_440, &[1000..2000, 2000..4000]), apart);
    }
}
