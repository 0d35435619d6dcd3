//! The fixed order of every floating-point sum, version 1 (`docs/numerics.md`).
//!
//! Owns the constants of the order and the two outer folds. What is summed is not its business.

/// Version of the order; a result file states it, and sums of different versions never mix.
pub(crate) const ORDER_VERSION: u32 = 1;
/// Elements a block: the unit that one GPU warp, or one call of the vector body, sums.
pub(crate) const BLOCK: usize = 4096;
/// Accumulators a block. Lane `l` takes the elements `l`, `l + LANES`, ... of the block.
pub(crate) const LANES: usize = 32;
/// Elements of a piece, and of a chunk, at most. Pieces start at the first element of a tensor or of a rank's slice.
pub const CHUNK: usize = 65_536;

/// Folds the lanes of a block, whose number is a power of two, by halves: 16, 8, 4, 2, 1.
#[inline(always)]
pub(crate) fn fold_lanes<const N: usize>(mut lanes: [f64; N]) -> f64 {
    let mut half = N / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Neumaier's compensated sum, which folds pieces inside a tensor and tensors inside a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Neumaier {
    sum: f64,
    compensation: f64,
}

impl Neumaier {
    /// Adds one term.
    #[inline]
    pub(crate) fn add(&mut self, term: f64) {
        let t = self.sum + term;
        self.compensation +=
            if self.sum.abs() >= term.abs() { (self.sum - t) + term } else { (term - t) + self.sum };
        self.sum = t;
    }

    /// The sum, rounded once. An infinite or NaN sum is returned as the plain fold has it, except
    /// that every NaN becomes the canonical one.
    pub(crate) fn total(self) -> f64 {
        if self.sum.is_nan() {
            f64::NAN
        } else if self.sum.is_infinite() {
            self.sum
        } else {
            self.sum + self.compensation
        }
    }
}

/// A mean of the values that are there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    sum: Neumaier,
    count: u64,
}

impl Mean {
    /// Takes a value, if it is there.
    pub(crate) fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum.add(value);
            self.count += 1;
        }
    }

    /// It; `None` where no value is there.
    pub(crate) fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum.total() / self.count as f64)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn lanes_fold_by_halves() {
        // Only this tree keeps lane 16's 1 apart from lane 0's 2^53 until nothing else is left.
        let mut lanes = [0.0; LANES];
        lanes[0] = 9_007_199_254_740_992.0;
        lanes[1] = 1.0;
        lanes[17] = 1.0;
        assert_eq!(fold_lanes(lanes), 9_007_199_254_740_994.0);
    }

    #[test]
    fn the_tree_is_the_documented_one() {
        // The sum of 1/(59 l + 1) differs between halving, reversed halving, adjacent pairs and a
        // plain fold; the expected bits are those of halving, written out in Python.
        let lanes: [f64; LANES] = std::array::from_fn(|l| 1.0 / (59.0 * l as f64 + 1.0));
        assert_eq!(fold_lanes(lanes).to_bits(), 0x3ff1_15b6_376a_88ea);
    }

    #[test]
    fn neumaier_keeps_what_a_plain_fold_loses() {
        let mut s = Neumaier::default();
        for term in [1.0, 1e100, 1.0, -1e100] {
            s.add(term);
        }
        assert_eq!(s.total(), 2.0);
    }

    #[test]
    fn non_finite_sums_stay_what_they_are() {
        let mut s = Neumaier::default();
        s.add(1.0);
        s.add(f64::INFINITY);
        s.add(1.0);
        assert_eq!(s.total(), f64::INFINITY);
        s.add(f64::NEG_INFINITY);
        assert_eq!(s.total().to_bits(), f64::NAN.to_bits());
    }
}
