//! `lpa analyze`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::analyze::{Analysis, Options, Pass, Shadow, Skipped, unusable};
use crate::cli::backend::Work;
use crate::cli::kept::check_keeps;
use crate::cli::output::{Format, Output, Place, Question, check_writable};
use crate::cli::progress::Progress;
use crate::cli::{RunArguments, Usage, backend, bytes, rate, say};
use crate::group;
use crate::reference;
use crate::reference::{Cache, Spec};
use crate::report::{SUMMARY, report};
use crate::run::format::manifest::GRAD;
use crate::run::read::catalog::Catalog;
use crate::run::{Run, parent};
use crate::stream;
use crate::summary::{significant, thousands};
use crate::table::metadata;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Measure against this iterate; repeatable: final, last (newest of an unfinished run), step:N,
    /// epoch:N (after its last update), mean:A..B, ema:BETA, a safetensors file or a directory with a
    /// checkpoint, RUN:REF (of another run; with the same x_0 it is a control)
    #[arg(long = "ref", value_name = "REF", default_value = "final")]
    references: Vec<Spec>,
    /// Measure this direction; repeatable: grad, grad_wd (with weight decay), grad_preclip, update,
    /// or any recorded stream
    #[arg(long = "stream", value_name = "NAME", default_value = GRAD)]
    streams: Vec<String>,
    /// Write the Parquet table here [default: RUN/metrics.parquet; for other references, streams,
    /// groups or steps RUN/metrics.THESE.parquet; in the working directory where RUN cannot be written]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only these steps: A..B (B not included), A.., ..B, or every K-th of them by A..B:K
    #[arg(long, value_name = "A..B[:K]", value_parser = parse_steps)]
    steps: Option<Steps>,
    /// A row per step for: '*' (all tensors), 'each' (every tensor), a tensor's name, a glob such as
    /// 'layer1.*', or one with a name, 'attention=*.attn.*'; repeatable
    #[arg(long = "group", value_name = "GROUP", default_value = "*")]
    groups: Vec<String>,
    /// Worker threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(flatten)]
    backend: backend::Arguments,
    /// Write csv or jsonl to standard output instead of a Parquet table
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
    /// Leave out what is damaged or missing, and report it, instead of stopping; a table that holds more of the
    /// same is kept
    #[arg(long)]
    skip_damaged: bool,
    /// Take what noise puts into the references from the run's shadows (lpa.shadow in Python): for optimizers that are
    /// not known in closed form
    #[arg(long)]
    shadow: bool,
    /// Print neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone)]
struct Steps {
    range: Range<u64>,
    every: u64,
    /// As it was typed.
    text: String,
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
    Ok(Steps { range, every, text: text.to_owned() })
}

