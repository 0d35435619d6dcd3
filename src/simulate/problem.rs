//! What is minimised: functions without beneficial geometry, noise, and a quadratic.
//!
//! Alm and Sm are reconstructions of the functions of figure 5 of "No Wrong Turns" (arXiv 2306.11922)
//! from its text; the printed equation could not be compared.

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Uniform};

use crate::simulate::{generator, normal};

/// Gives gradients.
pub(crate) trait Problem {
    /// Its name in the manifest.
    fn name(&self) -> &'static str;
    /// Number of parameters.
    fn dim(&self) -> usize;
    /// The gradient at `x`, and the loss where there is one. Steps come in order.
    fn gradient(&mut self, step: u64, x: &[f32]) -> (Vec<f64>, Option<f64>);
    /// The epoch, where the data has any.
    fn epoch(&self, _step: u64) -> Option<f64> {
        None
    }
}

fn dot(a: &[f64], x: &[f32]) -> f64 {
    a.iter().zip(x).map(|(a, &x)| a * f64::from(x)).sum()
}

/// Asymmetric linear model: `sqrt(1/|B| sum_{i in B} max(0, <a_i, x> - y_i)^2)` with normal a and y,
/// batches without replacement. Convex.
#[derive(Debug)]
pub struct Alm {
    rows: Vec<Vec<f64>>,
    targets: Vec<f64>,
    batch: usize,
    seed: u64,
}

impl Alm {
    /// `samples` rows of `dim` values.
    pub fn new(dim: usize, samples: usize, batch: usize, seed: u64) -> Alm {
        let mut rng = generator(seed, 1);
        let rows = (0..samples).map(|_| normal(&mut rng, dim)).collect();
        Alm { rows, targets: normal(&mut rng, samples), batch: batch.clamp(1, samples), seed }
    }

    fn per_epoch(&self) -> u64 {
        (self.rows.len() / self.batch) as u64
    }

    /// The rows of the batch of a step.
    fn batch(&self, step: u64) -> Vec<usize> {
        let (epoch, at) = (step / self.per_epoch(), step % self.per_epoch());
        let order = permutation(&mut generator(self.seed, 2 + epoch), self.rows.len());
        // Below the number of rows.
        let from = usize::try_from(at).unwrap_or(0) * self.batch;
        order[from..from + self.batch].to_vec()
    }

    /// The loss of the batch of a step at any x.
    pub fn loss(&self, step: u64, x: &[f32]) -> f64 {
        let batch = self.batch(step);
        let terms = batch.iter().map(|&i| (dot(&self.rows[i], x) - self.targets[i]).max(0.0).powi(2));
        (terms.sum::<f64>() / batch.len() as f64).sqrt()
    }
}

impl Problem for Alm {
    fn name(&self) -> &'static str {
        "alm"
    }

    fn dim(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    fn gradient(&mut self, step: u64, x: &[f32]) -> (Vec<f64>, Option<f64>) {
        let loss = self.loss(step, x);
        let mut gradient = vec![0.0; x.len()];
        if loss > 0.0 {
            for i in self.batch(step) {
                let residual = (dot(&self.rows[i], x) - self.targets[i]).max(0.0);
                let factor = residual / (loss * self.batch as f64);
                gradient.iter_mut().zip(&self.rows[i]).for_each(|(g, a)| *g += factor * a);
            }
        }
        (gradient, Some(loss))
    }

    fn epoch(&self, step: u64) -> Option<f64> {
        Some(step as f64 / self.per_epoch() as f64)
    }
}

fn permutation(rng: &mut ChaCha8Rng, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = Uniform::new_inclusive(0, i).map_or(i, |u| u.sample(rng));
        order.swap(i, j);
    }
    order
}

/// Sum of sines: `sum_k a_k sin(<w_k, x> + c_k)`, all normal, as many as dimensions, full gradient.
pub(crate) struct Sm {
    amplitudes: Vec<f64>,
    directions: Vec<Vec<f64>>,
    phases: Vec<f64>,
}

impl Sm {
    /// In `dim` dimensions.
    pub(crate) fn new(dim: usize, seed: u64) -> Sm {
        let mut rng = generator(seed, 1);
        let amplitudes = normal(&mut rng, dim);
        let directions = (0..dim).map(|_| normal(&mut rng, dim)).collect();
        Sm { amplitudes, directions, phases: normal(&mut rng, dim) }
    }
}

impl Problem for Sm {
    fn name(&self) -> &'static str {
        "sm"
    }

    fn dim(&self) -> usize {
        self.phases.len()
    }

    fn gradient(&mut self, _: u64, x: &[f32]) -> (Vec<f64>, Option<f64>) {
        let (mut gradient, mut loss) = (vec![0.0; x.len()], 0.0);
        for ((a, w), c) in self.amplitudes.iter().zip(&self.directions).zip(&self.phases) {
            let (sin, cos) = (dot(w, x) + c).sin_cos();
            loss += a * sin;
            gradient.iter_mut().zip(w).for_each(|(g, w)| *g += a * cos * w);
        }
        (gradient, Some(loss))
    }
}

/// Gradients that are noise: standard normal, whatever x is.
pub(crate) struct RandomWalk {
    dim: usize,
    rng: ChaCha8Rng,
}

impl RandomWalk {
    /// In `dim` dimensions.
    pub(crate) fn new(dim: usize, seed: u64) -> RandomWalk {
        RandomWalk { dim, rng: generator(seed, 1) }
    }
}

impl Problem for RandomWalk {
    fn name(&self) -> &'static str {
        "random-walk"
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn gradient(&mut self, _: u64, _: &[f32]) -> (Vec<f64>, Option<f64>) {
        (normal(&mut self.rng, self.dim), None)
    }
}

/// `1/2 sum_i h_i x_i^2` with curvatures from 0.01 to 1, evenly spaced in their logarithm, and
/// gradients with normal noise of variance 1 / batch.
pub(crate) struct Quadratic {
    curvatures: Vec<f64>,
    noise: f64,
    rng: ChaCha8Rng,
}

impl Quadratic {
    /// In `dim` dimensions.
    pub(crate) fn new(dim: usize, batch: usize, seed: u64) -> Quadratic {
        let last = dim.max(2) - 1;
        let curvatures = (0..dim).map(|i| 0.01f64.powf(1.0 - i as f64 / last as f64)).collect();
        Quadratic { curvatures, noise: 1.0 / (batch.max(1) as f64).sqrt(), rng: generator(seed, 1) }
    }
}

impl Problem for Quadratic {
    fn name(&self) -> &'static str {
        "quadratic"
    }

    fn dim(&self) -> usize {
        self.curvatures.len()
    }

    fn gradient(&mut self, _: u64, x: &[f32]) -> (Vec<f64>, Option<f64>) {
        let noise = normal(&mut self.rng, x.len());
        let terms = self.curvatures.iter().zip(x);
        let loss = terms.clone().map(|(h, &x)| 0.5 * h * f64::from(x).powi(2)).sum();
        let gradient = terms.zip(noise).map(|((h, &x), n)| h * f64::from(x) + self.noise * n);
        (gradient.collect(), Some(loss))
    }
}
