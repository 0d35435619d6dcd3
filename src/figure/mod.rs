//! A figure: what is drawn of curves, where, and what is written about it; then as SVG, and as PNG of that SVG.
//!
//! Owns colours, legend, notes and places from 0 to 1; `svg` owns lengths on paper. It is our own and not a charting
//! library's, since those that were tried draw lines across gaps, move what a logarithmic axis cannot show to its end
//! without a word, need more room than a column of a paper has, or make a dashed line a solid one.

mod axis;
mod cells;
mod colour;
mod file;
mod font;
mod heat;
mod matrix;
mod plane;
mod png;
mod svg;

pub(crate) use crate::figure::axis::Axis;
pub(crate) use crate::figure::file::Files;
pub(crate) use crate::figure::heat::heat;
pub(crate) use crate::figure::matrix::matrix;
pub(crate) use crate::figure::plane::plane;
pub(crate) use crate::figure::svg::svg;

use crate::curve::{Along, Curve, Curves, Key, MOST, Per, Point};
use crate::summary::{significant, thousands};

/// As many panels as a page holds.
pub(crate) const MOST_PANELS: usize = 8;

/// Okabe and Ito's, but for yellow; those of most contrast first.
const COLOURS: [&str; MOST] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];

/// What tells curves apart without colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Cross,
    Plus,
}

const MARKERS: [Marker; MOST] =
    [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond, Marker::Cross, Marker::Plus];

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) colour: &'static str,
    /// None where it is the only one.
    pub(crate) marker: Option<Marker>,
}

/// What stands before a text of the legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sample {
    Line(Look),
    Band(&'static str),
    Walk,
}

/// A place of a curve, from 0 to 1 along both axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spot {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Ends of the band.
    pub(crate) band: (f64, f64),
}

/// A curve: stretches without a gap.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) look: Look,
    pub(crate) stretches: Vec<Vec<Spot>>,
    /// The random walk's, unless it is that of the curve before.
    pub(crate) walk: Vec<Vec<Spot>>,
}

/// A place from which on, or up to which, what is drawn has few digits: distances are below 1,000 roundings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) x: f64,
    pub(crate) begins: bool,
    /// The curve's.
    pub(crate) look: Look,
}

/// A metric.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) label: String,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    pub(crate) cuts: Vec<Cut>,
}

/// A figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) legend: Vec<(Sample, String)>,
    pub(crate) panels: Vec<Panel>,
    pub(crate) x: Axis,
    pub(crate) x_label: &'static str,
    /// Only whole numbers mean something along it.
    pub(crate) whole: bool,
    /// What a reader must know.
    pub(crate) notes: Vec<String>,
}

impl Figure {
    /// The figure of curves; `log` is the axis of values.
    pub(crate) fn new(curves: &Curves, log: bool) -> Figure {
        let points = || curves.panels.iter().flat_map(|p| &p.curves).flat_map(|c| &c.points);
        let x = Axis::linear(points().filter(|p| p.stand.is_some()).map(|p| p.x), 0.015);
        let several = curves.keys.len() > 1;
        let looks: Vec<Look> = (COLOURS.into_iter().zip(MARKERS))
            .map(|(colour, marker)| Look { colour, marker: several.then_some(marker) })
            .collect();
        let panels: Vec<Panel> = curves.panels.iter().map(|p| panel(p, &x, log, &looks)).collect();
        let (x_label, whole) = match curves.along {
            Along::Step => ("step", true),
            Along::Epoch => ("epoch", true),
            Along::Fraction => ("part of the path", false),
            Along::Dist => ("distance to the reference", false),
        };
        Figure {
            legend: legend(curves, &panels, &looks),
            x,
            x_label,
            whole,
            notes: notes(curves, log),
            panels,
        }
    }
}

