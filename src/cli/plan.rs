//! `lpa plan`.

use std::path::PathBuf;

use clap::{ArgMatches, Subcommand as _};

use crate::cli::progress::Progress;
use crate::cli::{RunArguments, bytes, lags, pairs, question, say, threads};
use crate::parts::shell::as_word;
use crate::parts::{Asked, Nodes, Plan};
use crate::question::Execution;
use crate::run::Run;
use crate::summary::counted;

/// An analysis, or what else can be shared out.
pub(super) enum Arguments {
    Analysis(Of<Analysis>),
    Other(Other),
}

// Whether there is a subcommand says which of both it is; derived code asks for the arguments of the one in any case.
impl clap::FromArgMatches for Arguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Arguments, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => Other::from_arg_matches(matches).map(Arguments::Other),
            None => Of::from_arg_matches(matches).map(Arguments::Analysis),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Arguments::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Arguments {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = Other::augment_subcommands(Of::<Analysis>::augment_args(command));
        command.args_conflicts_with_subcommands(true).subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Arguments::augment_args(command)
    }
}

/// What else can be shared out.
#[derive(clap::Subcommand)]
pub(super) enum Other {
    /// Share out what lpa pairs asks
    Pairs(Of<pairs::Question>),
    /// Share out what lpa lags asks
    Lags(Of<lags::Question>),
}

/// The question of an analysis, and where shards lie.
#[derive(clap::Args)]
pub(super) struct Analysis {
    #[command(flatten)]
    question: question::Arguments,
    /// Make each part of the shards of one storage node; MAP has a line for each, its name and its ranks, as n1 0-3,8
    #[arg(long, value_name = "MAP")]
    by_node: Option<PathBuf>,
}

/// A plan of a question.
#[derive(clap::Args)]
pub(super) struct Of<Q: clap::Args> {
    #[command(flatten)]
    run: RunArguments,
    /// Share it out into so many parts, of about equal size; fewer where there are not as many steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    parts: u32,
    /// Put the plan into this directory, which all machines see and parts go to
    #[arg(long, value_name = "PLAN")]
    out: PathBuf,
    #[command(flatten)]
    question: Q,
    #[command(flatten)]
    threads: threads::Arguments,
    /// Print nothing
    #[arg(long, short)]
    quiet: bool,
}

/// Makes a plan.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    match a {
        Arguments::Other(Other::Pairs(of)) => {
            make(of, &Asked::Pairs(of.question.options(1)), &Nodes::default())
        }
        Arguments::Other(Other::Lags(of)) => {
            make(of, &Asked::Lags(of.question.options(1)), &Nodes::default())
        }
        Arguments::Analysis(of) => {
            let nodes = of.question.by_node.as_deref().map_or(Ok(Nodes::default()), Nodes::read)?;
            make(of, &Asked::Analysis(of.question.question.question()), &nodes)
        }
    }
}

fn make<Q: clap::Args>(a: &Of<Q>, asked: &Asked, nodes: &Nodes) -> anyhow::Result<()> {
    let progress = Progress::new(a.quiet);
    let how = Execution { threads: a.threads.count(&progress), observer: &progress, ..Execution::default() };
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let plan = Plan::make(asked, &run, &how, (a.parts as usize, nodes, &a.out))?;
    if a.quiet {
        return Ok(());
    }
    let count = plan.count();
    let largest = (0..count).map(|part| plan.bytes(part)).max().unwrap_or(0);
    let of = as_word(&a.out);
    let last = count - 1;
    say(&format!(
        "{of}: {} of {}, of {} at most\nmake them, on any machine and in any order:\n  seq 0 {last} | xargs -P 8 -I{{}} lpa partial \
         --plan {of} --part {{}} --threads 1\nor by Slurm:\n  lpa slurm {of}\nand then the table:\n  lpa merge {of}\n",
        counted(count as u64, "part"),
        run.path.display(),
        bytes(largest),
    ))
}
