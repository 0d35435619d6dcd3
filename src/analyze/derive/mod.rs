//! The second phase: rows from sums.

pub(crate) mod lag;
pub(crate) mod past;
pub(crate) mod walk;
pub(crate) mod windows;

use std::ops::Range;
use std::path::Path;

use crate::analyze::derive::past::Pasts;
use crate::analyze::derive::walk::{Enters, Walked};
use crate::analyze::derive::windows::windows;
use crate::analyze::measure::path::Departures;
use crate::analyze::record::{Part, Record};
use crate::analyze::{Analysis, Measured};
use crate::error::Result;
use crate::group::Group;
use crate::metrics::bias::{Window, bias};
use crate::metrics::entry::Entry;
use crate::metrics::interval::{Interval, intervals};
use crate::optimizer::Law;
use crate::reduce::spread::Spread;
use crate::reference::weights::Weights;
use crate::row::{Doubt, Names, Row, Scalars, Sink};
use crate::stream;
use crate::sums::{Spreads, Sums};

/// What a row speaks of, by number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) reference: usize,
    pub(crate) stream: usize,
    pub(crate) group: usize,
}

/// What both sweeps know beyond a record.
struct Known {
    walked: Walked,
    /// By walk and group: how a tensor moves on at steps where it has no gradient is not modelled.
    intermittent: Vec<Vec<bool>>,
    departures: Departures,
    places: Vec<Place>,
    /// `<s, x - r>` of shadows at the step at hand, by place.
    shadowed: Vec<f64>,
}

impl Known {
    /// Reads what is known at a measured step, by number.
    fn read(&mut self, measured: &mut Measured, index: usize) -> Result<()> {
        self.walked.read(index, measured.steps.len())?;
        measured.shadows.mean(measured.steps[index], &mut self.shadowed)
    }
}