fn panel(panel: &crate::curve::Panel, x: &Axis, log: bool, looks: &[Look]) -> Panel {
    let points = panel.curves.iter().flat_map(|c| &c.points);
    let numbers = points.flat_map(|p| {
        let stand = p.stand.filter(|_| p.x.is_finite());
        [stand.map(|s| s.mean), stand.map(|s| s.lo), stand.map(|s| s.hi), p.walk].into_iter().flatten()
    });
    let y = if log { Axis::log(numbers, 0.04) } else { Axis::linear(numbers, 0.04) };
    let mut series: Vec<Series> = Vec::new();
    for (curve, &look) in panel.curves.iter().zip(looks) {
        let stretches = stretches(curve, |p| {
            let stand = p.stand?;
            let end = |v| y.place(v).unwrap_or(0.0);
            Some(Spot { x: x.place(p.x)?, y: y.place(stand.mean)?, band: (end(stand.lo), end(stand.hi)) })
        });
        let mut walk = self::stretches(curve, |p| {
            let y = y.place(p.walk?)?;
            Some(Spot { x: x.place(p.x)?, y, band: (y, y) })
        });
        if series.first().is_some_and(|first| first.walk == walk) {
            walk.clear();
        }
        series.push(Series { look, stretches, walk });
    }
    let cuts = panel.curves.iter().zip(looks).flat_map(|(c, &look)| cuts_of(c, x, look)).collect();
    Panel { label: panel.metric.clone(), y, series, cuts }
}

/// The points of a curve that are somewhere, in stretches that a line may connect.
fn stretches(curve: &Curve, spot: impl Fn(&Point) -> Option<Spot>) -> Vec<Vec<Spot>> {
    let mut all: Vec<Vec<Spot>> = Vec::new();
    let mut goes_on = false;
    for point in &curve.points {
        let here = spot(point);
        match (here, all.last_mut()) {
            (Some(here), Some(stretch)) if goes_on && !point.apart => stretch.push(here),
            (Some(here), _) => all.push(vec![here]),
            (None, _) => {}
        }
        goes_on = here.is_some();
    }
    all
}

/// Where stretches of rounding begin and end; nothing where the curve does.
fn cuts_of(curve: &Curve, x: &Axis, look: Look) -> Vec<Cut> {
    let drawn: Vec<&Point> = curve.points.iter().filter(|p| p.stand.is_some()).collect();
    let mut cuts = Vec::new();
    for (i, point) in drawn.iter().enumerate() {
        let before = i.checked_sub(1).is_some_and(|i| drawn[i].rounding > 0);
        let begins = point.rounding > 0;
        if begins != before {
            // It ends with the last point that has some.
            let at = if begins { point.x } else { drawn[i - 1].x };
            cuts.extend(x.place(at).map(|x| Cut { x, begins, look }));
        }
    }
    cuts
}

/// What keys have in common, and what is each one's own.
fn names(keys: &[Key]) -> (String, Vec<String>) {
    let shared = |i: usize| keys.iter().all(|k| k.parts()[i] == keys[0].parts()[i]);
    let (common, own): (Vec<usize>, Vec<usize>) = (0..4).partition(|&i| shared(i));
    let said = |(what, name): (&str, &str)| match (what, name) {
        ("group", "*") => "all tensors".to_owned(),
        _ => format!("{what} {name}"),
    };
    let first = keys.first().map(Key::parts).unwrap_or_default();
    let common: Vec<String> =
        common.into_iter().map(|i| first[i]).filter(|(_, name)| !name.is_empty()).map(said).collect();
    let of = |k: &Key| own.iter().map(|&i| k.parts()[i].1).collect::<Vec<_>>().join(", ");
    (common.join(", "), keys.iter().map(of).collect())
}

fn legend(curves: &Curves, panels: &[Panel], looks: &[Look]) -> Vec<(Sample, String)> {
    let one = curves.keys.len() == 1;
    let band = curves.per != Per::Row || curves.across.is_some();
    let mut entries: Vec<(Sample, String)> = if one {
        let what = match &curves.across {
            Some(across) => format!("mean of {} runs", across.runs),
            None if band => "mean".to_owned(),
            None => curves.panels[0].metric.clone(),
        };
        // Of several panels that would be the name of one.
        let what = if !band && panels.len() > 1 { "as measured".to_owned() } else { what };
        vec![(Sample::Line(looks[0]), what)]
    } else {
        looks.iter().zip(names(&curves.keys).1).map(|(&look, name)| (Sample::Line(look), name)).collect()
    };
    if band {
        let colour = if one { looks[0].colour } else { "#808080" };
        let what = curves.across.map_or_else(|| curves.band.to_string(), |across| across.to_string());
        entries.push((Sample::Band(colour), what));
    }
    if panels.iter().flat_map(|p| &p.series).any(|s| !s.walk.is_empty()) {
        entries.push((Sample::Walk, "random walk".to_owned()));
    }
    entries
}

