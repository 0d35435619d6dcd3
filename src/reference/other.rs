//! References of other runs, and how much of the path such a run shares.

use std::path::Path;

use crate::dtype::{DType, values as values_of};
use crate::error::{Error, Result};
use crate::reference::file;
use crate::reference::in_full::check;
use crate::reference::locate::Located;
use crate::reference::own;
use crate::reference::own::{resolve, widths_path};
use crate::reference::spec::OwnReference;
use crate::reference::values::{Files, Names, Values};
use crate::reference::weights::Weights;
use crate::reference::{Cache, Common, Named, Origin, Reference, Rename};
use crate::run::Run;
use crate::run::format::manifest::{GRAD, ITERATE, Manifest, TensorInfo};
use crate::run::read::catalog::Catalog;
use crate::run::read::vector::Vector;

/// Opens a reference of another run.
pub(super) fn open(
    run: &Run,
    catalog: &Catalog,
    (path, own): (&Path, &OwnReference),
    renames: &[Rename],
    cache: &Cache,
) -> Result<Reference> {
    let other = Run::open(path, run.access())?;
    // What is damaged there matters only where it is needed.
    let other_catalog = Catalog::read(&other, true)?;
    let resolved = resolve(&other, &other_catalog, own)?;
    if other.manifest.run_id != run.manifest.run_id
        && let Some(what) = unlike_sketches(&run.manifest, &other.manifest)
    {
        // What that run has in full any run can be compared with.
        let step = resolved.step();
        let Some((step, file)) = step.and_then(|s| Some((s, other.in_full(s).transpose()?))) else {
            return Err(Error::Reference { path: path.to_owned(), what });
        };
        let file = file?;
        check(&other, step, &file)?;
        let place = Named::new(path, Some(own.to_string()));
        let opened = file::open(run, catalog, &file, renames, cache)?;
        return Ok(Reference {
            name: place.to_string(),
            place: Some(place),
            run_id: Some(other.manifest.run_id),
            provisional: resolved.is_provisional(),
            ..opened
        });
    }
    let mut made = own::open(&other, &other_catalog, vec![resolved], cache)?;
    let Some((opened, file)) = made.pop() else {
        return Err(Error::NotFound { path: path.to_owned(), what: format!("there is no {own}") });
    };
    if other.manifest.run_id == run.manifest.run_id {
        return Ok(opened);
    }
    let as_here = |file: &Path| -> Result<Values> {
        Ok(Files::open(&Located::file(file), run.access().mmap)?.into_values(run, Names::Changed(renames))?.0)
    };
    let values = as_here(&file)?;
    let widths = opened.widths.is_some().then(|| as_here(&widths_path(&file))).transpose()?;
    let place = Named::new(path, Some(opened.name));
    let name = place.to_string();
    if !(0..run.manifest.tensors.len()).any(|t| values.has(t)) {
        let what = "that run has none of this run's tensors; it is of another model".to_owned();
        return Err(Error::Reference { path: path.to_owned(), what });
    }
    let (same_start, common) = common((run, catalog), (&other, &other_catalog))?;
    let note = match common {
        Common::Nothing => None,
        Common::Steps(last) => Some(format!(
            "{name}: that run holds the updates of this one up to step {last}, so it is no control and steps before are \
             not judged"
        )),
        Common::Batches => Some(format!(
            "{name}: that run begins with the same gradient, so it was trained on the same minibatches (or on all examples \
             at once), whose noise is in both paths: it is no control and no step is judged. A control has the same x_0 \
             and another order of the data"
        )),
    };
    Ok(Reference {
        name,
        place: Some(place),
        run_id: Some(other.manifest.run_id.clone()),
        step: None,
        xxh3: values.xxh3(run)?,
        weights: Weights::None,
        origin: Origin::Run { same_start },
        common,
        kin: None,
        provisional: opened.provisional,
        notes: note.into_iter().chain(opened.notes).collect(),
        rounded: None,
        roundings: Vec::new(),
        others: Vec::new(),
        values,
        widths,
        averaged: opened.averaged,
    })
}

