//! The second phase, forward: rows from sums.

use std::ops::Range;
use std::path::Path;

use super::record::{Part, Record};
use super::spool::Spool;
use super::walk::{Walk, Walks};
use super::{Analysis, Mode, Sink};
use crate::error::Result;
use crate::metrics::bias::{Entry, LAG, Spread, bias};
use crate::metrics::response::Past;
use crate::reference::weights::Weights;
use crate::row::{Names, Row, Scalars};
use crate::stream;
use crate::sums::{Flags, Sums};

/// Steps of a window of `t_excess` where no epochs are recorded.
const WINDOW: u64 = 50;
/// Most weight that a reference may put on the iterates between a direction and the later iterate
/// that it is compared with.
const LITTLE: f64 = 0.01;

/// What the gradients before a step have left behind, for each walk.
struct Pasts {
    /// By walk, group and part.
    states: Vec<Vec<Vec<Past>>>,
    /// By walk: the last recorded step, and the norms there by group and part.
    lower: Vec<Option<(u64, Vec<Vec<f64>>)>>,
    /// By walk: steps entered by interpolated norms.
    sampled: Vec<bool>,
}

/// The row of a record that is being derived.
#[derive(Clone, Copy)]
struct Place {
    reference: usize,
    stream: usize,
    group: usize,
}

