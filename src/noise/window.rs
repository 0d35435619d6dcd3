//! What is said of the steps of a window: in all directions, and along x - r.
//!
//! Owns which steps count. How means and errors are had is `split`'s.

use crate::error::Usage;
use crate::group::Group;
use crate::noise::measure::StepSums;
use crate::noise::split::{Reason, Said, Split};
use crate::reduce::lagged::OwnSums;
use crate::run::read::catalog::Catalog;
use crate::span::Spans;

/// The scalar that gradients were multiplied by in clipping, and those of probes were not.
pub(crate) const CLIPPED: &str = "clip_coef";

/// The windows of a group.
pub(crate) struct OfGroup<'a> {
    pub group: &'a Group,
    pub windows: Vec<Window>,
}

/// Some steps that follow each other.
pub(crate) struct Window {
    /// Its number, from 0.
    pub number: u64,
    /// The first step that has gradients, and the last.
    pub steps: (u64, u64),
    /// The epoch of the first.
    pub epoch: Option<f64>,
    /// By probe, as far as it has steps.
    pub probes: Vec<OfProbe>,
}

/// Which probes a minibatch is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probes {
    /// One, by place.
    One(usize),
    /// All of several.
    All,
}

/// What a minibatch's gradient shares with those of probes.
pub(crate) struct OfProbe {
    /// Which.
    pub probes: Probes,
    /// Steps that count.
    pub steps: u64,
    /// Steps that do not, since a sum is infinite or a NaN.
    pub nonfinite: u64,
    /// The mean of `||g||^2`; `None` where no step counts.
    pub g2: Option<f64>,
    /// The mean of `||p||^2`, over several probes too.
    pub probe2: Option<f64>,
    /// `||g||^2` into `<g, p>` and the rest.
    pub whole: Said<Split>,
    /// `<g, d>^2 / ||d||^2` into `<g, d> <p, d> / ||d||^2` and the rest.
    pub along: Said<Split>,
    /// `<g, d> / ||d||` into `<p, d> / ||d||` and the rest. Its ratio means nothing.
    pub mean: Said<Split>,
}

/// The sums of a step that counts.
struct Sample {
    g2: f64,
    /// `<g, d> / ||d||`; `None` where x is r.
    along: Option<f64>,
    /// By probe.
    probes: Vec<OfStep>,
}

/// The sums of a probe at a step.
struct OfStep {
    p2: f64,
    product: f64,
    along: f64,
}

/// Cuts the sums of a group into windows. A window in which no step has both gradients is left out.
///
/// # Errors
/// Windows are epochs, and a step has none.
pub(super) fn cut(
    catalog: &Catalog,
    steps: &[u64],
    sums: &[StepSums],
    probes: usize,
    spans: Spans,
) -> Result<Vec<Window>, Usage> {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return Ok(Vec::new()) };
    let mut marked = Vec::new();
    for (place, &step) in steps.iter().enumerate() {
        let which = spans.which(step, catalog.scalar(step, "epoch"), *first, last - first + 1)?;
        marked.push((which, place));
    }
    let mut asked: Vec<(Probes, Vec<usize>)> = (0..probes).map(|p| (Probes::One(p), vec![p])).collect();
    if probes > 1 {
        asked.push((Probes::All, (0..probes).collect()));
    }
    let scale = |step: u64| match catalog.column(CLIPPED) {
        None => Some(1.0),
        Some(_) => catalog.scalar(step, CLIPPED).filter(|c| *c != 0.0),
    };
    let mut windows = Vec::new();
    for (number, part) in (0..).zip(marked.chunk_by(|a, b| a.0 == b.0)) {
        let of_probes = |(probes, members): &(Probes, Vec<usize>)| {
            let of_step = |&(_, place): &(_, usize)| {
                Some((steps[place], sample(&sums[place], members, scale(steps[place])?)?))
            };
            let samples: Vec<(u64, Sample)> = part.iter().filter_map(of_step).collect();
            (!samples.is_empty()).then(|| {
                let ends = (samples[0].0, samples[samples.len() - 1].0);
                (ends, OfProbe::new(*probes, samples.into_iter().map(|(_, s)| s).collect()))
            })
        };
        let found: Vec<((u64, u64), OfProbe)> = asked.iter().filter_map(of_probes).collect();
        let begins = found.iter().map(|(ends, _)| ends.0).min();
        let ends = found.iter().map(|(ends, _)| ends.1).max();
        if let (Some(begins), Some(ends)) = (begins, ends) {
            let probes = found.into_iter().map(|(_, of)| of).collect();
            let epoch = catalog.scalar(begins, "epoch");
            windows.push(Window { number, steps: (begins, ends), epoch, probes });
        }
    }
    Ok(windows)
}

