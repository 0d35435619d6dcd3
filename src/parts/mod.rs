//! One question in many parts, each made by a process of its own, on whatever machine sees the run; or in one after the
//! other, as the run grows.
//!
//! A part is a file that proves itself; that it is there and whole is all that counts, and what is not there is made by
//! the same line again. Owns the order: `asked` what is shared out, `plan` how, `nodes` where shards lie, `file` what a part is, `make` how one is
//! made, `merge` how the table is made of all, `pieces` what is read of each, `append` how one of all steps is made of that of fewer, `tables` what all
//! pairs and lags have in common here, `slurm` a script that has Slurm make them. What a share of the work is, and why the bits
//! are those of the whole, is `analyze::measure`'s.

mod append;
mod asked;
mod file;
mod make;
mod merge;
mod nodes;
mod pieces;
mod plan;
pub(crate) mod shell;
pub(crate) mod slurm;
mod tables;

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

pub use crate::parts::append::append;
pub use crate::parts::asked::Asked;
pub use crate::parts::make::{Partial, make};
pub use crate::parts::merge::merge;
pub use crate::parts::nodes::Nodes;
pub use crate::parts::plan::Plan;

use crate::error::{Error, Result, Usage};
use crate::parts::file::{Fault, Part};
use crate::parts::shell::as_word;

/// The version of plans and parts.
const VERSION: u64 = 3;
/// The file of a plan in its directory.
const PLAN: &str = "plan.json";
/// Where references are kept beside it.
const REFERENCES: &str = "lpa-references";
/// The script that submits them, and what logs of its tasks are in.
const SCRIPT: &str = "submit.sh";
const LOGS: &str = "logs";
/// How often it is looked for parts that are not there.
const PAUSE: Duration = Duration::from_millis(250);

/// What names of parts begin with.
const PART: &str = "part-";

/// The name of the file of a part.
fn file_name(part: usize) -> String {
    format!("{PART}{part:04}.sums")
}

/// The state of all parts, by number.
pub(crate) struct State<'a> {
    plan: &'a Plan,
    parts: Vec<std::result::Result<Part, Fault>>,
}

impl<'a> State<'a> {
    /// Looks at all parts. Names of files that were just made may come late on network file systems: it is looked for
    /// those that are not there, or not whole, until so much time has passed.
    ///
    /// # Errors
    /// It was ended.
    pub(crate) fn look(plan: &'a Plan, wait: Duration) -> Result<State<'a>> {
        let begin = Instant::now();
        let mut parts: Vec<_> = (0..plan.count()).map(|number| Part::look(plan, number)).collect();
        while parts.iter().any(std::result::Result::is_err) && begin.elapsed() < wait {
            plan.stop.check(&plan.directory)?;
            std::thread::sleep(PAUSE.min(wait.saturating_sub(begin.elapsed())));
            // Listing has some file systems look again.
            let _ = std::fs::read_dir(&plan.directory).map(Iterator::count);
            for (number, part) in parts.iter_mut().enumerate().filter(|(_, part)| part.is_err()) {
                *part = Part::look(plan, number);
            }
        }
        Ok(State { plan, parts })
    }

    /// The numbers of those that are to be made, from the first of a range on: of the parts, or of tasks that make so many
    /// parts each.
    pub(crate) fn missing(&self, of: &Range<usize>, each: usize) -> Vec<usize> {
        let numbers =
            self.parts.iter().enumerate().filter(|(number, part)| of.contains(number) && part.is_err());
        let mut tasks: Vec<usize> = numbers.map(|(number, _)| (number - of.start) / each.max(1)).collect();
        tasks.dedup();
        tasks
    }

    /// All parts; or what is wrong, line by line, with what is to be done.
    fn whole(self) -> std::result::Result<Vec<Part>, Vec<String>> {
        let plan = self.plan;
        let line = |number: usize, fault: &Fault| {
            let path = plan.path(number);
            let what = match fault {
                Fault::Missing => "is not there".to_owned(),
                Fault::Unfit(what) if path.is_dir() => {
                    format!("({}): {what}. Remove it, then", path.display())
                }
                Fault::Unfit(what) => format!("({}): {what}", path.display()),
            };
            format!("part {number} {what}: lpa partial --plan {} --part {number}", as_word(&plan.directory))
        };
        let faults = self.parts.iter().enumerate().filter_map(|(n, p)| Some(line(n, p.as_ref().err()?)));
        let faults: Vec<String> = faults.collect();
        if faults.is_empty() { Ok(self.parts.into_iter().flatten().collect()) } else { Err(faults) }
    }
}

/// The numbers of a plan's parts that are to be made.
///
/// # Errors
/// It was ended.
pub fn missing(plan: &Plan) -> Result<Vec<usize>> {
    State::look(plan, Duration::ZERO).map(|state| state.missing(&(0..plan.count()), 1))
}

/// Whether the part of a number of the plan in a directory is there and whole.
pub fn is_part(plan: &Path, number: usize) -> bool {
    Plan::read(plan).is_ok_and(|plan| Part::look(&plan, number).is_ok())
}

/// Checks that a plan has a part.
///
/// # Errors
/// It has none of that number.
fn check_number(plan: &Plan, part: usize) -> Result<()> {
    if part < plan.count() {
        return Ok(());
    }
    let last = plan.count().saturating_sub(1);
    let what = format!("--part {part}: the plan's parts are numbered from 0 to {last}");
    Err(Error::from(Usage(what)))
}
