//! `lpa verify`.

use std::fmt::Write as _;

use crate::cli::{RunArguments, say};
use crate::run::Run;
use crate::summary::thousands;
use crate::verify::verify;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let found = verify(&run);
    if found.problems.is_empty() {
        let state = match run.final_step() {
            Some(step) => format!("complete, final iterate x_{step}"),
            None => format!("not complete, {} steps", thousands(run.steps().end)),
        };
        return say(&format!(
            "{}: {} shards, {} chunks: all as written ({state})\n",
            run.path.display(),
            thousands(found.shards),
            thousands(found.chunks)
        ));
    }
    let mut text = String::new();
    for e in &found.problems {
        let _ = writeln!(text, "{e}");
    }
    say(&text)?;
    anyhow::bail!("{}: {} problems", run.path.display(), found.problems.len())
}
