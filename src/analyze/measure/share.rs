//! Shares of the work: what one process measures of a run that several measure.
//!
//! What a step's sums are depends on nothing that was measured before it, so steps can be shared out. Where windows are
//! walked backward each goes on from what the one behind it left of every chunk, so chunks are shared out instead; and so
//! are those of each rank, where its shards lie on a node of their own. Where keyframes are far apart both are shared out,
//! since whoever begins between them decodes all iterates from the one before. Either
//! way a share gives the bits that the whole gives, since sums of pieces are folded afterwards, in the one order.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::analyze::Analysis;
use crate::error::{Result, Usage};
use crate::run::Run;
use crate::run::read::plan::stored_bytes;
use crate::run::read::window::{Ahead, Window};

/// What a step costs that is decoded on the way to others, of one that is measured too.
const PASSED: f64 = 0.75;
/// Shares read steps in a row for nothing but so much of the time.
const WORTH: f64 = 1.05;

/// A share of the work: some steps of some chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    /// The first step, and the first one behind the last, where that is not the end; all steps where nothing is said.
    pub(crate) steps: Option<(u64, Option<u64>)>,
    /// The ranks that have written its chunks, ascending; all.
    pub(crate) ranks: Option<Vec<u32>>,
    /// Its chunks among those, by place: the first, and the first one behind the last; all.
    pub(crate) chunks: Option<(usize, usize)>,
}

impl Share {
    /// All of it.
    pub(crate) const ALL: Share = Share { steps: None, ranks: None, chunks: None };

    /// The steps of a range, in all chunks.
    pub(crate) fn of_steps(steps: &Range<u64>) -> Share {
        let end = Some(steps.end).filter(|end| *end < u64::MAX);
        Share { steps: Some((steps.start, end)), ..Share::ALL }
    }

    /// The range of its steps.
    pub(crate) fn range(&self) -> Range<u64> {
        self.steps.map_or(0..u64::MAX, |(from, to)| from..to.unwrap_or(u64::MAX))
    }

    /// Its steps, of all, ascending.
    pub(crate) fn steps<'s>(&self, all: &'s [u64]) -> &'s [u64] {
        let range = self.range();
        let [from, to] = [range.start, range.end].map(|end| all.partition_point(|s| *s < end));
        &all[from..to.max(from)]
    }

    /// Its chunks, by number, ascending.
    pub(crate) fn chunks(&self, run: &Run) -> Vec<usize> {
        let is_own = |rank: &u32| self.ranks.as_ref().is_none_or(|ranks| ranks.contains(rank));
        let chunks = run.table.chunks().iter().enumerate().filter(|(_, chunk)| is_own(&chunk.rank));
        let (from, to) = self.chunks.unwrap_or((0, usize::MAX));
        chunks.map(|(number, _)| number).skip(from).take(to.saturating_sub(from)).collect()
    }

    /// Whether it has all chunks.
    pub(crate) fn has_all_chunks(&self) -> bool {
        self.ranks.is_none() && self.chunks.is_none()
    }

    /// The pieces of its chunks, by number, ascending.
    pub(crate) fn pieces(&self, run: &Run) -> Vec<usize> {
        let (own, chunks) = (self.chunks(run), run.table.chunks());
        let mut all: Vec<usize> = own.iter().flat_map(|c| &chunks[*c].pieces).map(|p| p.number).collect();
        all.sort_unstable();
        all
    }

    /// Opens a window of steps, and has what is needed of it read ahead.
    ///
    /// # Errors
    /// As [`Window::open`].
    pub(crate) fn open(&self, run: &Run, steps: &[u64]) -> Result<Window> {
        let ahead = if self.has_all_chunks() { Ahead::All } else { Ahead::Chunks };
        Window::open(run, steps, ahead)
    }
}

