//! Shares of the work: what one process measures of a run that several measure.
//!
//! What a step's sums are depends on nothing that was measured before it, so steps can be shared out. Where windows are
//! walked backward each goes on from what the one behind it left of every chunk, so chunks are shared out instead. Either
//! way a share gives the bits that the whole gives, since sums of pieces are folded afterwards, in the one order.

use std::ops::Range;

use crate::analyze::Analysis;
use crate::error::{Result, Usage};
use crate::run::Run;
use crate::run::read::plan::stored_bytes;
use crate::run::read::window::Window;

/// A share of the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// All of it.
    All,
    /// The steps of a range, in all chunks.
    Steps(Range<u64>),
    /// Chunks, by number, at all steps.
    Chunks(Range<usize>),
}

impl Share {
    /// Its steps, of all, ascending.
    pub(crate) fn steps<'s>(&self, all: &'s [u64]) -> &'s [u64] {
        match self {
            Share::All | Share::Chunks(_) => all,
            Share::Steps(range) => {
                let [from, to] = [range.start, range.end].map(|end| all.partition_point(|s| *s < end));
                &all[from..to.max(from)]
            }
        }
    }

    /// Its chunks, by number.
    pub(crate) fn chunks(&self, run: &Run) -> Range<usize> {
        match self {
            Share::All | Share::Steps(_) => 0..run.table.len(),
            Share::Chunks(range) => range.clone(),
        }
    }

    /// The pieces of its chunks, by number, ascending.
    pub(crate) fn pieces(&self, run: &Run) -> Vec<usize> {
        let chunks = &run.table.chunks()[self.chunks(run)];
        let mut all: Vec<usize> = chunks.iter().flat_map(|c| &c.pieces).map(|p| p.number).collect();
        all.sort_unstable();
        all
    }

    /// Opens a window of steps, and has what is needed of it read ahead.
    ///
    /// # Errors
    /// As [`Window::open`].
    pub(crate) fn open(&self, run: &Run, steps: &[u64]) -> Result<Window> {
        match self {
            Share::All | Share::Steps(_) => Window::open(run, steps, true),
            Share::Chunks(_) => Window::by_chunk(run, steps),
        }
    }
}

impl Analysis<'_> {
    /// Shares the work out, into so many shares or as many as there can be; with each come the stored bytes that it reads,
    /// about.
    ///
    /// # Errors
    /// The sums would not be those of the whole; or a shard cannot be read.
    pub(crate) fn shares(&self, count: usize) -> Result<Vec<(Share, u64)>> {
        if self.options.skip_damaged && (self.shape.layout.lag.is_some() || self.sketches.is_some()) {
            let what = "--skip-damaged: what damage spoils would depend on where the run is cut, since steps are compared \
                        with later iterates, or are sketches. Restore what is damaged, or analyze the run in one go";
            return Err(Usage(what.to_owned()).into());
        }
        if self.shape.layout.own {
            let bytes = stored_bytes(self.run, &self.candidates).iter().sum();
            return Ok(self.shares_of_chunks(count, bytes));
        }
        shares_of_steps(self.run, &self.candidates, count)
    }

    fn shares_of_chunks(&self, count: usize, bytes: u64) -> Vec<(Share, u64)> {
        let lengths: Vec<u64> = self.run.table.chunks().iter().map(|c| c.len as u64).collect();
        let all = u128::from(lengths.iter().sum::<u64>().max(1));
        let share = |range: Range<usize>| {
            let own: u64 = lengths[range.clone()].iter().sum();
            let bytes = u64::try_from(u128::from(bytes) * u128::from(own) / all).unwrap_or(u64::MAX);
            (Share::Chunks(range), bytes)
        };
        cut(&lengths, count, &[]).into_iter().map(share).collect()
    }

    /// Whether chunks are shared out, not steps.
    pub(crate) fn shares_chunks(&self) -> bool {
        self.shape.layout.own
    }

    /// Stands for the bytes of all shards that a share reads.
    pub(crate) fn inputs_xxh3(&self, share: &Share) -> String {
        let beyond = self.shape.layout.lag.unwrap_or(1).max(1);
        let hash = match share {
            Share::Steps(r) => self.catalog.inputs_of(&(r.start..r.end.saturating_add(beyond))),
            Share::All | Share::Chunks(_) => self.catalog.inputs_xxh3,
        };
        format!("{hash:032x}")
    }
}

