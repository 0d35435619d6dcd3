//! Settles what was measured of each step, in the order of steps, whichever order windows come in.
//!
//! What single tensors do, whether the path is the optimizer's, and the sums of groups are taken from the sums of
//! all tensors at a step. Where windows are walked from the last to the first, those wait in a file.

use std::path::Path;

use crate::analyze::measure::path::Check;
use crate::analyze::measure::taken::Taken;
use crate::analyze::measure::told::{GradientDirection, Seen, Told};
use crate::analyze::measure::unit::Measurement;
use crate::analyze::skipped::Skipped;
use crate::analyze::spool::Spool;
use crate::analyze::{Analysis, Measured};
use crate::error::Result;
use crate::run::Run;
use crate::run::format::manifest::GRAD;
use crate::sums::{Cells, Flags, SumRow};

/// What was measured of a step.
struct Entry {
    step: u64,
    /// One bit a direction: it was recorded.
    recorded: u64,
    /// The sums by tensor.
    totals: Cells,
    /// What the storage of the next iterate tells, by tensor.
    told: Vec<Told>,
}

/// What the storage of a step's next iterate tells, by tensor.
fn told(run: &Run, pieces: &[Measurement], row: usize) -> Vec<Told> {
    let mut told: Vec<Option<Told>> = vec![None; run.manifest.tensors.len()];
    for (piece, measured) in run.table.pieces().zip(pieces) {
        let (own, of_tensor) = (measured.told[row], &mut told[piece.tensor]);
        *of_tensor = Some(of_tensor.map_or(own, |t| t.and(own)));
    }
    told.into_iter().map(Option::unwrap_or_default).collect()
}

/// Where entries go.
pub(crate) struct Book {
    check: Option<Check>,
    along: Option<GradientDirection>,
    /// Entries that wait, the last step first, and how many there are.
    waiting: Option<(Spool, usize)>,
    words: Vec<u64>,
}

impl Book {
    /// For entries that come in the order of steps, or `backward`.
    pub(crate) fn new(analysis: &Analysis<'_>, backward: bool, scratch: &Path) -> Book {
        let width = analysis.shape.layout.width();
        let words = 2 + analysis.run.manifest.tensors.len() * (width + 1 + Told::WORDS);
        Book {
            check: analysis.check(),
            along: GradientDirection::find(
                &analysis.options.directions,
                analysis.run.manifest.stream_id(GRAD),
            ),
            waiting: backward.then(|| (Spool::new(words, scratch), 0)),
            words: Vec::new(),
        }
    }

    /// Folds what pieces have at some steps, and takes it: but of steps that are left out.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn take(
        &mut self,
        analysis: &Analysis<'_>,
        taken: &Taken,
        left_out: &Skipped,
        out: &mut Measured,
    ) -> Result<()> {
        let cells: Vec<&Cells> = taken.pieces.iter().map(|p| &p.cells).collect();
        for row in 0..taken.steps.len() {
            let row = if self.waiting.is_some() { taken.steps.len() - 1 - row } else { row };
            let (step, recorded) = (taken.steps[row], taken.recorded[row]);
            if left_out.contains(step) {
                continue;
            }
            let mut totals = analysis.shape.totals(analysis.run, &cells, row);
            if let Some(sketches) = &analysis.sketches {
                let (squares, elements) = taken.scalars[row].split_at(sketches.scalars().len());
                sketches.estimate(&mut totals, squares);
                if let Some(sample) = &analysis.sample {
                    sample.keep_scalars(step, elements);
                }
            }
            let told = told(analysis.run, &taken.pieces, row);
            self.enter(analysis, &Entry { step, recorded, totals, told }, out)?;
        }
        Ok(())
    }

    /// Takes the next entry.
    fn enter(&mut self, analysis: &Analysis<'_>, entry: &Entry, out: &mut Measured) -> Result<()> {
        let Some((spool, count)) = &mut self.waiting else {
            return self.settle(analysis, entry, out);
        };
        self.words.clear();
        self.words.extend([entry.step, entry.recorded]);
        for (row, told) in entry.totals.rows().zip(&entry.told) {
            self.words.extend(row.words());
            self.words.push(row.flags.to_bits());
            self.words.extend(told.to_words());
        }
        *count += 1;
        spool.push(&self.words)
    }

    fn settle(&mut self, analysis: &Analysis<'_>, entry: &Entry, out: &mut Measured) -> Result<()> {
        let Entry { step, recorded, totals, told } = entry;
        let shape = &analysis.shape;
        out.facts.see(*step, shape.ends(), totals);
        if let Some(check) = &mut self.check {
            let along = self.along.filter(|a| recorded >> a.direction & 1 == 1);
            let updates = analysis.linear_updates(&[*step]);
            check.take(
                *step,
                totals.rows().zip(told).map(|(row, told)| Seen::of(row, along, *told)).collect(),
                Analysis::taken(&updates, *step, along),
            );
        }
        let record = shape.fold(analysis.run, &analysis.options.groups, (*step, *recorded), totals);
        out.push(*step, *recorded, &record)
    }

    /// Settles what waits.
    ///
    /// # Errors
    /// A file without a name cannot be read, or a reference.
    pub(crate) fn close(mut self, analysis: &Analysis<'_>, out: &mut Measured) -> Result<()> {
        if let Some((mut spool, count)) = self.waiting.take() {
            let layout = analysis.shape.layout;
            let mut words = Vec::new();
            for i in (0..count).rev() {
                spool.read(i, &mut words)?;
                let totals = Cells::with_capacity(layout, analysis.run.manifest.tensors.len());
                let mut entry = Entry { step: words[0], recorded: words[1], totals, told: Vec::new() };
                for tensor in words[2..].chunks_exact(layout.width() + 1 + Told::WORDS) {
                    let (sums, rest) = tensor.split_at(layout.width());
                    entry.totals.push(SumRow::from_words(layout, sums, Flags::from_bits(rest[0])));
                    entry.told.push(Told::from_words([rest[1], rest[2]]));
                }
                self.settle(analysis, &entry, out)?;
            }
        }
        if let Some(check) = self.check {
            let squares = analysis.end_squares(out.steps.last().copied())?;
            out.departures = check.finish(|t| squares.as_ref().map(|s| s[t]));
        }
        Ok(())
    }
}
