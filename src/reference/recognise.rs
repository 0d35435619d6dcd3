//! Whether a file is an iterate of a run, or lies next to its path.
//!
//! It is compared with all recorded iterates: with all values where it may be one of them, else with a sample.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::dtype::{DType, round};
use crate::error::Result;
use crate::reference::kin::{Distances, Kin, PATH};
use crate::reference::mixture::is_nearer;
use crate::reference::values::{Survey, Values};
use crate::run::Run;
use crate::run::format::chunk::Piece;
use crate::run::format::vector_id::StreamId;
use crate::run::read::catalog::Catalog;
use crate::run::read::walk::{through, undamaged, unless_damaged};

/// Chunks of the sample, and values of each.
const PIECES: usize = 16;
const VALUES: usize = 4096;
/// Steps of which memory holds what each piece sees.
const AT_ONCE: usize = 8192;
/// A mixture of iterates that is nearer than the nearest of them, by this factor of squared distances, is what the
/// file was made as.
const MIXED: f64 = 0.1;
/// In fewer dimensions anything may be a mixture by chance.
const FEWEST: usize = 64;
/// Iterates that are mixed: at offsets from the nearest that grow by this factor, and so many more, evenly.
const GROWTH: f64 = 1.5;
const EVENLY: usize = 16;

// A file is asked, not believed. What the verdict says depends on whether a reference holds the gradients
// that it is met with. Metadata and names do not tell, and distances alone cannot; but an average of
// iterates is a mixture of them, and what comes from elsewhere has noise that no mixture of them has.
/// What a file turns out to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Recognised {
    /// An iterate.
    Iterate(Iterate),
    /// Something next to the path.
    Near(Kin),
    /// Neither.
    Other,
}

/// An iterate that a file is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Iterate {
    pub(super) step: u64,
    /// The type to which it was rounded, where that is coarser than the run's.
    pub(super) rounded: Option<DType>,
    /// The first and last step of the iterates that are the same in that type.
    pub(super) same: RangeInclusive<u64>,
}

/// A part of a tensor that stands for it.
struct Part {
    /// The number of the chunk in which it lies, and where.
    chunk: usize,
    range: Range<usize>,
    /// Every how many values.
    stride: usize,
    dtype: DType,
    /// The file's values.
    values: Vec<f32>,
    seen: Vec<Seen>,
    /// The iterate that was seen last.
    before: Vec<f32>,
}

/// An iterate as a piece sees it.
#[derive(Clone, Copy)]
struct Seen {
    step: u64,
    d2: f64,
    /// From the iterate before.
    moved2: f64,
    /// What was lost of it.
    lost2: f64,
    /// It is the file, rounded to its type.
    equal: bool,
}

