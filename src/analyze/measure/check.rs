//! Whether the recorded path is the one that the declared optimizer makes.
//!
//! What a reference holds of its own gradients follows from the hyperparameters in the manifest. If
//! they are not those of the training, everything that follows is wrong, and looks right. So the
//! first steps are made again from the recorded gradients and compared with the recorded iterates: where most
//! differ, it is another optimizer. Single steps that are not the optimizer's are `path`'s business.

use crate::analyze::measure::path::{Check, Known, Moments};
use crate::analyze::measure::told::{GradientDirection, Updates};
use crate::analyze::{Analysis, Measured};
use crate::codec::Predictor;
use crate::error::Result;
use crate::group::Group;
use crate::metrics::step::{PART, ROUNDINGS};
use crate::optimizer::linear::{ByCount, Update};
use crate::optimizer::{Hyperparameters, Law, Moment, predictors};
use crate::order::Neumaier;
use crate::reduce::cpu::{Vectors, iterate_sums};
use crate::reference::weights::Weights;
use crate::run::Run;
use crate::run::format::chunk::Piece;
use crate::run::format::manifest::{GRAD, Kept};
use crate::run::format::vector_id::StreamId;
use crate::run::read::catalog::{CHANGED, Catalog};
use crate::run::read::chunk_reader::{ChunkReader, Decoded, Reader};
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};
use crate::step_set::StepSet;
use crate::summary::{Compared, Followed, FollowedGroup};

/// Steps that are compared.
const STEPS: u64 = 8;

/// By how much more than an iterate its sketch is rounded: with the terms of its sums.
const SKETCHED: f64 = 8.0;

/// Steps that were compared, and those that differ.
#[derive(Clone, Copy, Default)]
struct Comparison {
    steps: u64,
    different: u64,
    /// The first that differs.
    first: Option<u64>,
}

/// The first step that is not what the optimizer makes of the gradients, if most are not, in the first piece
/// of each parameter group; where vectors were stored with loss, if any is not, since nothing else tells. They are made
/// from the moments that were recorded, or from none at step 0; where there are neither, there is nothing to compare. An
/// optimizer that has moments at step 0 has taken steps before.
///
/// # Errors
/// A shard cannot be read; damage ends the comparison.
pub(crate) fn departure(run: &Run, catalog: &Catalog, hyper: &Hyperparameters<'_>) -> Result<Option<u64>> {
    let Some(stream) = run.manifest.stream_id(GRAD).filter(|_| catalog.steps.start == 0) else {
        return Ok(None);
    };
    let Some(first) = catalog.iterates(0..u64::MAX).next() else { return Ok(None) };
    let steps: Vec<u64> =
        (first..=first.saturating_add(STEPS)).take_while(|&s| catalog.has_iterate(s)).collect();
    let window = Window::open(run, &steps, Ahead::Nothing)?;
    let mut reader = Reader::new(run)?;
    let mut departure: Option<u64> = None;
    let lossy = run.manifest.kept() != Kept::Whole;
    for group in 0..hyper.groups() {
        let of_group = |p: &&Piece| run.manifest.tensors[p.tensor].param_group == group;
        if let Some(piece) = run.table.pieces().find(of_group) {
            let mut source = reader.at(run, &window, &run.table.chunks()[run.table.chunk_of(piece)]);
            let found = compare_piece(hyper, (group, piece), stream, &steps, &mut source);
            let another = 2 * found.different > found.steps || lossy;
            departure = departure.into_iter().chain(found.first.filter(|_| another)).min();
        }
    }
    Ok(departure)
}

fn compare_piece(
    hyper: &Hyperparameters<'_>,
    of: (usize, &Piece),
    stream: StreamId,
    steps: &[u64],
    source: &mut ChunkReader<'_>,
) -> Comparison {
    let mut compared = Comparison::default();
    // What cannot be compared ends it.
    let _ = compare_steps(hyper, of, stream, steps, source, &mut compared);
    compared
}