impl Analysis<'_> {
    /// Derives the rows of every measured step and gives them to `sink`.
    ///
    /// # Errors
    /// The scratch files cannot be read, or the sink fails.
    pub(crate) fn derive(&self, measured: &mut Measured, scratch: &Path, sink: &mut dyn Sink) -> Result<()> {
        let walked = self.walk_back(measured, scratch)?;
        let mut pasts = Pasts::new(self, walked.past.clone(), measured.start.clone());
        let intermittent = self.intermittent(&walked);
        let departures = measured.departures.clone();
        let places = self.places();
        let shadowed = vec![f64::NAN; places.len()];
        let mut known = Known { walked, intermittent, departures, places, shadowed };
        let mut words = Vec::new();
        for window in windows(&measured.steps, self.catalog) {
            let spreads = self.spreads(measured, &mut known, window.clone())?;
            for i in window {
                self.run.check_stop()?;
                measured.spool.read(i, &mut words)?;
                known.read(measured, i)?;
                let record = Record { shape: &self.shape, words: &words };
                pasts.reach(self, &known.walked, &record);
                let groups = 0..self.options.groups.len();
                let scalars: Vec<Scalars> = groups.map(|g| self.scalars(record.step(), g)).collect();
                for (place, spreads) in known.places.iter().zip(&spreads) {
                    let Some((sums, scale)) = self.sums(&record, *place) else { continue };
                    let (entry, own) = self.entry(&record, *place, scale, &known, Some(&pasts));
                    let group = &self.options.groups[place.group];
                    let (step, reference) = (record.step(), &self.references[place.reference]);
                    let names = Names {
                        run_id: &self.run.manifest.run_id,
                        reference: &reference.name,
                        stream: &self.options.streams[place.stream].name,
                        group: &group.name,
                    };
                    let kit = bias(&sums, group.parameters, entry);
                    let rounding = record.rounding(place.group, place.reference);
                    let mut row = Row::new(step, scalars[place.group], names, group, sums, kit, rounding);
                    let window = &spreads[self.side(*place, step)];
                    row.t_excess = window.t();
                    if let Some(spreads) = &sums.spreads {
                        let confidence = self.confidence;
                        let all = intervals(&sums, spreads, group.parameters, entry, own, confidence);
                        row.intervals = Some(if kit.beyond() { all.without_excess() } else { all });
                        row.t_interval = window.t_interval();
                    }
                    row.doubt = self.doubt(*place, step, &known);
                    row.sampled = match self.enters(*place) {
                        Enters::Known(w) => known.walked.ahead(w).sampled() || pasts.sampled(w),
                        Enters::Not | Enters::Shadowed | Enters::Unknown => false,
                    };
                    row.shadowed = self.enters(*place) == Enters::Shadowed && row.bias.own.is_some();
                    row.provisional = reference.provisional;
                    row.sketched = self.sketches.is_some();
                    sink.row(&row)?;
                }
                pasts.take_in(self, &record);
            }
        }
        Ok(())
    }

    /// Reference, stream and group of the rows of a step, in their order.
    pub(crate) fn places(&self) -> Vec<Place> {
        let (streams, groups) = (self.options.streams.len(), self.options.groups.len());
        let mut all = Vec::new();
        for reference in 0..self.references.len() {
            for stream in 0..streams {
                all.extend((0..groups).map(|group| Place { reference, stream, group }));
            }
        }
        all
    }

    /// The number of a place among [`Self::places`].
    fn number(&self, place: Place) -> usize {
        let (streams, groups) = (self.options.streams.len(), self.options.groups.len());
        (place.reference * streams + place.stream) * groups + place.group
    }

    /// How the stream of a place enters its reference: in an unknown way where one of the tensors is stepped by an
    /// optimizer that is not known.
    fn enters(&self, place: Place) -> Enters {
        match self.enters[place.reference][place.stream] {
            Enters::Known(_) if self.beyond[place.group].is_some() => Enters::Unknown,
            enters => enters,
        }
    }

    /// 0 where the reference lies ahead of a step or is none of the path's, 1 where it lies behind.
    /// A window that holds both sides has a `t_excess` for each.
    fn side(&self, place: Place, step: u64) -> usize {
        usize::from(self.references[place.reference].weights.last().is_some_and(|last| step >= last))
    }

    /// By walk and group: whether a tensor has a gradient at some steps only that are not told apart, and an
    /// optimizer that would move it at the others too. PyTorch does not, so the recursion does not hold.
    fn intermittent(&self, walked: &Walked) -> Vec<Vec<bool>> {
        let of_group = |g: &Group| g.tensors.iter().any(|&t| self.movers.is_irregular(t));
        let groups: Vec<bool> = self.options.groups.iter().map(of_group).collect();
        walked.moves.iter().map(|moves| groups.iter().map(|g| *moves && *g).collect()).collect()
    }

    /// Mean and spread of the excess over a window, for every place: ahead of the reference, and
    /// behind it.
    fn spreads(
        &self,
        measured: &mut Measured,
        known: &mut Known,
        window: Range<usize>,
    ) -> Result<Vec<[Window; 2]>> {
        let mut windows = vec![[Window::default(); 2]; known.places.len()];
        let mut words = Vec::new();
        for i in window {
            measured.spool.read(i, &mut words)?;
            known.read(measured, i)?;
            let record = Record { shape: &self.shape, words: &words };
            for (window, place) in windows.iter_mut().zip(&known.places) {
                if let Some((sums, scale)) = self.sums(&record, *place) {
                    let (entry, own) = self.entry(&record, *place, scale, known, None);
                    let within = |s| intervals(&sums, s, 1, entry, own, self.confidence).cos_excess;
                    let interval = sums.spreads.as_ref().map_or(Interval::default(), within);
                    let excess = bias(&sums, 1, entry).cos_excess;
                    let window = &mut window[self.side(*place, record.step())];
                    window.add(excess, interval);
                    let may_differ = |s: &Spreads| sums.d2 == 0.0 && s.d2.variance > 0.0;
                    if sums.spreads.as_ref().is_some_and(may_differ) {
                        window.spoil();
                    }
                }
            }
        }
        Ok(windows)
    }

    /// The sums of a place, and what its stream was divided by; `None` where it has no row.
    pub(crate) fn sums(&self, record: &Record<'_>, place: Place) -> Option<(Sums, f64)> {
        let stream = &self.options.streams[place.stream];
        let d = stream.direction;
        let update = self.options.directions[d].form == stream::Form::Update;
        let row = record.sums(place.group);
        // An update is not known where x_{t+1} is not, be it for one tensor.
        if !record.recorded(d) || (update && row.flags.no_next) {
            return None;
        }
        let mut sums = Sums::of(row, d, place.reference);
        let step = record.step();
        if self.enters(place) == Enters::Unknown {
            sums.dot_lag = self.dot_later(&sums, place, step);
        }
        if !stream.unclipped {
            return Some((sums, 1.0));
        }
        let scale = self.catalog.scalar(step, "clip_coef").filter(|c| *c != 0.0)?;
        Some((sums.scaled(scale), scale))
    }

    /// `<s_t, c x_{t+lag} - r>`, c being what the reference holds of the later iterate; `None` where the direction
    /// is still at work there, or that iterate is the reference itself, of which the difference says nothing.
    fn dot_later(&self, sums: &Sums, place: Place, step: u64) -> Option<f64> {
        let lag = self.lag.as_ref().ok()?;
        if self.references[place.reference].weights.single() == step.checked_add(lag.steps) {
            return None;
        }
        let later = sums.dot_lag.filter(|_| lag.is_over(&self.references[place.reference], step))?;
        let parts = &self.shape.parts[place.group];
        let held = lag.held(place.reference, parts, step, |p| self.movers.param_group(p.mover))?;
        if held.total_cmp(&1.0).is_eq() {
            return Some(later);
        }
        // How far <s, r> can be off is not known where something was lost.
        let taken_back = (1.0 - held) * (sums.gx - sums.dot);
        sums.spreads.is_none().then_some(held * later - taken_back)
    }

    /// Why it is not known what the reference of a place holds of a step's gradients, where the path is not what
    /// the optimizer makes of them.
    fn doubt(&self, place: Place, step: u64, known: &Known) -> Option<Doubt> {
        // A shadow was taken along the whole path.
        let shadowed = self.enters(place) == Enters::Shadowed;
        let last =
            self.references[place.reference].weights.last().filter(|&last| step < last && !shadowed)?;
        if known.departures.last_void(place.group, last).is_some_and(|void| step <= void) {
            return Some(Doubt::Departed);
        }
        let linear = matches!(self.enters(place), Enters::Known(_));
        (linear && known.departures.is_short(place.group, step)).then_some(Doubt::Short)
    }

    /// What is known of how the stream of a place enters its reference, and the spread of what it put
    /// there. Without `pasts` the length of the walk is left out.
    fn entry(
        &self,
        record: &Record<'_>,
        place: Place,
        scale: f64,
        known: &Known,
        pasts: Option<&Pasts>,
    ) -> (Entry, Spread) {
        let reference = &self.references[place.reference];
        let exact = |entry| (entry, Spread::default());
        // The path is made of it, so a walk is a comparison even where none of it is in r.
        let walk2 = (self.options.streams[place.stream].part != stream::Part::None).then_some(0.0);
        let not = Entry::Known { own: 0.0, walk2 };
        let doubted = self.doubt(place, record.step(), known).is_some();
        if reference.common.clouds(record.step()) || reference.kin.is_some() || doubted {
            return exact(Entry::Unknown);
        }
        if self.side(place, record.step()) == 1 || reference.weights == Weights::None {
            return exact(not);
        }
        let w = match self.enters(place) {
            Enters::Not => return exact(not),
            Enters::Shadowed => {
                let own = known.shadowed[self.number(place)];
                let entry = if own.is_nan() { Entry::Unknown } else { Entry::Known { own, walk2: None } };
                return exact(entry);
            }
            Enters::Unknown if self.lag.is_err() => return exact(Entry::Unknown),
            Enters::Unknown => return exact(Entry::Lagged),
            Enters::Known(w) if known.intermittent[w][place.group] => return exact(Entry::Unknown),
            Enters::Known(w) => w,
        };
        let direction = self.options.streams[place.stream].direction;
        let ahead = known.walked.ahead(w);
        let parts: &[Part] = &self.shape.parts[place.group];
        let response = |p: &Part| ahead.adjoint(p.mover);
        let own = match self.law {
            Law::Elementwise => record.own(place.group, place.reference),
            Law::Linear | Law::Unknown(_) => {
                parts.iter().map(|p| response(p).h * record.g2(place.group, p, direction)).sum::<f64>()
            }
        };
        if own.is_nan() && self.law == Law::Elementwise {
            return exact(Entry::Unknown);
        }
        let walk2 = pasts.map(|pasts| {
            let past = pasts.of(w, place.group).unwrap_or_default().iter().zip(parts);
            let behind: f64 = past.map(|(past, p)| past.distance2(&response(p))).sum();
            // What weight decay has taken off an x_0 that is not there is not known.
            let lost = known.walked.decays[w] && !pasts.knows_start();
            // Decay that goes through the roots differs from element to element.
            let lost = lost || self.law == Law::Elementwise && self.hyperparameters.decays();
            // Nor is what was in x_t before it was changed, where that matters beside the buffer.
            let stays = known.walked.decays[w] || reference.weights.single().is_none();
            let lost = lost || (stays && known.departures.changed_before(place.group, record.step()));
            if lost { f64::NAN } else { ahead.distance2(place.group) + behind }
        });
        let spread = parts.iter().fold(Spread::default(), |sum, p| {
            sum.plus(record.g2_spread(place.group, p, direction).times(response(p).h))
        });
        (Entry::Known { own: own / scale, walk2 }, spread.times(1.0 / scale))
    }

    /// The scalars of a step that rows of a group carry.
    fn scalars(&self, step: u64, group: usize) -> Scalars {
        let mut groups = self.shape.parts[group]
            .iter()
            .map(|p| self.hyperparameters.lr(self.movers.param_group(p.mover), step));
        let first = groups.next().flatten();
        let agree = groups.all(|lr| lr.map(f64::to_bits) == first.map(f64::to_bits));
        let scalar = |name| self.catalog.scalar(step, name);
        Scalars::new(self.catalog.checkpoint(step), scalar("epoch"), scalar("loss"), first.filter(|_| agree))
    }
}
