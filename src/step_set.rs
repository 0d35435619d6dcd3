//! Sets of steps, as ranges: steps that share something come in runs.

use std::ops::Range;

/// A set of steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct StepSet(Vec<Range<u64>>);

impl StepSet {
    /// The steps as ranges, ascending, of which no two touch.
    pub(crate) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Whether a step is in it.
    pub(crate) fn contains(&self, step: u64) -> bool {
        let after = self.0.partition_point(|r| r.start <= step);
        after.checked_sub(1).is_some_and(|i| step < self.0[i].end)
    }

    /// The first step.
    pub(crate) fn first(&self) -> Option<u64> {
        self.0.first().map(|r| r.start)
    }

    /// The last step before `step`.
    pub(crate) fn last_before(&self, step: u64) -> Option<u64> {
        let after = self.0.partition_point(|r| r.start < step);
        let range = &self.0[after.checked_sub(1)?];
        Some(range.end.min(step) - 1)
    }

    /// How many of its steps are before `step`.
    pub(crate) fn count_before(&self, step: u64) -> u64 {
        self.0.iter().map(|r| r.end.min(step).saturating_sub(r.start)).sum()
    }

    /// Adds a step that is not before those that are there.
    pub(crate) fn push(&mut self, step: u64) {
        match self.0.last_mut() {
            Some(last) if step < last.end => {}
            Some(last) if step == last.end => last.end += 1,
            _ => self.0.push(step..step + 1),
        }
    }

    /// Adds the steps of another set.
    pub(crate) fn join(&mut self, other: StepSet) {
        if self.0.is_empty() || other.0.is_empty() {
            self.0.extend(other.0);
            return;
        }
        let mut all = std::mem::take(&mut self.0);
        all.extend(other.0);
        all.sort_unstable_by_key(|r| r.start);
        for range in all {
            match self.0.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => self.0.push(range),
            }
        }
    }

    /// Keeps those steps that another set has too.
    pub(crate) fn keep(&mut self, other: &StepSet) {
        let own = std::mem::take(&mut self.0);
        let mut others = other.0.iter().peekable();
        for range in own {
            while let Some(o) = others.peek() {
                let both = range.start.max(o.start)..range.end.min(o.end);
                if !both.is_empty() {
                    self.0.push(both);
                }
                // What reaches further may have a part in the next range too.
                if o.end > range.end {
                    break;
                }
                others.next();
            }
        }
    }

    /// Takes out the steps of a range.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let all = std::mem::take(&mut self.0);
        let left = |r: Range<u64>| [r.start..r.end.min(range.start), r.start.max(range.end)..r.end];
        self.0 = all.into_iter().flat_map(left).filter(|r| !r.is_empty()).collect();
    }

    /// Adds every step between those that are there, so that it takes no more than one range.
    pub(crate) fn close(&mut self) {
        if let (Some(first), Some(last)) = (self.first(), self.0.last()) {
            let whole = first..last.end;
            self.0.clear();
            self.0.push(whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(steps: &[u64]) -> StepSet {
        let mut set = StepSet::default();
        steps.iter().for_each(|&s| set.push(s));
        set
    }

    #[test]
    fn a_set_knows_its_steps() {
        let steps = [2u64, 3, 3, 7, 9, 10];
        let mut s = set(&steps);
        assert_eq!(s.ranges(), [2..4, 7..8, 9..11]);
        for at in 0..14 {
            assert_eq!(s.contains(at), steps.contains(&at), "{at}");
            assert_eq!(s.last_before(at), steps.iter().copied().filter(|s| *s < at).max(), "{at}");
            let mut before: Vec<u64> = steps.iter().copied().filter(|s| *s < at).collect();
            before.dedup();
            assert_eq!(s.count_before(at), before.len() as u64, "{at}");
        }
        assert_eq!(
            (s.first(), StepSet::default().first(), StepSet::default().last_before(9)),
            (Some(2), None, None)
        );
        s.close();
        let whole = 2..11;
        assert_eq!(s.ranges(), std::slice::from_ref(&whole));
    }

    #[test]
    fn sets_are_cut() {
        let members = |s: &StepSet| s.ranges().iter().cloned().flatten().collect::<Vec<u64>>();
        let all: Vec<Vec<u64>> =
            (0..256u32).map(|bits| (0..8).filter(|s| bits >> s & 1 == 1).collect()).collect();
        for a in &all {
            for b in &all {
                let mut both = set(a);
                both.keep(&set(b));
                let expected: Vec<u64> = a.iter().copied().filter(|s| b.contains(s)).collect();
                assert_eq!(both, set(&expected), "{a:?} and {b:?}");
            }
            for (from, to) in (0..9).flat_map(|from| (0..9).map(move |to| (from, to))) {
                let mut left = set(a);
                left.remove(from..to);
                let expected: Vec<u64> = a.iter().copied().filter(|s| !(from..to).contains(s)).collect();
                assert_eq!(members(&left), expected, "{a:?} without {from}..{to}");
            }
        }
    }

    #[test]
    fn sets_are_joined() {
        let mut s = set(&[2, 3, 7]);
        s.join(set(&[3, 4, 8, 20]));
        assert_eq!(s.ranges(), [2..5, 7..9, 20..21]);
        s.join(StepSet::default());
        let mut empty = StepSet::default();
        empty.join(s.clone());
        assert_eq!(s, empty);
    }
}
