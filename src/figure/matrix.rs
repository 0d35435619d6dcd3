//! A matrix: every path against the end of every other, a coloured square each, with its numbers.

use crate::compare::{Against, Matrix};
use crate::figure::colour::{NONE, Rgb, Scale};
use crate::figure::svg::{Drawing, GAP, LARGE, MARGIN, MM, SMALL, number};
use crate::summary::significant;
use crate::training::Role;

/// Names beside the squares take this part of the width at most.
const NAMES: f64 = 0.3;
/// A square that has room for its numbers.
const ROOM: f64 = 34.0;

/// A matrix that is so many millimetres wide, as SVG.
pub(crate) fn matrix(matrix: &Matrix, millimetres: f64) -> String {
    let width = millimetres * MM;
    let mut d = Drawing::new();
    let count = matrix.names.len();
    let names: Vec<String> = matrix.names.iter().map(|n| d.font.cut(n, SMALL, NAMES * width)).collect();
    let widest = names.iter().map(|n| d.font.width(n, SMALL)).fold(0.0, f64::max);
    let left = MARGIN + LARGE + GAP + widest + GAP;
    let side = (width - left - MARGIN) / count as f64;
    let height = side.min(ROOM);
    // Names of columns stand upright where they do not fit.
    let upright = names.iter().any(|n| d.font.width(n, SMALL) > side - 2.0);
    let head = if upright { widest } else { SMALL };
    let top = MARGIN + LARGE + GAP + head + GAP;
    let all = || matrix.cells.iter().flatten().flatten();
    let most = all().filter_map(|a| a.excess).fold(0.0, |m: f64, v| m.max(v.abs()));
    let scale = Scale::Diverging { most: if most > 0.0 { most } else { 1.0 } };
    for (row, cells) in matrix.cells.iter().enumerate() {
        let y = top + row as f64 * height;
        d.text(left - GAP, y + height / 2.0 + 0.35 * SMALL, SMALL, "end", "#000", &names[row]);
        for (column, cell) in cells.iter().enumerate() {
            square(&mut d, (left + column as f64 * side, y, side, height), cell.as_ref(), scale);
        }
    }
    for (column, name) in names.iter().enumerate() {
        let x = left + (column as f64 + 0.5) * side;
        if upright {
            d.upright(x + 0.35 * SMALL, top - GAP, name);
        } else {
            d.text(x, top - GAP, SMALL, "middle", "#000", name);
        }
    }
    d.text(
        left + (width - left - MARGIN) / 2.0,
        MARGIN + LARGE,
        LARGE,
        "middle",
        "#000",
        "against the end of",
    );
    d.turned(MARGIN + LARGE - 1.5, top + height * count as f64 / 2.0, "path of");
    let mut below = top + height * count as f64 + GAP;
    for note in notes(matrix, most) {
        below = d.note(&note, below, width);
    }
    d.finish(millimetres, below + MARGIN, "cos_excess of paths against the ends of runs")
}

/// A square: its colour, and its numbers where they fit.
fn square(d: &mut Drawing, (x, y, w, h): (f64, f64, f64, f64), cell: Option<&Against>, scale: Scale) {
    let excess = cell.and_then(|a| a.excess);
    let fill = excess.map_or(NONE, |v| scale.colour(v));
    let own = cell.is_some_and(|a| a.role == Role::Own);
    let inset = if own { 1.0 } else { 0.25 };
    d.push(&format!(
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" stroke=\"#000\" stroke-width=\"{}\"/>",
        number(x + inset),
        number(y + inset),
        number(w - 2.0 * inset),
        number(h - 2.0 * inset),
        hex(fill),
        if own { "1.5" } else { "0.25" }
    ));
    let Some(a) = cell else { return };
    let ink = if dark(fill) { "#fff" } else { "#000" };
    let text = |count: usize| excess.map_or_else(|| "null".to_owned(), |v| digits(v, count));
    let mark = if matches!(a.role, Role::Control { .. }) { "*" } else { "" };
    // Where its number has no room, the mark has.
    let fits = |text: &String| d.font.width(text, SMALL) <= w - 2.0 && h >= SMALL + 2.0;
    let numbers = [2, 1].map(|count| format!("{}{mark}", text(count))).into_iter().find(fits);
    let t = a.t.filter(|_| numbers.is_some()).map(|t| format!("t {}", digits(t, 2)));
    let t = t.filter(|t| h >= 2.0 * SMALL + 5.0 && fits(t));
    let text = numbers.unwrap_or_else(|| mark.to_owned());
    let middle = y + h / 2.0;
    let above = if t.is_some() { -1.5 } else { 0.35 * SMALL };
    d.text(x + w / 2.0, middle + above, SMALL, "middle", ink, &text);
    if let Some(t) = t {
        d.text(x + w / 2.0, middle + SMALL, SMALL, "middle", ink, &t);
    }
}

/// So many digits.
fn digits(v: f64, count: usize) -> String {
    let text = format!("{v:.0$e}", count - 1);
    let exponent: i32 = text.rsplit('e').next().and_then(|e| e.parse().ok()).unwrap_or(0);
    if (-3..4).contains(&exponent) {
        let decimals = (count - 1).saturating_add_signed(-isize::try_from(exponent).unwrap_or(0));
        format!("{v:.decimals$}")
    } else {
        text
    }
}

fn hex([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Whether white is read better on a colour than black.
fn dark([r, g, b]: Rgb) -> bool {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b) < 128.0
}

fn notes(matrix: &Matrix, most: f64) -> Vec<String> {
    let any = |of: fn(&Role) -> bool| matrix.cells.iter().flatten().flatten().any(|a| of(&a.role));
    let mut notes = vec![
        "Medians of cos_excess and t_excess (t) over the path. Thick: the path's own end, beyond a random walk \
         of its own steps."
            .to_owned(),
    ];
    if any(|role| matches!(role, Role::Control { .. })) {
        notes.push("* A control: another path from the same x_0. A random walk has 0 there.".to_owned());
    }
    if any(|role| matches!(role, Role::Other { .. })) {
        notes.push(
            "Thin without *: a path that starts elsewhere, or has steps or minibatches in common.".to_owned(),
        );
    }
    notes.push(format!(
        "From {} (dark blue) over 0 (white) to {} (dark red); all numbers are in the CSV.",
        significant(-most),
        significant(most)
    ));
    if matrix.cells.iter().flatten().any(|cell| cell.as_ref().is_none_or(|a| a.excess.is_none())) {
        notes.push("Grey: not measured, or null.".to_owned());
    }
    notes
}
