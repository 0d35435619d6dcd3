//! `lpa sketch`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use crate::analyze::Observer as _;
use crate::cli::progress::Progress;
use crate::cli::{RunArguments, bytes, say};
use crate::run::format::sketching::{SketchRequest, part};
use crate::run::write::writer::WriterOptions;
use crate::sketch::SEED;
use crate::sketch_run::SketchRun;
use crate::summary::{counted, significant, thousands};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Numbers that stand for each vector, of all tensors together; or of those that a glob fits, or all of their elements
    /// (again for others: of several that fit a tensor the last one counts)
    #[arg(long, value_name = "N|GLOB=N|GLOB=all", required = true, value_parser = part)]
    dims: Vec<(String, Option<u64>)>,
    /// Where the run of sketches is written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Each so many steps the iterate in full too, 4 bytes a parameter (x_0, x_N, x_2N, ...)
    #[arg(long, value_name = "N")]
    keyframes: Option<NonZeroU64>,
    /// What the sketch is drawn with: runs of one seed, model and number can be references of each other
    #[arg(long, value_name = "N", value_parser = seed, default_value_t = SEED)]
    seed: u64,
}

/// A seed, as a decimal number or, as `lpa inspect` shows it, a hexadecimal one.
fn seed(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "a seed is a number below 2^64, such as 7 or 0x1f".to_owned())
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let request = SketchRequest { parts: a.dims.clone(), seed: a.seed, keyframes: a.keyframes };
    let prepared = SketchRun::prepare(&a.run.run, &a.out, &request, a.run.access()?)?;
    let progress = Progress::new(false);
    progress.begin(prepared.cells(), prepared.chunks());
    let made = prepared.run(WriterOptions::default().threads, &|cells, read| progress.advance(cells, read));
    progress.end();
    let (made, (elapsed, _)) = (made?, progress.measured());
    say(&format!(
        "{}: {} of vectors in {} dimensions each, {}, in {} s\n",
        a.out.display(),
        counted(made.steps, "step"),
        thousands(made.dimensions),
        bytes(made.bytes),
        significant(elapsed.as_secs_f64()),
    ))
}
