//! How the cosines of paths go with their batch sizes: as which power.

use crate::claims::path::Path;
use crate::claims::told::{Told, middle, told};
use crate::reading::Reading;
use crate::statistics::{Slope, slope, sorted};
use crate::summary::thousands;

/// Batch sizes, at least.
const SIZES: usize = 3;

/// A path of a known batch size.
#[derive(Clone, Debug)]
pub(crate) struct OfPath {
    /// How it was named.
    pub name: String,
    /// Examples in a minibatch.
    pub batch: f64,
    /// Rows of the table: steps.
    pub steps: u64,
    /// Medians over the path but for its first and last tenth, by [`QUANTITIES`].
    pub medians: [Option<f64>; 3],
}

/// What is compared.
pub(crate) const QUANTITIES: [&str; 3] = ["cos", "cos_walk", "cos_excess"];

/// How to get it.
const GET: [fn(&Reading) -> Option<f64>; 3] = [|r| r.cos, |r| r.cos_walk, |r| r.cos_excess];

/// Paths that differ in their batch size.
#[derive(Clone, Debug)]
pub(crate) struct Batches {
    /// By batch size.
    pub paths: Vec<OfPath>,
    /// Paths whose batch size is not known, or that are not whole.
    pub left_out: usize,
    /// Different batch sizes.
    pub sizes: usize,
    /// By [`QUANTITIES`]: the power of the batch size, or why there is none.
    pub exponents: [Result<Slope, String>; 3],
}

impl Batches {
    /// Of paths.
    pub(crate) fn of(paths: &[Path]) -> Batches {
        let of_path = |(path, series): &Told<'_>| {
            let medians = GET.map(|of| middle(series, of));
            let (name, steps) = (path.training.name.clone(), series.rows.len() as u64);
            Some(OfPath { name, batch: path.training.batch()?, steps, medians })
        };
        let mut all: Vec<OfPath> = told(paths).iter().filter_map(of_path).collect();
        all.sort_by(|a, b| a.batch.total_cmp(&b.batch));
        let sizes = sorted(all.iter().map(|p| p.batch)).chunk_by(|a, b| a.total_cmp(b).is_eq()).count();
        let exponents = [0, 1, 2].map(|q| exponent(&all, sizes, q));
        Batches { left_out: paths.len() - all.len(), paths: all, sizes, exponents }
    }
}

/// The power with which a quantity goes. A path is not left out where it has no logarithm: what remains would be those that
/// came out high.
fn exponent(paths: &[OfPath], sizes: usize, quantity: usize) -> Result<Slope, String> {
    if sizes < SIZES {
        return Err(
            "paths of three or more batch sizes are needed, recorded as metadata \"batch\" or \"batch_size\""
                .to_owned(),
        );
    }
    let name = QUANTITIES[quantity];
    let count = |is: &dyn Fn(&Option<f64>) -> bool| {
        let of = paths.iter().filter(|p| is(&p.medians[quantity])).count();
        (of > 0).then(|| format!("in {} of {} paths", thousands(of as u64), thousands(paths.len() as u64)))
    };
    if let Some(of) = count(&|m| m.is_none()) {
        return Err(format!("{name} is not known {of}"));
    }
    if let Some(of) = count(&|m| m.is_some_and(|v| v <= 0.0)) {
        return Err(format!("the median {name} is not positive {of}, and has no power of the batch size"));
    }
    let point = |p: &OfPath| Some((p.batch.ln(), p.medians[quantity]?.ln()));
    let points: Vec<(f64, f64)> = paths.iter().filter_map(point).collect();
    slope(&points).ok_or_else(|| format!("the median {name} is the same in all paths"))
}