impl Analysis<'_> {
    /// Shares the chunks of some ranks, or all, out into so many shares or as many as there can be; and so those of others,
    /// at the same steps. At most so many shares are of the same steps, where not all are. With each come the stored bytes
    /// that it reads, about.
    ///
    /// # Errors
    /// The sums would not be those of the whole; or a shard cannot be read.
    pub(crate) fn shares(
        &self,
        nodes: &[Option<&[u32]>],
        count: usize,
        of_the_same: usize,
    ) -> Result<Vec<Vec<(Share, u64)>>> {
        if self.options.skip_damaged && (self.shape.layout.lag.is_some() || self.sketches.is_some()) {
            let what = "--skip-damaged: what damage spoils would depend on where the run is cut, since steps are compared \
                        with later iterates, or are sketches. Restore what is damaged, or analyze the run in one go";
            return Err(Usage(what.to_owned()).into());
        }
        if nodes.iter().any(Option::is_some) && self.sketches.is_some() {
            let what = "a run of sketches cannot be shared out by nodes; it is small: share it out by steps, without --by-node";
            return Err(Usage(what.to_owned()).into());
        }
        let nodes: Vec<OfNode> = nodes.iter().map(|ranks| OfNode::new(self.run, *ranks)).collect();
        let (steps, bytes) = (&self.candidates, stored_bytes(self.run, &self.candidates));
        if self.shape.layout.own {
            let all = (Share::ALL, bytes.iter().sum());
            return Ok(nodes.iter().map(|node| node.cut(std::slice::from_ref(&all), count)).collect());
        }
        let most = if self.sketches.is_some() { 1 } else { of_the_same };
        let most = nodes.iter().map(|node| node.lengths.len()).fold(most, usize::min);
        let longest = |count: usize| nodes.iter().map(|node| node.longest(count)).fold(0.0, f64::max);
        let begins = begins(self.run, steps)?;
        let of_each = fewest_chunk_shares(&bytes, &begins, (count, most), longest);
        let ranges = ranges_of(steps, &bytes, &cut(&bytes, count / of_each, &begins));
        Ok(nodes.iter().map(|node| node.cut(&ranges, of_each)).collect())
    }

    /// Whether chunks are shared out, and never steps.
    pub(crate) fn shares_chunks(&self) -> bool {
        self.shape.layout.own
    }

    /// Stands for the bytes of all shards that a share reads.
    pub(crate) fn inputs_xxh3(&self, share: &Share) -> String {
        let beyond = self.shape.layout.lag.unwrap_or(1).max(1);
        let range = share.range();
        let hash = match share.steps {
            Some(_) => self.catalog.inputs_of(&(range.start..range.end.saturating_add(beyond))),
            None => self.catalog.inputs_xxh3,
        };
        format!("{hash:032x}")
    }
}

/// The chunks of a node's ranks, or all.
struct OfNode {
    ranks: Option<Vec<u32>>,
    /// How long they are, in their order.
    lengths: Vec<u64>,
    /// Elements of the run, of all nodes.
    of_run: u64,
}

impl OfNode {
    fn new(run: &Run, ranks: Option<&[u32]>) -> OfNode {
        let own = Share { ranks: ranks.map(<[u32]>::to_vec), ..Share::ALL };
        let chunks = run.table.chunks();
        let lengths: Vec<u64> = own.chunks(run).iter().map(|c| chunks[*c].len as u64).collect();
        OfNode { ranks: own.ranks, lengths, of_run: chunks.iter().map(|c| c.len as u64).sum() }
    }

    /// Cuts each range of steps into so many shares of chunks, or as many as there are.
    fn cut(&self, ranges: &[(Share, u64)], count: usize) -> Vec<(Share, u64)> {
        let parts = cut(&self.lengths, count, &[]);
        let share = |(steps, bytes): &(Share, u64), chunks: &Range<usize>| {
            let own = self.lengths[chunks.clone()].iter().sum::<u64>();
            let portion = own as f64 / self.of_run.max(1) as f64;
            let chunks = Some((chunks.start, chunks.end)).filter(|_| count > 1 || steps.steps.is_none());
            // Below the bytes, which are no negative number.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bytes = (*bytes as f64 * portion).round() as u64;
            (Share { chunks, ranks: self.ranks.clone(), ..steps.clone() }, bytes)
        };
        ranges.iter().flat_map(|range| parts.iter().map(move |chunks| share(range, chunks))).collect()
    }

