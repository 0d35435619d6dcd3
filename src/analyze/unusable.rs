//! Tensors that no number can be had from: buffers of infinities, such as masks, which an import cannot tell from
//! parameters.

use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::run::Run;
use crate::run::format::chunk::Piece;
use crate::run::read::catalog::Catalog;
use crate::run::read::walk::{through, undamaged, unless_damaged};

/// The tensors, ascending, that never have a gradient, hold an infinity or a NaN, and are the same in all recorded
/// iterates. `x - r` is not a number there, and would be none in every group that has one of them.
///
/// # Errors
/// A shard cannot be read; damage is stepped over.
pub(crate) fn unusable(run: &Run, catalog: &Catalog) -> Result<Vec<usize>> {
    let steps: Vec<u64> = catalog.iterates(0..u64::MAX).collect();
    let Some(first) = steps.first() else {
        return Ok(Vec::new());
    };
    let chunks = run.table.chunks();
    let without_gradient = |p: &Piece| !catalog.absent(p.tensor)[0];
    let all: Vec<usize> =
        (0..chunks.len()).filter(|&c| chunks[c].pieces.iter().any(without_gradient)).collect();
    let found = Mutex::new(vec![false; run.manifest.tensors.len()]);
    let mark = |tensor: usize, value: bool| {
        found.lock().unwrap_or_else(PoisonError::into_inner)[tensor] = value;
    };
    let marked = |p: &Piece| found.lock().unwrap_or_else(PoisonError::into_inner)[p.tensor];
    let result = through(run, &[*first], &all, |_, steps, trajectory, mut source| {
        undamaged(steps, trajectory, &mut source, |_, x, source| {
            for piece in source.chunk.pieces.iter().filter(|p| without_gradient(p)) {
                if x[piece.range()].iter().any(|v| !v.is_finite()) {
                    mark(piece.tensor, true);
                }
            }
            Ok(())
        })
    });
    unless_damaged(result)?;
    let suspects: Vec<usize> = all.into_iter().filter(|&c| chunks[c].pieces.iter().any(marked)).collect();
    let before: Vec<Mutex<Vec<u32>>> = suspects.iter().map(|_| Mutex::default()).collect();
    let result = through(run, &steps, &suspects, |place, steps, trajectory, mut source| {
        let mut before = before[place].lock().unwrap_or_else(PoisonError::into_inner);
        undamaged(steps, trajectory, &mut source, |_, x, source| {
            if before.is_empty() {
                before.extend(x.iter().map(|v| v.to_bits()));
            }
            for piece in &source.chunk.pieces {
                let mut both = x[piece.range()].iter().zip(&before[piece.range()]);
                if both.any(|(x, b)| x.to_bits() != *b) {
                    mark(piece.tensor, false);
                }
            }
            Ok(())
        })
    });
    unless_damaged(result)?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((0..found.len()).filter(|&t| found[t]).collect())
}
