//! The sums of a device's lane in the order in which they are compared.

use crate::cuda::{Lane, Plan, Result};
use crate::doctor::conformance::put_term;

/// The sums of these terms, in the order in which `decoding` has them.
pub(crate) fn put_sums(lane: &Lane, plan: &Plan, terms: &[usize], all: &mut Vec<f64>) -> Result<()> {
    let sums = lane.sums()?;
    for &term in terms {
        let (iterate, along, first) = sums.step(term);
        let along = [iterate.x2, iterate.step2, iterate.init2, along.g2, along.gx];
        let further = (1..plan.references).map(|k| sums.pair(term, k));
        let lags = (0..plan.references).filter(|_| plan.lagged).map(|k| sums.lag(term, k));
        put_term(all, along, std::iter::once(first).chain(further), lags);
    }
    Ok(())
}
