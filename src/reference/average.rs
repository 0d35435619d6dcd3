//! Means of recorded iterates, and single ones, turned into reference files.
//!
//! All averages that are wanted are made in one pass over the shards. Their sums are kept in f64, in
//! a scratch file, 8 bytes a parameter each; memory holds those of one chunk a thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use crate::error::{Result, Tried};
use crate::float_environment::Exact;
use crate::reference::weights::Weights;
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::ChunkReader;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::walk::through;
use crate::run::write::reference_file::{LOSSY, ReferenceFile, Wanted};
use crate::run::{Draft, Run};

/// A file to make.
pub(super) struct Target<'a> {
    pub(super) weights: &'a Weights,
    /// What is averaged. The errors of iterates are independent, and none is larger than its width, so the
    /// average of the widths bounds that of the errors.
    pub(super) of: Wanted,
    pub(super) path: &'a Path,
}

/// Makes every target from the iterates of `run`. Files appear whole.
///
/// # Errors
/// An iterate is damaged, or the disk refuses.
pub(super) fn materialize(run: &Run, targets: &[Target<'_>], directory: &Path) -> Result<()> {
    let _exact = Exact::new();
    let (single, averages): (Vec<&Target<'_>>, Vec<&Target<'_>>) =
        targets.iter().partition(|t| t.weights.single().is_some());
    single.par_iter().try_for_each(|target| {
        let step = target.weights.single().unwrap_or(0);
        write(run, target, vec![("step", step.to_string())], |out| out.push_iterate(step))
    })?;
    if averages.is_empty() {
        return Ok(());
    }
    let sums = Sums::create(run, averages.len(), directory)?;
    add_all(run, &averages, &sums)?;
    averages.iter().enumerate().try_for_each(|(t, target)| {
        let divisor = match target.weights {
            Weights::Ema { steps, beta } => 1.0 - steps.iter().fold(1.0, |power, _| power * beta),
            other => other.steps().len() as f64,
        };
        write(run, target, Vec::new(), |out| {
            run.table.pieces().try_for_each(|piece| {
                // The one rounding.
                #[allow(clippy::cast_possible_truncation)]
                let round = |sum: f64| (sum / divisor) as f32;
                out.push(sums.piece(t, piece)?.into_iter().map(round))
            })
        })
    })
}

/// What a file that is kept says of itself, so that it cannot be taken for another.
pub(super) fn own_name(path: &Path) -> Option<(&'static str, String)> {
    path.file_name().map(|name| ("name", name.to_string_lossy().into_owned()))
}

fn write(
    run: &Run,
    target: &Target<'_>,
    mut more: Vec<(&str, String)>,
    values: impl FnOnce(&mut ReferenceFile<'_>) -> Result<()>,
) -> Result<()> {
    let draft = Draft::create(target.path)?;
    more.extend(own_name(target.path));
    if run.manifest.loses(StreamId::Iterate) {
        more.push((LOSSY, "true".to_owned()));
    }
    let mut out = ReferenceFile::create(run, draft.file(), target.path, target.of, more)?;
    values(&mut out)?;
    out.finish()?;
    draft.commit()?;
    Ok(())
}

/// Goes through all iterates once.
fn add_all(run: &Run, targets: &[&Target<'_>], sums: &Sums<'_>) -> Result<()> {
    let mut steps: Vec<u64> = targets.iter().flat_map(|t| t.weights.steps()).copied().collect();
    steps.sort_unstable();
    steps.dedup();
    let chunks: Vec<usize> = (0..run.table.len()).collect();
    through(run, &steps, &chunks, |_, steps, trajectory, source| {
        add(targets, steps, sums, trajectory, source)
    })
}

/// Adds the iterates of a window to the sums of one chunk, in the order of steps.
fn add(
    targets: &[&Target<'_>],
    steps: &[u64],
    sums: &Sums<'_>,
    trajectory: &mut Trajectory,
    mut source: ChunkReader<'_>,
) -> Result<()> {
    let mut held: Vec<(usize, &Target<'_>, Vec<f64>)> = Vec::new();
    for (t, target) in targets.iter().enumerate() {
        if steps.iter().any(|s| target.weights.has(*s)) {
            held.push((t, *target, sums.read(t, source.chunk)?));
        }
    }
    let mut widths = Vec::new();
    for &step in steps {
        let values = trajectory.recorded(step, &mut source)?;
        for (_, target, sum) in held.iter_mut().filter(|(_, t, _)| t.weights.has(step)) {
            let x = target.of.take(step, values, &mut source, &mut widths)?;
            match target.weights {
                Weights::Ema { beta, .. } => {
                    for (s, &x) in sum.iter_mut().zip(x) {
                        *s = *beta * *s + (1.0 - *beta) * f64::from(x);
                    }
                }
                _ => {
                    for (s, &x) in sum.iter_mut().zip(x) {
                        *s += f64::from(x);
                    }
                }
            }
        }
    }
    held.iter().try_for_each(|(t, _, sum)| sums.write(*t, source.chunk, sum))
}

/// The running sums of all targets: f64, target by target, in a file without a name.
struct Sums<'a> {
    file: File,
    directory: &'a Path,
    parameters: u64,
    /// By piece: the place of its first element.
    places: Vec<u64>,
}

impl<'a> Sums<'a> {
    fn create(run: &Run, targets: usize, directory: &'a Path) -> Result<Sums<'a>> {
        let file = tempfile::tempfile_in(directory).tried("write", directory)?;
        let mut places = Vec::new();
        let mut at = 0;
        for piece in run.table.pieces() {
            places.push(at);
            at += piece.len as u64;
        }
        // Zeros, which take no room until they are written.
        file.set_len(at * 8 * targets as u64).tried("write", directory)?;
        Ok(Sums { file, directory, parameters: at, places })
    }

    fn offset(&self, target: usize, piece: &Piece) -> u64 {
        (target as u64 * self.parameters + self.places[piece.number]) * 8
    }

    fn piece(&self, target: usize, piece: &Piece) -> Result<Vec<f64>> {
        let mut bytes = vec![0; piece.len * 8];
        self.file.read_exact_at(&mut bytes, self.offset(target, piece)).tried("read", self.directory)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }

    fn read(&self, target: usize, chunk: &Chunk) -> Result<Vec<f64>> {
        let mut all = Vec::with_capacity(chunk.len);
        for piece in &chunk.pieces {
            all.extend(self.piece(target, piece)?);
        }
        Ok(all)
    }

    fn write(&self, target: usize, chunk: &Chunk, sums: &[f64]) -> Result<()> {
        chunk.pieces.iter().try_for_each(|piece| {
            let bytes: Vec<u8> = sums[piece.range()].iter().flat_map(|v| v.to_le_bytes()).collect();
            self.file.write_all_at(&bytes, self.offset(target, piece)).tried("write", self.directory)
        })
    }
}
