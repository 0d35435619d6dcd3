//! At which steps a tensor has no gradient, of those whose gradients were seen.
//!
//! Many tensors share the steps at which they have none (a branch of the model, a skipped batch), so each set of
//! steps is kept once. Memory is bounded: an irregular pattern of very many tensors is given up.

use std::collections::HashMap;

use crate::step_set::StepSet;

/// Ranges that are held at most, of all tensors together.
const MOST_RANGES: usize = 1 << 20;

/// Steps at which some tensors have no gradient.
pub(crate) type Absence = StepSet;

/// What was seen of one tensor.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// There was a gradient at some step.
    present: bool,
    /// There was none at some step.
    absent: bool,
    steps: Absence,
    /// The same of the rank whose shards are being read, where several write the tensor.
    own: Absence,
}

/// Notes at which steps which tensors have a gradient.
#[derive(Clone, Debug, Default)]
pub(crate) struct AbsenceLog {
    tensors: Vec<Seen>,
    ranges: usize,
}

impl AbsenceLog {
    /// For so many tensors.
    pub(crate) fn new(tensors: usize) -> AbsenceLog {
        AbsenceLog { tensors: vec![Seen::default(); tensors], ranges: 0 }
    }

    /// Notes whether a tensor is absent at a step. The steps of one rank ascend.
    pub(crate) fn see(&mut self, tensor: usize, step: u64, absent: bool) {
        let seen = &mut self.tensors[tensor];
        seen.present |= !absent;
        seen.absent |= absent;
        if absent && self.ranges <= MOST_RANGES {
            let before = seen.own.ranges().len();
            seen.own.push(step);
            self.ranges += seen.own.ranges().len() - before;
        }
    }

    /// Another rank's steps follow.
    pub(crate) fn next_rank(&mut self) {
        for seen in &mut self.tensors {
            let own = std::mem::take(&mut seen.own);
            self.ranges -= own.ranges().len() + seen.steps.ranges().len();
            seen.steps.join(own);
            self.ranges += seen.steps.ranges().len();
        }
    }

    /// What was noted of all.
    pub(crate) fn finish(mut self) -> Absences {
        self.next_rank();
        let sometimes = self.tensors.iter().map(|s| [s.present, s.absent]).collect();
        if self.ranges > MOST_RANGES {
            return Absences { sometimes, patterns: None, of: Vec::new() };
        }
        let mut numbers: HashMap<Absence, usize> = HashMap::new();
        let mut number = |seen: Seen| {
            let next = numbers.len();
            (seen.present && seen.absent).then(|| *numbers.entry(seen.steps).or_insert(next))
        };
        let of = self.tensors.into_iter().map(&mut number).collect();
        let mut patterns: Vec<(Absence, usize)> = numbers.into_iter().collect();
        patterns.sort_unstable_by_key(|(_, number)| *number);
        Absences { sometimes, patterns: Some(patterns.into_iter().map(|(p, _)| p).collect()), of }
    }
}

/// At which steps tensors have no gradient, of those that have one at others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences {
    /// By tensor: whether there is a gradient at some step, and whether there is none at some.
    pub(crate) sometimes: Vec<[bool; 2]>,
    /// Distinct sets of steps, in the order of the first tensor that has each; `None` where they are too many.
    pub(crate) patterns: Option<Vec<Absence>>,
    /// By tensor: its pattern.
    pub(crate) of: Vec<Option<usize>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(tensors: usize, absent: impl Fn(usize, u64) -> bool, steps: u64) -> Absences {
        let mut log = AbsenceLog::new(tensors);
        for step in 0..steps {
            (0..tensors).for_each(|t| log.see(t, step, absent(t, step)));
        }
        log.finish()
    }

    #[test]
    fn tensors_with_the_same_gaps_share_a_pattern() {
        // Never absent, always, two that skip the same steps, one that has its own.
        let gaps: [&[u64]; 5] = [&[], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], &[3, 4, 9], &[0], &[3, 4, 9]];
        let a = noted(5, |t, s| gaps[t].contains(&s), 10);
        assert_eq!(a.sometimes, [[true, false], [false, true], [true, true], [true, true], [true, true]]);
        assert_eq!(a.of, [None, None, Some(0), Some(1), Some(0)]);
        let patterns = a.patterns.unwrap();
        assert_eq!(patterns.len(), 2);
        assert_eq!(patterns[0].ranges(), [3..5, 9..10]);
        for step in 0..12 {
            assert_eq!(patterns[0].contains(step), [3, 4, 9].contains(&step), "{step}");
            assert_eq!(patterns[1].contains(step), step == 0, "{step}");
        }
    }

    #[test]
    fn ranks_that_write_parts_of_a_tensor_say_the_same_once() {
        let mut log = AbsenceLog::new(1);
        for steps in [[2, 3, 7], [2, 3, 7], [3, 4, 8]] {
            for step in 0..10 {
                log.see(0, step, steps.contains(&step));
            }
            log.next_rank();
        }
        let patterns = log.finish().patterns.unwrap();
        assert_eq!(patterns[0].ranges(), [2..5, 7..9]);
    }

    #[test]
    fn patterns_that_take_too_much_memory_are_given_up() {
        let tensors = 64;
        let steps = (2 * MOST_RANGES / tensors) as u64;
        let a = noted(tensors, |_, s| s % 2 == 0, steps);
        assert_eq!(a.patterns.map(|p| p.len()), Some(1), "as many as are allowed");
        let a = noted(tensors + 1, |_, s| s % 2 == 0, steps);
        assert!(a.patterns.is_none());
        assert_eq!(a.sometimes, vec![[true, true]; tensors + 1]);
    }
}
