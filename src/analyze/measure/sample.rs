//! Some elements of the gradients at some steps, to see how skewed they are.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::dtype::single;
use crate::run::Run;
use crate::run::format::chunk::Piece;
use crate::run::format::elements::{element_name, spread};
use crate::run::format::manifest::TensorInfo;

/// Steps at most, spread over the run.
const STEPS: usize = 4096;
/// The bits of a value that is not there.
const NONE: u32 = f32::NAN.to_bits();

/// Elements that are kept as they come, from any thread.
#[derive(Debug)]
pub(crate) struct Sample {
    /// By piece: the number of its first element among all, and where its elements lie; none of sketches.
    places: Vec<(usize, Vec<usize>)>,
    /// By element: the scalar that it is beside sketches; none elsewhere.
    scalars: Vec<String>,
    /// Ascending.
    steps: Vec<u64>,
    /// By element and step: the bits of the value.
    values: Vec<AtomicU32>,
}

impl Sample {
    /// Of a run, at some of `steps`.
    pub(crate) fn new(run: &Run, steps: &[u64]) -> Sample {
        // Those of a longer run are among those of a shorter one, as far as that goes.
        let every = steps.len().div_ceil(STEPS).next_power_of_two();
        let steps: Vec<u64> = steps.iter().copied().step_by(every).collect();
        let sizes: Vec<u64> = run.manifest.tensors.iter().map(TensorInfo::parameters).collect();
        let elements = spread(&sizes);
        let is_sketched = run.manifest.sketch.is_some();
        let (mut rest, mut number) = (elements.iter().peekable(), 0);
        let mut place = |piece: &Piece| {
            let (first, end, mut inside) = (number, piece.begin + piece.len as u64, Vec::new());
            // Pieces come in the order of tensors and elements.
            while let Some(element) = rest.next_if(|e| e.tensor == piece.tensor && e.at < end) {
                inside.push(usize::try_from(element.at - piece.begin).unwrap_or(0));
                number += 1;
            }
            (first, inside)
        };
        let places = if is_sketched { Vec::new() } else { run.table.pieces().map(&mut place).collect() };
        let scalars = if is_sketched { (0..elements.len()).map(element_name).collect() } else { Vec::new() };
        let values = (0..elements.len() * steps.len()).map(|_| AtomicU32::new(NONE)).collect();
        Sample { places, scalars, steps, values }
    }

    /// Whether something of a piece, by number, is kept at a step.
    pub(crate) fn wants(&self, piece: usize, step: u64) -> bool {
        self.places.get(piece).is_some_and(|(_, inside)| !inside.is_empty())
            && self.steps.binary_search(&step).is_ok()
    }

    /// Keeps what is to be kept of a piece's gradient.
    pub(crate) fn keep(&self, piece: usize, step: u64, g: &[f32]) {
        let Ok(at) = self.steps.binary_search(&step) else { return };
        let (first, inside) = &self.places[piece];
        for (k, &i) in inside.iter().enumerate() {
            self.values[(first + k) * self.steps.len() + at].store(g[i].to_bits(), Ordering::Relaxed);
        }
    }

    /// The scalars that it needs of some steps: none where vectors are no sketches.
    pub(crate) fn scalars(&self) -> &[String] {
        &self.scalars
    }

    /// Whether it needs them of a step.
    pub(crate) fn wants_scalars(&self, step: u64) -> bool {
        !self.scalars.is_empty() && self.steps.binary_search(&step).is_ok()
    }

    /// Keeps the elements that stand beside the sketches of a step: what it has of [`Self::scalars`].
    pub(crate) fn keep_scalars(&self, step: u64, scalars: &[Option<f64>]) {
        let Ok(at) = self.steps.binary_search(&step) else { return };
        for (k, value) in scalars.iter().enumerate().filter_map(|(k, value)| Some((k, (*value)?))) {
            self.values[k * self.steps.len() + at].store(single(value).to_bits(), Ordering::Relaxed);
        }
    }

