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
mod panel;
mod plane;
mod png;
mod sheet;
mod svg;
mod words;

pub(crate) use crate::figure::axis::Axis;
pub(crate) use crate::figure::file::Files;
pub(crate) use crate::figure::heat::heat;
pub(crate) use crate::figure::matrix::matrix;
pub(crate) use crate::figure::plane::plane;
pub(crate) use crate::figure::sheet::{millimetres, svg};

use crate::curve::{Along, Column as Share, Curve, Curves, MOST, Point};

/// As many panels below each other as a page holds.
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
    /// That a path goes on, and its end is left out.
    End,
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

/// A place along x where a curve ends, since what comes behind it is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) x: f64,
    /// None where that is the place of all curves.
    pub(crate) colour: Option<&'static str>,
}

/// A metric.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) label: String,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) ends: Vec<End>,
}

/// Panels below each other, along the same.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// What tells it from the others.
    pub(crate) title: String,
    /// What is not in the legend of the figure, as it is this column's alone.
    pub(crate) legend: Vec<(Sample, String)>,
    pub(crate) panels: Vec<Panel>,
    pub(crate) x: Axis,
    pub(crate) x_label: &'static str,
    /// Only whole numbers mean something along it.
    pub(crate) whole: bool,
}

/// A figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) legend: Vec<(Sample, String)>,
    pub(crate) columns: Vec<Column>,
    /// What a reader must know.
    pub(crate) notes: Vec<String>,
}

impl Figure {
    /// The figure of curves in one column; `log` is the axis of values.
    pub(crate) fn new(curves: &Curves, log: bool) -> Figure {
        Figure::of(&[Share { title: String::new(), curves: curves.clone() }], log, Vec::new())
    }

    /// The figure of several columns, with more that a reader must know.
    pub(crate) fn of(shares: &[Share], log: bool, more: Vec<String>) -> Figure {
        let mut columns: Vec<Column> = shares.iter().map(|share| column(share, log)).collect();
        let mut legend = Vec::new();
        // The same curves in all columns are named once.
        if let Some(first) = columns.first().map(|c| c.legend.clone())
            && columns.iter().all(|c| c.legend == first)
        {
            columns.iter_mut().for_each(|c| c.legend.clear());
            legend = first;
        }
        legend.extend(words::shared(shares, &columns));
        Figure { legend, columns, notes: words::notes(shares, log).into_iter().chain(more).collect() }
    }
}

fn column(share: &Share, log: bool) -> Column {
    let curves = &share.curves;
    let all = || curves.panels.iter().flat_map(|p| &p.curves);
    let points = all().flat_map(|c| &c.points).filter(|p| p.stand.is_some()).map(|p| p.x);
    let x = Axis::linear(points.chain(all().filter_map(|c| c.left_out).map(|l| l.x)), 0.015);
    let several = curves.keys.len() > 1;
    let looks: Vec<Look> = (COLOURS.into_iter().zip(MARKERS))
        .map(|(colour, marker)| Look { colour, marker: several.then_some(marker) })
        .collect();
    let (x_label, whole) = match curves.along {
        Along::Step => ("step", true),
        Along::Epoch => ("epoch", true),
        Along::Fraction => ("part of the path", false),
        Along::Dist => ("distance to the reference", false),
    };
    Column {
        title: share.title.clone(),
        legend: words::lines(curves, &looks),
        panels: curves.panels.iter().map(|p| panel(p, &x, log, &looks)).collect(),
        x,
        x_label,
        whole,
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
    Panel { label: panel.metric.clone(), y, series, cuts, ends: ends(&panel.curves, x, looks) }
}

/// Where curves end before their paths do; one place where they do so together.
fn ends(curves: &[Curve], x: &Axis, looks: &[Look]) -> Vec<End> {
    let all = curves.iter().zip(looks).filter_map(|(c, look)| Some((c.left_out?.x, look)));
    let mut places: Vec<End> =
        all.filter_map(|(at, look)| Some(End { x: x.place(at)?, colour: Some(look.colour) })).collect();
    if places.iter().all(|end| end.x.total_cmp(&places[0].x).is_eq()) {
        places.truncate(1);
        places.iter_mut().for_each(|end| end.colour = None);
    }
    places
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
