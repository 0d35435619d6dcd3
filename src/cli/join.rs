//! `lpa join`.

use std::path::PathBuf;

use crate::analyze::Observer as _;
use crate::cli::progress::Progress;
use crate::cli::{bytes, say};
use crate::join::{Join, Seam};
use crate::pack::transcript::Storing;
use crate::run::Access;
use crate::run::write::writer::Profile;
use crate::summary::significant;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The runs in the order of their steps: each begins with an iterate of the one before
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Write the new run here
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How vectors are stored: default (the smallest) or fast (the fastest to read)
    #[arg(long, value_name = "PROFILE", default_value = "default")]
    profile: Profile,
    /// Store every iterate by itself, instead of what a prediction from those before missed
    #[arg(long)]
    no_predict: bool,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let storing = Storing { profile: a.profile, predict: !a.no_predict };
    let join = Join::prepare(&a.runs, Access::from_env(!a.no_mmap)?, storing, &a.out)?;
    let progress = Progress::new(false);
    progress.begin(join.cells(), join.chunks());
    let joined = join.run(&|cells, read| progress.advance(cells, read));
    progress.end();
    let (joined, (elapsed, _)) = (joined?, progress.measured());
    let mut lines = String::new();
    for (i, (path, steps)) in joined.parts.iter().enumerate() {
        let known = match i.checked_sub(1).and_then(|before| joined.seams.get(before)) {
            None => String::new(),
            Some(Seam::Recorded) => format!("; x_{} is the same in both", steps.start),
            Some(Seam::Hashed) => format!("; x_{} is that of the checkpoint before", steps.start),
            Some(Seam::Declared) => {
                format!("; x_{} is not recorded in both, and was not compared", steps.start)
            }
        };
        lines += &format!("  {}: steps {} to {}{known}\n", path.display(), steps.start, steps.end - 1);
    }
    say(&format!(
        "{}: {} ({} bits per parameter and step), in {} s, every vector verified\n{lines}",
        a.out.display(),
        bytes(joined.size.bytes),
        significant(joined.size.bits),
        significant(elapsed.as_secs_f64()),
    ))
}
