//! What each gradient put into the references, element by element, where the optimizer divides by the root of a
//! second moment.
//!
//! For given second moments such an optimizer is linear, but its response differs from element to element. So the
//! steps of a chunk are walked backward, each gradient once more: segment by segment between keyframes, with which
//! the second moment is recorded, and from the last window to the first. `docs/metrics.md` has the recursion. Owns
//! which steps are walked, and what is handed from one window to the one before; the walk is `responses`'.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::analyze::measure::seconds::Seconds;
use crate::analyze::measure::vector_file::VectorFile;
use crate::analyze::mover::Movers;
use crate::error::Result;
use crate::isa::Isa;
use crate::optimizer::{Elementwise, Hyperparameters, Moment};
use crate::reference::Reference;
use crate::run::KEYFRAME_STEPS;
use crate::run::Run;
use crate::run::read::catalog::Catalog;

/// A part of a response that counts as nothing.
pub(in crate::analyze) const NOTHING: f64 = 1e-9;

/// Consecutive steps that are decoded from one keyframe.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::analyze) struct Segment {
    /// Its number among all.
    pub(in crate::analyze) number: usize,
    /// The steps.
    pub(in crate::analyze) steps: Range<u64>,
    /// The step that is walked after this segment; its end where there is none.
    pub(in crate::analyze) next: u64,
    /// By mover and target: the response to x_next, without the weight that it has itself.
    pub(in crate::analyze) after: Vec<Vec<f64>>,
}

/// What all chunks share.
pub(in crate::analyze) struct Influence<'a> {
    pub(in crate::analyze) hyper: &'a Hyperparameters<'a>,
    pub(in crate::analyze) movers: &'a Movers<'a>,
    pub(in crate::analyze) references: &'a [Reference],
    /// The references that are made of the path, by number.
    pub(in crate::analyze) targets: Vec<usize>,
    /// What the optimizer divides by the root of.
    pub(in crate::analyze) moment: Moment,
    /// Where second moments come from that were not recorded.
    pub(in crate::analyze) seconds: Option<Seconds>,
    /// Weight decay is added to the gradient, so that responses to iterates differ between elements too.
    pub(in crate::analyze) coupled: bool,
    /// Steps are missing between segments.
    pub(in crate::analyze) gaps: bool,
    /// The last step that is walked, and one more.
    pub(in crate::analyze) end: u64,
    segments: Vec<Segment>,
    store: Store,
}

impl<'a> Influence<'a> {
    /// For the steps of which rows are wanted, ascending and not none. What has to be handed on goes to files
    /// without a name in `scratch`. `how` are instruction set and threads of a pass that it may take.
    ///
    /// # Errors
    /// A shard cannot be read, or `scratch` cannot be written.
    pub(in crate::analyze) fn new(
        (run, catalog): (&Run, &Catalog),
        (hyper, movers): (&'a Hyperparameters<'a>, &'a Movers<'a>),
        (references, targets): (&'a [Reference], Vec<usize>),
        wanted: &[u64],
        how: (Isa, usize),
        scratch: &Path,
    ) -> Result<Influence<'a>> {
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
        let vectors = targets.len() * if coupled { 2 } else { 1 } + usize::from(gaps);
        let mut influence = Influence {
            hyper,
            movers,
            references,
            targets,
            moment,
            seconds: None,
            coupled,
            gaps,
            end,
            segments: Vec::new(),
            store: Store::new(run, vectors, scratch)?,
        };
        influence.segments = influence.cut(&ranges, to);
        if !recorded {
            influence.seconds = Some(Seconds::follow(run, &influence, how, scratch)?);
        }
        Ok(influence)
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
    pub(in crate::analyze) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The second moment of a mover before its first step.
    pub(in crate::analyze) fn first_moment(&self, mover: usize) -> f64 {
        self.hyper.first_moment(self.movers.param_group(mover))
    }

    /// Whether what is divided by the root of is held for every step of a segment: it does not follow from gradients
    /// alone.
    pub(in crate::analyze) fn holds_all(&self) -> bool {
        self.coupled || self.moment == Moment::Largest
    }

    /// The weight of x_step in a target.
    pub(in crate::analyze) fn weight(&self, target: usize, step: u64) -> f64 {
        self.references[self.targets[target]].weights.at(step)
    }

    /// The step from which on nothing enters a target.
    pub(in crate::analyze) fn last(&self, target: usize) -> u64 {
        self.references[self.targets[target]].weights.last().unwrap_or(0)
    }

    /// The update of a mover at a step.
    pub(in crate::analyze) fn update(&self, mover: usize, step: u64) -> Option<Elementwise> {
        self.movers.elementwise(self.hyper, mover, step)
    }

    /// Where windows may begin.
    pub(in crate::analyze) fn begins(&self) -> Vec<u64> {
        self.segments.iter().map(|s| s.steps.start).collect()
    }

    /// All steps that are walked, ascending.
    pub(in crate::analyze) fn steps(&self) -> Vec<u64> {
        self.segments.iter().flat_map(|s| s.steps.clone()).collect()
    }

    /// The segments of a window of those steps.
    pub(in crate::analyze) fn segments_of(&self, steps: &[u64]) -> &[Segment] {
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return &[] };
        let from = self.segments.partition_point(|s| s.steps.end <= *first);
        let to = self.segments.partition_point(|s| s.steps.start <= *last);
        &self.segments[from..to.max(from)]
    }