fn compare_steps(
    hyper: &Hyperparameters<'_>,
    (group, piece): (usize, &Piece),
    stream: StreamId,
    steps: &[u64],
    source: &mut ChunkReader<'_>,
    compared: &mut Comparison,
) -> Option<()> {
    let n = source.chunk.len;
    let roundoff = source.run.manifest.tensors[source.chunk.tensor].unit_roundoff();
    let roundoff = if source.run.manifest.sketch.is_some() { SKETCHED * roundoff } else { roundoff };
    let (mut g, mut buffer) = (vec![0.0; n], vec![0.0f64; n]);
    let (mut second, mut largest) = (vec![hyper.first_moment(group); n], vec![0.0f64; n]);
    let of_largest = hyper.moment() == Moment::Largest;
    // How far they may be off, and the buffer with them, where vectors were stored with loss.
    let (mut widths, mut off) = ([vec![0.0f32; n], vec![0.0; n], vec![0.0; n]], vec![0.0f64; n]);
    let mut trajectory = Trajectory::new(1);
    let recorded = moments(source, piece, steps, [&mut buffer, &mut second], &mut g)?;
    if recorded && steps.first() == Some(&0) && piece.range().any(|i| buffer[i] != 0.0 || second[i] != 0.0) {
        (compared.steps, compared.different, compared.first) = (1, 1, Some(0));
        return None;
    }
    for t in steps.windows(2).map(|w| w[0]) {
        let e = hyper.at_every_element(group, t, t + 1)?;
        let place = source.chunk.pieces.iter().position(|p| p == piece)?;
        if source.absent(t, stream).has(place)
            || !matches!(source.load(t, stream, &mut g), Ok(Decoded::Values))
            || !matches!(trajectory.reach(t, source), Ok(true))
            || !matches!(trajectory.reach(t + 1, source), Ok(true))
        {
            return None;
        }
        let (x, next) = (trajectory.get(t, n)?, trajectory.get(t + 1, n)?);
        for ((step, stream, values), widths) in
            [(t, stream, &g[..]), (t, StreamId::Iterate, x), (t + 1, StreamId::Iterate, next)]
                .into_iter()
                .zip(&mut widths)
        {
            source.widths(step, stream, values, widths).ok()?;
        }
        let (mut error, mut made, mut moved, mut size, mut lost) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for i in piece.range() {
            let (x, g, step) = (f64::from(x[i]), f64::from(g[i]), f64::from(x[i]) - f64::from(next[i]));
            let u = g + e.linear.weight_decay * x;
            second[i] = e.second[0] * second[i] + e.second[1] * u * u;
            largest[i] = largest[i].max(second[i]);
            let divisor = if of_largest { largest[i] } else { second[i] };
            let (v, expected) = e.of(divisor).step(buffer[i], g, x);
            buffer[i] = v;
            error += (step - expected).powi(2);
            made += expected.powi(2);
            moved += step.powi(2);
            size += x.powi(2);
            let [wg, wx, wn] = [0, 1, 2].map(|w| f64::from(widths[w][i]));
            let (o, by) = e.linear.step(off[i], wg, wx);
            off[i] = o;
            lost += (by.abs() + wx + wn).powi(2);
        }
        // A step that was not taken at all (a loss scale that was too large) says nothing of those after it, one that
        // was to move nothing (a learning rate that begins at 0) says nothing of itself.
        if (moved == 0.0 && made > 0.0) || !(error + made).is_finite() {
            return None;
        }
        if moved == 0.0 {
            continue;
        }
        compared.steps += 1;
        if error.sqrt() > PART * made.max(moved).sqrt() + ROUNDINGS * roundoff * size.sqrt() + f64::sqrt(lost)
        {
            compared.different += 1;
            compared.first.get_or_insert(t);
        }
    }
    Some(())
}

/// Takes the moments before the first of some steps that were recorded; whether there were any. Nothing where there were
/// none, though the optimizer has taken steps.
fn moments(
    source: &mut ChunkReader<'_>,
    piece: &Piece,
    steps: &[u64],
    to: [&mut [f64]; 2],
    g: &mut [f32],
) -> Option<bool> {
    let first = *steps.first()?;
    let mut recorded = false;
    for (stream, to) in StreamId::MOMENTS.into_iter().zip(to) {
        if matches!(source.load(first, stream, g), Ok(Decoded::Values)) {
            piece.range().for_each(|i| to[i] = f64::from(g[i]));
            recorded = true;
        }
    }
    (recorded || first == 0).then_some(recorded)
}

