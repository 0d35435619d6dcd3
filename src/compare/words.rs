//! What a person reads of a comparison.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::compare::matrix::{Against, Matrix};
use crate::compare::path::{OfKey, OfTable, Part};
use crate::compare::{Comparison, place::Places};
use crate::printable::{column_width, printable_in_line};
use crate::summary::{significant, thousands, wrap};
use crate::training::{Role, Training, differences};

/// Paths that are listed.
const LISTED: usize = 60;
/// Ends that fit beside each other.
const ENDS: usize = 8;

/// The text: in what the trainings differ, what each path is like, and against which end.
pub(super) fn summary(all: &Comparison) -> String {
    let trainings = all.trainings();
    let keys = differences(&trainings);
    let differ = match keys.as_slice() {
        [] => "nothing that was recorded of them differs".to_owned(),
        keys => format!("they differ in {}", keys.join(", ")),
    };
    let mut out = wrap(&format!("{} runs, compared {}; {differ}.", trainings.len(), all.places.words()));
    if let Some(of) = all.tables.first().and_then(|t| t.main()) {
        let key = &of.key;
        let _ = writeln!(out, "Group {}, against {}, stream {}.", key.group, key.reference, key.stream);
    }
    out.push('\n');
    list(&mut out, all, &keys);
    out.push('\n');
    if let Some(spread) = all.seeds {
        let alike = all.alike();
        let of: Vec<String> = alike.iter().map(|a| format!("{} of {}", a.name(), a.tables.len())).collect();
        out.push_str(&wrap(&format!(
            "In the table, trainings that differ in seed, order or name alone are one: the mean of their means, {spread}. \
             Runs: {}.",
            of.join(", ")
        )));
        out.push('\n');
    }
    if let Some(matrix) = all.matrix() {
        of_matrix(&mut out, &matrix);
    }
    for note in notes(all, &trainings) {
        out.push_str(&wrap(&format!("note: {note}")));
    }
    out
}

/// Columns of text, as wide as their widest.
struct Columns(Vec<Vec<String>>);

