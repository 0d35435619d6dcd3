//! The paths that a comparison is of, and the middle of each.

use crate::claims::path::Path;
use crate::reading::{Reading, Series};
use crate::statistics::median;

/// A path with its rows.
pub(super) type Told<'a> = (&'a Path, &'a Series);

/// The paths of whole runs, each once.
pub(super) fn told(paths: &[Path]) -> Vec<Told<'_>> {
    let is_new = |i: usize| {
        paths[i].training.run_id.is_empty()
            || paths[..i].iter().all(|other| other.training.run_id != paths[i].training.run_id)
    };
    let whole =
        (0..paths.len()).filter(|&i| is_new(i) && paths[i].training.part.is_none()).map(|i| &paths[i]);
    whole.filter_map(|p| Some((p, p.own.as_ref()?))).collect()
}

/// The median over the path but for its first and last tenth, where it begins and where it is bias.
pub(super) fn middle(series: &Series, of: fn(&Reading) -> Option<f64>) -> Option<f64> {
    median(series.part(0.1, 0.9).iter().filter_map(of))
}
