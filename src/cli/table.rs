//! A run whose table is made, or a table: what questions that are asked of rows begin with.

use std::path::{Path, PathBuf};

use crate::cli::progress::Progress;
use crate::error::{Error, Usage};
use crate::question::{Execution, Question};
use crate::reference::ReferenceSpec;
use crate::run::{Access, Run};

#[derive(clap::Args)]
pub(super) struct TableArguments {
    /// The run, whose table is made if it is not there; or a table that lpa analyze has written
    #[arg(value_name = "RUN_OR_TABLE")]
    pub path: PathBuf,
    /// Of a run: against this reference, as in lpa analyze; repeatable [default: final]
    #[arg(long = "ref", value_name = "REF")]
    pub references: Vec<String>,
    /// Of a run: of this group, as in lpa analyze; repeatable [default: '*' and each tensor, of at most 200]
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Of a run: of this stream, as in lpa analyze; repeatable [default: grad]
    #[arg(long = "stream", value_name = "NAME")]
    pub streams: Vec<String>,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    pub no_mmap: bool,
    /// Print neither progress nor what was found
    #[arg(long, short)]
    pub quiet: bool,
}

/// Tensors of which each is a group where nothing is said of groups.
const EACH: usize = 200;

impl TableArguments {
    /// The table.
    ///
    /// # Errors
    /// It cannot be made; or the path is a table, and it is told what it is of.
    pub(super) fn table(&self) -> anyhow::Result<PathBuf> {
        if self.path.is_file() {
            if let Some(option) = self.of_a_run() {
                let what = format!("{option} is for runs; a table has the rows that it has");
                return Err(Error::from(Usage(what)).into());
            }
            return Ok(self.path.clone());
        }
        tabulate(&self.path, &self.references, &self.groups, &self.streams, self.no_mmap, self.quiet)
    }

    fn of_a_run(&self) -> Option<&'static str> {
        let all = [("--ref", &self.references), ("--group", &self.groups), ("--stream", &self.streams)];
        all.into_iter().find(|(_, given)| !given.is_empty()).map(|(name, _)| name)
    }
}

/// The table of a run, made where it is not there.
///
/// # Errors
/// The run cannot be analyzed.
pub(super) fn tabulate(
    run: &Path,
    references: &[String],
    groups: &[String],
    streams: &[String],
    no_mmap: bool,
    quiet: bool,
) -> anyhow::Result<PathBuf> {
    let run = Run::open(run, Access::from_env(!no_mmap)?)?;
    let mut question = Question::default();
    if !references.is_empty() {
        let specs: Result<Vec<ReferenceSpec>, Usage> = references.iter().map(|r| r.parse()).collect();
        question.references = specs?;
    }
    if !streams.is_empty() {
        question.streams = streams.to_vec();
    }
    if !groups.is_empty() {
        question.groups = groups.to_vec();
    } else if run.manifest.tensors.len() <= EACH {
        question.groups.push("each".to_owned());
    }
    let progress = Progress::new(quiet);
    let how = Execution { observer: &progress, ..Execution::default() };
    Ok(question.tabulate(&run, &how, None)?.path)
}
