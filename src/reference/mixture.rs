//! How near a point lies to the mixtures of others: weighted means, with weights that are not negative and add
//! up to 1.
//!
//! Every average of iterates is a mixture of them, whatever its weights. Knows vectors only.

/// Pairs of points between which weight is moved, at most.
const MOVES: usize = 50_000;

/// Whether some mixture of `points` is nearer to `target` than `limit` (a squared distance). All have the same
/// length.
pub(super) fn is_nearer(points: &[Vec<f32>], target: &[f32], limit: f64) -> bool {
    let products = products(points, target);
    let Some(nearest) = (0..points.len()).min_by(|&a, &b| products[a][a].total_cmp(&products[b][b])) else {
        return false;
    };
    let mut weights = vec![0.0; points.len()];
    weights[nearest] = 1.0;
    // Half of the gradient of the squared distance of the mixture.
    let mut slopes = products[nearest].clone();
    for _ in 0..MOVES {
        let distance: f64 = weights.iter().zip(&slopes).map(|(w, s)| w * s).sum();
        let all = || 0..points.len();
        let by_slope = |&a: &usize, &b: &usize| slopes[a].total_cmp(&slopes[b]);
        let (Some(to), Some(from)) =
            (all().min_by(by_slope), all().filter(|&i| weights[i] > 0.0).max_by(by_slope))
        else {
            return false;
        };
        // No mixture is nearer than this.
        let least = distance - 2.0 * (distance - slopes[to]);
        if distance < limit || least >= limit || !distance.is_finite() {
            return distance < limit;
        }
        let (along, curve) =
            (slopes[from] - slopes[to], products[to][to] - 2.0 * products[to][from] + products[from][from]);
        let step = if curve > 0.0 { (along / curve).min(weights[from]) } else { weights[from] };
        if step <= 0.0 {
            return false;
        }
        weights[to] += step;
        weights[from] -= step;
        for (slope, (t, f)) in slopes.iter_mut().zip(products[to].iter().zip(&products[from])) {
            *slope += step * (t - f);
        }
    }
    false
}

/// Scalar products of all `points` as seen from `target`.
fn products(points: &[Vec<f32>], target: &[f32]) -> Vec<Vec<f64>> {
    let from = |p: &Vec<f32>| -> Vec<f64> {
        p.iter().zip(target).map(|(x, r)| f64::from(*x) - f64::from(*r)).collect()
    };
    let seen: Vec<Vec<f64>> = points.iter().map(from).collect();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut all = vec![vec![0.0; seen.len()]; seen.len()];
    for i in 0..seen.len() {
        for j in i..seen.len() {
            let p = product(&seen[i], &seen[j]);
            (all[i][j], all[j][i]) = (p, p);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_to_a_triangle_is_the_one_of_geometry() {
        let points = [[0.0f32, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]].map(|p| p.to_vec());
        // Inside: its height. Beyond an edge, and beyond a corner: by Pythagoras.
        for (target, distance2) in [
            ([0.25f32, 0.25, 0.5], 0.25),
            ([0.5, -2.0, 1.0], 5.0),
            ([2.0, -1.0, 0.0], 2.0),
            ([0.5, 0.5, 0.0], 0.0),
        ] {
            assert!(is_nearer(&points, &target, distance2 + 1e-9), "{target:?}");
            assert!(!is_nearer(&points, &target, distance2 - 1e-9), "{target:?}");
        }
    }

    #[test]
    fn a_mean_of_many_points_is_a_mixture_of_them() {
        // Mixed well: multiples alone are so regular that one point is nearly a mixture of the others.
        let value = |k: u32| {
            let k = k.wrapping_mul(2_654_435_761);
            let k = (k ^ k >> 15).wrapping_mul(2_246_822_519);
            ((k ^ k >> 13) >> 8) as f32 / 16_777_216.0
        };
        let point = |i: u32| -> Vec<f32> { (0..40).map(|j| value(i * 40 + j)).collect() };
        let points: Vec<Vec<f32>> = (0..30).map(point).collect();
        let mean: Vec<f32> = (0..40).map(|j| points.iter().map(|p| p[j]).sum::<f32>() / 30.0).collect();
        assert!(is_nearer(&points, &mean, 1e-6));
        assert!(!is_nearer(&points, &point(77), 1.0));
        assert!(!is_nearer(&[], &mean, 1.0));
        let bad = vec![vec![f32::NAN; 40]];
        assert!(!is_nearer(&bad, &mean, 1.0));
    }
}
