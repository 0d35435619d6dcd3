//! What an analysis left out, and why.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Steps that were left out because of damage, as ranges, with the first reason of each.
#[derive(Clone, Debug, Default)]
pub struct Skipped {
    /// By first step: last step and reason.
    ranges: BTreeMap<u64, (u64, String)>,
    /// Damaged vectors of steps that have no row themselves but that other rows are made of.
    pub also: BTreeMap<u64, String>,
}

impl Skipped {
    /// Notes that `steps` are left out. What is known already stays.
    pub(super) fn add(&mut self, steps: RangeInclusive<u64>, why: &str) {
        let (first, last) = steps.into_inner();
        self.ranges.entry(first).or_insert_with(|| (last, why.to_owned()));
    }

    /// Whether `step` is left out.
    pub fn contains(&self, step: u64) -> bool {
        self.ranges.range(..=step).any(|(_, (last, _))| step <= *last)
    }

    /// The ranges with their reasons.
    pub fn ranges(&self) -> impl Iterator<Item = (RangeInclusive<u64>, &str)> {
        self.ranges.iter().map(|(first, (last, why))| (*first..=*last, why.as_str()))
    }

    /// How many of the steps `start`, `start + every`, ... below `end` are left out.
    pub fn count(&self, start: u64, end: u64, every: u64) -> u64 {
        let before = |step: u64| step.saturating_sub(start).div_ceil(every);
        let (mut total, mut from) = (0, start);
        for (first, (last, _)) in &self.ranges {
            let (first, to) = ((*first).max(from), last.saturating_add(1).min(end));
            if first < to {
                total += before(to) - before(first);
                from = to;
            }
        }
        total
    }

    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
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
        assert!(s.contains(24) && !s.contains(25) && s.contains(40) && !s.contains(9));
    }
}
