//! What is written about a figure: its legend, and what a reader must know.

use crate::curve::{Along, Column as Share, Curve, Curves, Ending, Key, LeftOut, Per, Point};
use crate::figure::{COLOURS, Column, Look, Sample};
use crate::summary::{significant, thousands};

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

/// What stands for each curve of a column.
pub(super) fn lines(curves: &Curves, looks: &[Look]) -> Vec<(Sample, String)> {
    if curves.keys.len() > 1 {
        let names = names(&curves.keys).1;
        return looks.iter().zip(names).map(|(&look, name)| (Sample::Line(look), name)).collect();
    }
    let what = match &curves.across {
        Some(across) => format!("mean of {} runs", across.runs),
        None if has_band(curves) => "mean".to_owned(),
        // Of several panels that would be the name of one.
        None if curves.panels.len() > 1 => "as measured".to_owned(),
        None => curves.panels[0].metric.clone(),
    };
    vec![(Sample::Line(looks[0]), what)]
}

fn has_band(curves: &Curves) -> bool {
    curves.per != Per::Row || curves.across.is_some()
}

/// What stands for all that is no curve.
pub(super) fn shared(shares: &[Share], columns: &[Column]) -> Vec<(Sample, String)> {
    let mut entries = Vec::new();
    if let Some(banded) = shares.iter().map(|s| &s.curves).find(|c| has_band(c)) {
        let one = shares.iter().all(|s| s.curves.keys.len() == 1);
        let colour = if one { COLOURS[0] } else { "#808080" };
        let what = banded.across.map_or_else(|| banded.band.to_string(), |across| across.to_string());
        entries.push((Sample::Band(colour), what));
    }
    let panels = || columns.iter().flat_map(|c| &c.panels);
    if panels().flat_map(|p| &p.series).any(|s| !s.walk.is_empty()) {
        entries.push((Sample::Walk, "random walk".to_owned()));
    }
    if panels().any(|p| !p.ends.is_empty()) {
        entries.push((Sample::End, "end left out".to_owned()));
    }
    entries
}

/// What a reader must know; what is said of all columns stands there once, and of others after their titles.
pub(super) fn notes(shares: &[Share], log: bool) -> Vec<String> {
    let all: Vec<Vec<String>> = shares.iter().map(|share| of_curves(&share.curves, log)).collect();
    let common = |note: &String| all.iter().all(|notes| notes.contains(note));
    let own = shares.iter().zip(&all).filter_map(|(share, notes)| {
        let own: Vec<&str> = notes.iter().filter(|note| !common(note)).map(String::as_str).collect();
        (!own.is_empty()).then(|| format!("{}: {}", share.title, own.join(" ")))
    });
    all.iter().take(1).flatten().filter(|note| common(note)).cloned().chain(own).collect()
}

fn of_curves(curves: &Curves, log: bool) -> Vec<String> {
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
    notes.extend(left_out(curves));
    notes.extend(within(curves));
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

/// What of the end is not there.
fn left_out(curves: &Curves) -> Option<String> {
    let all: Vec<LeftOut> = curves.panels.first()?.curves.iter().filter_map(|c| c.left_out).collect();
    let (least, most) = (all.iter().map(|l| l.rows).min()?, all.iter().map(|l| l.rows).max()?);
    let rows = if least == most {
        thousands(most as u64)
    } else {
        format!("{} to {}", thousands(least as u64), thousands(most as u64))
    };
    let steps = if most == 1 { "step" } else { "steps" };
    let what = match all.first()?.ending {
        Ending::Rounding if most == 1 => {
            return Some(
                "The last step, whose distance is below 1,000 roundings, is left out (//).".to_owned(),
            );
        }
        Ending::Rounding => {
            return Some(format!(
                "The last {rows} steps, whose distance is below 1,000 roundings, are left out (//)."
            ));
        }
        Ending::Percent(p) => format!("last {p} % of the steps"),
        Ending::Epoch | Ending::Drawn => "last epoch".to_owned(),
    };
    Some(format!("The {what} ({rows} {steps}) is left out (//)."))
}

/// How far off values are that are estimates, by metric: of the curve whose values are furthest off.
fn within(curves: &Curves) -> impl Iterator<Item = String> {
    curves.panels.iter().filter_map(|panel| {
        let most = panel.curves.iter().filter_map(|curve| curve.within).reduce(f64::max)?;
        let (metric, most) = (&panel.metric, significant(most));
        Some(format!("{metric}: estimates, within {most} on the average ({metric}_lo to {metric}_hi)."))
    })
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
