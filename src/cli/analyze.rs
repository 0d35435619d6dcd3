//! `lpa analyze`.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::BufWriter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::progress::Progress;
use super::{RunArguments, Usage, bytes, rate, say};
use crate::analyze::{Analysis, Options, Outcome, Sink, Skipped};
use crate::error::{Error, Result};
use crate::group;
use crate::isa::Isa;
use crate::reference::Reference;
use crate::row::Row;
use crate::run::Run;
use crate::run::manifest::Manifest;
use crate::summary::{Summary, significant, thousands};
use crate::table::Table;
use crate::text::{Csv, JsonLines};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Write the Parquet table here [default: RUN/metrics.parquet]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only these steps: A..B (B not included), A.., ..B, or every K-th of them by A..B:K
    #[arg(long, value_name = "A..B[:K]", value_parser = parse_steps)]
    steps: Option<Steps>,
    /// A row per step for: '*' (all tensors), 'each' (every tensor), or a tensor's name; repeatable
    #[arg(long = "group", value_name = "GROUP", default_value = "*")]
    groups: Vec<String>,
    /// Worker threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Write csv or jsonl to standard output instead of a Parquet table
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
    /// Leave out what is damaged or missing, and report it, instead of stopping
    #[arg(long)]
    skip_damaged: bool,
    /// Print neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Parquet,
    Csv,
    Jsonl,
}

#[derive(Clone)]
struct Steps {
    range: Range<u64>,
    every: u64,
}

fn parse_steps(text: &str) -> std::result::Result<Steps, String> {
    let expected = || format!("'{text}' is no range of steps; write A..B, A.., ..B or A..B:K");
    let (range, every) = match text.split_once(':') {
        Some((range, every)) => (range, every.parse().map_err(|_| expected())?),
        None => (text, 1),
    };
    let (from, to) = range.split_once("..").ok_or_else(expected)?;
    let bound = |s: &str, open| if s.is_empty() { Ok(open) } else { s.parse().map_err(|_| expected()) };
    let range = bound(from, 0)?..bound(to, u64::MAX)?;
    if every == 0 {
        return Err("every 0-th step is none; K starts at 1".to_owned());
    }
    if range.is_empty() {
        return Err(format!("{}..{} holds no step; B is not included", range.start, range.end));
    }
    Ok(Steps { range, every })
}

/// Where rows go.
enum Output {
    Table(Box<Table>, PathBuf),
    Csv(Box<Csv<BufWriter<std::io::Stdout>>>),
    JsonLines(JsonLines<BufWriter<std::io::Stdout>>),
}

/// Rows to the output, and to the summary.
struct Tee {
    output: Output,
    summary: Summary,
}

impl Sink for Tee {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        self.summary.row(row)?;
        match &mut self.output {
            Output::Table(table, _) => table.row(row),
            Output::Csv(csv) => csv.row(row),
            Output::JsonLines(lines) => lines.row(row),
        }
    }
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    if a.format != Format::Parquet && a.out.is_some() {
        let what = "--out names a Parquet table; --format csv and jsonl write to standard output";
        return Err(Usage(what.to_owned()).into());
    }
    let isa = Isa::from_env()?;
    let run = Run::open(&a.run.run, a.run.access())?;
    let groups = group::select(&run, &a.groups)?;
    let reference = Reference::open_final(&run, !a.run.no_mmap)?;
    let steps = a.steps.clone().unwrap_or(Steps { range: 0..u64::MAX, every: 1 });
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = Options {
        steps: steps.range.clone(),
        every: steps.every,
        groups,
        threads: a.threads.map_or(processors, usize::from),
        isa,
        skip_damaged: a.skip_damaged,
    };
    let analysis = Analysis::prepare(&run, &reference, &options)?;
    let known = run.steps();
    // The final iterate has a step of its own, but no gradient.
    let end = run.final_step().unwrap_or(known.end).min(known.end);
    let span = known.start.max(steps.range.start)..end.min(steps.range.end);
    let output = open_output(a, &run, analysis.provenance())?;
    let mut tee = Tee { output, summary: Summary::new(&span) };
    let progress = Progress::new(analysis.cells(), analysis.chunks(), a.quiet);
    let result = analysis.run(&mut tee, &progress);
    let (elapsed, read) = progress.finish();
    let outcome = result?;
    let Tee { output, summary } = tee;
    let (table, to_stdout) = match output {
        Output::Table(table, path) => {
            let (rows, size) = table.finish()?;
            let text = format!("wrote {} ({} rows, {})", path.display(), thousands(rows), bytes(size));
            (Some(text), false)
        }
        Output::Csv(csv) => (csv.finish().map(|()| None)?, true),
        Output::JsonLines(lines) => (lines.finish().map(|()| None)?, true),
    };
    report_damage(&analysis, &outcome.skipped);
    if a.quiet || to_stdout {
        return Ok(());
    }
    let mut text = heading(&run, &reference, &options, &outcome);
    text.push_str(&summary.text());
    let seconds = elapsed.as_secs_f64().max(1e-6);
    let _ = writeln!(
        text,
        "\n{} in {} s ({} steps/s, {})",
        table.unwrap_or_default(),
        significant(seconds),
        significant(outcome.steps as f64 / seconds),
        rate(read, seconds)
    );
    say(&text)
}

