//! Whether a device gives the CPU's bits: every kernel, on awkward values and sizes.

use std::sync::Arc;

use crate::cuda::{CudaError, Device, Lane, Plan, Resident, Result, Term};
use crate::doctor::conformance::{Case, Check, Chunk, DIRECTIONS, cases};
use crate::doctor::decoding::check_work;
use crate::doctor::lane_sums::put_sums;
use crate::doctor::packing::check_payloads;
use crate::doctor::predicting::check_residuals;
use crate::isa::Isa;

/// Compares the sums of every kernel, type and direction, what the device decodes and what it packs with the CPU's.
/// `thorough` takes every size with every number of references and kind of value, which an emulator would take minutes
/// for.
///
/// # Errors
/// The device fails.
pub(crate) fn check(device: &Arc<Device>, isa: Isa, thorough: bool) -> Result<Check> {
    let mut found = Check::default();
    for case in cases(thorough) {
        let chunk = case.chunk();
        let got = sums(device, &case, &chunk)?;
        if case.n > 0 {
            case.compare("the device", &got, &chunk.sums(isa, &DIRECTIONS), &mut found);
        }
        if found.different.is_some() {
            return Ok(found);
        }
    }
    check_work(device, isa, &mut found)?;
    if found.different.is_none() {
        check_payloads(device, isa, thorough, &mut found)?;
    }
    if found.different.is_none() {
        check_residuals(device, isa, &mut found)?;
    }
    Ok(found)
}

/// Every sum of the chunk, as [`Chunk::sums`] lays them out.
fn sums(device: &Arc<Device>, case: &Case, chunk: &Chunk) -> Result<Vec<f64>> {
    let Case { dtype, n, references, steps, number } = *case;
    // Cases take turns in how many references are on the device at a time; 0 is all, for good.
    let held = number % 3;
    let plan = Plan { steps, directions: DIRECTIONS.len(), references, lagged: true, decodes: false, held };
    let read = |k: usize, out: &mut [f32]| {
        out.copy_from_slice(&chunk.references[k]);
        Ok::<(), CudaError>(())
    };
    let resident = if held == 0 {
        let resident = Resident::upload(device, references, &[n], |k, _, part| read(k, part))?;
        Some(Arc::new(resident))
    } else {
        None
    };
    let mut lane = Lane::new(Arc::clone(device), resident, plan)?;
    lane.begin(dtype, n, 0, false);
    let init = lane.put(&chunk.init)?;
    let mut places = Vec::new();
    for x in &chunk.iterates {
        places.push(lane.put(x)?);
    }
    let mut terms = Vec::new();
    for (t, g) in chunk.gradients.iter().enumerate() {
        let g = lane.put(g)?;
        let [x, next, later] = [places[t], places[t + 1], places[t + 2]];
        for direction in DIRECTIONS {
            terms.push(lane.term(Term { direction, g, x, next, later }));
        }
    }
    lane.run(init, read)?;
    let mut all = Vec::new();
    if n > 0 {
        put_sums(&lane, &plan, &terms, &mut all)?;
    }
    Ok(all)
}