/// Shares steps (ascending) out, into so many shares or as many as there are steps; with each come the stored bytes of its
/// steps, about.
///
/// # Errors
/// A shard cannot be read.
pub(crate) fn shares_of_steps(run: &Run, steps: &[u64], count: usize) -> Result<Vec<(Share, u64)>> {
    let bytes = stored_bytes(run, steps);
    let keyframes = run.keyframes()?;
    let before = |i: usize| keyframes.partition_point(|k| *k <= steps[i]);
    let begins: Vec<usize> = (1..steps.len()).filter(|&i| before(i) > before(i - 1)).collect();
    Ok(ranges_of(steps, &bytes, &cut(&bytes, count, &begins)))
}

/// The same of groups of so many steps in a row, none of which is cut.
pub(crate) fn shares_of_groups(run: &Run, steps: &[u64], size: usize, count: usize) -> Vec<(Share, u64)> {
    let bytes = stored_bytes(run, steps);
    let groups: Vec<u64> = bytes.chunks(size).map(|group| group.iter().sum()).collect();
    let places = |r: Range<usize>| r.start * size..(r.end * size).min(steps.len());
    let cut: Vec<Range<usize>> = cut(&groups, count, &[]).into_iter().map(places).collect();
    ranges_of(steps, &bytes, &cut)
}

/// The ranges of places of steps as shares, which leave no step out.
fn ranges_of(steps: &[u64], bytes: &[u64], cut: &[Range<usize>]) -> Vec<(Share, u64)> {
    let last = cut.len().saturating_sub(1);
    let share = |(i, range): (usize, &Range<usize>)| {
        let from = if i == 0 { 0 } else { steps[range.start] };
        let to = if i == last { u64::MAX } else { steps[range.end] };
        (Share::Steps(from..to), bytes[range.clone()].iter().sum())
    };
    cut.iter().enumerate().map(share).collect()
}

/// Cuts what has these weights, in its order, into parts of about the same weight, where it can at one of some `places`
/// (ascending). There are `count` parts, or as many as there are things.
fn cut(weights: &[u64], count: usize, places: &[usize]) -> Vec<Range<usize>> {
    let count = count.clamp(1, weights.len().max(1));
    let before: Vec<u128> = std::iter::once(0)
        .chain(weights.iter().scan(0, |sum, w| {
            *sum += u128::from(*w).max(1);
            Some(*sum)
        }))
        .collect();
    let all = before[weights.len()];
    let mut start = 0;
    let mut parts = Vec::new();
    for k in 1..count {
        let ideal = all * k as u128 / count as u128;
        let above = before.partition_point(|b| *b < ideal);
        let is_nearer_below = above > 0 && ideal - before[above - 1] <= before[above] - ideal;
        let exact = if is_nearer_below { above - 1 } else { above };
        let after = places.partition_point(|p| *p < exact);
        let near = places[after.saturating_sub(1)..(after + 1).min(places.len())].iter().copied();
        let off = |p: &usize| before[*p].abs_diff(ideal);
        let near = near.min_by_key(off).filter(|p| off(p) * 4 * count as u128 <= all);
        let end = near.unwrap_or(exact).clamp(start + 1, weights.len() - (count - k));
        parts.push(start..end);
        start = end;
    }
    parts.push(start..weights.len());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_tile_what_is_cut_and_are_about_equal() {
        for n in [1usize, 2, 7, 64, 220] {
            let weights: Vec<u64> = (0..n as u64).map(|i| 100 + i % 7).collect();
            for count in [1, 2, 7, 64, 300] {
                let parts = cut(&weights, count, &[]);
                assert_eq!(parts.len(), count.min(n));
                assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, n));
                assert!(parts.windows(2).all(|w| w[0].end == w[1].start));
                let sizes = || parts.iter().map(Range::len);
                assert!(sizes().max() <= sizes().min().map(|least| least + 2), "{parts:?}");
            }
        }
        assert_eq!(cut(&[0; 3], 2, &[]), [0..1, 1..3]);
        assert_eq!(cut(&[1, 1, 98, 1, 1], 3, &[]), [0..2, 2..3, 3..5]);
    }

    #[test]
    fn parts_begin_at_keyframes_where_these_are_near() {
        let weights = [10; 100];
        assert_eq!(cut(&weights, 2, &[45, 90]), [0..45, 45..100]);
        assert_eq!(cut(&weights, 2, &[30, 90]), [0..50, 50..100]);
        assert_eq!(cut(&weights, 4, &[22, 27, 55, 80]), [0..27, 27..55, 55..80, 80..100]);
    }
}
