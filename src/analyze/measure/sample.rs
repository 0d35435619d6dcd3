//! Some elements of the gradients at some steps, to see how skewed they are.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::run::Run;
use crate::run::format::chunk::Piece;

/// Elements, spread over the model.
const ELEMENTS: u64 = 256;
/// Steps at most, spread over the run.
const STEPS: usize = 4096;

/// Elements that are kept as they come, from any thread.
#[derive(Debug)]
pub(crate) struct Sample {
    /// By piece: the number of its first element among all, and where its elements lie.
    places: Vec<(usize, Vec<usize>)>,
    /// Ascending.
    steps: Vec<u64>,
    /// By element and step: the bits of the value.
    values: Vec<AtomicU32>,
}

impl Sample {
    /// Of a run, at some of `steps`.
    pub(crate) fn new(run: &Run, steps: &[u64]) -> Sample {
        let every = steps.len().div_ceil(STEPS).max(1);
        let steps: Vec<u64> = steps.iter().copied().step_by(every).collect();
        let all = run.manifest.elements();
        let count = ELEMENTS.min(all);
        let apart = all.checked_div(count).unwrap_or(0);
        let mut elements = (0..count).map(|k| k * apart + apart / 2);
        let (mut next, mut number, mut begin) = (elements.next(), 0, 0);
        let mut place = |piece: &Piece| {
            let (first, end, mut inside) = (number, begin + piece.len as u64, Vec::new());
            while let Some(element) = next.filter(|e| *e < end) {
                inside.push(usize::try_from(element - begin).unwrap_or(0));
                number += 1;
                next = elements.next();
            }
            begin = end;
            (first, inside)
        };
        let places: Vec<_> = run.table.pieces().map(&mut place).collect();
        let values = (0..number * steps.len()).map(|_| AtomicU32::new(f32::NAN.to_bits())).collect();
        Sample { places, steps, values }
    }

    /// Whether something of a piece, by number, is kept at a step.
    pub(crate) fn wants(&self, piece: usize, step: u64) -> bool {
        !self.places[piece].1.is_empty() && self.steps.binary_search(&step).is_ok()
    }

    /// Keeps what is to be kept of a piece's gradient.
    pub(crate) fn keep(&self, piece: usize, step: u64, g: &[f32]) {
        let Ok(at) = self.steps.binary_search(&step) else { return };
        let (first, inside) = &self.places[piece];
        for (k, &i) in inside.iter().enumerate() {
            self.values[(first + k) * self.steps.len() + at].store(g[i].to_bits(), Ordering::Relaxed);
        }
    }

    /// The elements, each with its values in the order of steps; NaN where there is none.
    pub(crate) fn elements(&self) -> impl Iterator<Item = Vec<f32>> {
        let value = |v: &AtomicU32| f32::from_bits(v.load(Ordering::Relaxed));
        self.values.chunks(self.steps.len().max(1)).map(move |all| all.iter().map(value).collect())
    }
}
