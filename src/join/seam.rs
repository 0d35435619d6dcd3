//! Whether a run goes on from the one before: the iterate with which it begins is, bit for bit, one of that run's.

use crate::error::{Error, Result};
use crate::hash::Xxh3;
use crate::join::parts::{check_shards, end, first_step};
use crate::join::refused;
use crate::pack::refuse;
use crate::run::Run;
use crate::run::format::journal::Journal;
use crate::run::format::manifest::{Continued, ITERATE};
use crate::run::read::vector::Vector;

/// What is known of the iterate in which two runs meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seam {
    /// Both have recorded it.
    Recorded,
    /// The second has recorded it, the first its hash, with a checkpoint.
    Hashed,
    /// One has not; but the second was recorded as what follows the first.
    Declared,
}

/// Checks that `second` goes on from `first`.
///
/// # Errors
/// It does not, or nothing says that it does.
pub(super) fn check(first: &Run, second: &Run) -> Result<Seam> {
    let (from, begins) = (first_step(second), first_step(first));
    let path = first.path.display();
    let no = |what: String| refused(&second.path, what);
    if from <= begins {
        return no(format!(
            "it begins with step {from}, {path} with step {begins}; name runs in the order of their steps, each \
             beginning where it goes on from the one before"
        ));
    }
    check_shards(first, from)?;
    // x_T is a step of its own, behind which nothing follows.
    let last = first.final_step().unwrap_or_else(|| end(first));
    if from > last {
        return no(format!(
            "it begins with step {from}, and {path} ends with x_{last}: what lies between is in neither"
        ));
    }
    let Some(mut here) = iterate(second, from)? else {
        return declared(first, second, from);
    };
    let Some(mut there) = iterate(first, from)? else {
        return hashed(first, second, from, &mut here);
    };
    for (i, info) in first.manifest.tensors.iter().enumerate() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        there.tensor(i, &mut a).map_err(|e| refuse(&first.path, e))?;
        here.tensor(i, &mut b).map_err(|e| refuse(&second.path, e))?;
        if a != b {
            return no(format!(
                "{} of its x_{from} is not that of {path}: these are two paths, which cannot be one run",
                info.name
            ));
        }
    }
    Ok(Seam::Recorded)
}

/// The iterate of a step; `None` where it was not recorded.
fn iterate(run: &Run, step: u64) -> Result<Option<Vector<'_>>> {
    match Vector::open(run, step, ITERATE) {
        Ok(vector) => Ok(Some(vector)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(refuse(&run.path, e)),
    }
}

/// Compares x_step with the hashes that the ranks of the first run have noted of their elements, if all have.
fn hashed(first: &Run, second: &Run, step: u64, here: &mut Vector<'_>) -> Result<Seam> {
    let mut noted = Vec::new();
    for rank in first.ranks() {
        let checkpoints = Journal::read_if_there(&first.path, rank)?.checkpoints();
        let Some((_, hash)) = checkpoints.into_iter().find(|(at, _)| *at == step) else {
            return declared(first, second, step);
        };
        noted.push(hash);
    }
    let mut hashes: Vec<Xxh3> = first.ranks().map(|_| Xxh3::default()).collect();
    let (mut pieces, mut bytes) = (first.table.pieces().peekable(), Vec::new());
    for (i, info) in first.manifest.tensors.iter().enumerate() {
        bytes.clear();
        here.tensor(i, &mut bytes).map_err(|e| refuse(&second.path, e))?;
        let mut rest = bytes.as_slice();
        while let Some(piece) = pieces.next_if(|p| p.tensor == i) {
            let (own, after) = rest.split_at_checked(piece.len * info.dtype.size()).unwrap_or((rest, &[]));
            let rank = first.table.chunks()[first.table.chunk_of(piece)].rank;
            hashes[rank as usize].update(own);
            rest = after;
        }
    }
    if hashes.iter().map(|h| format!("{:016x}", h.digest())).eq(noted) {
        return Ok(Seam::Hashed);
    }
    let path = first.path.display();
    let what = format!(
        "its x_{step} is not that of the checkpoint in {path}: these are two paths, which cannot be one run"
    );
    refused(&second.path, what)
}

/// Where an iterate is not there to be compared.
fn declared(first: &Run, second: &Run, step: u64) -> Result<Seam> {
    let of_first = Continued { run_id: first.manifest.run_id.clone(), step };
    if second.manifest.continues == Some(of_first) {
        return Ok(Seam::Declared);
    }
    let path = first.path.display();
    let what = format!(
        "nothing says that it goes on from {path}: x_{step} is not recorded in both, and its manifest does not name \
         that run"
    );
    refused(&second.path, what)
}
