//! The table that a command draws from: that of a run, made if it is not there, or one that is named.

use std::path::{Path, PathBuf};

use crate::cli::progress::Progress;
use crate::curve::{Chosen, MOST};
use crate::error::{Error, Usage};
use crate::group;
use crate::question::{Execution, Question};
use crate::reference::ReferenceSpec;
use crate::run::{Access, Run};

#[derive(Clone, clap::Args)]
pub(super) struct Arguments {
    /// The run, whose table is made if it is not there; or a table that lpa analyze has written
    #[arg(value_name = "RUN_OR_TABLE")]
    pub(super) path: PathBuf,
    /// Show this reference, as in lpa analyze; of a table by its name there; repeatable [default: final; all of a table]
    #[arg(long = "ref", value_name = "REF")]
    pub(super) references: Vec<String>,
    /// Show this group, as in lpa analyze; of a table by its name there; repeatable [default: '*', and each
    /// tensor of 200 or fewer (lpa plot: '*' alone); all of a table]
    #[arg(long = "group", value_name = "GROUP")]
    pub(super) groups: Vec<String>,
    /// Show this stream, as in lpa analyze; repeatable [default: grad; all of a table]
    #[arg(long = "stream", value_name = "NAME")]
    pub(super) streams: Vec<String>,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    pub(super) no_mmap: bool,
    /// Print neither progress nor what was written
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// What is taken of a run where nothing is said of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usual {
    /// All parameters as one, and no more curves than a figure has.
    Figure,
    /// That, and each tensor where there are not too many.
    Layers,
}

/// Tensors, at most, of which each is a group where nothing is said of groups.
const EACH: usize = 200;

impl Arguments {
    /// Of a run or a table: all of its rows, or those against these references.
    pub(super) fn of(path: &Path, references: Vec<String>, no_mmap: bool, quiet: bool) -> Arguments {
        Arguments {
            path: path.to_owned(),
            references,
            groups: Vec::new(),
            streams: Vec::new(),
            no_mmap,
            quiet,
        }
    }

    /// The table, and which of its rows are asked for.
    pub(super) fn open(&self, usual: Usual) -> anyhow::Result<(PathBuf, Chosen)> {
        if !self.path.is_file() {
            // All that its table holds was asked for, and has the names that it has there.
            return Ok((self.tabulate(usual)?, Chosen::all()));
        }
        let (references, streams) = (self.references.clone(), self.streams.clone());
        let chosen = Chosen { references, streams, groups: self.groups.clone(), ..Chosen::all() };
        Ok((self.path.clone(), chosen))
    }

    /// The table of the run.
    fn tabulate(&self, usual: Usual) -> anyhow::Result<PathBuf> {
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
        } else if usual == Usual::Layers && run.manifest.tensors.len() <= EACH {
            question.groups.push("each".to_owned());
        }
        // Before hours of work.
        let groups = group::select(&run, &question.groups)?.len();
        let curves = question.references.len() * question.streams.len() * groups;
        if usual == Usual::Figure && curves > MOST {
            let what = format!(
                "{} references, {} streams and {groups} groups are {curves} curves, and a figure has at most {MOST}: \
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
