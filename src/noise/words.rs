//! What a person reads of noise.

use std::fmt::Write as _;

use crate::group::ALL;
use crate::noise::Noise;
use crate::noise::split::{Measured, Said, Split};
use crate::noise::window::{OfProbe, Probes, Window};
use crate::reference::Common;
use crate::run::format::manifest::Kept;
use crate::summary::{counted, significant, sketched, wrap};

/// What is said where there is no ratio.
const UNKNOWN: &str = "not decidable";
/// Windows that are shown.
const LISTED: usize = 60;

/// A number and its standard error.
fn told(of: Option<Measured>) -> String {
    match of {
        None => "-".to_owned(),
        Some(Measured { value, error: None }) => significant(value),
        Some(Measured { value, error: Some(error) }) => {
            format!("{} ± {}", significant(value), significant(error))
        }
    }
}

/// A ratio, or why there is none.
fn ratio(of: Said<Split>, factor: f64) -> Result<Measured, &'static str> {
    of.and_then(|s| s.ratio).map(|r| r.times(factor)).map_err(|why| why.text())
}

/// The lines of a summary: of all tensors, or of the first group where they are in none; of all probes together, or of the
/// one that there is.
pub(super) fn summary(noise: &Noise<'_>) -> String {
    let Some(of_group) = noise.groups.iter().find(|of| of.group.name == ALL).or(noise.groups.first()) else {
        return String::new();
    };
    let wanted = if noise.probes.len() > 1 { Probes::All } else { Probes::One(0) };
    let find = |w| -> Option<(&Window, &OfProbe)> {
        let window: &Window = w;
        Some((window, window.probes.iter().find(|of| of.probes == wanted)?))
    };
    let shown: Vec<(&Window, &OfProbe)> = of_group.windows.iter().filter_map(find).collect();
    let steps: u64 = shown.iter().map(|(_, of)| of.steps).sum();
    let mut out = format!(
        "{} in {}, minibatches{} beside {}, group {}, against {}; {}\n\n",
        counted(steps, "step"),
        counted(shown.len() as u64, "window"),
        noise.batch.map_or_else(String::new, |b| format!(" of {b}")),
        beside(noise),
        of_group.group.name,
        noise.reference.name,
        counted(of_group.group.parameters, "parameter")
    );
    list(&mut out, noise, &shown);
    for line in [scale(noise, &shown), along(noise, &shown), caution(noise)] {
        out.push_str(&wrap(&line));
    }
    let nonfinite: u64 = shown.iter().map(|(_, of)| of.nonfinite).sum();
    if nonfinite > 0 {
        out.push_str(&wrap(&format!(
            "left out: {}, where a sum is infinite or a NaN",
            counted(nonfinite, "step")
        )));
    }
    if noise.clipped {
        out.push_str(&wrap(
            "gradients were clipped: g is as before that, by the scalar clip_coef; steps without it are left out",
        ));
    }
    let manifest = &noise.run.manifest;
    if manifest.kept() == Kept::Rounded || noise.reference.is_lossy() {
        out.push_str(&wrap(
            "stored with loss: the rounding of g and p is noise of its own here, which nothing tells apart",
        ));
    }
    if let Some(note) = sketched(manifest) {
        out.push_str(&wrap(&note));
    }
    out.trim_end().to_owned()
}

/// The probes in words.
fn beside(noise: &Noise<'_>) -> String {
    let listed = noise.probes.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    match noise.probes.len() {
        1 => listed,
        n => format!("{n} probes together ({listed})"),
    }
}

fn list(out: &mut String, noise: &Noise<'_>, shown: &[(&Window, &OfProbe)]) {
    let last = if noise.batch.is_some() { "noise scale" } else { "" };
    let _ = writeln!(
        out,
        "{:>17}  {:<22}{:<22}{:<20}{:<20}ratio along x - r",
        "steps", "<g,p>: ||G||^2", "rest: tr(S)/B", "ratio", last
    );
    for (window, of) in shown.iter().take(LISTED) {
        let shared = told(of.whole.ok().map(|s| s.shared));
        let rest = told(of.whole.ok().map(|s| s.rest));
        let cell = |of: Said<Split>, factor: f64| {
            ratio(of, factor).map_or_else(|_| UNKNOWN.to_owned(), |r| told(Some(r)))
        };
        let scaled = noise.batch.map_or_else(String::new, |batch| cell(of.whole, batch));
        let (whole, along) = (cell(of.whole, 1.0), cell(of.along, 1.0));
        let steps = format!("{}..{}", window.steps.0, window.steps.1 + 1);
        let _ = writeln!(out, "{steps:>17}  {shared:<22}{rest:<22}{whole:<20}{scaled:<20}{along}");
    }
    if shown.len() > LISTED {
        let _ = writeln!(out, "... and {} more", shown.len() - LISTED);
    }
    out.push('\n');
}