fn notes(curves: &Curves, log: bool) -> Vec<String> {
    let count = |n: usize| thousands(n as u64);
    let range =
        |(a, b): (usize, usize)| if a == b { count(b) } else { format!("{} to {}", count(a), count(b)) };
    let steps = |n: (usize, usize)| format!("{} {}", range(n), if n == (1, 1) { "step" } else { "steps" });
    let rows = curves.across.map_or_else(|| curves.rows_a_point(), |across| across.a_point);
    let mean = match &curves.across {
        Some(_) => "Line: mean of the runs' means. ",
        None if curves.keys.len() > 1 => "Line: mean. ",
        None => "",
    };
    let stands = match curves.per {
        Per::Row => "Each point is one step".to_owned(),
        Per::Steps(_) if rows.0 < rows.1 => format!("{mean}A point is up to {}", steps((rows.1, rows.1))),
        Per::Steps(_) => format!("{mean}A point is {}", steps(rows)),
        Per::Epochs(1) => format!("{mean}A point is one epoch ({})", steps(rows)),
        Per::Epochs(n) => format!("{mean}A point is {} epochs ({})", thousands(n), steps(rows)),
    };
    let common = names(&curves.keys).0;
    let mut notes =
        vec![if common.is_empty() { format!("{stands}.") } else { format!("{stands}; {common}.") }];
    if let Some((partial, all)) = curves.across.map(|a| a.partial).filter(|(partial, _)| *partial > 0) {
        notes.push(format!("{} of {} points are of fewer runs.", count(partial), count(all)));
    }
    if curves.along == Along::Dist {
        let drawn = |p: &&Point| p.stand.is_some() && p.x.is_finite();
        let points = || curves.panels[0].curves[0].points.iter().filter(drawn);
        if let (Some(first), Some(last)) = (points().next(), points().next_back()) {
            let (first, last) = (significant(first.x), significant(last.x));
            notes.push(format!("The path begins at a distance of {first} and ends at {last}."));
        }
    }
    let gaps = if curves.per == Per::Row { "are null (gaps)" } else { "are null (left out)" };
    notes.extend(told(curves, gaps, Curve::nulls));
    if log {
        notes.extend(told(curves, "are ≤ 0, which a logarithmic axis cannot show", |c| c.not_positive));
    }
    let first = || curves.panels.iter().take(1).flat_map(|p| &p.curves);
    let rounding: usize = first().map(Curve::rounding).sum();
    if rounding > 0 {
        let all: usize = first().map(Curve::rows).sum();
        notes.push(format!(
            "{} of {} distances are below 1,000 roundings (low_precision): from the dotted line on, or between two.",
            count(rounding),
            count(all)
        ));
    }
    notes
}

/// Says of which panels some values are so; those of which it is the same are named together.
fn told(curves: &Curves, what: &str, of: impl Fn(&Curve) -> usize) -> Vec<String> {
    let mut all: Vec<(String, Vec<&str>)> = Vec::new();
    for panel in &curves.panels {
        let sum = |of: &dyn Fn(&Curve) -> usize| thousands(panel.curves.iter().map(of).sum::<usize>() as u64);
        let (some, rows) = (sum(&of), sum(&Curve::rows));
        let text = format!("{some} of {rows} values {what}.");
        match all.iter_mut().find(|(known, _)| *known == text) {
            Some((_, metrics)) => metrics.push(&panel.metric),
            None if some == "0" => {}
            None => all.push((text, vec![&panel.metric])),
        }
    }
    all.into_iter().map(|(text, metrics)| format!("{}: {text}", metrics.join(", "))).collect()
}