/// The sums of a step with some probes, of gradients as before clipping; `None` where one was not recorded.
fn sample(sums: &StepSums, members: &[usize], scale: f64) -> Option<Sample> {
    let OwnSums { g2, dot, d2 } = sums.own.last().copied().flatten()?;
    let along = |dot: f64| (d2 != 0.0).then(|| dot / d2.sqrt());
    let mut probes = Vec::new();
    for &p in members {
        let own = sums.own[p]?;
        let product = sums.products[p] / scale;
        probes.push(OfStep { p2: own.g2, product, along: along(own.dot).unwrap_or(0.0) });
    }
    Some(Sample { g2: g2 / scale / scale, along: along(dot / scale), probes })
}

impl Sample {
    fn is_finite(&self) -> bool {
        let of = |p: &OfStep| p.p2.is_finite() && p.product.is_finite();
        self.g2.is_finite() && self.probes.iter().all(of)
    }

    fn is_finite_along(&self) -> bool {
        self.along.is_some_and(f64::is_finite) && self.probes.iter().all(|p| p.along.is_finite())
    }
}

impl OfProbe {
    fn new(probes: Probes, all: Vec<Sample>) -> OfProbe {
        let count = all.len();
        let samples: Vec<&Sample> = all.iter().filter(|s| s.is_finite()).collect();
        let directed: Vec<(&Sample, f64)> =
            samples.iter().filter(|s| s.is_finite_along()).filter_map(|s| Some((*s, s.along?))).collect();
        let members = all.first().map_or(0, |s| s.probes.len());
        let of_probes = |get: &dyn Fn(&OfStep) -> f64| -> Vec<Vec<f64>> {
            (0..members).map(|p| samples.iter().map(|s| get(&s.probes[p])).collect()).collect()
        };
        let directed_of = |get: &dyn Fn(&OfStep, f64) -> f64| -> Vec<Vec<f64>> {
            (0..members).map(|p| directed.iter().map(|(s, u)| get(&s.probes[p], *u)).collect()).collect()
        };
        let mean =
            |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let whole: Vec<f64> = samples.iter().map(|s| s.g2).collect();
        let squares: Vec<f64> = directed.iter().map(|(_, u)| u * u).collect();
        let along: Vec<f64> = directed.iter().map(|(_, u)| *u).collect();
        let is_at_reference = samples.iter().all(|s| s.along.is_none());
        let no_direction = match samples.is_empty() || !is_at_reference {
            true => Reason::NotFinite,
            false => Reason::AtReference,
        };
        OfProbe {
            probes,
            steps: samples.len() as u64,
            nonfinite: (count - samples.len()) as u64,
            g2: mean(&whole),
            probe2: mean(&of_probes(&|p| p.p2).concat()),
            whole: Split::of(&whole, &of_probes(&|p| p.product)).ok_or(Reason::NotFinite),
            along: Split::of(&squares, &directed_of(&|p, u| u * p.along)).ok_or(no_direction),
            mean: Split::of(&along, &directed_of(&|p, _| p.along)).ok_or(no_direction),
        }
    }
}