impl Part {
    fn see(&mut self, step: u64, x: &[f32], widths: &[f32]) {
        let square = |v: f64| v * v;
        let (mut seen, mut now) = (
            Seen { step, d2: 0.0, moved2: 0.0, lost2: 0.0, equal: true },
            Vec::with_capacity(self.values.len()),
        );
        for (i, (x, r)) in x.iter().step_by(self.stride).zip(&self.values).enumerate() {
            seen.d2 += square(f64::from(*x) - f64::from(*r));
            seen.equal &= round(self.dtype, *x).to_bits() == r.to_bits();
            if let Some(before) = self.before.get(i) {
                seen.moved2 += square(f64::from(*x) - f64::from(*before));
            }
            now.push(*x);
        }
        seen.lost2 = widths.iter().step_by(self.stride).map(|w| square(f64::from(*w))).sum();
        self.before = now;
        self.seen.push(seen);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a file is, by its values. Of several iterates that it may be, the first of `preferred` counts, else the
/// nearest.
///
/// # Errors
/// A shard cannot be read; damage is stepped over.
pub(super) fn recognise(
    run: &Run,
    catalog: &Catalog,
    values: &Values,
    survey: &Survey,
    preferred: &[u64],
) -> Result<Recognised> {
    let steps: Vec<u64> = catalog.iterates(0..u64::MAX).collect();
    let search = Search { run, values, survey, steps };
    Ok(unless_damaged(search.recognise(preferred))?.unwrap_or(Recognised::Other))
}

/// Of each iterate that all pieces could see, what they see together.
fn together(pieces: &[Vec<Seen>]) -> Vec<Seen> {
    let Some((first, others)) = pieces.split_first() else { return Vec::new() };
    let mut all = first.clone();
    for piece in others {
        all.retain_mut(|s| match piece.binary_search_by_key(&s.step, |p| p.step) {
            Ok(i) => {
                let p = piece[i];
                s.d2 += p.d2;
                s.moved2 += p.moved2;
                s.lost2 += p.lost2;
                s.equal &= p.equal;
                true
            }
            Err(_) => false,
        });
    }
    all
}

/// What is seen along a path.
#[derive(Default)]
struct Looked {
    distances: Distances,
    nearest: Option<Seen>,
    /// Iterates that are the file as far as can be seen.
    equal: Vec<Seen>,
    begun: bool,
}

impl Looked {
    fn add(&mut self, seen: Seen) {
        self.distances.add(seen.step, seen.d2, self.begun.then_some(seen.moved2));
        self.begun = true;
        if seen.equal {
            self.equal.push(seen);
        }
        if seen.d2.is_finite() && self.nearest.is_none_or(|n| seen.d2 < n.d2) {
            self.nearest = Some(seen);
        }
    }
}

/// A step, and what a part has of its iterate.
type Point = (u64, Vec<f32>);

/// The chunks in which the elements of a list lie, ascending, and by chunk the places of these in the list.
fn by_chunk(chunks: impl Iterator<Item = usize>) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    chunks.enumerate().for_each(|(place, chunk)| places.entry(chunk).or_default().push(place));
    places.into_iter().unzip()
}

struct Search<'a> {
    run: &'a Run,
    values: &'a Values,
    survey: &'a Survey,
    /// Of the recorded iterates.
    steps: Vec<u64>,
}