/// Analyzes. Returns the table, where one was asked for.
pub(super) fn run(a: &Arguments) -> anyhow::Result<Option<PathBuf>> {
    if a.format != Format::Parquet && a.out.is_some() {
        let what = "--out names a Parquet table; --format csv and jsonl write to standard output";
        return Err(Usage(what.to_owned()).into());
    }
    a.backend.check()?;
    let access = a.run.access()?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = a.threads.map_or(processors, usize::from);
    // Averages are made by the global pool; it is built once.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let run = Run::open(&a.run.run, access)?;
    let mut groups = group::select(&run, &a.groups)?;
    let catalog = Catalog::read(&run, a.skip_damaged)?;
    let left_out = group::leave_out(&run, &mut groups, &unusable(&run, &catalog)?);
    let (streams, directions) = stream::select(&run, &catalog, &a.streams)?;
    let place = match (&a.out, a.format) {
        (None, Format::Parquet) => Some(Place::of(&run)?),
        _ => None,
    };
    // What is made on the way is kept beside the table; without one nothing is kept.
    let beside =
        place.as_ref().map(|p| p.directory.clone()).or(a.out.as_deref().map(|p| parent(p).to_owned()));
    let cache = beside.as_deref().map_or_else(Cache::temporary, Cache::below);
    let references = reference::open(&run, &catalog, &a.references, &cache, access)?;
    reference::check_cover(&run, &references, &groups)?;
    let shadows = if a.shadow { Shadow::open_all(&run, access)? } else { Vec::new() };
    let steps = a.steps.clone().unwrap_or(Steps { range: 0..u64::MAX, every: 1, text: String::new() });
    let options = Options {
        steps: steps.range.clone(),
        every: steps.every,
        groups,
        streams,
        directions,
        threads,
        isa: access.isa,
        skip_damaged: a.skip_damaged,
        pass: Pass::Shards,
        left_out,
        shadows: shadows.iter().map(Shadow::id).collect(),
    };
    let analysis = Analysis::prepare(&run, &catalog, &references, &options)?;
    if !a.quiet {
        references.iter().flat_map(|r| &r.notes).for_each(|note| tell(&format!("note: {note}")));
    }
    let provenance = analysis.provenance();
    let names: Vec<&str> = references.iter().map(|r| r.name.as_str()).collect();
    let question = Question {
        references: &names,
        streams: &a.streams,
        groups: &a.groups,
        steps: a.steps.as_ref().map(|s| s.text.as_str()),
        shadow: a.shadow,
    };
    let table = a.out.clone().or(place.map(|place| place.table(&question, &provenance)));
    let devices = a.backend.asked()?;
    // With damage the same question may have another answer after a repair.
    if let Some(path) = table.as_ref().filter(|_| !a.skip_damaged)
        && is_up_to_date(a, path, &provenance)?
    {
        return Ok(table);
    }
    if let Some(path) = &table {
        check_writable(path)?;
        check_keeps(path, &[&provenance[..], &[analysis.left_out(analysis.skipped())]].concat())?;
    }
    let scratch = beside.unwrap_or_else(std::env::temp_dir);
    let measure = |devices: &[_]| {
        let cells = analysis.cells() * (1 + shadows.len() as u64);
        let progress = Progress::new(cells, analysis.chunks(), a.quiet);
        let measured = analysis.measure(devices, &scratch, &progress).and_then(|mut measured| {
            let of_shadows = (&cache, access);
            analysis.measure_shadows(&shadows, of_shadows, &mut measured, &scratch, &progress)?;
            Ok(measured)
        });
        (measured, progress.finish())
    };
    let partners = references.len() * options.directions.len();
    let work = Work { partners, terms: analysis.terms(), lossy: analysis.is_lossy(), threads };
    let (measured, (elapsed, read)) = a.backend.with_devices(devices, &work, measure, |note| {
        if !a.quiet {
            tell(note);
        }
    });
    let mut measured = measured?;
    let count = measured.steps.len() as u64;
    let output = Output::open(a.format, table.as_deref())?;
    let (output, text) = report(&run, &references, &options, &analysis, &mut measured, &scratch, output)?;
    let written = match output {
        Output::Table(rows) => {
            let (path, left_out) = (rows.path().to_owned(), analysis.left_out(&measured.skipped));
            let metadata = [provenance, vec![left_out, (SUMMARY.to_owned(), text.clone())]].concat();
            if let Err(kept) = check_keeps(&path, &metadata) {
                report_damage(&analysis, &measured.skipped);
                return Err(kept.into());
            }
            let (rows, size) = rows.finish(metadata)?;
            Some(format!("wrote {} ({} rows, {})", path.display(), thousands(rows), bytes(size)))
        }
        Output::Csv(csv) => csv.finish().map(|()| None)?,
        Output::JsonLines(lines) => lines.finish().map(|()| None)?,
    };
    report_damage(&analysis, &measured.skipped);
    let Some(written) = written.filter(|_| !a.quiet) else {
        return Ok(table);
    };
    let seconds = elapsed.as_secs_f64().max(1e-6);
    say(&format!(
        "{}: {text}\n{written} in {} s ({} steps/s, {})\n",
        run.path.display(),
        significant(seconds),
        significant(count as f64 / seconds),
        rate(read, seconds)
    ))?;
    Ok(table)
}

/// Whether the table is there already, made from the same inputs by the same version; then its
/// summary is shown again.
fn is_up_to_date(a: &Arguments, path: &Path, provenance: &[(String, String)]) -> anyhow::Result<bool> {
    let there = metadata(path).unwrap_or_default();
    let same = !there.is_empty() && provenance.iter().all(|pair| there.contains(pair));
    if same && !a.quiet {
        let summary = there.iter().find(|(k, _)| k == SUMMARY).map_or("", |(_, text)| text.as_str());
        say(&format!("{}: {summary}\n{} is up to date\n", a.run.run.display(), path.display()))?;
    }
    Ok(same)
}

/// Steps that were left out are said even when quiet: they are not in the result.
fn report_damage(analysis: &Analysis<'_>, skipped: &Skipped) {
    use std::io::Write;
    const LISTED: usize = 10;
    let mut err = std::io::stderr().lock();
    let count = analysis.skipped_steps(skipped);
    if count > 0 {
        let _ = writeln!(err, "lpa: left out {} damaged or missing steps:", thousands(count));
        for (steps, why) in skipped.ranges().take(LISTED) {
            let _ = match (steps.start(), steps.end()) {
                (a, b) if a == b => writeln!(err, "  step {a}: {why}"),
                (a, b) => writeln!(err, "  steps {a} to {b}: {why}"),
            };
        }
        if skipped.ranges().count() > LISTED {
            let _ = writeln!(err, "  ... and {} more", skipped.ranges().count() - LISTED);
        }
    }
    for why in skipped.also.values().take(LISTED) {
        let _ = writeln!(err, "lpa: null in other rows: {why}");
    }
}

/// A line on standard error.
fn tell(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