impl Analysis<'_> {
    /// How the declared optimizer's steps are predicted, by parameter group, where the storage of iterates tells of
    /// them; nothing elsewhere.
    pub(crate) fn replays(&self) -> Vec<Option<Predictor>> {
        if self.known() == Known::Exactly { predictors(&self.run.manifest) } else { Vec::new() }
    }

    /// What is known of the optimizer's steps.
    fn known(&self) -> Known {
        let adam = || predictors(&self.run.manifest).contains(&Some(Predictor::Adam));
        match (self.run.manifest.kept(), &self.law) {
            (Kept::Sketches, Law::Unknown(_)) => Known::Nothing,
            (_, Law::Unknown(_)) if !adam() => Known::Nothing,
            (Kept::Sketches | Kept::Rounded, _) => Known::WithLoss,
            (Kept::Whole, _) => Known::Exactly,
        }
    }

    /// What checks the whole path; `None` where nothing that is measured depends on the optimizer, or there is
    /// nothing to go by.
    pub(crate) fn check(&self) -> Option<Check> {
        let known = self.known();
        let own = self.references.iter().any(|r| r.weights != Weights::None);
        let mut noted = StepSet::default();
        if self.catalog.column(CHANGED).is_some() {
            let changed = |t: &u64| self.catalog.scalar(*t, CHANGED).is_some_and(|tensors| tensors > 0.0);
            self.catalog.steps.clone().filter(changed).for_each(|t| noted.push(t.saturating_sub(1)));
        }
        // Of sketches it is seen where steps are mostly rounding.
        let is_sketched = self.run.manifest.kept() == Kept::Sketches;
        let sketched = known == Known::WithLoss && is_sketched;
        let some = known == Known::Exactly || sketched || noted.first().is_some();
        let tensors = &self.run.manifest.tensors;
        // Of several optimizers one may not be known.
        let of_group = |(g, predictor)| match self.hyperparameters.unknown(g) {
            Some(_) if predictor != Some(Predictor::Adam) || is_sketched => Known::Nothing,
            _ => known,
        };
        let all: Vec<Known> = predictors(&self.run.manifest).into_iter().enumerate().map(of_group).collect();
        let moments = match self.law {
            Law::Unknown(_) => Moments::Doubted,
            Law::Linear | Law::Elementwise => Moments::Trusted,
        };
        (own && some).then(|| Check::new(tensors, &self.options.groups, (|g: usize| all[g], moments), noted))
    }

    /// How far the path follows from the gradients, in words and numbers for the summary.
    pub(crate) fn followed(&self, measured: &Measured) -> Followed {
        let of_group = |(group, [departures, void]): (&Group, [&StepSet; 2])| FollowedGroup {
            name: group.name.clone(),
            departures: departures.clone(),
            void: void.clone(),
        };
        let compared = match self.law {
            Law::Unknown(_) => Compared::NotNeeded,
            _ if self.known() != Known::Exactly => Compared::First(STEPS),
            _ => Compared::Steps(measured.departures.compared().clone(), self.catalog.steps.start),
        };
        let tensors = self.run.manifest.tensors.iter().zip(measured.departures.tensors());
        Followed {
            groups: self.options.groups.iter().zip(measured.departures.groups()).map(of_group).collect(),
            tensors: tensors.filter_map(|(t, (first, n))| Some((t.name.clone(), first?, n))).collect(),
            compared,
        }
    }

    /// The updates of `steps`, ascending, where they are linear.
    pub(crate) fn linear_updates(&self, steps: &[u64]) -> Updates {
        let linear = self.law == Law::Linear;
        let of = |group, step| self.hyperparameters.by_count(group, step).filter(|_| linear);
        Updates::new(steps, self.hyperparameters.groups(), of)
    }

    /// The updates of a step as they act on the gradient that is measured.
    pub(crate) fn taken(
        updates: &Updates,
        step: u64,
        along: Option<GradientDirection>,
    ) -> Vec<Option<ByCount>> {
        let decayed = along.is_some_and(|a| a.decayed);
        let own = |u: Update| Update { weight_decay: if decayed { 0.0 } else { u.weight_decay }, ..u };
        let both = |u: &ByCount| ByCount { first: own(u.first), later: own(u.later) };
        updates.at(step).iter().map(|u| u.as_ref().map(both)).collect()
    }

    /// `||x||^2` by tensor of the iterate after the `last` measured step, where a reference is that iterate and
    /// weight decay makes it matter.
    ///
    /// # Errors
    /// The reference cannot be read.
    pub(crate) fn end_squares(&self, last: Option<u64>) -> Result<Option<Vec<f64>>> {
        let decays = |step| self.linear_updates(&[step]).at(step).iter().flatten().any(|u| u.later.decays());
        let end = last.filter(|&s| decays(s)).map(|s| s + 1);
        let is_end = |step: u64| self.references.iter().find(|r| r.weights.single() == Some(step));
        let Some(reference) = end.and_then(is_end) else { return Ok(None) };
        let mut squares = vec![Neumaier::default(); self.run.manifest.tensors.len()];
        let (mut file, mut values) = (Vec::new(), Vec::new());
        for piece in self.run.table.pieces() {
            values.resize(piece.len, 0.0);
            reference.piece(piece, &mut file, &mut values)?;
            let x = values.as_slice();
            let x2 = iterate_sums(self.options.isa, &Vectors { g: x, x, next: x, init: x }).x2;
            squares[piece.tensor].add(x2);
        }
        Ok(Some(squares.iter().map(|s| s.total()).collect()))
    }
}
