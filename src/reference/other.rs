//! References of other runs, and how much of the path such a run shares.

use std::path::Path;

use super::own::{self, resolve, widths_path};
use super::spec::Own;
use super::values::{Files, Names, Values};
use super::weights::Weights;
use super::{Cache, Origin, Reference, last_part};
use crate::dtype::values as values_of;
use crate::error::{Error, Result};
use crate::run::catalog::Catalog;
use crate::run::manifest::{ITERATE, TensorInfo};
use crate::run::vector::Vector;
use crate::run::{Access, Run};

/// Opens a reference of another run.
pub(super) fn open(
    run: &Run,
    catalog: &Catalog,
    path: &Path,
    own: &Own,
    cache: &Cache,
    access: Access,
) -> Result<Reference> {
    let other = Run::open(path, access)?;
    // What is damaged there matters only where it is needed.
    let other_catalog = Catalog::read(&other, true)?;
    let resolved = resolve(&other, &other_catalog, own)?;
    let mut made = own::open(&other, &other_catalog, vec![resolved], cache, access)?;
    let Some((opened, file)) = made.pop() else {
        return Err(Error::NotFound { path: path.to_owned(), what: format!("there is no {own}") });
    };
    if other.manifest.run_id == run.manifest.run_id {
        return Ok(opened);
    }
    let as_here = |file: &Path| -> Result<Values> {
        Ok(Files::open(&[file.to_owned()], access.mmap, Names::Unwrapped)?.into_values(run)?.0)
    };
    let values = as_here(&file)?;
    let widths = opened.widths.is_some().then(|| as_here(&widths_path(&file))).transpose()?;
    let name = format!("{}:{}", last_part(path), opened.name);
    if !(0..run.manifest.tensors.len()).any(|t| values.has(t)) {
        let what = "that run has none of this run's tensors; it is of another model".to_owned();
        return Err(Error::Reference { path: path.to_owned(), what });
    }
    let (same_start, shared) = shared((run, catalog), (&other, &other_catalog))?;
    let note = (shared > 0).then(|| {
        format!(
            "{name}: that run holds the updates of this one up to step {shared}, so it is no control and steps \
             before are not judged"
        )
    });
    Ok(Reference {
        name,
        step: None,
        xxh3: values.xxh3(run)?,
        weights: Weights::None,
        origin: Origin::Run { same_start },
        shared,
        provisional: opened.provisional,
        note: note.or(opened.note),
        values,
        widths,
        averaged: opened.averaged,
    })
}

/// Whether two runs start at the same iterate, and up to which step of the first the second holds its
/// updates: both are the same so far, or the second goes on where the first ended. `None` where one
/// has not recorded x_0.
fn shared(a: (&Run, &Catalog), b: (&Run, &Catalog)) -> Result<(Option<bool>, u64)> {
    let end = a.1.iterates(0..u64::MAX).next_back();
    if !b.1.has_iterate(0) {
        return Ok((None, 0));
    }
    let start = if a.1.has_iterate(0) { same((a.0, 0), (b.0, 0))? } else { None };
    if start != Some(true) {
        if let Some(end) = end
            && same((a.0, end), (b.0, 0))? == Some(true)
        {
            return Ok((start, end));
        }
        return Ok((start, 0));
    }
    // Paths that have parted stay apart, so the last common step is found by halving. What is damaged
    // counts as common, which judges less.
    let common: Vec<u64> = a.1.iterates(0..u64::MAX).filter(|&s| b.1.has_iterate(s)).collect();
    let (mut equal, mut apart) = (0, common.len());
    while apart - equal > 1 {
        let middle = equal + (apart - equal) / 2;
        let step = common[middle];
        if same((a.0, step), (b.0, step))? == Some(false) { apart = middle } else { equal = middle }
    }
    Ok((Some(true), common[equal]))
}

/// Whether two runs have the same iterate at the given steps, bit for bit, or as far as what they have
/// lost can tell; `None` where one is damaged.
fn same(a: (&Run, u64), b: (&Run, u64)) -> Result<Option<bool>> {
    match compare(a, b) {
        Ok(same) => Ok(Some(same)),
        Err(e) if e.is_damage() => Ok(None),
        Err(e) => Err(e),
    }
}

fn compare((a, s): (&Run, u64), (b, t): (&Run, u64)) -> Result<bool> {
    let (mut left, mut right) = (Vector::open(a, s, ITERATE)?, Vector::open(b, t, ITERATE)?);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let (mut x_widths, mut y_widths) = (Vec::new(), Vec::new());
    for (i, info) in a.manifest.tensors.iter().enumerate() {
        let fits = |t: &TensorInfo| t.name == info.name && t.dtype == info.dtype;
        let Some(j) = b.manifest.tensors.iter().position(fits) else {
            return Ok(false);
        };
        x.clear();
        y.clear();
        left.tensor(i, &mut x)?;
        right.tensor(j, &mut y)?;
        if x == y {
            continue;
        }
        left.widths(i, &mut x_widths)?;
        right.widths(j, &mut y_widths)?;
        let (mut a, mut b) = (vec![0.0; x_widths.len()], vec![0.0; y_widths.len()]);
        values_of(info.dtype, &x, &mut a);
        values_of(info.dtype, &y, &mut b);
        let far = |i: usize| {
            (f64::from(a[i]) - f64::from(b[i])).abs() > f64::from(x_widths[i]) + f64::from(y_widths[i])
        };
        let lost = x_widths.iter().chain(&y_widths).any(|w| *w > 0.0);
        if !lost || a.len() != b.len() || (0..a.len()).any(far) {
            return Ok(false);
        }
    }
    Ok(true)
}
