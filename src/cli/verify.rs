//! `lpa verify`.

use std::fmt::Write as _;

use crate::analyze::Observer as _;
use crate::cli::progress::Progress;
use crate::cli::{RunArguments, say};
use crate::run::Run;
use crate::summary::counted;
use crate::verify::verify_told;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let progress = Progress::new(false);
    let chunks = run.table.chunks().len() as u64;
    let steps = run.steps();
    progress.begin((steps.end - steps.start) * chunks, chunks);
    let found = verify_told(&run, &|cells, read| progress.advance(cells, read));
    progress.end();
    if found.problems.is_empty() {
        let state = match run.final_step() {
            Some(step) => format!("complete, final iterate x_{step}"),
            None => format!("not complete, {}", counted(run.steps().end, "step")),
        };
        return say(&format!(
            "{}: {}, {}: all as written ({state})\n",
            run.path.display(),
            counted(found.shards, "shard"),
            counted(found.chunks, "chunk")
        ));
    }
    let mut text = String::new();
    for e in &found.problems {
        let _ = writeln!(text, "{e}");
    }
    say(&text)?;
    anyhow::bail!("{}: {}", run.path.display(), counted(found.problems.len() as u64, "problem"))
}
