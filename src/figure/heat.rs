//! A heat map: a grid of pairs as colours, with its scale.
//!
//! Cells are a picture within the SVG, since a rectangle each would take megabytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::figure::Axis;
use crate::figure::axis::Tick;
use crate::figure::cells::Cells;
use crate::figure::colour::{NONE, Scale};
use crate::figure::png::plain;
use crate::figure::svg::{Drawing, Frame, GAP, LARGE, MARGIN, MM, SMALL, TICK, number};
use crate::grid::{Grid, Metric, Side};
use crate::summary::thousands;

/// The width of the bar with the scale's colours.
const BAR: f64 = 7.0;
/// Its colours.
const SHADES: usize = 128;

/// A heat map that is so many millimetres wide, as SVG, and its cells for those who draw them by themselves.
pub(crate) fn heat(grid: &Grid, millimetres: f64) -> (String, Vec<Cells>) {
    let scale = scale(grid);
    let width = millimetres * MM;
    let mut d = Drawing::new();
    let (x, y) = (axis(&grid.steps), axis(&grid.references));
    let side = |labels: &[Tick], d: &Drawing| {
        labels.iter().map(|t| d.font.width(&t.label, SMALL)).fold(0.0, f64::max)
    };
    let ends = Axis::linear([scale.ends().0, scale.ends().1].into_iter(), 0.0);
    let of_scale = ends.ticks(6, false);
    let up = y.ticks(6, true);
    let left = MARGIN + LARGE + GAP + side(&up, &d) + TICK + GAP;
    let right = MARGIN + side(&of_scale, &d) + TICK + GAP + BAR + 2.0 * GAP + LARGE + GAP;
    let across = x.ticks(if width > 300.0 { 8 } else { 4 }, true);
    let frame_width = width - left - right;
    let frame = Frame { left, top: MARGIN + GAP + 2.0, width: frame_width, height: frame_width.min(330.0) };
    let cells = cells(grid, scale, &frame);
    picture(&mut d, &cells);
    for tick in &across {
        let x = frame.x(tick.at);
        d.line((x, frame.bottom()), (x, frame.bottom() + TICK), "#000", 0.5, "");
        d.text(x, frame.bottom() + TICK + GAP - 1.0 + SMALL, SMALL, "middle", "#000", &tick.label);
    }
    for tick in &up {
        let y = frame.y(tick.at);
        d.line((frame.left - TICK, y), (frame.left, y), "#000", 0.5, "");
        d.text(frame.left - TICK - GAP + 1.0, y + 0.35 * SMALL, SMALL, "end", "#000", &tick.label);
    }
    d.outline(&frame);
    let bar = Frame { left: frame.x(1.0) + 2.0 * GAP, ..frame };
    let shades = scale_bar(&mut d, scale, &bar, &of_scale, name(grid.metric), width);
    let mut top = frame.bottom() + TICK + SMALL + GAP + 1.5;
    d.text(frame.x(0.5), top + LARGE, LARGE, "middle", "#000", "step t");
    d.turned(MARGIN + LARGE - 1.5, frame.y(0.5), "reference step k");
    top += LARGE + GAP + 1.5;
    for note in notes(grid) {
        top = d.note(&note, top, width);
    }
    let label = format!("{} of step t and reference step k", grid.metric.name());
    (d.finish(millimetres, top + MARGIN, &label), vec![cells, shades])
}

/// What a reader sees at the scale.
fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::Cos => "cos(g_t, x_t − x_k)",
        Metric::Dist => "||x_t − x_k||",
        Metric::CosFirst => "cos(x_t − x_0, x_k − x_0)",
        Metric::CosLast => "cos(x_t − x_T, x_k − x_T)",
    }
}

fn scale(grid: &Grid) -> Scale {
    let most = grid.means.iter().flatten().fold(0.0, |m: f64, v| m.max(v.abs()));
    let most = if most > 0.0 { most } else { 1.0 };
    match grid.metric {
        Metric::Dist => Scale::Sequential { most },
        Metric::Cos | Metric::CosFirst | Metric::CosLast => Scale::Diverging { most },
    }
}

/// Steps from the edge of the first cell to that of the last.
fn axis(side: &Side) -> Axis {
    let (first, last) = (side.first as f64, (side.first + side.length) as f64);
    Axis::linear([first, last].into_iter(), 0.0)
}

/// Draws a scale of colours beside a frame, with what it is of, and returns its cells.
pub(super) fn scale_bar(
    d: &mut Drawing,
    scale: Scale,
    place: &Frame,
    ticks: &[Tick],
    name: &str,
    width: f64,
) -> Cells {
    let bar = Frame { width: BAR, ..*place };
    let shades = shades(scale, &bar);
    picture(d, &shades);
    d.outline(&bar);
    for tick in ticks {
        let y = bar.y(tick.at);
        d.line((bar.x(1.0), y), (bar.x(1.0) + TICK, y), "#000", 0.5, "");
        d.text(bar.x(1.0) + TICK + 1.5, y + 0.35 * SMALL, SMALL, "start", "#000", &tick.label);
    }
    d.turned(width - MARGIN - 1.5, bar.y(0.5), name);
    shades
}

fn cells(grid: &Grid, scale: Scale, frame: &Frame) -> Cells {
    let columns = grid.steps.cells;
    let colours = grid.means.chunks(columns).rev().flatten();
    Cells {
        place: [frame.left, frame.top, frame.width, frame.height],
        columns,
        colours: colours.map(|mean| mean.map_or(NONE, |v| scale.colour(v))).collect(),
    }
}

fn shades(scale: Scale, frame: &Frame) -> Cells {
    let (lo, hi) = scale.ends();
    let shade = |i: usize| scale.colour(hi - (hi - lo) * i as f64 / (SHADES - 1) as f64);
    let place = [frame.left, frame.top, frame.width, frame.height];
    Cells { place, columns: 1, colours: (0..SHADES).map(shade).collect() }
}

fn picture(d: &mut Drawing, cells: &Cells) {
    let [left, top, width, height] = cells.place.map(number);
    let bytes = plain(cells.columns, &cells.colours.concat()).unwrap_or_default();
    d.push(&format!(
        "<image x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
         style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
        STANDARD.encode(bytes)
    ));
}

fn notes(grid: &Grid) -> Vec<String> {
    let steps = |side: &Side| {
        let (from, to) = side.steps(0);
        (to - from + 1).max(side.length / side.cells as u64)
    };
    let (t, k) = (steps(&grid.steps), steps(&grid.references));
    let most = grid.counts.iter().copied().max().unwrap_or(0);
    let mut notes = vec![match most {
        1 => "A cell is one pair.".to_owned(),
        _ => format!(
            "A cell is the mean of the pairs of {} by {} steps ({} at most).",
            thousands(t),
            thousands(k),
            thousands(most)
        ),
    }];
    if grid.means.iter().any(Option::is_none) {
        notes.push(format!(
            "Grey: nothing recorded, or null ({} pairs), as where both are the same.",
            thousands(grid.nulls)
        ));
    }
    if grid.metric == Metric::Cos {
        notes.push("Above the diagonal are iterates to come, below it those that have been.".to_owned());
    }
    notes
}
