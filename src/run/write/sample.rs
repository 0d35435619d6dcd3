//! A sample of a chunk, on which predictors are fitted and compared.

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

/// Copies the sample of a chunk.
fn draw(from: &[f32], to: &mut Vec<f32>) {
    to.clear();
    if from.len() <= SAMPLE {
        to.extend_from_slice(from);
    } else {
        let starts = (0..PIECES).map(|p| p * (from.len() - SAMPLE / PIECES) / (PIECES - 1));
        starts.for_each(|start| to.extend_from_slice(&from[start..start + SAMPLE / PIECES]));
    }
}

impl Sample {
    /// Takes the sample of a chunk. Moments that there are not are empty.
    pub(crate) fn take(
        &mut self,
        values: &[f32],
        x: &[f32],
        before: &[f32],
        gradient: &[f32],
        moments: [&[f32]; 2],
    ) {
        draw(values, &mut self.values);
        draw(x, &mut self.x);
        draw(before, &mut self.before);
        draw(gradient, &mut self.gradient);
        for (from, to) in moments.iter().zip(&mut self.moments) {
            draw(from, to);
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
