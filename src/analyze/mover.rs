//! Tensors that move together: those of a parameter group that have a gradient at the same steps.
//!
//! PyTorch does nothing to a parameter without a gradient, its buffers included. So what a reference holds of a
//! gradient is a recursion over the steps at which its tensor has one.

use crate::optimizer::linear::Update;
use crate::optimizer::{Elementwise, Hyperparameters};
use crate::run::format::manifest::Manifest;
use crate::run::read::absence::Absence;
use crate::run::read::catalog::Catalog;

/// Most sets of tensors that are told apart: each has a recursion of its own.
const MOST: usize = 64;

/// Tensors of one parameter group with a gradient at the same steps.
struct Mover<'a> {
    param_group: usize,
    absence: Option<&'a Absence>,
    /// By range of the absence: how many steps lie in those before.
    before: Vec<u64>,
}

/// How the tensors of a run fall into such sets.
pub(crate) struct Movers<'a> {
    all: Vec<Mover<'a>>,
    /// By tensor: its set.
    of: Vec<usize>,
    /// By tensor: it has a gradient at some steps only, and at which is not told apart.
    irregular: Vec<bool>,
}

impl<'a> Movers<'a> {
    /// Those of a run.
    pub(crate) fn new(manifest: &Manifest, catalog: &'a Catalog) -> Movers<'a> {
        let mut keys: Vec<(usize, Option<usize>)> = (0..manifest.param_groups()).map(|g| (g, None)).collect();
        let (mut of, mut irregular) = (Vec::new(), Vec::new());
        for (t, info) in manifest.tensors.iter().enumerate() {
            let key = (info.param_group, catalog.absence(t));
            let known = keys.iter().position(|k| *k == key);
            let place = known.or_else(|| {
                (keys.len() < MOST + manifest.param_groups()).then(|| {
                    keys.push(key);
                    keys.len() - 1
                })
            });
            let sometimes = catalog.absent(t) == [true, true];
            irregular.push(sometimes && (key.1.is_none() || place.is_none()));
            of.push(place.unwrap_or(info.param_group));
        }
        let absence = |pattern: Option<usize>| catalog.absences()?.get(pattern?);
        let mover = |(param_group, pattern)| {
            let absence = absence(pattern);
            let before = absence.map_or(&[][..], Absence::ranges).iter().scan(0, |sum, range| {
                *sum += range.end - range.start;
                Some(*sum + range.start - range.end)
            });
            Mover { param_group, absence, before: before.collect() }
        };
        Movers { all: keys.into_iter().map(mover).collect(), of, irregular }
    }

    /// How many sets there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The set of a tensor.
    pub(crate) fn of(&self, tensor: usize) -> usize {
        self.of[tensor]
    }

    /// The parameter group of a set.
    pub(crate) fn param_group(&self, mover: usize) -> usize {
        self.all[mover].param_group
    }

    /// Whether it is not known at which steps a tensor has a gradient.
    pub(crate) fn is_irregular(&self, tensor: usize) -> bool {
        self.irregular[tensor]
    }

    /// Whether the tensors of a set have no gradient at a step.
    fn rests(&self, mover: usize, step: u64) -> bool {
        self.all[mover].absence.is_some_and(|a| a.contains(step))
    }

    /// Which of its steps a tensor takes at a step of the run, counting from 1.
    fn count(&self, mover: usize, step: u64) -> u64 {
        let Mover { absence, before, .. } = &self.all[mover];
        let ranges = absence.map_or(&[][..], Absence::ranges);
        let absent = ranges
            .partition_point(|r| r.start < step)
            .checked_sub(1)
            .map_or(0, |i| before[i] + ranges[i].end.min(step) - ranges[i].start);
        step + 1 - absent
    }

    /// The update of a set at a step, as [`Hyperparameters::update`].
    pub(crate) fn update(&self, hyper: &Hyperparameters<'_>, mover: usize, step: u64) -> Option<Update> {
        if self.rests(mover, step) {
            return Some(Update::NOTHING);
        }
        hyper.update(self.all[mover].param_group, step, self.count(mover, step))
    }

    /// The same, as [`Hyperparameters::elementwise`]; `None` also where there is no gradient.
    pub(crate) fn elementwise(
        &self,
        hyper: &Hyperparameters<'_>,
        mover: usize,
        step: u64,
    ) -> Option<Elementwise> {
        if self.rests(mover, step) {
            return None;
        }
        hyper.elementwise(self.all[mover].param_group, step, self.count(mover, step))
    }
}