impl Search<'_> {
    fn recognise(&self, preferred: &[u64]) -> Result<Recognised> {
        let pieces = self.pieces()?;
        let looked = self.look(&pieces)?;
        let equal = self.confirmed(looked.equal.iter().map(|s| s.step).collect())?;
        if let (Some(&first), Some(&last)) = (equal.first(), equal.last()) {
            let confirmed = looked.equal.iter().filter(|s| equal.binary_search(&s.step).is_ok());
            let nearest = confirmed.min_by(|a, b| a.d2.total_cmp(&b.d2)).map_or(first, |s| s.step);
            let step = preferred.iter().copied().find(|s| equal.contains(s)).unwrap_or(nearest);
            return Ok(Recognised::Iterate(Iterate { step, rounded: self.rounded(), same: first..=last }));
        }
        let Some(nearest) = looked.nearest else {
            return Ok(Recognised::Other);
        };
        let rounding2 = pieces.iter().map(|p| self.rounding2(&lock(p))).sum::<f64>() + nearest.lost2;
        let dtype = self.rounded().unwrap_or(DType::F32);
        if let Some(kin) = looked.distances.kin(dtype, rounding2) {
            return Ok(Recognised::Near(kin));
        }
        let limit = MIXED * nearest.d2 + rounding2 / 4.0;
        Ok(match self.is_mixed(&pieces, nearest.step, limit)? {
            true => Recognised::Near(Kin::Mixture { nearest: nearest.step }),
            false => Recognised::Other,
        })
    }

    /// The coarsest type to which values were rounded that are finer in the run.
    fn rounded(&self) -> Option<DType> {
        self.survey.coarser(self.run).reduce(DType::coarser)
    }

    /// The square of what rounding can have moved the values of a piece by, where the file's type is coarser than
    /// the run's. Else an iterate would be in the file as it is.
    fn rounding2(&self, part: &Part) -> f64 {
        let here = self.run.manifest.tensors[self.run.table.chunks()[part.chunk].tensor].unit_roundoff();
        let u = part.dtype.unit_roundoff();
        let squares = || part.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        if u > here { u * u * squares() } else { 0.0 }
    }

    /// The sample: parts of tensors that the file has and that move along the path, where there are any.
    fn pieces(&self) -> Result<Vec<Mutex<Part>>> {
        let table = &self.run.table;
        let mut middle = Vec::new();
        for tensor in (0..self.run.manifest.tensors.len()).filter(|&t| self.values.has(t)) {
            let count = table.of_tensor(tensor).count();
            middle.extend(table.of_tensor(tensor).nth(count / 2));
        }
        let ends: Vec<u64> = [self.steps.first(), self.steps.last()].into_iter().flatten().copied().collect();
        let moves: Vec<AtomicBool> = middle.iter().map(|_| AtomicBool::new(false)).collect();
        let (numbers, members) = by_chunk(middle.iter().map(|(chunk, _)| *chunk));
        let first: Vec<Mutex<Option<Vec<f32>>>> = numbers.iter().map(|_| Mutex::default()).collect();
        if let [from, to] = ends[..]
            && from < to
        {
            through(self.run, &ends, &numbers, |place, steps, trajectory, mut source| {
                undamaged(steps, trajectory, &mut source, |_, x, source| {
                    let mut first = lock(&first[place]);
                    let Some(first) = first.as_ref() else {
                        *first = Some(x.to_vec());
                        return Ok(());
                    };
                    for &member in &members[place] {
                        let range = source.chunk.pieces[middle[member].1].range();
                        moves[member].store(first[range.clone()] != x[range], Ordering::Relaxed);
                    }
                    Ok(())
                })
            })?;
        }
        let moving: Vec<_> =
            middle.iter().zip(&moves).filter(|(_, m)| m.load(Ordering::Relaxed)).map(|(m, _)| *m).collect();
        let of = if moving.is_empty() { middle } else { moving };
        let count = of.len().min(PIECES);
        let (mut buffer, mut all) = (Vec::new(), Vec::new());
        for i in 0..count {
            let (chunk, place) = of[i * of.len() / count];
            let piece = &table.chunks()[chunk].pieces[place];
            let mut values = vec![0.0; piece.len];
            self.values.piece(piece, &mut buffer, &mut values)?;
            let stride = piece.len.div_ceil(VALUES).max(1);
            let values = values.into_iter().step_by(stride).collect();
            let dtype = self.survey.dtypes[piece.tensor].unwrap_or(DType::F32);
            let (range, seen, before) = (piece.range(), Vec::new(), Vec::new());
            all.push(Mutex::new(Part { chunk, range, stride, dtype, values, seen, before }));
        }
        Ok(all)
    }

    /// Goes along the path, and says what all pieces together see. Memory holds some steps of each.
    fn look(&self, pieces: &[Mutex<Part>]) -> Result<Looked> {
        let (chunks, members) = by_chunk(pieces.iter().map(|p| lock(p).chunk));
        let lossy = self.run.manifest.loses(StreamId::Iterate);
        let mut looked = Looked::default();
        for steps in self.steps.chunks(AT_ONCE) {
            through(self.run, steps, &chunks, |place, steps, trajectory, mut source| {
                let mut widths = Vec::new();
                undamaged(steps, trajectory, &mut source, |step, x, source| {
                    if lossy {
                        widths.resize(x.len(), 0.0);
                        if unless_damaged(source.widths(step, StreamId::Iterate, x, &mut widths))?.is_none() {
                            return Ok(());
                        }
                    }
                    for &member in &members[place] {
                        let mut part = lock(&pieces[member]);
                        let range = part.range.clone();
                        part.see(step, &x[range.clone()], widths.get(range).unwrap_or_default());
                    }
                    Ok(())
                })
            })?;
            let seen: Vec<Vec<Seen>> = pieces.iter().map(|p| std::mem::take(&mut lock(p).seen)).collect();
            together(&seen).into_iter().for_each(|s| looked.add(s));
        }
        Ok(looked)
    }

    /// Those of the steps whose iterates are the file in all tensors that it has.
    fn confirmed(&self, steps: Vec<u64>) -> Result<Vec<u64>> {
        if steps.is_empty() {
            return Ok(steps);
        }
        let all = self.run.table.chunks();
        let has = |p: &Piece| self.values.has(p.tensor);
        let chunks: Vec<usize> = (0..all.len()).filter(|&c| all[c].pieces.iter().any(has)).collect();
        let equal = Mutex::new(vec![true; steps.len()]);
        through(self.run, &steps, &chunks, |_, window, trajectory, mut source| {
            let at = steps.partition_point(|s| *s < window[0]);
            let wanted = lock(&equal)[at..at + window.len()].to_vec();
            let wanted: Vec<u64> = window.iter().zip(wanted).filter(|(_, w)| *w).map(|(s, _)| *s).collect();
            let dtype = |p: &Piece| self.survey.dtypes[p.tensor].unwrap_or(DType::F32);
            let pieces: Vec<_> =
                source.chunk.pieces.iter().filter(|p| has(p)).map(|p| (p.range(), dtype(p))).collect();
            let (mut buffer, mut r) = (Vec::new(), vec![0.0; source.chunk.len]);
            self.values.chunk(source.chunk, &mut buffer, &mut r)?;
            let mut found = Vec::new();
            undamaged(&wanted, trajectory, &mut source, |step, x, _| {
                let same = pieces.iter().all(|(range, dtype)| {
                    let mut both = x[range.clone()].iter().zip(&r[range.clone()]);
                    both.all(|(x, r)| round(*dtype, *x).to_bits() == r.to_bits())
                });
                found.extend(same.then_some(step));
                Ok(())
            })?;
            let mut equal = lock(&equal);
            for (equal, step) in equal[at..].iter_mut().zip(window) {
                *equal &= found.binary_search(step).is_ok();
            }
            Ok(())
        })?;
        let equal = lock(&equal).clone();
        Ok(steps.into_iter().zip(equal).filter(|(_, equal)| *equal).map(|(step, _)| step).collect())
    }

    /// Whether a mixture of iterates around the nearest one is nearer than `limit`, in the sample.
    fn is_mixed(&self, pieces: &[Mutex<Part>], nearest: u64, limit: f64) -> Result<bool> {
        let target: Vec<f32> = pieces.iter().flat_map(|p| lock(p).values.clone()).collect();
        if target.len() < FEWEST || self.steps.len() < PATH {
            return Ok(false);
        }
        let steps = spread(&self.steps, nearest);
        let (chunks, members) = by_chunk(pieces.iter().map(|p| lock(p).chunk));
        let parts: Vec<Mutex<Vec<Point>>> = pieces.iter().map(|_| Mutex::default()).collect();
        through(self.run, &steps, &chunks, |place, steps, trajectory, mut source| {
            undamaged(steps, trajectory, &mut source, |step, x, _| {
                for &member in &members[place] {
                    let (range, stride) = {
                        let part = lock(&pieces[member]);
                        (part.range.clone(), part.stride)
                    };
                    lock(&parts[member]).push((step, x[range].iter().step_by(stride).copied().collect()));
                }
                Ok(())
            })
        })?;
        let parts: Vec<_> = parts.iter().map(lock).collect();
        let whole = |step: &u64| -> Option<Vec<f32>> {
            let mut point = Vec::with_capacity(target.len());
            for part in &parts {
                point.extend_from_slice(&part[part.binary_search_by_key(step, |(s, _)| *s).ok()?].1);
            }
            Some(point)
        };
        let points: Vec<Vec<f32>> = steps.iter().filter_map(whole).collect();
        Ok(is_nearer(&points, &target, limit))
    }
}

