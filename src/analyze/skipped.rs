//! What an analysis left out, and why.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Steps that were left out because of damage, as ranges, with the first reason of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skipped {
    /// By first step: last step and reason.
    ranges: BTreeMap<u64, (u64, String)>,
    /// Damaged vectors of steps that have no row themselves but that other rows are made of.
    pub also: BTreeMap<u64, String>,
}

impl Skipped {
    /// Notes that `steps` are left out. Ranges that meet become one, with the first reason.
    pub(crate) fn add(&mut self, steps: RangeInclusive<u64>, why: &str) {
        let (mut first, mut last) = steps.into_inner();
        let mut why = why.to_owned();
        while let Some((from, (to, known))) = self.meeting(first, last) {
            if from <= first {
                why = known;
            }
            (first, last) = (first.min(from), last.max(to));
            self.ranges.remove(&from);
        }
        self.ranges.insert(first, (last, why));
    }

    /// A range that shares a step with `first..=last`.
    fn meeting(&self, first: u64, last: u64) -> Option<(u64, (u64, String))> {
        let (from, (to, why)) = self.ranges.range(..=last).next_back()?;
        (*to >= first).then(|| (*from, (*to, why.clone())))
    }

    /// Whether `step` is left out.
    pub(crate) fn contains(&self, step: u64) -> bool {
        self.ranges.range(..=step).next_back().is_some_and(|(_, (last, _))| step <= *last)
    }

    /// The ranges with their reasons.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (RangeInclusive<u64>, &str)> {
        self.ranges.iter().map(|(first, (last, why))| (*first..=*last, why.as_str()))
    }

    /// How many of the steps `start`, `start + every`, ... below `end` are left out.
    pub(crate) fn count(&self, start: u64, end: u64, every: u64) -> u64 {
        let before = |step: u64| step.clamp(start, end.max(start)).saturating_sub(start).div_ceil(every);
        self.ranges.iter().map(|(first, (last, _))| before(last.saturating_add(1)) - before(*first)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_count_once() {
        let mut s = Skipped::default();
        s.add(10..=19, "a");
        s.add(15..=24, "b");
        s.add(40..=40, "c");
        assert_eq!(s.count(0, 100, 1), 16);
        // 12, 15, 18, 21, 24 of 0, 3, 6, ...
        assert_eq!(s.count(0, 100, 3), 5);
        assert_eq!(s.count(20, 30, 1), 5);
        s.add(10..=30, "d");
        assert_eq!(
            s.ranges().map(|(r, why)| (*r.start(), *r.end(), why)).collect::<Vec<_>>(),
            [(10, 30, "a"), (40, 40, "c")]
        );
        assert!(s.contains(24) && !s.contains(31) && s.contains(40) && !s.contains(9));
    }
}
