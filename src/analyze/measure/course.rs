//! Which steps are walked backward, in which segments, and how each moves what it goes back over.
//!
//! For given second moments an optimizer that divides by their root is linear, but its response differs from element to
//! element. So the steps of a chunk are walked backward, each gradient once more: segment by segment between keyframes,
//! with which the second moment is recorded. `docs/metrics.md` has the recursion.

use std::ops::Range;

use crate::analyze::mover::Movers;
use crate::error::Result;
use crate::optimizer::{Elementwise, Hyperparameters, Moment};
use crate::reference::Reference;
use crate::run::KEYFRAME_STEPS;
use crate::run::Run;
use crate::run::read::catalog::Catalog;

/// A part of a response that counts as nothing.
pub(crate) const NOTHING: f64 = 1e-9;

/// Consecutive steps that are decoded from one keyframe.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    /// Its number among all.
    pub(crate) number: usize,
    /// The steps.
    pub(crate) steps: Range<u64>,
    /// The step that is walked after this segment; its end where there is none.
    pub(crate) next: u64,
    /// By mover and target: the response to x_next, without the weight that it has itself.
    pub(crate) after: Vec<Vec<f64>>,
}

/// The backward course of all chunks.
pub(crate) struct Course<'a> {
    hyper: &'a Hyperparameters<'a>,
    pub(crate) movers: &'a Movers<'a>,
    references: &'a [Reference],
    /// The references that are made of the path, by number.
    pub(crate) targets: Vec<usize>,
    /// What the optimizer divides by the root of.
    pub(crate) moment: Moment,
    /// That is recorded with keyframes.
    pub(crate) recorded: bool,
    /// Weight decay is added to the gradient, so that responses to iterates differ between elements too.
    pub(crate) coupled: bool,
    /// Steps take something of those before them, by a buffer.
    pub(crate) buffered: bool,
    /// Steps are missing between segments.
    pub(crate) gaps: bool,
    /// The last step that is walked, and one more.
    pub(crate) end: u64,
    segments: Vec<Segment>,
}

impl<'a> Course<'a> {
    /// For the steps of which rows are wanted, ascending and not none.
    ///
    /// # Errors
    /// A shard cannot be read.
    pub(crate) fn new(
        (run, catalog): (&Run, &Catalog),
        (hyper, movers): (&'a Hyperparameters<'a>, &'a Movers<'a>),
        (references, targets): (&'a [Reference], Vec<usize>),
        wanted: &[u64],
    ) -> Result<Course<'a>> {
        let (coupled, moment) = (hyper.decays(), hyper.moment());
        let recorded = moment == Moment::Recorded && catalog.has_second_moments(run)?;
        let last = |k: &usize| references[*k].weights.last();
        let to = targets.iter().filter_map(last).max().unwrap_or(0);
        // With coupled weight decay a response never fades.
        let memory = hyper.memory().filter(|_| !coupled);
        let horizon = memory.map_or(u64::MAX, steps_until_nothing);
        let newest = wanted.last().map_or(0, |s| s + 1);
        let end = to.min(newest.saturating_add(horizon)).max(newest);
        let keyframes = run.keyframes()?;
        let first = wanted.first().copied().unwrap_or(0);
        let first = if recorded { first } else { 0 };
        let from = keyframes.partition_point(|k| *k <= first).checked_sub(1).map_or(first, |i| keyframes[i]);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for step in catalog.iterates(from..end) {
            // Where all iterates are stored whole, not all of them are the beginning of something.
            let goes_on = |range: &Range<u64>| {
                range.end == step
                    && (step - range.start < KEYFRAME_STEPS || keyframes.binary_search(&step).is_err())
            };
            match ranges.last_mut() {
                Some(range) if goes_on(range) => range.end += 1,
                _ => ranges.push(step..step + 1),
            }
        }
        let gaps = ranges.windows(2).any(|w| w[0].end != w[1].start);
        let mut course = Course {
            hyper,
            movers,
            references,
            targets,
            moment,
            recorded,
            coupled,
            buffered: hyper.memory() != Some(0.0),
            gaps,
            end,
            segments: Vec::new(),
        };
        course.segments = course.cut(&ranges, to);
        Ok(course)
    }

    /// The segments with the responses after them.
    fn cut(&self, ranges: &[Range<u64>], to: u64) -> Vec<Segment> {
        let mut state: Vec<Vec<f64>> = vec![vec![0.0; self.targets.len()]; self.movers.len()];
        let mut at = to;
        let mut all = Vec::new();
        for (i, steps) in ranges.iter().enumerate().rev() {
            let next = ranges.get(i + 1).map_or(self.end.max(steps.end), |r| r.start);
            for s in (next..at).rev() {
                for (mover, state) in state.iter_mut().enumerate() {
                    let shrink =
                        self.movers.elementwise(self.hyper, mover, s).map_or(0.0, |e| e.linear.shrink);
                    for (k, a) in state.iter_mut().enumerate() {
                        *a = (1.0 - shrink) * (*a + self.weight(k, s + 1));
                    }
                }
            }
            at = next.min(at);
            all.push(Segment { number: i, steps: steps.clone(), next, after: state.clone() });
        }
        all.reverse();
        all
    }

    /// All segments.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The second moment of a mover before its first step.
    pub(crate) fn first_moment(&self, mover: usize) -> f64 {
        self.hyper.first_moment(self.movers.param_group(mover))
    }

    /// Whether what is divided by the root of is held for every step of a segment: it does not follow from gradients
    /// alone.
    pub(crate) fn holds_all(&self) -> bool {
        self.coupled || self.moment == Moment::Largest
    }

    /// The weight of x_step in a target.
    pub(crate) fn weight(&self, target: usize, step: u64) -> f64 {
        self.references[self.targets[target]].weights.at(step)
    }

    /// The step from which on nothing enters a target.
    pub(crate) fn last(&self, target: usize) -> u64 {
        self.references[self.targets[target]].weights.last().unwrap_or(0)
    }

    /// The update of a mover at a step.
    pub(crate) fn update(&self, mover: usize, step: u64) -> Option<Elementwise> {
        self.movers.elementwise(self.hyper, mover, step)
    }

    /// Where windows may begin.
    pub(crate) fn begins(&self) -> Vec<u64> {
        self.segments.iter().map(|s| s.steps.start).collect()
    }

    /// All steps that are walked, ascending.
    pub(crate) fn steps(&self) -> Vec<u64> {
        self.segments.iter().flat_map(|s| s.steps.clone()).collect()
    }

    /// The segments of a window of those steps.
    pub(crate) fn segments_of(&self, steps: &[u64]) -> &[Segment] {
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return &[] };
        let from = self.segments.partition_point(|s| s.steps.end <= *first);
        let to = self.segments.partition_point(|s| s.steps.start <= *last);
        &self.segments[from..to.max(from)]
    }
}

/// After how many steps of a memory nothing is left.
fn steps_until_nothing(memory: f64) -> u64 {
    let steps = (NOTHING.ln() / memory.ln()).ceil();
    // A memory of 0 gives 0; one of 1 and more never ends.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    if (0.0..1e15).contains(&steps) { steps as u64 + 1 } else { u64::MAX }
}
