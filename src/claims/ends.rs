//! What holds of values of which only the ends are known, between which they lie.
//!
//! Owns which values between the ends go most with something, and most against it. That there are such shows what may be;
//! that there are no others is not proved, but none are known to go further.

use crate::reading::{Ends, Reading};
use crate::statistics::{pearson, rise};

/// The rank correlation with time, if the values fall as much as they can, and if they rise so; `None` where they do not
/// change.
pub(super) fn rises(ends: &[Ends]) -> Option<(f64, f64)> {
    let forward: Vec<&Ends> = ends.iter().collect();
    let backward: Vec<&Ends> = ends.iter().rev().collect();
    let (mut least, mut most) = (None::<f64>, None::<f64>);
    // Where a value must be below the one before, the upper end is nearer to that, and the lower one leaves more room.
    for fallen in [|e: &Ends| e.hi, |e: &Ends| e.lo] {
        let mut falling = rising(&backward, fallen);
        falling.reverse();
        least = rise(&falling).into_iter().chain(least).min_by(f64::total_cmp);
        most = rise(&rising(&forward, fallen)).into_iter().chain(most).max_by(f64::total_cmp);
    }
    least.zip(most)
}

/// Each a little above the one before, if its ends let it.
fn rising(ends: &[&Ends], fallen: fn(&Ends) -> f64) -> Vec<f64> {
    let mut last = f64::NEG_INFINITY;
    let next = |e: &&Ends| {
        let above = e.lo.max(last.next_up());
        last = if above <= e.hi { above } else { fallen(e) };
        last
    };
    ends.iter().map(next).collect()
}

/// The correlation of the first of each point with the other, if that goes against it as much as it can, and if it goes
/// with it so.
pub(super) fn correlations(points: &[(f64, Ends)]) -> (f64, f64) {
    let mean = points.iter().map(|p| p.0).sum::<f64>() / points.len() as f64;
    let of = |end: &dyn Fn(bool, Ends) -> f64| {
        let points: Vec<(f64, f64)> = points.iter().map(|(x, e)| (*x, end(*x > mean, *e))).collect();
        pearson(&points).filter(|r| r.is_finite())
    };
    let against = of(&|is_high, e| if is_high { e.lo } else { e.hi });
    let with = of(&|is_high, e| if is_high { e.hi } else { e.lo });
    // Nothing bounds one, or they may all be the same.
    (against.unwrap_or(-1.0), with.unwrap_or(1.0))
}

/// The mean of the ends of rows; `None` where no row has the value.
pub(super) fn mean(rows: &[Reading], of: fn(&Reading) -> Option<Ends>) -> Option<Ends> {
    let all: Vec<Ends> = rows.iter().filter_map(of).collect();
    let mean = |end: fn(&Ends) -> f64| all.iter().map(end).sum::<f64>() / all.len() as f64;
    (!all.is_empty()).then(|| Ends { lo: mean(|e| e.lo), hi: mean(|e| e.hi) })
}

/// Whether values of one and the same would fit between all of them.
pub(super) fn may_be_one(ends: impl Iterator<Item = Ends> + Clone) -> bool {
    let (most, least) =
        (ends.clone().map(|e| e.lo).max_by(f64::total_cmp), ends.map(|e| e.hi).min_by(f64::total_cmp));
    most <= least
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    fn ends(all: &[(f64, f64)]) -> Vec<Ends> {
        all.iter().map(|&(lo, hi)| Ends { lo, hi }).collect()
    }

    #[test]
    fn values_rise_as_far_as_their_ends_let_them() {
        let known = [1.0, 3.0, 2.0, 4.0, 5.0].map(|v| (v, v));
        // 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - 12 / 120.
        let (least, most) = rises(&ends(&known)).unwrap();
        assert!((least - 0.9).abs() < 1e-12 && (most - 0.9).abs() < 1e-12);
        // The second and the third may change places, and nothing else.
        let open = [(1.0, 1.0), (2.0, 3.0), (2.0, 3.0), (4.0, 4.0), (5.0, 5.0)];
        let (least, most) = rises(&ends(&open)).unwrap();
        assert!((least - 0.9).abs() < 1e-12 && (most - 1.0).abs() < 1e-12);
        let unbounded = [(f64::NEG_INFINITY, f64::INFINITY); 4];
        let (least, most) = rises(&ends(&unbounded)).unwrap();
        assert!((least + 1.0).abs() < 1e-12 && (most - 1.0).abs() < 1e-12);
        assert_eq!(rises(&ends(&[(1.0, 1.0); 4])), None);
    }

    #[test]
    fn correlations_are_those_of_the_ends() {
        let exact: Vec<_> =
            [(0.0, 1.0), (1.0, 2.0), (2.0, 3.5)].map(|(x, v)| (x, Ends { lo: v, hi: v })).to_vec();
        let (against, with) = correlations(&exact);
        assert!(against == with && (with - 0.993_399_267_798_783_1).abs() < 1e-12, "{with}");
        let open: Vec<_> = exact.iter().map(|(x, e)| (*x, Ends { lo: e.lo - 5.0, hi: e.hi + 5.0 })).collect();
        let (against, with) = correlations(&open);
        assert!(against < -0.8 && with > 0.8, "{against} {with}");
        let unbounded: Vec<_> =
            exact.iter().map(|(x, e)| (*x, Ends { lo: e.lo, hi: f64::INFINITY })).collect();
        assert_eq!(correlations(&unbounded), (-1.0, 1.0));
    }

    #[test]
    fn one_value_fits_between_all_ends_or_not() {
        assert!(may_be_one(ends(&[(1.0, 2.0), (1.5, 3.0), (0.0, 1.5)]).into_iter()));
        assert!(!may_be_one(ends(&[(1.0, 2.0), (1.6, 3.0), (0.0, 1.5)]).into_iter()));
    }
}
