//! The records of a part: a step each, of the pieces of its share.

use crate::analyze::{Analysis, Aside, Share, Taken, TakenRecord};
use crate::error::{Error, Result};
use crate::parts::file::{OpenPart, Part, PartWriter, Section};

/// Words of records that are read at a time.
const AT_ONCE: usize = 1 << 19;

/// The records of a part.
pub(super) struct Pieces<'a> {
    part: &'a Part,
    open: OpenPart<'a>,
    section: Section,
    record: TakenRecord,
    /// Steps, ascending, and which record each has.
    pub(super) places: Vec<(u64, usize)>,
}

impl<'a> Pieces<'a> {
    /// Those of a share.
    ///
    /// # Errors
    /// They are not those of this analysis, or cannot be read.
    pub(super) fn open(
        analysis: &Analysis<'_>,
        share: &Share,
        part: &'a Part,
        number: usize,
    ) -> Result<Pieces<'a>> {
        let all = Pieces::open_all(analysis, share, part, number)?;
        let wanted = share.steps(analysis.candidates());
        let is_wanted = |(step, _): &(u64, usize)| wanted.binary_search(step).is_ok();
        if all.places.iter().all(is_wanted) { Ok(all) } else { Err(unfit(part)) }
    }

    /// Those of a share that are there, whatever their steps.
    fn open_all(analysis: &Analysis<'_>, share: &Share, part: &'a Part, number: usize) -> Result<Pieces<'a>> {
        let open = part.open()?;
        let section = open.section(number)?.clone();
        let steps = open.words(section.steps)?;
        let mut places: Vec<(u64, usize)> = steps.into_iter().enumerate().map(|(i, s)| (s, i)).collect();
        places.sort_unstable();
        if places.windows(2).any(|w| w[0].0 == w[1].0) {
            return Err(unfit(part));
        }
        Ok(Pieces { part, open, section, record: analysis.record(share), places })
    }

    /// Those of all steps of a run before one.
    ///
    /// # Errors
    /// They are not those of this analysis, or cannot be read.
    pub(super) fn before(analysis: &Analysis<'_>, part: &'a Part, step: u64) -> Result<Pieces<'a>> {
        let mut all = Pieces::open_all(analysis, &Share::ALL, part, 0)?;
        all.places.retain(|(at, _)| *at < step);
        Ok(all)
    }

    /// Writes them once more, and says of which steps they are.
    ///
    /// # Errors
    /// They are not there, or cannot be written.
    pub(super) fn copy(&self, writer: &mut PartWriter, steps: &mut Vec<u64>) -> Result<()> {
        let words = self.words();
        for some in self.places.chunks(at_once(words)) {
            for run in some.chunk_by(|a, b| a.1 + 1 == b.1) {
                let Some((_, first)) = run.first() else { continue };
                writer.words(&self.open.records(&self.section, words, (*first, run.len()))?)?;
                steps.extend(run.iter().map(|(step, _)| *step));
            }
        }
        Ok(())
    }

    /// Adds what was found on the side and kept besides to that of later steps.
    ///
    /// # Errors
    /// It is not that of this analysis, or cannot be read.
    pub(super) fn add_aside(&self, analysis: &Analysis<'_>, step: u64, aside: &mut Aside) -> Result<()> {
        self.open.add_aside(&self.section, aside)?;
        let [sample, common] = self.open.besides(&self.section)?;
        if analysis.add_besides(&(0..step), [&sample, &common]) { Ok(()) } else { Err(self.unfit()) }
    }

    /// Words of a record.
    pub(super) fn words(&self) -> usize {
        self.record.words()
    }

    /// Adds the records at some places.
    ///
    /// # Errors
    /// They are of other steps, or cannot be read.
    pub(super) fn add(&self, places: &[(u64, usize)], taken: &mut Taken) -> Result<()> {
        let words = self.record.words();
        for run in places.chunk_by(|a, b| a.1 + 1 == b.1) {
            let Some((_, first)) = run.first() else { continue };
            let read = self.open.records(&self.section, words, (*first, run.len()))?;
            for ((step, _), record) in run.iter().zip(read.chunks_exact(words)) {
                if record[0] != *step || !taken.add(&self.record, record) {
                    return Err(self.unfit());
                }
            }
        }
        Ok(())
    }

    /// The error for what it does not hold.
    pub(super) fn unfit(&self) -> Error {
        unfit(self.part)
    }
}

/// How many records of so many words are read at a time.
pub(super) fn at_once(words: usize) -> usize {
    (AT_ONCE / words.max(1)).max(1)
}

/// The error for a part that is whole and does not hold what is asked of it.
pub(super) fn unfit(part: &Part) -> Error {
    Error::damaged(&part.path, "it does not hold what is asked of it; remove it, and make it again")
}
