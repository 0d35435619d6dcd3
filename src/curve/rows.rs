//! What is read of a table of metrics: the numbers of chosen references, streams and groups, by step.
//!
//! Owns which rows are chosen. Knows nothing of points.

use std::path::Path;

use crate::curve::Asked;
use crate::error::{Error, Result, Usage};
use crate::row::{Kind, columns};
use crate::table::{Field, Piece, metadata, read};

/// As many curves as can be told apart.
pub(crate) const MOST: usize = 6;

/// What a curve is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Name of the reference.
    pub reference: String,
    /// Name of the stream.
    pub stream: String,
    /// Name of the group.
    pub group: String,
}

impl Key {
    /// Its names, each after what it is of.
    pub(crate) fn parts(&self) -> [(&'static str, &str); 3] {
        [("reference", &self.reference), ("stream", &self.stream), ("group", &self.group)]
    }
}

/// The rows of one key, in the order of steps. What is not there is NaN.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) key: Key,
    pub(crate) steps: Vec<u64>,
    pub(crate) epochs: Vec<f64>,
    pub(crate) distances: Vec<f64>,
    /// `low_precision`.
    pub(crate) rounding: Vec<bool>,
    /// By metric.
    pub(crate) values: Vec<Vec<f64>>,
    /// By metric; empty where it has no walk.
    pub(crate) walks: Vec<Vec<f64>>,
}

/// A key of the table, and where its rows are kept if it was asked for.
struct Known {
    key: Key,
    at: Option<usize>,
}

/// Columns that come before the metrics.
const FIRST: [(&str, Kind); 7] = [
    ("step", Kind::Integer),
    ("reference", Kind::Text),
    ("stream", Kind::Text),
    ("group", Kind::Text),
    ("low_precision", Kind::Flag),
    ("epoch", Kind::Real),
    ("dist", Kind::Real),
];

/// The column of a metric.
///
/// # Errors
/// There is none; the text has names like it.
fn column(metric: &str) -> Result<&'static str> {
    let names = || columns().filter(|c| c.kind == Kind::Real).map(|c| c.name);
    if let Some(name) = names().find(|&n| n == metric) {
        return Ok(name);
    }
    let mut near: Vec<&str> = names().collect();
    near.sort_by_key(|name| edits(metric, name));
    let what = format!(
        "'{metric}' is no number of the table; near it are {} (docs/schema.md has all)",
        near[..near.len().min(3)].join(", ")
    );
    Err(Usage(what).into())
}

/// Letters to change, add or leave out to make one word of another.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Checks that all that is asked for are metrics.
///
/// # Errors
/// One is not, or comes twice.
pub(crate) fn check(metrics: &[String]) -> Result<()> {
    for (i, metric) in metrics.iter().enumerate() {
        column(metric)?;
        if metrics[..i].contains(metric) {
            return Err(Usage(format!("'{metric}' is named twice")).into());
        }
    }
    Ok(())
}

/// Reads what is asked for.
///
/// # Errors
/// It is no table of metrics, is damaged, or has no row, or too many keys, of what is asked for.
pub(crate) fn of(table: &Path, asked: &Asked) -> Result<Vec<Rows>> {
    let refuse = |what: String| Error::NotFound { path: table.to_owned(), what };
    if metadata(table).is_some_and(|all| all.iter().all(|(k, _)| k != "lpa.schema")) {
        return Err(refuse("it is a table, but none that lpa analyze has written".to_owned()));
    }
    let mut fields: Vec<Field> = FIRST.iter().map(|&(name, kind)| Field { name, kind }).collect();
    let mut places = Vec::new();
    for metric in &asked.metrics {
        let mut place = |name: &'static str| {
            fields.iter().position(|f| f.name == name).unwrap_or_else(|| {
                fields.push(Field { name, kind: Kind::Real });
                fields.len() - 1
            })
        };
        let walk = columns().find(|c| c.name.strip_suffix("_walk") == Some(metric));
        places.push((place(column(metric)?), walk.map(|c| place(c.name))));
    }
    let (mut known, mut found) = (Vec::new(), Vec::new());
    read(table, &fields, |piece| {
        take(piece, &places, asked, &mut known, &mut found);
        if found.len() > MOST { Err(Usage(too_many(&found)).into()) } else { Ok(()) }
    })?;
    if known.is_empty() {
        return Err(refuse("the table has no rows".to_owned()));
    }
    if found.is_empty() {
        return Err(refuse(none(&known, asked)));
    }
    for rows in &found {
        if rows.steps.windows(2).any(|pair| pair[0] >= pair[1]) {
            let what = "a step comes twice or before an earlier one; name the table of one run";
            return Err(refuse(what.to_owned()));
        }
    }
    Ok(found)
}

