//! `lpa pack`.

use std::path::PathBuf;

use crate::analyze::Observer as _;
use crate::cli::progress::Progress;
use crate::cli::{RunArguments, bytes, say};
use crate::pack::transcript::Storing;
use crate::pack::{Options, Pack};
use crate::run::format::manifest::{Precision, Storage};
use crate::run::write::writer::Profile;
use crate::summary::{counted, significant};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// How vectors are stored: default (the smallest) or fast (the fastest to read)
    #[arg(long, value_name = "PROFILE", default_value = "default")]
    profile: Profile,
    /// Store every iterate by itself, instead of what a prediction from those before missed
    #[arg(long)]
    no_predict: bool,
    /// What is kept of gradients: exact, int8 (7 bits a value) or bf16 (11); every metric then has an
    /// interval
    #[arg(long, value_name = "PRECISION", default_value = "exact")]
    gradients: Precision,
    /// What is kept of iterates: exact, or int8 (differences; the final one is exact all the same)
    #[arg(long, value_name = "PRECISION", default_value = "exact")]
    iterates: Precision,
    /// Write the new run here and keep the old one [default: replace it]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let storage = Storage { gradients: a.gradients, iterates: a.iterates };
    let storing = Storing { profile: a.profile, predict: !a.no_predict };
    let options = Options { storing, storage, out: a.out.clone() };
    let pack = Pack::prepare(&a.run.run, a.run.access()?, options)?;
    let progress = Progress::new(false);
    progress.begin(pack.cells(), pack.chunks());
    let packed = pack.run(&|cells, read| progress.advance(cells, read));
    progress.end();
    let (packed, (elapsed, _)) = (packed?, progress.measured());
    let mut left = Vec::new();
    if packed.superseded.0 > 0 {
        let (shards, size) = packed.superseded;
        left.push(format!("{} ({})", counted(shards as u64, "superseded shard"), bytes(size)));
    }
    if packed.set_aside {
        left.push("bad/".to_owned());
    }
    let left = if left.is_empty() { String::new() } else { format!("; left out {}", left.join(", ")) };
    say(&format!(
        "{}: {} before, {} after ({} and {} bits per parameter and step), in {} s, {}{left}\n",
        a.out.as_ref().unwrap_or(&a.run.run).display(),
        bytes(packed.before.bytes),
        bytes(packed.after.bytes),
        significant(packed.before.bits),
        significant(packed.after.bits),
        significant(elapsed.as_secs_f64()),
        if storage.is_exact() { "every vector verified" } else { "every error within its bounds" }
    ))
}
