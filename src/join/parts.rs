//! The steps that each run gives, and how they are read one after the other.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::join::refused;
use crate::pack::refuse;
use crate::pack::transcript::Steps;
use crate::run::Run;
use crate::run::read::step_reader::StepBytes;
use crate::run::read::whole_steps::WholeSteps;

/// A run, and the steps that it gives.
pub(super) struct Part {
    pub(super) run: Run,
    pub(super) steps: Range<u64>,
}

impl Part {
    /// The parts of runs that follow each other: each gives the steps before the next one begins, the last one all.
    ///
    /// # Errors
    /// A shard is missing, or the last one has no step.
    pub(super) fn all(runs: Vec<Run>) -> Result<Vec<Part>> {
        let begins: Vec<u64> = runs.iter().map(first_step).collect();
        let mut parts = Vec::new();
        for (i, run) in runs.into_iter().enumerate() {
            let end = begins.get(i + 1).copied().unwrap_or_else(|| end(&run));
            let part = Part { steps: begins[i]..end, run };
            check_shards(&part.run, end)?;
            if i + 1 == begins.len() {
                part.run.closing_conflict().map_or(Ok(()), Err)?;
            }
            if part.steps.is_empty() {
                return refused(&part.run.path, "no step of it is published by all of its ranks".to_owned());
            }
            parts.push(part);
        }
        Ok(parts)
    }

    fn read(&self) -> Result<WholeSteps<'_>> {
        WholeSteps::new(&self.run, self.steps.clone())
    }
}

/// The step with which a run begins.
pub(super) fn first_step(run: &Run) -> u64 {
    run.ranks().map(|rank| run.first_of_rank(rank)).min().unwrap_or(0)
}

/// The step after the last one that all ranks have published without a gap before it.
pub(super) fn end(run: &Run) -> u64 {
    run.ranks().map(|rank| run.end_of_rank(rank)).min().unwrap_or(0)
}

/// Checks that no shard with steps below `end` is missing.
///
/// # Errors
/// One is.
pub(super) fn check_shards(run: &Run, end: u64) -> Result<()> {
    let counts = |e: &Error| matches!(e, Error::MissingShard { first, .. } if *first < end);
    run.missing().into_iter().find(counts).map_or(Ok(()), |e| Err(refuse(&run.path, e)))
}

/// The steps of all parts, as whole tensors.
pub(super) struct Consecutive<'a> {
    now: WholeSteps<'a>,
    rest: &'a [Part],
}

impl<'a> Consecutive<'a> {
    /// From the first step of `first` on.
    ///
    /// # Errors
    /// A decoder cannot be made.
    pub(super) fn new(first: &'a Part, rest: &'a [Part]) -> Result<Consecutive<'a>> {
        Ok(Consecutive { now: first.read()?, rest })
    }
}

impl Steps for Consecutive<'_> {
    fn read(&mut self, out: &mut StepBytes) -> Result<bool> {
        while !self.now.read(out)? {
            let Some((next, rest)) = self.rest.split_first() else {
                return Ok(false);
            };
            (self.now, self.rest) = (next.read()?, rest);
        }
        Ok(true)
    }

    fn take_read(&mut self) -> u64 {
        self.now.take_read()
    }

    fn run(&self) -> &Run {
        self.now.run()
    }

    fn chunks(&self) -> u64 {
        self.run().table.len() as u64
    }
}
