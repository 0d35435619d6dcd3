//! How many threads a command works on: `--threads`.

use crate::analyze::Observer;
use crate::cli::progress::Progress;
use crate::processors::processors;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Worker threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Arguments {
    /// How many; what is wrong with more than there are processors is told.
    pub(super) fn count(&self, progress: &Progress) -> usize {
        let there = processors();
        let Some(asked) = self.threads.map(usize::from) else { return there };
        if asked > there {
            progress.note(&format!(
                "{asked} threads take turns on what this process may use, {}: it takes more memory, and no less time",
                crate::summary::counted(there as u64, "processor")
            ));
        }
        asked
    }
}