fn heading(run: &Run, reference: &Reference, options: &Options, outcome: &Outcome) -> String {
    let m = &run.manifest;
    let step = reference.step.map_or_else(String::new, |s| format!(" (x_{s})"));
    let groups = match options.groups.as_slice() {
        [one] => format!("group {}", one.name),
        all => format!("{} groups", all.len()),
    };
    format!(
        "{}: {} steps measured, {} parameters in {} tensors ({}), optimizer {}\nagainst reference \
         {}{step}, stream grad, {groups}\n\n",
        run.path.display(),
        thousands(outcome.steps),
        thousands(m.parameters()),
        m.tensors.len(),
        types(m),
        if m.optimizer.name.is_empty() { "unknown" } else { &m.optimizer.name },
        reference.name,
    )
}

/// The element types of a manifest: `F32`, or `BF16, F32`.
pub(super) fn types(m: &Manifest) -> String {
    let mut all: Vec<&str> = m.tensors.iter().map(|t| t.dtype.name()).collect();
    all.sort_unstable();
    all.dedup();
    all.join(", ")
}

/// Steps that were left out are said even when quiet: they are not in the result.
fn report_damage(analysis: &Analysis<'_>, skipped: &Skipped) {
    use std::io::Write;
    const LISTED: usize = 10;
    let mut err = std::io::stderr().lock();
    if !skipped.is_empty() {
        let count = analysis.skipped_steps(skipped);
        let _ = writeln!(err, "lpa: left out {} damaged or missing steps:", thousands(count));
    }
    for (steps, why) in skipped.ranges().take(LISTED) {
        let _ = match (steps.start(), steps.end()) {
            (a, b) if a == b => writeln!(err, "  step {a}: {why}"),
            (a, b) => writeln!(err, "  steps {a} to {b}: {why}"),
        };
    }
    if skipped.ranges().count() > LISTED {
        let _ = writeln!(err, "  ... and {} more", skipped.ranges().count() - LISTED);
    }
    for why in skipped.also.values().take(LISTED) {
        let _ = writeln!(err, "lpa: null in other rows: {why}");
    }
}

fn open_output(a: &Arguments, run: &Run, metadata: Vec<(String, String)>) -> Result<Output> {
    let stdout = || BufWriter::with_capacity(1 << 16, std::io::stdout());
    match a.format {
        Format::Csv => return Ok(Output::Csv(Box::new(Csv::new(stdout())?))),
        Format::Jsonl => return Ok(Output::JsonLines(JsonLines::new(stdout()))),
        Format::Parquet => {}
    }
    if let Some(path) = &a.out {
        return Ok(Output::Table(Box::new(Table::create(path, metadata)?), path.clone()));
    }
    let path = run.path.join("metrics.parquet");
    match Table::create(&path, metadata.clone()) {
        Ok(table) => Ok(Output::Table(Box::new(table), path)),
        Err(Error::Io { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            let path = PathBuf::from(beside(&run.path));
            Ok(Output::Table(Box::new(Table::create(&path, metadata)?), path))
        }
        Err(e) => Err(e),
    }
}

/// The file in the working directory that takes the place of RUN/metrics.parquet.
fn beside(run: &Path) -> String {
    let full = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    let name = full.file_name().unwrap_or(OsStr::new("run"));
    format!("./{}.metrics.parquet", name.to_string_lossy())
}