impl Columns {
    fn write(&self, out: &mut String) {
        let wide = |text: &String| text.chars().count();
        for row in 0..self.0[0].len() {
            let mut line = String::new();
            for (i, column) in self.0.iter().enumerate() {
                let width = column_width(column.iter().map(wide));
                let _ = match i {
                    0 => write!(line, "{:<width$}", column[row]),
                    _ => write!(line, "  {:>width$}", column[row]),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), significant)
}

fn list(out: &mut String, all: &Comparison, keys: &[&str]) {
    let told = all.tables.iter().take(LISTED);
    let column = |head: &str, of: &dyn Fn(&Training, Option<&OfKey>) -> String| -> Vec<String> {
        let values = told.clone().map(|t| of(&t.training, t.main()));
        std::iter::once(head.to_owned()).chain(values).collect()
    };
    let thirds = |of: Option<&OfKey>, get: &dyn Fn(&Part) -> Option<f64>| {
        of.map_or_else(String::new, |of| of.thirds.each_ref().map(|part| known(get(part))).join(" / "))
    };
    let mut columns = vec![column("run", &|t, _| printable_in_line(&t.name).into_owned())];
    for key in keys.iter().filter(|key| **key != "steps" && **key != "name") {
        columns.push(column(key, &|t, _| t.told(key).unwrap_or_else(|| "-".to_owned())));
    }
    columns.push(column("steps", &|t, _| t.told("steps").unwrap_or_else(|| "-".to_owned())));
    columns.push(column("parameters", &|_, of| of.map_or_else(String::new, |of| thousands(of.parameters))));
    Columns(columns).write(out);
    out.push('\n');
    let mut columns = vec![column("run", &|t, _| printable_in_line(&t.name).into_owned())];
    columns.push(column("cos early/middle/late", &|_, of| thirds(of, &|part| part.cos.get())));
    columns.push(column("cos_walk", &|_, of| thirds(of, &|part| part.walk.get())));
    columns.push(column("cos_excess", &|_, of| thirds(of, &|part| part.excess.get())));
    columns.push(column("median of t_excess", &|_, of| thirds(of, &Part::median_t)));
    columns.push(column("negative", &|_, of| {
        let (negative, all) = of.map_or((0, 0), OfKey::negative);
        format!("{} of {}", thousands(negative), thousands(all))
    }));
    columns.push(column("||x - x_0|| at last step", &|_, of| known(of.and_then(|of| of.travelled))));
    Columns(columns).write(out);
    if all.tables.len() > LISTED {
        let _ = writeln!(out, "... and {} more", all.tables.len() - LISTED);
    }
}

fn of_matrix(out: &mut String, matrix: &Matrix) {
    out.push_str(&wrap(
        "Paths (rows) against the ends of the runs (columns): medians of cos_excess and, in brackets, t_excess.",
    ));
    let shown: Vec<String> = matrix.names.iter().map(|n| printable_in_line(n).into_owned()).collect();
    let mark = |against: &Against| match against.role {
        Role::Own => " own",
        Role::Control { .. } => " control",
        Role::Other { .. } | Role::File => " other",
    };
    let cell = |against: &Option<Against>| match against {
        Some(a) => format!("{} ({}){}", known(a.excess), known(a.t), mark(a)),
        None => "-".to_owned(),
    };
    for first in (0..matrix.names.len()).step_by(ENDS) {
        let ends = first..(first + ENDS).min(matrix.names.len());
        let names = std::iter::once(String::new()).chain(shown.iter().cloned()).collect();
        let mut columns = vec![names];
        for end in ends {
            let cells = matrix.cells.iter().map(|row| cell(&row[end]));
            columns.push(std::iter::once(shown[end].clone()).chain(cells).collect());
        }
        Columns(columns).write(out);
        out.push('\n');
    }
    out.push_str(&wrap(
        "own: what the path has beyond a random walk of its own steps. control: the end of another path from the same \
         x_0, into which none of this path's gradients went, so that a random walk has 0 there and what is left is a \
         direction that both have. other: a path that starts elsewhere, or has steps or minibatches in common with this one; nothing is said of the latter.",
    ));
}

fn notes(all: &Comparison, trainings: &[&Training]) -> Vec<String> {
    let mut notes = Vec::new();
    let differ = |of: &dyn Fn(usize) -> Option<u64>| {
        (0..trainings.len()).filter_map(of).collect::<BTreeSet<u64>>().len() > 1
    };
    if differ(&|i| trainings[i].steps) {
        notes.push(
            "the runs have different numbers of steps, and a random walk's cosine is larger where fewer are left: of cos \
             compare what is beyond cos_walk."
                .to_owned(),
        );
    }
    if differ(&|i| Some(all.tables[i].main()?.parameters)) {
        notes.push("the models differ in size, and cosines of noise are smaller in larger ones (1/sqrt(n_params) where it is alike in \
             all directions); t_excess does not take that for granted."
                .to_owned());
    }
    for training in trainings {
        if let Some(part) = &training.part {
            let name = &training.name;
            notes.push(format!(
                "the table of {name} is of a part of its path, steps {part}; early, middle and late are thirds of that."
            ));
        }
    }
    for table in &all.tables {
        let (Some(of), name) = (table.main(), &table.training.name) else { continue };
        if of.rounding > 0 {
            notes.push(format!(
                "{name}: at {} of its steps the distance is below 1,000 roundings of the iterates (low_precision), and with it \
                 all that is made of it.",
                thousands(of.rounding)
            ));
        }
        notes.extend(of.certainty.note().map(|note| format!("{name}: {note}.")));
        if of.nonfinite > 0 {
            notes.push(format!(
                "{name}: sums of {} of its steps are infinite or NaN.",
                thousands(of.nonfinite)
            ));
        }
    }
    let mut others = all.tables.iter().filter_map(|t| Some((t, t.main()?)));
    let more = |(t, main): (&OfTable, &OfKey)| {
        t.keys.iter().any(|k| {
            k.role == main.role && (k.key.group != main.key.group || k.key.stream != main.key.stream)
        })
    };
    if others.any(more) {
        notes.push(
            "other groups and streams of the tables are not listed here; --out FILE has all.".to_owned(),
        );
    }
    let unplaced: u64 = all.tables.iter().flat_map(|t| &t.keys).map(|k| k.unplaced).sum();
    if unplaced > 0 {
        notes.push(format!("{} rows have no place, since their distance is 0 or null.", thousands(unplaced)));
    }
    if all.places == Places::Distances {
        notes.push("a place has all steps that lie at such a distance, whenever that was.".to_owned());
    }
    notes
}