impl Analysis<'_> {
    /// Derives the rows of every measured step.
    pub(super) fn derive(
        &self,
        spool: &mut Spool,
        steps: &[u64],
        scratch: &Path,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let mut walks = self.walk_back(spool, steps, scratch)?;
        let mut pasts = Pasts::new(self, &walks);
        let (mut words, mut values) = (Vec::new(), Vec::new());
        for window in self.windows(steps) {
            let spreads = self.spreads(spool, &mut walks, steps.len(), window.clone())?;
            for i in window {
                spool.read(i, &mut words)?;
                walks.read(i, steps.len())?;
                let record = Record { shape: &self.shape, words: &words };
                pasts.reach(self, &walks, &record);
                for (k, place) in self.places().enumerate() {
                    let flags = record.sums(place.group, &mut values);
                    let Some((sums, scale)) = self.sums(&record, &values, flags, place) else { continue };
                    let entry = self.entry(&record, place, scale, &walks, Some(&pasts));
                    let group = &self.options.groups[place.group];
                    let (step, reference) = (steps[i], &self.references[place.reference]);
                    let names = Names {
                        reference: &reference.name,
                        stream: &self.options.streams[place.stream].name,
                        group: &group.name,
                    };
                    let kit = bias(&sums, group.parameters, entry);
                    let mut row = Row::new(step, self.scalars(step, place.group), names, group, sums, kit);
                    row.t_excess = spreads[k].t();
                    row.sampled = self.sampled(place, &walks, &pasts);
                    row.provisional = reference.provisional;
                    sink.row(&row)?;
                }
                pasts.take_in(self, &walks, &record);
            }
        }
        Ok(())
    }

    /// Reference, stream and group of the rows of a step, in their order.
    fn places(&self) -> impl Iterator<Item = Place> + use<'_> {
        let (streams, groups) = (self.options.streams.len(), self.options.groups.len());
        (0..self.references.len()).flat_map(move |reference| {
            (0..streams)
                .flat_map(move |stream| (0..groups).map(move |group| Place { reference, stream, group }))
        })
    }

    /// Cuts the measured steps into epochs, or into windows of 50 steps where none are recorded.
    fn windows(&self, steps: &[u64]) -> Vec<Range<usize>> {
        let epochs = self.catalog.has_scalar("epoch");
        let key = |step: u64| {
            let epoch = epochs.then(|| self.catalog.latest(step, "epoch").map(|e| e.floor().to_bits()));
            epoch.unwrap_or(Some(step / WINDOW))
        };
        let mut windows = Vec::new();
        let mut start = 0;
        for i in 1..=steps.len() {
            if i == steps.len() || key(steps[i]) != key(steps[start]) {
                windows.push(start..i);
                start = i;
            }
        }
        windows
    }

    /// Mean and spread of the excess over a window, for every place.
    fn spreads(
        &self,
        spool: &mut Spool,
        walks: &mut Walks,
        count: usize,
        window: Range<usize>,
    ) -> Result<Vec<Spread>> {
        let mut spreads = vec![Spread::default(); self.places().count()];
        let (mut words, mut values) = (Vec::new(), Vec::new());
        for i in window {
            spool.read(i, &mut words)?;
            walks.read(i, count)?;
            let record = Record { shape: &self.shape, words: &words };
            for (spread, place) in spreads.iter_mut().zip(self.places()) {
                let flags = record.sums(place.group, &mut values);
                if let Some((sums, scale)) = self.sums(&record, &values, flags, place) {
                    let entry = self.entry(&record, place, scale, walks, None);
                    spread.add(bias(&sums, 1, entry).cos_excess);
                }
            }
        }
        Ok(spreads)
    }

    /// The sums of a place, and what its stream was divided by; `None` where it has no row.
    fn sums(&self, record: &Record<'_>, values: &[f64], flags: Flags, place: Place) -> Option<(Sums, f64)> {
        let stream = &self.options.streams[place.stream];
        let d = stream.direction;
        if !record.recorded(d) {
            return None;
        }
        let mut sums = Sums::of(self.shape.layout, values, flags, d, place.reference);
        let step = record.step();
        if !self.comparable(place.reference, step) {
            sums.dot_lag = None;
        }
        if !stream.unclipped {
            return Some((sums, 1.0));
        }
        let scale = self.catalog.scalar(step, "clip_coef").filter(|c| *c != 0.0)?;
        Some((sums.scaled(scale), scale))
    }

    /// Whether a reference is made of iterates after x_{t+lag} nearly alone.
    fn comparable(&self, reference: usize, step: u64) -> bool {
        let weights = &self.references[reference].weights;
        weights.last().is_none_or(|last| step + LAG <= last) && weights.mass(step + 1..step + LAG) <= LITTLE
    }

    /// What is known of how the stream of a place enters its reference. Without `pasts` the length
    /// of the walk is left out.
    fn entry(
        &self,
        record: &Record<'_>,
        place: Place,
        scale: f64,
        walks: &Walks,
        pasts: Option<&Pasts>,
    ) -> Entry {
        let stream = &self.options.streams[place.stream];
        let weights = &self.references[place.reference].weights;
        // The path is made of it, so a walk is a comparison even where none of it is in r.
        let walk2 = (stream.part != stream::Part::None).then_some(0.0);
        if *weights == Weights::None || weights.last().is_some_and(|last| record.step() >= last) {
            return Entry::Known { own: 0.0, walk2 };
        }
        if self.modes[place.reference][place.stream] == Mode::Lagged {
            return Entry::Lagged;
        }
        let direction = stream.direction;
        let is = |w: &Walk| w.reference == place.reference && w.direction == direction;
        let Some(w) = walks.all.iter().position(is) else {
            return Entry::Lagged;
        };
        let ahead = walks.ahead(w);
        let parts: &[Part] = &self.shape.parts[place.group];
        let terms =
            parts.iter().map(|p| ahead.adjoint(p.param_group).h * record.g2(place.group, p, direction));
        let own = terms.sum::<f64>() / scale;
        let walk2 = pasts.map(|pasts| {
            let past = |(i, p): (usize, &Part)| {
                pasts.states[w][place.group][i].distance2(&ahead.adjoint(p.param_group))
            };
            let behind = if walks.past[w] { parts.iter().enumerate().map(past).sum() } else { 0.0 };
            ahead.distance2(place.group) + behind
        });
        Entry::Known { own, walk2 }
    }

    /// Whether steps that were not recorded as vectors have entered.
    fn sampled(&self, place: Place, walks: &Walks, pasts: &Pasts) -> bool {
        let direction = self.options.streams[place.stream].direction;
        let is = |w: &Walk| w.reference == place.reference && w.direction == direction;
        walks
            .all
            .iter()
            .position(is)
            .is_some_and(|w| walks.ahead(w).sampled() || (walks.past[w] && pasts.sampled[w]))
    }

    /// The scalars of a step that rows of a group carry.
    fn scalars(&self, step: u64, group: usize) -> Scalars {
        let mut groups = self.shape.parts[group].iter().map(|p| self.hyperparameters.lr(p.param_group, step));
        let first = groups.next().flatten();
        let agree = groups.all(|lr| lr.map(f64::to_bits) == first.map(f64::to_bits));
        let scalar = |name| self.catalog.scalar(step, name);
        Scalars { epoch: scalar("epoch"), loss: scalar("loss"), lr: first.filter(|_| agree) }
    }
}