    /// Where responses wait between windows.
    pub(in crate::analyze) fn store(&self) -> &Store {
        &self.store
    }
}

/// After how many steps of a memory nothing is left.
fn steps_until_nothing(memory: f64) -> u64 {
    let steps = (NOTHING.ln() / memory.ln()).ceil();
    // A memory of 0 gives 0; one of 1 and more never ends.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    if (0.0..1e15).contains(&steps) { steps as u64 + 1 } else { u64::MAX }
}

/// What was found of a chunk's responses up to a window, besides the vectors.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::analyze) struct Handed {
    /// By target: the part of the responses that is not known.
    pub(in crate::analyze) doubts: Vec<f64>,
    /// Whether the inverse roots at the first step of the window are known.
    pub(in crate::analyze) inverse: bool,
}

/// Responses of all chunks between two windows: too many to be held.
pub(in crate::analyze) struct Store {
    file: VectorFile,
    vectors: usize,
    /// By chunk: its first element in the file.
    offsets: Vec<u64>,
    handed: Vec<Mutex<Option<Handed>>>,
}

impl Store {
    fn new(run: &Run, vectors: usize, directory: &Path) -> Result<Store> {
        let chunks = run.table.chunks();
        let offsets = chunks.iter().scan(0, |at, chunk| {
            let offset = *at;
            *at += (chunk.len * vectors) as u64;
            Some(offset)
        });
        Ok(Store {
            file: VectorFile::new(directory)?,
            vectors,
            offsets: offsets.collect(),
            handed: chunks.iter().map(|_| Mutex::new(None)).collect(),
        })
    }

    /// Keeps the vectors of a chunk.
    ///
    /// # Errors
    /// The disk is full.
    pub(in crate::analyze) fn put<'v>(
        &self,
        chunk: usize,
        handed: Handed,
        vectors: impl Iterator<Item = &'v [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        self.file.put(self.offsets[chunk], vectors.take(self.vectors), bytes)?;
        *self.handed[chunk].lock().unwrap_or_else(PoisonError::into_inner) = Some(handed);
        Ok(())
    }

    /// Gives them back; `None` where the chunk was not walked yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::analyze) fn take<'v>(
        &self,
        chunk: usize,
        vectors: impl Iterator<Item = &'v mut [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<Handed>> {
        let handed = self.handed[chunk].lock().unwrap_or_else(PoisonError::into_inner).take();
        if handed.is_some() {
            self.file.read(self.offsets[chunk], vectors.take(self.vectors), bytes)?;
        }
        Ok(handed)
    }
}
