//! The table that a command draws from: that of a run, made if it is not there, or one that is named.

use std::path::{Path, PathBuf};

use crate::cli::progress::Progress;
use crate::curve::Chosen;
use crate::error::{Error, Usage};
use crate::group;
use crate::question::{Execution, Question};
use crate::reference::ReferenceSpec;
use crate::run::{Access, Run};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The run, whose table is made if it is not there; or a table that lpa analyze has written
    #[arg(value_name = "RUN_OR_TABLE")]
    pub(super) path: PathBuf,
    /// Show this reference, as in lpa analyze; of a table by its name there; repeatable [default: final; all of a table]
    #[arg(long = "ref", value_name = "REF")]
    pub(super) references: Vec<String>,
    /// Show this group, as in lpa analyze; of a table by its name there; repeatable [default: '*'; all of a table]
    #[arg(long = "group", value_name = "GROUP")]
    pub(super) groups: Vec<String>,
    /// Show this stream, as in lpa analyze; repeatable [default: grad; all of a table]
    #[arg(long = "stream", value_name = "NAME")]
    pub(super) streams: Vec<String>,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
    /// Print neither progress nor what was written
    #[arg(long, short)]
    pub(super) quiet: bool,
}

impl Arguments {
    /// The table, and which of its rows are asked for. Of a run, no more than `most` curves, where there is such a number.
    pub(super) fn open(&self, most: Option<usize>) -> anyhow::Result<(PathBuf, Chosen)> {
        if !self.path.is_file() {
            // All that its table holds was asked for, and has the names that it has there.
            return Ok((self.tabulate(most)?, Chosen::all()));
        }
        let (references, streams) = (self.references.clone(), self.streams.clone());
        let chosen = Chosen { references, streams, groups: self.groups.clone(), ..Chosen::all() };
        Ok((self.path.clone(), chosen))
    }

    /// The table of the run.
    fn tabulate(&self, most: Option<usize>) -> anyhow::Result<PathBuf> {
        let run = Run::open(Path::new(&self.path), Access::from_env(!self.no_mmap)?)?;
        let mut question = Question::default();
        if !self.references.is_empty() {
            let specs: Result<Vec<ReferenceSpec>, Usage> =
                self.references.iter().map(|r| r.parse()).collect();
            question.references = specs?;
        }
        if !self.streams.is_empty() {
            question.streams.clone_from(&self.streams);
        }
        if !self.groups.is_empty() {
            question.groups.clone_from(&self.groups);
        }
        // Before hours of work.
        let groups = group::select(&run, &question.groups)?.len();
        let curves = question.references.len() * question.streams.len() * groups;
        if let Some(most) = most.filter(|most| curves > *most) {
            let what = format!(
                "{} references, {} streams and {groups} groups are {curves} curves, and a figure has at most {most}: \
                 choose by --ref, --stream and --group",
                question.references.len(),
                question.streams.len()
            );
            return Err(Error::from(Usage(what)).into());
        }
        let progress = Progress::new(self.quiet);
        let how = Execution { observer: &progress, ..Execution::default() };
        Ok(question.tabulate(&run, &how, None)?.path)
    }
}
