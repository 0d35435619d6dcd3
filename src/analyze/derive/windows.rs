//! The windows of steps over which `t_excess` is taken.

use std::ops::Range;

use crate::metrics::bias::MIN_WINDOW;
use crate::run::read::catalog::Catalog;

/// Measured steps of a window where epochs do not serve.
const WINDOW: usize = 50;
/// A path has at least so many windows, where it is long enough.
const WINDOWS: usize = 6;

/// Cuts measured steps into windows; the ranges are places in `steps`. An epoch is a window where
/// epochs are recorded and most have enough measured steps, but no more than a third of all. Else
/// a window has 50 measured steps, or fewer, down to 10, where the path is short.
pub(crate) fn windows(steps: &[u64], catalog: &Catalog) -> Vec<Range<usize>> {
    let epochs = by_epoch(steps, catalog);
    let mut sizes: Vec<usize> = epochs.iter().map(Range::len).collect();
    sizes.sort_unstable();
    let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0);
    let least = usize::try_from(MIN_WINDOW).unwrap_or(WINDOW);
    if median >= least && sizes.last().is_some_and(|&largest| 3 * largest <= steps.len()) {
        return epochs;
    }
    let size = (steps.len() / WINDOWS).clamp(least, WINDOW);
    (0..steps.len()).step_by(size).map(|from| from..(from + size).min(steps.len())).collect()
}

/// Runs of steps of the same epoch; none where epochs are not recorded.
fn by_epoch(steps: &[u64], catalog: &Catalog) -> Vec<Range<usize>> {
    let Some(epochs) = catalog.column("epoch") else {
        return Vec::new();
    };
    let epoch = |i: usize| epochs.latest(steps[i]).map(|e| e.floor().to_bits());
    let mut all = Vec::new();
    let mut start = 0;
    for i in 1..=steps.len() {
        if i == steps.len() || epoch(i) != epoch(start) {
            all.push(start..i);
            start = i;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_epochs_windows_have_fifty_steps_or_fewer() {
        let sizes = |n: u64| -> Vec<usize> {
            let steps: Vec<u64> = (0..n).collect();
            windows(&steps, &Catalog::default()).iter().map(Range::len).collect()
        };
        assert_eq!(sizes(120), [20; 6]);
        assert_eq!(sizes(25), [10, 10, 5]);
        assert_eq!(sizes(1000), [50; 20]);
        assert_eq!(sizes(0), [] as [usize; 0]);
    }
}