    /// Gives up what was kept at steps that are left out.
    pub(crate) fn forget(&self, left_out: impl Fn(u64) -> bool) {
        for (at, _) in self.steps.iter().enumerate().filter(|(_, step)| left_out(**step)) {
            let of_step = self.values.iter().skip(at).step_by(self.steps.len());
            of_step.for_each(|v| v.store(NONE, Ordering::Relaxed));
        }
    }

    /// What is kept, as words: of each value the step, and the element before its bits.
    pub(crate) fn to_words(&self) -> Vec<u64> {
        let count = self.steps.len();
        let bits = self.values.iter().map(|v| v.load(Ordering::Relaxed)).enumerate();
        bits.filter(|(_, bits)| *bits != NONE)
            .flat_map(|(at, bits)| [self.steps[at % count], ((at / count) as u64) << 32 | u64::from(bits)])
            .collect()
    }

    /// Keeps what another process has kept at the steps of a range, as far as it is to be kept here; false where that is
    /// of another sample.
    pub(crate) fn add_words(&self, range: &Range<u64>, words: &[u64]) -> bool {
        let (values, rest) = words.as_chunks::<2>();
        let add = |[step, value]: &[u64; 2]| {
            let Ok(at) = self.steps.binary_search(step) else { return true };
            let element = usize::try_from(value >> 32).unwrap_or(usize::MAX);
            let place = element.checked_mul(self.steps.len()).and_then(|first| self.values.get(first + at));
            // The lower half has the bits.
            #[allow(clippy::cast_possible_truncation)]
            let bits = *value as u32;
            if let Some(place) = place.filter(|_| range.contains(step)) {
                place.store(bits, Ordering::Relaxed);
            }
            place.is_some()
        };
        rest.is_empty() && values.iter().all(add)
    }

    /// Whether it is known: sketches of before have no elements beside them.
    pub(crate) fn is_known(&self) -> bool {
        self.scalars.is_empty() || self.elements().flatten().any(|v| !v.is_nan())
    }

    /// The elements, each with its values in the order of steps; NaN where there is none.
    pub(crate) fn elements(&self) -> impl Iterator<Item = Vec<f32>> {
        let value = |v: &AtomicU32| f32::from_bits(v.load(Ordering::Relaxed));
        self.values.chunks(self.steps.len().max(1)).map(move |all| all.iter().map(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two elements.
    fn of(steps: &[u64]) -> Sample {
        let values = (0..2 * steps.len()).map(|_| AtomicU32::new(NONE)).collect();
        Sample { places: Vec::new(), scalars: Vec::new(), steps: steps.to_vec(), values }
    }

    fn put(sample: &Sample, step: u64, of_step: [f32; 2]) {
        let at = sample.steps.binary_search(&step).unwrap();
        for (k, value) in of_step.iter().enumerate() {
            sample.values[k * sample.steps.len() + at].store(value.to_bits(), Ordering::Relaxed);
        }
    }

    #[test]
    fn a_shorter_run_has_kept_what_a_longer_one_keeps_of_its_steps() {
        let (shorter, longer) = (of(&[0, 2, 4, 6]), of(&[0, 4, 8, 12, 16]));
        for step in [0, 2, 4, 6] {
            put(&shorter, step, [step as f32, 0.5]);
        }
        assert!(longer.add_words(&(0..4), &shorter.to_words()));
        let expected = |step: u64| if step == 0 { [0.0, 0.5].map(f32::to_bits) } else { [NONE; 2] };
        let found = |at: usize| [0, 1].map(|k| longer.values[5 * k + at].load(Ordering::Relaxed));
        assert!(longer.steps.iter().enumerate().all(|(at, step)| found(at) == expected(*step)));
        assert!(longer.add_words(&(0..9), &shorter.to_words()));
        assert_eq!(found(1), [4.0, 0.5].map(f32::to_bits));
        for other in [&[0, 2 << 32][..], &[0], &[0, u64::MAX]] {
            assert!(!longer.add_words(&(0..9), other), "{other:?}");
        }
    }
}