/// Adds the rows of a piece to those that were found.
fn take(
    piece: &Piece,
    places: &[(usize, Option<usize>)],
    asked: &Asked,
    known: &mut Vec<Known>,
    found: &mut Vec<Rows>,
) {
    let steps = piece.integers(0);
    let (references, streams, groups) = (piece.texts(1), piece.texts(2), piece.texts(3));
    let (rounding, epochs, distances) = (piece.flags(4), piece.reals(5), piece.reals(6));
    let values: Vec<Vec<f64>> = places.iter().map(|p| piece.reals(p.0)).collect();
    let walks: Vec<Vec<f64>> = places.iter().map(|p| p.1.map_or_else(Vec::new, |i| piece.reals(i))).collect();
    let wants = |wanted: &[String], name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let mut next = 0;
    for (row, &step) in steps.iter().enumerate() {
        let is = |k: &Known| {
            k.key.group == groups[row] && k.key.reference == references[row] && k.key.stream == streams[row]
        };
        // Rows come in the same order at every step.
        let here = if known.get(next).is_some_and(is) { Some(next) } else { known.iter().position(is) };
        let here = here.unwrap_or_else(|| {
            let text = |all: &[&str]| all[row].to_owned();
            let key = Key { reference: text(&references), stream: text(&streams), group: text(&groups) };
            let chosen = wants(&asked.references, &key.reference)
                && wants(&asked.streams, &key.stream)
                && wants(&asked.groups, &key.group);
            if chosen {
                found.push(Rows::new(key.clone(), places.len()));
            }
            known.push(Known { key, at: chosen.then(|| found.len() - 1) });
            known.len() - 1
        });
        next = if here + 1 < known.len() { here + 1 } else { 0 };
        if let Some(rows) = known[here].at.and_then(|at| found.get_mut(at)) {
            rows.steps.push(step);
            rows.epochs.push(epochs[row]);
            rows.distances.push(distances[row]);
            rows.rounding.push(rounding[row]);
            let of = |from: &[Vec<f64>], to: &mut [Vec<f64>]| {
                from.iter().zip(to).for_each(|(from, to)| to.extend(from.get(row)));
            };
            of(&values, &mut rows.values);
            of(&walks, &mut rows.walks);
        }
    }
}

impl Rows {
    fn new(key: Key, metrics: usize) -> Rows {
        let none = || vec![Vec::new(); metrics];
        Rows {
            key,
            steps: Vec::new(),
            epochs: Vec::new(),
            distances: Vec::new(),
            rounding: Vec::new(),
            values: none(),
            walks: none(),
        }
    }
}

/// A few of the names that keys have, each once.
fn names<'a>(all: impl Iterator<Item = &'a String>) -> String {
    let mut once: Vec<&str> = Vec::new();
    all.for_each(|name| {
        if once.len() <= 5 && !once.contains(&name.as_str()) {
            once.push(name)
        }
    });
    let more = if once.len() > 5 { ", .." } else { "" };
    once.truncate(5);
    format!("{}{more}", once.join(", "))
}

fn too_many(found: &[Rows]) -> String {
    format!(
        "a figure has at most {MOST} curves; choose by --ref ({}), --stream ({}) and --group ({})",
        names(found.iter().map(|r| &r.key.reference)),
        names(found.iter().map(|r| &r.key.stream)),
        names(found.iter().map(|r| &r.key.group))
    )
}

fn none(known: &[Known], asked: &Asked) -> String {
    let wanted =
        |option: &str, all: &[String]| all.iter().map(|w| format!(" --{option} {w}")).collect::<String>();
    format!(
        "no row is of{}{}{}; there is --ref {}, --stream {}, --group {}",
        wanted("ref", &asked.references),
        wanted("stream", &asked.streams),
        wanted("group", &asked.groups),
        names(known.iter().map(|k| &k.key.reference)),
        names(known.iter().map(|k| &k.key.stream)),
        names(known.iter().map(|k| &k.key.group))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_metric_is_answered_with_near_names() {
        assert_eq!([edits("rsi", "rsi"), edits("kitten", "sitting"), edits("", "ab")], [0, 3, 2]);
        let said = check(&["lorl".to_owned()]).unwrap_err().to_string();
        assert!(said.starts_with("'lorl' is no number") && said.contains("lolr"), "{said}");
        assert!(check(&["step".to_owned()]).is_err(), "a count is no metric");
        assert!(check(&["cos".to_owned(), "cos".to_owned()]).is_err());
    }
}
