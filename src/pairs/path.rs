//! What the distances between iterates say of a path.
//!
//! Pure functions of squared distances; what they are taken of is not known here.

/// Squared distances of steps to references, which are some of the steps, the first and the last among them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distances<'a> {
    /// The steps, ascending.
    pub steps: &'a [u64],
    /// The steps of the references, ascending.
    pub references: &'a [u64],
    /// By step, then reference.
    pub d2: &'a [f64],
    /// By step: the square of the way from the step before; `None` where that is not known.
    pub moved: &'a [Option<f64>],
}

/// What a path is like as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Length of the way, step by step; `None` where steps are missing.
    pub length: Option<f64>,
    /// Distance from the first iterate to the last.
    pub net: f64,
    /// Exponent of the mean squared displacement: `||x_{t+l} - x_t||^2 ~ l^exponent`.
    pub exponent: Option<f64>,
    /// The same of a walk of orthogonal steps that have the lengths of the path's.
    pub walk_exponent: Option<f64>,
    /// Mean of `cos(x_s - x_first, x_t - x_first)` over all pairs of different references but the first.
    pub mean_cos_first: Option<f64>,
    /// The same of that walk.
    pub walk_mean_cos_first: Option<f64>,
}

impl Distances<'_> {
    fn d2(&self, t: usize, k: usize) -> f64 {
        self.d2[t * self.references.len() + k]
    }

    /// `cos(x_t - x_first, x_k - x_first)`, of a step and a reference by place.
    pub(crate) fn cos_first(&self, t: usize, k: usize) -> Option<f64> {
        // The first reference is the first step.
        let first = self.d2(0, k);
        cosine(self.d2(t, 0), first, self.d2(t, k))
    }

    /// `cos(x_t - x_last, x_k - x_last)`.
    pub(crate) fn cos_last(&self, t: usize, k: usize) -> Option<f64> {
        let last = self.references.len() - 1;
        cosine(self.d2(t, last), self.d2(self.steps.len() - 1, k), self.d2(t, k))
    }

    /// The path as a whole.
    pub(crate) fn shape(&self) -> Shape {
        let ways: Option<Vec<f64>> = self.moved.iter().skip(1).copied().collect();
        // By step: what a walk of orthogonal steps has moved until then.
        let mut sum = 0.0;
        let walked: Option<Vec<f64>> = ways.as_ref().map(|ways| {
            let ends = ways.iter().map(|m| {
                sum += m;
                sum
            });
            std::iter::once(0.0).chain(ends).collect()
        });
        let places: Vec<usize> =
            self.references.iter().map(|k| self.steps.partition_point(|s| s < k)).collect();
        let last = self.steps.len() - 1;
        let longest = (self.steps[last] - self.steps[0]) / LONGEST_LAG;
        let nothing = || Displacements { bins: [(0.0, 0.0, 0.0); u64::BITS as usize] };
        let (mut displacements, mut of_walk) = (nothing(), nothing());
        for t in 0..self.steps.len() {
            for (k, &place) in places.iter().enumerate() {
                let lag = self.steps[t].abs_diff(self.references[k]);
                if lag > 0 && lag <= longest {
                    displacements.add(lag, self.d2(t, k));
                    walked.iter().for_each(|w| of_walk.add(lag, (w[t] - w[place]).abs()));
                }
            }
        }
        let of_pairs = || (1..places.len()).flat_map(|j| (1..j).map(move |k| (j, k)));
        // Of a walk the nearer one of two lies on the way to the farther one: cos^2 is the ratio of their squares.
        let of_walk_at = |w: &Vec<f64>, (j, k): (usize, usize)| {
            let (near, far) = (w[places[k]], w[places[j]]);
            (near > 0.0).then(|| (near / far).sqrt())
        };
        Shape {
            length: ways.map(|ways| ways.iter().map(|m| m.sqrt()).sum()),
            net: self.d2(last, 0).sqrt(),
            exponent: displacements.exponent(),
            walk_exponent: of_walk.exponent(),
            mean_cos_first: mean(of_pairs().filter_map(|(j, k)| self.cos_first(places[j], k))),
            walk_mean_cos_first: walked
                .as_ref()
                .and_then(|w| mean(of_pairs().filter_map(|pair| of_walk_at(w, pair)))),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    (count > 0.0).then(|| sum / count)
}

/// The cosine of two sides of a triangle, from the squares of them and of the third.
fn cosine(a2: f64, b2: f64, c2: f64) -> Option<f64> {
    let lengths = a2.sqrt() * b2.sqrt();
    (lengths > 0.0).then(|| ((a2 + b2 - c2) / (2.0 * lengths)).clamp(-1.0, 1.0))
}

/// Lags go up to this part of a path: of longer ones there are too few pairs that do not share most of their steps.
const LONGEST_LAG: u64 = 4;

/// Squared displacements by lag, in bins that double.
struct Displacements {
    /// By bin: pairs, and the sums of their lags and squares.
    bins: [(f64, f64, f64); u64::BITS as usize],
}

impl Displacements {
    fn add(&mut self, lag: u64, d2: f64) {
        let (pairs, lags, squares) = &mut self.bins[lag.ilog2() as usize];
        (*pairs, *lags, *squares) = (*pairs + 1.0, *lags + lag as f64, *squares + d2);
    }

    /// The slope of the mean square over the mean lag, both by their logarithms.
    fn exponent(&self) -> Option<f64> {
        let there = self.bins.iter().filter(|(_, _, squares)| *squares > 0.0 && squares.is_finite());
        let points = there.map(|(pairs, lags, squares)| ((lags / pairs).ln(), (squares / pairs).ln()));
        slope(&points.collect::<Vec<_>>())
    }
}

/// The slope of the line with the least squares; `None` for fewer than three points.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
    let xy: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let xx: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (points.len() >= 3 && xx > 0.0).then(|| xy / xx)
}
