//! The sums of pieces at some steps: what is handed from who reads vectors to who folds.
//!
//! Owns the words that they are in a file. Knows nothing of windows, nor of what sums are folded to.

use crate::analyze::measure::told::Told;
use crate::analyze::measure::unit::Measurement;
use crate::sums::{Cells, Flags, Layout, SumRow};

/// What pieces have at some steps.
pub(crate) struct Taken {
    /// The steps, ascending.
    pub(crate) steps: Vec<u64>,
    /// By step: one bit a direction, that it was recorded.
    pub(crate) recorded: Vec<u64>,
    /// By step: the scalars that sketches need; none elsewhere.
    pub(crate) scalars: Vec<Vec<Option<f64>>>,
    /// By piece, in the order of the fold. Those of other shares have no rows.
    pub(crate) pieces: Vec<Measurement>,
}

/// What the words of a step are of.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) layout: Layout,
    pub(crate) scalars: usize,
    /// Numbers of the pieces, ascending.
    pub(crate) pieces: Vec<usize>,
}

impl Record {
    fn of_piece(&self) -> usize {
        self.layout.width() + 1 + Told::WORDS
    }

    /// Words a step: the step, what was recorded, scalars, pieces.
    pub(crate) fn words(&self) -> usize {
        2 + 2 * self.scalars + self.pieces.len() * self.of_piece()
    }
}

impl Taken {
    /// Of no step.
    pub(crate) fn new(layout: Layout, pieces: usize) -> Taken {
        let none = Measurement { cells: Cells::with_capacity(layout, 0), told: Vec::new() };
        Taken { steps: Vec::new(), recorded: Vec::new(), scalars: Vec::new(), pieces: vec![none; pieces] }
    }

    /// Puts what pieces have at the step in a row into words.
    pub(crate) fn put(&self, row: usize, record: &Record, words: &mut Vec<u64>) {
        words.extend([self.steps[row], self.recorded[row]]);
        let scalar = |v: &Option<f64>| [u64::from(v.is_some()), v.map_or(0, f64::to_bits)];
        words.extend(self.scalars[row].iter().flat_map(scalar));
        for &number in &record.pieces {
            let Measurement { cells, told } = &self.pieces[number];
            let sums = cells.row(row);
            words.extend(sums.words());
            words.push(sums.flags.to_bits());
            words.extend(told[row].to_words());
        }
    }

    /// Adds the next step of some pieces from such words. False where it is another step than the one that other pieces
    /// have there.
    pub(crate) fn add(&mut self, record: &Record, words: &[u64]) -> bool {
        let (head, rest) = words.split_at(2);
        let (scalars, rest) = rest.split_at(2 * record.scalars);
        let row = record.pieces.first().map_or(self.steps.len(), |p| self.pieces[*p].told.len());
        if row < self.steps.len() {
            if head != [self.steps[row], self.recorded[row]] {
                return false;
            }
        } else {
            self.steps.push(head[0]);
            self.recorded.push(head[1]);
            let scalars = scalars.as_chunks::<2>().0.iter();
            self.scalars.push(scalars.map(|[is, bits]| (*is == 1).then(|| f64::from_bits(*bits))).collect());
        }
        for (&number, words) in record.pieces.iter().zip(rest.chunks_exact(record.of_piece())) {
            let (sums, rest) = words.split_at(record.layout.width());
            let Measurement { cells, told } = &mut self.pieces[number];
            cells.push(SumRow::from_words(record.layout, sums, Flags::from_bits(rest[0])));
            told.push(Told::from_words([rest[1], rest[2]]));
        }
        true
    }
}
