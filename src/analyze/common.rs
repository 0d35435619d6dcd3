//! How much the directions of a third of the path have in common, where they are known by sketches.
//!
//! Of a sketch, the errors at two steps are as much the same as the directions are, since distances change little
//! from step to step. So the mean over many steps is off by as much of what a step is as the mean of the unit
//! directions is long (`docs/numerics.md`, Sketches).

use crate::dtype::{DType, values_of};
use crate::error::Result;
use crate::run::Run;
use crate::run::format::vector_id::StreamId;
use crate::run::read::step_reader::StepBytes;
use crate::run::read::whole_steps::WholeSteps;

/// Unit directions of a third.
#[derive(Clone, Default)]
struct Mean {
    sum: Vec<f64>,
    count: u32,
}

impl Mean {
    fn add(&mut self, direction: &[f32]) {
        let norm = direction.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        if !(norm.is_finite() && norm > 0.0) {
            return;
        }
        self.sum.resize(direction.len(), 0.0);
        for (sum, v) in self.sum.iter_mut().zip(direction) {
            *sum += f64::from(*v) / norm;
        }
        self.count += 1;
    }

    /// Its length; that of independent ones at least, and 1 where there are none.
    fn length(&self) -> f64 {
        let count = f64::from(self.count);
        let length = self.sum.iter().map(|v| v * v).sum::<f64>().sqrt() / count;
        length.max(count.sqrt().recip()).min(1.0)
    }
}

/// For the thirds of `length` steps from `first` on: the length of the mean of the unit directions of a stream in some
/// tensors, at those `steps` (ascending) that are measured.
///
/// # Errors
/// A vector is damaged.
pub(crate) fn in_thirds(
    run: &Run,
    (stream, tensors): (StreamId, &[usize]),
    steps: &[u64],
    (first, length): (u64, u64),
) -> Result<[f64; 3]> {
    let mut thirds = [Mean::default(), Mean::default(), Mean::default()];
    let mut reader = WholeSteps::new(run, first..first + length)?;
    let (mut step, mut values, mut direction) = (StepBytes::default(), Vec::new(), Vec::new());
    while reader.read(&mut step)? {
        let vector = step.vectors().iter().find(|v| v.stream == stream);
        let Some(vector) = vector.filter(|_| steps.binary_search(&step.step).is_ok()) else { continue };
        let elements = vector.elements();
        direction.clear();
        for &t in tensors {
            match elements[t] {
                Some(bytes) => direction.extend_from_slice(values_of(DType::F32, bytes, &mut values)),
                // It is no larger than what is in memory of other steps.
                #[allow(clippy::cast_possible_truncation)]
                None => direction.resize(direction.len() + run.manifest.tensors[t].elements() as usize, 0.0),
            }
        }
        // The quotient is below 3.
        let third = usize::try_from((step.step - first) * 3 / length).unwrap_or(0);
        thirds[third].add(&direction);
    }
    Ok(thirds.map(|mean| mean.length()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_as_long_as_what_is_shared() {
        let mean = |directions: &[[f32; 4]]| {
            let mut mean = Mean::default();
            directions.iter().for_each(|d| mean.add(d));
            mean.length()
        };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(mean(&[]), 1.0);
        near(mean(&[[3.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]), 1.0);
        near(mean(&[[3.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0]]), 0.5f64.sqrt());
        // What cancels counts as independent.
        near(mean(&[[1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]]), 0.5f64.sqrt());
        near(mean(&[[1.0, 0.0, 0.0, 0.0], [0.0; 4]]), 1.0);
    }
}
