//! How skewed the elements of gradients are, from some of them over the steps.
//!
//! Where noise is skewed, element by element, an optimizer that divides by a second moment turns it into a cosine:
//! what a gradient does to its own second moment, and what it does itself, then have to do with each other.
//! `docs/metrics.md` (Skewness) has the figures.

/// Steps over which an element's mean and spread count as constant.
const BLOCK: usize = 256;
/// Fewest of a block.
const FEWEST: usize = 16;
/// What an element's skewness of 1 makes of a cosine: at least, for the root of the part that the newest gradient has
/// in a second moment, and where that part is not known. Simulated; see `docs/metrics.md`.
const LEAST: f64 = 0.0007;
const OF_ROOT: f64 = 0.01;
const UNKNOWN: f64 = 0.0023;

/// The mean square of the skewness of elements, each with its weight in the gradient's length.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Skewness {
    /// The mean; 0 where it cannot be told from 0.
    pub square: f64,
    /// Of so many elements.
    pub elements: usize,
}

impl Skewness {
    /// Of elements, by their values at the steps; NaN where there is none.
    pub(crate) fn of(elements: impl Iterator<Item = Vec<f32>>) -> Skewness {
        let found: Vec<(f64, f64)> = elements.filter_map(|values| of_element(&values)).collect();
        let weights: f64 = found.iter().map(|(w, _)| w).sum();
        let square = found.iter().map(|(w, s)| w * s).sum::<f64>() / weights;
        let spread = found.iter().map(|(w, s)| (w * (s - square)).powi(2)).sum::<f64>().sqrt() / weights;
        let told = square > 2.0 * spread;
        Skewness { square: if told { square } else { 0.0 }, elements: found.len() }
    }

    /// How large a cosine with the optimizer's own path it can make. `newest` is the part that one gradient has in a
    /// second moment.
    pub(crate) fn cosine(&self, newest: Option<f64>) -> f64 {
        self.square * newest.map_or(UNKNOWN, |part| LEAST.max(OF_ROOT * part.sqrt()))
    }
}

/// The standard deviation of an element and its squared skewness, without bias: the square of a sum of cubes holds the
/// square of each.
fn of_element(values: &[f32]) -> Option<(f64, f64)> {
    let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()).collect();
    let (mut count, mut cubes, mut sixths, mut deviations) = (0.0, 0.0, 0.0, 0.0);
    for block in values.chunks(BLOCK).filter(|b| b.len() >= FEWEST) {
        let n = block.len() as f64;
        let mean = block.iter().sum::<f64>() / n;
        let deviation = (block.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        if deviation == 0.0 {
            continue;
        }
        let cube = |v: &f64| ((v - mean) / deviation).powi(3);
        cubes += block.iter().map(cube).sum::<f64>();
        sixths += block.iter().map(|v| cube(v).powi(2)).sum::<f64>();
        deviations += n * deviation;
        count += n;
    }
    (count > 1.0).then(|| (deviations / count, (cubes * cubes - sixths) / (count * (count - 1.0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::noise::Noise;

    #[allow(clippy::cast_possible_truncation)]
    fn skewness(of: impl Fn(&mut Noise, f64) -> f64) -> f64 {
        let mut noise = Noise(1);
        let element = |k: usize| {
            let scale = f64::from(1 << (k % 8));
            (0..512).map(|t| (scale * of(&mut noise, f64::from(t))) as f32).collect()
        };
        Skewness::of((0..256).map(element)).square
    }

    #[test]
    fn the_closed_forms() {
        // Exponential: a skewness of 2; the larger of two: 9/4 over (5/4)^1.5. Of few values it is smaller than of all.
        let exponential = |noise: &mut Noise| -noise.uniform().ln();
        let one = skewness(|noise, _| exponential(noise));
        assert!((0.8..1.05).contains(&(one / 4.0)), "{one}");
        let of_two = (9.0 / 4.0_f64).powi(2) / (5.0 / 4.0_f64).powi(3);
        let two = skewness(|noise, _| -exponential(noise).max(exponential(noise)));
        assert!((0.8..1.05).contains(&(two / of_two)), "{two}");
    }

    #[test]
    fn what_is_symmetric_has_none_whatever_its_scale_and_mean() {
        let cases: [fn(&mut Noise, f64) -> f64; 3] = [
            |noise, _| noise.uniform() - 0.5,
            |noise, t| 20f64.powf(-t / 512.0) * (noise.uniform() - 0.5) + 0.1 * t,
            // Heavy tails.
            |noise, _| (std::f64::consts::PI * (noise.uniform() - 0.5)).tan(),
        ];
        for (i, of) in cases.into_iter().enumerate() {
            let square = skewness(of);
            assert!(square < 0.02, "{i}: {square}");
        }
        assert_eq!(Skewness::of(std::iter::empty()), Skewness::default());
        assert_eq!(Skewness::of([vec![0.0; 100], vec![f32::NAN; 100]].into_iter()), Skewness::default());
    }

    #[test]
    fn the_faster_a_second_moment_forgets_the_more() {
        let skewed = Skewness { square: 2.0, elements: 1 };
        let cosines = [Some(0.0), Some(0.001), Some(0.01), Some(0.05), None].map(|part| skewed.cosine(part));
        assert!(cosines.is_sorted() && cosines[0] == 2.0 * LEAST);
    }
}