/// What of a run of sketches is compared with vectors, and with other sketches.
const IN_FULL: &str =
    "or name an iterate that it has in full: final, or step:N where N is a multiple of its keyframes=";

/// Why the vectors of two runs cannot be compared, where one is of sketches; `None` where they can.
fn unlike_sketches(here: &Manifest, there: &Manifest) -> Option<String> {
    let of = |m: &Manifest| -> Vec<(String, Vec<u64>)> {
        m.tensors.iter().map(|t| (t.name.clone(), t.parameter().0.to_vec())).collect()
    };
    match (here.sketch, there.sketch) {
        (None, None) => None,
        (Some(own), None) => Some(format!(
            "that run holds vectors, and this one sketches. Make sketches of it: lpa sketch --dims {}; or name its \
             final iterate as a file",
            own.dimensions
        )),
        (None, Some(other)) => Some(format!(
            "that run holds sketches, and this one vectors. Make sketches of this one: lpa sketch --dims {}; {IN_FULL}",
            other.dimensions
        )),
        (Some(own), Some(other)) if own.to_string() != other.to_string() => Some(format!(
            "that run holds sketches of {other}; this one, of {own}. Make them alike; {IN_FULL}"
        )),
        _ if of(here) != of(there) => Some(
            "sketches are of tensors in their order, and that run has others, or another order".to_owned(),
        ),
        (Some(_), Some(_)) => {
            let pair = here.tensors.iter().zip(&there.tensors).find(|(a, b)| a.shape != b.shape);
            pair.map(|(own, other)| {
                format!(
                    "that run has sketches of '{}' in {} dimensions, and this one in {}. Make them alike; {IN_FULL}",
                    own.name,
                    other.elements(),
                    own.elements()
                )
            })
        }
    }
}

/// Whether two runs start at the same iterate, and up to which step of the first the second holds its
/// updates: both are the same so far, or the second goes on where the first ended. `None` where one
/// has not recorded x_0.
///
/// Only updates that move the iterate count: a warm-up from learning rate 0, a step that was taken before the
/// training began, or bfloat16 weights to which an update is too small, are no part of either path.
fn common(a: (&Run, &Catalog), b: (&Run, &Catalog)) -> Result<(Option<bool>, Common)> {
    let end = a.1.iterates(0..u64::MAX).next_back();
    if !b.1.has_iterate(0) {
        return Ok((None, Common::Nothing));
    }
    let start = if a.1.has_iterate(0) { same((a.0, 0), (b.0, 0))? } else { None };
    if start != Some(true) {
        if let Some(end) = end
            && same((a.0, end), (b.0, 0))? == Some(true)
        {
            return Ok((start, Common::Steps(end)));
        }
        return Ok((start, Common::Nothing));
    }
    let (here, there) = (still(a)?, still(b)?);
    // Each path from where it begins to move.
    let in_both = |&step: &u64| step >= here && b.1.has_iterate(step - here + there);
    let both: Vec<u64> = a.1.iterates(0..u64::MAX).filter(in_both).collect();
    // What is damaged counts as common, which judges less.
    let apart = |step: u64| Ok(same((a.0, step), (b.0, step - here + there))? == Some(false));
    let last = both.get(last_before(&both, apart)?).copied().unwrap_or(here);
    let common = if last > here {
        Common::Steps(last)
    } else if same_gradient((a.0, here), (b.0, there))? {
        Common::Batches
    } else {
        Common::Nothing
    };
    Ok((Some(true), common))
}

