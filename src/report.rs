//! Rows and the text about them, from what was measured.

use std::path::Path;

use crate::analyze::{Analysis, Measured, Options, Skipped};
use crate::error::Result;
use crate::reference::Reference;
use crate::row::{Row, Sink};
use crate::run::Run;
use crate::summary::{Subject, Summary, counted, thousands};

// In the table itself, so that asking again costs nothing and a file found later explains itself.
/// Key of a table's metadata that holds the text.
pub(crate) const SUMMARY: &str = "lpa.summary";

/// Rows to a sink, and to the summary.
struct Tee<S> {
    sink: S,
    summary: Summary,
}

impl<S: Sink> Sink for Tee<S> {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        self.summary.row(row)?;
        self.sink.row(row)
    }
}

/// Derives all rows into `sink`. Returns it, and the text for a person.
///
/// # Errors
/// As [`Analysis::derive`].
pub(crate) fn report<S: Sink>(
    analysis: &Analysis<'_>,
    measured: &mut Measured,
    scratch: &Path,
    sink: S,
) -> Result<(S, String)> {
    let (run, references, options) = (analysis.run, analysis.references, analysis.options);
    let span = analysis.span();
    let (subjects, topics) = (subjects(references), analysis.topics());
    let mut tee = Tee { sink, summary: Summary::new(&span, subjects, topics) };
    analysis.derive(measured, scratch, &mut tee)?;
    let count = measured.steps.len() as u64;
    let notes = measured.facts.notes(run, references, &options.left_out);
    let followed = analysis.followed(measured);
    let text = heading(run, references, options, count) + &tee.summary.text(count, &followed, &notes);
    Ok((tee.sink, text))
}

/// What a person should know of steps that were left out, in lines; `None` where none was.
pub(crate) fn left_out(analysis: &Analysis<'_>, skipped: &Skipped) -> Option<String> {
    const LISTED: usize = 10;
    let mut lines = Vec::new();
    let count = analysis.skipped_steps(skipped);
    if count > 0 {
        lines.push(format!("lpa: left out {} damaged or missing steps:", thousands(count)));
        lines.extend(skipped.ranges().take(LISTED).map(|(steps, why)| match steps.into_inner() {
            (a, b) if a == b => format!("  step {a}: {why}"),
            (a, b) => format!("  steps {a} to {b}: {why}"),
        }));
        let more = skipped.ranges().count().saturating_sub(LISTED);
        lines.extend((more > 0).then(|| format!("  ... and {more} more")));
    }
    lines.extend(skipped.also.values().take(LISTED).map(|why| format!("lpa: null in other rows: {why}")));
    (!lines.is_empty()).then(|| lines.join("\n") + "\n")
}

fn subjects(references: &[Reference]) -> Vec<Subject> {
    let subject = |r: &Reference| Subject {
        name: r.name.clone(),
        control: r.is_control(),
        last: r.weights.last(),
        origin: r.origin,
        common: r.common,
        kin: r.kin,
        rounded: r.rounded,
    };
    references.iter().map(subject).collect()
}

fn heading(run: &Run, references: &[Reference], options: &Options, steps: u64) -> String {
    let m = &run.manifest;
    let named = |r: &Reference| {
        let step = r.step.map_or_else(String::new, |s| format!(" (x_{s})"));
        let provisional = if r.provisional { ", provisional" } else { "" };
        let control = if r.is_control() { " (same x_0: a control)" } else { "" };
        format!("{}{step}{control}{provisional}", r.name)
    };
    const SHOWN: usize = 4;
    let mut against: Vec<String> = references.iter().take(SHOWN).map(named).collect();
    if references.len() > SHOWN {
        against.push(format!("and {} more", references.len() - SHOWN));
    }
    let streams: Vec<&str> = options.streams.iter().map(|s| s.name.as_str()).collect();
    let groups = match options.groups.as_slice() {
        [one] => format!("group {}", one.name),
        all => format!("{} groups", all.len()),
    };
    format!(
        "{} measured, {} in {} ({}), optimizer {}\nagainst reference \
         {}, stream {}, {groups}\n\n",
        counted(steps, "step"),
        counted(m.parameters(), "parameter"),
        counted(m.tensors.len() as u64, "tensor"),
        m.types(),
        if m.optimizer.name.is_empty() { "unknown" } else { &m.optimizer.name },
        against.join(", "),
        streams.join(", "),
    )
}
