//! References of other runs, and how much of the path such a run shares.

use std::path::Path;

use super::own::{self, resolve};
use super::spec::Own;
use super::values::{Files, Names};
use super::weights::Weights;
use super::{Cache, Origin, Reference, last_part};
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
    let (values, _) = Files::open(&[file], access.mmap, Names::Unwrapped)?.into_values(run)?;
    let name = format!("{}:{}", last_part(path), opened.name);
    let (same_start, shared) = shared((run, catalog), (&other, &other_catalog))?;
    let note = (shared > 0).then(|| {
        format!("{name}: both runs are the same up to step {shared}, so it is no control and steps before are not judged")
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
    })
}

/// Whether two runs start at the same iterate, and the last step up to which they are the same. `None`
/// where one has not recorded x_0.
fn shared(a: (&Run, &Catalog), b: (&Run, &Catalog)) -> Result<(Option<bool>, u64)> {
    if !a.1.has_iterate(0) || !b.1.has_iterate(0) {
        return Ok((None, 0));
    }
    if !same(a.0, b.0, 0)? {
        return Ok((Some(false), 0));
    }
    // Paths that have parted stay apart, so the last common step is found by halving.
    let common: Vec<u64> = a.1.iterates(0..u64::MAX).filter(|&s| b.1.has_iterate(s)).collect();
    let (mut equal, mut apart) = (0, common.len());
    while apart - equal > 1 {
        let middle = equal + (apart - equal) / 2;
        if same(a.0, b.0, common[middle])? { equal = middle } else { apart = middle }
    }
    Ok((Some(true), common[equal]))
}

/// Whether two runs have the same iterate at a step, bit for bit.
fn same(a: &Run, b: &Run, step: u64) -> Result<bool> {
    let (mut left, mut right) = (Vector::open(a, step, ITERATE)?, Vector::open(b, step, ITERATE)?);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for (i, info) in a.manifest.tensors.iter().enumerate() {
        let fits = |t: &TensorInfo| t.name == info.name && t.dtype == info.dtype;
        let Some(j) = b.manifest.tensors.iter().position(fits) else {
            return Ok(false);
        };
        x.clear();
        y.clear();
        left.tensor(i, &mut x)?;
        right.tensor(j, &mut y)?;
        if x != y {
            return Ok(false);
        }
    }
    Ok(true)
}