/// Whether two runs have the same gradient at the given steps, to what storing, or another order of the same additions,
/// can change. False where it is not there in one, or is 0.
fn same_gradient((a, s): (&Run, u64), (b, t): (&Run, u64)) -> Result<bool> {
    /// Of the squared lengths: more than int8 loses, and far less than what two minibatches differ by.
    const FAR: f64 = 1e-3;
    let differ = || -> Result<(f64, f64)> {
        let (mut left, mut right) = (Vector::open(a, s, GRAD)?, Vector::open(b, t, GRAD)?);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let (mut difference, mut length) = (0.0, 0.0);
        for (i, info) in a.manifest.tensors.iter().enumerate() {
            let fits = |t: &TensorInfo| t.name == info.name && t.shape == info.shape;
            let Some(j) = b.manifest.tensors.iter().position(fits) else { continue };
            if left.is_absent(i)? || right.is_absent(j)? {
                continue;
            }
            left.tensor(i, &mut x)?;
            right.tensor(j, &mut y)?;
            let (p, q) = (widened(a, i, &x), widened(b, j, &y));
            for (p, q) in p.iter().zip(&q) {
                let (p, q) = (f64::from(*p), f64::from(*q));
                difference += (p - q) * (p - q);
                length += p * p;
            }
        }
        Ok((difference, length))
    };
    match differ() {
        Ok((difference, length)) => Ok(length > 0.0 && difference <= FAR * length),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(e) if e.is_damage() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Elements of a tensor's gradient.
fn widened(run: &Run, tensor: usize, bytes: &[u8]) -> Vec<f32> {
    let dtype = run.manifest.stream_id(GRAD).map_or(DType::F32, |grad| run.manifest.dtype_of(grad, tensor));
    let mut out = vec![0.0; bytes.len() / dtype.size()];
    values_of(dtype, bytes, &mut out);
    out
}

/// The last step up to which a run stands still at x_0.
fn still((run, catalog): (&Run, &Catalog)) -> Result<u64> {
    let steps: Vec<u64> = catalog.iterates(0..u64::MAX).collect();
    let moved = |step: u64| Ok(!identical((run, 0), (run, step))?);
    // Nearly every run moves at once.
    match steps.get(1) {
        Some(&second) if moved(second)? => Ok(0),
        _ => Ok(steps.get(last_before(&steps, moved)?).copied().unwrap_or(0)),
    }
}

/// The place of the last of `steps` before `changed` is true, which it is not of the first. What has parted stays
/// apart, so it is found by halving.
fn last_before(steps: &[u64], mut changed: impl FnMut(u64) -> Result<bool>) -> Result<usize> {
    let (mut before, mut after) = (0, steps.len().max(1));
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        if changed(steps[middle])? { after = middle } else { before = middle }
    }
    Ok(before)
}

/// Whether two iterates are the same, bit for bit, as they are stored. Damage counts as the same.
fn identical(a: (&Run, u64), b: (&Run, u64)) -> Result<bool> {
    match compare(a, b, Lost::IsADifference) {
        Ok(same) => Ok(same),
        Err(e) if e.is_damage() => Ok(true),
        Err(e) => Err(e),
    }
}

/// What differences mean that are no larger than what was lost in storing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// The iterates may have been the same.
    MayBeTheSame,
    /// They are stored as different ones.
    IsADifference,
}

/// Whether two runs have the same iterate at the given steps, bit for bit, or as far as what they have
/// lost can tell; `None` where one is damaged.
fn same(a: (&Run, u64), b: (&Run, u64)) -> Result<Option<bool>> {
    match compare(a, b, Lost::MayBeTheSame) {
        Ok(same) => Ok(Some(same)),
        Err(e) if e.is_damage() => Ok(None),
        Err(e) => Err(e),
    }
}

fn compare((a, s): (&Run, u64), (b, t): (&Run, u64), lost: Lost) -> Result<bool> {
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
        if lost == Lost::IsADifference {
            return Ok(false);
        }
        left.widths(i, &mut x_widths)?;
        right.widths(j, &mut y_widths)?;
        let (mut a, mut b) = (vec![0.0; x_widths.len()], vec![0.0; y_widths.len()]);
        values_of(info.dtype, &x, &mut a);
        values_of(info.dtype, &y, &mut b);
        let far = |i: usize| {
            (f64::from(a[i]) - f64::from(b[i])).abs() > f64::from(x_widths[i]) + f64::from(y_widths[i])
        };
        let exact = x_widths.iter().chain(&y_widths).all(|w| *w <= 0.0);
        if exact || a.len() != b.len() || (0..a.len()).any(far) {
            return Ok(false);
        }
    }
    Ok(true)
}