/// How the noise scale goes.
fn scale(noise: &Noise<'_>, shown: &[(&Window, &OfProbe)]) -> String {
    let known: Vec<(&Window, Measured)> = shown
        .iter()
        .filter_map(|(w, of)| Some((*w, ratio(of.whole, noise.batch.unwrap_or(1.0)).ok()?)))
        .collect();
    let (what, unit) = match noise.batch {
        Some(_) => ("the simple noise scale tr(S) / ||G||^2", "examples"),
        None => ("noise over signal in a minibatch's gradient", "times as much"),
    };
    let at = |(window, m): &(&Window, Measured)| {
        format!("{} {unit} at steps {}..{}", told(Some(*m)), window.steps.0, window.steps.1 + 1)
    };
    let text = match (known.first(), known.last()) {
        (Some(first), Some(last)) if known.len() > 1 => format!("{what}: {}, {}", at(first), at(last)),
        (Some(only), _) => format!("{what}: {}", at(only)),
        _ => format!("{what}: not known"),
    };
    let mut whys: Vec<&str> = shown.iter().filter_map(|(_, of)| ratio(of.whole, 1.0).err()).collect();
    whys.sort_unstable();
    let unknown: Vec<String> = whys
        .chunk_by(|a, b| a == b)
        .map(|all| format!("in {}, since {}", counted(all.len() as u64, "window"), all[0]))
        .collect();
    let unknown = match unknown.is_empty() {
        true => String::new(),
        false => format!("; not decidable {}", unknown.join(", ")),
    };
    let missing = match noise.batch {
        Some(_) => "",
        None => ". The batch size, by which it becomes the noise scale, is not known: --batch N",
    };
    format!("{text}{unknown}{missing}")
}

/// What a minibatch has along x - r that the probes have not.
fn along(noise: &Noise<'_>, shown: &[(&Window, &OfProbe)]) -> String {
    let means: Vec<Measured> = shown.iter().filter_map(|(_, of)| Some(of.mean.ok()?.rest)).collect();
    let certain = |sign: f64| {
        let is = |m: &&Measured| m.error.is_some_and(|e| sign * m.value > 4.0 * e);
        means.iter().filter(is).count() as u64
    };
    let (more, less) = (certain(1.0), certain(-1.0));
    let all = counted(means.len() as u64, "window");
    let found = match (more, less) {
        (0, 0) => format!("g and p agree within 4 standard errors in all of {all}"),
        _ => {
            format!("g has more than p in {more} and less in {less} of {all}, by more than 4 standard errors")
        }
    };
    let first = shown.iter().map(|(window, _)| window.steps.0).min().unwrap_or(0);
    let own = noise.reference.weights.last().is_some_and(|last| first < last);
    let why = match noise.reference.common {
        _ if own => {
            ". r is made of g's own noise, so that more is to be expected, and is no signal; p's is not in r"
        }
        Common::Nothing => "",
        Common::Steps(_) | Common::Batches => {
            ". r is of a run that has steps or minibatches in common with this one, so that more is to be expected, and is \
             no signal"
        }
    };
    format!("along x - r, <g,d> / ||d|| beside <p,d> / ||d||: {found}{why}")
}

/// What the numbers take for granted.
fn caution(noise: &Noise<'_>) -> String {
    let draw = match noise.probes.len() {
        1 => "One probe is one draw: errors are those of the steps, and not of another probe.",
        _ => "Errors hold what the probes differ by.",
    };
    format!(
        "That <g,p> is ||G||^2 in the mean holds if the minibatch is drawn by itself from the same examples as the probe: \
         what only examples that are trained on agree on counts as noise beside a probe of others. {draw}"
    )
}