impl Pasts {
    fn new(analysis: &Analysis<'_>, walks: &Walks) -> Pasts {
        let of_group = |parts: &Vec<Part>| vec![Past::default(); parts.len()];
        let of_walk = || analysis.shape.parts.iter().map(of_group).collect();
        let count = walks.all.len();
        Pasts {
            states: (0..count).map(|_| of_walk()).collect(),
            lower: vec![None; count],
            sampled: vec![false; count],
        }
    }

    /// Goes up to the step of `record`, through steps that were not recorded, with norms between
    /// those of the recorded steps around them.
    fn reach(&mut self, analysis: &Analysis<'_>, walks: &Walks, record: &Record<'_>) {
        let step = record.step();
        for (w, walk) in walks.all.iter().enumerate() {
            if !walks.past[w] || !record.recorded(walk.direction) {
                continue;
            }
            let upper = norms(record, walk.direction);
            let (from, lower) = match self.lower[w].take() {
                Some((last, lower)) => (last + 1, lower),
                None => {
                    self.start(analysis, walks, w, record);
                    (analysis.catalog.steps.start, upper.clone())
                }
            };
            for s in from..step {
                self.sampled[w] = true;
                let share = (s + 1 - from) as f64 / (step + 1 - from) as f64;
                let between = |g: usize, p: usize| lower[g][p] + share * (upper[g][p] - lower[g][p]);
                self.after(analysis, walks, w, s, between);
            }
            self.lower[w] = Some((step, upper));
        }
    }

    /// Before the first step there is only x_0.
    fn start(&mut self, analysis: &Analysis<'_>, walks: &Walks, w: usize, record: &Record<'_>) {
        let weights = &analysis.references[walks.all[w].reference].weights;
        let known = record.step() == 0;
        for (g, parts) in analysis.shape.parts.iter().enumerate() {
            for (p, part) in parts.iter().enumerate() {
                let x2 = if known { record.x2(g, part) } else { 0.0 };
                self.states[w][g][p] = Past::start(x2, weights.at(0));
            }
        }
    }

    /// Takes in the recorded step itself.
    fn take_in(&mut self, analysis: &Analysis<'_>, walks: &Walks, record: &Record<'_>) {
        for w in 0..walks.all.len() {
            if let Some((step, norms)) = self.lower[w].clone()
                && step == record.step()
            {
                self.after(analysis, walks, w, step, |g, p| norms[g][p]);
            }
        }
    }

    /// Update s, with norms by group and part.
    fn after(
        &mut self,
        analysis: &Analysis<'_>,
        walks: &Walks,
        w: usize,
        s: u64,
        norm: impl Fn(usize, usize) -> f64,
    ) {
        let walk = &walks.all[w];
        let weight = analysis.references[walk.reference].weights.at(s + 1);
        let updates: Vec<_> = analysis.updates(s).iter().map(|u| walk.update(u)).collect();
        for (g, parts) in analysis.shape.parts.iter().enumerate() {
            for (p, part) in parts.iter().enumerate() {
                let state = &mut self.states[w][g][p];
                *state = state.after(&updates[part.param_group], weight, norm(g, p).powi(2));
            }
        }
    }
}

/// Norms of a direction by group and part.
fn norms(record: &Record<'_>, direction: usize) -> Vec<Vec<f64>> {
    let of_group = |(g, parts): (usize, &Vec<Part>)| -> Vec<f64> {
        parts.iter().map(|p| record.g2(g, p, direction).sqrt()).collect()
    };
    record.shape.parts.iter().enumerate().map(of_group).collect()
}
