//! Means of recorded iterates, and single ones, turned into reference files.
//!
//! All that are wanted are made in one pass over the shards. Sums are kept in f64, in a scratch
//! file, so memory does not depend on the size of the model.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::weights::Weights;
use crate::codec::Decoder;
use crate::error::{Error, Result, Tried};
use crate::hash::Xxh3;
use crate::isa::Isa;
use crate::run::chunk::Chunk;
use crate::run::plan::plan_windows;
use crate::run::window::Window;
use crate::run::{Draft, Run, reference_header};

/// Metadata key under which a file says what it was made of.
pub(super) const KEY: &str = "key";

/// A file to make.
pub(super) struct Target<'a> {
    pub(super) weights: &'a Weights,
    /// What the file says that it was made of.
    pub(super) key: String,
    pub(super) path: &'a Path,
}

/// Makes every target from the iterates of `run`. Files appear whole and replace older ones.
///
/// # Errors
/// An iterate is damaged, or the disk refuses.
pub(super) fn materialize(run: &Run, targets: &[Target<'_>], directory: &Path) -> Result<()> {
    let mut steps: Vec<u64> = targets.iter().flat_map(|t| t.weights.steps()).copied().collect();
    steps.sort_unstable();
    steps.dedup();
    let sums = Sums::create(run, targets, directory)?;
    // One decoder a thread, in turn.
    let decoders: Mutex<Vec<Decoder>> = Mutex::new(Vec::new());
    for range in plan_windows(run, &steps, usize::MAX) {
        let steps = &steps[range];
        let mut window = Window::open(run, steps, true)?;
        if let Some((_, e)) = window.damaged.pop() {
            return Err(e);
        }
        run.table.chunks().par_iter().enumerate().try_for_each(|(i, chunk)| {
            let held = decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut decoder = match held {
                Some(decoder) => decoder,
                None => Decoder::new(Isa::detect()).tried("start the decoder for", &run.path)?,
            };
            let result = add(run, &window, targets, steps, &sums, (i, chunk), &mut decoder);
            decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
            result
        })?;
    }
    targets.iter().enumerate().try_for_each(|(t, target)| write(run, target, &sums, t))
}

/// Adds the iterates of a window to the sums of one chunk, in the order of steps.
fn add(
    run: &Run,
    window: &Window,
    targets: &[Target<'_>],
    steps: &[u64],
    sums: &Sums<'_>,
    (index, chunk): (usize, &Chunk),
    decoder: &mut Decoder,
) -> Result<()> {
    let mut held: Vec<Vec<f64>> = Vec::new();
    for t in 0..targets.len() {
        held.push(sums.read(t, index)?);
    }
    let (mut x, mut buffer) = (vec![0.0f32; chunk.len], Vec::new());
    let dtype = run.manifest.tensors[chunk.tensor].dtype;
    for &step in steps {
        let missing =
            || Error::MissingShard { path: run.path.clone(), first: step, last: step, rank: chunk.rank };
        let payload = window.payload(run, step, 0, chunk, &mut buffer)?.ok_or_else(missing)?;
        decoder
            .decode(dtype, payload.coding, payload.bytes, &mut x)
            .map_err(|e| window.undecodable(run, step, 0, chunk, payload.offset, &e.to_string()))?;
        for (target, sum) in targets.iter().zip(&mut held) {
            if target.weights.steps().binary_search(&step).is_err() {
                continue;
            }
            match target.weights {
                Weights::Ema { beta, .. } => {
                    for (s, &x) in sum.iter_mut().zip(&x) {
                        *s = *beta * *s + (1.0 - *beta) * f64::from(x);
                    }
                }
                _ => {
                    for (s, &x) in sum.iter_mut().zip(&x) {
                        *s += f64::from(x);
                    }
                }
            }
        }
    }
    for (t, sum) in held.iter().enumerate() {
        sums.write(t, index, sum)?;
    }
    Ok(())
}

/// Divides, rounds once to f32 and writes the file.
fn write(run: &Run, target: &Target<'_>, sums: &Sums<'_>, t: usize) -> Result<()> {
    let divisor = match target.weights {
        Weights::Ema { steps, beta } => 1.0 - steps.iter().fold(1.0, |power, _| power * beta),
        other => other.steps().len() as f64,
    };
    let path = target.path;
    let draft = Draft::create(path)?;
    let mut more = vec![(KEY, target.key.clone())];
    if let Some(step) = target.weights.single() {
        more.push(("step", step.to_string()));
    }
    let mut file = draft.file();
    // The hash in the header has a fixed length, so the header's size is known before its value.
    file.write_all(&reference_header(run, &more, 0)).tried("write", path)?;
    let (mut hash, mut bytes) = (Xxh3::default(), Vec::new());
    for index in 0..run.table.chunks().len() {
        bytes.clear();
        for sum in sums.read(t, index)? {
            // The one rounding.
            #[allow(clippy::cast_possible_truncation)]
            let value = (sum / divisor) as f32;
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        hash.update(&bytes);
        file.write_all(&bytes).tried("write", path)?;
    }
    file.write_all_at(&reference_header(run, &more, hash.digest()), 0).tried("write", path)?;
    draft.commit()?;
    Ok(())
}

/// The running sums of all targets: f64, target by target, in a file without a name.
struct Sums<'a> {
    run: &'a Run,
    file: File,
    directory: &'a Path,
    parameters: u64,
    /// Place of each chunk's first element.
    places: Vec<u64>,
}

impl<'a> Sums<'a> {
    fn create(run: &'a Run, targets: &[Target<'_>], directory: &'a Path) -> Result<Sums<'a>> {
        let file = tempfile::tempfile_in(directory).tried("write", directory)?;
        let mut places = Vec::new();
        let mut at = 0;
        for chunk in run.table.chunks() {
            places.push(at);
            at += chunk.len as u64;
        }
        // Zeros, which take no room until they are written.
        file.set_len(at * 8 * targets.len() as u64).tried("write", directory)?;
        Ok(Sums { run, file, directory, parameters: at, places })
    }

    fn offset(&self, target: usize, chunk: usize) -> u64 {
        (target as u64 * self.parameters + self.places[chunk]) * 8
    }

    fn read(&self, target: usize, chunk: usize) -> Result<Vec<f64>> {
        let mut bytes = vec![0; self.run.table.chunks()[chunk].len * 8];
        self.file.read_exact_at(&mut bytes, self.offset(target, chunk)).tried("read", self.directory)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }

    fn write(&self, target: usize, chunk: usize, sums: &[f64]) -> Result<()> {
        let bytes: Vec<u8> = sums.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.file.write_all_at(&bytes, self.offset(target, chunk)).tried("write", self.directory)
    }
}