    /// Of the elements those of the longest of so many shares.
    fn longest(&self, count: usize) -> f64 {
        let parts = cut(&self.lengths, count, &[]).into_iter();
        let longest = parts.map(|chunks| self.lengths[chunks].iter().sum::<u64>()).max().unwrap_or(0);
        longest as f64 / self.lengths.iter().sum::<u64>().max(1) as f64
    }
}

/// Shares steps (ascending) out, into so many shares or as many as there are steps; with each come the stored bytes of its
/// steps, about.
///
/// # Errors
/// A shard cannot be read.
pub(crate) fn shares_of_steps(run: &Run, steps: &[u64], count: usize) -> Result<Vec<(Share, u64)>> {
    let bytes = stored_bytes(run, steps);
    Ok(ranges_of(steps, &bytes, &cut(&bytes, count, &begins(run, steps)?)))
}

/// The places of steps (ascending) that are the first ones since a keyframe, but for the first of all.
fn begins(run: &Run, steps: &[u64]) -> Result<Vec<usize>> {
    let keyframes = run.keyframes()?;
    let before = |i: usize| keyframes.partition_point(|k| *k <= steps[i]);
    Ok((1..steps.len()).filter(|&i| before(i) > before(i - 1)).collect())
}

/// Of how many shares of a node's chunks each range of steps is best made, where there are `count` shares of both, and at
/// most so many of the same steps: the fewest with which the slowest share takes about the least time. Of the steps, of so
/// many bytes, some are the first ones since a keyframe; `longest` of so many shares of chunks is the longest one's share
/// of them.
fn fewest_chunk_shares(
    bytes: &[u64],
    begins: &[usize],
    (count, most): (usize, usize),
    longest: impl Fn(usize) -> f64,
) -> usize {
    let weight = |range: Range<usize>| bytes[range].iter().map(|b| *b as f64).sum::<f64>();
    let of_range = |range: Range<usize>| {
        let before = begins.partition_point(|b| *b <= range.start).checked_sub(1);
        weight(range.clone()) + PASSED * weight(before.map_or(0, |k| begins[k])..range.start)
    };
    let time = |of_each: usize| {
        let ranges = cut(bytes, count / of_each, begins).into_iter();
        ranges.map(of_range).fold(0.0, f64::max) * longest(of_each)
    };
    let possible = (1..=count.min(most)).filter(|n| count.is_multiple_of(*n));
    let times: Vec<(usize, f64)> = possible.map(|n| (n, time(n))).collect();
    let least = times.iter().map(|(_, time)| *time).fold(f64::INFINITY, f64::min);
    times.into_iter().find(|(_, time)| *time <= WORTH * least).map_or(1, |(n, _)| n)
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
        (Share::of_steps(&(from..to)), bytes[range.clone()].iter().sum())
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
    fn chunks_are_shared_out_where_keyframes_are_far_apart() {
        let bytes = [10; 512];
        let every = |n: usize| (1..512).filter(|i| i % n == 0).collect::<Vec<usize>>();
        let best = |n: usize, count: usize, most: usize| {
            fewest_chunk_shares(&bytes, &every(n), (count, most), |count| 1.0 / count as f64)
        };
        // A keyframe for every share, or at every step; none but the first.
        assert_eq!((best(128, 4, 100), best(1, 64, 100), best(1000, 2, 100)), (1, 1, 2));
        // Each of four keyframes begins as many shares, or as many as there may be.
        assert_eq!((best(128, 64, 100), best(128, 64, 9), best(128, 3, 2)), (16, 8, 1));
        // One chunk is most of the model.
        assert_eq!(fewest_chunk_shares(&bytes, &[], (2, 100), |_| 0.98), 1);
        assert_eq!(fewest_chunk_shares(&[], &[], (2, 0), |_| 0.0), 1);
    }

    #[test]
    fn parts_begin_at_keyframes_where_these_are_near() {
        let weights = [10; 100];
        assert_eq!(cut(&weights, 2, &[45, 90]), [0..45, 45..100]);
        assert_eq!(cut(&weights, 2, &[30, 90]), [0..50, 50..100]);
        assert_eq!(cut(&weights, 4, &[22, 27, 55, 80]), [0..27, 27..55, 55..80, 80..100]);
    }
}