/// Steps at growing distances from `nearest` on both sides, and some over all of `steps`, ascending.
fn spread(steps: &[u64], nearest: u64) -> Vec<u64> {
    let at = steps.partition_point(|s| *s < nearest);
    let last = steps.len().saturating_sub(1);
    let mut places = vec![at];
    let (mut offset, mut exact) = (1, 1.0f64);
    while offset <= last {
        places.extend(at.checked_sub(offset));
        places.extend(Some(at + offset).filter(|p| *p <= last));
        exact *= GROWTH;
        // Powers of 1.5 up to the number of steps, rounded.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let next = exact.round() as usize;
        offset = next.max(offset + 1);
    }
    places.extend((0..EVENLY).map(|i| i * last / (EVENLY - 1)));
    places.sort_unstable();
    places.dedup();
    places.into_iter().filter_map(|p| steps.get(p).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterates_to_mix_lie_close_around_the_nearest_and_all_over() {
        let steps: Vec<u64> = (0..1000).map(|s| 10 * s).collect();
        let got = spread(&steps, 5000);
        assert!([4980, 4990, 5000, 5010, 5020, 0, 9990].iter().all(|s| got.contains(s)));
        assert!(got.len() < 60 && got.is_sorted());
        assert_eq!(spread(&[3, 4, 5], 3), [3, 4, 5]);
        assert_eq!(spread(&[3], 3), [3]);
    }
}
