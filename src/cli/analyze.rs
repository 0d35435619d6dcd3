//! `lpa analyze`.

use std::path::PathBuf;

use crate::cli::batch::{Batch, Told};
use crate::cli::output::{Format, Output};
use crate::cli::progress::Progress;
use crate::cli::{Fine, backend, bytes, question, rate, say, threads};
use crate::error::Usage;
use crate::parts::append;
use crate::question::{Execution, Made};
use crate::run::{Access, Run};
use crate::summary::{counted, significant};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The runs: directories that the recorder wrote. Of several what is wrong with one is said at the end, and tables
    /// that are up to date are left as they are
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    question: question::Arguments,
    /// Write the Parquet table here [default: RUN/metrics.parquet; for other references, streams,
    /// groups or steps RUN/metrics.THESE.parquet; in the working directory where RUN cannot be written]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Measure only what is new of a run that has grown, and keep the sums of all steps for the next time, beside the
    /// table (as metrics.step-100.parquet.sums). The table is the same. For references that stay what they are: step:N,
    /// mean:A..B, files, other runs; against others all steps are measured
    #[arg(long)]
    append: bool,
    #[command(flatten)]
    threads: threads::Arguments,
    #[command(flatten)]
    backend: backend::Arguments,
    /// Write csv or jsonl to standard output instead of a Parquet table
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
    /// Tell of each run in a line of text, or of JSON for programs
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Told::Text)]
    tell: Told,
    /// Print neither progress nor summary
    #[arg(long, short)]
    quiet: bool,
}

/// Analyzes.
pub(super) fn run(a: &Arguments) -> anyhow::Result<Fine> {
    if a.format != Format::Parquet && a.out.is_some() {
        let what = "--out names a Parquet table; --format csv and jsonl write to standard output";
        return Err(Usage(what.to_owned()).into());
    }
    if a.format != Format::Parquet && a.append {
        let what =
            "--append keeps sums beside a Parquet table; --format csv and jsonl write to standard output";
        return Err(Usage(what.to_owned()).into());
    }
    let backend = a.backend.backend()?;
    let progress = Progress::new(a.quiet);
    let how = Execution { threads: a.threads.count(&progress), backend, observer: &progress };
    let access = Access::from_env(!a.no_mmap)?;
    let path = match a.runs.as_slice() {
        [one] if a.tell == Told::Text => one,
        _ => return analyze_all(a, access, how),
    };
    let run = Run::open(path, access)?;
    match a.format {
        Format::Parquet => tabulate(a, &run, &how, &progress)?,
        Format::Csv | Format::Jsonl => {
            a.question.question().analyze(&run, &how, || Output::open(a.format))?.sink.finish()?;
        }
    }
    Ok(Fine::Yes)
}

fn analyze_all(a: &Arguments, access: Access, how: Execution<'_>) -> anyhow::Result<Fine> {
    if a.format != Format::Parquet {
        return Err(Usage("--format csv and jsonl are of one run".to_owned()).into());
    }
    if a.out.is_some() {
        let what = "--out names the table of one run; those of several lie in them, or, of those that cannot be \
                    written, in the working directory";
        return Err(Usage(what.to_owned()).into());
    }
    let batch = Batch {
        runs: &a.runs,
        question: &a.question.question(),
        append: a.append,
        access,
        how,
        told: a.tell,
        quiet: a.quiet,
    };
    Ok(batch.carry_out()?.map_or(Fine::Yes, Fine::ButNotAll))
}

fn tabulate(a: &Arguments, run: &Run, how: &Execution<'_>, progress: &Progress) -> anyhow::Result<()> {
    let (question, out) = (a.question.question(), a.out.as_deref());
    let table = if a.append { append(&question, run, how, out) } else { question.tabulate(run, how, out) }?;
    if a.quiet {
        return Ok(());
    }
    let (summary, path) = (table.summary, table.path.display());
    let Made::Now { steps, rows, bytes: size } = table.made else {
        return say(&format!("{}: {summary}\n{path} is up to date\n", run.path.display()));
    };
    let (elapsed, read) = progress.measured();
    let seconds = elapsed.as_secs_f64().max(1e-6);
    say(&format!(
        "{}: {summary}\nwrote {path} ({}, {}) in {} s ({} steps/s, {})\n",
        run.path.display(),
        counted(rows, "row"),
        bytes(size),
        significant(seconds),
        significant(steps as f64 / seconds),
        rate(read, seconds)
    ))
}
